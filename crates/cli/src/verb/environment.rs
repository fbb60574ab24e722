//! Where variables are looked up: in this process's environment, or in that of another whose way is to
//! be gone.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

/// An environment.
#[derive(Clone, Default)]
pub(crate) enum Environment {
    /// This process's.
    #[default]
    Own,
    /// What another process has told of its own; nothing else is set there.
    Told(BTreeMap<String, OsString>),
}

/// Without values: some have passwords.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("Own"),
            Self::Told(variables) => f.debug_set().entries(variables.keys()).finish(),
        }
    }
}

impl Environment {
    /// The value of a variable.
    pub(crate) fn variable(&self, name: &str) -> Option<OsString> {
        match self {
            Self::Own => std::env::var_os(name),
            Self::Told(variables) => variables.get(name).cloned(),
        }
    }
}
