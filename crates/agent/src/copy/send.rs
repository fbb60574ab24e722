//! The sending end: offers what the walk finds, and sends what is wanted of it, one file behind the other.
//! Offers go on while files are sent, so that the receiving end has always been asked about the next ones.

use std::collections::VecDeque;

use bytes::Bytes;
use farpipe_proto::limits::COPY_OFFERS_MAX;
use tokio::sync::mpsc;

use super::error::{CopyError, ProtocolError};
use super::message::{Counts, Entry, Hole, Meta, Number, Root, Start, Trouble, Want};
use super::out::Out;
use super::place::Source;
use super::source::{CHANGED, Next, Reading};
use super::tally::{Event, Journal, Side, Summary, message_of};
use super::walk::{At, Sources, Step, Walk};
use super::wire::{Decoder, Frame};
use crate::shown::shown;

/// Steps of the walk between two pieces of a file.
const STEPS: usize = 64;

/// A sending end, before it runs.
#[derive(Debug)]
pub struct Sender {
    sources: Vec<Source>,
}

/// What the receiving end answers.
#[derive(Debug)]
enum Answer {
    Want(Want),
    Skip(u64),
    Stop(u64),
    Done(Counts),
    /// It gave up.
    Ended(String),
    Broken(ProtocolError),
}

impl Sender {
    /// Sends these.
    #[must_use]
    pub fn new(sources: Vec<Source>) -> Self {
        Self { sources }
    }

    /// Runs until the receiving end says that all is done.
    ///
    /// # Errors
    /// [`CopyError`]; what the receiving end has made by then stays.
    ///
    /// # Cancellation
    /// Dropped, its thread ends with the next piece that it passes on.
    pub async fn run(
        self,
        input: mpsc::Receiver<Bytes>,
        output: mpsc::Sender<Bytes>,
        journal: Journal,
    ) -> Result<Summary, CopyError> {
        // One answer for each offer, and a last word: there is always room, so hearing never waits for
        // sending. A peer that says more is ended.
        let (answers, answered) = mpsc::channel(COPY_OFFERS_MAX * 2 + 16);
        let hearing = hear(input, answers, journal.clone());
        let work = tokio::task::spawn_blocking(move || {
            Sending::new(self.sources, output, answered, journal).run()
        });
        let (worked, ()) = tokio::join!(work, hearing);
        worked.unwrap_or_else(|error| Err(CopyError::Thread(error.to_string())))
    }
}

/// Sorts what the receiving end says, until it ends or nobody wants to know.
async fn hear(mut input: mpsc::Receiver<Bytes>, answers: mpsc::Sender<Answer>, journal: Journal) {
    let mut decoder = Decoder::default();
    loop {
        let piece = tokio::select! {
            piece = input.recv() => piece,
            () = answers.closed() => return,
        };
        let Some(piece) = piece else { return };
        decoder.feed(piece);
        loop {
            let answer = match decoder.next_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => sort(frame, &journal),
                Err(error) => Some(Answer::Broken(error.into())),
            };
            let Some(answer) = answer else { continue };
            if answers.try_send(answer).is_err() {
                // It is over, or there are more answers than offers.
                return;
            }
        }
    }
}

fn sort(frame: Frame, journal: &Journal) -> Option<Answer> {
    match frame {
        Frame::Want(want) => Some(Answer::Want(want)),
        Frame::Skip(skip) => Some(Answer::Skip(skip.number)),
        Frame::Stop(stop) => Some(Answer::Stop(stop.number)),
        Frame::Done(counts) => Some(Answer::Done(counts)),
        Frame::Trouble(trouble) if trouble.ends => Some(Answer::Ended(message_of(&trouble))),
        Frame::Trouble(trouble) => {
            journal.far_trouble(Side::Receiving, &trouble);
            None
        }
        Frame::Would(would) => {
            journal.tell(Event::Would(would.path));
            None
        }
        Frame::Saved(_) => None,
        Frame::Root(_)
        | Frame::Enter(_)
        | Frame::Leave
        | Frame::Link(_)
        | Frame::Offer(_)
        | Frame::Start(_)
        | Frame::Data(_)
        | Frame::Hole(_)
        | Frame::End(_)
        | Frame::Fail(_)
        | Frame::Over => Some(Answer::Broken(ProtocolError::Unexpected(
            "the receiving end sent what a sending end says",
        ))),
    }
}

struct Sending {
    sources: Sources,
    walk: Walk,
    walked: bool,
    out: Out,
    answers: mpsc::Receiver<Answer>,
    journal: Journal,
    /// Files that were offered and not answered, and the number of the first.
    offered: VecDeque<(Meta, At)>,
    first: u64,
    wanted: VecDeque<(Want, Meta, At)>,
    current: Option<(u64, Reading, At)>,
}

impl Sending {
    fn new(
        sources: Vec<Source>,
        output: mpsc::Sender<Bytes>,
        answers: mpsc::Receiver<Answer>,
        journal: Journal,
    ) -> Self {
        let sources = Sources::new(sources);
        Self {
            walk: Walk::new(sources.clone()),
            sources,
            walked: false,
            out: Out::new(output),
            answers,
            journal,
            offered: VecDeque::new(),
            first: 0,
            wanted: VecDeque::new(),
            current: None,
        }
    }

    fn run(mut self) -> Result<Summary, CopyError> {
        let result = self.work().map_err(|error| self.last_words(error));
        match &result {
            Ok(_) | Err(CopyError::Left | CopyError::Told(_)) => {}
            Err(error) => {
                let last = Frame::Trouble(Trouble::ending(error));
                // Who has left does not mind.
                let _ = self.out.frame(&last).and_then(|()| self.out.flush());
            }
        }
        result
    }

    /// Who takes no more may have said why.
    fn last_words(&mut self, error: CopyError) -> CopyError {
        if !matches!(error, CopyError::Left) {
            return error;
        }
        while let Some(answer) = self.answers.blocking_recv() {
            if let Answer::Ended(why) = answer {
                return CopyError::Told(why);
            }
        }
        error
    }

    fn work(&mut self) -> Result<Summary, CopyError> {
        loop {
            while let Ok(answer) = self.answers.try_recv() {
                self.handle_answer(answer)?;
            }
            let offered = self.offer()?;
            let sent = self.send()?;
            if self.walked && self.open_offers() == 0 {
                break;
            }
            if !offered && !sent {
                self.out.flush()?;
                let answer = self.answers.blocking_recv().ok_or(CopyError::Left)?;
                self.handle_answer(answer)?;
            }
        }
        self.out.frame(&Frame::Over)?;
        self.out.flush()?;
        loop {
            match self.answers.blocking_recv().ok_or(CopyError::Left)? {
                Answer::Done(counts) => return Ok(self.journal.summary(counts)),
                Answer::Stop(_) => {}
                answer => self.handle_answer(answer)?,
            }
        }
    }

    fn open_offers(&self) -> usize {
        self.offered.len() + self.wanted.len() + usize::from(self.current.is_some())
    }

    fn handle_answer(&mut self, answer: Answer) -> Result<(), CopyError> {
        match answer {
            Answer::Want(want) => {
                let (meta, at) = self.answered(want.number)?;
                if want.kept > meta.size {
                    let said = "it keeps more of a file than there is";
                    return Err(ProtocolError::Unexpected(said).into());
                }
                self.journal.count(|tally| &tally.wanted_files, 1);
                self.journal.count(|tally| &tally.wanted_bytes, meta.size);
                self.wanted.push_back((want, meta, at));
            }
            Answer::Skip(number) => {
                self.answered(number)?;
            }
            Answer::Stop(number) => self.stop(number)?,
            Answer::Ended(why) => return Err(CopyError::Told(why)),
            Answer::Broken(error) => return Err(error.into()),
            Answer::Done(_) => {
                let said = "it says that all is done, and it is not";
                return Err(ProtocolError::Unexpected(said).into());
            }
        }
        Ok(())
    }

    /// The offer that an answer is for: they come in order.
    fn answered(&mut self, number: u64) -> Result<(Meta, At), CopyError> {
        if number != self.first {
            return Err(ProtocolError::NotWanted(number).into());
        }
        let offer = self.offered.pop_front();
        let offer = offer.ok_or(ProtocolError::NotWanted(number))?;
        self.first += 1;
        Ok(offer)
    }

    fn stop(&mut self, number: u64) -> Result<(), CopyError> {
        if self.current.as_ref().is_some_and(|(of, ..)| *of == number) {
            self.current = None;
            return self.out.frame(&Frame::Fail(Number { number }));
        }
        // Else it was sent to its end already.
        Ok(())
    }

    /// Offers some of what the walk comes to; whether there was anything.
    fn offer(&mut self) -> Result<bool, CopyError> {
        let mut any = false;
        for _ in 0..STEPS {
            if self.walked || self.open_offers() >= COPY_OFFERS_MAX {
                break;
            }
            any = true;
            let Some(step) = self.walk.next_step() else {
                self.walked = true;
                self.journal
                    .tally
                    .is_known
                    .store(true, std::sync::atomic::Ordering::Relaxed);
                break;
            };
            let frame = match step {
                Step::Root { source, contents } => Frame::Root(Root { source, contents }),
                Step::Enter { name, meta } => Frame::Enter(meta.entry(&name)),
                Step::Leave => Frame::Leave,
                Step::Link { name, meta, target } => Frame::Link(Entry {
                    target,
                    ..meta.entry(&name)
                }),
                Step::File { meta, at } => {
                    let entry = meta.entry(&at.name);
                    self.offered.push_back((meta, at));
                    Frame::Offer(entry)
                }
                Step::Trouble { path, why } => {
                    Frame::Trouble(self.journal.trouble(Side::Sending, path, why.to_string()))
                }
            };
            self.out.frame(&frame)?;
        }
        Ok(any)
    }

    /// Sends a piece of a file that is wanted; whether there was any.
    fn send(&mut self) -> Result<bool, CopyError> {
        if let Some((number, reading, at)) = self.current.take() {
            self.go_on(number, reading, at)?;
            return Ok(true);
        }
        let Some((want, offered, at)) = self.wanted.pop_front() else {
            return Ok(false);
        };
        let number = want.number;
        let opened = self.sources.open(&at).and_then(Reading::of);
        let begun = opened.and_then(|reading| {
            // What is kept is of the file that was offered.
            let agreed = match reading.meta == offered {
                true => self.agree(&want, &reading, &at)?,
                false => None,
            };
            Ok((reading, agreed))
        });
        match begun {
            Err(error) => self.fail(number, &at, error.to_string())?,
            Ok((mut reading, agreed)) => {
                let from = agreed.map_or(0, |_| want.kept);
                if let Some(digest) = agreed {
                    reading.skip(from, digest);
                }
                self.journal.count(|tally| &tally.moved_bytes, from);
                let meta = reading.meta;
                let start = Start { number, from, meta };
                self.out.frame(&Frame::Start(start))?;
                self.go_on(number, reading, at)?;
            }
        }
        Ok(true)
    }

    /// The digest of what the other end keeps of a file, if it is the same and need not be sent.
    fn agree(&self, want: &Want, reading: &Reading, at: &At) -> std::io::Result<Option<[u8; 32]>> {
        if want.kept == 0 || want.kept > reading.meta.size {
            return Ok(None);
        }
        let path = || shown(&self.sources.shown(at));
        let digest = reading.digest(want.kept)?;
        if digest[..] == want.digest[..] {
            self.journal.tell(Event::Kept {
                path: path(),
                kept: want.kept,
                // The other end knows.
                is_reread: false,
            });
            return Ok(Some(digest));
        }
        self.journal.tell(Event::Restarted {
            path: path(),
            why: "the source is not what it was",
        });
        Ok(None)
    }

    fn go_on(&mut self, number: u64, mut reading: Reading, at: At) -> Result<(), CopyError> {
        let moved = match reading.next() {
            Ok(Next::End) => {
                return match reading.is_one_state() {
                    Ok(true) => {
                        self.journal.count(|tally| &tally.moved_files, 1);
                        self.out.frame(&Frame::End(Number { number }))
                    }
                    Ok(false) => self.fail(number, &at, CHANGED.to_owned()),
                    Err(error) => self.fail(number, &at, error.to_string()),
                };
            }
            Ok(Next::Hole(len)) => {
                self.out.frame(&Frame::Hole(Hole { len }))?;
                len
            }
            Ok(Next::Data(len)) => match self.out.data(len, |into| reading.read(into))? {
                Ok(0) => return self.fail(number, &at, CHANGED.to_owned()),
                Ok(count) => count as u64,
                Err(error) => return self.fail(number, &at, error.to_string()),
            },
            Err(error) => return self.fail(number, &at, error.to_string()),
        };
        self.journal.count(|tally| &tally.moved_bytes, moved);
        self.current = Some((number, reading, at));
        Ok(())
    }

    fn fail(&mut self, number: u64, at: &At, why: String) -> Result<(), CopyError> {
        let trouble = self
            .journal
            .trouble(Side::Sending, self.sources.shown(at), why);
        self.out.frame(&Frame::Trouble(trouble))?;
        self.out.frame(&Frame::Fail(Number { number }))
    }
}
