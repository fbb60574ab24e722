//! The policy of a running agent: the newest good version of its file.
//!
//! Looked at for each request: a `stat` is nothing beside a command, and a watcher would be a task more
//! that can miss changes. A version that is malformed leaves the last good one in force, since an
//! editor may be half done. A file that is gone, empty, unreadable or open to others allows nothing:
//! whoever took it away meant that.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farpipe_net::FileStamp;

use super::{Flags, LoadError, Policy, Reach};

/// A policy that is read again when its file changes.
#[derive(Debug)]
pub struct LivePolicy {
    path: Option<PathBuf>,
    flags: Flags,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    policy: Arc<Policy>,
    /// Of the file as it was tried last, whether that went well or not.
    stamp: Option<FileStamp>,
    /// What the process has kept for itself; `None`: all that its user may.
    kept: Option<Reach>,
}

impl LivePolicy {
    /// A policy of a file, of flags, or of both; of neither, nothing is allowed.
    ///
    /// # Errors
    /// [`LoadError`] when the file cannot be used: there is no last good version yet.
    pub fn open(path: Option<PathBuf>, flags: Flags) -> Result<Self, LoadError> {
        // Before the file is read: a change in between is seen next time.
        let stamp = path.as_deref().map(FileStamp::of);
        let policy = match &path {
            Some(path) => Policy::load(path)?,
            None => Policy::default(),
        };
        warn_if_empty(path.as_deref(), &policy);
        let policy = Arc::new(policy.and_flags(&flags));
        Ok(Self {
            path,
            flags,
            current: Mutex::new(Current {
                policy,
                stamp,
                kept: None,
            }),
        })
    }

    /// Whether it has a file, which may change.
    #[must_use]
    pub fn has_file(&self) -> bool {
        self.path.is_some()
    }

    /// From now on nothing is allowed that goes beyond what the policy allows now, whatever the file says later:
    /// the process gives the rest up. How far that is.
    pub fn keep_within(&self) -> Reach {
        let mut current = self.lock();
        let reach = current.policy.reach();
        current.kept = Some(reach.clone());
        reach
    }

    /// Reads the file again though it may look the same, and says what is wrong with it. Blocks on the
    /// disk for a moment.
    pub fn reload(&self) {
        self.lock().stamp = None;
        let _newest = self.current();
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What holds now. Blocks on the disk for a moment.
    #[must_use]
    pub fn current(&self) -> Arc<Policy> {
        let mut current = self.lock();
        let Some(path) = &self.path else {
            return Arc::clone(&current.policy);
        };
        let stamp = Some(FileStamp::of(path));
        if current.stamp != stamp {
            current.stamp = stamp;
            if let Some(policy) = reload(path) {
                let policy = policy.and_flags(&self.flags);
                let policy = match &current.kept {
                    Some(kept) => kept_within(policy, kept),
                    None => policy,
                };
                current.policy = Arc::new(policy);
            }
        }
        Arc::clone(&current.policy)
    }
}

/// What holds from now on; none if it is what held before.
fn reload(path: &Path) -> Option<Policy> {
    match Policy::load(path) {
        Ok(policy) => {
            tracing::info!("the policy was read again: {} has changed", path.display());
            warn_if_empty(Some(path), &policy);
            Some(policy)
        }
        Err(LoadError::Malformed(error)) => {
            let hint = &error.hint;
            tracing::error!(
                "the changed policy cannot be used, the last one holds: {error} ({hint})"
            );
            None
        }
        Err(LoadError::Unreadable(error)) => {
            let hint = &error.hint;
            tracing::error!("nothing is allowed until the policy can be read: {error} ({hint})");
            Some(Policy::unusable(error.to_string()))
        }
    }
}

/// What a process can do that has given up the rest; says what that takes from the policy.
fn kept_within(policy: Policy, kept: &Reach) -> Policy {
    let (policy, beyond) = policy.within(kept);
    for rule in beyond {
        tracing::warn!(
            "{rule}: takes effect when this agent is started anew: its sandbox is closed to that"
        );
    }
    policy
}

fn warn_if_empty(path: Option<&Path>, policy: &Policy) {
    if let Some(path) = path.filter(|_| policy.is_empty()) {
        tracing::warn!("the policy {} allows nothing", path.display());
    }
}
