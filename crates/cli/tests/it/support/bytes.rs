//! Bytes to send, and how to compare a great many of them.

/// The same `len` bytes for the same seed; no two places of them look alike.
pub(crate) fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    // splitmix64
    let mut state = seed;
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Says where two long pieces of data begin to differ rather than printing them.
#[track_caller]
pub(crate) fn assert_same(got: &[u8], expected: &[u8]) {
    if got == expected {
        return;
    }
    if got.len().max(expected.len()) <= 256 {
        panic!(
            "got {:?} instead of {:?}",
            String::from_utf8_lossy(got),
            String::from_utf8_lossy(expected)
        );
    }
    let same = got.iter().zip(expected).take_while(|(a, b)| a == b).count();
    panic!(
        "got {} bytes instead of {}; they differ from byte {same} on",
        got.len(),
        expected.len()
    );
}

/// Compares lines; how far the expected ones are indented does not count.
#[track_caller]
pub(crate) fn assert_text(got: &str, expected: &str) {
    let expected: Vec<&str> = expected
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    let lines: Vec<&str> = got.lines().collect();
    assert!(
        lines == expected,
        "got:\n{got}\ninstead of:\n{}",
        expected.join("\n")
    );
}
