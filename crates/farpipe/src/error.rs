//! Why something did not work: whose fault it is, and whether asking again helps.

use farpipe_net::SessionEnd;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings cannot be: the caller's fault. The message says which and why.
    #[error("{0}")]
    Settings(String),
    /// The far host does not give what was asked for: its policy does not allow it, or nothing is there.
    /// Asking again helps only if that changes.
    #[error("the far end refused: {0}")]
    Refused(String),
    /// As many streams are open as a session may have. Close one, or open another session.
    #[error("no stream can be opened: the limit of open streams is reached")]
    TooMany,
    /// The session is over: no relay knows the host, a certificate was refused, or no connection could
    /// be had for [`Settings::resume_for`](crate::Settings::resume_for). What streams had confirmed is
    /// there; the rest is not known.
    #[error(transparent)]
    Session(#[from] SessionEnd),
    /// No relay takes this program under its name.
    #[error("no relay takes this name: {0}")]
    NotRegistered(String),
}
