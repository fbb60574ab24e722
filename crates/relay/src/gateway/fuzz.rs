//! What those who have no farpipe ask of the gateway, and what they upload.

use std::future::poll_fn;

use bytes::BytesMut;
use farpipe_net::carrier::ws::raw::ForeignRequest;
use farpipe_net::fuzz::{Pieces, finished};
use farpipe_proto::identity::is_name;
use farpipe_proto::wire::topic::name_objection;

use super::body::{Body, Framing};
use super::ends::Source as _;
use super::request::{Asked, GatewayConfig, Page, What, is_transfer};
use super::topic::Wanted;

/// A request's head, behind a byte of which bit 0 says whether it came through TLS. Who gets something
/// asked a host of the relay's own, and is no strange page.
pub fn gateway_request(data: &[u8]) {
    let Some((flags, head)) = data.split_first() else {
        return;
    };
    let Some(request) = ForeignRequest::parse(head) else {
        return;
    };
    let config = GatewayConfig {
        hosts: vec!["relay.example".to_owned()],
        origins: vec!["https://app.example".to_owned()],
    };
    let is_secure = flags & 1 != 0;
    let Ok(Asked { name, what, page }) = Asked::of(&request, &config, is_secure) else {
        return;
    };
    match request.target.starts_with("/t/") {
        true => assert_eq!(name_objection(&name), None, "{name}"),
        false => assert!(is_name(&name), "{name}"),
    }
    let target = request.target.get(2..).unwrap_or_default();
    assert!(target.starts_with(&format!("/{name}")));
    let hosts: Vec<_> = request.values("Host").collect();
    assert_eq!(hosts.len(), 1);
    let host = String::from_utf8_lossy(hosts[0]).to_ascii_lowercase();
    let known = ["localhost", "127.0.0.1", "[::1]", "::1", "relay.example"];
    let is_known = |known: &&str| {
        let port = host
            .strip_prefix(known)
            .map(|rest| rest.trim_start_matches(':'));
        port.is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
    };
    assert!(known.iter().any(is_known), "{host}");
    let origins: Vec<_> = request.values("Origin").collect();
    let site = request.only("Sec-Fetch-Site");
    match &page {
        None => assert!(origins.is_empty() && matches!(site, None | Some("none"))),
        Some(Page::Own) => {
            assert!(matches!(site, None | Some("same-origin" | "none")));
            let scheme = if is_secure { "https" } else { "http" };
            let own = format!("{scheme}://{host}");
            assert!(
                origins
                    .iter()
                    .all(|from| from.eq_ignore_ascii_case(own.as_bytes()))
            );
        }
        Some(Page::Of(_)) => assert!(origins[0].eq_ignore_ascii_case(b"https://app.example")),
    }
    let moves = match &what {
        What::Upload | What::Download | What::Topic(Wanted::Publish(_)) => true,
        What::Topic(Wanted::Follow(ask)) => !ask.is_socket(),
        What::Topic(Wanted::Head | Wanted::Ticket)
        | What::View
        | What::Ticket(_)
        | What::Socket(..)
        | What::Preflight => false,
    };
    assert!(!moves || is_transfer(&request), "{what:?} is a transfer");
    let _ = Framing::of(&request);
}

/// An upload: the first two bytes are its length, or 0xffff for chunked, the third is the length of a
/// piece. What comes of it does not depend on the pieces, and is the same when it is chunked again.
pub fn gateway_body(data: &[u8]) {
    let Some(([high, low, size], wire)) = data.split_first_chunk::<3>() else {
        return;
    };
    let framing = match u16::from_be_bytes([*high, *low]) {
        u16::MAX => Framing::Chunked,
        length => Framing::Length(u64::from(length)),
    };
    let size = usize::from(*size) + 1;
    let whole = read(framing, wire, wire.len().max(1));
    assert_eq!(whole, read(framing, wire, size), "in pieces of {size}");
    let (body, _) = whole;
    assert!(body.len() <= wire.len());
    let mut chunked = Vec::new();
    for chunk in body.chunks(size) {
        chunked.extend(format!("{:x};ext\r\n", chunk.len()).bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\nA: trailer\r\n\r\n");
    assert_eq!(read(Framing::Chunked, &chunked, size), (body, None));
}

/// All of a body, and why it ended too early.
fn read(framing: Framing, wire: &[u8], size: usize) -> (Vec<u8>, Option<String>) {
    let (first, rest) = wire.split_at(wire.len().min(size));
    let mut body = Body::new(Box::new(Pieces::new(rest, size)), first.into(), framing);
    let mut all = BytesMut::new();
    loop {
        let before = all.len();
        match finished(poll_fn(|cx| body.poll_read(cx, &mut all, 1000))) {
            Ok(0) => return (all.to_vec(), None),
            Ok(len) => assert_eq!(all.len() - before, len),
            Err(error) => return (all.to_vec(), Some(error.to_string())),
        }
    }
}
