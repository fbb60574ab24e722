//! The result: two tables and a paragraph for people, one JSON object for programs.

use std::fmt;

use serde_json::{Value, json};

use crate::channel::{Capacity, Channel, Kind};
use crate::lessons::{Lessons, PLAIN};
use crate::measure::{BATCHES, CHANNELS, COMPARED, Plan, Row, best_batch};
use crate::mechanism::{ALL, BASE};
use crate::stats::{Change, median};

/// Everything that was measured. Displayed as tables.
#[derive(Debug)]
pub struct Report {
    pub(crate) plan: Plan,
    /// The share of the machine that other programs used, if it is known.
    pub(crate) others: Option<f64>,
    /// Blocking calls of every batch size.
    pub(crate) batches: Vec<Row>,
    /// Every mechanism at the best batch of its pipe.
    pub(crate) mechanisms: Vec<Row>,
    pub(crate) lessons: Lessons,
}

/// From this share of the machine on, others decide what the figures are.
const BUSY: f64 = 0.1;

/// Room for a line of the paragraph.
const WIDTH: usize = 80;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Local pipes between two threads of this process: {} a run, medians of {} rounds.",
            bytes(self.plan.size),
            self.plan.rounds
        )?;
        writeln!(f, "{} They run {}.", machine(), self.plan.placement)?;
        writeln!(
            f,
            "\nBlocking write and read, GB/s, and % more than with calls of 4 KiB:\n"
        )?;
        write!(f, "  {:12}", "bytes a call")?;
        for channel in CHANNELS {
            write!(f, "{:>22}", title(channel))?;
        }
        writeln!(f)?;
        for batch in BATCHES {
            write!(f, "  {:12}", bytes(batch as u64))?;
            for channel in CHANNELS {
                write!(f, "{:>22}", self.batch_cell(channel, batch))?;
            }
            writeln!(f)?;
        }

        writeln!(
            f,
            "\nMechanisms at the best batch, GB/s, % more than write and read, CPU s/GiB of both sides:\n"
        )?;
        write!(f, "  {:24}", "")?;
        for channel in COMPARED {
            write!(f, "{:>28}", self.compared_title(channel))?;
        }
        writeln!(f)?;
        for mechanism in ALL {
            write!(f, "  {:24}", mechanism.name())?;
            for channel in COMPARED {
                write!(f, "{:>28}", self.mechanism_cell(channel, mechanism.name()))?;
            }
            writeln!(f)?;
        }

        for row in self.rows() {
            if let Err(error) = &row.samples {
                let (name, title) = (row.setup.mechanism.name(), title(row.setup.channel));
                let batch = bytes(row.setup.batch as u64);
                writeln!(f, "\nfailed: {name}, {title}, {batch} a call: {error}")?;
            }
        }
        let text = self.lessons.text();
        if !text.is_empty() {
            writeln!(f, "\n{}", wrapped(&text))?;
        }
        writeln!(f, "\n{}", wrapped(&self.worth()))?;
        Ok(())
    }
}

impl Report {
    /// Every figure of every round.
    pub fn to_json(&self) -> Value {
        let batches: Vec<Value> = self.batches.iter().map(Row::to_json).collect();
        let mechanisms: Vec<Value> = self.mechanisms.iter().map(Row::to_json).collect();
        json!({
            "bench": "pipe",
            "machine": machine(),
            "placement": self.plan.placement.to_string(),
            "others_percent": self.others.map(|share| share * 100.0),
            "rounds": self.plan.rounds,
            "size_bytes": self.plan.size,
            "batches": batches,
            "mechanisms": mechanisms,
            "lessons": self.lessons.to_json(),
        })
    }

    /// Whether any row failed.
    pub fn has_failures(&self) -> bool {
        self.rows().any(|row| row.samples.is_err())
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.batches.iter().chain(&self.mechanisms)
    }

    fn batch_cell(&self, channel: Channel, batch: usize) -> String {
        let find = |batch| {
            self.batches
                .iter()
                .find(|row| row.setup.channel == channel && row.setup.batch == batch)
        };
        let plain = if batch == PLAIN { None } else { find(PLAIN) };
        find(batch).map_or_else(String::new, |row| cell(row, plain))
    }

    fn mechanism_cell(&self, channel: Channel, name: &str) -> String {
        let find = |name| {
            let is_it =
                |row: &&Row| row.setup.channel == channel && row.setup.mechanism.name() == name;
            self.mechanisms.iter().find(is_it)
        };
        let base = if name == BASE.name() {
            None
        } else {
            find(BASE.name())
        };
        let Some(row) = find(name) else {
            return String::new();
        };
        let cpu = row
            .cpu_per_gib()
            .map_or_else(String::new, |cpu| format!("{cpu:7.2}"));
        cell(row, base) + &cpu
    }

    fn compared_title(&self, channel: Channel) -> String {
        let batch = best_batch(&self.batches, channel);
        batch.map_or_else(
            || title(channel),
            |batch| format!("{}, {}", title(channel), bytes(batch as u64)),
        )
    }

    /// How far the figures can be trusted.
    fn worth(&self) -> String {
        let mut said = vec!["The best batch is the smallest within 5 % of the fastest.".to_owned()];
        if let Some(spread) = self.spread() {
            said.push(format!(
                "From round to round a figure moved by {:.0} % (median); a difference is clear if every \
                 round has it and it is 5 % or more.",
                spread * 100.0
            ));
        }
        if let Some(others) = self.others {
            let advice = if others > BUSY {
                ": measure again when it is quiet"
            } else {
                ""
            };
            said.push(format!(
                "Other programs used {:.0} % of the machine meanwhile{advice}.",
                others * 100.0
            ));
        }
        said.join(" ")
    }

    /// How far apart the rounds of a row are, of its median; the median of all rows.
    fn spread(&self) -> Option<f64> {
        let spread = |row: &Row| {
            let rates = row.rates();
            let most = rates.iter().copied().max_by(f64::total_cmp)?;
            let least = rates.iter().copied().min_by(f64::total_cmp)?;
            Some((most - least) / row.rate()?)
        };
        let all: Vec<f64> = self.rows().filter_map(spread).collect();
        median(&all).filter(|_| self.plan.rounds > 1)
    }
}

impl Row {
    fn to_json(&self) -> Value {
        json!({
            "mechanism": self.setup.mechanism.name(),
            "channel": channel_name(self.setup.channel),
            "capacity_bytes": self.setup.channel.capacity_bytes().ok(),
            "batch_bytes": self.setup.batch,
            "gb_per_s": self.rate(),
            "gb_per_s_rounds": self.rates(),
            "cpu_s_per_gib": self.cpu_per_gib(),
            "failure": self.samples.as_ref().err().map(ToString::to_string),
        })
    }
}

/// `1.23  +45 %`
fn cell(row: &Row, base: Option<&Row>) -> String {
    let Some(rate) = row.rate() else {
        return "failed".to_owned();
    };
    let change = base.and_then(|base| Change::between(&row.rates(), &base.rates()));
    let gain = change.map_or_else(String::new, |change| format!("{:+.0} %", change.percent()));
    format!("{rate:.2}{gain:>8}")
}

/// A head of a column: what it is and what fits in.
fn title(channel: Channel) -> String {
    let kind = match channel.kind {
        Kind::Pipe => "pipe",
        Kind::Fifo => "FIFO",
    };
    let capacity = channel.capacity_bytes();
    capacity.map_or_else(
        |_| kind.to_owned(),
        |capacity| format!("{kind} {}", bytes(capacity as u64)),
    )
}

/// The same on every machine.
pub(crate) fn channel_name(channel: Channel) -> &'static str {
    match (channel.kind, channel.capacity) {
        (Kind::Pipe, Capacity::Default) => "pipe, default",
        (Kind::Pipe, Capacity::Large) => "pipe, 1 MiB",
        (Kind::Fifo, Capacity::Default) => "FIFO, default",
        (Kind::Fifo, Capacity::Large) => "FIFO, 1 MiB",
    }
}

/// `64 KiB`; in the largest unit that leaves no rest.
pub(crate) fn bytes(number: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = units
        .iter()
        .find(|(shift, _)| number >= 1 << shift && number.is_multiple_of(1 << shift));
    fits.map_or_else(
        || format!("{number} B"),
        |(shift, unit)| format!("{} {unit}", number >> shift),
    )
}

fn machine() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("Linux {}, {cpus} CPUs.", release.trim())
}

/// Lines of at most [`WIDTH`] characters, broken at spaces.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let len = word.chars().count();
        if used > 0 && used + 1 + len > WIDTH {
            lines.push('\n');
            used = 0;
        } else if used > 0 {
            lines.push(' ');
            used += 1;
        }
        lines.push_str(word);
        used += len;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::tests::{PLAN, failed, row};
    use crate::measure::{LARGE_PIPE, PIPE};

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        for (number, text) in [
            (512, "512 B"),
            (1024, "1 KiB"),
            (1 << 20, "1 MiB"),
            (3 << 30, "3 GiB"),
            (1025, "1025 B"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn lines_are_broken_at_spaces() {
        let text = wrapped(&"seven77 ".repeat(30));
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert_eq!(text.split_whitespace().count(), 30);
    }

    #[test]
    fn a_failed_row_says_why_and_has_no_figure() {
        let batches = vec![
            row(BASE, PIPE, 4096, &[1.0]),
            row(BASE, PIPE, 65_536, &[1.4]),
            failed(BASE, LARGE_PIPE, 4096),
        ];
        let report = Report {
            plan: PLAN,
            others: Some(0.5),
            lessons: Lessons::of(&batches, &[]),
            batches,
            mechanisms: Vec::new(),
        };
        assert!(report.has_failures());
        assert!(report.worth().contains("used 50 % of the machine"));
        let text = report.to_string();
        let line = |begin: &str| {
            let line = text
                .lines()
                .find(|line| line.trim_start().starts_with(begin));
            line.unwrap_or_else(|| panic!("no {begin} in:\n{text}"))
                .split_whitespace()
                .collect::<Vec<_>>()
        };
        assert_eq!(line("4 KiB"), ["4", "KiB", "1.00", "failed"]);
        assert_eq!(line("64 KiB"), ["64", "KiB", "1.40", "+40", "%"]);
        assert!(
            text.contains("4 KiB a call: byte 7 is not the one that was sent"),
            "{text}"
        );
        let json = report.to_json();
        assert_eq!(json["batches"][2]["gb_per_s"], Value::Null);
        assert_eq!(
            json["batches"][2]["failure"],
            json!("byte 7 is not the one that was sent")
        );
    }
}
