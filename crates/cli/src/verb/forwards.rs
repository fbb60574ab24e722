//! What listens until a signal comes goes on in one session after the other: an agent that is started anew
//! knows those that it had no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use farpipe_agent::fan::Shared;
use farpipe_agent::forward::{self, Forward, Told};
use farpipe_agent::{Outcome, PipeError, pipe};
use farpipe_net::{Dial, Opener, SessionEnd};

use super::anew::Anew;
use crate::output;

/// A session that is to be opened, and the way there.
pub(super) type Next = (Opener, Box<dyn Dial>);

/// How what was there is asked anew.
pub(super) struct Keeping<'a> {
    /// What the host is called.
    pub(super) host: &'a str,
    /// How long to ask for it.
    pub(super) within: Duration,
    /// Say nothing of it.
    pub(super) quiet: bool,
    /// Hears where they listen, again in each session.
    pub(super) told: Told,
}

impl Keeping<'_> {
    /// Forwards in the session of `next`, and in others after it. A host that is not there when it begins
    /// is an error.
    ///
    /// # Cancellation
    /// As for [`forward::run`].
    pub(super) async fn run(
        self,
        mut forwards: Vec<Forward>,
        shared: Shared,
        next: impl Fn() -> anyhow::Result<Next>,
        first: Next,
    ) -> anyhow::Result<Outcome> {
        let count = forwards.len();
        let is_told = Arc::new(AtomicBool::new(false));
        let told: Told = {
            let (told, is_told) = (self.told, Arc::clone(&is_told));
            Arc::new(move |number, address| {
                is_told.store(true, Ordering::Relaxed);
                told(number, address);
            })
        };
        let mut anew = Anew::within(self.within);
        // Once it was there, it comes back; one that never was is a mistake.
        let mut was_there = false;
        let (mut opener, mut dial) = first;
        loop {
            // A session is large, and every future around it would have room for one on the stack.
            let outcome = Box::pin(forward::run(
                &mut forwards,
                opener,
                &*dial,
                shared.clone(),
                Arc::clone(&told),
            ))
            .await;
            if is_told.swap(false, Ordering::Relaxed) {
                was_there = true;
                anew.handle_progress();
            }
            let Some(why) = lost(&outcome).filter(|_| was_there && forwards.len() == count) else {
                return Ok(outcome);
            };
            let Some(wait) = anew.poll_wait() else {
                return Ok(outcome);
            };
            if !self.quiet {
                let (host, secs) = (self.host, wait.as_secs());
                output::line(&format!("farpipe: {why}; {host} is asked anew in {secs} s"));
            }
            let waiting = tokio::time::sleep(wait);
            if let Err(error) = pipe::unless_cancelled(shared.cancel.clone(), waiting).await {
                return Ok(error.into());
            }
            (opener, dial) = next()?;
        }
    }
}

/// Why the session ended, if another one may help.
fn lost(outcome: &Outcome) -> Option<&str> {
    match &outcome.error {
        Some(PipeError::Session(
            SessionEnd::Forgotten(why) | SessionEnd::Refused(why) | SessionEnd::Gone(why),
        )) => Some(why),
        _ => None,
    }
}
