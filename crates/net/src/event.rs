//! What happens to a session's links, for people, status files and metrics.

use std::time::Duration;

/// One thing that happened. Values on a bounded channel: a slow reader misses some, the session
/// never waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEvent {
    /// The first tunnel is attached.
    Connected {
        /// The session's key, shortened: the same at both ends.
        session: String,
        /// Where the link leads.
        peer: String,
    },
    /// The link is gone; the session goes on.
    Lost {
        /// Why.
        why: String,
        /// Failures in a row, this one included; 0 after progress.
        failures: u32,
        /// How long until the next attempt; `None` on the side that waits for the other.
        retry_in: Option<Duration>,
    },
    /// A tunnel is attached again.
    Resumed {
        /// Which attach this was, from 2.
        epoch: u64,
        /// Bytes that are sent again.
        resent: u64,
    },
    /// Ten failures in a row.
    Alarm {
        /// Failures in a row.
        failures: u32,
        /// The last one's reason.
        why: String,
    },
}

/// Where events go. Bound and policy: the channel's capacity; what does not fit is dropped, since
/// the newest state always follows.
pub type Events = tokio::sync::mpsc::Sender<LinkEvent>;

pub(crate) fn tell(events: Option<&Events>, event: LinkEvent) {
    tracing::debug!(?event);
    if let Some(events) = events {
        let _ = events.try_send(event);
    }
}
