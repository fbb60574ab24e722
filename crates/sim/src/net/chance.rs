//! Randomness that repeats: what the system's generator gives in the field, a seed gives here.

use std::cell::Cell;

use farpipe_net::carrier::ws::MaskKeys;

use crate::draw::Draw;

thread_local! {
    /// `Greeting::random` is a plain function, so its state is the thread's.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// Begins the sequence of [`random`] on this thread anew.
pub fn seed(seed: u64) {
    STATE.set(seed);
}

/// Fills `bytes`; for `Greeting::random`.
pub fn random(bytes: &mut [u8]) {
    for part in bytes.chunks_mut(8) {
        let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        STATE.set(state);
        let word = mix(state).to_le_bytes();
        part.copy_from_slice(&word[..part.len()]);
    }
}

/// SplitMix64's finish: each bit of the result depends on all of `word`.
#[must_use]
pub const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Mask keys from a seed.
#[derive(Debug)]
pub struct Keys(Draw<'static>);

impl Keys {
    /// Keys of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Draw::from_seed(seed))
    }
}

impl MaskKeys for Keys {
    fn next_key(&mut self) -> [u8; 4] {
        [self.0.byte(), self.0.byte(), self.0.byte(), self.0.byte()]
    }
}

/// A digest of what happened, the same on every machine: FNV-1a.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Adds `bytes`.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The digest as bytes, to digest it in turn.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }
}
