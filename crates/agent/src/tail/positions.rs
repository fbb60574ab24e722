//! What the asking side has of which file: told anew to the next session when one is lost.

use std::collections::BTreeMap;

use farpipe_proto::limits::TAIL_LAST_MAX;
use farpipe_proto::wire::tail::{TailEvent, TailNews, TailPosition, TailWhat};

/// Keeps the last [`TAIL_LAST_MAX`] bytes of what came before and `bytes`.
pub(super) fn keep_last(last: &mut Vec<u8>, bytes: &[u8]) {
    let new = bytes.len().min(TAIL_LAST_MAX);
    let old = last.len().min(TAIL_LAST_MAX - new);
    last.drain(..last.len() - old);
    last.extend_from_slice(&bytes[bytes.len() - new..]);
}

/// What an agent said that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PositionsError {
    /// A number that it did not say what it means.
    #[error("file {0} is not known")]
    Unknown(u32),
    /// Bytes that do not follow those before.
    #[error("file {file}: bytes at {got} where {expected} is next")]
    Gap {
        /// Its number.
        file: u32,
        /// What came.
        got: u64,
        /// What had to come.
        expected: u64,
    },
}

/// Positions by the numbers of the files, which grow with the order of their content.
#[derive(Debug, Clone, Default)]
pub struct Positions {
    files: BTreeMap<u32, TailPosition>,
    /// What another session had, and this one has not taken up yet.
    before: Vec<TailPosition>,
    /// Whether the agent has said of all that was there how far it is.
    pub has_begun: bool,
    /// Whether it was the agent of this session.
    pub is_taken_up: bool,
}

impl Positions {
    /// Notes what was said and, if it has bytes, printed.
    ///
    /// # Errors
    /// [`PositionsError`]: nothing is noted.
    pub fn note(&mut self, event: &TailEvent) -> Result<(), PositionsError> {
        match &event.what {
            Some(TailWhat::Opened(position)) => {
                self.taken_up(|before| {
                    let is_there = before.offset == position.offset && before.last == position.last;
                    is_there && before.path == position.path
                });
                self.files.insert(event.file, position.clone());
            }
            Some(TailWhat::Data(data)) => {
                let _path = self.next(event.file, data.offset)?;
                if let Some(position) = self.files.get_mut(&event.file) {
                    position.offset = position.offset.saturating_add(data.bytes.len() as u64);
                    keep_last(&mut position.last, &data.bytes);
                }
            }
            Some(TailWhat::Notice(notice)) => match TailNews::from_wire(notice.news) {
                Some(TailNews::Begun) => (self.has_begun, self.is_taken_up) = (true, true),
                Some(TailNews::Closed) => {
                    self.files.remove(&event.file);
                }
                Some(TailNews::Lost) => self.taken_up(|before| before.path == notice.path),
                Some(
                    TailNews::Rotated
                    | TailNews::Truncated
                    | TailNews::Gone
                    | TailNews::Missing
                    | TailNews::Unreadable
                    | TailNews::Denied
                    | TailNews::TooMany,
                )
                | None => {}
            },
            None => {}
        }
        Ok(())
    }

    /// By which path a file is known, if these are its next bytes.
    ///
    /// # Errors
    /// [`PositionsError`].
    pub fn next(&self, file: u32, offset: u64) -> Result<&[u8], PositionsError> {
        let position = self.files.get(&file);
        let position = position.ok_or(PositionsError::Unknown(file))?;
        if position.offset != offset {
            return Err(PositionsError::Gap {
                file,
                got: offset,
                expected: position.offset,
            });
        }
        Ok(&position.path)
    }

    fn taken_up(&mut self, is_this: impl Fn(&TailPosition) -> bool) {
        if let Some(at) = self.before.iter().position(is_this) {
            self.before.remove(at);
        }
    }

    /// Another session begins, whose numbers begin anew.
    pub fn begin(&mut self) {
        self.before = self.all();
        self.files.clear();
        self.is_taken_up = false;
    }

    /// All of them, in the order of their content: what another session is asked for.
    #[must_use]
    pub fn all(&self) -> Vec<TailPosition> {
        self.files.values().chain(&self.before).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use farpipe_proto::wire::tail::TailData;

    use super::*;

    #[test]
    fn the_last_bytes_are_kept() {
        let mut last = Vec::new();
        let mut all = Vec::new();
        for len in [1, 3, 60, 2, 64, 10, 200, 0, 5] {
            let bytes: Vec<u8> = (0..len).map(|n| (n * 7 + len) as u8).collect();
            all.extend_from_slice(&bytes);
            keep_last(&mut last, &bytes);
            assert_eq!(last, all[all.len().saturating_sub(TAIL_LAST_MAX)..]);
        }
    }

    #[test]
    fn bytes_that_do_not_follow_are_an_error() {
        let mut positions = Positions::default();
        let data = |offset| TailEvent {
            file: 1,
            what: Some(TailWhat::Data(TailData {
                offset,
                bytes: b"xy".to_vec(),
            })),
        };
        let unknown = positions.note(&data(0));
        assert_eq!(unknown, Err(PositionsError::Unknown(1)));
        let opened = TailEvent {
            file: 1,
            what: Some(TailWhat::Opened(TailPosition::default())),
        };
        assert_eq!(positions.note(&opened), Ok(()));
        assert_eq!(positions.note(&data(0)), Ok(()));
        let gap = PositionsError::Gap {
            file: 1,
            got: 3,
            expected: 2,
        };
        assert_eq!(positions.note(&data(3)), Err(gap));
        assert_eq!(positions.note(&data(2)), Ok(()));
        assert_eq!(positions.all()[0].offset, 4);
    }
}
