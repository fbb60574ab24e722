//! What the ends of a copy say to each other, and what a copy that was cut leaves behind.

use std::fs::File;
use std::io::Seek as _;
use std::os::unix::fs::FileExt as _;

use bytes::{Bytes, BytesMut};
use farpipe_proto::limits::COPY_CHUNK;
use rustix::fs::{MemfdFlags, memfd_create};

use super::message::Meta;
use super::name::{Name, is_ours};
use super::sidecar::{HEADER, RECORD, RECORDS, Run, Sidecar};
use super::wire::{Decoder, Frame, WireError};
use crate::shown::shown;

/// The first byte is the length of a piece; then come frames, which are the same in pieces and when they
/// are said again.
pub fn copy_frames(data: &[u8]) {
    let Some((size, wire)) = data.split_first() else {
        return;
    };
    let size = usize::from(*size) + 1;
    let (frames, between, error) = decode(wire, wire.len().max(1));
    let cut = decode(wire, size);
    assert_eq!(
        (&frames, between, &error),
        (&cut.0, cut.1, &cut.2),
        "in pieces of {size}"
    );
    let mut said = BytesMut::new();
    for frame in &frames {
        frame.encode(&mut said);
    }
    let (again, between, error) = decode(&said, said.len().max(1));
    assert_eq!((again, between, error), (frames, true, None));
}

/// The frames, neighbouring data as one; whether the peer may end behind them; what was wrong.
fn decode(wire: &[u8], size: usize) -> (Vec<Frame>, bool, Option<WireError>) {
    let mut decoder = Decoder::default();
    let mut frames: Vec<Frame> = Vec::new();
    for piece in wire.chunks(size) {
        decoder.feed(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => match (frames.last_mut(), frame) {
                    (Some(Frame::Data(before)), Frame::Data(more)) => {
                        *before = [&before[..], &more[..]].concat().into();
                    }
                    (_, frame) => frames.push(frame),
                },
                Err(error) => return (frames, false, Some(error)),
            }
        }
    }
    (frames, decoder.is_between_frames(), None)
}

/// A name: one component, however it came; its unfinished files are known and in no other's way.
pub fn copy_name(data: &[u8]) {
    assert!(!shown(data).chars().any(char::is_control));
    let Ok(name) = Name::parse(data) else { return };
    assert!(!is_ours(data) && !data.contains(&b'/') && !data.contains(&0));
    assert!(data != b"." && data != b".." && !data.is_empty());
    for ours in [name.part(), name.sums(), name.part_of(7)] {
        assert!(is_ours(&ours) && ours.len() <= 255);
        assert!(Name::parse(&ours).is_err(), "nobody may send it");
    }
}

/// Runs of chunks that are noted, and then damage at one place: what is in front of it is believed, and
/// nothing behind it.
pub fn copy_sidecar(data: &[u8]) {
    let Some(([at_high, at_low, with, cut], rest)) = data.split_first_chunk::<4>() else {
        return;
    };
    let runs: Vec<Run> = rest
        .chunks(2)
        .map(|pair| Run {
            count: 1 + u64::from(pair[0] % 7),
            hash: [pair.last().copied().unwrap_or_default(); 32],
        })
        .take(40)
        .collect();
    let chunks = |runs: &[Run]| runs.iter().map(|run| run.count).sum::<u64>();
    let meta = Meta {
        mode: 0o644,
        seconds: i64::from(*with) - 100,
        nanos: 5,
        size: chunks(&runs) * COPY_CHUNK as u64 + 7,
        inode: 9,
    };
    let file = File::from(memfd_create("sums", MemfdFlags::CLOEXEC).expect("memory"));
    let another = || file.try_clone().expect("a descriptor");
    let mut sidecar = Sidecar::begin(another(), &meta).expect("memory");
    let (first, second) = runs.split_at(runs.len() / 2);
    sidecar.append(first).expect("memory");
    sidecar.append(second).expect("memory");
    let read = || {
        another().rewind().expect("a file");
        Sidecar::read(another(), &meta).expect("a file")
    };
    let again = read().expect("it is whole");
    assert_eq!(
        (again.chunks, again.digest()),
        (chunks(&runs), sidecar.digest())
    );
    assert_eq!(again.bytes(), chunks(&runs) * COPY_CHUNK as u64);
    let len = RECORDS + runs.len() * RECORD;
    let at = usize::from(u16::from_be_bytes([*at_high, *at_low])) % len;
    let is_cut = cut % 2 == 0;
    if is_cut {
        file.set_len(at as u64).expect("a file");
    } else {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64)
            .expect("it is there");
        let other = byte[0] ^ (*with).max(1);
        file.write_all_at(&[other], at as u64).expect("memory");
    }
    let whole = match at.checked_sub(RECORDS) {
        Some(at) => at / RECORD,
        None if is_cut => 0,
        // The note says nothing of them.
        None => runs.len(),
    };
    match (read(), at < HEADER) {
        (None, is_header) => assert!(is_header, "its header is whole"),
        (Some(_), true) => panic!("a header that is damaged"),
        (Some(read), false) => assert_eq!(read.chunks, chunks(&runs[..whole])),
    }
}
