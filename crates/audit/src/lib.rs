//! An audit log whose lines vouch for one another: JSON, a line each, appended and never changed
//! (docs/audit.md).
//!
//! `handle.rs` is for tasks, `line.rs` is what a line has beside its event, `log.rs` writes, `verify.rs` finds what was changed
//! since. What is written is the caller's business: nothing here knows what happened, or hides secrets.

mod handle;
mod line;
mod log;
mod verify;

pub use handle::{Audit, Unwritten};
pub use line::{Hash, Head, HeadError};
pub use log::{AuditLog, AuditOptions, OpenError, WriteError};
pub use verify::{Fault, Report, verify};
