//! Every way to spoil a log is found, and where.

use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::line::written;

/// The lines of a log of so many records, with their newlines.
fn log(records: u64) -> (Vec<Vec<u8>>, Vec<Head>) {
    let mut newest = Head::NONE;
    let mut lines = Vec::new();
    let mut heads = Vec::new();
    for n in 0..records {
        let event = Map::from_iter([("n".to_owned(), json!(n))]);
        let (head, line) = written(newest, "2026-01-01T00:00:00Z", &event);
        newest = head;
        heads.push(head);
        lines.push(line);
    }
    (lines, heads)
}

fn report(lines: &[Vec<u8>], head: Option<Head>) -> Report {
    let file = lines.concat();
    let head = head.map(|head| (head.hash, Some(head.seq)));
    verify([file.as_slice()], head).expect("memory")
}

fn changed(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(line.to_vec()).expect("UTF-8");
    text.replace("\"n\":", "\"m\":").into_bytes()
}

#[test]
fn a_log_as_it_was_written_is_good() {
    let (lines, heads) = log(5);
    let report = report(&lines, heads.last().copied());
    assert!(report.is_good(), "{report:?}");
    assert_eq!((report.records, report.first), (5, 1));
    assert_eq!(report.newest, heads.last().copied());
}

#[test]
fn a_changed_line_is_named() {
    for at in 0..5_usize {
        let (mut lines, heads) = log(5);
        lines[at] = changed(&lines[at]);
        let line = at as u64 + 1;
        let found = report(&lines, heads.last().copied()).faults;
        let wanted = match at {
            3 => vec![Fault::ChangedAtEnd { line: 4 }],
            // Nothing stands behind it but the head.
            4 => vec![Fault::NotTheHead { seq: 5 }],
            _ => vec![Fault::Changed { line }],
        };
        assert_eq!(found, wanted, "line {line}");
    }
}

#[test]
fn removed_lines_are_named() {
    let (mut lines, heads) = log(6);
    lines.drain(1..3);
    let missing = Fault::Missing {
        line: 2,
        from: 2,
        to: 3,
    };
    assert_eq!(report(&lines, heads.last().copied()).faults, [missing]);
    let (lines, heads) = log(6);
    let cut = Fault::Cut {
        last: 4,
        head: Some(6),
    };
    assert_eq!(report(&lines[..4], heads.last().copied()).faults, [cut]);
    // Without a head that cannot be seen, and the beginning may be in another file.
    assert!(report(&lines[..4], None).is_good());
    assert_eq!(report(&lines[2..], None).first, 3);
}

#[test]
fn lines_that_were_swapped_or_doubled_are_named() {
    let (mut lines, heads) = log(5);
    lines.swap(1, 2);
    let missing = Fault::Missing {
        line: 2,
        from: 2,
        to: 2,
    };
    let moved = Fault::Moved { line: 3, seq: 2 };
    assert_eq!(
        report(&lines, heads.last().copied()).faults,
        [missing, moved]
    );
    let (mut lines, heads) = log(5);
    lines.insert(2, lines[1].clone());
    let moved = Fault::Moved { line: 3, seq: 2 };
    assert_eq!(report(&lines, heads.last().copied()).faults, [moved]);
}

#[test]
fn a_line_of_something_else_is_named() {
    let (mut lines, heads) = log(4);
    lines.insert(2, b"# a remark\n".to_vec());
    let foreign = Fault::Foreign { line: 3 };
    assert_eq!(report(&lines, heads.last().copied()).faults, [foreign]);
}

#[test]
fn a_log_that_was_written_anew_is_not_the_one_of_the_head() {
    let (_, heads) = log(4);
    let event = Map::from_iter([("other".to_owned(), json!(true))]);
    let mut newest = Head::NONE;
    let mut lines = Vec::new();
    for _ in 0..5 {
        let (head, line) = written(newest, "2026-01-01T00:00:00Z", &event);
        newest = head;
        lines.push(line);
    }
    let found = report(&lines, heads.last().copied()).faults;
    assert_eq!(found, [Fault::NotTheHead { seq: 4 }]);
}

proptest! {
    #[test]
    fn no_change_of_a_byte_goes_unnoticed(at in any::<prop::sample::Index>(), xor in 1..=255_u8) {
        let (lines, heads) = log(6);
        let mut file = lines.concat();
        let at = at.index(file.len());
        file[at] ^= xor;
        let head = heads.last().map(|head| (head.hash, Some(head.seq)));
        let report = verify([file.as_slice()], head).expect("memory");
        // Of the last newline nothing depends: the record before it is whole.
        let is_seen = !report.is_good() || report.is_torn_at_end || at + 1 == file.len();
        prop_assert!(is_seen, "{at} {report:?}");
    }

    #[test]
    fn anything_can_be_looked_at(files in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..3)) {
        let _ = verify(files.iter().map(Vec::as_slice), None).expect("memory");
    }
}
