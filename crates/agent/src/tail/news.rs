//! What is passed on of the files of one stream, in order: which number means which file from where on, their
//! bytes, and what happened to them.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use farpipe_proto::limits::{TAIL_FILES_MAX, TAIL_ROTATED_MAX};
use farpipe_proto::wire::tail::{TailData, TailEvent, TailNews, TailNotice, TailWhat};

use super::generation::Generation;

/// What may be said of names while nobody hears it; then they are looked at later.
const EVENTS_MAX: usize = 4 * TAIL_FILES_MAX * TAIL_ROTATED_MAX;

/// What nobody has heard yet.
#[derive(Debug)]
pub(super) struct News {
    events: Vec<TailEvent>,
    next_number: u32,
}

impl Default for News {
    fn default() -> Self {
        Self {
            events: Vec::new(),
            // 0 is no file.
            next_number: 1,
        }
    }
}

impl News {
    /// Whether so much waits that nothing more is to be looked at.
    pub(super) fn is_full(&self) -> bool {
        self.events.len() >= EVENTS_MAX
    }

    /// All that waits.
    pub(super) fn take(&mut self) -> Vec<TailEvent> {
        std::mem::take(&mut self.events)
    }

    /// A number that no file has had.
    pub(super) fn number(&mut self) -> u32 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    pub(super) fn opened(&mut self, path: &Path, file: &Generation) {
        let position = file.position(path.as_os_str().as_bytes().to_vec());
        self.push(file.number, TailWhat::Opened(position));
    }

    pub(super) fn data(&mut self, file: u32, offset: u64, bytes: Vec<u8>) {
        self.push(file, TailWhat::Data(TailData { offset, bytes }));
    }

    /// Something that needs no words.
    pub(super) fn say(&mut self, file: u32, news: TailNews, path: &Path) {
        self.say_why(file, news, path, String::new());
    }

    pub(super) fn say_why(&mut self, file: u32, news: TailNews, path: &Path, message: String) {
        let notice = TailNotice {
            news: news as u32,
            path: path.as_os_str().as_bytes().to_vec(),
            message,
        };
        self.push(file, TailWhat::Notice(notice));
    }

    fn push(&mut self, file: u32, what: TailWhat) {
        let what = Some(what);
        self.events.push(TailEvent { file, what });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_and_what_was_taken_is_gone() {
        let mut news = News::default();
        assert_eq!([news.number(), news.number()], [1, 2]);
        news.say(1, TailNews::Rotated, Path::new("/a"));
        news.data(2, 7, b"x".to_vec());
        let files: Vec<_> = news.take().iter().map(|event| event.file).collect();
        assert_eq!(files, [1, 2]);
        assert_eq!(news.take(), []);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut news = News::default();
        while !news.is_full() {
            news.say(0, TailNews::Missing, Path::new("/a"));
        }
        assert_eq!(news.take().len(), EVENTS_MAX);
        assert!(!news.is_full());
    }
}
