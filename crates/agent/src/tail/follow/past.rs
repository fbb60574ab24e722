//! What had a name before: between two looks, since another session had read it, or before a file was emptied.

use std::path::Path;
use std::time::Instant;

use farpipe_proto::limits::TAIL_ROTATED_MAX;
use farpipe_proto::wire::tail::{TailFile, TailNews};

use super::Follower;
use crate::tail::generation::{At, Generation};
use crate::tail::identity::{Seen, is_same};
use crate::tail::name::Name;
use crate::tail::siblings::{self, NotOpened, Older, Opened};

/// Whether all that was found could be opened; if not, it is tried again at the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Enough,
    None,
}

impl Follower {
    /// What lies beside a name without a file is old; what comes to lie there had the name since.
    pub(super) fn none_yet(&mut self, path: &Path, name: &mut Name) {
        let all = siblings::all(path);
        let tell = all.iter().all(|sibling| sibling.seen.file.born_ns != 0);
        if name.newest.is_none() && tell {
            all.iter()
                .for_each(|sibling| self.done_unless_wanted(sibling));
            name.newest = Some(Older::NONE);
        }
    }

    /// A file beside one that is followed counts as read, unless it is followed by its own name.
    pub(super) fn done_unless_wanted(&mut self, sibling: &siblings::Sibling) {
        let is_wanted = self.names.contains_key(&sibling.path);
        if !is_wanted {
            self.done.add(sibling.seen.file, None);
        }
    }

    /// What had the name after `older` and before `newer`, or has lost it by now.
    pub(super) fn since(
        &mut self,
        path: &Path,
        name: &mut Name,
        older: Older,
        newer: Option<&Seen>,
        now: Instant,
    ) -> Room {
        let is_gone = name.is_gone_at_once();
        if let Some(older) = name.files.back_mut() {
            older.lost_name.get_or_insert(now);
        }
        let known = |one: &TailFile| self.is_open(one) || name.has(one) || self.done.has(one);
        let between = siblings::between(siblings::all(path), &older, newer, known);
        if is_gone && !between.is_empty() {
            // So many rotations since the last look that others may be gone as well, unread.
            self.news.say(0, TailNews::Lost, path);
        }
        for one in between {
            if name.is_full() {
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
            self.news.say(0, TailNews::Rotated, path);
            self.open(path, name, opened, At::default(), now);
            if let Some(file) = name.files.back_mut() {
                file.lost_name = Some(now);
            }
        }
        Room::Enough
    }

    /// Goes on behind what another session has had of a name.
    pub(super) fn resume(
        &mut self,
        path: &Path,
        name: &mut Name,
        here: Option<(Opened, Seen)>,
        now: Instant,
    ) {
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
                    self.news.say(0, TailNews::Lost, path);
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

    /// Opens what a file had that was emptied: a copy that was made before, behind what was read, and those
    /// that were made since. How many there are; they are put in at `index`.
    pub(super) fn copied(
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
            let number = self.news.number();
            let end = self.once.then_some(seen.size);
            let mut copy = Generation::new(number, file, &seen, at, end, now);
            copy.lost_name = Some(now);
            self.news.opened(path, &copy);
            name.files.insert(index + n, copy);
        }
        count
    }
}
