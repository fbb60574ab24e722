//! The opener's side: asks an agent for a command and joins it to what is here.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use farpipe_net::{Asked, CommandControl, Dial, Opener, SessionHandle, Stream};
use farpipe_proto::wire::control::{Open, Refuse};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::client::unless_given_up;
use crate::eager::eager;
use crate::endpoint::{Endpoint, Sink};
use crate::outcome::{Outcome, PipeError, STATUS_FAILURE};
use crate::pipe::{self, Cancel, cancelled};
use crate::pump::Meter;

/// What a command is joined to here; by default to nothing.
#[derive(Debug, Default)]
pub struct Here {
    /// Where its stdin comes from and its stdout goes to. Without a source it has no input.
    pub main: Endpoint,
    /// Where its stderr goes to; nowhere with a terminal, which shows both as one.
    pub stderr: Option<Box<dyn Sink>>,
}

impl Here {
    /// What is said is collected, at most `COLLECTED_MAX` bytes.
    #[must_use]
    pub fn collecting(into: &Collected) -> Self {
        let main = Endpoint {
            sink: Some(Box::new(into.clone())),
            ..Endpoint::default()
        };
        Self { main, stderr: None }
    }
}

/// More than an agent's list of its commands can be.
const COLLECTED_MAX: usize = 1024 * 1024;

/// What a far end has said; its clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Collected(Arc<Mutex<Vec<u8>>>);

impl Collected {
    /// All that came.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sink for Collected {
    fn poll_write(
        &mut self,
        _cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.len();
        for buf in bufs {
            all.extend_from_slice(buf);
        }
        if all.len() > COLLECTED_MAX {
            return Poll::Ready(Err(io::Error::other("the answer is too long")));
        }
        Poll::Ready(Ok(all.len() - before))
    }

    fn poll_reader_gone(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_close(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Has what `open` asks for done at whoever `dial` leads to, until it has ended and all that it said is written.
/// Its status ends it: input that nobody read is no error. What arrives on `asks` is passed on to
/// it, but a signal before it runs gives it up, as `cancel` does at any time; then it is hung up.
///
/// # Cancellation
/// As for [`crate::client::run`].
pub async fn run(
    open: Open,
    here: Here,
    opener: Opener,
    dial: &dyn Dial,
    meter: Arc<Meter>,
    asks: mpsc::Receiver<Asked>,
    cancel: Cancel,
) -> Outcome {
    let handle = opener.handle();
    let Some(stream) = handle.open_with(open) else {
        return PipeError::Local("no stream can be opened".to_owned()).into();
    };
    // The only one: with its end all is settled.
    handle.finish_opening();
    let control = stream.control();
    let outer = cancel;
    let (told, cancel) = watch::channel(false);
    let mut main = here.main;
    // A command reads on though nobody takes its output, and its status ends it, not its output.
    main.talks_on = true;
    main.source_is_terminal = false;
    let _until_settled = main.take_lock();
    let aside = aside(&handle, stream.id().0, here.stderr, cancel.clone());
    let pipe = pipe::run(main, stream, None, Arc::clone(&meter), cancel.clone());
    let session = unless_given_up(opener.run(dial), &handle, cancel.clone());
    let joined = eager(async { tokio::join!(pipe, aside, session) });
    let told_to_end = async {
        tokio::select! {
            () = cancelled(outer) => {}
            () = pass_on(asks, control) => {}
        }
        told.send_replace(true);
        std::future::pending().await
    };
    let ((mut outcome, watch), aside, settled) = tokio::select! {
        joined = joined => joined,
        never = told_to_end => never,
    };
    pipe::settle(&mut outcome, &watch);
    if outcome.remote_exit.is_some() {
        // The command knows best whether it minded.
        outcome.reader_gone = false;
    }
    if let Some(error) = aside.and_then(|outcome| outcome.error) {
        outcome.fail(error);
    }
    if let Err(end) = settled {
        outcome.fail(end.into());
    }
    outcome
}

/// Joins the stream that the agent opens for stderr, and refuses any other, until the session is
/// over.
pub(crate) async fn aside(
    handle: &SessionHandle,
    of: u32,
    mut stderr: Option<Box<dyn Sink>>,
    cancel: Cancel,
) -> Option<Outcome> {
    let mut pipes = JoinSet::new();
    while let Some((stream, open)) = handle.accept().await {
        match stderr.take_if(|_| open.stderr_of == of) {
            Some(sink) => {
                stream.accept(farpipe_proto::wire::control::Accept::default());
                let endpoint = Endpoint {
                    sink: Some(sink),
                    ..Endpoint::default()
                };
                pipes.spawn(one_way(endpoint, stream, cancel.clone()));
            }
            None => stream.refuse(Refuse {
                status: u32::from(STATUS_FAILURE),
                message: "nobody asked for this stream".to_owned(),
            }),
        }
    }
    match pipes.join_next().await? {
        Ok(outcome) => Some(outcome),
        Err(error) => Some(PipeError::Local(format!("stderr: {error}")).into()),
    }
}

async fn one_way(endpoint: Endpoint, stream: Stream, cancel: Cancel) -> Outcome {
    let (mut outcome, watch) = pipe::run(endpoint, stream, None, Arc::default(), cancel).await;
    pipe::settle(&mut outcome, &watch);
    outcome
}

/// Passes on what is asked of the command; ready when a signal comes for one that does not run yet.
async fn pass_on(mut asks: mpsc::Receiver<Asked>, control: CommandControl) {
    while let Some(asked) = asks.recv().await {
        match asked {
            Asked::Signal(_) if !control.is_accepted() => return,
            Asked::Signal(number) => control.signal(number),
            Asked::Resize(size) => control.resize(size),
        }
    }
    std::future::pending().await
}
