//! The flags that say what an agent allows.

use std::path::PathBuf;

use clap::Args;
use farpipe_agent::policy::{Allow, AllowEnv, Flags, LoadError, default_path};

use crate::exit::WithStatus;

/// A policy, by a file, by flags, or by both: what either allows is allowed.
#[derive(Debug, Args)]
pub(crate) struct AllowArgs {
    /// The policy, YAML: who may do what [default: policy.yaml in /etc/farpipe or ~/.config/farpipe;
    /// none with --allow]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    // Not as a comment: rustdoc would take the brackets for a link.
    #[arg(
        long,
        value_name = "WHAT",
        help = "Allow it to whoever is let in: all, exec, read:DIR, write:DIR, connect:HOST:PORT or \
                listen:[HOST:]PORT; repeatable"
    )]
    allow: Vec<Allow>,
    /// With --allow: a variable that callers may set for commands, besides LANG, LANGUAGE, LC_*, TZ,
    /// TERM, COLORTERM and NO_COLOR; NAME* allows all that begin so; repeatable
    #[arg(long, value_name = "NAME", requires = "allow")]
    allow_env: Vec<AllowEnv>,
}

impl AllowArgs {
    /// The file, if there is one to be read.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        match &self.policy {
            Some(file) => Some(file.clone()),
            None if self.allow.is_empty() => Some(default_path()),
            None => None,
        }
    }

    /// Whether the file was named: one that was not need not be there.
    pub(crate) fn is_named(&self) -> bool {
        self.policy.is_some()
    }

    pub(crate) fn flags(&self) -> Flags {
        Flags {
            allow: self.allow.clone(),
            env: self.allow_env.clone(),
        }
    }
}

/// A policy that cannot be used.
pub(crate) fn unusable(error: &LoadError) -> anyhow::Error {
    WithStatus::usage(error.to_string(), error.hint())
}
