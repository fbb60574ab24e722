//! What has been done and what was wrong: counted by workload, printed as a table.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// How a run ended that was not wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All bytes, and the status that was wanted.
    Whole,
    /// A part of the bytes and a status that says so: something was killed that it could not outlive, or the
    /// agent was away when it was asked.
    Harmed,
}

#[derive(Debug, Default)]
struct Row {
    runs: u64,
    harmed: u64,
    bytes: u64,
    wrong: u64,
    exits: BTreeMap<i32, u64>,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<&'static str, Row>,
    /// Of proxies that are no more, by workload.
    cuts: BTreeMap<&'static str, (u64, u64)>,
    wrongs: Vec<String>,
}

/// Filled by all workloads at once.
#[derive(Debug, Default)]
pub(crate) struct Report(Mutex<State>);

impl Report {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn exit(&self, work: &'static str, exit: i32) {
        *self
            .state()
            .rows
            .entry(work)
            .or_default()
            .exits
            .entry(exit)
            .or_default() += 1;
    }

    pub(crate) fn bytes(&self, work: &'static str, bytes: u64) {
        self.state().rows.entry(work).or_default().bytes += bytes;
    }

    pub(crate) fn run(&self, work: &'static str, outcome: Outcome) {
        let mut state = self.state();
        let row = state.rows.entry(work).or_default();
        row.runs += 1;
        row.harmed += u64::from(outcome == Outcome::Harmed);
    }

    /// Something is wrong: it is said at once, and the soak fails in the end.
    pub(crate) fn wrong(&self, work: &'static str, what: &str) {
        eprintln!("WRONG {work}: {what}");
        let mut state = self.state();
        state.rows.entry(work).or_default().wrong += 1;
        state.wrongs.push(format!("{work}: {what}"));
    }

    /// All cuts, and those with bytes in flight, of a proxy that is gone.
    pub(crate) fn cuts(&self, work: &'static str, cuts: u64, in_flight: u64) {
        let mut state = self.state();
        let entry = state.cuts.entry(work).or_default();
        entry.0 += cuts;
        entry.1 += in_flight;
    }

    pub(crate) fn wrongs(&self) -> usize {
        self.state().wrongs.len()
    }

    /// Runs, bytes, cuts with bytes in flight of the proxies that are gone.
    pub(crate) fn sums(&self) -> (u64, u64, u64) {
        let state = self.state();
        let rows = state.rows.values();
        let (runs, bytes) = rows.fold((0, 0), |(runs, bytes), row| {
            (runs + row.runs, bytes + row.bytes)
        });
        (
            runs,
            bytes,
            state.cuts.values().map(|(_, in_flight)| in_flight).sum(),
        )
    }

    pub(crate) fn table(&self) -> String {
        let state = self.state();
        let mut text = format!(
            "{:<9} {:>7} {:>7} {:>10} {:>9} {:>9} {:>6}  exit statuses\n",
            "workload", "runs", "harmed", "MiB", "cuts", "in flight", "wrong"
        );
        let (mut runs, mut bytes, mut all, mut flying) = (0, 0, 0, 0);
        let names: std::collections::BTreeSet<_> =
            state.rows.keys().chain(state.cuts.keys()).collect();
        for name in names {
            let empty = Row::default();
            let row = state.rows.get(*name).unwrap_or(&empty);
            let (cuts, in_flight) = state.cuts.get(*name).copied().unwrap_or_default();
            let exits: Vec<_> = row
                .exits
                .iter()
                .map(|(exit, times)| format!("{exit} x {times}"))
                .collect();
            text += &format!(
                "{name:<9} {:>7} {:>7} {:>10.1} {cuts:>9} {in_flight:>9} {:>6}  {}\n",
                row.runs,
                row.harmed,
                row.bytes as f64 / f64::from(1 << 20),
                row.wrong,
                exits.join(", ")
            );
            (runs, bytes, all, flying) = (
                runs + row.runs,
                bytes + row.bytes,
                all + cuts,
                flying + in_flight,
            );
        }
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        text += &format!(
            "{:<9} {runs:>7} {:>7} {mebibytes:>10.1} {all:>9} {flying:>9} {:>6}\n",
            "all",
            "",
            state.wrongs.len()
        );
        for wrong in &state.wrongs {
            text += &format!("WRONG {wrong}\n");
        }
        text
    }
}
