//! Who else may be at the part of a large file, and is to be told that this copy wants it.
//!
//! The lock of a part says that somebody has it, not who; whoever serves several copies knows.

use std::any::Any;
use std::fmt;
use std::path::Path;

/// Asked by a receiving end, on its thread.
pub trait Claims: fmt::Debug + Send + Sync {
    /// Waits until whoever has the part there, and can be made to, has let go of it. Blocks for seconds at
    /// most; whether the part is free then, its lock tells.
    fn vacate(&self, part: &Path);

    /// Notes who has it now.
    fn claim(&self, part: &Path) -> Claim;
}

/// As long as it lives, the part is its copy's.
pub struct Claim(#[expect(dead_code, reason = "it is dropped")] Box<dyn Any + Send>);

impl Claim {
    /// `held` is dropped with it.
    #[must_use]
    pub fn new(held: impl Any + Send) -> Self {
        Self(Box::new(held))
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claim")
    }
}

/// Nobody else copies in this process.
#[derive(Debug)]
pub(crate) struct Alone;

impl Claims for Alone {
    fn vacate(&self, _part: &Path) {}

    fn claim(&self, _part: &Path) -> Claim {
        Claim::new(())
    }
}
