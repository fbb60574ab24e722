//! Lines on their way to a descriptor that may be stuck.
//!
//! A thread of its own writes them, so that a full pipe or a stopped terminal never stops the data.
//! At most [`LINES_MAX`] wait. Policy when full: a new line is dropped and counted, and the next one
//! that finds room says how many are missing. Last words have as much room again, which nothing else
//! uses up.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Lines that wait: far more than a pipe says while its reader is only busy.
const LINES_MAX: usize = 1024;
/// How long a process that ends waits for its lines to be written.
const FLUSH: Duration = Duration::from_secs(1);

/// Which room a line may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// What may be missed.
    Usual,
    /// How it ended.
    LastWords,
}

/// The way to one descriptor; a clone leads to the same.
#[derive(Debug, Clone)]
pub(crate) struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The thread's, until it begins.
    writer: Mutex<Option<Writer>>,
}

/// Where lines go, and the thread's name.
struct Writer(String, Box<dyn Write + Send>);

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Writer")
            .field(&self.0)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<String>,
    /// Dropped since the last line that found room.
    dropped: u64,
    is_writing: bool,
}

impl Lines {
    /// Lines wait until the thread begins.
    pub(crate) fn held(name: &str, writer: impl Write + Send + 'static) -> Self {
        let writer = Writer(name.to_owned(), Box::new(writer));
        Self(Arc::new(Shared {
            writer: Mutex::new(Some(writer)),
            ..Shared::default()
        }))
    }

    /// Starts the thread, unless it runs. It is never joined, because its write may take for ever; the process
    /// may end without it.
    ///
    /// # Errors
    /// There are no threads to be had; then nothing is ever written.
    pub(crate) fn begin(&self) -> io::Result<()> {
        let writer = self.0.writer.lock();
        let Some(Writer(name, writer)) = writer.unwrap_or_else(PoisonError::into_inner).take()
        else {
            return Ok(());
        };
        let theirs = Arc::clone(&self.0);
        let thread = thread::Builder::new().name(name);
        thread.spawn(move || write_all(&theirs, writer)).map(drop)
    }

    /// Queues one line, without its end; `line` is told how many were dropped before it. Never
    /// waits.
    pub(crate) fn push(&self, room: Room, line: impl FnOnce(u64) -> String) {
        let mut state = self.0.lock();
        let max = match room {
            Room::Usual => LINES_MAX,
            Room::LastWords => 2 * LINES_MAX,
        };
        if state.waiting.len() >= max {
            state.dropped += 1;
            return;
        }
        let dropped = std::mem::take(&mut state.dropped);
        state.waiting.push_back(line(dropped));
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until all is written, but no longer than [`FLUSH`]. For the end of a process.
    pub(crate) fn flush(&self) {
        self.flush_within(FLUSH);
    }

    fn flush_within(&self, at_most: Duration) {
        let unwritten = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        let state = self.0.lock();
        // Whether it came in time or not, there is nothing more to be done.
        drop(self.0.changed.wait_timeout_while(state, at_most, unwritten));
    }
}

impl Shared {
    /// No step leaves the state half changed, so a panic elsewhere spoils nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes lines for as long as the process lives.
fn write_all(shared: &Shared, mut writer: impl Write) {
    loop {
        let nothing = |state: &mut State| state.waiting.is_empty();
        let mut state = shared
            .changed
            .wait_while(shared.lock(), nothing)
            .unwrap_or_else(PoisonError::into_inner);
        let Some(mut line) = state.waiting.pop_front() else {
            continue;
        };
        state.is_writing = true;
        drop(state);
        line.push('\n');
        // A reader that went away is no reason to fail.
        let _ = writer.write_all(line.as_bytes());
        let _ = writer.flush();
        shared.lock().is_writing = false;
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Each write waits for a permit.
    struct Gate {
        permits: mpsc::Receiver<()>,
        begun: mpsc::Sender<()>,
        written: Arc<Mutex<String>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.begun.send(());
            let _ = self.permits.recv();
            let text = String::from_utf8_lossy(bytes);
            self.written.lock().expect("no panic").push_str(&text);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (
        Lines,
        mpsc::Sender<()>,
        mpsc::Receiver<()>,
        Arc<Mutex<String>>,
    ) {
        let (permit, permits) = mpsc::channel();
        let (begun, begins) = mpsc::channel();
        let written = Arc::new(Mutex::new(String::new()));
        let gate = Gate {
            permits,
            begun,
            written: Arc::clone(&written),
        };
        let lines = Lines::held("test", gate);
        lines.begin().expect("a thread");
        (lines, permit, begins, written)
    }

    #[test]
    fn a_stuck_descriptor_drops_lines_and_the_next_one_says_how_many() {
        let (lines, permit, begins, written) = gated();
        let push = |room, text: &str| {
            lines.push(room, |dropped| format!("{text} after {dropped} dropped"));
        };
        push(Room::Usual, "stuck");
        begins.recv().expect("the write begins");
        for _ in 0..LINES_MAX + 7 {
            push(Room::Usual, "waiting");
        }
        push(Room::LastWords, "exit");
        // Nothing moves: this ends all the same.
        lines.flush_within(Duration::ZERO);
        drop(permit);
        lines.flush_within(Duration::MAX);
        let written = written.lock().expect("no panic");
        assert_eq!(written.lines().count(), 1 + LINES_MAX + 1);
        assert_eq!(written.lines().next(), Some("stuck after 0 dropped"));
        assert_eq!(written.lines().last(), Some("exit after 7 dropped"));
    }

    #[test]
    fn last_words_are_bounded_too() {
        let (lines, permit, begins, written) = gated();
        lines.push(Room::LastWords, |_| String::new());
        begins.recv().expect("the write begins");
        for _ in 0..3 * LINES_MAX {
            lines.push(Room::LastWords, |_| String::new());
        }
        drop(permit);
        lines.flush_within(Duration::MAX);
        assert_eq!(written.lock().expect("no panic").len(), 1 + 2 * LINES_MAX);
    }
}
