//! The opener's side: asks an agent for a command and joins it to what is here.

use std::sync::Arc;

use farpipe_net::{Asked, CommandControl, Dial, Opener, SessionHandle, Stream};
use farpipe_proto::wire::control::{Command, Open, Refuse};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::client::unless_given_up;
use crate::eager::eager;
use crate::endpoint::{Endpoint, Sink};
use crate::outcome::{Outcome, PipeError, STATUS_FAILURE};
use crate::pipe::{self, Cancel, cancelled};
use crate::pump::Meter;

/// What a command is joined to here.
#[derive(Debug)]
pub struct Here {
    /// Where its stdin comes from and its stdout goes to. Without a source it has no input.
    pub main: Endpoint,
    /// Where its stderr goes to; nowhere with a terminal, which shows both as one.
    pub stderr: Option<Box<dyn Sink>>,
}

/// Has `command` run at whoever `dial` leads to, until it has ended and all that it said is written.
/// Its status ends it: input that nobody read is no error. What arrives on `asks` is passed on to
/// it, but a signal before it runs gives it up, as `cancel` does at any time; then it is hung up.
///
/// # Cancellation
/// As for [`crate::client::run`].
pub async fn run(
    command: Command,
    here: Here,
    opener: Opener,
    dial: &dyn Dial,
    meter: Arc<Meter>,
    asks: mpsc::Receiver<Asked>,
    cancel: Cancel,
) -> Outcome {
    let handle = opener.handle();
    let open = Open {
        interactive: command.terminal.is_some(),
        command: Some(command),
        ..Open::default()
    };
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
    let joined = eager(&meter, async { tokio::join!(pipe, aside, session) });
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
async fn aside(
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
