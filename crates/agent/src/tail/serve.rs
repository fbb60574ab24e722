//! The agent's side: follows what one stream asks for, as far as the policy lets its caller read it.

use std::future::poll_fn;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use farpipe_net::{SendError, SendStream, Stream};
use farpipe_proto::identity::Caller;
use farpipe_proto::limits::{
    TAIL_OPEN_EACH_MAX, TAIL_OPEN_MAX, TAIL_PATHS_MAX, TAIL_WATCHES_EACH_MAX, TAIL_WATCHES_MAX,
    TAILS_EACH_MAX, TAILS_MAX,
};
use farpipe_proto::wire::control::Accept;
use farpipe_proto::wire::tail::{Tail, TailEvent};
use rustix::fs::{Mode, OFlags};
use tokio::task::JoinError;

use super::follow::{Follower, Wanted};
use super::glob::Pattern;
use super::siblings::{Gate, Opened, Shut};
use super::start::Start;
use super::watch::Watch;
use crate::command::environment::User;
use crate::pipe;
use crate::policy::LivePolicy;
use crate::serve::{
    Answer, Counted, Granted, Quota, Refusal, Serving, Teller, Wants, denied_place, place, whose,
};
use crate::shown::shown;

/// Bytes that are read before they are sent: what one stream has in memory, and a message on top of it.
const TURN: usize = 256 * 1024;

/// Tails of this process that are under way.
static TAILS: Quota = Quota::new(TAILS_MAX, TAILS_EACH_MAX);
/// Files that they have open: others need descriptors as well.
static OPEN: LazyLock<Quota> = LazyLock::new(|| {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    Quota::new(
        TAIL_OPEN_MAX.min(limit / 2),
        TAIL_OPEN_EACH_MAX.min(limit / 4),
    )
});
/// What the system tells them of.
static WATCHES: Quota = Quota::new(TAIL_WATCHES_MAX, TAIL_WATCHES_EACH_MAX);

impl Serving {
    /// Serves a stream that asks for files to be followed.
    pub(crate) async fn tail(&self, stream: Stream, asked: Tail) {
        let mut stream = stream;
        let who = whose(self.caller.as_ref());
        let _under_way = match TAILS.take(&who) {
            Ok(taken) => taken,
            Err(full) => return self.refuse(stream, &Refusal::Full("tails", full)).await,
        };
        let looking = self.begin(asked);
        let begun = pipe::unless_over(&mut stream.watch, self.cancel.clone(), looking).await;
        let follower = match begun.map_err(Refusal::Over).and_then(|begun| begun) {
            Ok(follower) => follower,
            Err(refusal) => return self.refuse(stream, &refusal).await,
        };
        stream.accept(Accept::default());
        tracing::info!("{}: follows files for {}", self.name, self.who());
        let _counted = Counted::new(&self.running);
        let Stream {
            mut send,
            mut recv,
            mut watch,
        } = stream;
        let following = async {
            follow(&mut send, follower, who).await?;
            send.finish();
            // The asking side has nothing to say.
            recv.heard_out().await;
            recv.done();
            Ok::<(), TailFailed>(())
        };
        let over = poll_fn(|cx| watch.poll_until(cx, |fate| fate.stopped.is_some()));
        let following = async {
            tokio::select! {
                followed = following => followed,
                _ = over => Ok(()),
            }
        };
        match pipe::unless_cancelled(self.cancel.clone(), following).await {
            Ok(Ok(())) => self.ends("what it followed is over"),
            Ok(Err(error)) => self.ends(&error.to_string()),
            Err(error) => self.ends(&error.to_string()),
        }
    }

    /// Looks at what is asked for, for the first time.
    async fn begin(&self, asked: Tail) -> Result<Follower, Refusal> {
        let wanted = wanted(asked)?;
        let Some(caller) = self.caller.clone() else {
            self.deny("nothing says who asks");
            return Err(Refusal::Denied);
        };
        let door = Door {
            policy: Arc::clone(&self.agent.policy),
            who: whose(Some(&caller)),
            caller,
            teller: self.teller(),
            granted: self.granted.clone(),
        };
        let follower = Follower::new(Box::new(door), wanted);
        let looked = blocking(follower, |follower, now| {
            follower.look(now);
            follower.is_denied()
        });
        let (follower, is_denied) = looked.await.map_err(|error| {
            tracing::error!("{}: the files could not be looked at: {error}", self.name);
            Refusal::Denied
        })?;
        match is_denied {
            true => {
                self.record.deny("nothing of it may be read");
                Err(Refusal::Denied)
            }
            // Each file has a rule of its own.
            false => {
                self.record.allowed(None).await?;
                Ok(follower)
            }
        }
    }
}

/// Wait between two looks while nothing can be sent: a file that grows changes all the time.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Why nothing is followed any more.
#[derive(Debug, thiserror::Error)]
enum TailFailed {
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("the task that reads failed: {0}")]
    Task(#[from] JoinError),
}

/// What is asked for, as a checked value.
fn wanted(asked: Tail) -> Result<Wanted, Refusal> {
    if asked.paths.is_empty() || asked.paths.len() > TAIL_PATHS_MAX {
        return Err(Refusal::NotHere(format!(
            "{} paths to follow",
            asked.paths.len()
        )));
    }
    let home = User::own().home;
    let parse = |path: &Vec<u8>| {
        let path = home.join(std::ffi::OsStr::from_bytes(path));
        Pattern::parse(&path).ok_or_else(|| Refusal::Path {
            path: shown(path.as_os_str().as_bytes()),
            error: io::ErrorKind::InvalidInput.into(),
        })
    };
    let patterns = asked.paths.iter().map(parse).collect::<Result<_, _>>()?;
    Ok(Wanted {
        patterns,
        start: match (asked.from_byte, asked.bytes, asked.from_line) {
            (0, 0, 0) => Start::Last(asked.lines),
            (0, 0, line) => Start::Line(line),
            (0, bytes, _) => Start::LastBytes(bytes),
            (byte, ..) => Start::Byte(byte),
        },
        once: asked.once,
        resumed: asked.resumed,
        positions: asked.positions,
    })
}

/// Does what may block on the disk on a thread that may. Dropped, it goes on to its end, with nobody to
/// hear of it.
async fn blocking<T: Send + 'static>(
    mut follower: Follower,
    work: impl FnOnce(&mut Follower, std::time::Instant) -> T + Send + 'static,
) -> Result<(Follower, T), JoinError> {
    let worked = tokio::task::spawn_blocking(move || {
        let done = work(&mut follower, std::time::Instant::now());
        (follower, done)
    });
    worked.await
}

/// Reads and sends until the other side has enough; what is not followed, until all was read. While
/// nothing can be sent it reads nothing, but keeps what is rotated meanwhile.
async fn follow(
    send: &mut SendStream,
    mut follower: Follower,
    who: Arc<str>,
) -> Result<(), TailFailed> {
    let mut watch = Watch::new(move || WATCHES.take(&who).ok())
        .inspect_err(|error| tracing::debug!("changes of files are not told: {error}"))
        .ok();
    loop {
        if let Some(watch) = &mut watch {
            let (files, dirs) = follower.watched();
            watch.keep(&files, &dirs);
        }
        // What changes from here on is told.
        let (back, events) = blocking(follower, |follower, now| follower.turn(TURN, now)).await?;
        follower = back;
        if events.is_empty() {
            if follower.is_once() || follower.is_hopeless() {
                return Ok(());
            }
            tokio::select! {
                () = changed(watch.as_ref()) => {}
                () = tokio::time::sleep(follower.pause()) => {}
            }
            continue;
        }
        let bytes: Vec<u8> = events.iter().flat_map(TailEvent::to_bytes).collect();
        drop(events);
        let mut saying = std::pin::pin!(send.say(&bytes));
        loop {
            let looking = async {
                tokio::time::sleep(LOOK_AGAIN).await;
                changed(watch.as_ref()).await;
            };
            tokio::select! {
                said = &mut saying => break said?,
                () = looking => {}
                () = tokio::time::sleep(follower.pause()) => {}
            }
            follower = blocking(follower, Follower::look).await?.0;
            if let Some(watch) = &mut watch {
                let (files, dirs) = follower.watched();
                watch.keep(&files, &dirs);
            }
        }
    }
}

/// Ready when something has changed, where the system tells.
async fn changed(watch: Option<&Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// The policy, asked anew for each file that is opened.
#[derive(Debug)]
struct Door {
    policy: Arc<LivePolicy>,
    caller: Caller,
    /// Whose share of the files it opens.
    who: Arc<str>,
    teller: Teller,
    granted: Granted,
}

impl Gate for Door {
    fn open(&self, path: &Path) -> Result<Opened, Shut> {
        match place(&self.policy.current(), &self.caller, Wants::Read, path) {
            Answer::Allowed(place, _) => {
                let again = path.to_owned();
                self.granted
                    .note(move |policy, caller| denied_place(policy, caller, Wants::Read, &again));
                let taken = OPEN.take(&self.who).map_err(Shut::Full)?;
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                let file = place.open(flags, Mode::empty())?;
                Ok(Opened::new(file.into(), taken))
            }
            Answer::Missing(error) => Err(error.into()),
            Answer::Denied(why) => {
                self.teller.deny(&why.to_string());
                Err(Shut::Denied)
            }
        }
    }

    fn may_list(&self, dir: &Path) -> bool {
        let dir: PathBuf = dir.to_owned();
        // What is missing has no names, and who may read it may know that it is missing.
        match place(&self.policy.current(), &self.caller, Wants::Read, &dir) {
            Answer::Allowed(..) | Answer::Missing(_) => true,
            Answer::Denied(_) => false,
        }
    }
}
