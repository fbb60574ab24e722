//! What has been done and what was wrong, as a table.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cut::Fate;
use super::topics::Verdict;

/// Of one life, or of all.
#[derive(Debug, Default, Clone)]
pub(super) struct Sums {
    pub(super) kills_relay: u64,
    pub(super) kills_publish: u64,
    pub(super) kills_subscribe: u64,
    pub(super) cuts: u64,
    pub(super) kept: u64,
    pub(super) dropped: u64,
    pub(super) torn: u64,
    /// ext4 refuses what is left.
    pub(super) unmounted: u64,
    /// The relay does.
    pub(super) unopened: u64,
    /// A command did not end with 0.
    pub(super) failed: u64,
    pub(super) acknowledged: u64,
    pub(super) lost: u64,
    pub(super) twice: u64,
    /// Also what is missing before others.
    pub(super) disordered: u64,
    pub(super) damaged: u64,
    /// By a group.
    pub(super) done: u64,
    pub(super) group_again: u64,
    pub(super) group_missed: u64,
    pub(super) published_again: u64,
    /// Records of the control, and the cuts they were lost in.
    pub(super) control_lost: u64,
    pub(super) control_cuts: u64,
}

impl Sums {
    pub(super) fn add(&mut self, fate: Fate) {
        self.kept += fate.kept;
        self.dropped += fate.dropped;
        self.torn += fate.torn;
    }

    pub(super) fn judged(&mut self, verdict: &Verdict) {
        self.lost += verdict.lost;
        self.twice += verdict.twice;
        self.disordered += verdict.disordered + verdict.gaps;
        self.damaged += verdict.damaged;
    }

    /// What is printed, in its order.
    fn rows(&self) -> [(&'static str, u64); 21] {
        [
            ("kill -9 of the relay", self.kills_relay),
            ("kill -9 of a pub", self.kills_publish),
            ("kill -9 of a group's member", self.kills_subscribe),
            ("power cuts", self.cuts),
            ("unflushed writes kept", self.kept),
            ("  of them torn", self.torn),
            ("unflushed writes dropped", self.dropped),
            ("ext4 does not mount", self.unmounted),
            ("acknowledged records checked", self.acknowledged),
            ("  lost", self.lost),
            ("  twice", self.twice),
            ("  out of order", self.disordered),
            ("  damaged", self.damaged),
            ("records done by the group checked", self.done),
            ("  come again", self.group_again),
            ("  never come", self.group_missed),
            ("bursts published again", self.published_again),
            ("the relay does not start", self.unopened),
            ("a command fails", self.failed),
            ("control: records lost", self.control_lost),
            ("control: cuts that lost some", self.control_cuts),
        ]
    }
}

#[derive(Debug, Default)]
struct State {
    lives: Vec<(&'static str, Sums)>,
    wrongs: u64,
}

/// Filled by all who cut.
#[derive(Debug, Default)]
pub(super) struct Report(Mutex<State>);

impl Report {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is added from now on is of this life.
    pub(super) fn begin(&self, life: &'static str) {
        self.state().lives.push((life, Sums::default()));
    }

    pub(super) fn add(&self, add: impl FnOnce(&mut Sums)) {
        if let Some((_, sums)) = self.state().lives.last_mut() {
            add(sums);
        }
    }

    /// Something is wrong: it is said at once, and the run fails in the end. How many there are.
    pub(super) fn wrong(&self, what: &str) -> u64 {
        eprintln!("WRONG {what}");
        let mut state = self.state();
        state.wrongs += 1;
        state.wrongs
    }

    pub(super) fn unmounted(&self, what: &str) {
        eprintln!("ext4: {what}");
        self.add(|sums| sums.unmounted += 1);
    }

    pub(super) fn wrongs(&self) -> u64 {
        self.state().wrongs
    }

    /// Cuts that were looked at, and those of them in which the control lost anything.
    pub(super) fn control(&self) -> (u64, u64) {
        let state = self.state();
        let sums = state.lives.iter().map(|(_, sums)| sums);
        sums.fold((0, 0), |(looked, lost), sums| {
            let some = sums.cuts - sums.unmounted - sums.unopened;
            (looked + some, lost + sums.control_cuts)
        })
    }

    pub(super) fn table(&self) -> String {
        let state = self.state();
        let mut text = format!("{:<34}", "");
        for (name, _) in &state.lives {
            text += &format!(" {name:>10}");
        }
        text += &format!(" {:>10}\n", "all");
        for (row, (name, _)) in Sums::default().rows().iter().enumerate() {
            text += &format!("{name:<34}");
            let mut all = 0;
            for (_, sums) in &state.lives {
                let (_, value) = sums.rows()[row];
                text += &format!(" {value:>10}");
                all += value;
            }
            text += &format!(" {all:>10}\n");
        }
        text
    }
}
