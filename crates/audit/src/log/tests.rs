//! Logs that are opened again: after an end in order, after a crash, after they were moved away.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::verify::verify;

struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn options(&self) -> AuditOptions {
        AuditOptions {
            file: self.path("audit"),
            head: Some(self.path("head")),
            sync: false,
        }
    }

    fn open(&self) -> AuditLog {
        AuditLog::open(self.options()).expect("it opens")
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).expect("a file");
        let line = |line: &str| serde_json::from_str(line).expect("JSON");
        text.lines().map(line).collect()
    }

    fn report(&self, names: &[&str]) -> crate::Report {
        let files = names
            .iter()
            .map(|name| fs::read(self.path(name)).expect("a file"));
        let files: Vec<_> = files.collect();
        let head: Head = fs::read_to_string(self.path("head"))
            .expect("a head")
            .parse()
            .expect("it names a line");
        verify(
            files.iter().map(Vec::as_slice),
            Some((head.hash, Some(head.seq))),
        )
        .expect("memory")
    }
}

fn event(n: u64) -> Value {
    json!({"event": "test", "n": n})
}

#[test]
fn a_log_that_is_opened_again_goes_on() {
    let desk = Desk::new();
    for n in 0..3 {
        let log = desk.open();
        log.append(event(n)).expect("room");
        log.append(event(n)).expect("room");
        assert_eq!(log.head().seq, 2 * n + 2);
    }
    let report = desk.report(&["audit"]);
    assert!(report.is_good(), "{report:?}");
    assert_eq!((report.records, report.first, report.torn), (6, 1, 0));
    assert_eq!(desk.lines("audit")[5]["n"], 2);
}

#[test]
fn two_processes_do_not_write_one_log() {
    let desk = Desk::new();
    let _first = desk.open();
    let second = AuditLog::open(desk.options());
    assert!(matches!(second, Err(OpenError::InUse(_))), "{second:?}");
}

#[test]
fn what_a_crash_cut_is_told_from_tampering_at_every_byte() {
    let desk = Desk::new();
    let log = desk.open();
    (0..2).for_each(|n| log.append(event(n)).expect("room"));
    let whole = fs::read(desk.path("audit")).expect("a file");
    let head = fs::read(desk.path("head")).expect("a head");
    log.append(event(2)).expect("room");
    drop(log);
    let longer = fs::read(desk.path("audit")).expect("a file");
    for cut in whole.len() + 1..longer.len() {
        fs::write(desk.path("audit"), &longer[..cut]).expect("a file");
        fs::write(desk.path("head"), &head).expect("a file");
        let report = desk.report(&["audit"]);
        assert!(
            report.is_good() && report.is_torn_at_end,
            "{cut}: {report:?}"
        );
        let log = desk.open();
        (3..5).for_each(|n| log.append(event(n)).expect("room"));
        let report = desk.report(&["audit"]);
        assert!(report.is_good(), "{cut}: {report:?}");
        assert_eq!((report.records, report.torn), (4, 1), "{cut}");
        assert!(!report.is_torn_at_end, "{cut}");
    }
}

#[test]
fn a_log_that_was_moved_away_goes_on_in_a_new_file() {
    let desk = Desk::new();
    let log = desk.open();
    log.append(event(0)).expect("room");
    log.reopen().expect("nothing was moved");
    fs::rename(desk.path("audit"), desk.path("audit.1")).expect("moved");
    log.append(event(1)).expect("it goes where it went");
    log.reopen().expect("a new file");
    log.append(event(2)).expect("room");
    assert_eq!(desk.lines("audit.1").len(), 2);
    assert_eq!(desk.lines("audit").len(), 1);
    drop(log);
    // And the same while no process runs: the head knows where it was.
    fs::rename(desk.path("audit"), desk.path("audit.2")).expect("moved");
    let log = desk.open();
    log.append(event(3)).expect("room");
    let report = desk.report(&["audit.1", "audit.2", "audit"]);
    assert!(report.is_good(), "{report:?}");
    assert_eq!(report.records, 4);
    assert!(!desk.report(&["audit.1", "audit"]).is_good());
}

#[test]
fn a_log_whose_end_is_gone_is_not_gone_on_with() {
    let desk = Desk::new();
    let log = desk.open();
    (0..3).for_each(|n| log.append(event(n)).expect("room"));
    drop(log);
    let text = fs::read_to_string(desk.path("audit")).expect("a file");
    let two: String = text.split_inclusive('\n').take(2).collect();
    fs::write(desk.path("audit"), two).expect("a file");
    let opened = AuditLog::open(desk.options());
    assert!(matches!(opened, Err(OpenError::Cut { .. })), "{opened:?}");
    fs::write(desk.path("audit"), "something else\n").expect("a file");
    let opened = AuditLog::open(desk.options());
    assert!(matches!(opened, Err(OpenError::Foreign(_))), "{opened:?}");
}
