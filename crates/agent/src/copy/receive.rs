//! The receiving end: makes what the sending end tells it of, beneath its target. It believes nothing that
//! it is told: names are single components, sources are those that were asked for, files those that it
//! answered for, and their bytes as many as were said.

mod entry;
mod file;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use tokio::sync::mpsc;

use self::file::{Current, Wanted};
use super::claim::{Alone, Claims};
use super::commit::{BUNDLE, Committer, Job, jobs};
use super::error::{CopyError, ProtocolError};
use super::folder::Folder;
use super::leftover::Leftovers;
use super::message::{Counts, Root, Trouble};
use super::out::Out;
use super::place::Base;
use super::tally::{Journal, Side, Summary, message_of};
use super::wire::{Decoder, Frame};

/// What sources are called at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Top {
    /// So, whatever the sending end calls them: one each, in the order in which they were asked for;
    /// `None`: what is in it goes into the target.
    Given(Vec<Option<Vec<u8>>>),
    /// As the sending end says: it is who chose the target.
    Told,
}

/// A receiving end, before it runs.
#[derive(Debug)]
pub struct Receiver {
    base: Base,
    top: Top,
    dry_run: bool,
    claims: Arc<dyn Claims>,
}

impl Receiver {
    /// Makes what comes beneath `base`; with `dry_run` nothing, and says what it would make.
    #[must_use]
    pub fn new(base: Base, top: Top, dry_run: bool) -> Self {
        Self {
            base,
            top,
            dry_run,
            claims: Arc::new(Alone),
        }
    }

    /// With others beside it, who may be at the same files.
    #[must_use]
    pub fn among(self, claims: Arc<dyn Claims>) -> Self {
        Self { claims, ..self }
    }

    /// Runs until all is made and on disk.
    ///
    /// # Errors
    /// [`CopyError`]; files that were whole are in their places then, and of a large one what had come
    /// is kept.
    ///
    /// # Cancellation
    /// Dropped, its thread ends with the next piece that it takes or says, in the same order.
    pub async fn run(
        self,
        input: mpsc::Receiver<Bytes>,
        output: mpsc::Sender<Bytes>,
        journal: Journal,
    ) -> Result<Summary, CopyError> {
        let work = tokio::task::spawn_blocking(move || self.work(input, output, &journal));
        let worked = work.await;
        worked.unwrap_or_else(|error| Err(CopyError::Thread(error.to_string())))
    }

    fn work(
        self,
        input: mpsc::Receiver<Bytes>,
        output: mpsc::Sender<Bytes>,
        journal: &Journal,
    ) -> Result<Summary, CopyError> {
        let mut out = Out::new(output);
        let result = self.receive(input, &mut out, journal);
        let last = match &result {
            Ok(counts) => Some(Frame::Done(*counts)),
            Err(CopyError::Left | CopyError::Told(_)) => None,
            Err(error) => Some(Frame::Trouble(Trouble::ending(error))),
        };
        if let Some(last) = last {
            // Who has left does not mind; without the last word the sending end does not believe.
            let _ = out.frame(&last).and_then(|()| out.flush());
        }
        result.map(|counts| journal.summary(counts))
    }

    fn receive(
        &self,
        mut input: mpsc::Receiver<Bytes>,
        out: &mut Out,
        journal: &Journal,
    ) -> Result<Counts, CopyError> {
        let stat = rustix::fs::fstat(&self.base.fd).map_err(|error| CopyError::Disk {
            path: self.base.path.display().to_string(),
            error: error.into(),
        })?;
        let (to, jobs) = jobs();
        let committer = Committer::new(&self.base, out.another(), journal.clone());
        std::thread::scope(|scope| {
            let committing = scope.spawn(move || committer.run(&jobs));
            let mut random = [0; 8];
            farpipe_net::system_random(&mut random);
            let mut receiving = Receiving {
                tag: u64::from_be_bytes(random),
                base: &self.base,
                top: &self.top,
                dry_run: self.dry_run,
                claims: &*self.claims,
                out,
                journal,
                jobs: to,
                bundle: Vec::new(),
                leftovers: Leftovers::new(),
                folder: Folder::base(stat.st_dev as u64),
                levels: Vec::new(),
                root: None,
                source: Vec::new(),
                next_source: 0,
                offers: 0,
                wanted: VecDeque::new(),
                current: Current::None,
                last: None,
                counts: Counts::default(),
            };
            let mut decoder = Decoder::default();
            let received = receiving.run(&mut input, &mut decoder);
            let received = received.map_err(|error| last_words(error, &mut input, decoder));
            let counts = receiving.leave();
            let committed = committing
                .join()
                .unwrap_or_else(|_| Err(CopyError::Thread("commit".to_owned())));
            match (received, committed) {
                // The committer's end was the first, and ended the other.
                (Err(CopyError::Thread(_)) | Ok(()), Err(error)) => Err(error),
                (Err(error), _) => Err(error),
                (Ok(()), Ok(committed)) => Ok(Counts {
                    files: committed.files,
                    bytes: committed.bytes,
                    kept: committed.kept,
                    ..counts
                }),
            }
        })
    }
}

/// A directory that has been entered.
#[derive(Debug)]
enum Level {
    Open {
        folder: Arc<Folder>,
        fd: Arc<OwnedFd>,
        /// It was made just now.
        is_fresh: bool,
    },
    /// It could not be made, so nothing in it can.
    Failed,
    /// It is not there, and nothing is to be made.
    Missing(Vec<u8>),
}

struct Receiving<'a> {
    base: &'a Base,
    top: &'a Top,
    dry_run: bool,
    claims: &'a dyn Claims,
    out: &'a mut Out,
    journal: &'a Journal,
    jobs: SyncSender<Vec<Job>>,
    /// Jobs that are not passed on yet.
    bundle: Vec<Job>,
    /// In the names of this copy's parts, where somebody else's have the usual ones.
    tag: u64,
    leftovers: Leftovers,
    /// The base's.
    folder: Arc<Folder>,
    levels: Vec<Level>,
    /// What comes next is this source.
    root: Option<Root>,
    /// The name of the source that came last.
    source: Vec<u8>,
    next_source: u32,
    /// Files that were offered.
    offers: u64,
    /// Those that are to come, in order.
    wanted: VecDeque<Wanted>,
    current: Current,
    /// The directory of the last file that began.
    last: Option<(Arc<Folder>, Arc<OwnedFd>)>,
    counts: Counts,
}

impl Receiving<'_> {
    fn run(
        &mut self,
        input: &mut mpsc::Receiver<Bytes>,
        decoder: &mut Decoder,
    ) -> Result<(), CopyError> {
        loop {
            while let Some(frame) = decoder.next_frame()? {
                if frame == Frame::Over {
                    return self.over(decoder);
                }
                self.handle(frame)?;
            }
            let piece = match input.try_recv() {
                Ok(piece) => piece,
                Err(_) => {
                    // Nobody waits for what is gathered here.
                    self.out.flush()?;
                    self.pass_jobs_on()?;
                    input.blocking_recv().ok_or(CopyError::Left)?
                }
            };
            decoder.feed(piece);
        }
    }

    fn over(&self, decoder: &Decoder) -> Result<(), CopyError> {
        let is_over = self.levels.is_empty()
            && self.wanted.is_empty()
            && matches!(self.current, Current::None)
            && decoder.is_between_frames();
        match is_over {
            true => Ok(()),
            false => Err(ProtocolError::Unexpected("it ends before its end").into()),
        }
    }

    fn handle(&mut self, frame: Frame) -> Result<(), CopyError> {
        match frame {
            Frame::Root(root) => self.handle_root(root),
            Frame::Enter(entry) => self.handle_enter(&entry),
            Frame::Leave => self.handle_leave(),
            Frame::Link(entry) => self.handle_link(&entry),
            Frame::Offer(entry) => self.handle_offer(&entry),
            Frame::Start(start) => self.handle_start(&start),
            Frame::Data(bytes) => self.handle_data(&bytes),
            Frame::Hole(hole) => self.handle_hole(hole.len),
            Frame::End(end) => self.handle_end(end.number),
            Frame::Fail(fail) => self.handle_fail(fail.number),
            Frame::Trouble(trouble) if trouble.ends => Err(CopyError::Told(message_of(&trouble))),
            Frame::Trouble(trouble) => {
                self.journal.far_trouble(Side::Sending, &trouble);
                Ok(())
            }
            Frame::Over
            | Frame::Want(_)
            | Frame::Skip(_)
            | Frame::Stop(_)
            | Frame::Saved(_)
            | Frame::Done(_)
            | Frame::Would(_) => {
                let said = "the sending end sent what a receiving end says";
                Err(ProtocolError::Unexpected(said).into())
            }
        }
    }

    /// An entry failed here; the others go on.
    fn trouble(&mut self, path: Vec<u8>, why: &str) -> Result<(), CopyError> {
        let trouble = self.journal.trouble(Side::Receiving, path, why.to_owned());
        self.out.frame(&Frame::Trouble(trouble))
    }

    fn job(&mut self, job: Job) -> Result<(), CopyError> {
        // A large file is open until it has its name: few of them wait.
        let is_large = matches!(&job, Job::File(_, whole) if whole.file.is_some());
        self.bundle.push(job);
        match is_large || self.bundle.len() >= BUNDLE {
            true => self.pass_jobs_on(),
            false => Ok(()),
        }
    }

    fn pass_jobs_on(&mut self) -> Result<(), CopyError> {
        if self.bundle.is_empty() {
            return Ok(());
        }
        // The committer is there as long as it has not failed.
        let failed = |_| CopyError::Thread("commit".to_owned());
        self.jobs
            .send(std::mem::take(&mut self.bundle))
            .map_err(failed)
    }

    /// What is whole goes to its place, and what is not is kept as far as it can be.
    fn leave(mut self) -> Counts {
        if let Current::Part {
            part, folder, name, ..
        } = std::mem::replace(&mut self.current, Current::None)
        {
            let kept = part.leave();
            let path = folder.path.join(name.as_os_str());
            tracing::info!("{}: cut; {kept} bytes are kept", path.display());
        }
        let base = Arc::clone(&self.folder);
        let _ = self
            .job(Job::Settled(base))
            .and_then(|()| self.pass_jobs_on());
        self.counts
    }
}

/// Who hears no more may have said why.
fn last_words(
    error: CopyError,
    input: &mut mpsc::Receiver<Bytes>,
    mut decoder: Decoder,
) -> CopyError {
    if !matches!(error, CopyError::Left) {
        return error;
    }
    loop {
        match decoder.next_frame() {
            Ok(Some(Frame::Trouble(trouble))) if trouble.ends => {
                return CopyError::Told(message_of(&trouble));
            }
            Ok(Some(_)) => {}
            Ok(None) => match input.blocking_recv() {
                Some(piece) => decoder.feed(piece),
                None => return error,
            },
            Err(_) => return error,
        }
    }
}
