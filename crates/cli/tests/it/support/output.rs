//! What a process prints, collected by a thread, and made the same for every run.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use super::DEADLINE;

/// Collected output.
#[derive(Debug, Clone)]
pub(crate) struct Output(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
    /// Nothing is read until then.
    paused: bool,
}

impl Output {
    /// Nothing is collected.
    pub(super) fn none() -> Self {
        let shared = Shared::default();
        shared.lock().ended = true;
        Self(Arc::new(shared))
    }

    /// Reads until the end.
    pub(crate) fn collect(reader: impl Read + Send + 'static) -> Self {
        Self::start(reader, false)
    }

    /// Reads nothing until [`Output::read_on`].
    pub(crate) fn paused(reader: impl Read + Send + 'static) -> Self {
        Self::start(reader, true)
    }

    fn start(mut reader: impl Read + Send + 'static, paused: bool) -> Self {
        let shared = Arc::new(Shared::default());
        shared.lock().paused = paused;
        let ours = Self(Arc::clone(&shared));
        // Ends with the last writer.
        thread::spawn(move || {
            let mut buf = vec![0; 256 * 1024];
            let mut state = shared.lock();
            while state.paused {
                state = shared
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            loop {
                let read = reader.read(&mut buf).unwrap_or(0);
                let mut state = shared.lock();
                state.bytes.extend_from_slice(&buf[..read]);
                state.ended = read == 0;
                shared.changed.notify_all();
                if state.ended {
                    return;
                }
            }
        });
        ours
    }

    /// Begins to read.
    pub(crate) fn read_on(&self) {
        self.0.lock().paused = false;
        self.0.changed.notify_all();
    }

    /// Waits until `enough` holds, and returns what came; `Err` with what came if it never will.
    pub(crate) fn until(&self, enough: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, Vec<u8>> {
        let until = Instant::now() + DEADLINE;
        let mut state = self.0.lock();
        loop {
            if enough(&state.bytes) {
                return Ok(state.bytes.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return Err(state.bytes.clone());
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the end and takes all that came.
    pub(crate) fn until_end(&self) -> Result<Vec<u8>, ()> {
        let until = Instant::now() + DEADLINE;
        let mut state = self.0.lock();
        while !state.ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(());
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(std::mem::take(&mut state.bytes))
    }

    /// What came so far, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().bytes).into_owned()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `text` with ports and the temporary directory replaced by `PORT` and `TMP`, and without the time in
/// front of a log's lines.
pub(crate) fn stable(text: &str, dir: &Path) -> String {
    const ADDRESS: &str = "127.0.0.1:";
    let text = text.replace(&dir.display().to_string(), "TMP");
    let timeless = text.split_inclusive('\n').map(|line| {
        let level = line.split_once("Z ").filter(|(time, _)| {
            let mut bytes = time.bytes();
            bytes.all(|byte| byte.is_ascii_digit() || b"-:.T".contains(&byte))
        });
        level.map_or(line, |(_, rest)| rest.trim_start())
    });
    let text: String = timeless.collect();
    let mut parts = text.split(ADDRESS);
    let mut stable = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        stable.push_str(ADDRESS);
        stable.push_str("PORT");
        stable.push_str(rest);
    }
    stable
}
