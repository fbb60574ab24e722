//! The sidecar of a file that is not whole yet: hashes of the chunks that were received and are on disk. It
//! is why what was received is not read again when a copy goes on: the sending end hashes its own chunks,
//! and one digest says whether they are the same.
//!
//! A header tells the file from any other; then when its part was written to last (`clock.rs`), which is written
//! over; then records, each appended when its chunks have been synced:
//!
//! ```text
//! header: magic 16 | size u64 | seconds i64 | nanos u32 | 0 u32 | inode u64 | check 16
//! note:   seconds u64 | nanos u32 | 0 u32 | inode of the part u64 | check 8
//! record: chunks u64 | BLAKE3 of each of them 32 | check 8           all numbers big-endian
//! ```
//!
//! A record stands for that many equal chunks: those of a hole are one. Its check covers the header and
//! how many chunks came before, so what a crash left of it, or what belongs to another file, is none; what
//! stands behind the first that is none is not believed.

use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::sync::LazyLock;

use bytes::{Buf as _, BufMut as _};
use farpipe_proto::limits::COPY_CHUNK;
use rustix::fs::Stat;

use super::clock::{NOTE, Note};
use super::message::Meta;

const MAGIC: &[u8; 16] = b"farpipe-sums-2\n\0";
pub(super) const HEADER: usize = 64;
const HEADER_CHECKED: usize = 48;
/// Where the records begin.
pub(super) const RECORDS: usize = HEADER + NOTE;
pub(super) const RECORD: usize = 48;
const RECORD_CHECKED: usize = 40;

/// The hash of a chunk that is all zeros.
pub(crate) static ZEROS: LazyLock<[u8; 32]> =
    LazyLock::new(|| *blake3::hash(&vec![0; COPY_CHUNK]).as_bytes());

/// BLAKE3 of the hashes of chunks, equal ones that follow each other taken together. Its size does not
/// depend on how many there are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Digest {
    hasher: blake3::Hasher,
    run: Run,
}

/// Equal chunks behind one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) count: u64,
    pub(crate) hash: [u8; 32],
}

impl Digest {
    pub(crate) fn add(&mut self, hash: &[u8; 32]) {
        self.add_run(Run {
            count: 1,
            hash: *hash,
        });
    }

    /// Chunks of a hole.
    pub(crate) fn add_zeros(&mut self, count: u64) {
        let hash = *ZEROS;
        self.add_run(Run { count, hash });
    }

    pub(crate) fn add_run(&mut self, run: Run) {
        if self.run.count > 0 && self.run.hash == run.hash {
            self.run.count = self.run.count.saturating_add(run.count);
            return;
        }
        self.close();
        self.run = run;
    }

    fn close(&mut self) {
        if self.run.count > 0 {
            self.hasher.update(&self.run.count.to_be_bytes());
            self.hasher.update(&self.run.hash);
        }
    }

    pub(crate) fn finish(mut self) -> [u8; 32] {
        self.close();
        *self.hasher.finalize().as_bytes()
    }
}

/// A sidecar as far as it can be believed.
#[derive(Debug)]
pub(crate) struct Sidecar {
    file: File,
    header: [u8; HEADER],
    noted: Option<Note>,
    /// Where the next record goes.
    end: u64,
    /// Chunks that it stands for.
    pub(crate) chunks: u64,
    digest: Digest,
}

impl Sidecar {
    /// Makes it one of no chunks, whatever it was.
    pub(crate) fn begin(file: File, meta: &Meta) -> io::Result<Self> {
        let header = header(meta);
        file.set_len(0)?;
        file.write_all_at(&header, 0)?;
        // No note is one of old: none is read.
        file.write_all_at(&[0; NOTE], HEADER as u64)?;
        Ok(Self {
            file,
            header,
            noted: None,
            end: RECORDS as u64,
            chunks: 0,
            digest: Digest::default(),
        })
    }

    /// Reads one; `None`: it is another file's, or none.
    pub(crate) fn read(file: File, meta: &Meta) -> io::Result<Option<Self>> {
        let mut reader = BufReader::new(&file);
        let mut found = [0; HEADER];
        match reader.read_exact(&mut found) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let header = header(meta);
        if found != header {
            return Ok(None);
        }
        let chunks_max = meta.size / COPY_CHUNK as u64;
        let mut note = [0; NOTE];
        let noted = match reader.read_exact(&mut note) {
            Ok(()) => Note::parse(&note),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        let (mut end, mut chunks, mut digest) = (RECORDS as u64, 0_u64, Digest::default());
        let mut record = [0; RECORD];
        loop {
            match reader.read_exact(&mut record) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
            let Some(run) = parse(&header, chunks, &record) else {
                break;
            };
            let sum = chunks.checked_add(run.count);
            let Some(sum) = sum.filter(|sum| *sum <= chunks_max) else {
                break;
            };
            chunks = sum;
            end += RECORD as u64;
            digest.add_run(run);
        }
        drop(reader);
        Ok(Some(Self {
            file,
            header,
            noted,
            end,
            chunks,
            digest,
        }))
    }

    /// Bytes that it stands for.
    pub(crate) fn bytes(&self) -> u64 {
        self.chunks * COPY_CHUNK as u64
    }

    pub(crate) fn digest(&self) -> [u8; 32] {
        self.digest.clone().finish()
    }

    /// Notes that the part of this number is written to now: to be called before and after. A note that
    /// cannot be written costs the reading of the part.
    pub(crate) fn note(&mut self, inode: u64) {
        let Some(note) = Note::due(self.noted, inode) else {
            return;
        };
        match self.file.write_all_at(&note.to_bytes(), HEADER as u64) {
            Ok(()) => self.noted = Some(note),
            Err(error) => tracing::debug!("no note in a sidecar: {error}"),
        }
    }

    /// Whether nobody but the copy itself has written to `part`, as far as can be told without reading it;
    /// `sums`: this file.
    pub(crate) fn is_last(&self, part: &Stat, sums: &Stat) -> bool {
        self.noted.is_some_and(|note| note.is_last(part, sums))
    }

    /// Appends chunks that are on disk.
    pub(crate) fn append(&mut self, runs: &[Run]) -> io::Result<()> {
        let mut records = Vec::with_capacity(runs.len() * RECORD);
        let mut chunks = self.chunks;
        for run in runs {
            records.extend_from_slice(&record(&self.header, chunks, *run));
            chunks += run.count;
        }
        self.file.write_all_at(&records, self.end)?;
        self.end += records.len() as u64;
        self.chunks = chunks;
        for run in runs {
            self.digest.add_run(*run);
        }
        Ok(())
    }
}

fn header(meta: &Meta) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let mut rest = &mut header[..];
    rest.put_slice(MAGIC);
    rest.put_u64(meta.size);
    rest.put_i64(meta.seconds);
    rest.put_u32(meta.nanos);
    rest.put_u32(0);
    rest.put_u64(meta.inode);
    let check = blake3::hash(&header[..HEADER_CHECKED]);
    header[HEADER_CHECKED..].copy_from_slice(&check.as_bytes()[..HEADER - HEADER_CHECKED]);
    header
}

fn record(header: &[u8; HEADER], before: u64, run: Run) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let mut rest = &mut record[..];
    rest.put_u64(run.count);
    rest.put_slice(&run.hash);
    let check = check(header, before, &record);
    record[RECORD_CHECKED..].copy_from_slice(&check);
    record
}

fn check(header: &[u8; HEADER], before: u64, record: &[u8; RECORD]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header);
    hasher.update(&before.to_be_bytes());
    hasher.update(&record[..RECORD_CHECKED]);
    let mut check = [0; 8];
    hasher.finalize_xof().fill(&mut check);
    check
}

fn parse(header: &[u8; HEADER], before: u64, record: &[u8; RECORD]) -> Option<Run> {
    if record[RECORD_CHECKED..] != check(header, before, record) {
        return None;
    }
    let mut rest = &record[..];
    let count = rest.get_u64();
    let hash = rest[..32].try_into().ok()?;
    (count > 0).then_some(Run { count, hash })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meta() -> Meta {
        Meta {
            mode: 0o644,
            seconds: 17,
            nanos: 5,
            size: 100 * COPY_CHUNK as u64 + 7,
            inode: 9,
        }
    }

    fn runs(hashes: &[(u64, u8)]) -> Vec<Run> {
        let run = |(count, byte): &(u64, u8)| Run {
            count: *count,
            hash: [*byte; 32],
        };
        hashes.iter().map(run).collect()
    }

    fn reread(file: &File, meta: &Meta) -> Option<Sidecar> {
        use std::io::Seek as _;
        let mut file = file.try_clone().expect("a descriptor");
        file.rewind().expect("a file");
        Sidecar::read(file, meta).expect("a file")
    }

    #[test]
    fn what_was_appended_is_read_again_and_belongs_to_that_file_only() {
        let file = tempfile::tempfile().expect("a file");
        let mut sidecar = Sidecar::begin(file.try_clone().expect("one"), &meta()).expect("room");
        sidecar.append(&runs(&[(1, 1), (40, 0)])).expect("room");
        sidecar.append(&runs(&[(2, 0), (1, 3)])).expect("room");
        let again = reread(&file, &meta()).expect("it is a sidecar");
        assert_eq!((again.chunks, again.digest()), (44, sidecar.digest()));
        for other in [
            Meta { inode: 8, ..meta() },
            Meta { size: 1, ..meta() },
            Meta { nanos: 6, ..meta() },
        ] {
            assert!(reread(&file, &other).is_none());
        }
        // Only its mode is another: the content is the same.
        let moded = Meta { mode: 0, ..meta() };
        assert!(reread(&file, &moded).is_some());
    }

    #[test]
    fn more_chunks_than_the_file_has_are_not_believed() {
        let file = tempfile::tempfile().expect("a file");
        let mut sidecar = Sidecar::begin(file.try_clone().expect("one"), &meta()).expect("room");
        sidecar.append(&runs(&[(99, 1), (2, 2)])).expect("room");
        assert_eq!(reread(&file, &meta()).expect("a sidecar").chunks, 99);
    }

    proptest! {
        #[test]
        fn a_damaged_sidecar_is_believed_up_to_the_damage(
            counts in prop::collection::vec((1_u64..4, any::<u8>()), 1..20),
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
            cut in any::<bool>(),
        ) {
            let file = tempfile::tempfile().expect("a file");
            let mut sidecar = Sidecar::begin(file.try_clone().expect("one"), &meta()).expect("room");
            sidecar.append(&runs(&counts)).expect("room");
            let len = RECORDS + counts.len() * RECORD;
            let at = at.index(len);
            if cut {
                file.set_len(at as u64).expect("a file");
            } else {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at as u64).expect("it is there");
                file.write_all_at(&[byte[0] ^ 1 << bit], at as u64).expect("room");
            }
            let read = reread(&file, &meta());
            if at < HEADER {
                prop_assert!(read.is_none());
            } else {
                let whole = match at.checked_sub(RECORDS) {
                    Some(at) => at / RECORD,
                    None if cut => 0,
                    // The note says nothing of them.
                    None => counts.len(),
                };
                let chunks: u64 = counts[..whole].iter().map(|(count, _)| count).sum();
                prop_assert_eq!(read.expect("its header is whole").chunks, chunks);
            }
        }

        #[test]
        fn a_digest_is_the_same_however_its_runs_are_cut(
            counts in prop::collection::vec((1_u64..5, 0_u8..3), 0..20),
        ) {
            let (mut one, mut other) = (Digest::default(), Digest::default());
            for run in runs(&counts) {
                one.add_run(run);
                for _ in 0..run.count {
                    other.add(&run.hash);
                }
            }
            prop_assert_eq!(one.finish(), other.finish());
        }
    }
}
