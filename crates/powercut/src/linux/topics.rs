//! The topics of a life: what their lines are, who has published how many of them when, and what is wrong with what
//! is read of them.

use super::draw::{Draw, mix};

/// A topic and how it is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Topic {
    pub(super) name: &'static str,
    pub(super) partitions: &'static str,
    pub(super) durability: &'static str,
    /// So many keys share its lines.
    keys: u64,
    /// It has one producer, who is given the whole input again each time; else each burst is a producer of its own.
    pub(super) is_grown: bool,
    /// At most so many lines are published at once.
    pub(super) burst: u64,
}

const fn topic(name: &'static str, partitions: &'static str, keys: u64) -> Topic {
    Topic {
        name,
        partitions,
        durability: "disk",
        keys,
        is_grown: false,
        burst: 2_000,
    }
}

/// The topic that is read by a group, too.
pub(super) const SHARED: usize = 3;
/// The one that must lose records.
pub(super) const CONTROL: usize = 4;

pub(super) const TOPICS: [Topic; 5] = [
    topic("plain", "1", 1),
    topic("keyed", "3", 8),
    Topic {
        is_grown: true,
        burst: 200,
        ..topic("grown", "2", 4)
    },
    topic("shared", "3", 8),
    Topic {
        durability: "os",
        ..topic("control", "1", 1)
    },
];

impl Topic {
    fn chance(&self, line: u64) -> Draw {
        let name = self
            .name
            .bytes()
            .fold(0, |sum, byte| mix(sum ^ u64::from(byte)));
        Draw::new(name, line)
    }

    fn key(&self, line: u64) -> u64 {
        self.chance(line).below(self.keys)
    }

    /// This line, with its end. Its length and its content follow from its number.
    pub(super) fn line(&self, line: u64) -> String {
        let mut draw = self.chance(line);
        let key = draw.below(self.keys);
        let words = match draw.below(200) {
            0 => draw.below(300),
            _ => draw.below(5),
        };
        let mut text = format!("key{key}\t{line}");
        for _ in 0..words {
            text += &format!(" {:016x}", draw.below(u64::MAX));
        }
        text.push('\n');
        text
    }

    pub(super) fn lines(&self, lines: std::ops::Range<u64>) -> String {
        lines.map(|line| self.line(line)).collect()
    }

    /// What is wrong with these lines, of which the first `acknowledged` have to be there, and beyond `end` none. Lines of a
    /// key come in their order.
    pub(super) fn judge(&self, output: &[u8], acknowledged: u64, end: u64) -> Verdict {
        let mut verdict = Verdict::default();
        let mut seen = vec![false; usize::try_from(end).unwrap_or(0)];
        let mut last = vec![None; usize::try_from(self.keys).unwrap_or(0)];
        for text in output.split_inclusive(|byte| *byte == b'\n') {
            let number = number(text).filter(|line| *line < end);
            let Some(line) = number.filter(|line| self.line(*line).as_bytes() == text) else {
                verdict.damaged += 1;
                continue;
            };
            let last = &mut last[self.key(line) as usize];
            let seen = &mut seen[line as usize];
            if *seen {
                verdict.twice += 1;
            } else if last.is_some_and(|last| last > line) {
                verdict.disordered += 1;
            }
            *seen = true;
            *last = Some(line).max(*last);
        }
        // A prefix of each key's lines, so that one that is missing before another is as wrong as one that was
        // acknowledged.
        for (line, is_seen) in (0..).zip(&seen) {
            if *is_seen {
                verdict.lines.push(line);
            } else if line < acknowledged {
                verdict.lost += 1;
            } else if last[self.key(line) as usize].is_some_and(|last| last > line) {
                verdict.gaps += 1;
            }
        }
        verdict
    }
}

/// The number of a line that was read.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('\n')?;
    let (_, value) = text.split_once('\t')?;
    value.split(' ').next()?.parse().ok()
}

/// What was read, and what is wrong with it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// What is there.
    pub(super) lines: Vec<u64>,
    pub(super) lost: u64,
    pub(super) twice: u64,
    pub(super) disordered: u64,
    /// Missing, not acknowledged, and before others that are there.
    pub(super) gaps: u64,
    pub(super) damaged: u64,
}

impl Verdict {
    pub(super) fn is_good(&self) -> bool {
        self.lost + self.twice + self.disordered + self.gaps + self.damaged == 0
    }
}

/// Lines that one `pub` was given.
#[derive(Debug, Clone)]
pub(super) struct Burst {
    pub(super) producer: String,
    /// What it sends.
    pub(super) lines: std::ops::Range<u64>,
    /// The journal when it was started first.
    pub(super) started: usize,
    /// The journal when it had ended with 0.
    pub(super) acknowledged: Option<usize>,
}

/// What was published, in order: no burst begins before the one before it has ended well.
#[derive(Debug, Default)]
pub(super) struct Ledger(pub(super) Vec<Burst>);

impl Ledger {
    /// How many lines have to be there after a cut at this place of the journal.
    pub(super) fn acknowledged(&self, at: usize) -> u64 {
        let known = |burst: &&Burst| burst.acknowledged.is_some_and(|noted| noted <= at);
        self.0
            .iter()
            .rfind(known)
            .map_or(0, |burst| burst.lines.end)
    }

    /// Those that had begun.
    pub(super) fn begun(&self, at: usize) -> &[Burst] {
        let end = self.0.partition_point(|burst| burst.started <= at);
        &self.0[..end]
    }

    /// How many lines can be there.
    pub(super) fn end(&self, at: usize) -> u64 {
        self.begun(at).last().map_or(0, |burst| burst.lines.end)
    }
}

/// One run of a group's member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) started: usize,
    /// The journal when it had ended with 0.
    pub(super) acknowledged: Option<usize>,
    /// What it wrote.
    pub(super) lines: Vec<u64>,
}

/// The numbers of the whole lines of an output.
pub(super) fn numbers(output: &[u8]) -> Vec<u64> {
    output
        .split_inclusive(|byte| *byte == b'\n')
        .filter_map(number)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYED: Topic = TOPICS[1];

    fn bytes(lines: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let lines = lines.into_iter().map(|line| KEYED.line(line));
        lines.collect::<String>().into_bytes()
    }

    #[test]
    fn all_lines_once_in_order_are_good() {
        let verdict = KEYED.judge(&bytes(0..500), 400, 500);
        assert!(verdict.is_good(), "{verdict:?}");
        assert_eq!(verdict.lines.len(), 500);
    }

    #[test]
    fn each_wrong_is_told_from_the_others() {
        let lost = KEYED.judge(&bytes(0..399), 400, 500);
        assert_eq!((lost.lost, lost.is_good()), (1, false));
        let twice = KEYED.judge(&bytes((0..400).chain(7..9)), 400, 500);
        assert_eq!((twice.twice, twice.lost), (2, 0));
        let other = KEYED.judge(&bytes((0..500).rev()), 500, 500);
        assert!(other.disordered > 400 && other.twice + other.lost == 0);
        let gap = KEYED.judge(&bytes((0..410).chain(411..500)), 400, 500);
        assert_eq!((gap.gaps, gap.lost), (1, 0));
        let mut bent = bytes(0..400);
        bent[5_000] ^= 1;
        let damaged = KEYED.judge(&bent, 400, 500);
        assert_eq!((damaged.damaged, damaged.lost), (1, 1));
        let beyond = KEYED.judge(&bytes(0..500), 400, 499);
        assert_eq!(beyond.damaged, 1);
    }

    #[test]
    fn what_has_to_be_there_follows_from_the_journal() {
        let burst = |lines, started, acknowledged| Burst {
            producer: String::new(),
            lines,
            started,
            acknowledged,
        };
        let ledger = Ledger(vec![burst(0..10, 3, Some(9)), burst(10..30, 9, None)]);
        let at = |at| (ledger.acknowledged(at), ledger.end(at));
        assert_eq!(
            [at(2), at(3), at(8), at(9)],
            [(0, 0), (0, 10), (0, 10), (10, 30)]
        );
    }
}
