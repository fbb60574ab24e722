//! Finds what was changed, removed, moved or cut in a log, line by line and in little memory.

use std::fmt;
use std::io::{self, BufRead, Read as _};

use crate::line::{Hash, Head, Link};

/// Longer lines are none of ours.
const LINE_MAX: u64 = 4 * 1024 * 1024;
/// Faults that are told, so that a file of another kind does not fill a screen.
const FAULTS_MAX: usize = 20;

/// What is wrong with a log, and where. Lines are counted from 1 over all files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The line is not as it was written.
    Changed {
        /// Which one.
        line: u64,
    },
    /// One of the last two lines is not as it was written; nothing behind them says which.
    ChangedAtEnd {
        /// The first of the two.
        line: u64,
    },
    /// The line is none of an audit log's.
    Foreign {
        /// Which one.
        line: u64,
    },
    /// Records are not there any more.
    Missing {
        /// Before this line.
        line: u64,
        /// The number of the first that is missing.
        from: u64,
        /// And of the last.
        to: u64,
    },
    /// A record stands behind a newer one, or twice.
    Moved {
        /// In this line.
        line: u64,
        /// The number of the record.
        seq: u64,
    },
    /// The end is missing.
    Cut {
        /// The number of the last record that is there.
        last: u64,
        /// And of the newest that was written; `None`: it is not known.
        head: Option<u64>,
    },
    /// The record with the head's number is another one.
    NotTheHead {
        /// Its number.
        seq: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { line } => write!(f, "line {line} was changed"),
            Self::ChangedAtEnd { line } => {
                write!(f, "line {line} or line {} was changed", line + 1)
            }
            Self::Foreign { line } => write!(f, "line {line} is none of an audit log"),
            Self::Missing { line, from, to } if from == to => {
                write!(f, "record {from} is missing before line {line}")
            }
            Self::Missing { line, from, to } => {
                write!(f, "records {from} to {to} are missing before line {line}")
            }
            Self::Moved { line, seq } => {
                write!(
                    f,
                    "line {line} has record {seq}, which does not belong there"
                )
            }
            Self::Cut {
                last,
                head: Some(head),
            } => write!(
                f,
                "the end was cut off: records {} to {head} are missing",
                last + 1
            ),
            Self::Cut { last, head: None } => {
                write!(
                    f,
                    "the end was cut off, or another log was begun: no line is the head, and the last record is {last}"
                )
            }
            Self::NotTheHead { seq } => {
                write!(
                    f,
                    "record {seq} is not the one of the head: the log was written anew"
                )
            }
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Records that were read.
    pub records: u64,
    /// The number of the first; above 1 others came before, which were not looked at.
    pub first: u64,
    /// The newest record: keep it elsewhere, and a cut is seen.
    pub newest: Option<Head>,
    /// Lines that a crash or a full disk cut while they were written, and that is known: nothing that
    /// they would have told of was done.
    pub torn: u64,
    /// Whether the last line is such a one, as after a kill in the middle of a write.
    pub is_torn_at_end: bool,
    /// What is wrong, the first 20.
    pub faults: Vec<Fault>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }
}

/// What the log must contain at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sought {
    hash: Hash,
    /// The number, if it is known.
    seq: Option<u64>,
    is_found: bool,
}

/// A record that was read.
#[derive(Debug, Clone, Copy)]
struct Seen {
    line: u64,
    head: Head,
}

/// Reads logs, the oldest first, and says whether each line is the one that was written. `head`: a line
/// that must be there, by its hash, and its number if that is known.
///
/// # Errors
/// A file cannot be read.
pub fn verify(
    files: impl IntoIterator<Item = impl BufRead>,
    head: Option<(Hash, Option<u64>)>,
) -> io::Result<Report> {
    let mut verifier = Verifier {
        sought: head.map(|(hash, seq)| Sought {
            hash,
            seq,
            is_found: false,
        }),
        ..Verifier::default()
    };
    for mut file in files {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut file).take(LINE_MAX).read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            match line.strip_suffix(b"\n") {
                Some(whole) => verifier.take(whole),
                None => verifier.take_torn(),
            }
        }
    }
    Ok(verifier.end())
}

#[derive(Debug, Default)]
struct Verifier {
    report: Report,
    line: u64,
    /// The newest record that is where it belongs.
    last: Option<Seen>,
    /// The one before it.
    second: Option<Seen>,
    /// A whole line that is no record: the next one may say that it was torn.
    odd: Option<(u64, Hash)>,
    /// A line whose chain does not fit, and whether it or the one before it was changed shows the next.
    unfit: Option<Seen>,
    sought: Option<Sought>,
}

impl Verifier {
    fn take(&mut self, text: &[u8]) {
        self.line += 1;
        let (line, hash) = (self.line, Hash::of(text));
        let Some(link) = Link::read(text) else {
            self.settle_odd();
            self.odd = Some((line, hash));
            return;
        };
        match self.odd.take() {
            Some((_, odd)) if link.torn == Some(odd) => self.report.torn += 1,
            odd => {
                self.odd = odd;
                self.settle_odd();
                self.unsay(&link);
            }
        }
        self.report.is_torn_at_end = false;
        let seen = Seen {
            line,
            head: Head {
                seq: link.seq,
                hash,
            },
        };
        self.seek(&seen);
        self.report.records += 1;
        if let Some(unfit) = self.unfit.take() {
            let is_vouched_for = link.prev == unfit.head.hash;
            self.fault(Fault::Changed {
                line: unfit.line - u64::from(is_vouched_for),
            });
        }
        self.place(&link, seen);
    }

    /// A line that lacked nothing but its newline was none for whoever wrote the next one.
    fn unsay(&mut self, link: &Link) {
        let torn = self.last.filter(|last| link.torn == Some(last.head.hash));
        if torn.is_some()
            && self
                .second
                .is_some_and(|second| second.head.hash == link.prev)
        {
            self.last = self.second;
            self.report.records -= 1;
            self.report.torn += 1;
        }
    }

    /// Sees whether a record is the next one.
    fn place(&mut self, link: &Link, seen: Seen) {
        let Some(last) = self.last else {
            self.report.first = link.seq;
            if link.seq <= 1 && (link.seq == 0 || link.prev != Hash::NONE) {
                self.fault(Fault::Changed { line: seen.line });
            }
            self.last = Some(seen);
            return;
        };
        if link.prev == last.head.hash && link.seq == last.head.seq + 1 {
            self.second = self.last.replace(seen);
            return;
        }
        if link.seq <= last.head.seq {
            // The chain goes on where it was.
            self.fault(Fault::Moved {
                line: seen.line,
                seq: link.seq,
            });
            return;
        }
        if link.seq > last.head.seq + 1 {
            self.fault(Fault::Missing {
                line: seen.line,
                from: last.head.seq + 1,
                to: link.seq - 1,
            });
        } else {
            self.unfit = Some(seen);
        }
        self.second = self.last.replace(seen);
    }

    /// The end of a file that is not the end of a line. Who cuts it off hides nothing: the next record,
    /// or the head, shows what is missing.
    fn take_torn(&mut self) {
        self.settle_odd();
        self.line += 1;
        self.report.torn += 1;
        self.report.is_torn_at_end = true;
    }

    fn settle_odd(&mut self) {
        if let Some((line, _)) = self.odd.take() {
            self.fault(Fault::Foreign { line });
        }
    }

    fn seek(&mut self, seen: &Seen) {
        let Some(sought) = &mut self.sought else {
            return;
        };
        sought.is_found |= sought.hash == seen.head.hash;
        if !sought.is_found && sought.seq == Some(seen.head.seq) {
            let seq = seen.head.seq;
            self.fault(Fault::NotTheHead { seq });
        }
    }

    fn fault(&mut self, fault: Fault) {
        let faults = &self.report.faults;
        if faults.len() < FAULTS_MAX && faults.last() != Some(&fault) {
            self.report.faults.push(fault);
        }
    }

    fn end(mut self) -> Report {
        self.settle_odd();
        if let Some(unfit) = self.unfit.take() {
            let line = unfit.line - 1;
            self.fault(Fault::ChangedAtEnd { line });
        }
        self.report.newest = self.last.map(|last| last.head);
        let last = self.report.newest.map_or(0, |newest| newest.seq);
        if let Some(sought) = self.sought.filter(|sought| !sought.is_found) {
            let is_there = sought.seq.is_some_and(|seq| seq <= last);
            if !is_there {
                self.fault(Fault::Cut {
                    last,
                    head: sought.seq,
                });
            }
        }
        self.report
    }
}

#[cfg(test)]
mod tests;
