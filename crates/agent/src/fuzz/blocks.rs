//! Blocks of a stream whose sender may compress.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::Compression;
use crate::blocks::{BLOCK_MAX, Decoder, Encoder, Flow, HEADER_LEN, Malformed};

/// The first byte is the length of a piece; then come blocks, which are the same in pieces, and data,
/// which comes back out of its blocks.
pub fn blocks(data: &[u8]) {
    let Some((size, wire)) = data.split_first() else {
        return;
    };
    let size = usize::from(*size) + 1;
    let (found, taken, error) = decode(wire, wire.len().max(1));
    assert!(taken <= wire.len());
    assert_eq!(
        (found, taken, error),
        decode(wire, size),
        "in pieces of {size}"
    );
    let mut out = BytesMut::new();
    let mut encoder = Encoder::new(Compression::Zstd(1)).expect("memory");
    for part in wire.chunks(1 + wire.len() / 2) {
        let before = out.len();
        encoder.encode(part, Flow::default(), &mut out);
        assert!(out.len() - before <= part.len() + HEADER_LEN);
    }
    let back = decode(&out, size);
    assert_eq!(back, (wire.to_vec(), out.len(), None));
}

/// The data, how many bytes of blocks were used up for it, and what was wrong behind it.
fn decode(wire: &[u8], size: usize) -> (Vec<u8>, usize, Option<Malformed>) {
    let mut decoder = Decoder::new().expect("memory");
    let (mut found, mut taken) = (Vec::new(), 0);
    let mut chunks = VecDeque::new();
    for piece in wire.chunks(size) {
        chunks.push_back(BytesMut::from(piece));
        loop {
            match decoder.decode(&mut chunks) {
                Ok(None) => break,
                Ok(Some(decoded)) => {
                    assert!(decoded.data.len() <= BLOCK_MAX);
                    found.extend_from_slice(&decoded.data);
                    taken += decoded.taken;
                }
                Err(error) => return (found, taken, Some(error)),
            }
        }
    }
    let is_whole = taken == wire.len();
    assert!(!is_whole || decoder.is_between_blocks());
    (found, taken, None)
}
