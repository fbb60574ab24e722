//! HTTP heads of the WebSocket upgrade, as both ends read them.

use std::mem::discriminant;

use super::carriers::Counted;
use super::pieces::{Pieces, finished};
use crate::carrier::ws::raw::ForeignRequest;
use crate::carrier::ws::upgrade::{self, Request, SUBPROTOCOL, UpgradeError};

/// The first byte is the length of a piece, then come a request and what follows it. Nobody becomes a
/// farpipe who did not ask for it, nor a web page.
pub fn upgrade_request(data: &[u8]) {
    let Some((size, wire)) = data.split_first() else {
        return;
    };
    let whole = finished(upgrade::accept(Pieces::new(wire, wire.len())));
    let cut = finished(upgrade::accept(Pieces::new(wire, usize::from(*size) + 1)));
    same(whole.as_ref().err(), cut.as_ref().err());
    let Ok(carrier) = whole else { return };
    let answer = String::from_utf8_lossy(&carrier.transport().written).into_owned();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let request = end(wire).and_then(|end| ForeignRequest::parse(&wire[..end]));
    let request = request.expect("it was a request");
    assert_eq!(request.method, "GET");
    assert!(request.lists("Upgrade", "websocket"));
    assert!(request.values("Origin").next().is_none(), "a web page");
    let mut offered = request.members("Sec-WebSocket-Protocol");
    assert!(offered.any(|name| name == SUBPROTOCOL.as_bytes()));
}

/// The first byte is the length of a piece, then come a server's answer and what follows it.
pub fn upgrade_answer(data: &[u8]) {
    let Some((size, wire)) = data.split_first() else {
        return;
    };
    let ask = |size| {
        let request = Request {
            host: "relay.example",
            path: "/",
            headers: &[],
        };
        let pieces = Pieces::new(wire, size);
        finished(upgrade::connect_with(pieces, request, Box::new(Counted(1))))
    };
    let whole = ask(wire.len());
    let cut = ask(usize::from(*size) + 1);
    same(whole.as_ref().err(), cut.as_ref().err());
    match whole {
        Ok(_) => {
            let head = &wire[..end(wire).expect("it was a head")];
            assert!(head.starts_with(b"HTTP/1."));
            let head = head.to_ascii_lowercase();
            let needle = SUBPROTOCOL.as_bytes();
            assert!(head.windows(needle.len()).any(|part| part == needle));
        }
        // What a stranger said moves no cursor.
        Err(error) => assert!(
            !error.to_string().chars().any(char::is_control),
            "{error:?}"
        ),
    }
}

/// Why one failed does not depend on the pieces, but for how much of a stranger was seen.
fn same(whole: Option<&UpgradeError>, cut: Option<&UpgradeError>) {
    assert_eq!(
        whole.map(discriminant),
        cut.map(discriminant),
        "{whole:?} {cut:?}"
    );
    if let (
        Some(UpgradeError::Refused { why, .. }),
        Some(UpgradeError::Refused { why: other, .. }),
    ) = (whole, cut)
    {
        assert_eq!(why, other);
    }
}

/// Where a head ends, found in another way than the code does.
fn end(wire: &[u8]) -> Option<usize> {
    let lines = wire.split_inclusive(|byte| *byte == b'\n');
    let mut len = 0;
    for (number, line) in lines.enumerate() {
        len += line.len();
        if number > 0 && matches!(line, b"\n" | b"\r\n") {
            return Some(len);
        }
    }
    None
}
