//! An embedded log (docs/log.md): topics of partitions of batches, and what groups of readers have done of them. What it
//! acknowledges is on the disk, and what is on the disk is checked whenever it is read.

mod cursors;
mod disk;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod inspect;
mod log;
mod mark;
mod partition;
mod producers;
mod repair;
mod segment;
mod settings;
mod store;
mod summed;

pub use cursors::{Cursor, CursorKey};
pub use inspect::{Fault, InspectError, Inspected, inspect, objections};
pub use log::{Log, QUEUE_MAX};
pub use partition::{CACHE_MAX, Partition, ReadError};
pub use producers::{PRODUCERS_MAX, SequenceError};
pub use repair::{Repaired, repair};
pub use segment::{Damage, Piece};
pub use settings::{Durability, Settings};
pub use store::{Append, AppendError, Appended, OpenError, Options, Recovered, Topic};
