//! What has happened in all processes of a run; it outlives those that are killed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farpipe_net::{Events, LinkEvent, SessionEnd};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::net::app::Part;
use crate::net::trace::Trace;

/// Events of one end; more than any plan has.
const EVENTS_MAX: usize = 1_024;

/// What became of one caller's request.
#[derive(Debug, Default, Clone)]
pub(super) struct Request {
    /// Whether the caller has asked.
    pub(super) begun: bool,
    /// How often an agent began to carry it out.
    pub(super) runs: u32,
    /// Whether it was ever attached.
    pub(super) attached: bool,
    /// Whether the caller was killed.
    pub(super) killed: bool,
    /// Since when the caller has had no link.
    pub(super) unlinked: Option<Instant>,
    /// How long it had had none when its session ended.
    pub(super) alone: Duration,
    /// How its session ended there.
    pub(super) ended: Option<Result<(), SessionEnd>>,
    /// How its session ended at the agent.
    pub(super) served: Option<Result<(), SessionEnd>>,
    /// Whether the agent was killed between the first word and the end.
    pub(super) agent_died: bool,
    /// Whether the agent was killed before its session ended there.
    pub(super) cut_off: bool,
    /// The ends of its flows, at the caller and at the agent.
    pub(super) parts: [Vec<Part>; 2],
}

/// Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Log {
    pub(super) trace: Trace,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Log {
    pub(super) fn new(trace: Trace, callers: usize) -> Self {
        Self {
            trace,
            requests: Arc::new(Mutex::new(vec![Request::default(); callers])),
        }
    }

    pub(super) fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes something about a request.
    pub(super) fn of(&self, caller: usize, note: impl FnOnce(&mut Request)) {
        if let Some(request) = self.requests().get_mut(caller) {
            note(request);
        }
    }

    /// Where to send the link events of a process; the task notes them until the last sender is
    /// gone.
    pub(super) fn watch(
        &self,
        tasks: &mut JoinSet<()>,
        who: &'static str,
        caller: Option<usize>,
    ) -> Events {
        let (events, mut watched) = mpsc::channel(EVENTS_MAX);
        let log = self.clone();
        tasks.spawn(async move {
            while let Some(event) = watched.recv().await {
                log.trace.note(who, format_args!("{event:?}"));
                let Some(caller) = caller else {
                    continue;
                };
                log.of(caller, |request| match event {
                    LinkEvent::Lost { .. } => {
                        request.unlinked.get_or_insert_with(Instant::now);
                    }
                    LinkEvent::Connected { .. } | LinkEvent::Resumed { .. } => {
                        request.attached = true;
                        request.unlinked = None;
                    }
                    _ => {}
                });
            }
        });
        events
    }
}
