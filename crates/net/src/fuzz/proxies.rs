//! Answers of proxies: what is behind them is the listener's, to the byte.

use std::mem::discriminant;

use super::pieces::{Pieces, finished};
use crate::host_port::HostPort;
use crate::proxy::{Granted, Proxy, ProxyError};

/// Bit 0 of the first byte: with a login; the second is the length of a piece; then the answers of an
/// HTTP proxy.
pub fn proxy_http(data: &[u8]) {
    let asked = ask(data, "http://", "relay.example");
    if let Some((wire, taken, Ok(granted))) = asked {
        assert!(wire[..taken].ends_with(b"\n\r\n") || wire[..taken].ends_with(b"\n\n"));
        assert!(granted.answer.starts_with("HTTP 2"), "{}", granted.answer);
    }
}

/// The same for SOCKS 5.
pub fn proxy_socks(data: &[u8]) {
    let host = match data.first().map_or(0, |flags| flags >> 1 & 3) {
        0 => "127.0.0.1",
        1 => "::1",
        _ => "relay.example",
    };
    let asked = ask(data, "socks5h://", host);
    if let Some((wire, taken, Ok(_))) = asked {
        let after_login = if wire[1] == 2 { 4 } else { 2 };
        let reply = &wire[after_login..taken];
        assert_eq!(reply[..2], [5, 0]);
        let address_len = match reply[3] {
            1 => 4,
            4 => 16,
            _ => 1 + usize::from(reply[4]),
        };
        assert_eq!(reply.len(), 4 + address_len + 2);
    }
}

/// What was answered, how much of it was read, and what came of it.
type Asked<'a> = (&'a [u8], usize, Result<Granted, ProxyError>);

fn ask<'a>(data: &'a [u8], scheme: &str, host: &str) -> Option<Asked<'a>> {
    let ([flags, size], wire) = data.split_first_chunk::<2>()?;
    let login = if flags & 1 == 0 { "" } else { "user:password@" };
    let proxy: Proxy = format!("{scheme}{login}proxy.example:1")
        .parse()
        .expect("a URL");
    let to = HostPort {
        host: host.to_owned(),
        port: 443,
    };
    let ask = |size| {
        let mut stream = Pieces::new(wire, size);
        let asked = finished(proxy.ask(&mut stream, &to));
        (stream.taken(), asked)
    };
    let (taken, whole) = ask(wire.len());
    let (taken_in_pieces, cut) = ask(usize::from(*size) + 1);
    match (&whole, &cut) {
        (Ok(whole), Ok(cut)) => {
            assert_eq!(whole, cut);
            assert_eq!(taken, taken_in_pieces);
            assert!(!whole.answer.chars().any(char::is_control));
        }
        (Err(whole), Err(cut)) => {
            assert_eq!(discriminant(whole), discriminant(cut), "{whole} {cut}");
            let words = whole.to_string();
            assert!(!words.chars().any(char::is_control), "{words:?}");
            // What it said itself is no secret.
            let is_known = wire.windows(8).any(|part| part == b"password");
            assert!(is_known || !words.contains("password@"), "{words:?}");
        }
        _ => panic!("{whole:?} whole, {cut:?} in pieces"),
    }
    Some((wire, taken, whole))
}
