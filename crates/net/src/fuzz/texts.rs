//! Texts that people type or copy: URLs, tickets, tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::host_port::HostPort;
use crate::proxy::Proxy;
use crate::tcp::Url;
use crate::ticket::{self, Ticket};
use crate::token::Token;
use crate::{redacted, redacted_url};

/// Nothing that anybody types.
const SECRET: &str = "Zq7Xv0Pw3Lk9Rt5Ny";

/// URLs of listeners and of proxies, and addresses: what is shown is read as the same, and shows no
/// secret.
pub fn urls(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(url) = text.parse::<Url>() {
        assert_eq!(url.revealed().parse::<Url>().as_ref(), Ok(&url));
        let shown = url.to_string();
        assert_eq!(redacted_url(&shown), shown, "hidden once is hidden");
    }
    if let Ok(to) = text.parse::<HostPort>() {
        assert_eq!(to.to_string().parse::<HostPort>().as_ref(), Ok(&to));
    }
    if let Ok(proxy) = text.parse::<Proxy>() {
        let shown = proxy.to_string();
        let again: Proxy = shown.parse().expect("what is shown is a URL");
        assert_eq!(again.to_string(), shown);
        assert_eq!(again.at(), proxy.at());
        assert!(!again.has_password());
    }
    if text.contains(SECRET) {
        return;
    }
    let middle = text.floor_char_boundary(text.len() / 2);
    let (before, after) = text.split_at(middle);
    for with_secret in [
        format!("{before}fpt1-{SECRET}{after}"),
        format!("{before}fpk1-{SECRET}{after}"),
        format!("{before} wss://user:{SECRET}@host/{after}"),
        format!("{before} wss://host/?token={SECRET}&{after}"),
    ] {
        let shown = redacted(&with_secret);
        assert!(
            !shown.contains(SECRET),
            "{with_secret:?} shown as {shown:?}"
        );
    }
}

/// A ticket, with and without its sum: there is one way to write it.
pub fn ticket(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let summed = || {
        let encoded = text.trim().strip_prefix(ticket::PREFIX)?;
        let mut bytes = URL_SAFE_NO_PAD.decode(encoded).ok()?;
        bytes.extend(ticket::sum(&bytes));
        let encoded = URL_SAFE_NO_PAD.encode(bytes);
        Some(format!("{}{encoded}", ticket::PREFIX))
    };
    for text in [Some(text.clone().into_owned()), summed()]
        .into_iter()
        .flatten()
    {
        if let Ok(ticket) = text.parse::<Ticket>() {
            assert_eq!(*ticket.reveal(), *text.trim());
            assert!(!format!("{ticket:?}").contains(&text.trim()[20..]));
        }
    }
}

/// The same for a token.
pub fn token(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let sum = crc32fast::hash(text.as_bytes());
    for text in [format!("{text}.{sum:08x}"), text] {
        if let Ok(token) = text.parse::<Token>() {
            assert_eq!(*token.reveal(), *text.trim());
            assert_eq!(token.id().to_string().parse(), Ok(token.id()));
        }
    }
}
