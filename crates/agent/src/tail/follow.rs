//! Follows names: looks which file has each of them now, opens what has come to have one, and passes on what
//! is in them.
//!
//! `find.rs` knows the names that patterns mean, `name.rs` reads the files of one in their order, `past.rs`
//! finds those that had it before. Holds no clock and waits for nothing; reads no more than it is asked for.

mod past;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farpipe_proto::limits::{TAIL_FILES_MAX, TAIL_LOOK, TAIL_ROTATED_MAX};
use farpipe_proto::wire::tail::{TailEvent, TailFile, TailNews, TailPosition};

use self::past::Room;
use super::done::Done;
use super::find::{FIND_EVERY, Finder, Looked};
use super::generation::{At, Generation, Lines};
use super::glob::Pattern;
use super::identity::{self, Seen, is_born_later, is_same};
use super::name::{Got, Name, Told};
use super::news::News;
use super::siblings::{self, Gate, Older, Opened, Shut};
use super::start::Start;

/// What is to be followed.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) patterns: Vec<Pattern>,
    pub(super) start: Start,
    /// Only what is there.
    pub(super) once: bool,
    /// Another session has begun it.
    pub(super) resumed: bool,
    pub(super) positions: Vec<TailPosition>,
}

/// Follows the files of one stream.
#[derive(Debug)]
pub(super) struct Follower {
    gate: Box<dyn Gate>,
    finder: Finder,
    start: Start,
    once: bool,
    resumed: bool,
    names: BTreeMap<PathBuf, Name>,
    done: Done,
    news: News,
    has_begun: bool,
    has_told_too_many: bool,
    /// Whose turn it is to be read.
    turn: usize,
}

impl Follower {
    pub(super) fn new(gate: Box<dyn Gate>, wanted: Wanted) -> Self {
        let mut names = BTreeMap::<PathBuf, Name>::new();
        for path in wanted.patterns.iter().filter_map(Pattern::literal) {
            names.entry(path).or_default();
        }
        for position in wanted.positions {
            let path = PathBuf::from(OsStr::from_bytes(&position.path));
            let is_plain = Pattern::parse(&path).is_some();
            if !is_plain || (names.len() >= TAIL_FILES_MAX && !names.contains_key(&path)) {
                continue;
            }
            let name = names.entry(path).or_insert_with(Name::found);
            if name.positions.len() < TAIL_ROTATED_MAX {
                name.positions.push(position);
            }
        }
        Self {
            gate,
            finder: Finder::new(wanted.patterns),
            start: wanted.start,
            once: wanted.once,
            resumed: wanted.resumed,
            names,
            done: Done::default(),
            news: News::default(),
            has_begun: false,
            has_told_too_many: false,
            turn: 0,
        }
    }

    /// Looks at all names, reads up to about `max` bytes, and says what there is. Blocks on the disk.
    pub(super) fn turn(&mut self, max: usize, now: Instant) -> Vec<TailEvent> {
        self.look(now);
        self.read(max, now);
        self.close(now);
        self.news.take()
    }

    /// Looks at all names: what has lost its name meanwhile stays open. Blocks on the disk.
    pub(super) fn look(&mut self, now: Instant) {
        if self.news.is_full() {
            return;
        }
        self.find(now);
        let paths: Vec<PathBuf> = self.names.keys().cloned().collect();
        for path in paths {
            let Some(mut name) = self.names.remove(&path) else {
                continue;
            };
            self.look_at(&path, &mut name, now);
            if !name.is_over() {
                self.names.insert(path, name);
            }
        }
        if !self.has_begun {
            self.has_begun = true;
            self.news.say(0, TailNews::Begun, Path::new(""));
        }
    }

    /// Whether nothing of what was asked for is allowed.
    pub(super) fn is_denied(&self) -> bool {
        let is_denied = |name: &Name| name.told == Some(Told::Denied);
        let may_find = self.finder.may_find(|dir| self.gate.may_list(dir));
        !may_find && self.names.values().all(is_denied)
    }

    /// Whether a turn that finds nothing is the last one.
    pub(super) fn is_once(&self) -> bool {
        self.once
    }

    /// Whether all that was asked for are plain names, and nothing that could grow has ever had one of them.
    pub(super) fn is_hopeless(&self) -> bool {
        let mut names = self.names.values();
        self.finder.is_empty() && names.all(Name::is_unfit)
    }

    /// How soon it has to be asked again though nothing changes.
    pub(super) fn pause(&self) -> Duration {
        let files = || self.names.values().flat_map(|name| &name.files);
        let is_soon = files().any(Generation::is_held)
            || self.names.values().any(|name| name.files.len() > 1)
            || (!self.finder.looked().is_empty());
        match is_soon {
            true => FIND_EVERY,
            false => TAIL_LOOK,
        }
    }

    /// What to watch: open files by their numbers, and directories.
    pub(super) fn watched(&self) -> (Vec<(u32, &File)>, Vec<PathBuf>) {
        let files = self.names.values().flat_map(|name| &name.files);
        let files = files.map(|file| (file.number, file.file())).collect();
        let mut dirs: Vec<PathBuf> = self
            .names
            .keys()
            .filter_map(|path| Some(path.parent()?.to_owned()))
            .chain(self.finder.looked().iter().cloned())
            .collect();
        dirs.sort();
        dirs.dedup();
        dirs.truncate(TAIL_FILES_MAX);
        (files, dirs)
    }

    /// Takes up the names that patterns have found.
    fn find(&mut self, now: Instant) {
        let gate = &*self.gate;
        let Some(found) = self.finder.find(|dir| gate.may_list(dir), now) else {
            return;
        };
        if !self.has_begun && !self.resumed {
            // Said once: whoever goes on has heard it.
            for (text, looked) in found.unfit {
                let news = match looked {
                    Looked::Into => TailNews::Missing,
                    Looked::Nowhere => TailNews::Denied,
                };
                self.news.say(0, news, &text);
            }
        }
        for path in found.paths {
            if self.names.contains_key(&path) {
                continue;
            }
            if self.names.len() < TAIL_FILES_MAX {
                self.names.insert(path, Name::found());
            } else if !self.has_told_too_many {
                self.has_told_too_many = true;
                self.news.say(0, TailNews::TooMany, &path);
            }
        }
    }

    fn look_at(&mut self, path: &Path, name: &mut Name, now: Instant) {
        let seen = match identity::at(path) {
            Ok(seen) => seen,
            Err(error) => return self.no_file(path, name, &error, now),
        };
        let is_known = name.seen.is_some_and(|known| is_same(&known, &seen.file));
        if is_known && name.positions.is_empty() {
            return name.is_back(&seen.file);
        }
        if name.files.len() >= TAIL_ROTATED_MAX {
            // It is looked for by its name when there is room.
            return;
        }
        self.arrived(path, name, now);
    }

    /// Nothing is there by this name, or it cannot be known what.
    fn no_file(&mut self, path: &Path, name: &mut Name, error: &io::Error, now: Instant) {
        let is_missing = matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        );
        name.seen = None;
        if !name.positions.is_empty() {
            self.resume(path, name, None, now);
        }
        if matches!(
            name.told,
            Some(Told::Denied | Told::Unreadable | Told::Unfit)
        ) {
            return;
        }
        if name.told == Some(Told::Full) {
            name.told = None;
        }
        if let Some(older) = name.youngest().or(name.newest) {
            // Another one may have had the name for a moment.
            self.since(path, name, older, None, now);
            name.seen = None;
        }
        if name.told.is_some() {
            return;
        }
        if let Some(file) = name.files.back_mut() {
            let lost = *file.lost_name.get_or_insert(now);
            let number = file.number;
            // In the middle of a rotation there is nothing for a moment.
            if now.duration_since(lost) >= TAIL_LOOK {
                name.told = Some(Told::Gone);
                self.news.say(number, TailNews::Gone, path);
            }
            return;
        }
        if name.is_found {
            // It was there when the directory was read.
            name.told = Some(Told::Gone);
            return;
        }
        // Whether it is missing is told to who may read it.
        match self.gate.open(path) {
            Err(Shut::Denied) => self.shut(path, name, &Shut::Denied),
            _ if is_missing => {
                name.told = Some(Told::Missing);
                self.news.say(0, TailNews::Missing, path);
                self.none_yet(path, name);
            }
            Ok(_) => {}
            Err(shut) => self.shut(path, name, &shut),
        }
    }

    fn shut(&mut self, path: &Path, name: &mut Name, why: &Shut) {
        let (told, news, message) = match why {
            Shut::Denied => (Told::Denied, TailNews::Denied, String::new()),
            Shut::Io(error) => (Told::Unreadable, TailNews::Unreadable, error.to_string()),
            Shut::Unfit(_) => (Told::Unfit, TailNews::Unreadable, why.to_string()),
            Shut::Full(_) => (Told::Full, TailNews::TooMany, why.to_string()),
        };
        if told != Told::Full {
            name.positions.clear();
        }
        if name.told != Some(told) {
            name.told = Some(told);
            self.news.say_why(0, news, path, message);
        }
    }

    /// A file has the name that did not have it at the last look.
    fn arrived(&mut self, path: &Path, name: &mut Name, now: Instant) {
        let opened = self.gate.open(path).and_then(|file| {
            let seen = identity::of(&file)?;
            match seen.is_regular {
                true => Ok((file, seen)),
                false => Err(Shut::Unfit(match file.metadata()?.is_dir() {
                    true => "a directory",
                    false => "not a regular file",
                })),
            }
        });
        let (file, seen) = match opened {
            Ok(opened) => opened,
            Err(Shut::Io(error)) if error.kind() == io::ErrorKind::NotFound => return,
            // It may do at the next look: the descriptors of this process may have been used up.
            Err(shut @ (Shut::Io(_) | Shut::Unfit(_) | Shut::Full(_))) => {
                return self.shut(path, name, &shut);
            }
            Err(shut) => {
                name.seen = identity::at(path).ok().map(|seen| seen.file);
                return self.shut(path, name, &shut);
            }
        };
        if !name.positions.is_empty() {
            self.resume(path, name, Some((file, seen)), now);
            return;
        }
        if let Some(at) = self.done.take_back(&seen.file, path) {
            // Somebody has put it back. What was written into it meanwhile is new.
            let at = if at.is_in(&file) { at } else { At::default() };
            return self.open(path, name, (file, seen), at, now);
        }
        if name.has(&seen.file) || self.is_open(&seen.file) || self.done.has(&seen.file) {
            name.seen = Some(seen.file);
            return name.is_back(&seen.file);
        }
        match name.newest {
            None => self.first(path, name, file, &seen, now),
            Some(older) => {
                let older = name.youngest().unwrap_or(older);
                self.rotated(path, name, older, (file, seen), now);
            }
        }
    }

    /// The first file of a name.
    fn first(&mut self, path: &Path, name: &mut Name, file: Opened, seen: &Seen, now: Instant) {
        // What lies beside it is older, but for what has had its name since it was opened.
        for sibling in siblings::all(path) {
            if !is_born_later(&sibling.seen, seen) {
                self.done_unless_wanted(&sibling);
            }
        }
        let is_new = self.has_begun || self.resumed;
        let offset = match is_new {
            true => Ok(0),
            false => self.start.offset(&file, seen.size),
        };
        match offset.and_then(|offset| At::of(&file, offset)) {
            Ok(at) => self.open(path, name, (file, *seen), at, now),
            Err(error) => {
                name.seen = Some(seen.file);
                self.shut(path, name, &Shut::Io(error));
            }
        }
    }

    /// What had the name after `older`, and what has it now, as far as there is room.
    fn rotated(
        &mut self,
        path: &Path,
        name: &mut Name,
        older: Older,
        (file, seen): (Opened, Seen),
        now: Instant,
    ) {
        let is_first = older.is_none() && name.files.is_empty();
        if self.since(path, name, older, Some(&seen), now) == Room::Enough {
            if !is_first {
                self.news.say(0, TailNews::Rotated, path);
            }
            self.open(path, name, (file, seen), At::default(), now);
        }
    }

    /// Begins to read a file.
    fn open(
        &mut self,
        path: &Path,
        name: &mut Name,
        (file, seen): (Opened, Seen),
        at: At,
        now: Instant,
    ) {
        let number = self.news.number();
        let end = self.once.then_some(seen.size);
        let generation = Generation::new(number, file, &seen, at, end, now);
        self.news.opened(path, &generation);
        name.files.push_back(generation);
        name.seen = Some(seen.file);
        name.told = None;
        name.newest = Some(Older {
            file: seen.file,
            written_ns: seen.written_ns,
            count: None,
        });
    }

    /// Whether it is read by any name.
    fn is_open(&self, file: &TailFile) -> bool {
        self.names.values().any(|name| name.has(file))
    }

    /// Reads each name in turn, until all are at their end or it is enough.
    fn read(&mut self, max: usize, now: Instant) {
        let paths: Vec<PathBuf> = self.names.keys().cloned().collect();
        let talking = self.names.values().filter(|name| !name.files.is_empty());
        let lines = match talking.count() > 1 && !self.once {
            true => Lines::Whole,
            false => Lines::Parts,
        };
        let (mut left, mut quiet) = (max, 0);
        while left > 0 && quiet < paths.len() {
            let path = &paths[self.turn % paths.len()];
            self.turn = self.turn.wrapping_add(1);
            let Some(mut name) = self.names.remove(path) else {
                quiet += 1;
                continue;
            };
            let got = self.read_one(path, &mut name, lines, now);
            self.names.insert(path.clone(), name);
            left = left.saturating_sub(got);
            quiet = if got == 0 { quiet + 1 } else { 0 };
        }
    }

    /// Reads one piece of a name; how long it is.
    fn read_one(&mut self, path: &Path, name: &mut Name, lines: Lines, now: Instant) -> usize {
        match name.read(lines, now) {
            Got::Bytes(file, offset, bytes) => {
                let len = bytes.len();
                self.news.data(file, offset, bytes);
                return len;
            }
            Got::Nothing => {}
            Got::Rewritten(at) => self.rewritten(path, name, at, now),
            Got::Failed(at, error) => self.failed(path, name, at, &error),
        }
        0
    }

    /// A file was emptied, or written anew: what was not read may be in a copy.
    fn rewritten(&mut self, path: &Path, name: &mut Name, at: usize, now: Instant) {
        let Some(file) = name.files.remove(at) else {
            return;
        };
        self.news.say(file.number, TailNews::Truncated, path);
        self.news.say(file.number, TailNews::Closed, path);
        let count = self.copied(path, name, at, (&file.id, file.at()), now);
        let again = file.again(self.news.number(), now);
        self.news.opened(path, &again);
        name.files.insert(at + count, again);
    }

    /// A file cannot be read any more.
    fn failed(&mut self, path: &Path, name: &mut Name, at: usize, error: &io::Error) {
        let Some(file) = name.files.remove(at) else {
            return;
        };
        self.news
            .say_why(file.number, TailNews::Unreadable, path, error.to_string());
        self.news.say(file.number, TailNews::Closed, path);
        self.done.add(file.id, None);
        if name.files.is_empty() {
            name.told = Some(Told::Unreadable);
        }
    }

    /// Closes what has lost its name and is quiet.
    fn close(&mut self, now: Instant) {
        let mut closed = Vec::new();
        for (path, name) in &mut self.names {
            let is_full = name.is_full();
            while let Some(file) = name.close(is_full, now) {
                closed.push((path.clone(), file));
            }
        }
        for (path, file) in closed {
            self.done
                .add(file.id, Some((path.clone(), file.at().clone())));
            self.news.say(file.number, TailNews::Closed, &path);
        }
    }
}

#[cfg(test)]
mod tests;
