//! Heartbeat and round-trip time of one link (docs/protocol.md section 5).
//!
//! Any byte heard proves life; a PING goes out when a beat passed in silence, and at the start,
//! for the round-trip time. Three silent beats: the link is dead. The beat shortens when the link
//! is shaky (a beat missed, a jittery round trip) and lengthens when it is steady.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::{
    HEARTBEAT_MAX_PERCENT, HEARTBEAT_MIN_PERCENT, HEARTBEAT_SILENT_MAX, RTT_WINDOW,
};
use crate::time::{Instant, earliest};

/// Steady beats in a row before the beat lengthens.
const STEADY_BEATS: u32 = 6;
/// Round-trip samples kept for the minimum; older ones leave with time, too.
const SAMPLES_MAX: usize = 64;

/// Keepalive of one link.
#[derive(Debug)]
pub struct Keepalive {
    base: Duration,
    beat: Duration,
    last_heard: Instant,
    /// The last PING: its number and when it went out; `None` once answered.
    outstanding: Option<(u64, Instant)>,
    last_ping: Option<Instant>,
    next_number: u64,
    steady: u32,
    silent_beats: u32,
    smoothed: Option<Duration>,
    variance: Duration,
    samples: VecDeque<(Instant, Duration)>,
}

impl Keepalive {
    /// Starts with a PING due at once. `heartbeat` is the set beat (default 10 s).
    #[must_use]
    pub fn new(now: Instant, heartbeat: Duration) -> Self {
        Self {
            base: heartbeat,
            beat: heartbeat,
            last_heard: now,
            outstanding: None,
            last_ping: None,
            next_number: 1,
            steady: 0,
            silent_beats: 0,
            smoothed: None,
            variance: Duration::ZERO,
            samples: VecDeque::new(),
        }
    }

    /// Some bytes arrived.
    pub fn handle_heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.silent_beats = 0;
    }

    /// A PONG arrived; an unknown number is ignored (an answer to a link's older life).
    pub fn handle_pong(&mut self, now: Instant, number: u64) {
        let Some((expected, sent)) = self.outstanding else {
            return;
        };
        if expected != number {
            return;
        }
        self.outstanding = None;
        let sample = now - sent;
        // RFC 6298's estimator: an eighth, a quarter.
        match self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.variance = sample / 2;
            }
            Some(smoothed) => {
                self.variance = (self.variance * 3 + smoothed.abs_diff(sample)) / 4;
                self.smoothed = Some((smoothed * 7 + sample) / 8);
            }
        }
        self.samples.push_back((now, sample));
        if self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.adapt();
    }

    fn adapt(&mut self) {
        let shaky = self.smoothed.is_some_and(|s| self.variance > s / 2)
            // Below this, jitter says nothing about the link.
            && self.variance > Duration::from_millis(50);
        if shaky {
            self.shorten();
            return;
        }
        self.steady += 1;
        if self.steady >= STEADY_BEATS {
            self.steady = 0;
            self.beat = (self.beat * 5 / 4).min(self.base * HEARTBEAT_MAX_PERCENT / 100);
        }
    }

    fn shorten(&mut self) {
        self.steady = 0;
        self.beat = (self.beat / 2).max(self.base * HEARTBEAT_MIN_PERCENT / 100);
    }

    /// The number of a PING to send now, if one is due.
    pub fn poll_ping(&mut self, now: Instant) -> Option<u64> {
        if self.ping_due().is_none_or(|due| now < due) {
            return None;
        }
        if self.outstanding.is_some() {
            // The last one was not answered within a beat.
            self.silent_beats += 1;
            self.shorten();
        }
        let number = self.next_number;
        self.next_number += 1;
        self.outstanding = Some((number, now));
        self.last_ping = Some(now);
        Some(number)
    }

    fn ping_due(&self) -> Option<Instant> {
        match self.last_ping {
            None => Some(self.last_heard),
            Some(last_ping) => Some(last_ping + self.beat),
        }
    }

    /// Whether nothing was heard for three beats.
    #[must_use]
    pub fn is_dead(&self, now: Instant) -> bool {
        now >= self.dead_at()
    }

    /// When the link is dead if nothing is heard until then.
    #[must_use]
    pub fn dead_at(&self) -> Instant {
        // Beats shorten while silent; what was promised at the last sign of life holds.
        self.last_heard + self.base.max(self.beat) * HEARTBEAT_SILENT_MAX
    }

    /// When to look again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        earliest(self.ping_due(), Some(self.dead_at()))
    }

    /// Smallest round trip of the last 10 s that were measured, zero before the first.
    pub fn rtt_min(&mut self, now: Instant) -> Duration {
        while self.samples.len() > 1
            && self
                .samples
                .front()
                .is_some_and(|(at, _)| now - *at > RTT_WINDOW)
        {
            self.samples.pop_front();
        }
        self.samples
            .iter()
            .map(|(_, sample)| *sample)
            .min()
            .unwrap_or_default()
    }

    /// Smoothed round trip, once measured.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The beat in force.
    #[must_use]
    pub fn beat(&self) -> Duration {
        self.beat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    const BEAT: Duration = Duration::from_secs(10);

    #[test]
    fn n3_three_silent_beats_are_death() {
        let mut keepalive = Keepalive::new(at(0), BEAT);
        assert_eq!(keepalive.poll_ping(at(0)), Some(1));
        keepalive.handle_heard(at(40));
        keepalive.handle_pong(at(40), 1);
        let mut now = at(40);
        let mut pings = 0;
        while !keepalive.is_dead(now) {
            now = keepalive.poll_timeout().expect("always a deadline");
            pings += u32::from(keepalive.poll_ping(now).is_some());
        }
        assert_eq!(now, at(30_040));
        assert!(pings >= 2, "{pings} PINGs in three beats");
    }

    #[test]
    fn n6_any_byte_keeps_the_link_alive() {
        let mut keepalive = Keepalive::new(at(0), BEAT);
        for second in 0..3600 {
            keepalive.handle_heard(at(second * 1000));
            let _ = keepalive.poll_ping(at(second * 1000));
            assert!(!keepalive.is_dead(at(second * 1000)));
        }
    }

    #[test]
    fn the_beat_follows_the_link_between_3_and_25_seconds() {
        let mut keepalive = Keepalive::new(at(0), BEAT);
        let mut now = at(0);
        for _ in 0..100 {
            let number = keepalive.poll_ping(now).expect("due");
            keepalive.handle_pong(now + Duration::from_millis(20), number);
            now = now + keepalive.beat();
        }
        assert_eq!(keepalive.beat(), Duration::from_secs(25));
        for round in 0..20u64 {
            let number = keepalive.poll_ping(now).expect("due");
            let rtt = if round % 2 == 0 { 20 } else { 2_000 };
            keepalive.handle_pong(now + Duration::from_millis(rtt), number);
            now = now + keepalive.beat();
        }
        assert_eq!(keepalive.beat(), Duration::from_secs(3));
    }

    #[test]
    fn the_minimum_round_trip_forgets_after_ten_seconds() {
        let mut keepalive = Keepalive::new(at(0), Duration::from_secs(4));
        for (sent, rtt) in [(0u64, 5u64), (4_000, 80), (12_000, 90), (20_000, 70)] {
            let number = keepalive.poll_ping(at(sent)).expect("due");
            keepalive.handle_pong(at(sent + rtt), number);
        }
        assert_eq!(keepalive.rtt_min(at(20_070)), Duration::from_millis(70));
    }

    #[test]
    fn a_pong_out_of_the_blue_changes_nothing() {
        let mut keepalive = Keepalive::new(at(0), BEAT);
        keepalive.handle_pong(at(5), 99);
        assert_eq!(keepalive.rtt(), None);
    }
}
