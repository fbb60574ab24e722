//! What must hold of a session between calls. Apart from the rules, which should read without it.

use super::Session;
use super::stream::Stream;
use crate::limits::{CONTROL_QUEUE_MAX, OFFSET_MAX, STREAMS_MAX};

impl Session {
    /// Checks what must hold between calls; for tests, fuzzing and debug builds.
    pub fn assert_invariants(&self) {
        for stream in self.streams.values() {
            stream.assert_invariants();
        }
        assert!(self.streams.len() <= self.config.streams_max.saturating_add(STREAMS_MAX));
        let windows: u64 = self.streams.values().map(Stream::window_held).sum();
        assert_eq!(self.windows, windows, "windows are counted");
        assert!(self.outgoing.numbered() <= OFFSET_MAX);
        assert!(
            self.control.len() <= CONTROL_QUEUE_MAX + self.config.streams_max * 4,
            "control frames are bounded"
        );
    }
}
