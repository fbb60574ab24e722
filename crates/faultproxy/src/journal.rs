//! What happened to each connection, for the account that a failed test prints.
//!
//! Bounded: of the newest connections only, and a few entries of each.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::plan::{ConnectionPlan, Cut};

/// Something that happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Accepted,
    Finished,
    Broken,
    Refused,
    ResetFirst,
    UpstreamFailed,
    Cut(Cut),
    HalfClosed,
    Muted,
    Flipped,
    Replayed,
    Dropped,
    Blind,
}

/// An event, at an age of the connection and after so many bytes had passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) event: Event,
    pub(crate) age: Duration,
    pub(crate) up: u64,
    pub(crate) down: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    /// The number of the connection that the first page is of.
    first: u64,
    pages: VecDeque<Vec<Entry>>,
}

impl Journal {
    pub(crate) fn note(&self, connection: u64, entry: Entry) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let book = &mut *guard;
        // Connections start in the order of their numbers, or nearly so.
        while book.first + book.pages.len() as u64 <= connection {
            book.pages.push_back(Vec::new());
            if book.pages.len() > CONNECTIONS_MAX {
                book.pages.pop_front();
                book.first += 1;
            }
        }
        let page = connection
            .checked_sub(book.first)
            .and_then(|at| book.pages.get_mut(usize::try_from(at).ok()?));
        if let Some(page) = page
            && page.len() < ENTRIES_MAX
            && entry.event != Event::Accepted
        {
            page.push(entry);
        }
    }

    /// One line for each connection that is remembered.
    pub(crate) fn write(&self, text: &mut String, plan: impl Fn(u64) -> ConnectionPlan) {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (connection, page) in (book.first..).zip(&book.pages) {
            // Writing into a String cannot fail.
            let _ = write!(text, "{}", plan(connection));
            for entry in page {
                let _ = write!(text, "; {entry}");
            }
            text.push('\n');
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            event,
            age,
            up,
            down,
        } = self;
        write!(f, "{event} after {age:.3?} with {up} bytes up, {down} down")
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "accepted",
            Self::Finished => "finished",
            Self::Broken => "torn by a peer",
            Self::Refused => "refused",
            Self::ResetFirst => "reset before the first byte",
            Self::UpstreamFailed => "upstream not reached",
            Self::Cut(Cut::Reset) => "reset",
            Self::Cut(Cut::Fin) => "ended",
            Self::Cut(Cut::Stall) => "stalled",
            Self::Cut(Cut::BlackHole) => "black-holed",
            Self::HalfClosed => "half-closed",
            Self::Muted => "muted",
            Self::Flipped => "bit flipped",
            Self::Replayed => "bytes replayed",
            Self::Dropped => "bytes dropped",
            Self::Blind => "no frames to be seen",
        })
    }
}

const CONNECTIONS_MAX: usize = 10_000;
const ENTRIES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_newest_connections_and_a_few_entries_of_each() {
        let journal = Journal::default();
        let entry = |event| Entry {
            event,
            age: Duration::from_millis(5),
            up: 1,
            down: 2,
        };
        for connection in 0..CONNECTIONS_MAX as u64 + 5 {
            journal.note(connection, entry(Event::Accepted));
        }
        for _ in 0..100 {
            journal.note(7, entry(Event::Dropped));
        }
        journal.note(2, entry(Event::Finished));
        let mut text = String::new();
        journal.write(&mut text, |connection| {
            crate::plan::Plan::default().derive(0, connection)
        });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), CONNECTIONS_MAX);
        assert!(lines[0].starts_with("connection 5"), "{}", lines[0]);
        assert_eq!(
            lines[2]
                .matches("bytes dropped after 5.000ms with 1 bytes up, 2 down")
                .count(),
            ENTRIES_MAX
        );
        assert!(!text.contains("finished"));
    }
}
