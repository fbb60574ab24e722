//! The disk after a cut: what had been flushed, and of what was written since any part, torn at sectors.

use super::draw::Draw;
use super::journal::Entry;

const SECTOR: usize = 512;

/// What came of the writes that no flush had followed.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Fate {
    pub(super) kept: u64,
    pub(super) dropped: u64,
    pub(super) torn: u64,
}

/// A disk that is carried from cut to cut, each at the same place of the journal as the one before, or later.
#[derive(Debug)]
pub(super) struct Disk<'a> {
    entries: &'a [Entry],
    flushed: Vec<u8>,
    /// So many entries are in it.
    at: usize,
}

impl<'a> Disk<'a> {
    pub(super) fn new(content: Vec<u8>, entries: &'a [Entry]) -> Self {
        Self {
            entries,
            flushed: content,
            at: 0,
        }
    }

    /// The disk that forgets, cut in front of this entry.
    pub(super) fn cut(&mut self, at: usize, draw: &mut Draw) -> (Vec<u8>, Fate) {
        let is_flush = |entry: &Entry| matches!(entry, Entry::Flush);
        let flushed = self.entries[..at].iter().rposition(is_flush).unwrap_or(0);
        while self.at < flushed {
            if let Entry::Write(begin, bytes) = &self.entries[self.at] {
                write(&mut self.flushed, *begin, bytes);
            }
            self.at += 1;
        }
        let mut image = self.flushed.clone();
        let mut fate = Fate::default();
        let since: Vec<_> = self.entries[self.at..at]
            .iter()
            .filter_map(|entry| match entry {
                Entry::Write(begin, bytes) => Some((*begin, bytes)),
                Entry::Flush => None,
            })
            .collect();
        // All up to somewhere, or any: few, half or most of them.
        let prefix = (draw.below(3) == 0).then(|| draw.below(since.len() as u64 + 1));
        let likely = [1, 4, 7][draw.below(3) as usize];
        for (number, (begin, bytes)) in (0..).zip(since) {
            let is_kept = prefix.map_or_else(|| draw.below(8) < likely, |end| number < end);
            if !is_kept {
                fate.dropped += 1;
                continue;
            }
            fate.kept += 1;
            let sectors = bytes.len() / SECTOR;
            // Of a prefix the last one only.
            let is_whole = prefix.is_some_and(|end| number + 1 < end);
            if is_whole || sectors < 2 || draw.below(4) > 0 {
                write(&mut image, begin, bytes);
                continue;
            }
            fate.torn += 1;
            let tear = SECTOR * (1 + draw.below(sectors as u64 - 1) as usize);
            match draw.below(2) {
                0 => write(&mut image, begin, &bytes[..tear]),
                _ => write(&mut image, begin + tear, &bytes[tear..]),
            }
        }
        (image, fate)
    }
}

fn write(disk: &mut [u8], begin: usize, bytes: &[u8]) {
    disk[begin..begin + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let full = |begin, byte| Entry::Write(begin, vec![byte; 1024].into());
        vec![
            full(0, 1),
            Entry::Flush,
            full(0, 2),
            full(1024, 3),
            Entry::Flush,
        ]
    }

    #[test]
    fn what_was_flushed_stays_and_of_the_rest_any_part() {
        let entries = entries();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..500 {
            let mut disk = Disk::new(vec![0; 2048], &entries);
            let (image, _) = disk.cut(4, &mut Draw::new(seed, 0));
            let sectors: Vec<u8> = image.chunks(SECTOR).map(|sector| sector[0]).collect();
            assert!(sectors[..2].iter().all(|byte| [1, 2].contains(byte)));
            seen.insert(sectors);
            let (image, fate) = disk.cut(5, &mut Draw::new(seed, 0));
            assert_eq!((image[0], image[1024], fate.kept), (2, 3, 0));
        }
        // Each of the two not, whole, or one of its two sectors.
        assert_eq!(seen.len(), 16);
    }
}
