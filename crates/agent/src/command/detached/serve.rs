//! Answers what callers ask of detached commands: one stream each.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use farpipe_net::{Asked, CommandControl, Stream, StreamWatch};
use farpipe_proto::limits::DRAIN;
use farpipe_proto::wire::control::{Accept, DetachedCommands, Manage, ManageWhat, Open};
use rustix::process::Signal;
use tokio::sync::watch;

use super::super::request::{Request, Size};
use super::super::serve::{Output, Running, ending, pipes};
use super::attachment::{Attachment, DISPLACED, Said};
use super::keeper;
use super::kept::{Kept, Which};
use super::ring::Ring;
use super::table::Claim;
use crate::endpoint::Endpoint;
use crate::pipe::{self, cancelled};
use crate::serve::{Counted, Refusal, Serving};

impl Serving {
    /// Serves `open` if it is about a detached command.
    ///
    /// # Errors
    /// The stream and what it asks for, if that is something else.
    pub(crate) async fn detached(
        &self,
        mut stream: Stream,
        open: Open,
    ) -> Result<(), (Stream, Open)> {
        let is_start = open
            .command
            .as_ref()
            .is_some_and(|command| command.detached.is_some());
        if !is_start && open.manage.is_none() {
            return Err((stream, open));
        }
        let answered = match open.manage.clone() {
            None => self
                .start_detached(&mut stream, open)
                .await
                .map(Answer::Done),
            Some(manage) => match self
                .noted(&manage)
                .await
                .and_then(|()| self.manage(&manage))
            {
                // What was allowed when it began may not be any more.
                Ok(Answer::Attach(kept, no_stdin)) => self
                    .still_permitted(&kept)
                    .await
                    .map(|()| Answer::Attach(kept, no_stdin)),
                answered => answered,
            },
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(refusal) => {
                self.refuse(stream, &refusal).await;
                return Ok(());
            }
        };
        match answer {
            Answer::Done(()) => say(stream, Vec::new()).await,
            Answer::List(list) => say(stream, list).await,
            Answer::Attach(kept, no_stdin) => self.attach(stream, kept, no_stdin).await,
            Answer::Wait(kept) => self.wait(stream, &kept).await,
            Answer::Kill(kept) => {
                stream.accept(Accept::default());
                let ended = kept.exit();
                let _ = pipe::unless_over(&mut stream.watch, self.cancel.clone(), ended).await;
                finish(stream).await;
            }
        }
        Ok(())
    }

    /// Starts a command that goes on without its caller; one that was started before is left alone.
    async fn start_detached(&self, stream: &mut Stream, open: Open) -> Result<(), Refusal> {
        let request = Request::parse(*open.command.clone().ok_or(Refusal::NoCommand)?)?;
        let Some(asked) = request.detached.clone() else {
            return Err(Refusal::NoCommand);
        };
        let table = &self.agent.detached;
        let reserved = match table.claim(&asked, &request, self.caller.as_ref()).await? {
            Claim::Known => return Ok(()),
            Claim::New(reserved) => reserved,
        };
        let Running {
            process,
            pty,
            main,
            stderr,
            ..
        } = self.start(stream, open).await?;
        let pid = process.group();
        tracing::info!(
            "{}: detached as process {}",
            self.name,
            pid.as_raw_nonzero()
        );
        self.record.started(pid.as_raw_nonzero().get()).await;
        let starter = self.caller.clone();
        let kept = Arc::new(Kept::new(request, &asked, starter, pid, pty));
        // It goes on, whatever becomes of its caller.
        let cancel = self.agent.cancel.clone();
        let keeper = keeper::keep(Arc::clone(&kept), process, main, stderr, cancel);
        let (record, ended) = (self.record.detach(), Arc::clone(&kept));
        self.record.ends("it goes on by itself", None);
        let keeper = async move {
            keeper.await;
            let exit = ended.exit().await;
            record.ends(&ending(exit), exit);
            record.over().await;
        };
        reserved.keep(kept, keeper);
        Ok(())
    }

    /// Whether the policy of now would let the caller run it. That its program or directory is gone
    /// since is no matter.
    async fn still_permitted(&self, kept: &Kept) -> Result<(), Refusal> {
        match self.permitted(kept.request.clone()).await {
            Err(refusal @ (Refusal::Denied | Refusal::Unwritten(_))) => Err(refusal),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Writes down that a command is ended, or waited for, by whom it belongs to.
    async fn noted(&self, manage: &Manage) -> Result<(), Refusal> {
        let what = ManageWhat::from_wire(manage.what);
        let is_noted = matches!(what, Some(ManageWhat::Wait | ManageWhat::Kill));
        let table = &self.agent.detached;
        if is_noted && table.find(&manage.id, self.caller.as_ref()).is_ok() {
            let rule = "it is the caller's own command".to_owned();
            self.record.allowed(Some(rule)).await?;
        }
        Ok(())
    }

    fn manage(&self, manage: &Manage) -> Result<Answer, Refusal> {
        let table = &self.agent.detached;
        let find = || table.find(&manage.id, self.caller.as_ref());
        match ManageWhat::from_wire(manage.what) {
            Some(ManageWhat::List) => {
                let known = table.list(self.caller.as_ref());
                let commands = known.iter().map(|(id, kept)| kept.describe(id)).collect();
                Ok(Answer::List(DetachedCommands { commands }.to_bytes()))
            }
            Some(ManageWhat::Attach) => {
                let kept = find()?;
                if let Some(terminal) = &manage.terminal {
                    if !kept.has_terminal() {
                        return Err(Refusal::NoTerminal);
                    }
                    kept.resize(Size::new(terminal.rows, terminal.cols));
                }
                Ok(Answer::Attach(kept, manage.no_stdin))
            }
            Some(ManageWhat::Wait) => Ok(Answer::Wait(find()?)),
            Some(ManageWhat::Kill) => {
                let kept = find()?;
                let signal = i32::try_from(manage.signal).ok();
                let signal = signal
                    .and_then(Signal::from_named_raw)
                    .ok_or(Refusal::NoSignal(manage.signal))?;
                let grace = Duration::from_millis(manage.grace_ms);
                if kept.has_left() {
                    kept.ladder.send_replace(Some((signal, grace)));
                    return Ok(Answer::Done(()));
                }
                if kept.ended_at().is_some() {
                    return Err(Refusal::HasEnded(manage.id.clone()));
                }
                if manage.grace_ms > 0 {
                    kept.ladder.send_replace(Some((signal, grace)));
                    return Ok(Answer::Kill(kept));
                }
                if !kept.signal(signal, true) {
                    return Err(Refusal::HasEnded(manage.id.clone()));
                }
                Ok(Answer::Done(()))
            }
            None => Err(Refusal::NoCommand),
        }
    }

    /// Joins a stream to a command, as its own is in [`Serving::join`], but that the end of the stream
    /// does nothing to the command.
    async fn attach(&self, stream: Stream, kept: Arc<Kept>, no_stdin: bool) {
        let attachment = Attachment::begin(Arc::clone(&kept), stream.control());
        let output = |which| Endpoint {
            source: Some(attachment.output(which)),
            talks_on: true,
            ..Endpoint::default()
        };
        let mut main = output(Which::Stdout);
        main.sink = (!no_stdin).then(|| attachment.input());
        let aside = (!kept.has_terminal()).then(|| output(Which::Stderr));
        let aside = match self.aside(&stream, Output::Bulk, aside) {
            Ok(aside) => aside,
            Err(refusal) => return self.refuse(stream, &refusal).await,
        };
        stream.accept(Accept { has_command: true });
        let counted = Counted::new(&self.running);
        let control = stream.control();
        let Ok((mut main, mut aside)) = pipes(main, stream, aside) else {
            return;
        };
        let (_never, uncancelled) = watch::channel(false);
        let (fail, failed) = watch::channel(false);
        let moving = async {
            let main = async {
                main.drive(uncancelled.clone()).await;
                if main.has_failed() {
                    fail.send_replace(true);
                }
            };
            let aside = async {
                if let Some(aside) = &mut aside {
                    aside.drive(uncancelled.clone()).await;
                    if aside.has_failed() {
                        fail.send_replace(true);
                    }
                }
            };
            tokio::join!(main, aside);
            kept.exit().await
        };
        let exit = tokio::select! {
            exit = moving => Some(exit),
            () = cancelled(failed.clone()) => None,
            () = attachment.displaced() => None,
            () = obey(control, &kept) => None,
        };
        drop(counted);
        if attachment.is_displaced() {
            main.fail(DISPLACED);
        }
        // Whoever has not got all of the output has no use for the status.
        let exit = exit.filter(|_| !main.has_failed() && !*failed.borrow());
        if let Some(exit) = exit {
            main.last_word(kept.last_word(exit));
        }
        let watch = main.finish().1;
        let aside = aside.map(|aside| aside.finish().1);
        let settling = async {
            if exit.is_some() {
                // Until then what was sent may have to be said again, to another one.
                let mut is_done = settled(watch).await;
                if let Some(aside) = aside {
                    is_done &= settled(aside).await;
                }
                if is_done {
                    attachment.settled();
                }
            }
            // The caller may say that it leaves before it has acknowledged what it has.
            let _ = tokio::time::timeout(DRAIN, attachment.acknowledged()).await;
        };
        tokio::select! {
            () = settling => {}
            () = attachment.displaced() => {}
        }
        drop(attachment);
    }

    /// Says how a command ended, when it has.
    async fn wait(&self, mut stream: Stream, kept: &Kept) {
        stream.accept(Accept { has_command: true });
        let counted = Counted::new(&self.running);
        stream.send.finish();
        let mut watch = std::pin::pin!(poll_fn(|cx| stream.watch.poll_until(cx, |fate| fate
            .end
            .is_some()
            || fate.reset.is_some()
            || fate.stopped.is_some())));
        let exit = tokio::select! {
            exit = kept.exit() => exit,
            _ = &mut watch => None,
        };
        drop(counted);
        stream
            .send
            .exit(exit.map(crate::outcome::to_wire).unwrap_or_default());
        finish(stream).await;
    }
}

/// What is done with a stream that is not refused.
enum Answer {
    Done(()),
    List(Vec<u8>),
    /// And whether its stdin stays as it is.
    Attach(Arc<Kept>, bool),
    Wait(Arc<Kept>),
    Kill(Arc<Kept>),
}

/// Sends bytes, and ends in order.
async fn say(stream: Stream, bytes: Vec<u8>) {
    stream.accept(Accept::default());
    let endpoint = Endpoint {
        source: Some(Box::new(Said(Ring::ended(bytes)))),
        ..Endpoint::default()
    };
    let (_never, uncancelled) = watch::channel(false);
    pipe::run(endpoint, stream, None, Arc::default(), uncancelled).await;
}

/// Ends both directions in order.
async fn finish(stream: Stream) {
    let (_never, uncancelled) = watch::channel(false);
    pipe::run(
        Endpoint::default(),
        stream,
        None,
        Arc::default(),
        uncancelled,
    )
    .await;
}

/// Waits until the peer's sink has all of a stream, or never will. Whether it has.
async fn settled(mut watch: StreamWatch) -> bool {
    poll_fn(|cx| {
        watch.poll_until(cx, |fate| {
            fate.done || fate.stopped.is_some() || fate.complete || fate.end.is_some()
        })
    })
    .await
    .done
}

/// Does what an attached caller asks; never ready.
async fn obey(mut control: CommandControl, kept: &Kept) {
    loop {
        match poll_fn(|cx| control.poll_asked(cx)).await {
            Asked::Resize(size) => kept.resize(Size::new(size.rows, size.cols)),
            Asked::Signal(number) => {
                let signal = i32::try_from(number).ok().and_then(Signal::from_named_raw);
                if let Some(signal) = signal {
                    kept.signal(signal, false);
                }
            }
        }
    }
}
