//! Fuzz targets of what is on a disk (docs/fuzzing.md). Whatever comes, a target panics only when a rule is broken that it
//! names.

use bytes::Bytes;
use farpipe_record::{HEADER_LEN, Header, Sealed};

use crate::segment::scan;

/// A segment: batches, of which `input` says how they are grouped and what of them is damaged. Its first byte is the
/// mark, the second how many batches there are, the third how many are written at once; then three bytes each: where, and
/// what the byte there becomes.
pub fn segment(input: &[u8]) {
    let [mark, count, group, damage @ ..] = input else {
        return;
    };
    let (count, group) = (u64::from(count % 16) + 1, usize::from(group % 4) + 1);
    let mut bytes = Vec::new();
    let mut whole = Vec::new();
    let mut behind = 0;
    for number in 0..count {
        if (number as usize).is_multiple_of(group) {
            behind = 0;
        }
        let body = vec![b'a'; 1 + number as usize * 7 % 50];
        let header = Header {
            count: 1,
            plain_len: body.len() as u32,
            ..Header::default()
        };
        let made = Sealed::new(&header, [&[0; HEADER_LEN], &body[..]].concat());
        let mut sealed = made.expect("a batch");
        sealed.place(number, 1 + number, behind as u32);
        behind += sealed.bytes().len();
        whole.push((bytes.len(), bytes.len() + sealed.bytes().len()));
        bytes.extend_from_slice(sealed.bytes());
    }
    bytes.extend_from_slice(&[0; 64]);
    let before = bytes.clone();
    for change in damage.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % bytes.len();
        bytes[at] = change[2];
    }
    let mark = u64::from(*mark).min(count);
    let found = scan(&Bytes::from(bytes.clone()), 0, mark);
    let (mut next, mut end) = (0, 0);
    for (at, header) in &found.batches {
        assert!(*at >= end && header.base_offset >= next, "in order");
        let (from, to) = whole[header.base_offset as usize];
        assert_eq!(*at as usize, from, "where it was");
        assert_eq!(bytes[from..to], before[from..to], "as it was");
        (next, end) = (header.end_offset(), to as u64);
    }
    assert!(
        found.next >= mark,
        "what was on the disk once has its offsets"
    );
    let is_found = |offset: u64| {
        found
            .batches
            .iter()
            .any(|(_, header)| header.base_offset == offset)
    };
    for (offset, (from, to)) in (0..mark).zip(&whole) {
        let is_whole = bytes[*from..*to] == before[*from..*to];
        assert!(
            !is_whole || is_found(offset),
            "what was on the disk and is whole is found"
        );
    }
    if bytes == before {
        assert_eq!(found.batches.len() as u64, count, "all of them");
        assert!(
            found.damaged.is_empty() && found.torn.is_none(),
            "nothing else"
        );
    }
}
