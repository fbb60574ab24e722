//! Blocks there and back, cut anywhere, and blocks that are none.

use proptest::prelude::*;

use super::*;

fn encoded(data: &[u8], compression: Compression) -> BytesMut {
    let mut encoder = Encoder::new(compression).expect("memory");
    let mut out = BytesMut::new();
    for part in data.chunks(BLOCK_MAX) {
        let before = out.len();
        encoder.encode(part, Flow::default(), &mut out);
        assert!(out.len() - before <= part.len() + HEADER_LEN);
    }
    out
}

fn decoded(mut chunks: VecDeque<BytesMut>) -> Result<(Vec<u8>, usize, bool), Malformed> {
    let mut decoder = Decoder::new().expect("memory");
    let (mut data, mut taken) = (Vec::new(), 0);
    while let Some(piece) = decoder.decode(&mut chunks)? {
        data.extend_from_slice(&piece.data);
        taken += piece.taken;
    }
    Ok((data, taken, decoder.is_between_blocks()))
}

fn chunks(bytes: &[u8], sizes: &[usize]) -> VecDeque<BytesMut> {
    let mut rest = bytes;
    let mut out = VecDeque::new();
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            return out;
        }
        let (part, more) = rest.split_at((*size).clamp(1, rest.len()));
        out.push_back(part.into());
        rest = more;
    }
    out
}

proptest! {
    /// However the network cuts it.
    #[test]
    fn what_goes_in_comes_out(
        words in prop::collection::vec(any::<u16>(), 0..40_000),
        variety in 1..u16::MAX,
        sizes in prop::collection::vec(1..100_000_usize, 1..5),
        level in 1..5,
    ) {
        let data: Vec<u8> = words.iter().flat_map(|word| (word % variety).to_be_bytes()).collect();
        let blocks = encoded(&data, Compression::Zstd(level));
        let (got, taken, complete) = decoded(chunks(&blocks, &sizes)).expect("well-formed");
        prop_assert_eq!(got, data);
        prop_assert_eq!(taken, blocks.len());
        prop_assert!(complete);
    }

    #[test]
    fn any_bytes_are_blocks_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        sizes in prop::collection::vec(1..300_usize, 1..5),
    ) {
        let _ = decoded(chunks(&bytes, &sizes));
    }
}

#[test]
fn text_shrinks_and_noise_costs_a_header() {
    let text = "the same words again and again; ".repeat(10_000);
    assert!(encoded(text.as_bytes(), Compression::Auto).len() < text.len() / 50);
    let mut noise = vec![0; BLOCK_MAX];
    let mut state = 1_u64;
    for byte in &mut noise {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = state.to_be_bytes()[0];
    }
    let blocks = encoded(&noise, Compression::Zstd(19));
    assert_eq!(blocks.len(), noise.len() + HEADER_LEN);
}

#[test]
fn an_end_within_a_block_is_no_end() {
    let blocks = encoded(
        &b"some words, some words, some words".repeat(9),
        Compression::Auto,
    );
    for len in 1..blocks.len() {
        let (_, _, complete) = decoded([blocks[..len].into()].into()).expect("a prefix");
        assert!(!complete, "{len}");
    }
}

#[test]
fn p13_a_bomb_and_other_malformed_blocks_are_refused() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).expect("memory");
    let mut block = BytesMut::new();
    put(ZSTD, &bomb, &mut block);
    let mut empty = BytesMut::new();
    put(
        ZSTD,
        &zstd::bulk::compress(&[], 1).expect("memory"),
        &mut empty,
    );
    let cases: [(&[u8], &str); 6] = [
        (&block, "a compressed block that cannot be read"),
        (&empty, "a compressed block that cannot be read"),
        (&[1, 0, 0, 1, 7], "a compressed block that cannot be read"),
        (&[0, 0, 0, 0], "an empty block"),
        (&[0, 2, 0, 1], "a block that is too long"),
        (&[2, 0, 0, 1], "a block of an unknown form"),
    ];
    for (bytes, why) in cases {
        assert_eq!(decoded([bytes.into()].into()), Err(Malformed(why)));
    }
}
