//! Fuzz targets of what callers ask of a host, and of what its files say (docs/fuzzing.md).
//!
//! One function a target: the fuzzer gives it bytes, and tests on the ordinary compiler give it the
//! seeds. Whatever comes, a target panics only when a rule is broken that it names.

mod blocks;
mod policy;
mod spec;

pub use self::blocks::blocks;
pub use self::policy::policy;
pub use self::spec::endpoint_spec;
pub use crate::copy::fuzz::{copy_frames, copy_name, copy_sidecar};
pub use crate::forward::fuzz::socks_server;
pub use crate::tail::fuzz::path_pattern;
