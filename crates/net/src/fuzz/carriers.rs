//! Carriers: messages out of bytes, and handshakes out of messages.

use bytes::BytesMut;
use farpipe_proto::wire::control::{Attach, Attached};

use super::pieces::{Pieces, finished};
use crate::carrier::CarrierError;
use crate::carrier::fp::{self, FpFraming, PREFACE};
use crate::carrier::framed::{CLOSE_WITHOUT_CODE, Framing, MESSAGE_MAX, Received, Violation};
use crate::carrier::ws::{MaskKeys, Role, WsFraming};
use crate::link::{self, Greeting, HandshakeError, Wire};
use crate::secret::LoopbackSecret;

/// Masks that are the same each time.
#[derive(Debug)]
pub(super) struct Counted(pub(super) u32);

impl MaskKeys for Counted {
    fn next_key(&mut self) -> [u8; 4] {
        self.0 = self.0.wrapping_mul(0x9e37_79b9).wrapping_add(1);
        self.0.to_be_bytes()
    }
}

/// All that came out of a framing.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    /// Whole messages; the last may not be.
    messages: Vec<Vec<u8>>,
    is_cut: bool,
    /// The closing message.
    closed: Option<(u16, String)>,
    /// The code of what was wrong: its words may tell more the more was seen.
    violation: Option<u16>,
    owed: usize,
}

/// Frames of the `ws` carrier: bit 0 of the first byte says which end hears them, the second byte is
/// the length of a piece. What is heard does not depend on the pieces, and is heard again when it is
/// sent on.
pub fn ws_frames(data: &[u8]) {
    let Some(([flags, size], wire)) = data.split_first_chunk::<2>() else {
        return;
    };
    let role = |is_client| match is_client {
        true => Role::Client(Box::new(Counted(1))),
        false => Role::Server,
    };
    let is_client = flags & 1 != 0;
    let here = || WsFraming::new(role(is_client));
    let there = WsFraming::new(role(!is_client));
    check(here, there, wire, usize::from(*size) + 1);
}

/// The same for `fp`: the first byte is the length of a piece.
pub fn fp_frames(data: &[u8]) {
    let Some((size, wire)) = data.split_first() else {
        return;
    };
    check(
        FpFraming::default,
        FpFraming::default(),
        wire,
        usize::from(*size) + 1,
    );
}

fn check<F: Framing>(here: impl Fn() -> F, mut there: F, wire: &[u8], size: usize) {
    let heard = hear(here(), wire, wire.len().max(1));
    assert_eq!(heard, hear(here(), wire, size), "in pieces of {size}");
    if let Some(code) = heard.violation {
        assert!(matches!(code, 1002 | 1003 | 1007 | 1009), "{code}");
    }
    let mut again = BytesMut::new();
    if F::NAME == "fp" {
        again.extend_from_slice(&PREFACE);
    }
    let whole = heard.messages.len() - usize::from(heard.is_cut);
    for message in &heard.messages[..whole] {
        there.put_message(&mut again, message);
    }
    if let Some((code, reason)) = &heard.closed {
        // A reason that came may be longer than one that is sent.
        let end = reason.floor_char_boundary(123);
        there.put_close(&mut again, *code, &reason[..end]);
    }
    let echoed = hear(here(), &again, again.len().max(1));
    assert_eq!(echoed.messages, heard.messages[..whole]);
    assert_eq!(echoed.violation, None);
    assert_eq!(echoed.closed.is_some(), heard.closed.is_some());
    assert_eq!(
        echoed.closed.map(|(code, _)| code),
        heard.closed.map(|(code, _)| code)
    );
}

fn hear<F: Framing>(mut framing: F, wire: &[u8], size: usize) -> Heard {
    let mut heard = Heard {
        messages: Vec::new(),
        is_cut: false,
        closed: None,
        violation: None,
        owed: 0,
    };
    let mut left = 0;
    let mut input = BytesMut::new();
    for piece in wire.chunks(size) {
        input.extend_from_slice(piece);
        loop {
            match framing.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(Received::Piece(piece))) => {
                    if let Some(len) = piece.first {
                        assert!(!heard.is_cut, "a message begins in another");
                        assert!(len <= MESSAGE_MAX, "{len}");
                        heard.messages.push(Vec::new());
                        left = len;
                    }
                    let empty = piece.first.is_some() && piece.last;
                    assert!(empty || !piece.bytes.is_empty(), "a piece of nothing");
                    assert!(piece.bytes.len() <= left, "more than was said");
                    left -= piece.bytes.len();
                    assert_eq!(piece.last, left == 0);
                    heard.is_cut = !piece.last;
                    let message = heard.messages.last_mut().expect("one has begun");
                    message.extend_from_slice(&piece.bytes);
                }
                Ok(Some(Received::Closed { code, reason })) => {
                    assert!(code == CLOSE_WITHOUT_CODE || (1000..5000).contains(&code));
                    heard.closed = Some((code, reason));
                    heard.owed = framing.owed();
                    return heard;
                }
                Err(Violation { code, .. }) => {
                    heard.violation = Some(code);
                    return heard;
                }
            }
        }
        assert!(input.is_empty() || framing.expected() == 0, "left to lie");
    }
    heard.owed = framing.owed();
    assert!(heard.owed <= 2 + 4 + 125, "one answer at most");
    heard
}

fn zeros(bytes: &mut [u8]) {
    bytes.fill(7);
}

fn greeting(needs_proof: bool) -> Greeting {
    let secret = || std::sync::Arc::new(LoopbackSecret::new([9; 32]));
    Greeting {
        software: "fuzz".to_owned(),
        prover: needs_proof.then(|| secret() as _),
        keys: needs_proof.then(|| secret() as _),
        tokens: None,
        random: zeros,
    }
}

/// Bit 0 of the first byte says whether a secret must be proven, the second is the length of a piece;
/// then come the bytes of a neighbour that dials by `fp`, its preface included. Who did not prove the
/// secret is not let in.
pub fn accepted_link(data: &[u8]) {
    let accept = |needs_proof, wire: &[u8], size| {
        let mut wire = Wire::new(Box::new(fp::start(Pieces::new(wire, size))));
        let greeting = greeting(needs_proof);
        finished(link::accept(&mut wire, &greeting)).map(|asking| {
            assert_eq!(asking.proven.is_some(), needs_proof);
            format!("{:?}", asking.wanted)
        })
    };
    shaken(data, accept);
}

/// The same for a neighbour that was dialled.
pub fn dialled_link(data: &[u8]) {
    let dial = |needs_proof, wire: &[u8], size| {
        let mut wire = Wire::new(Box::new(fp::start(Pieces::new(wire, size))));
        let greeting = greeting(needs_proof);
        let dialled = finished(link::dial(&mut wire, &greeting, Attach::default));
        dialled.map(|Attached { received, kept_ms }| format!("{received} {kept_ms}"))
    };
    shaken(data, dial);
}

fn shaken(data: &[u8], shake: impl Fn(bool, &[u8], usize) -> Result<String, HandshakeError>) {
    let Some(([flags, size], wire)) = data.split_first_chunk::<2>() else {
        return;
    };
    let needs_proof = flags & 1 != 0;
    let told = |size| match shake(needs_proof, wire, size) {
        Ok(told) => told,
        // Its words may tell more the more was seen.
        Err(HandshakeError::Carrier(CarrierError::Protocol { code, .. })) => {
            format!("failed: {code}")
        }
        Err(error) => format!("failed: {error}"),
    };
    let size = usize::from(*size) + 1;
    assert_eq!(told(wire.len()), told(size), "in pieces of {size}");
}
