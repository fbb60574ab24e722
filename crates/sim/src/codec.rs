//! Checks of the frame codecs, and of a session behind them, on arbitrary bytes.
//!
//! The fuzz targets `hop_frame` and `inner_frame` call these; `tests/corpus.rs` replays their seeds.

use farpipe_proto::Instant;
use farpipe_proto::session::{Event, Session, SessionConfig, SessionError, Side};
use farpipe_proto::wire::DecodeError;
use farpipe_proto::wire::hop::{HopDecoder, HopFrame, HopItem, data_header};
use farpipe_proto::wire::id::{StreamId, TunnelId};
use farpipe_proto::wire::inner::{HEADER_LEN, InnerDecoder, InnerFrame, InnerItem};

/// A hop frame, with the pieces of DATA put together again.
#[derive(Debug, PartialEq)]
enum Hop {
    Data(TunnelId, u64, Vec<u8>),
    Frame(HopFrame),
}

/// Reads `input` as the length of a piece, and then as messages, each behind its length in two
/// bytes; every message must mean the same in one piece and in many.
///
/// # Panics
/// When it does not, or when a frame is not what it is encoded to.
pub fn hop(input: &[u8]) {
    let Some((piece_len, mut rest)) = input.split_first() else {
        return;
    };
    let mut whole = HopDecoder::default();
    let mut cut = HopDecoder::default();
    while let Some((len, after)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(after.len());
        let (message, next) = after.split_at(len);
        rest = next;
        let found = feed(&mut whole, message, message.len().max(1));
        let again = feed(&mut cut, message, usize::from(*piece_len) + 1);
        assert_eq!(found, again, "{message:02x?} in pieces");
        match found {
            Ok(Some(Hop::Frame(frame))) => {
                let encoded = frame.encode();
                assert_eq!(HopFrame::decode(&encoded), Ok(Some(frame)));
            }
            Ok(Some(Hop::Data(tunnel, offset, bytes))) => {
                let header = data_header(tunnel, offset);
                assert_eq!(message, [&header[..], &bytes].concat());
            }
            Ok(None) => {}
            // The decoder is of no more use.
            Err(_) => return,
        }
    }
}

fn feed(
    decoder: &mut HopDecoder,
    message: &[u8],
    piece_len: usize,
) -> Result<Option<Hop>, DecodeError> {
    if message.is_empty() {
        let item = decoder.feed(Some(0), &[], true)?;
        assert_eq!(item, None);
        return Ok(None);
    }
    let mut found = None;
    let mut left = message.len();
    for piece in message.chunks(piece_len) {
        let first = (left == message.len()).then_some(left);
        left -= piece.len();
        match decoder.feed(first, piece, left == 0)? {
            None => {}
            Some(HopItem::Frame(frame)) => found = Some(Hop::Frame(frame)),
            Some(HopItem::Data {
                tunnel,
                offset,
                skip,
            }) => {
                let bytes = &piece[skip..];
                match &mut found {
                    Some(Hop::Data(of, start, so_far)) => {
                        let next = start.saturating_add(so_far.len() as u64);
                        assert_eq!((*of, next), (tunnel, offset));
                        so_far.extend_from_slice(bytes);
                    }
                    _ => found = Some(Hop::Data(tunnel, offset, bytes.to_vec())),
                }
            }
        }
    }
    Ok(found)
}

/// Reads `input` as the length of a piece, the side of the session, and then as what the peer says;
/// it must mean the same in one piece and in many, and no words of a peer may harm a session.
///
/// # Panics
/// When they do.
pub fn inner(input: &[u8]) {
    let Some(([piece_len, side], rest)) = input.split_first_chunk::<2>() else {
        return;
    };
    let piece_len = usize::from(*piece_len) + 1;
    let whole = decode(rest, rest.len().max(1));
    assert_eq!(whole, decode(rest, piece_len), "in pieces of {piece_len}");
    let side = if side % 2 == 0 {
        Side::Acceptor
    } else {
        Side::Opener
    };
    let whole = hear(side, rest, rest.len().max(1));
    assert_eq!(
        whole,
        hear(side, rest, piece_len),
        "in pieces of {piece_len}"
    );
}

/// An inner frame, with the pieces of BYTES put together again.
#[derive(Debug, PartialEq)]
enum Inner {
    Bytes(StreamId, usize, Vec<u8>),
    Frame(StreamId, InnerFrame),
}

fn decode(input: &[u8], piece_len: usize) -> (Vec<Inner>, Option<DecodeError>) {
    let mut decoder = InnerDecoder::default();
    let mut found = Vec::new();
    for mut piece in input.chunks(piece_len) {
        while !piece.is_empty() {
            let (taken, item) = match decoder.next(piece) {
                Ok(next) => next,
                Err(error) => return (found, Some(error)),
            };
            assert!(taken > 0, "every call moves on");
            match item {
                None => {}
                Some(InnerItem::BytesHeader(id, len)) => {
                    found.push(Inner::Bytes(id, len, Vec::new()));
                }
                Some(InnerItem::Bytes(id, len)) => {
                    let Some(Inner::Bytes(of, _, bytes)) = found.last_mut() else {
                        panic!("bytes without a header");
                    };
                    assert_eq!(*of, id);
                    bytes.extend_from_slice(&piece[taken - len..taken]);
                }
                Some(InnerItem::Frame(id, frame)) => {
                    let encoded = frame.encode(id);
                    let again = InnerDecoder::default().next(&encoded);
                    let item = InnerItem::Frame(id, frame.clone());
                    assert_eq!(again, Ok((encoded.len(), Some(item))));
                    found.push(Inner::Frame(id, frame));
                }
            }
            piece = &piece[taken..];
        }
    }
    (found, None)
}

/// What an application hears of `input`: events, and bytes stream by stream.
fn hear(side: Side, input: &[u8], piece_len: usize) -> (Vec<Event>, Vec<u8>, Option<SessionError>) {
    let now = Instant::default();
    let mut session = Session::new(SessionConfig::new(side));
    session.handle_attached(now, 0).expect("a new session");
    if side == Side::Opener {
        // Something for the peer to talk about: sent, finished, and not yet confirmed.
        for _ in 0..3 {
            let id = session.open(now, Default::default()).expect("room");
            flush(&mut session);
            session.write(id, 5);
            session.handle_numbered(HEADER_LEN + 5);
            session.finish(id);
        }
        session.finish_opening();
        flush(&mut session);
    }
    let mut events = Vec::new();
    let mut heard = Vec::new();
    let mut offset = 0;
    for piece in input.chunks(piece_len) {
        let arrived = session.handle_arrived(now, offset, piece.len());
        assert_eq!(arrived, Ok(0), "nothing is missing here");
        let result = session.handle_frames(now, piece);
        offset += piece.len() as u64;
        session.assert_invariants();
        while let Some(event) = session.poll_event() {
            if let Event::Bytes(id, range) = event {
                heard.extend_from_slice(&piece[range.clone()]);
                session.consumed(now, id, range.len());
            } else {
                events.push(event);
            }
        }
        flush(&mut session);
        if let Err(error) = result {
            assert!(!error.is_transient(), "nothing is missing here");
            return (events, heard, Some(error));
        }
    }
    (events, heard, None)
}

fn flush(session: &mut Session) {
    while let Some(bytes) = session.poll_control() {
        session.handle_numbered(bytes.len());
    }
    session.handle_sent(session.numbered());
}
