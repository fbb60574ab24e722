//! Follows names: says which file has each of them now, and reads what comes of them in order.
//!
//! ```text
//! a name:  [ lost its name | lost its name | has it now ]   read from the left
//!            closed when at its end and quiet                another one comes in on the right
//! ```
//!
//! How far the younger ones have come is looked at before the older one is read to its end: so what one
//! writer wrote into the older one first is passed on first, whatever it does with its names meanwhile.
//! Holds no clock and waits for nothing; reads no more than it is asked for.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farpipe_proto::limits::{
    TAIL_FILES_MAX, TAIL_LOOK, TAIL_QUIET, TAIL_ROTATED_FOR, TAIL_ROTATED_MAX,
};
use farpipe_proto::wire::tail::{
    TailData, TailEvent, TailFile, TailNews, TailNotice, TailPosition, TailWhat,
};

use super::done::Done;
use super::generation::{At, Generation, Lines, Piece};
use super::glob::Pattern;
use super::identity::{self, Seen, is_born_later, is_same};
use super::siblings::{self, Gate, NotOpened, Older, Opened, Shut};
use super::start::Start;

/// What may be said of names while nobody hears it; then they are looked at later.
const EVENTS_MAX: usize = 4 * TAIL_FILES_MAX * TAIL_ROTATED_MAX;
/// How often directories are compared with patterns, at most.
const FIND_EVERY: Duration = Duration::from_millis(250);

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
    wanted: Wanted,
    names: BTreeMap<PathBuf, Name>,
    done: Done,
    events: Vec<TailEvent>,
    next_number: u32,
    has_begun: bool,
    has_told_too_many: bool,
    found: Option<Instant>,
    /// Directories in which names may come up.
    looked: Vec<PathBuf>,
    /// Whose turn it is to be read.
    turn: usize,
}

/// A name, and the files that have or had it.
#[derive(Debug, Default)]
struct Name {
    /// A pattern found it: it is forgotten when it is gone.
    is_found: bool,
    files: VecDeque<Generation>,
    /// What was there at the last look, read or not.
    seen: Option<TailFile>,
    /// The youngest that was read, also when it is closed.
    newest: Option<Older>,
    told: Option<Told>,
    positions: Vec<TailPosition>,
}

/// What was said of a name that has no file to be read, so that it is said once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Missing,
    Gone,
    Denied,
    Unreadable,
    Full,
}

/// Whether all that was found could be opened; if not, it is tried again at the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Enough,
    None,
}

impl Follower {
    pub(super) fn new(gate: Box<dyn Gate>, mut wanted: Wanted) -> Self {
        let mut names = BTreeMap::<PathBuf, Name>::new();
        for path in wanted.patterns.iter().filter_map(Pattern::literal) {
            names.entry(path).or_default();
        }
        for position in std::mem::take(&mut wanted.positions) {
            let path = PathBuf::from(OsStr::from_bytes(&position.path));
            let is_plain = Pattern::parse(&path).is_some();
            if !is_plain || (names.len() >= TAIL_FILES_MAX && !names.contains_key(&path)) {
                continue;
            }
            let name = names.entry(path).or_insert_with(|| Name {
                is_found: true,
                ..Name::default()
            });
            if name.positions.len() < TAIL_ROTATED_MAX {
                name.positions.push(position);
            }
        }
        Self {
            gate,
            wanted,
            names,
            done: Done::default(),
            events: Vec::new(),
            next_number: 1,
            has_begun: false,
            has_told_too_many: false,
            found: None,
            looked: Vec::new(),
            turn: 0,
        }
    }

    /// Looks at all names, reads up to about `max` bytes, and says what there is. Blocks on the disk.
    pub(super) fn turn(&mut self, max: usize, now: Instant) -> Vec<TailEvent> {
        self.look(now);
        self.read(max, now);
        self.close(now);
        std::mem::take(&mut self.events)
    }

    /// Looks at all names: what has lost its name meanwhile stays open. Blocks on the disk.
    pub(super) fn look(&mut self, now: Instant) {
        if self.events.len() >= EVENTS_MAX {
            return;
        }
        self.find(now);
        let paths: Vec<PathBuf> = self.names.keys().cloned().collect();
        for path in paths {
            let Some(mut name) = self.names.remove(&path) else {
                continue;
            };
            self.look_at(&path, &mut name, now);
            let is_over = name.is_found && name.told == Some(Told::Gone) && name.files.is_empty();
            if !is_over {
                self.names.insert(path, name);
            }
        }
        if !self.has_begun {
            self.has_begun = true;
            self.say(0, TailNews::Begun, Path::new(""), String::new());
        }
    }

    /// Whether nothing of what was asked for is allowed.
    pub(super) fn is_denied(&self) -> bool {
        let is_denied = |name: &Name| name.told == Some(Told::Denied);
        let may_find = self.wanted.patterns.iter().any(|pattern| {
            pattern.literal().is_none() && pattern.find_dirs(&mut |dir| self.gate.may_list(dir))
        });
        !may_find && self.names.values().all(is_denied)
    }

    /// Whether a turn that finds nothing is the last one.
    pub(super) fn is_once(&self) -> bool {
        self.wanted.once
    }

    /// How soon it has to be asked again though nothing changes.
    pub(super) fn pause(&self) -> Duration {
        let files = || self.names.values().flat_map(|name| &name.files);
        let is_soon = files().any(Generation::is_held)
            || self.names.values().any(|name| name.files.len() > 1)
            || (!self.looked.is_empty());
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
            .chain(self.looked.iter().cloned())
            .collect();
        dirs.sort();
        dirs.dedup();
        dirs.truncate(TAIL_FILES_MAX);
        (files, dirs)
    }

    /// Compares directories with patterns, now and then.
    fn find(&mut self, now: Instant) {
        let is_early = |then: Instant| now.duration_since(then) < FIND_EVERY;
        if self.found.is_some_and(is_early) {
            return;
        }
        self.found = Some(now);
        let mut looked = Vec::new();
        let mut found = Vec::new();
        let gate = &*self.gate;
        let mut unfit = Vec::new();
        for pattern in &self.wanted.patterns {
            if pattern.literal().is_some() {
                continue;
            }
            let mut may_list_any = false;
            let mut may_list = |dir: &Path| {
                let may = gate.may_list(dir);
                may_list_any |= may;
                may
            };
            let fits = pattern.find(&mut may_list, &mut looked);
            if fits.is_empty() {
                let news = match may_list_any {
                    true => TailNews::Missing,
                    false => TailNews::Denied,
                };
                unfit.push((pattern.text().to_owned(), news));
            }
            found.extend(fits);
        }
        self.looked = looked;
        if !self.has_begun && !self.wanted.resumed {
            // Said once: whoever goes on has heard it.
            for (text, news) in unfit {
                self.say(0, news, &text, String::new());
            }
        }
        for path in found {
            if self.names.contains_key(&path) {
                continue;
            }
            if self.names.len() < TAIL_FILES_MAX {
                let name = Name {
                    is_found: true,
                    ..Name::default()
                };
                self.names.insert(path, name);
            } else if !self.has_told_too_many {
                self.has_told_too_many = true;
                self.say(0, TailNews::TooMany, &path, String::new());
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
        if matches!(name.told, Some(Told::Denied | Told::Unreadable)) {
            return;
        }
        if name.told == Some(Told::Full) {
            name.told = None;
        }
        if let Some(older) = youngest(name).or(name.newest) {
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
                self.say(number, TailNews::Gone, path, String::new());
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
                self.say(0, TailNews::Missing, path, String::new());
                self.none_yet(path, name);
            }
            Ok(_) => {}
            Err(shut) => self.shut(path, name, &shut),
        }
    }

    /// What lies beside a name without a file is old; what comes to lie there had the name since.
    fn none_yet(&mut self, path: &Path, name: &mut Name) {
        let all = siblings::all(path);
        let tell = all.iter().all(|sibling| sibling.seen.file.born_ns != 0);
        if name.newest.is_none() && tell {
            all.iter()
                .for_each(|sibling| self.done_unless_wanted(sibling));
            name.newest = Some(Older::NONE);
        }
    }

    fn shut(&mut self, path: &Path, name: &mut Name, why: &Shut) {
        let (told, news, message) = match why {
            Shut::Denied => (Told::Denied, TailNews::Denied, String::new()),
            Shut::Io(error) => (Told::Unreadable, TailNews::Unreadable, error.to_string()),
            Shut::Full(_) => (Told::Full, TailNews::TooMany, why.to_string()),
        };
        if told != Told::Full {
            name.positions.clear();
        }
        if name.told != Some(told) {
            name.told = Some(told);
            self.say(0, news, path, message);
        }
    }

    /// A file has the name that did not have it at the last look.
    fn arrived(&mut self, path: &Path, name: &mut Name, now: Instant) {
        let opened = self.gate.open(path).and_then(|file| {
            let seen = identity::of(&file)?;
            match seen.is_regular {
                true => Ok((file, seen)),
                false => Err(Shut::Io(io::Error::other("it is not a regular file"))),
            }
        });
        let (file, seen) = match opened {
            Ok(opened) => opened,
            Err(Shut::Io(error)) if error.kind() == io::ErrorKind::NotFound => return,
            // It may do at the next look: the descriptors of this process may have been used up.
            Err(shut @ (Shut::Io(_) | Shut::Full(_))) => return self.shut(path, name, &shut),
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
                let older = youngest(name).unwrap_or(older);
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
        let is_new = self.has_begun || self.wanted.resumed;
        let offset = match is_new {
            true => Ok(0),
            false => self.wanted.start.offset(&file, seen.size),
        };
        match offset.and_then(|offset| At::of(&file, offset)) {
            Ok(at) => self.open(path, name, (file, *seen), at, now),
            Err(error) => {
                name.seen = Some(seen.file);
                self.shut(path, name, &Shut::Io(error));
            }
        }
    }

    /// A file beside one that is followed counts as read, unless it is followed by its own name.
    fn done_unless_wanted(&mut self, sibling: &siblings::Sibling) {
        let is_wanted = self.names.contains_key(&sibling.path);
        if !is_wanted {
            self.done.add(sibling.seen.file, None);
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
                self.say(0, TailNews::Rotated, path, String::new());
            }
            self.open(path, name, (file, seen), At::default(), now);
        }
    }

    /// What had the name after `older` and before `newer`, or has lost it by now.
    fn since(
        &mut self,
        path: &Path,
        name: &mut Name,
        older: Older,
        newer: Option<&Seen>,
        now: Instant,
    ) -> Room {
        let is_gone = name.files.back().is_some_and(is_gone_at_once);
        if let Some(older) = name.files.back_mut() {
            older.lost_name.get_or_insert(now);
        }
        let known = |one: &TailFile| self.is_open(one) || name.has(one) || self.done.has(one);
        let between = siblings::between(siblings::all(path), &older, newer, known);
        if is_gone && !between.is_empty() {
            // So many rotations since the last look that others may be gone as well, unread.
            self.say(0, TailNews::Lost, path, String::new());
        }
        for one in between {
            if name.files.len() + 1 >= TAIL_ROTATED_MAX {
                // Next time: the youngest is not the one that has the name.
                return Room::None;
            }
            let opened = match one.open(&*self.gate) {
                Ok(opened) => opened,
                // It is found by its next name, or at the next look.
                Err(NotOpened::Later) => return Room::None,
                Err(NotOpened::Shut) => {
                    self.done.add(one.seen.file, None);
                    continue;
                }
            };
            if name.is_copied(&opened.0) {
                self.done.add(opened.1.file, None);
                continue;
            }
            self.say(0, TailNews::Rotated, path, String::new());
            self.open(path, name, opened, At::default(), now);
            if let Some(file) = name.files.back_mut() {
                file.lost_name = Some(now);
            }
        }
        Room::Enough
    }

    /// Goes on behind what another session has had of a name.
    fn resume(&mut self, path: &Path, name: &mut Name, here: Option<(Opened, Seen)>, now: Instant) {
        let mut older = None;
        let all = siblings::all(path);
        for position in std::mem::take(&mut name.positions) {
            let Some(id) = position.file else { continue };
            let at = At::from(&position);
            older = Some(Older {
                file: id,
                written_ns: 0,
                count: None,
            });
            let found = siblings::find(&*self.gate, path, &all, &id, &at);
            let Some((file, seen, count)) = found else {
                let index = name.files.len();
                if self.copied(path, name, index, (&id, &at), now) == 0 {
                    self.say(0, TailNews::Lost, path, String::new());
                }
                continue;
            };
            older = Some(Older {
                file: id,
                written_ns: seen.written_ns,
                count,
            });
            self.open(path, name, (file, seen), at, now);
            let is_here = |here: &(Opened, Seen)| is_same(&here.1.file, &seen.file);
            if !here.as_ref().is_some_and(is_here)
                && let Some(file) = name.files.back_mut()
            {
                file.lost_name = Some(now);
            }
        }
        name.newest = older.or(name.newest);
        let older_is_here = |older: &Older| {
            let is_it = |here: &(Opened, Seen)| is_same(&here.1.file, &older.file);
            here.as_ref().is_some_and(is_it)
        };
        for sibling in all {
            // What came since was written since; a copy of it from before was not.
            let is_old = |older: &Older| {
                sibling.seen.written_ns < older.written_ns || !older.is_before(&sibling)
            };
            let is_done = older.is_some_and(|older| older_is_here(&older) || is_old(&older));
            if is_done && !name.has(&sibling.seen.file) {
                self.done_unless_wanted(&sibling);
            }
        }
        let Some((file, seen)) = here else {
            // Whatever comes to have the name is behind it.
            name.seen = None;
            return;
        };
        if name.has(&seen.file) {
            name.seen = Some(seen.file);
            return;
        }
        match older {
            // It was emptied.
            Some(older) if is_same(&older.file, &seen.file) => {
                self.open(path, name, (file, seen), At::default(), now);
            }
            Some(older) => self.rotated(path, name, older, (file, seen), now),
            None => self.first(path, name, file, &seen, now),
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
        let number = self.number();
        let end = self.wanted.once.then_some(seen.size);
        let generation = Generation::new(number, file, &seen, at, end, now);
        self.say_opened(path, &generation);
        name.files.push_back(generation);
        name.seen = Some(seen.file);
        name.told = None;
        name.newest = Some(Older {
            file: seen.file,
            written_ns: seen.written_ns,
            count: None,
        });
    }

    fn number(&mut self) -> u32 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// Whether it is read by any name.
    fn is_open(&self, file: &TailFile) -> bool {
        self.names.values().any(|name| name.has(file))
    }

    /// Reads each name in turn, until all are at their end or it is enough.
    fn read(&mut self, max: usize, now: Instant) {
        let paths: Vec<PathBuf> = self.names.keys().cloned().collect();
        let talking = self.names.values().filter(|name| !name.files.is_empty());
        let lines = match talking.count() > 1 && !self.wanted.once {
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
        // From the youngest to the oldest, and before any is read.
        let mut limits: Vec<u64> = Vec::with_capacity(name.files.len());
        for file in name.files.iter().rev() {
            limits.push(file.seen().map_or(u64::MAX, |seen| seen.size));
        }
        limits.reverse();
        if let Some(first) = limits.first_mut() {
            *first = u64::MAX;
        }
        let mut at = 0;
        while let (Some(file), Some(limit)) = (name.files.get_mut(at), limits.get(at)) {
            match file.read(*limit, lines, now) {
                Ok(Piece::Bytes { offset, bytes }) => {
                    let len = bytes.len();
                    let what = TailWhat::Data(TailData { offset, bytes });
                    let file = file.number;
                    let what = Some(what);
                    self.events.push(TailEvent { file, what });
                    return len;
                }
                Ok(Piece::Held) => return 0,
                Ok(Piece::End) => at += 1,
                Ok(Piece::Rewritten) => {
                    self.rewritten(path, name, at, now);
                    return 0;
                }
                Err(error) => {
                    self.failed(path, name, at, &error);
                    return 0;
                }
            }
        }
        0
    }

    /// A file was emptied, or written anew: what was not read may be in a copy.
    fn rewritten(&mut self, path: &Path, name: &mut Name, at: usize, now: Instant) {
        let Some(file) = name.files.remove(at) else {
            return;
        };
        self.say(file.number, TailNews::Truncated, path, String::new());
        self.say(file.number, TailNews::Closed, path, String::new());
        let count = self.copied(path, name, at, (&file.id, file.at()), now);
        let again = file.again(self.number(), now);
        self.say_opened(path, &again);
        name.files.insert(at + count, again);
    }

    /// Opens what a file had that was emptied: a copy that was made before, behind what was read, and those
    /// that were made since. How many there are; they are put in at `index`.
    fn copied(
        &mut self,
        path: &Path,
        name: &mut Name,
        index: usize,
        (id, at): (&TailFile, &At),
        now: Instant,
    ) -> usize {
        let known = |one: &TailFile| {
            is_same(one, id) || self.is_open(one) || name.has(one) || self.done.has(one)
        };
        let all = siblings::all(path);
        let Some((file, seen)) = siblings::find_copy(&*self.gate, all.clone(), at, known) else {
            return 0;
        };
        let older = Older {
            file: seen.file,
            written_ns: seen.written_ns,
            count: None,
        };
        let since = siblings::between(all, &older, None, known);
        let since: Vec<_> = since
            .iter()
            .filter_map(|one| one.open(&*self.gate).ok())
            .collect();
        let mut files = vec![(file, seen, at.clone())];
        files.extend(
            since
                .into_iter()
                .map(|(file, seen)| (file, seen, At::default())),
        );
        files.truncate(TAIL_ROTATED_MAX.saturating_sub(name.files.len()));
        let count = files.len();
        for (n, (file, seen, at)) in files.into_iter().enumerate() {
            let number = self.number();
            let end = self.wanted.once.then_some(seen.size);
            let mut copy = Generation::new(number, file, &seen, at, end, now);
            copy.lost_name = Some(now);
            self.say_opened(path, &copy);
            name.files.insert(index + n, copy);
        }
        count
    }

    /// A file cannot be read any more.
    fn failed(&mut self, path: &Path, name: &mut Name, at: usize, error: &io::Error) {
        let Some(file) = name.files.remove(at) else {
            return;
        };
        self.say(file.number, TailNews::Unreadable, path, error.to_string());
        self.say(file.number, TailNews::Closed, path, String::new());
        self.done.add(file.id, None);
        if name.files.is_empty() {
            name.told = Some(Told::Unreadable);
        }
    }

    /// Closes what has lost its name and is quiet.
    fn close(&mut self, now: Instant) {
        let mut closed = Vec::new();
        for (path, name) in &mut self.names {
            let is_full = name.files.len() + 1 >= TAIL_ROTATED_MAX;
            while let Some(file) = name.files.front() {
                let is_last = name.files.len() == 1;
                if !is_ripe(file, is_last, is_full && !is_last, now) {
                    break;
                }
                closed.extend(name.files.pop_front().map(|file| (path.clone(), file)));
            }
        }
        for (path, file) in closed {
            self.done
                .add(file.id, Some((path.clone(), file.at().clone())));
            self.say(file.number, TailNews::Closed, &path, String::new());
        }
    }

    fn say_opened(&mut self, path: &Path, file: &Generation) {
        let position = file.position(path.as_os_str().as_bytes().to_vec());
        self.events.push(TailEvent {
            file: file.number,
            what: Some(TailWhat::Opened(position)),
        });
    }

    fn say(&mut self, file: u32, news: TailNews, path: &Path, message: String) {
        let notice = TailNotice {
            news: news as u32,
            path: path.as_os_str().as_bytes().to_vec(),
            message,
        };
        let what = Some(TailWhat::Notice(notice));
        self.events.push(TailEvent { file, what });
    }
}

impl Name {
    /// A file that was read by this name has it again, or had it all the time.
    fn is_back(&mut self, file: &TailFile) {
        if self.told == Some(Told::Gone) {
            self.told = None;
        }
        if let Some(one) = self.files.iter_mut().find(|one| is_same(&one.id, file)) {
            one.lost_name = None;
        }
    }

    fn has(&self, file: &TailFile) -> bool {
        self.files.iter().any(|one| is_same(&one.id, file))
    }

    /// Whether a file has all that was read of the youngest one: somebody has made a copy.
    fn is_copied(&self, file: &File) -> bool {
        let youngest = self.files.back();
        youngest.is_some_and(|one| one.at().offset >= 64 && one.at().is_in(file))
    }
}

/// The youngest of a name, as it is now.
fn youngest(name: &Name) -> Option<Older> {
    let file = name.files.back()?;
    let written_ns = file.seen().ok()?.written_ns;
    Some(Older {
        file: file.id,
        written_ns,
        count: None,
    })
}

/// Whether a file had its name at the last look, and has none now.
fn is_gone_at_once(file: &Generation) -> bool {
    file.lost_name.is_none() && file.seen().is_ok_and(|seen| seen.names == 0)
}

/// Whether nothing more is expected of a file.
fn is_ripe(file: &Generation, is_last: bool, is_in_the_way: bool, now: Instant) -> bool {
    let Some(lost) = file.lost_name else {
        return false;
    };
    let Ok(seen) = file.seen() else {
        return true;
    };
    if seen.size > file.at().offset {
        return false;
    }
    // As long as it has a name its writer may have it open, and nothing has taken its place.
    if is_last && seen.names > 0 {
        return false;
    }
    let quiet = now.duration_since(lost.max(file.grew));
    is_in_the_way || quiet >= TAIL_QUIET || now.duration_since(lost) >= TAIL_ROTATED_FOR
}

#[cfg(test)]
mod tests;
