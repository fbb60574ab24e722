//! SOCKS 5 (RFC 1928), with user and password (RFC 1929).

use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Granted, Login, ProxyError, cut, stranger};
use crate::host_port::HostPort;
use crate::opener::Blame;

/// Its name for people.
pub(super) const NAME: &str = "SOCKS 5";

const VERSION: u8 = 5;
const CONNECT: u8 = 1;

const NO_LOGIN: u8 = 0;
const PASSWORD: u8 = 2;
const NO_WAY: u8 = 0xff;
/// The version of the exchange of user and password.
const PASSWORD_VERSION: u8 = 1;

const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;

pub(super) async fn ask<S>(
    stream: &mut S,
    to: &HostPort,
    login: Option<&Login>,
) -> Result<Granted, ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = request(to)?;
    let proof = login.map(proof).transpose()?;
    let hello: &[u8] = match proof {
        Some(_) => &[VERSION, 2, NO_LOGIN, PASSWORD],
        None => &[VERSION, 1, NO_LOGIN],
    };
    stream.write_all(hello).await?;
    stream.flush().await?;
    match (answer(stream).await?, proof) {
        (NO_LOGIN, _) => {}
        (PASSWORD, Some(proof)) => {
            stream.write_all(&proof).await?;
            stream.flush().await?;
            let mut verdict = [0; 2];
            stream.read_exact(&mut verdict).await.map_err(cut)?;
            if verdict != [PASSWORD_VERSION, 0] {
                return Err(ProxyError::LoginRefused);
            }
        }
        (NO_WAY, None) => return Err(ProxyError::LoginWanted),
        (NO_WAY, Some(_)) => {
            return Err(ProxyError::LoginUnknown("no password".to_owned()));
        }
        (way, _) => return Err(ProxyError::LoginUnknown(format!("number {way}"))),
    }
    stream.write_all(&request).await?;
    stream.flush().await?;
    match answer(stream).await? {
        0 => {}
        reply => return Err(ProxyError::Reply(reply)),
    }
    // Where the proxy connected from, which helps nobody; but what is behind it is the listener's.
    let mut kind = [0; 2];
    stream.read_exact(&mut kind).await.map_err(cut)?;
    let address_len = match kind[1] {
        IPV4 => 4,
        IPV6 => 16,
        DOMAIN => usize::from(stream.read_u8().await.map_err(cut)?),
        _ => return Err(stranger(stream, NAME, &[VERSION, 0, kind[0], kind[1]]).await),
    };
    let mut rest = vec![0; address_len + 2];
    stream.read_exact(&mut rest).await.map_err(cut)?;
    Ok(Granted {
        answer: format!("{NAME}: connected"),
        to: to.clone(),
        is_page: false,
    })
}

fn request(to: &HostPort) -> Result<Vec<u8>, ProxyError> {
    let mut request = vec![VERSION, CONNECT, 0];
    match to.host.parse() {
        Ok(IpAddr::V4(address)) => {
            request.push(IPV4);
            request.extend(address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(IPV6);
            request.extend(address.octets());
        }
        Err(_) => {
            let len = u8::try_from(to.host.len())
                .map_err(|_| ProxyError::Name("is longer than 255 bytes"))?;
            request.extend([DOMAIN, len]);
            request.extend(to.host.as_bytes());
        }
    }
    request.extend(to.port.to_be_bytes());
    Ok(request)
}

fn proof(Login { user, password }: &Login) -> Result<Vec<u8>, ProxyError> {
    let mut proof = vec![PASSWORD_VERSION];
    for part in [user, password] {
        let len = u8::try_from(part.len()).ok().filter(|len| *len > 0);
        proof.push(len.ok_or(ProxyError::LoginTooLong)?);
        proof.extend(part.as_bytes());
    }
    Ok(proof)
}

/// The second byte of an answer whose first is the version.
async fn answer<S: AsyncRead + Unpin>(stream: &mut S) -> Result<u8, ProxyError> {
    let mut begin = [0; 2];
    stream.read_exact(&mut begin[..1]).await.map_err(cut)?;
    if begin[0] != VERSION {
        return Err(stranger(stream, NAME, &begin[..1]).await);
    }
    stream.read_exact(&mut begin[1..]).await.map_err(cut)?;
    Ok(begin[1])
}

/// A reply code in words.
pub(super) fn words(reply: u8) -> String {
    let words = match reply {
        1 => "general failure",
        2 => "its rules do not allow this connection",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "the connection timed out (TTL expired)",
        7 => "it does not know the command CONNECT",
        8 => "it does not know this kind of address",
        _ => return format!("failure number {reply}"),
    };
    words.to_owned()
}

/// How a reply code counts.
pub(super) fn blame(reply: u8) -> Blame {
    match reply {
        1 | 3..=5 => Blame::Refused,
        6 => Blame::Cut,
        _ => Blame::Stranger,
    }
}
