//! Mask keys: unpredictable to whoever chooses the payload (RFC 6455 section 10.3).

use std::fmt;

/// Random bytes fetched at once: a system call for each of 1024 keys would cost more than masking
/// small messages does.
const BATCH: usize = 4 << 10;

/// Where a client's mask keys come from; simulations put a seeded one here.
pub trait MaskKeys: Send + fmt::Debug {
    /// A key never used before.
    fn next_key(&mut self) -> [u8; 4];
}

/// Keys from the system's random source.
#[derive(Default)]
pub struct RandomKeys {
    batch: Vec<u8>,
}

impl MaskKeys for RandomKeys {
    fn next_key(&mut self) -> [u8; 4] {
        loop {
            if let Some((rest, key)) = self.batch.split_last_chunk() {
                let (len, key) = (rest.len(), *key);
                self.batch.truncate(len);
                return key;
            }
            self.batch.resize(BATCH, 0);
            getrandom::fill(&mut self.batch)
                .expect("the system's random source does not fail once the system is up");
        }
    }
}

/// Keys are secrets while they are ahead of their use.
impl fmt::Debug for RandomKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RandomKeys").finish_non_exhaustive()
    }
}
