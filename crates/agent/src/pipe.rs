//! One pipe, top to bottom: a local endpoint joined to a stream until both directions are over and
//! the command at the endpoint, if there is one, has ended.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use farpipe_net::{RecvError, SendError, Stream, StreamWatch};
use farpipe_proto::link::handshake::printable;
use farpipe_proto::wire::control::{self, Abort, AbortCode, Refuse};
use tokio::sync::watch;

use crate::blocks::{Compression, Decoder, Encoder};
use crate::endpoint::{Child, Endpoint, Exit, Leaving, Parting, TERMINATE_GRACE};
use crate::outcome::{Outcome, PipeError, STATUS_FAILURE, describe, from_wire, to_wire};
use crate::pump::{Inbound, Meter, Outbound, Received, Sent};

/// Tells a pipe to end: `true` once.
pub type Cancel = watch::Receiver<bool>;

/// Runs one pipe, of `blocks` if its opener said so, until both directions are finished, one fails, or `cancel` fires. What went wrong
/// was told to the peer when this returns. The peer's last words come later, with the settled
/// session: see [`settle`].
///
/// # Cancellation
/// Dropping it closes the endpoint and resets the stream; a command gets what [`Child`] does when
/// dropped. Use `cancel` instead, which ends the command in order.
pub async fn run(
    endpoint: Endpoint,
    stream: Stream,
    blocks: Option<Compression>,
    meter: Arc<Meter>,
    cancel: Cancel,
) -> (Outcome, StreamWatch) {
    let mut endpoint = endpoint;
    let (child, parting) = (endpoint.child.take(), endpoint.parting.take());
    let mut pipe = match Pipe::new(endpoint, stream, blocks, meter) {
        Ok(pipe) => pipe,
        Err(failed) => return *failed,
    };
    pipe.drive(cancel.clone()).await;
    pipe.rest = None;
    let parting = part(parting, leaving(&pipe.outcome));
    tokio::join!(parting, pipe.end_child(child, cancel));
    pipe.finish()
}

/// Ready when `cancel` fires; never if its sender is gone. Cancel safe.
pub async fn cancelled(mut cancel: Cancel) {
    if cancel.wait_for(|told| *told).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What `work` returns, unless `cancel` fires before or meanwhile; it is dropped then.
///
/// # Errors
/// [`PipeError::Cancelled`].
pub async fn unless_cancelled<T>(
    cancel: Cancel,
    work: impl Future<Output = T>,
) -> Result<T, PipeError> {
    // The first is ready once: it starves nothing.
    tokio::select! {
        biased;
        () = cancelled(cancel) => Err(PipeError::Cancelled),
        done = work => Ok(done),
    }
}

/// As [`unless_cancelled`], and unless the peer gives the stream up or the session ends.
pub(crate) async fn unless_over<T>(
    watch: &mut StreamWatch,
    cancel: Cancel,
    work: impl Future<Output = T>,
) -> Result<T, PipeError> {
    let over =
        poll_fn(|cx| watch.poll_until(cx, |fate| fate.end.is_some() || fate.reset.is_some()));
    let work = async {
        tokio::select! {
            biased;
            fate = over => Err(match (fate.reset, fate.end) {
                (Some(abort), _) => remote(AbortCode::from_wire(abort.code), &abort.message),
                (None, Some(end)) => end.into(),
                (None, None) => PipeError::Remote("it left".to_owned()),
            }),
            done = work => Ok(done),
        }
    };
    unless_cancelled(cancel, work).await?
}

/// Why an endpoint's connection is left whose pipe has ended so.
pub(crate) fn leaving(outcome: &Outcome) -> Leaving {
    match outcome.error {
        None | Some(PipeError::Cancelled | PipeError::RemoteCancelled(_)) => Leaving::GoingAway,
        Some(_) => Leaving::Failed,
    }
}

/// Lets an endpoint that has last words say them.
pub(crate) async fn part(parting: Option<Box<dyn Parting>>, why: Leaving) {
    if let Some(mut parting) = parting {
        poll_fn(|cx| parting.poll_part(cx, why)).await;
    }
}

/// The two directions of one pipe.
pub(crate) struct Pipe {
    meter: Arc<Meter>,
    /// `None` once over.
    outbound: Option<Outbound>,
    /// What was not read to its end because the pipe failed.
    rest: Option<Outbound>,
    inbound: Option<Inbound>,
    stream: Stream,
    outcome: Outcome,
    source_is_terminal: bool,
    talks_on: bool,
    /// The incoming direction is over, also where there never was a sink.
    inbound_over: bool,
}

impl Pipe {
    /// Joins the halves of an endpoint to a stream.
    ///
    /// # Errors
    /// How it ended before it began: the coder of blocks could not be had.
    pub(crate) fn new(
        endpoint: Endpoint,
        stream: Stream,
        blocks: Option<Compression>,
        meter: Arc<Meter>,
    ) -> Result<Self, Box<(Outcome, StreamWatch)>> {
        let Endpoint {
            source,
            sink,
            source_is_terminal,
            talks_on,
            ..
        } = endpoint;
        let coders = blocks.map(|compression| (Encoder::new(compression), Decoder::new()));
        let (encoder, decoder) = match coders {
            None => (None, None),
            Some((Ok(encoder), Ok(decoder))) => (Some(encoder), Some(decoder)),
            Some((Err(error), _) | (_, Err(error))) => {
                let message = format!("cannot compress: {error}");
                let Stream { send, recv, watch } = stream;
                drop((send, recv));
                return Err(Box::new((PipeError::Local(message).into(), watch)));
            }
        };
        let mut pipe = Self {
            outbound: source.map(|source| Outbound::new(source, encoder, Arc::clone(&meter))),
            inbound: sink.map(|sink| Inbound::new(sink, decoder, Arc::clone(&meter))),
            rest: None,
            meter,
            stream,
            outcome: Outcome::default(),
            source_is_terminal,
            talks_on,
            inbound_over: false,
        };
        pipe.begin();
        Ok(pipe)
    }

    /// Moves bytes until both directions are over, one has failed, or `cancel` has fired.
    pub(crate) async fn drive(&mut self, cancel: Cancel) {
        let ended = tokio::select! {
            () = poll_fn(|cx| self.poll(cx)) => true,
            () = cancelled(cancel.clone()) => false,
        };
        if !ended {
            self.interrupt();
        } else if *cancel.borrow()
            && let Some(PipeError::RemoteCancelled(_)) = self.outcome.error
        {
            // The far side heard of it by another stream, and answered before this was looked at.
            self.outcome.error = Some(PipeError::Cancelled);
        }
    }

    /// Reads what nobody is to hear any more, until its source ends. Whoever writes it may do so to its
    /// end, where a closed pipe would kill it. Cancel safe.
    pub(crate) async fn drain(&mut self) {
        if let Some(rest) = &mut self.rest {
            poll_fn(|cx| rest.poll_discard(cx)).await;
        }
        self.rest = None;
    }

    /// Whether the pipe, as far as it has come, is a failure.
    pub(crate) fn has_failed(&self) -> bool {
        self.outcome.error.is_some()
    }

    /// Whether the far sink's reader has gone away, as far as the pipe has come.
    pub(crate) fn has_no_reader(&self) -> bool {
        self.outcome.far_reader_gone
    }

    /// Ends both directions for a reason that is this side's; the peer hears it.
    pub(crate) fn fail(&mut self, why: &str) {
        self.give_up(PipeError::Local(why.to_owned()), AbortCode::Failed, why);
    }

    /// Tells the peer how the command at the endpoint has ended. A status that is lost is told as
    /// well: the peer waits for it.
    pub(crate) fn exit(&mut self, exit: Option<Exit>) {
        self.last_word(exit.map(to_wire).unwrap_or_default());
        self.outcome.local_exit = exit;
    }

    /// Tells the peer how a command elsewhere has ended.
    pub(crate) fn last_word(&mut self, exit: control::Exit) {
        self.stream.send.exit(exit);
    }

    /// How it ended so far, and what will tell the rest: see [`settle`].
    pub(crate) fn finish(self) -> (Outcome, StreamWatch) {
        let Self {
            mut outcome,
            stream,
            meter,
            ..
        } = self;
        outcome.count(&meter);
        (outcome, stream.watch)
    }

    /// A half the endpoint does not have is over before it began.
    fn begin(&mut self) {
        if self.outbound.is_none() {
            self.stream.send.finish();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(outbound) = &mut self.outbound
            && let Poll::Ready(sent) = outbound.poll(cx, &mut self.stream.send)
        {
            let over = self.outbound.take();
            self.handle_sent(sent);
            if self.has_failed() {
                self.rest = over;
            }
        }
        if let Some(inbound) = &mut self.inbound {
            if let Poll::Ready(received) = inbound.poll(cx, &mut self.stream.recv) {
                self.inbound = None;
                self.handle_received(received);
            }
        } else if !self.inbound_over {
            self.poll_no_sink(cx);
        }
        if self.outbound.is_none() && self.inbound.is_none() && self.inbound_over {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Without a sink the peer is not expected to send anything: its end is confirmed, its data
    /// stopped.
    fn poll_no_sink(&mut self, cx: &mut Context<'_>) {
        let mut chunks = std::collections::VecDeque::new();
        let Poll::Ready(result) = self.stream.recv.poll_chunks(cx, &mut chunks) else {
            return;
        };
        self.inbound_over = true;
        match result {
            Ok(false) => self.stream.recv.done(),
            Ok(true) => self.stream.recv.stop(Abort::new(AbortCode::ReaderGone, "")),
            Err(error) => self.handle_received(Received::Broken(error)),
        }
    }

    fn handle_sent(&mut self, sent: Sent) {
        match sent {
            Sent::Finished | Sent::Ended => {}
            Sent::SourceFailed(error) => {
                let message = describe(&error);
                self.give_up(
                    PipeError::Local(message.clone()),
                    AbortCode::Failed,
                    &message,
                );
            }
            Sent::Refused(SendError::Stopped(abort)) => match AbortCode::from_wire(abort.code) {
                AbortCode::ReaderGone => self.outcome.far_reader_gone = true,
                code => self.outcome.fail(remote(code, &abort.message)),
            },
            Sent::Refused(SendError::Refused(refuse)) => self.end_with(refused(&refuse)),
            Sent::Refused(SendError::Session(end)) => self.end_with(end.into()),
            Sent::Refused(other) => self.outcome.fail(PipeError::Remote(other.to_string())),
        }
    }

    fn handle_received(&mut self, received: Received) {
        self.inbound_over = true;
        match received {
            Received::Done => {
                if self.source_is_terminal {
                    // A terminal does not hold the command open.
                    self.end_source();
                }
            }
            Received::Ended => self.end_sink(AbortCode::Ended),
            Received::ReaderGone => {
                self.outcome.reader_gone = true;
                self.end_sink(AbortCode::ReaderGone);
            }
            Received::SinkFailed(error) => {
                let message = describe(&error);
                self.give_up(
                    PipeError::Local(message.clone()),
                    AbortCode::Failed,
                    &message,
                );
            }
            Received::Malformed(malformed) => {
                let message = malformed.to_string();
                let error = PipeError::Remote(message.clone());
                self.give_up(error, AbortCode::Failed, &message);
            }
            Received::Broken(RecvError::Reset(abort)) => {
                let code = AbortCode::from_wire(abort.code);
                self.outcome.fail(remote(code, &abort.message));
                self.leave_source();
                self.stream.send.finish();
            }
            Received::Broken(RecvError::Refused(refuse)) => self.end_with(refused(&refuse)),
            Received::Broken(RecvError::Session(end)) => self.end_with(end.into()),
            Received::Broken(other) => self.outcome.fail(PipeError::Remote(other.to_string())),
        }
    }

    /// Ends both directions because the other side did.
    fn end_with(&mut self, error: PipeError) {
        self.outcome.fail(error);
        self.leave_source();
        self.inbound = None;
        self.inbound_over = true;
    }

    /// The sink takes no more, for a reason that is no failure.
    fn end_sink(&mut self, why: AbortCode) {
        self.stream.recv.stop(Abort::new(why, ""));
        if !self.talks_on {
            // A filter whose output is closed reads no further input.
            self.end_source();
        }
    }

    /// Reads no more of the source because the pipe has failed.
    fn leave_source(&mut self) {
        if let Some(outbound) = self.outbound.take() {
            self.rest = Some(outbound);
        }
    }

    /// Ends the source early, in order: the peer gets FIN.
    fn end_source(&mut self) {
        if self.outbound.take().is_some() {
            self.stream.send.finish();
        }
    }

    /// Ends both directions because this process was told to end. A source that never ends by
    /// itself, and has come to an end of its own, ends in order: the peer has all of it.
    fn interrupt(&mut self) {
        let is_at_rest =
            self.inbound.is_none() && self.outbound.as_mut().is_some_and(Outbound::is_at_rest);
        if !is_at_rest {
            self.give_up(PipeError::Cancelled, AbortCode::Cancelled, "interrupted");
            return;
        }
        self.outcome.fail(PipeError::Cancelled);
        self.end_source();
        if !self.inbound_over {
            self.inbound_over = true;
            self.stream.recv.stop(Abort::new(AbortCode::Ended, ""));
        }
    }

    /// Ends both directions because this side failed; the peer hears why.
    fn give_up(&mut self, error: PipeError, code: AbortCode, message: &str) {
        self.outcome.fail(error);
        self.leave_source();
        self.inbound = None;
        self.inbound_over = true;
        self.stream.send.reset(Abort::new(code, message));
        self.stream.recv.stop(Abort::new(code, message));
    }

    /// Waits for the command, or ends it if the pipe failed, and tells the peer its status.
    async fn end_child(&mut self, child: Option<Child>, cancel: Cancel) {
        let Some(child) = child else {
            return;
        };
        let exit = end_child(child, &mut self.outcome, cancel).await;
        self.exit(exit);
    }
}

/// Waits for a command, or ends it if the pipe has failed or `cancel` fires. `None`: its status is
/// lost, and the outcome a failure.
pub(crate) async fn end_child(
    mut child: Child,
    outcome: &mut Outcome,
    cancel: Cancel,
) -> Option<Exit> {
    let exit = if outcome.error.is_some() {
        child.terminate(TERMINATE_GRACE).await
    } else {
        tokio::select! {
            exit = child.wait() => exit,
            () = cancelled(cancel) => {
                outcome.fail(PipeError::Cancelled);
                child.terminate(TERMINATE_GRACE).await
            }
        }
    };
    match exit {
        Ok(exit) => Some(exit),
        Err(error) => {
            outcome.fail(PipeError::Local(format!(
                "waiting for the command: {error}"
            )));
            None
        }
    }
}

/// Adds what the peer said until the session was settled: its command's status, a sink that failed
/// after the last byte had left here, and bytes for a sink that had ended.
pub fn settle(outcome: &mut Outcome, watch: &StreamWatch) {
    let fate = watch.fate();
    outcome.remote_exit = fate.exited.map(from_wire);
    outcome.dropped = fate.exited.map_or(0, |exit| exit.dropped);
    if let Some(refuse) = &fate.refused {
        outcome.fail(refused(refuse));
    }
    if let Some(abort) = fate.stopped {
        match AbortCode::from_wire(abort.code) {
            AbortCode::Ended => {}
            AbortCode::ReaderGone => outcome.far_reader_gone = true,
            code => outcome.fail(remote(code, &abort.message)),
        }
    }
    // The sink had ended in order, and the far writer had not.
    outcome.reader_gone |= fate.missed;
    if let Some(end) = fate.end {
        outcome.fail(PipeError::Session(end));
    }
}

fn remote(code: AbortCode, message: &str) -> PipeError {
    match code {
        AbortCode::Cancelled if message.is_empty() => {
            PipeError::RemoteCancelled("it was told to end".to_owned())
        }
        AbortCode::Cancelled => PipeError::RemoteCancelled(printable(message)),
        _ if message.is_empty() => PipeError::Remote("it did not say why".to_owned()),
        _ => PipeError::Remote(printable(message)),
    }
}

fn refused(refuse: &Refuse) -> PipeError {
    PipeError::Refused {
        // 0, which an absent field is too, would make a refusal a success.
        status: u8::try_from(refuse.status)
            .ok()
            .filter(|status| *status != 0)
            .unwrap_or(STATUS_FAILURE),
        message: printable(&refuse.message),
    }
}
