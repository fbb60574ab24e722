//! After a cut: the disk that is left is mounted, a relay started on it, and all that is on it judged.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::cut::{Disk, Fate};
use super::device::Loop;
use super::draw::Draw;
use super::life::{Kind, Life, group, publishing, reading};
use super::process::{PATIENCE, Place, Relay};
use super::report::Report;
use super::topics::{Burst, CONTROL, SHARED, TOPICS, Verdict, numbers};

/// After so many cuts one is published to again.
const AGAIN: usize = 10;
/// Images of cuts that went wrong are kept to be looked at, so many.
const KEPT_MAX: u64 = 4;

/// One who cuts: every so many cuts of a life.
#[derive(Debug)]
pub(super) struct Cutter<'a> {
    pub(super) place: &'a Place,
    pub(super) kind: Kind,
    pub(super) life: &'a Life,
    pub(super) report: &'a Report,
    pub(super) seed: u64,
    /// Who of them it is.
    pub(super) number: usize,
}

/// Where a cut is: its number in the life, its place in the journal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) number: usize,
    pub(super) at: usize,
}

impl Cutter<'_> {
    pub(super) fn run(&self, cuts: &[Cut]) -> Result<()> {
        let mut disk = Disk::new(self.life.begin.clone(), &self.life.entries);
        let image = self.place.file(&format!("image-{}", self.number));
        for cut in cuts {
            self.place.stop.check()?;
            let mut draw = Draw::new(self.seed, 1_000_000 + cut.number as u64);
            let (bytes, fate) = disk.cut(cut.at, &mut draw);
            fs::write(&image, &bytes).context("cannot write an image")?;
            self.report.add(|sums| {
                sums.cuts += 1;
                sums.add(fate);
            });
            let wrongs = self.look(&image, *cut, draw)?;
            for wrong in &wrongs {
                let kind = self.kind.name;
                let Fate {
                    kept,
                    dropped,
                    torn,
                } = fate;
                let wrong = format!(
                    "{kind}, cut {} at {} of {} ({kept} kept, {dropped} dropped, {torn} torn): {wrong}",
                    cut.number,
                    cut.at,
                    self.life.entries.len()
                );
                if self.report.wrong(&wrong) <= KEPT_MAX {
                    let name = format!("wrong-{}-{}", kind.replace(' ', "-"), cut.number);
                    fs::write(self.place.dir.join(name), &bytes)?;
                }
            }
        }
        // Of those that went well none is wanted.
        let _ = fs::remove_file(&image);
        Ok(())
    }

    /// What is wrong.
    fn look(&self, image: &Path, cut: Cut, draw: Draw) -> Result<Vec<String>> {
        let at = self.place.directory(&format!("cut-{}", self.number))?;
        let device = Loop::attach(image)?;
        let mount = match device.mount(&at, self.kind.options) {
            Ok(mount) => mount,
            Err(error) => {
                // ext4's own, be it as it may: there is nothing to be looked at.
                self.report.unmounted(&format!("{error:#}"));
                return Ok(Vec::new());
            }
        };
        let mut wrongs = Vec::new();
        match Relay::start(self.place, &at.join("log"), "ws://127.0.0.1:0") {
            Ok(relay) => {
                self.judge(&relay, cut, draw, &mut wrongs)?;
                drop(relay);
            }
            Err(error) => {
                self.report.add(|sums| sums.unopened += 1);
                wrongs.push(format!("{error:#}"));
            }
        }
        mount.end()?;
        Ok(wrongs)
    }

    fn judge(
        &self,
        relay: &Relay,
        cut: Cut,
        mut draw: Draw,
        wrongs: &mut Vec<String>,
    ) -> Result<()> {
        let mut bounds = Vec::new();
        for ledger in &self.life.ledgers {
            bounds.push((ledger.acknowledged(cut.at), ledger.end(cut.at)));
        }
        for (number, verdict) in self.read(relay, &bounds, wrongs)?.iter().enumerate() {
            let acknowledged = bounds[number].0;
            if number == CONTROL {
                self.report.add(|sums| {
                    sums.control_lost += verdict.lost;
                    sums.control_cuts += u64::from(verdict.lost > 0);
                });
                continue;
            }
            self.report.add(|sums| {
                sums.acknowledged += acknowledged;
                sums.judged(verdict);
            });
            if !verdict.is_good() {
                wrongs.push(told(number, acknowledged, verdict));
            }
            if number == SHARED {
                self.group(relay, cut, &verdict.lines, wrongs)?;
            }
        }
        if cut.number.is_multiple_of(AGAIN) {
            self.again(relay, cut, &mut draw, wrongs)?;
        }
        Ok(())
    }

    /// Reads all topics at once.
    fn read(
        &self,
        relay: &Relay,
        bounds: &[(u64, u64)],
        wrongs: &mut Vec<String>,
    ) -> Result<Vec<Verdict>> {
        let mut running = Vec::new();
        for topic in &TOPICS {
            let name = format!("cut-{}-{}", self.number, topic.name);
            let args = reading(topic.name, relay.url());
            running.push(self.place.start(&name, &args, None)?);
        }
        let mut verdicts = Vec::new();
        let bounded = TOPICS.iter().zip(bounds).zip(running);
        for (number, ((topic, (acknowledged, end)), running)) in bounded.enumerate() {
            let ended = running.end_within(PATIENCE)?;
            let good = ended.good(&format!("sub {}", topic.name));
            // Of the control records may be missing, and whoever reads it is told.
            if let Err(error) = good
                && number != CONTROL
            {
                self.report.add(|sums| sums.failed += 1);
                wrongs.push(format!("{error:#}"));
            }
            verdicts.push(topic.judge(&ended.output, *acknowledged, *end));
        }
        Ok(verdicts)
    }

    /// What its members have acknowledged does not come again; what none of them had does.
    fn group(
        &self,
        relay: &Relay,
        cut: Cut,
        there: &[u64],
        wrongs: &mut Vec<String>,
    ) -> Result<()> {
        let name = format!("cut-{}-group", self.number);
        let ended = self.place.start(&name, &group(relay.url()), None)?;
        let ended = ended.end_within(PATIENCE)?;
        if let Err(error) = ended.good("sub --group") {
            self.report.add(|sums| sums.failed += 1);
            wrongs.push(format!("{error:#}"));
        }
        let read = numbers(&ended.output);
        let mut done = HashSet::new();
        let mut perhaps = HashSet::new();
        for member in &self.life.members {
            if member.acknowledged.is_some_and(|noted| noted <= cut.at) {
                done.extend(member.lines.iter().copied());
            }
            if member.started <= cut.at {
                perhaps.extend(member.lines.iter().copied());
            }
        }
        let again: Vec<_> = read.iter().filter(|line| done.contains(line)).collect();
        let is_read: HashSet<u64> = read.iter().copied().collect();
        let missed: Vec<_> = there
            .iter()
            .filter(|line| !is_read.contains(line) && !perhaps.contains(line))
            .collect();
        let twice = read.len() - is_read.len();
        self.report.add(|sums| {
            sums.done += done.len() as u64;
            sums.group_again += (again.len() + twice) as u64;
            sums.group_missed += missed.len() as u64;
        });
        if !again.is_empty() || !missed.is_empty() || twice > 0 {
            let first = again.first().or_else(|| missed.first());
            wrongs.push(format!(
                "group: {} of {} come again, {twice} twice, {} never, the first is line {first:?}",
                again.len(),
                done.len(),
                missed.len(),
            ));
        }
        Ok(())
    }

    /// What was published last, what the cut has hit, and anything before are published again, by the same producers: then all
    /// of it is there once.
    fn again(
        &self,
        relay: &Relay,
        cut: Cut,
        draw: &mut Draw,
        wrongs: &mut Vec<String>,
    ) -> Result<()> {
        for (topic, ledger) in TOPICS.iter().zip(&self.life.ledgers).take(CONTROL) {
            let begun = ledger.begun(cut.at);
            let Some(earlier) = begun.len().checked_sub(1) else {
                continue;
            };
            let mut chosen: Vec<&Burst> = vec![&begun[draw.below(earlier as u64 + 1) as usize]];
            chosen.extend(&begun[earlier.saturating_sub(1)..]);
            for burst in chosen {
                let name = format!("cut-{}-again", self.number);
                let input = self.place.file(&format!("{name}.in"));
                fs::write(&input, topic.lines(burst.lines.clone()))?;
                let args = publishing(topic.name, relay.url(), &burst.producer);
                let publish = self.place.start(&name, &args, Some(File::open(&input)?))?;
                let ended = publish.end_within(PATIENCE)?;
                if let Err(error) = ended.good(&format!("pub {} again", topic.name)) {
                    self.report.add(|sums| sums.failed += 1);
                    wrongs.push(format!("{error:#}"));
                }
                self.report.add(|sums| sums.published_again += 1);
            }
        }
        let mut bounds = Vec::new();
        for ledger in &self.life.ledgers {
            let end = ledger.end(cut.at);
            bounds.push((end, end));
        }
        for (number, verdict) in self.read(relay, &bounds, wrongs)?.iter().enumerate() {
            if number == CONTROL {
                continue;
            }
            self.report.add(|sums| sums.judged(verdict));
            if !verdict.is_good() {
                wrongs.push(format!(
                    "published again, {}",
                    told(number, bounds[number].0, verdict)
                ));
            }
        }
        Ok(())
    }
}

fn told(number: usize, acknowledged: u64, verdict: &Verdict) -> String {
    let Verdict {
        lines,
        lost,
        twice,
        disordered,
        gaps,
        damaged,
    } = verdict;
    format!(
        "{}: of {acknowledged} acknowledged {lost} lost; {} there, {twice} twice, {disordered} out of order, \
         {gaps} missing before others, {damaged} damaged",
        TOPICS[number].name,
        lines.len()
    )
}
