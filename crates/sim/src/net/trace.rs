//! What happened in a run, and when: two runs of one scenario must have the same.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    notes: Arc<Mutex<Notes>>,
}

#[derive(Debug, Default)]
struct Notes {
    lines: Vec<String>,
    /// Who is without a link, since when.
    unlinked: BTreeMap<&'static str, Instant>,
}

/// How a session ended at one end, and how long it had been without a link then.
#[derive(Debug)]
pub struct Noted {
    /// How it ended.
    pub ended: Ended,
    /// Zero with a link.
    pub unlinked: Duration,
}

impl Trace {
    /// Counts time from now on, in this clone. Clocks of different runtimes cannot be compared.
    pub fn begin(&mut self) {
        self.began = Some(Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something happened.
    pub fn note(&self, who: &str, what: impl fmt::Display) {
        let at = self.began.map_or(0, |began| began.elapsed().as_millis());
        self.lock().lines.push(format!("{at} {who} {what}"));
    }

    /// Notes how a session ended.
    pub fn note_end(&self, who: &'static str, ended: Ended) -> Noted {
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
        let lost = self.lock().unlinked.get(who).copied();
        Noted {
            unlinked: lost.map_or(Duration::ZERO, |lost| ended.at - lost),
            ended,
        }
    }

    /// All that happened.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    /// A digest of all that happened.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for line in &self.lock().lines {
            digest.add(line.as_bytes());
        }
        digest
    }

    /// Where to send link events of `who`; the task notes them until the last sender is gone.
    pub fn watch(&self, tasks: &mut JoinSet<()>, who: &'static str) -> Events {
        let (events, mut watched) = mpsc::channel(EVENTS_MAX);
        let trace = self.clone();
        tasks.spawn(async move {
            while let Some(event) = watched.recv().await {
                match &event {
                    LinkEvent::Lost { .. } => {
                        let mut notes = trace.lock();
                        notes.unlinked.entry(who).or_insert_with(Instant::now);
                    }
                    LinkEvent::Connected { .. } | LinkEvent::Resumed { .. } => {
                        trace.lock().unlinked.remove(who);
                    }
                    _ => {}
                }
                trace.note(who, format_args!("{event:?}"));
            }
        });
        events
    }
}
