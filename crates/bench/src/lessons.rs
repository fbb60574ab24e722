//! What the figures say, computed from them: in words for people, in fields for programs.

use serde_json::{Map, Value, json};

use crate::channel::{Capacity, Channel};
use crate::measure::{FIFO, LARGE_PIPE, PIPE, Row, best_batch};
use crate::mechanism::{BASE, EDGE, LEVEL, Mechanism, RING, SPLICE, VMSPLICE};
use crate::report::{bytes, channel_name};
use crate::stats::Change;

/// What batches are compared with: a page, and what many programs write.
pub(crate) const PLAIN: usize = 4 << 10;

/// What programs use that want to be fast, farpipe among them.
const GENEROUS: usize = 256 << 10;

/// All lessons that the figures give; a part that failed gives none.
#[derive(Debug)]
pub(crate) struct Lessons {
    pub(crate) batching: Vec<Batching>,
    /// The pipe of 1 MiB against the default one, each at its best batch.
    pub(crate) growing: Option<Change>,
    /// The same with calls of [`GENEROUS`] bytes in both.
    pub(crate) growing_for_generous: Option<Change>,
    /// A FIFO against a pipe at the pipe's best batch.
    pub(crate) naming: Option<Change>,
    pub(crate) mechanisms: Vec<Comparison>,
}

/// What larger calls bring in one kind of pipe.
#[derive(Debug)]
pub(crate) struct Batching {
    pub(crate) channel: Channel,
    pub(crate) best: usize,
    pub(crate) rate: f64,
    /// Against calls of [`PLAIN`] bytes.
    pub(crate) gain: Change,
}

/// One way against another, in one kind of pipe.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) key: &'static str,
    pub(crate) subject: &'static str,
    pub(crate) other: &'static str,
    pub(crate) channel: Channel,
    pub(crate) change: Change,
    /// CPU time of the one, of the other's.
    pub(crate) cpu: f64,
}

/// The comparisons that answer a question, in the order of the paragraph.
type Question = (
    &'static str,
    &'static dyn Mechanism,
    &'static str,
    &'static dyn Mechanism,
    &'static str,
);
const QUESTIONS: [Question; 5] = [
    (
        "level_over_blocking",
        LEVEL,
        "level-triggered epoll",
        BASE,
        "blocking calls",
    ),
    (
        "edge_over_level",
        EDGE,
        "edge-triggered epoll",
        LEVEL,
        "level-triggered",
    ),
    (
        "vmsplice_over_write",
        VMSPLICE,
        "sending with vmsplice (one copy less)",
        BASE,
        "write",
    ),
    (
        "splice_over_write",
        SPLICE,
        "splice to /dev/null (no copy, nobody sees a byte)",
        BASE,
        "write and read",
    ),
    (
        "ring_over_write",
        RING,
        "a ring in shared memory",
        BASE,
        "write and read",
    ),
];

impl Lessons {
    pub(crate) fn of(batches: &[Row], mechanisms: &[Row]) -> Self {
        let best = |channel| {
            let batch = best_batch(batches, channel)?;
            batches
                .iter()
                .find(|row| row.setup.channel == channel && row.setup.batch == batch)
        };
        let at = |channel, batch| {
            batches
                .iter()
                .find(|row| row.setup.channel == channel && row.setup.batch == batch)
        };
        let (small, large) = (best(PIPE), best(LARGE_PIPE));
        Self {
            batching: [PIPE, LARGE_PIPE, FIFO]
                .into_iter()
                .filter_map(|channel| Batching::of(best(channel)?, at(channel, PLAIN)?))
                .collect(),
            growing: large.and_then(|large| change(large, small?)),
            growing_for_generous: at(LARGE_PIPE, GENEROUS)
                .and_then(|large| change(large, at(PIPE, GENEROUS)?)),
            naming: small.and_then(|small| change(at(FIFO, small.setup.batch)?, small)),
            mechanisms: [PIPE, LARGE_PIPE]
                .into_iter()
                .flat_map(|channel| {
                    QUESTIONS
                        .iter()
                        .filter_map(move |question| Comparison::of(question, channel, mechanisms))
                })
                .collect(),
        }
    }

    /// One paragraph.
    pub(crate) fn text(&self) -> String {
        let mut said: Vec<String> = self.batching.iter().map(Batching::text).collect();
        if let Some(change) = self.growing {
            let what = faster(change, "the default one");
            said.push(format!("At its best batch the pipe of 1 MiB is {what}."));
        }
        if let Some(change) = self.growing_for_generous {
            let what = faster(change, "the default one");
            said.push(format!("With calls of 256 KiB it is {what}."));
        }
        if let Some(change) = self.naming {
            said.push(format!("A FIFO is {}.", faster(change, "a pipe")));
        }
        // The large pipe is what one asks for who wants speed; the table has both.
        let channel = if self.mechanisms.iter().any(|one| one.channel == LARGE_PIPE) {
            LARGE_PIPE
        } else {
            PIPE
        };
        let mut place = match channel.capacity {
            Capacity::Large => "In the pipe of 1 MiB ",
            Capacity::Default => "In the default pipe ",
        };
        for one in self.mechanisms.iter().filter(|one| one.channel == channel) {
            let what = format!("{} is {}", one.subject, faster(one.change, one.other));
            let cpu = format!("with {:.0} % of its CPU time", one.cpu * 100.0);
            said.push(capital(&format!("{place}{what}, {cpu}.")));
            place = "";
        }
        if let Some(pays) = self.zero_copy_pays(channel) {
            said.push(pays.to_owned());
        }
        said.join(" ")
    }

    fn zero_copy_pays(&self, channel: Channel) -> Option<&'static str> {
        let find = |key| {
            self.mechanisms
                .iter()
                .find(|one| one.key == key && one.channel == channel)
        };
        let pays = |one: &Comparison| one.change.is_clear && one.change.gain > 0.0;
        let (vmsplice, splice) = (find("vmsplice_over_write")?, find("splice_over_write")?);
        Some(match (pays(vmsplice), pays(splice)) {
            (true, true) => "So zero copy pays here, for a sender of its own pages too.",
            (true, false) => "So zero copy pays here for a sender of its own pages only.",
            (false, true) => "So zero copy pays here only where no side looks at the bytes.",
            (false, false) => "So zero copy does not pay here.",
        })
    }

    pub(crate) fn to_json(&self) -> Value {
        let batching: Vec<Value> = self.batching.iter().map(Batching::to_json).collect();
        let mut mechanisms = Map::new();
        for one in &self.mechanisms {
            let mut value = one.change.to_json();
            value["cpu_ratio"] = json!(one.cpu);
            let of_channel = mechanisms
                .entry(channel_name(one.channel))
                .or_insert_with(|| json!({}));
            of_channel[one.key] = value;
        }
        json!({
            "batching": batching,
            "large_over_default_pipe": self.growing.map(Change::to_json),
            "large_over_default_pipe_at_256_kib": self.growing_for_generous.map(Change::to_json),
            "fifo_over_pipe": self.naming.map(Change::to_json),
            "mechanisms": mechanisms,
        })
    }
}

impl Batching {
    fn of(best: &Row, plain: &Row) -> Option<Self> {
        Some(Self {
            channel: best.setup.channel,
            best: best.setup.batch,
            rate: best.rate()?,
            gain: change(best, plain)?,
        })
    }

    fn text(&self) -> String {
        let gain = match self.best {
            PLAIN => "no other size is faster".to_owned(),
            _ => faster(self.gain, "with 4 KiB"),
        };
        format!(
            "{} does best with calls of {}: {:.2} GB/s, {gain}.",
            match (self.channel, self.channel.capacity) {
                (FIFO, _) => "A FIFO",
                (_, Capacity::Default) => "The default pipe",
                (_, Capacity::Large) => "A pipe of 1 MiB",
            },
            bytes(self.best as u64),
            self.rate
        )
    }

    fn to_json(&self) -> Value {
        json!({
            "channel": channel_name(self.channel),
            "best_batch_bytes": self.best,
            "gb_per_s": self.rate,
            "over_4_kib": self.gain.to_json(),
        })
    }
}

impl Comparison {
    fn of(question: &Question, channel: Channel, rows: &[Row]) -> Option<Self> {
        let (key, mechanism, subject, than, other) = *question;
        let find = |mechanism: &dyn Mechanism| {
            rows.iter().find(|row| {
                row.setup.channel == channel && row.setup.mechanism.name() == mechanism.name()
            })
        };
        let (one, than) = (find(mechanism)?, find(than)?);
        Some(Self {
            key,
            subject,
            other,
            channel,
            change: change(one, than)?,
            cpu: one.cpu_per_gib()? / than.cpu_per_gib()?,
        })
    }
}

fn change(new: &Row, old: &Row) -> Option<Change> {
    Change::between(&new.rates(), &old.rates())
}

/// `12 % faster than OTHER`; three times and more are told as factors.
fn faster(change: Change, other: &str) -> String {
    let percent = change.percent();
    match change.is_clear {
        false => format!("not clearly faster or slower than {other} ({percent:+.0} %)"),
        true if percent >= 200.0 => format!("{:.1} times as fast as {other}", change.gain + 1.0),
        true if percent > 0.0 => format!("{percent:.0} % faster than {other}"),
        true => format!("{:.0} % slower than {other}", -percent),
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::tests::{failed, row};

    fn batches() -> Vec<Row> {
        vec![
            row(BASE, PIPE, 4096, &[1.0, 2.0, 1.0]),
            row(BASE, PIPE, 65_536, &[1.4, 2.8, 1.5]),
            row(BASE, PIPE, 262_144, &[0.5, 1.0, 0.5]),
            row(BASE, LARGE_PIPE, 4096, &[1.0, 2.0, 1.0]),
            row(BASE, LARGE_PIPE, 262_144, &[3.0, 6.0, 3.0]),
            row(BASE, FIFO, 4096, &[1.0, 2.0, 1.0]),
            row(BASE, FIFO, 65_536, &[1.5, 2.7, 1.5]),
        ]
    }

    #[test]
    fn the_paragraph_says_what_the_figures_say() {
        let mechanisms = [
            row(BASE, LARGE_PIPE, 262_144, &[2.0, 2.0]),
            row(LEVEL, LARGE_PIPE, 262_144, &[1.5, 1.5]),
            row(EDGE, LARGE_PIPE, 262_144, &[1.8, 1.4]),
            row(VMSPLICE, LARGE_PIPE, 262_144, &[1.6, 1.6]),
            row(SPLICE, LARGE_PIPE, 262_144, &[20.0, 20.0]),
            failed(RING, LARGE_PIPE, 262_144),
        ];
        assert_eq!(
            Lessons::of(&batches(), &mechanisms).text(),
            "The default pipe does best with calls of 64 KiB: 1.50 GB/s, 40 % faster than with 4 KiB. \
             A pipe of 1 MiB does best with calls of 256 KiB: 3.00 GB/s, 3.0 times as fast as with 4 KiB. \
             A FIFO does best with calls of 64 KiB: 1.50 GB/s, 50 % faster than with 4 KiB. \
             At its best batch the pipe of 1 MiB is 114 % faster than the default one. \
             With calls of 256 KiB it is 6.0 times as fast as the default one. \
             A FIFO is not clearly faster or slower than a pipe (+0 %). \
             In the pipe of 1 MiB level-triggered epoll is 25 % slower than blocking calls, with 100 % of its CPU time. \
             Edge-triggered epoll is not clearly faster or slower than level-triggered (+7 %), with 100 % of its CPU time. \
             Sending with vmsplice (one copy less) is 20 % slower than write, with 100 % of its CPU time. \
             Splice to /dev/null (no copy, nobody sees a byte) is 10.0 times as fast as write and read, with 100 % of its CPU time. \
             So zero copy pays here only where no side looks at the bytes."
        );
    }

    #[test]
    fn a_page_a_call_is_not_compared_with_itself() {
        let batches = [
            row(BASE, PIPE, 4096, &[2.0]),
            row(BASE, PIPE, 65_536, &[1.0]),
        ];
        assert_eq!(
            Lessons::of(&batches, &[]).text(),
            "The default pipe does best with calls of 4 KiB: 2.00 GB/s, no other size is faster."
        );
    }

    #[test]
    fn what_failed_teaches_nothing() {
        let batches = [
            failed(BASE, PIPE, 4096),
            row(BASE, LARGE_PIPE, 65_536, &[1.0]),
        ];
        let lessons = Lessons::of(&batches, &[]);
        assert_eq!(lessons.text(), "");
        assert_eq!(lessons.to_json()["large_over_default_pipe"], Value::Null);
    }

    #[test]
    fn programs_find_each_lesson_by_its_name() {
        let mechanisms = [
            row(BASE, PIPE, 65_536, &[1.0]),
            row(RING, PIPE, 65_536, &[2.5]),
        ];
        let json = Lessons::of(&batches(), &mechanisms).to_json();
        let ring = &json["mechanisms"]["pipe, default"]["ring_over_write"];
        assert_eq!(ring["clear"], json!(true));
        assert!((ring["gain_percent"].as_f64().expect("a number") - 150.0).abs() < 1e-6);
        assert_eq!(json["batching"][1]["best_batch_bytes"], json!(262_144));
    }
}
