//! What a foreign end of a WebSocket sends.

use bytes::BytesMut;
use farpipe_proto::limits::RAW_MESSAGE_MAX;

use super::deflate::Agreed;
use super::incoming::{Event, Incoming};
use super::{Admitted, ForeignRequest, Messages, upgrade};
use crate::carrier::framed::Violation;

/// The first byte has flags (1: from a client, 2: as lines, 4: compression is agreed), the second is the
/// length of a piece; then frames. What comes of them does not depend on the pieces.
pub fn foreign_frames(data: &[u8]) {
    let Some(([flags, size], wire)) = data.split_first_chunk::<2>() else {
        return;
    };
    let whole = read(*flags, wire, wire.len().max(1));
    let size = usize::from(*size) + 1;
    assert_eq!(whole, read(*flags, wire, size), "in pieces of {size}");
    if let Some(Violation { code, .. }) = whole.2 {
        assert!(matches!(code, 1002 | 1007 | 1009), "{code}");
    }
}

fn read(flags: u8, wire: &[u8], size: usize) -> (BytesMut, Vec<Event>, Option<Violation>) {
    let messages = match flags & 2 {
        0 => Messages::Bytes,
        _ => Messages::Lines,
    };
    let inflate = (flags & 4 != 0).then(|| Agreed::default().inflate());
    let mut incoming = Incoming::new(flags & 1 != 0, messages, inflate);
    let (mut raw, mut inbox) = (BytesMut::new(), BytesMut::new());
    let mut events = Vec::new();
    for piece in wire.chunks(size) {
        raw.extend_from_slice(piece);
        loop {
            match incoming.step(&mut raw, &mut inbox, usize::MAX) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let is_end = matches!(event, Event::Close { .. });
                    events.push(event);
                    if is_end {
                        return (inbox, events, None);
                    }
                }
                Err(violation) => return (inbox, events, Some(violation)),
            }
        }
    }
    (inbox, events, None)
}

/// A compressed message, and one that is to be compressed: nothing unfolds into more than is allowed,
/// and what we fold comes back.
pub fn inflate(data: &[u8]) {
    let agreed = Agreed::of([&b"permessage-deflate"[..]].into_iter()).expect("an offer");
    let mut inflate = agreed.inflate();
    if let Ok(unfolded) = inflate.inflate(data.to_vec()) {
        assert!(unfolded.len() <= RAW_MESSAGE_MAX);
        // A probe for what was cut short has left nothing behind.
        let after = inflate.inflate(vec![0x01, 0x01, 0x00, 0xFE, 0xFF, b'x']);
        assert_eq!(after.as_deref(), Ok(&b"x"[..]), "after {data:02x?}");
    }
    if !data.is_empty() {
        let mut deflate = agreed.deflate();
        let mut inflate = agreed.inflate();
        for _ in 0..2 {
            let folded = deflate.compress(data);
            assert_eq!(inflate.inflate(folded).as_deref(), Ok(data));
        }
    }
}

/// The head of a request for a WebSocket at `/pipe` that pages of one origin may make: who is let in has
/// asked for that, and is no other page.
pub fn foreign_upgrade(head: &[u8]) {
    let admitted = Admitted {
        path: Some("/pipe".to_owned()),
        origins: vec!["https://app.example".to_owned()],
    };
    let Ok((answer, agreed)) = upgrade::check(head, &admitted) else {
        return;
    };
    assert_eq!(answer.len(), 28, "20 bytes in base64");
    let request = ForeignRequest::parse(head).expect("it was a request");
    assert_eq!(request.method, "GET");
    assert_eq!(request.target.split('?').next(), Some("/pipe"));
    assert!(request.lists("Upgrade", "websocket") && request.lists("Connection", "upgrade"));
    assert_eq!(request.values("Host").count(), 1);
    assert!(request.values("Transfer-Encoding").next().is_none());
    for origin in request.values("Origin") {
        assert!(origin.eq_ignore_ascii_case(b"https://app.example"));
    }
    let mut offers = request.members("Sec-WebSocket-Extensions");
    assert!(agreed.is_none() || offers.any(|offer| offer.starts_with(b"permessage-deflate")));
}
