//! Records and batches of them (docs/log.md): what a producer sends, the log keeps and a consumer reads, byte for
//! byte the same. No I/O here, no clock and no randomness.

mod batch;
mod fold;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod json;
mod mend;
mod record;
mod walk;

pub use batch::{Batch, BatchError, Codec, HEADER_LEN, Header, ProducerId, Sealed};
pub use fold::{Fold, ZSTD_LEVELS};
pub use mend::{Bit, Mended, mended};
pub use record::{BatchBuilder, Record, RecordError, RecordHeader, Records};

/// The most bytes that a batch may have, header and all. A length beyond it is damage, or a peer that means harm: nobody
/// allocates for it.
pub const BATCH_MAX: usize = 4 << 20;

/// The most bytes of a batch's records once they are unfolded.
pub const PLAIN_MAX: usize = 4 << 20;

/// The most bytes of one record: its key, value, headers and the few that frame them.
pub const RECORD_MAX: usize = 1 << 20;

/// Bytes of records of which a producer makes a batch, about.
pub const BATCH_AIM: usize = 128 << 10;

/// Records without a key go to the next partition after so many. All ways to publish as a named producer go by it: else what is sent again by
/// another one would have other numbers.
pub const TURN: u64 = 512;
