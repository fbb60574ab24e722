//! What happened in a run, and when: two runs of one scenario must have the same.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farpipe_net::{Events, LinkEvent};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::app::{Ended, Part};
use super::chance::Digest;
use super::flow::Told;

/// Events of one end; more than any scenario has.
const EVENTS_MAX: usize = 1_024;

/// Lines with the milliseconds of their time. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    began: Option<Instant>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Trace {
    /// Counts time from now on.
    pub fn begin(&mut self) {
        self.began = Some(Instant::now());
    }

    /// Notes that something happened.
    pub fn note(&self, who: &str, what: impl fmt::Display) {
        let at = self.began.map_or(0, |began| began.elapsed().as_millis());
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(format!("{at} {who} {what}"));
    }

    /// Notes how a session ended.
    pub fn note_end(&self, who: &str, ended: &Ended) {
        let since = |at: Instant| (at - self.began.unwrap_or(at)).as_millis();
        self.note(who, format_args!("{} {:?}", since(ended.at), ended.result));
        for part in &ended.parts {
            let Part {
                lane,
                way,
                giver,
                told: Told { bytes, ended },
                at,
            } = part;
            let word = if *giver { "gave" } else { "took" };
            let at = since(*at);
            self.note(
                who,
                format_args!("{word} {bytes} bytes {way:?} of {lane} until {at}: {ended:?}"),
            );
        }
        for (lane, fate) in &ended.fates {
            self.note(who, format_args!("{lane} {fate:?}"));
        }
    }

    /// All that happened.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.clone()
    }

    /// A digest of all that happened.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for line in self.lines() {
            digest.add(line.as_bytes());
        }
        digest
    }

    /// Where to send link events of `who`. The task notes them until the last sender is gone, and
    /// says how long there was no link then.
    pub fn watch(
        &self,
        tasks: &mut JoinSet<(&'static str, Duration)>,
        who: &'static str,
    ) -> Events {
        let (events, mut watched) = mpsc::channel(EVENTS_MAX);
        let trace = self.clone();
        tasks.spawn(async move {
            let mut lost: Option<Instant> = None;
            while let Some(event) = watched.recv().await {
                match &event {
                    LinkEvent::Lost { .. } => lost = lost.or_else(|| Some(Instant::now())),
                    LinkEvent::Connected { .. } | LinkEvent::Resumed { .. } => lost = None,
                    _ => {}
                }
                trace.note(who, format_args!("{event:?}"));
            }
            (who, lost.map_or(Duration::ZERO, |at| at.elapsed()))
        });
        events
    }
}
