//! When to dial again, and when to give up (docs/protocol.md section 7).

use std::time::Duration;

use crate::limits::{
    ALARM_FAILURES, BACKOFF, BACKOFF_JITTER_PERCENT, BACKOFF_LET_IN, REFUSED_SPAN,
};
use crate::time::Instant;

/// How an attempt to reach the peer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// A carrier came up, was attached, made progress, and was lost.
    Progressed,
    /// A carrier came up and was attached, and was lost when this side had nothing to say: progress there could
    /// be none.
    Idle,
    /// Cut or timed out.
    Cut,
    /// Refused, reset, or answered by a proxy's error: nobody is there.
    Refused,
}

/// What the opener does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Dial at this instant.
    DialAt(Instant),
    /// `--resume-for` is over.
    GiveUp,
    /// The peer had confirmed everything and is gone: the session succeeded.
    Succeed,
}

/// The opener's side of a lost link.
#[derive(Debug)]
pub struct Redial {
    resume_for: Duration,
    failures: u32,
    /// Since when there is no link.
    lost_at: Option<Instant>,
    /// Since when every attempt was refused.
    refused_since: Option<Instant>,
    /// The attempt came as far as a relay, and no further.
    was_let_in: bool,
}

impl Redial {
    /// Gives up `resume_for` after the link was lost.
    #[must_use]
    pub fn new(resume_for: Duration) -> Self {
        Self {
            resume_for,
            failures: 0,
            lost_at: None,
            refused_since: None,
            was_let_in: false,
        }
    }

    /// The peer keeps the session no longer than so: there is nothing to be resumed after it.
    pub fn limit(&mut self, kept: Duration) {
        self.resume_for = self.resume_for.min(kept);
    }

    /// An attempt ended. `peer_done` says whether the peer has confirmed everything; `jitter` is a
    /// random number.
    pub fn handle_ended(
        &mut self,
        now: Instant,
        attempt: Attempt,
        peer_done: bool,
        jitter: u32,
    ) -> Next {
        let was_let_in = std::mem::take(&mut self.was_let_in);
        if attempt == Attempt::Progressed {
            self.failures = 0;
            self.lost_at = Some(now);
            self.refused_since = None;
            return Next::DialAt(now);
        }
        if attempt == Attempt::Idle && !peer_done {
            // A proxy that cuts what is silent would else end a session that is resumed every time.
            self.lost_at = None;
        }
        let lost_at = *self.lost_at.get_or_insert(now);
        self.failures = self.failures.saturating_add(1);
        if attempt == Attempt::Refused {
            let since = *self.refused_since.get_or_insert(now);
            if peer_done && now - since >= REFUSED_SPAN {
                return Next::Succeed;
            }
        } else {
            self.refused_since = None;
        }
        let give_up_at = lost_at + self.resume_for;
        if now >= give_up_at {
            return if peer_done {
                Next::Succeed
            } else {
                Next::GiveUp
            };
        }
        let step = (self.failures as usize - 1).min(BACKOFF.len() - 1);
        let wait = match was_let_in {
            true => BACKOFF[step].min(BACKOFF_LET_IN),
            false => BACKOFF[step],
        };
        // One last try when the time is up.
        let mut at = (now + jittered(wait, jitter)).min(give_up_at);
        if let (true, Some(since)) = (peer_done, self.refused_since) {
            at = at.min((since + REFUSED_SPAN).max(now));
        }
        Next::DialAt(at)
    }

    /// A relay had let the attempt in that ends now, and the link was cut before the other end was met:
    /// the next one is not far, as that end may be cut as often. To be said before
    /// [`Redial::handle_ended`].
    pub fn handle_let_in(&mut self) {
        self.was_let_in = true;
    }

    /// A tunnel is attached.
    pub fn handle_attached(&mut self) {
        self.refused_since = None;
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether the failure just counted is the one that raises the alarm.
    #[must_use]
    pub fn is_alarm(&self) -> bool {
        self.failures == ALARM_FAILURES
    }

    /// When the opener gives up, if the link is lost.
    #[must_use]
    pub fn give_up_at(&self) -> Option<Instant> {
        self.lost_at.map(|at| at + self.resume_for)
    }
}

/// `wait` ± 20 %, by a random number.
fn jittered(wait: Duration, random: u32) -> Duration {
    let span = 2 * BACKOFF_JITTER_PERCENT + 1;
    wait * (100 - BACKOFF_JITTER_PERCENT + random % span) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    /// The jitter that changes nothing.
    const MIDDLE: u32 = BACKOFF_JITTER_PERCENT;

    #[test]
    fn waits_double_to_thirty_seconds_and_the_tenth_failure_is_the_alarm() {
        let mut redial = Redial::new(Duration::from_secs(100_000));
        let mut now = at(0);
        assert_eq!(
            redial.handle_ended(now, Attempt::Progressed, false, MIDDLE),
            Next::DialAt(now)
        );
        let mut waits = Vec::new();
        let mut alarms = Vec::new();
        for attempt in 1..=12 {
            let Next::DialAt(then) = redial.handle_ended(now, Attempt::Cut, false, MIDDLE) else {
                panic!("gave up");
            };
            waits.push((then - now).as_secs());
            if redial.is_alarm() {
                alarms.push(attempt);
            }
            now = then;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30]);
        assert_eq!(alarms, [10]);
    }

    #[test]
    fn who_is_let_in_and_cut_comes_again_soon() {
        let mut redial = Redial::new(Duration::from_secs(100_000));
        let mut wait = |is_let_in| {
            if is_let_in {
                redial.handle_let_in();
            }
            match redial.handle_ended(at(0), Attempt::Cut, false, MIDDLE) {
                Next::DialAt(then) => (then - at(0)).as_secs(),
                Next::GiveUp | Next::Succeed => panic!("gave up"),
            }
        };
        let let_in: Vec<u64> = (0..7).map(|_| wait(true)).collect();
        assert_eq!(let_in, [1, 2, 4, 4, 4, 4, 4]);
        assert_eq!(wait(false), 30);
    }

    #[test]
    fn what_the_peer_has_forgotten_is_not_asked_for() {
        let mut redial = Redial::new(Duration::from_secs(600));
        redial.limit(Duration::from_secs(2));
        redial.limit(Duration::from_secs(20));
        redial.handle_ended(at(0), Attempt::Progressed, false, MIDDLE);
        assert_eq!(redial.give_up_at(), Some(at(2000)));
        let next = redial.handle_ended(at(2000), Attempt::Cut, false, MIDDLE);
        assert_eq!(next, Next::GiveUp);
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        for random in 0..1000 {
            let wait = jittered(Duration::from_secs(10), random);
            assert!((8..=12).contains(&wait.as_secs()), "{wait:?}");
        }
        assert_ne!(
            jittered(Duration::from_secs(10), 1),
            jittered(Duration::from_secs(10), 2)
        );
    }

    #[test]
    fn n12_gives_up_after_resume_for_with_one_last_try() {
        let mut redial = Redial::new(Duration::from_secs(5));
        redial.handle_ended(at(0), Attempt::Progressed, false, MIDDLE);
        let mut now = at(0);
        let mut tries = 0;
        loop {
            match redial.handle_ended(now, Attempt::Cut, false, MIDDLE) {
                Next::DialAt(then) => now = then,
                Next::GiveUp => break,
                Next::Succeed => panic!("a lost session is never success"),
            }
            tries += 1;
        }
        assert_eq!(now, at(5_000));
        assert_eq!(tries, 3);
    }

    #[test]
    fn n12_who_is_attached_and_cut_while_idle_backs_off_and_never_gives_up() {
        let mut redial = Redial::new(Duration::from_secs(600));
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..1_000 {
            let Next::DialAt(then) = redial.handle_ended(now, Attempt::Idle, false, MIDDLE) else {
                panic!("gave up after {now:?}");
            };
            waits.push((then - now).as_secs());
            now = then;
        }
        assert_eq!(
            (waits[..6].to_vec(), waits[999]),
            (vec![1, 2, 4, 8, 16, 30], 30)
        );
        // From the last link on.
        let lost = now;
        redial.handle_ended(now, Attempt::Idle, false, MIDDLE);
        assert_eq!(redial.give_up_at(), Some(lost + Duration::from_secs(600)));
        // Who waits for nothing but a goodbye does not wait for ever.
        let mut now = lost;
        while let Next::DialAt(then) = redial.handle_ended(now, Attempt::Idle, true, MIDDLE) {
            now = then;
        }
        assert_eq!(now, lost + Duration::from_secs(600));
    }

    #[test]
    fn with_the_peers_done_five_seconds_of_refusals_are_success() {
        let mut redial = Redial::new(Duration::from_secs(600));
        let mut now = at(0);
        redial.handle_ended(now, Attempt::Progressed, true, MIDDLE);
        loop {
            match redial.handle_ended(now, Attempt::Refused, true, MIDDLE) {
                Next::DialAt(then) => now = then,
                Next::Succeed => break,
                Next::GiveUp => panic!("gave up"),
            }
        }
        assert_eq!(now, at(5_000));
    }

    #[test]
    fn a_cut_in_between_begins_the_five_seconds_anew() {
        let mut redial = Redial::new(Duration::from_secs(600));
        redial.handle_ended(at(0), Attempt::Progressed, true, MIDDLE);
        redial.handle_ended(at(0), Attempt::Refused, true, MIDDLE);
        redial.handle_ended(at(4_000), Attempt::Cut, true, MIDDLE);
        assert!(matches!(
            redial.handle_ended(at(6_000), Attempt::Refused, true, MIDDLE),
            Next::DialAt(_)
        ));
        assert_eq!(
            redial.handle_ended(at(11_000), Attempt::Refused, true, MIDDLE),
            Next::Succeed
        );
    }
}
