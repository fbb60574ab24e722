//! A running session, as its application sees it: streams to open and to accept.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use farpipe_proto::identity::Caller;
use farpipe_proto::session::Side;
use farpipe_proto::wire::control::Open;

use crate::shared::{Linked, SessionEnd, Shared, StreamIo, park};
use crate::stream::Stream;

/// Opens streams of a session.
#[derive(Debug, Clone)]
pub struct SessionHandle {
    shared: Arc<Shared>,
}

impl SessionHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Opens a stream to `target` (empty: the acceptor's own endpoint); `None` when the limit of
    /// open streams, or of the process's windows, is reached.
    #[must_use]
    pub fn open(&self, target: &str) -> Option<Stream> {
        self.open_with(Open {
            target: target.to_owned(),
            ..Open::default()
        })
    }

    /// As [`SessionHandle::open`], with all that can be said of a stream.
    #[must_use]
    pub fn open_with(&self, open: Open) -> Option<Stream> {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        let id = state.with_windows(|session| session.open(now, open))?;
        // Before the lock is given back: the answer may be here the moment after.
        state.streams.insert(id, StreamIo::default());
        state.number_control();
        drop(state);
        Some(Stream::new(&self.shared, id))
    }

    /// Waits until the limit of open streams lets one more be opened, or the session is over. For
    /// one task at a time. Cancel safe.
    pub async fn room(&self) {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.end.is_some() || state.session.has_room() {
                return Poll::Ready(());
            }
            park(&mut state.opener, cx);
            Poll::Pending
        })
        .await;
    }

    /// The next stream the peer opens; `None` when it will open no more, or the session is over.
    pub async fn accept(&self) -> Option<(Stream, Open)> {
        let (id, open) = poll_fn(|cx| {
            let mut state = self.shared.lock();
            if let Some(opened) = state.opened.pop_front() {
                return Poll::Ready(Some(opened));
            }
            // The acceptor's OPEN may cross the opener's word that it opens no more itself.
            let is_over = match state.session.side() {
                Side::Acceptor => state.session.is_opening_over(),
                Side::Opener => state.session.is_complete(),
            };
            if state.end.is_some() || is_over {
                return Poll::Ready(None);
            }
            park(&mut state.acceptor, cx);
            Poll::Pending
        })
        .await?;
        Some((Stream::new(&self.shared, id), open))
    }

    /// A stream that the peer has opened already and nobody has taken yet.
    #[must_use]
    pub fn try_accept(&self) -> Option<(Stream, Open)> {
        let (id, open) = self.shared.lock().opened.pop_front()?;
        Some((Stream::new(&self.shared, id), open))
    }

    /// Whether the session has a link.
    #[must_use]
    pub fn linked(&self) -> Linked {
        self.shared.lock().linked
    }

    /// Whether both are handles of one session.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Streams of either end that are not settled yet.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.shared.lock().session.open_streams()
    }

    /// Whether the session is over for this end: settled, or ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let state = self.shared.lock();
        state.end.is_some() || state.session.is_complete()
    }

    /// Who is at the other end, as it has proven in the session itself, whatever lies between; waits
    /// until it has. `None`: the session is not sealed, or it ended before. For one task at a time.
    /// Cancel safe.
    pub async fn peer_identity(&self) -> Option<Caller> {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            let peer = state.peer();
            if peer.is_some() || state.is_anonymous() {
                return Poll::Ready(peer);
            }
            park(&mut state.identified, cx);
            Poll::Pending
        })
        .await
    }

    /// Waits until the two ends have had a link; `false` if the session ended before. For the task that
    /// asks for [`SessionHandle::peer_identity`]. Cancel safe.
    pub async fn met(&self) -> bool {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.has_met || state.end.is_some() {
                return Poll::Ready(state.has_met);
            }
            park(&mut state.identified, cx);
            Poll::Pending
        })
        .await
    }

    /// Opener: no more streams will be opened; the session completes when all are settled.
    pub fn finish_opening(&self) {
        let mut state = self.shared.lock();
        state.session.finish_opening();
        state.number_control();
    }

    /// Ends the session at once; every handle hears `why`.
    pub fn end(&self, why: SessionEnd) {
        self.shared.lock().end(why);
    }

    /// Keeps the session from completing until [`SessionHandle::release`].
    pub fn hold(&self) {
        self.shared.lock().session.hold();
    }

    /// Ends one [`SessionHandle::hold`].
    pub fn release(&self) {
        let mut state = self.shared.lock();
        state.session.release();
        state.number_control();
    }
}

/// Waits until the session was ended from this side.
pub(crate) async fn ended(shared: &Shared) -> SessionEnd {
    poll_fn(|cx| {
        let mut state = shared.lock();
        match state.end.clone() {
            Some(end) => Poll::Ready(end),
            None => {
                park(&mut state.ender, cx);
                Poll::Pending
            }
        }
    })
    .await
}

/// Waits until the ends of a sealed session have had a link for so long and do not know each other;
/// for ever, if they do by then. Cancel safe.
pub(crate) async fn withheld(shared: &Shared, left: Duration) {
    if !shared.lock().is_open() {
        let until = shared.clock.now() + left;
        tokio::time::sleep_until(shared.clock.deadline(until)).await;
        if !shared.lock().is_open() {
            return;
        }
    }
    std::future::pending().await
}

/// Waits until everything is settled on this side; while there is no link, whose driver would be
/// woken in its place.
pub(crate) async fn complete(shared: &Shared) {
    poll_fn(|cx| {
        let mut state = shared.lock();
        if state.session.is_complete() {
            return Poll::Ready(());
        }
        park(&mut state.driver, cx);
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use farpipe_proto::session::SessionConfig;

    use super::*;
    use crate::clock::Clock;

    /// What takes the answer and the first bytes may run while the thread that opens the stream is put
    /// aside; a stream that it does not find then has lost them.
    #[test]
    fn whoever_looks_in_between_finds_a_place_for_each_stream_that_is_open() {
        // One round shows it seldom, so many do surely.
        assert!(!(0..300).any(|_| is_one_missing()), "one was not there yet");
    }

    fn is_one_missing() -> bool {
        let config = SessionConfig::new(Side::Opener);
        let shared = Shared::new(config, Arc::default(), Clock::Boot, None);
        let handle = SessionHandle::new(Arc::clone(&shared));
        let over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let looking = threads.spawn(|| {
                let mut is_missing = false;
                while !over.load(Ordering::Relaxed) {
                    let state = shared.lock();
                    is_missing |= state.session.open_streams() > state.streams.len();
                }
                is_missing
            });
            let streams: Vec<Stream> = std::iter::from_fn(|| handle.open("")).take(200).collect();
            over.store(true, Ordering::Relaxed);
            assert_eq!(streams.len(), 200);
            looking.join().expect("it ends")
        })
    }
}
