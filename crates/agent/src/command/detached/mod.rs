//! Commands that go on without their caller (docs/protocol.md section 6.8): `farpipe exec -d` starts
//! one, `ps`, `attach`, `wait` and `kill` ask for it.
//!
//! `table.rs` knows them by their ids, `kept.rs` is one of them, `attachment.rs` a caller that is joined to
//! it, `keeper.rs` the task beside it,
//! `ring.rs` what it says while nobody listens, and `serve.rs` answers what callers ask.

mod attachment;
mod keeper;
mod kept;
mod ring;
pub(super) mod serve;
mod table;

pub use self::table::Table;
pub(crate) use self::table::TableError;
