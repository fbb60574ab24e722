//! Topics: who of a group reads what, and what of it is done (docs/protocol.md section 6.13).

pub mod group;

pub use group::{Group, GroupEvent, MemberId, NotYours};
