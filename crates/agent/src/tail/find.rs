//! Compares directories with patterns, now and then, and says what fits.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::glob::Pattern;

/// How often directories are compared with patterns, at most.
pub(super) const FIND_EVERY: Duration = Duration::from_millis(250);

/// The patterns of one stream.
#[derive(Debug)]
pub(super) struct Finder {
    patterns: Vec<Pattern>,
    last: Option<Instant>,
    /// Directories in which names may come up.
    looked: Vec<PathBuf>,
}

/// What one comparison has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// In the order of the patterns and of the names, some of them twice.
    pub(super) paths: Vec<PathBuf>,
    /// Patterns that nothing fits, and whether any directory could be looked into for it.
    pub(super) unfit: Vec<(PathBuf, Looked)>,
}

/// Whether the names of a directory may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    Into,
    Nowhere,
}

impl Finder {
    /// Those of `patterns` that can mean several names.
    pub(super) fn new(patterns: Vec<Pattern>) -> Self {
        Self {
            patterns: patterns
                .into_iter()
                .filter(|pattern| pattern.literal().is_none())
                .collect(),
            last: None,
            looked: Vec::new(),
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Looks, if the last look is not too new. Blocks on the disk.
    pub(super) fn find(&mut self, may_list: impl Fn(&Path) -> bool, now: Instant) -> Option<Found> {
        let is_early = |then: Instant| now.duration_since(then) < FIND_EVERY;
        if self.last.is_some_and(is_early) {
            return None;
        }
        self.last = Some(now);
        self.looked.clear();
        let mut found = Found::default();
        for pattern in &self.patterns {
            let mut looked = Looked::Nowhere;
            let mut may_list = |dir: &Path| {
                let may = may_list(dir);
                if may {
                    looked = Looked::Into;
                }
                may
            };
            let fits = pattern.find(&mut may_list, &mut self.looked);
            if fits.is_empty() {
                found.unfit.push((pattern.text().to_owned(), looked));
            }
            found.paths.extend(fits);
        }
        Some(found)
    }

    /// Whether any directory may be looked into. Blocks on the disk.
    pub(super) fn may_find(&self, may_list: impl Fn(&Path) -> bool) -> bool {
        let may_find = |pattern: &Pattern| pattern.find_dirs(&mut |dir| may_list(dir));
        self.patterns.iter().any(may_find)
    }

    /// Directories in which names may come up.
    pub(super) fn looked(&self) -> &[PathBuf] {
        &self.looked
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn directories_are_compared_now_and_then() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().canonicalize().expect("it is there");
        let parse = |text: &str| Pattern::parse(&real.join(text)).expect("a pattern");
        let patterns = ["*.log", "plain", "none*", "shut/*"].map(parse);
        let mut finder = Finder::new(patterns.to_vec());
        fs::create_dir(real.join("shut")).expect("a directory");
        for name in ["b.log", "a.log", "plain", "shut/x"] {
            fs::write(real.join(name), "").expect("a file");
        }
        let may_list = |dir: &Path| !dir.ends_with("shut");
        let now = Instant::now();
        let found = finder.find(may_list, now).expect("the first look");
        assert_eq!(found.paths, [real.join("a.log"), real.join("b.log")]);
        let unfit = [
            (real.join("none*"), Looked::Into),
            (real.join("shut/*"), Looked::Nowhere),
        ];
        assert_eq!(found.unfit, unfit);
        assert_eq!(finder.looked(), [real.clone(), real.clone()]);
        assert!(finder.may_find(may_list) && !finder.may_find(|_| false));
        fs::write(real.join("c.log"), "").expect("a file");
        let soon = now + FIND_EVERY - Duration::from_millis(1);
        assert_eq!(finder.find(may_list, soon), None);
        let found = finder.find(may_list, now + FIND_EVERY).expect("another");
        assert!(found.paths.contains(&real.join("c.log")));
    }
}
