//! The writer of a pipe by a relay: readers come, each with a session of its own, and when all that
//! are wanted are there, each gets all of it. An only reader that is waited for gets the source itself,
//! as any stream does (`server.rs`); else the source is read once for all (`spread/`).
//!
//! Who comes later is refused; but a reader that was killed, and is run again by the same caller, has its
//! old place taken from it (`serve/held.rs`): before the beginning the new one has it, and later the pipe
//! fails at once, as what the old one got is gone. When the last reader has answered for what it got, no session is taken
//! any more: who comes then is the next writer's, and asks the relay again.

use std::convert::Infallible;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farpipe_net::{AcceptedSession, Linked, SessionEnd, SessionHandle, Sessions, Stream};
use farpipe_proto::identity::Caller;
use farpipe_proto::limits::DRAIN;
use farpipe_proto::wire::control::{self, Accept, Open, Refuse};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::blocks::Compression;
use crate::client::unless_given_up;
use crate::eager::eager;
use crate::endpoint::{Endpoint, Exit};
use crate::fan::Report;
use crate::outcome::{Outcome, PipeError, STATUS_FAILURE, describe, to_wire};
use crate::pipe::{self, Cancel, cancelled};
use crate::pump::Meter;
use crate::serve::{Asker, Held, Holding, Thing};
use crate::server::{self, Served, Target, refuse_more};
use crate::spread::{Lost, Slow, Spread};

/// Whether a pipe is sent to somebody, and why not.
pub type Admits = Arc<dyn Fn(Option<&Caller>) -> Result<(), String> + Send + Sync>;

/// Hears what a reader lost because it was behind, when it has ended.
pub type TellLost = Arc<dyn Fn(&str, Lost) + Send + Sync>;

/// Hears that a reader has had no link for some seconds (`true`), and that it has one again. Must not wait.
pub type TellAway = Arc<dyn Fn(&str, bool) + Send + Sync>;

/// What a writer is told.
pub struct Sending {
    /// The pipe's name.
    pub name: String,
    /// Readers that are waited for, at least 1.
    pub readers: usize,
    /// How long; `None`: without end.
    pub wait: Option<Duration>,
    /// What becomes of a reader that is behind.
    pub slow: Slow,
    /// Who may be one.
    pub admits: Admits,
    /// Hears of readers that failed, if there are several.
    pub report: Report,
    /// Hears of readers that lost something, which they only do with [`Slow::Drop`].
    pub tell_lost: TellLost,
    /// Hears of readers that are waited for.
    pub tell_away: TellAway,
    /// Counts what is read.
    pub meter: Arc<Meter>,
    /// Ends all.
    pub cancel: Cancel,
}

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending")
            .field("name", &self.name)
            .field("readers", &self.readers)
            .field("wait", &self.wait)
            .field("slow", &self.slow)
            .finish_non_exhaustive()
    }
}

/// The readers so far.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    here: usize,
    /// All that ever were here.
    came: usize,
    /// The writer waits no more.
    has_given_up: bool,
    /// All have come; what is sent is sent.
    has_begun: bool,
    /// Those that have answered for what they got.
    answered: usize,
}

/// What the tasks of all readers share.
#[derive(Debug)]
struct Pipe {
    sending: Sending,
    count: watch::Sender<Count>,
    feed: Feed,
    /// Whose the places are.
    held: Held,
    /// How the command at the source has ended, once that is known.
    exit: watch::Sender<Option<control::Exit>>,
}

/// What readers get.
#[derive(Debug)]
enum Feed {
    /// The only one: the endpoint itself.
    Whole(Mutex<Option<Target>>),
    /// Each: what is read of it once.
    Spread(Arc<Spread>),
}

/// Between two looks at whether a reader has its link again before the beginning.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a reader has no link before that is told: most are back at once.
const AWAY: Duration = Duration::from_secs(2);
/// Between two looks at that.
const AWAY_LOOK: Duration = Duration::from_millis(500);

/// How the session of one who came has ended.
#[derive(Debug)]
enum Ended {
    /// It was none of the readers.
    Stranger,
    Reader(String, Outcome),
}

/// Waits for the readers of a pipe and sends `target` to them, until everything is settled at all
/// ends.
///
/// # Cancellation
/// Dropping it ends all sessions without a word. Use `cancel`.
pub async fn run(sessions: Sessions, sending: Sending, target: Target) -> Outcome {
    let (wait, cancel) = (sending.wait, sending.cancel.clone());
    let is_whole = sending.readers == 1 && sending.slow == Slow::Block;
    let (feed, target) = match is_whole {
        true => (Feed::Whole(Mutex::new(Some(target))), None),
        false => match Spread::new(sending.readers, sending.slow) {
            Ok(spread) => (Feed::Spread(spread), Some(target)),
            Err(error) => {
                let why = format!("cannot make a spool: {}", describe(&error));
                return PipeError::Local(why).into();
            }
        },
    };
    let pipe = Arc::new(Pipe {
        count: watch::Sender::new(Count::default()),
        feed,
        held: Held::default(),
        exit: watch::Sender::new(None),
        sending,
    });
    let mut sessions = Some(sessions);
    let mut running = JoinSet::new();
    let mut outcomes = Vec::new();
    let mut filling = std::pin::pin!(pipe.fill(target));
    let mut filled = None;
    let mut waited = std::pin::pin!(pipe.waited(wait));
    let mut answered = std::pin::pin!(pipe.all_answered());
    let mut beginning = std::pin::pin!(pipe.begin());
    let gave_up = loop {
        tokio::select! {
            session = next(&mut sessions) => {
                running.spawn(Arc::clone(&pipe).one(session));
            }
            Some(ended) = running.join_next() => {
                if let Some(outcome) = pipe.handle_ended(ended) {
                    outcomes.push(outcome);
                }
                if outcomes.len() == pipe.sending.readers {
                    break None;
                }
            }
            done = &mut filling, if filled.is_none() => filled = Some(done),
            why = &mut waited => break Some(why),
            () = &mut beginning => {}
            () = &mut answered, if sessions.is_some() => sessions = None,
            () = cancelled(cancel.clone()), if !pipe.has_begun() => break Some(PipeError::Cancelled),
        }
    };
    drop(sessions);
    pipe.count
        .send_modify(|count| count.has_given_up = gave_up.is_some());
    // Who was refused is to hear why.
    let ending = async { while running.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, ending).await;
    if let Some(error) = gave_up {
        return error.into();
    }
    let filled = match filled {
        Some(filled) => filled,
        None => filling.await,
    };
    pipe.conclude(filled, outcomes)
}

/// The next one who comes, for ever pending when nobody is taken any more.
async fn next(sessions: &mut Option<Sessions>) -> AcceptedSession {
    let session = match sessions {
        Some(sessions) => sessions.next().await,
        None => None,
    };
    match session {
        Some(session) => session,
        None => std::future::pending().await,
    }
}

impl Pipe {
    fn has_begun(&self) -> bool {
        self.count.borrow().has_begun
    }

    /// Ready when not all readers have come in time.
    async fn waited(&self, wait: Option<Duration>) -> PipeError {
        let begun = self.begun();
        match wait {
            None => std::future::pending().await,
            Some(wait) if tokio::time::timeout(wait, begun).await.is_err() => {
                let (wanted, here) = (self.sending.readers, self.count.borrow().here);
                let name = &self.sending.name;
                let whom = match wanted {
                    1 => format!("a reader of the pipe {name}"),
                    _ => format!("{wanted} readers of the pipe {name}: {here} came"),
                };
                PipeError::Local(format!(
                    "waited {} s in vain for {whom}",
                    wait.as_secs_f64()
                ))
            }
            Some(_) => std::future::pending().await,
        }
    }

    /// Waits until all readers have come; `false` if that is waited for no more. Cancel safe.
    async fn begun(&self) -> bool {
        let mut count = self.count.subscribe();
        let decided = count.wait_for(|count| count.has_begun || count.has_given_up);
        // The sender lives as long as this.
        decided.await.is_ok_and(|count| count.has_begun)
    }

    async fn all_answered(&self) {
        let readers = self.sending.readers;
        let all = |count: &Count| count.answered >= readers;
        let _ = self.count.subscribe().wait_for(all).await;
    }

    /// Begins when all readers have come and have a link: one that was killed may have its place taken before.
    /// Never ready: there is nothing more to do then.
    async fn begin(&self) {
        let wanted = self.sending.readers;
        let mut count = self.count.subscribe();
        loop {
            // The sender lives as long as this.
            let _ = count
                .wait_for(|count| count.here == wanted && !count.has_begun)
                .await;
            if self.held.are_linked() {
                self.count.send_if_modified(|count| {
                    count.has_begun = count.here == wanted;
                    count.has_begun
                });
            } else {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// Makes one more a reader, if one more is wanted; its number among those that ever came.
    fn enter(&self, asker: &Asker) -> Option<(usize, Holding)> {
        let wanted = self.sending.readers;
        let mut number = 0;
        let entered = self.count.send_if_modified(|count| {
            let has_room = count.here < wanted && !count.has_begun && !count.has_given_up;
            if has_room {
                count.here += 1;
                count.came += 1;
                number = count.came;
            }
            has_room
        });
        let hold = || self.held.hold(Thing::Reader(number), asker.clone());
        entered.then(|| (number, hold()))
    }

    /// As [`Pipe::enter`]; without room, in the place of one that the same caller had before, if its
    /// process is gone.
    async fn enter_or_follow(&self, asker: &Asker) -> Result<(usize, Holding), String> {
        if let Some(entered) = self.enter(asker) {
            return Ok(entered);
        }
        let has_followed = self.held.vacate_any(asker).await;
        let name = &self.sending.name;
        self.enter(asker).ok_or_else(|| match has_followed {
            true => format!(
                "the pipe {name} had begun, and what its reader before this one got is not sent twice: start \
                 its writer anew, then this"
            ),
            false => format!("the pipe {name} has all its readers"),
        })
    }

    /// Makes one a reader no more; `false` if all have come in this very moment: then it is a reader that
    /// got nothing.
    fn leave(&self) -> bool {
        let mut has_begun = false;
        self.count.send_modify(|count| {
            has_begun = count.has_begun;
            if !has_begun {
                count.here -= 1;
            }
        });
        !has_begun
    }

    /// One session, from its beginning to its end.
    async fn one(self: Arc<Self>, session: AcceptedSession) -> Ended {
        let cancel = self.sending.cancel.clone();
        let handle = session.handle();
        handle.hold();
        let name = session.name();
        let caller = session.caller().cloned();
        let (replaced, is_replaced) = oneshot::channel();
        let serving = async {
            let first = handle.accept().await;
            let serving = async {
                let served = match first {
                    Some((stream, open)) => self.serve(stream, open, &handle, caller).await,
                    None => None,
                };
                handle.release();
                if served
                    .as_ref()
                    .is_some_and(|(_, served)| served.is_replaced())
                {
                    // An error means that its session is over already.
                    let _ = replaced.send(());
                }
                served
            };
            tokio::join!(serving, refuse_more(&handle)).0
        };
        let linked = unless_given_up(session.run(), &handle, cancel);
        let linked = async {
            tokio::select! {
                ended = linked => ended,
                // It was killed, so nobody comes back to hear of it.
                Ok(()) = is_replaced => Ok(()),
            }
        };
        let both = async { tokio::join!(serving, linked) };
        let (served, settled) = match self.feed {
            Feed::Whole(_) => eager(both).await,
            Feed::Spread(_) => both.await,
        };
        let Some((who, served)) = served else {
            return Ended::Stranger;
        };
        let mut outcome = served.settle();
        if let Err(end) = settled {
            outcome.fail(end.into());
        }
        if let Some(PipeError::Session(SessionEnd::Replaced(why))) = &outcome.error {
            outcome.error = Some(PipeError::Remote(format!("{who} is gone: {why}")));
        }
        tracing::info!(
            "session {name}: {who} ended with status {}",
            outcome.status()
        );
        Ended::Reader(who, outcome)
    }

    /// Serves the stream of one who came, if it is one of the readers.
    async fn serve(
        self: &Arc<Self>,
        mut stream: Stream,
        open: Open,
        handle: &SessionHandle,
        relayed: Option<Caller>,
    ) -> Option<(String, Served)> {
        let Sending { name, cancel, .. } = &self.sending;
        let caller = handle.peer_identity().await.or(relayed);
        if let Err(why) = (self.sending.admits)(caller.as_ref()) {
            let who = caller.map_or_else(|| "somebody".to_owned(), |who| who.to_string());
            tracing::info!("{who} is refused: {why}");
            refuse(stream, format!("the writer of the pipe {name} {why}"));
            return None;
        }
        let asker = Asker {
            session: handle.clone(),
            caller: caller.clone(),
        };
        let (number, _place) = match self.enter_or_follow(&asker).await {
            Ok(entered) => entered,
            Err(why) => {
                refuse(stream, why);
                return None;
            }
        };
        let who = match caller.as_ref().and_then(Caller::identity) {
            Some(identity) => format!("reader {number} ({identity})"),
            None => format!("reader {number}"),
        };
        tracing::info!("{who} has come");
        match stays(&mut stream, self.begun(), cancel).await {
            Some(true) => {}
            Some(false) => {
                let why = "the writer has given up: not all its readers have come";
                refuse(stream, why.to_owned());
                return None;
            }
            None if self.leave() => {
                tracing::info!("{who} has left before all had come");
                return None;
            }
            None => {}
        }
        let telling = self.tell_away(&who, handle);
        let feeding = async {
            let (mut served, lost) = self.feed(stream, &open, cancel.clone()).await;
            if lost != Lost::default() {
                (self.sending.tell_lost)(&who, lost);
            }
            // Told to end: the session still waits for the answer, for a moment.
            let _ = pipe::unless_cancelled(cancel.clone(), served.answered()).await;
            served
        };
        let served = tokio::select! {
            biased;
            served = feeding => served,
            never = telling => match never {},
        };
        self.count.send_modify(|count| count.answered += 1);
        Some((who, served))
    }

    /// Tells of a reader that has no link: until it has, or is given up, the writer may stand still.
    async fn tell_away(&self, who: &str, handle: &SessionHandle) -> Infallible {
        let mut lost_at = None;
        let mut is_told = false;
        loop {
            tokio::time::sleep(AWAY_LOOK).await;
            if handle.linked() != Linked::Lost {
                lost_at = None;
                if std::mem::take(&mut is_told) {
                    (self.sending.tell_away)(who, false);
                }
                continue;
            }
            let since = *lost_at.get_or_insert_with(Instant::now);
            if !is_told && since.elapsed() >= AWAY {
                is_told = true;
                (self.sending.tell_away)(who, true);
            }
        }
    }

    /// Sends to one reader what it is to get, and says what it lost.
    async fn feed(&self, stream: Stream, open: &Open, cancel: Cancel) -> (Served, Lost) {
        let blocks = server::blocks(open);
        match &self.feed {
            Feed::Whole(target) => {
                let target = target.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(target) = target else {
                    return nothing_left();
                };
                let meter = Arc::clone(&self.sending.meter);
                let served = server::serve(stream, blocks, target, meter, cancel).await;
                (served, Lost::default())
            }
            Feed::Spread(spread) => self.share(spread, stream, blocks, cancel).await,
        }
    }

    /// Sends one reader its share. It hears how the command at the source has ended, and what it lost,
    /// as if it were that command's caller.
    async fn share(
        &self,
        spread: &Arc<Spread>,
        stream: Stream,
        blocks: Option<Compression>,
        cancel: Cancel,
    ) -> (Served, Lost) {
        let Some(cursor) = spread.reader() else {
            return nothing_left();
        };
        let number = cursor.number();
        let endpoint = Endpoint {
            source: Some(Box::new(cursor)),
            ..Endpoint::default()
        };
        stream.accept(Accept { has_command: true });
        // What is read is counted once, where it is read.
        let mut pipe = match pipe::Pipe::new(endpoint, stream, blocks, Arc::default()) {
            Ok(pipe) => pipe,
            Err(failed) => return (Served::new(failed.0, failed.1), Lost::default()),
        };
        pipe.drive(cancel.clone()).await;
        let exit = if pipe.has_failed() {
            control::Exit::default()
        } else if pipe.has_no_reader() {
            // It does not wait for the others.
            to_wire(Exit::Code(0))
        } else {
            let ended = pipe::unless_cancelled(cancel, self.exited());
            ended.await.unwrap_or_default()
        };
        let lost = spread.lost(number);
        pipe.last_word(control::Exit {
            dropped: lost.bytes,
            ..exit
        });
        let (outcome, watch) = pipe.finish();
        (Served::new(outcome, watch), lost)
    }

    /// How the command at the source has ended; without one it has ended well. Cancel safe.
    async fn exited(&self) -> control::Exit {
        let mut exit = self.exit.subscribe();
        let exit = exit.wait_for(Option::is_some).await;
        exit.ok().and_then(|exit| *exit).unwrap_or_default()
    }

    /// Reads the source for all readers, when they are there; nothing to do for an only one.
    async fn fill(&self, target: Option<Target>) -> Filled {
        let (Feed::Spread(spread), Some(target)) = (&self.feed, target) else {
            return Filled::default();
        };
        if !self.begun().await {
            return Filled::default();
        }
        let filled = self.read(spread, target).await;
        // The first word counts, if it was said.
        spread.end(Err("the writer has failed".to_owned()));
        let exit = match filled.outcome.local_exit {
            Some(exit) => to_wire(exit),
            None if filled.outcome.error.is_some() => control::Exit::default(),
            None => to_wire(Exit::Code(0)),
        };
        self.exit.send_replace(Some(exit));
        filled
    }

    async fn read(&self, spread: &Spread, target: Target) -> Filled {
        let cancel = &self.sending.cancel;
        let failed = |error: PipeError| {
            spread.end(Err(error.to_string()));
            Filled {
                outcome: error.into(),
                lock: None,
            }
        };
        let mut endpoint = match pipe::unless_cancelled(cancel.clone(), target.open()).await {
            Ok(Ok(endpoint)) => endpoint,
            Ok(Err(error)) => return failed(PipeError::from(&error)),
            Err(error) => return failed(error),
        };
        let mut filled = Filled {
            outcome: Outcome::default(),
            lock: endpoint.take_lock(),
        };
        let (child, parting) = (endpoint.child.take(), endpoint.parting.take());
        if let Some(source) = &mut endpoint.source {
            let count = |read: usize| {
                let sent = &self.sending.meter.sent;
                sent.fetch_add(read as u64, Ordering::Relaxed);
            };
            let reading = spread.fill(&mut **source, count);
            let end = match pipe::unless_cancelled(cancel.clone(), reading).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(PipeError::Local(describe(&error))),
                Err(error) => Err(error),
            };
            spread.end(match &end {
                Ok(()) => Ok(()),
                Err(error) => Err(error.to_string()),
            });
            if let Err(error) = end {
                filled.outcome.fail(error);
            }
        }
        drop(endpoint);
        pipe::part(parting, pipe::leaving(&filled.outcome)).await;
        if let Some(child) = child {
            let exit = pipe::end_child(child, &mut filled.outcome, cancel.clone()).await;
            filled.outcome.local_exit = exit;
        }
        filled
    }

    fn handle_ended(&self, ended: Result<Ended, JoinError>) -> Option<(String, Outcome)> {
        match ended {
            Ok(Ended::Stranger) => None,
            Ok(Ended::Reader(who, outcome)) => Some((who, outcome)),
            Err(error) => {
                let failed = PipeError::Local(format!("a reader's task failed: {error}"));
                self.has_begun()
                    .then(|| ("a reader".to_owned(), failed.into()))
            }
        }
    }

    /// What the ends of the source and of all readers come to.
    fn conclude(&self, filled: Filled, mut outcomes: Vec<(String, Outcome)>) -> Outcome {
        let Filled {
            outcome: mut all, ..
        } = filled;
        if outcomes.len() == 1
            && let Some((_, mut only)) = outcomes.pop()
        {
            if let Some(error) = all.error {
                only.error = Some(error);
            }
            only.local_exit = only.local_exit.or(all.local_exit);
            only.count(&self.sending.meter);
            return only;
        }
        all.count(&self.sending.meter);
        let mut failed = 0;
        for (who, outcome) in &outcomes {
            if let Some(error) = &outcome.error {
                failed += 1;
                (self.sending.report)(who, error);
            }
        }
        all.far_reader_gone = outcomes.iter().all(|(_, outcome)| outcome.far_reader_gone);
        if *self.sending.cancel.borrow() {
            all.fail(PipeError::Cancelled);
        } else if failed > 0 {
            let readers = self.sending.readers;
            all.fail(PipeError::Remote(format!(
                "{failed} of {readers} readers did not get all"
            )));
        }
        all
    }
}

/// How the source of several readers has ended.
#[derive(Debug, Default)]
struct Filled {
    outcome: Outcome,
    /// The file that was read stays locked until all have confirmed it.
    #[expect(dead_code, reason = "held, not read")]
    lock: Option<OwnedFd>,
}

/// Waits for `begun`, and what that says; `None` if the reader has left before, or all is told to end.
async fn stays(
    stream: &mut Stream,
    begun: impl Future<Output = bool>,
    cancel: &Cancel,
) -> Option<bool> {
    let watch = &mut stream.watch;
    let left = poll_fn(|cx| {
        watch.poll_until(cx, |fate| {
            fate.end.is_some() || fate.reset.is_some() || fate.stopped.is_some()
        })
    });
    let stays = async {
        tokio::select! {
            biased;
            _ = left => None,
            begun = begun => Some(begun),
        }
    };
    let stays = pipe::unless_cancelled(cancel.clone(), stays).await;
    stays.ok().flatten()
}

fn nothing_left() -> (Served, Lost) {
    let error = PipeError::Local("there is nothing left to send".to_owned());
    (error.into(), Lost::default())
}

fn refuse(stream: Stream, message: String) {
    stream.refuse(Refuse {
        status: u32::from(STATUS_FAILURE),
        message,
    });
}
