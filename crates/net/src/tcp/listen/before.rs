//! A proxy before a listener, and whose connections it hands on.
//!
//! What it says is believed of the proxy only: of who connects from this host, or from the addresses
//! that were named. It changes what is written down, and what is fair; who may come in is decided as
//! for strangers, because that is what they are (docs/decisions/0018-behind-a-proxy.md).

use std::io;
use std::net::IpAddr;

use ppp::{HeaderResult, PartialResult as _, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::Scheme;
use crate::carrier::ws::raw::ForeignRequest;
use crate::peer::Forwarded;

/// What stands before a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyBefore {
    /// One that ends TLS and passes HTTP on to `ws` on this host, with `X-Forwarded-For`. Other doors
    /// have nothing before them.
    Http,
    /// One that passes TCP on, each connection with a PROXY protocol header (version 1 or 2) in front.
    Tcp {
        /// Where such proxies are, beside this host. Whoever connects from elsewhere is turned away.
        from: Vec<IpAddr>,
    },
}

/// Longest header: version 1's line has 107 bytes, and a version 2 that says more than this, in
/// extensions nobody reads, is no proxy's that one would trust.
const HEADER_MAX: usize = 2 << 10;

/// What every version 2 header has.
const V2_FIXED: usize = 16;

impl ProxyBefore {
    /// Whether connections to a door of this scheme come by it.
    #[must_use]
    pub fn is_before(&self, scheme: Scheme) -> bool {
        match self {
            Self::Http => scheme.is_web_socket() && !scheme.is_tls(),
            Self::Tcp { .. } => true,
        }
    }

    /// Whether a connection from there may be the proxy's.
    pub(super) fn is_at(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match self {
            Self::Http => address.is_loopback(),
            Self::Tcp { from } => address.is_loopback() || from.contains(&address),
        }
    }
}

/// The address that the proxy before us has added to a request: the last one. Those in front of it
/// are whatever the client made up.
pub(super) fn of_request(head: &[u8]) -> Option<Forwarded> {
    let request = ForeignRequest::parse(head)?;
    let last = request.members("X-Forwarded-For").last()?;
    let address: IpAddr = std::str::from_utf8(last).ok()?.parse().ok()?;
    Some(Forwarded {
        address: address.to_canonical(),
        port: None,
    })
}

/// Reads the header in front of a connection and not a byte more. `None` if it speaks for nobody, as
/// a proxy's own checks do.
///
/// # Errors
/// There is none, or it is damaged, or the connection ended.
pub(super) async fn of_connection(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<Forwarded>> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "no PROXY protocol header came");
    let mut header = vec![0; V2_FIXED];
    // The shortest line of version 1, "PROXY UNKNOWN" and its end, has 15 bytes: it may be all there is.
    stream.read_exact(&mut header[..15]).await?;
    if header.starts_with(b"PROXY ") {
        header.truncate(15);
        while !header.ends_with(b"\n") {
            if header.len() >= 107 {
                return Err(wrong());
            }
            header.push(stream.read_u8().await?);
        }
    } else if header.starts_with(v2::PROTOCOL_PREFIX) {
        header[15] = stream.read_u8().await?;
        let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if V2_FIXED + rest > HEADER_MAX {
            return Err(wrong());
        }
        header.resize(V2_FIXED + rest, 0);
        stream.read_exact(&mut header[V2_FIXED..]).await?;
    } else {
        return Err(wrong());
    }
    let parsed = HeaderResult::parse(&header);
    if parsed.is_incomplete() {
        return Err(wrong());
    }
    let forwarded = |address: IpAddr, port| {
        Some(Forwarded {
            address: address.to_canonical(),
            port: Some(port),
        })
    };
    match parsed {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Unknown => None,
            v1::Addresses::Tcp4(tcp) => forwarded(tcp.source_address.into(), tcp.source_port),
            v1::Addresses::Tcp6(tcp) => forwarded(tcp.source_address.into(), tcp.source_port),
        }),
        HeaderResult::V2(Ok(header)) if header.command == v2::Command::Local => Ok(None),
        HeaderResult::V2(Ok(header)) => Ok(match header.addresses {
            v2::Addresses::IPv4(tcp) => forwarded(tcp.source_address.into(), tcp.source_port),
            v2::Addresses::IPv6(tcp) => forwarded(tcp.source_address.into(), tcp.source_port),
            v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
        }),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> (io::Result<Option<String>>, Vec<u8>) {
        let mut rest = bytes;
        let told = of_connection(&mut rest).await;
        let told = told.map(|told| told.map(|from| format!("{} {:?}", from.address, from.port)));
        (told, rest.to_vec())
    }

    #[tokio::test]
    async fn a_header_is_read_and_not_a_byte_more() {
        let mut v2 = v2::PROTOCOL_PREFIX.to_vec();
        v2.extend([0x21, 0x11, 0, 12]);
        v2.extend([203, 0, 113, 9, 127, 0, 0, 1, 0xC8, 0x22, 0x1B, 0x58]);
        let mut local = v2::PROTOCOL_PREFIX.to_vec();
        local.extend([0x20, 0, 0, 0]);
        for (header, told) in [
            (
                &b"PROXY TCP4 203.0.113.9 127.0.0.1 51234 7000\r\n"[..],
                Some("203.0.113.9 Some(51234)"),
            ),
            (
                b"PROXY TCP6 2001:db8::9 ::1 51234 7000\r\n",
                Some("2001:db8::9 Some(51234)"),
            ),
            (b"PROXY UNKNOWN\r\n", None),
            (&v2, Some("203.0.113.9 Some(51234)")),
            (&local, None),
        ] {
            let (came, rest) = read(&[header, b"rest"].concat()).await;
            assert_eq!(came.expect("a header").as_deref(), told);
            assert_eq!(rest, b"rest");
        }
        for wrong in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"PROXY TCP4 203.0.113.9 127.0.0.1 51234 7000",
            b"PROXY TCP4 203.0.113.9 127.0.0.1 99999 7000\r\n",
            b"PROXY TCP4 \xff\xff\xff\xff\xff\xff\r\n",
            &[b"PROXY ", [b'x'; 200].as_slice()].concat(),
            &[v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0xff, 0xff]].concat(),
            b"",
        ] {
            assert!(read(wrong).await.0.is_err(), "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn the_address_that_the_proxy_added_is_the_last() {
        let of = |lines: &str| {
            let head = format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
            of_request(head.as_bytes()).map(|from| from.address.to_string())
        };
        let forged = "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-For: 10.0.0.1, 203.0.113.9\r\n";
        assert_eq!(of(forged).as_deref(), Some("203.0.113.9"));
        assert_eq!(of("X-Forwarded-For: 203.0.113.9, \"x\r\n"), None);
        assert_eq!(of(""), None);
    }
}
