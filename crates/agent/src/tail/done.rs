//! Which files one stream is done with, whatever they are called now: another name does not make them new.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use farpipe_proto::wire::tail::TailFile;

use super::generation::At;
use super::identity::is_same;

/// Files that are remembered though they are closed, so that another name does not make them new.
const DONE_MAX: usize = 1024;

/// Files that were read, or that are older than what is.
#[derive(Debug, Default)]
pub(super) struct Done(VecDeque<DoneFile>);

#[derive(Debug)]
struct DoneFile {
    id: TailFile,
    /// By which name, and how far.
    read: Option<(PathBuf, At)>,
}

impl Done {
    pub(super) fn add(&mut self, id: TailFile, read: Option<(PathBuf, At)>) {
        // Without a birth its number alone would make a new file an old one.
        if id.born_ns == 0 || self.has(&id) {
            return;
        }
        if self.0.len() == DONE_MAX {
            self.0.pop_front();
        }
        self.0.push_back(DoneFile { id, read });
    }

    pub(super) fn has(&self, id: &TailFile) -> bool {
        self.0.iter().any(|one| is_same(&one.id, id))
    }

    /// How far a file was read that has its name again. It is no more done.
    pub(super) fn take_back(&mut self, id: &TailFile, path: &Path) -> Option<At> {
        let is_it = |one: &DoneFile| {
            let by = one.read.as_ref().map(|(by, _)| by.as_path());
            is_same(&one.id, id) && by == Some(path)
        };
        let at = self.0.iter().position(is_it)?;
        Some(self.0.remove(at)?.read?.1)
    }
}
