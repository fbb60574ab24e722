//! A log in the hands of tasks, which must not wait for a disk on their threads.

use std::sync::Arc;

use serde_json::Value;

use crate::log::AuditLog;

/// The audit log of a process, if it has one; without one everything counts as written.
#[derive(Debug, Clone, Default)]
pub struct Audit(Option<Arc<AuditLog>>);

/// Something was not written, so it is not done. Why was said in the log of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "that host cannot write its audit log, and does nothing until it can; its own log says why"
)]
pub struct Unwritten;

impl Audit {
    /// One that is open.
    #[must_use]
    pub fn new(log: Arc<AuditLog>) -> Self {
        Self(Some(log))
    }

    /// Whether anything is written.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> Option<&AuditLog> {
        self.0.as_deref()
    }

    /// As [`AuditLog::append`], on a thread that may block.
    ///
    /// # Errors
    /// [`Unwritten`].
    ///
    /// # Cancellation
    /// Dropped, it may be written or not.
    pub async fn append(&self, event: Value) -> Result<(), Unwritten> {
        let Some(log) = self.0.clone() else {
            return Ok(());
        };
        let why = match tokio::task::spawn_blocking(move || log.append(event)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!("not done, since it cannot be written down: {why}");
        Err(Unwritten)
    }
}
