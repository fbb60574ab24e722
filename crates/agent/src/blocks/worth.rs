//! Whether a block is worth compressing. Rules without I/O: times are arguments.
//!
//! Two questions. Does the data shrink? After a block that did not, some bytes pass untried: more
//! and more of them, as long as it does not. And does it pay? Who waits for the source has time to
//! spare, and so has who is ahead of the link. Who is neither may be slowed down by compressing: that
//! is stopped for a look at how fast the link is, and taken up again if zstd is faster.

use std::time::{Duration, Instant};

use super::Flow;

/// Bytes that pass untried after a block that did not shrink…
const PASS_MIN: usize = 256 * 1024;
/// …and after many in a row: what is tried in vain is one block in a hundred.
const PASS_MAX: usize = 16 * 1024 * 1024;
/// How long speeds are measured.
const LOOK: Duration = Duration::from_millis(200);
/// How long at least, if the link is behind by more than [`AHEAD`] already: what is sent meanwhile is
/// sent as it is.
const LOOK_MIN: Duration = Duration::from_millis(10);
const AHEAD: u64 = 1024 * 1024;
/// How much faster than the link zstd has to be.
const FASTER_PERCENT: u64 = 125;

/// Decides for each block.
#[derive(Debug)]
pub(super) struct Worth {
    shrinks: Shrinks,
    /// `None`: it is to be compressed whatever it costs.
    pays: Option<Pays>,
}

#[derive(Debug)]
struct Shrinks {
    /// Bytes that are still to pass untried.
    pass: usize,
    /// How many the next failure lets pass.
    next_pass: usize,
}

#[derive(Debug)]
struct Pays {
    is_on: bool,
    look: Option<Look>,
    /// Bytes zstd has read, and how long it took.
    read: u64,
    busy: Duration,
}

/// What happened since the look began.
#[derive(Debug)]
struct Look {
    since: Instant,
    sent: u64,
    acked: u64,
    waited_for_link: bool,
}

impl Worth {
    pub(super) fn new(only_if_it_pays: bool) -> Self {
        Self {
            shrinks: Shrinks {
                pass: 0,
                next_pass: PASS_MIN,
            },
            pays: only_if_it_pays.then_some(Pays {
                is_on: true,
                look: None,
                read: 0,
                busy: Duration::ZERO,
            }),
        }
    }

    /// Whether to compress the next `len` bytes.
    pub(super) fn is_to_try(&mut self, now: Instant, len: usize, flow: Flow) -> bool {
        let pays = self
            .pays
            .as_mut()
            .is_none_or(|pays| pays.is_to_try(now, flow));
        pays && self.shrinks.is_to_try(len)
    }

    /// `len` bytes were compressed in `took`.
    pub(super) fn handle_tried(&mut self, len: usize, shrunk: bool, took: Duration) {
        self.shrinks.handle_tried(shrunk);
        if let Some(pays) = &mut self.pays {
            pays.read += len as u64;
            pays.busy += took;
        }
    }
}

impl Shrinks {
    fn is_to_try(&mut self, len: usize) -> bool {
        if self.pass == 0 {
            return true;
        }
        self.pass = self.pass.saturating_sub(len);
        false
    }

    fn handle_tried(&mut self, shrunk: bool) {
        if shrunk {
            self.next_pass = PASS_MIN;
        } else {
            self.pass = self.next_pass;
            self.next_pass = (self.next_pass * 2).min(PASS_MAX);
        }
    }
}

impl Pays {
    fn is_to_try(&mut self, now: Instant, flow: Flow) -> bool {
        if flow.waited_for_source {
            // Nothing can be learnt of the link.
            self.is_on = true;
            self.look = None;
            return true;
        }
        let look = self.look.get_or_insert(Look {
            since: now,
            sent: flow.sent,
            acked: flow.acked,
            waited_for_link: false,
        });
        look.waited_for_link |= flow.waited_for_link;
        let took = now.saturating_duration_since(look.since);
        let is_clear = !self.is_on && flow.sent - flow.acked > AHEAD && took >= LOOK_MIN;
        if took >= LOOK || is_clear {
            let arrived = flow.acked - look.acked;
            self.is_on = if self.is_on {
                let is_ahead = arrived < (flow.sent - look.sent) / 4 * 3;
                look.waited_for_link || is_ahead
            } else {
                let link = per_second(arrived, took);
                per_second(self.read, self.busy) >= link.saturating_mul(FASTER_PERCENT) / 100
            };
            self.look = None;
        }
        self.is_on
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1_000_000) / micros
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 128 * 1024;
    /// Bytes on their way before the sender has to wait.
    const WINDOW: u64 = 16 * 1024 * 1024;

    /// A sender with zstd at `zstd` bytes a second, before a link of `link`.
    struct Sender {
        worth: Worth,
        now: Instant,
        zstd: u64,
        link: u64,
        flow: Flow,
    }

    impl Sender {
        /// Sends for so long; returns how many of a hundred blocks of its last half second were
        /// compressed.
        fn run(&mut self, millis: u64) -> u64 {
            let (mut tried, mut blocks) = (0, 0);
            let end = self.now + Duration::from_millis(millis);
            while self.now < end {
                let is_late = self.now + Duration::from_millis(500) > end;
                let on = self.worth.is_to_try(self.now, BLOCK, self.flow);
                let (mut len, mut cost) = (BLOCK as u64, Duration::from_micros(5));
                if on {
                    len /= 4;
                    cost = Duration::from_micros(BLOCK as u64 * 1_000_000 / self.zstd);
                    self.worth.handle_tried(BLOCK, true, cost);
                }
                self.flow.sent += len;
                self.pass(cost);
                self.flow.waited_for_link = self.flow.sent - self.flow.acked > WINDOW;
                if self.flow.waited_for_link {
                    self.pass(Duration::from_micros(len * 1_000_000 / self.link));
                }
                if is_late {
                    tried += u64::from(on);
                    blocks += 1;
                }
            }
            100 * tried / blocks
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            let carried = self.link * u64::try_from(time.as_micros()).expect("short") / 1_000_000;
            self.flow.acked = (self.flow.acked + carried).min(self.flow.sent);
        }
    }

    fn sender(zstd: u64, link: u64) -> Sender {
        Sender {
            worth: Worth::new(true),
            now: Instant::now(),
            zstd,
            link,
            flow: Flow::default(),
        }
    }

    #[test]
    fn a_slow_link_gets_all_compressed() {
        // From the first block on, though all of them fit into the window for a while.
        let mut sender = sender(400_000_000, 10_000_000);
        assert_eq!(sender.run(500), 100);
        assert_eq!(sender.run(3000), 100);
    }

    #[test]
    fn a_link_faster_than_zstd_gets_hardly_anything_compressed() {
        let share = sender(400_000_000, 1_500_000_000).run(5000);
        assert!(share < 10, "{share} %");
    }

    #[test]
    fn a_link_that_gets_slower_is_noticed() {
        let mut sender = sender(400_000_000, 1_500_000_000);
        sender.run(3000);
        sender.link = 10_000_000;
        assert_eq!(sender.run(3000), 100);
    }

    #[test]
    fn a_slow_source_has_time_to_spare() {
        let mut worth = Worth::new(true);
        let mut now = Instant::now();
        for _ in 0..1000 {
            let flow = Flow {
                waited_for_source: true,
                ..Flow::default()
            };
            assert!(worth.is_to_try(now, 100, flow));
            now += Duration::from_millis(1);
        }
    }

    #[test]
    fn what_does_not_shrink_is_tried_less_and_less_often() {
        let mut worth = Worth::new(false);
        let now = Instant::now();
        let mut tries = 0;
        for _ in 0..(1 << 30) / BLOCK {
            if worth.is_to_try(now, BLOCK, Flow::default()) {
                tries += 1;
                worth.handle_tried(BLOCK, false, Duration::ZERO);
            }
        }
        assert!((64..80).contains(&tries), "{tries}");
        // And when it shrinks again, that is found out.
        while !worth.is_to_try(now, BLOCK, Flow::default()) {}
        worth.handle_tried(BLOCK, true, Duration::ZERO);
        assert!(worth.is_to_try(now, BLOCK, Flow::default()));
    }
}
