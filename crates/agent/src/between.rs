//! A pipe from one host to another, through this process: a stream of one session is the local end of a
//! stream of another one. Bytes are copied once on the way.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use farpipe_net::{ByteReader, ByteWriter, Dial, Opener, SharedWatch, Stream, halves};
use farpipe_proto::link::handshake::printable;
use farpipe_proto::wire::control::Open;
use tokio::sync::mpsc;

use crate::client::{self, unless_given_up};
use crate::command::ask::{self, Here};
use crate::endpoint::{Endpoint, Sink, Source};
use crate::outcome::{Outcome, PipeError, STATUS_FAILURE, from_wire};
use crate::pipe::Cancel;
use crate::pump::Meter;

/// One of the two hosts, and what is wanted of it.
pub struct Far<'a> {
    /// The command or endpoint.
    pub open: Open,
    /// The session.
    pub opener: Opener,
    /// The way.
    pub dial: &'a dyn Dial,
    /// Where a command's stderr goes.
    pub stderr: Option<Box<dyn Sink>>,
}

impl std::fmt::Debug for Far<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Far")
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

/// Joins what is at two hosts, until everything is settled at all ends. The left one counts as this
/// side's.
///
/// # Cancellation
/// As for [`client::run`].
pub async fn run(left: Far<'_>, right: Far<'_>, meter: Arc<Meter>, cancel: Cancel) -> Outcome {
    let handle = left.opener.handle();
    let Some(stream) = handle.open_with(left.open) else {
        return PipeError::Local("no stream can be opened".to_owned()).into();
    };
    // The only one: with its end all is settled.
    handle.finish_opening();
    let aside = ask::aside(&handle, stream.id().0, left.stderr, cancel.clone());
    let (endpoint, watch) = endpoint(stream);
    let linked = unless_given_up(left.opener.run(left.dial), &handle, cancel.clone());
    let joined = joined(endpoint, right, meter, cancel.clone());
    let (aside, mut outcome, ended) = tokio::join!(aside, joined, linked);
    let fate = watch.fate();
    if let Some(refuse) = fate.refused {
        // What the right end heard of it says less.
        outcome.error = Some(PipeError::Refused {
            status: u8::try_from(refuse.status).unwrap_or(STATUS_FAILURE),
            message: printable(&refuse.message),
        });
    }
    outcome.local_exit = fate.exited.map(from_wire);
    if let Some(error) = aside.and_then(|outcome| outcome.error) {
        outcome.fail(error);
    }
    if let Err(end) = ended {
        outcome.fail(end.into());
    }
    outcome
}

async fn joined(endpoint: Endpoint, right: Far<'_>, meter: Arc<Meter>, cancel: Cancel) -> Outcome {
    let Far {
        open,
        opener,
        dial,
        stderr,
    } = right;
    if open.command.is_none() {
        return client::joined(endpoint, open, None, opener, dial, meter, cancel).await;
    }
    let here = Here {
        main: endpoint,
        stderr,
    };
    // No signals are passed on: there are two whom they could be for.
    let (_asks, asked) = mpsc::channel(1);
    ask::run(open, here, opener, dial, meter, asked, cancel).await
}

/// A stream as the endpoint of another one.
fn endpoint(stream: Stream) -> (Endpoint, SharedWatch) {
    let (reader, writer, watch) = halves(stream);
    let endpoint = Endpoint {
        source: Some(Box::new(FarSource(reader))),
        sink: Some(Box::new(FarSink(writer))),
        talks_on: true,
        ..Endpoint::default()
    };
    (endpoint, watch)
}

/// Whoever writes there is told what a reader's end is: SIGPIPE, and no hangup.
#[derive(Debug)]
struct FarSource(ByteReader);

impl Source for FarSource {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let max = max.min(buf.capacity() - buf.len());
        self.0
            .poll_take(cx, max, |bytes| buf.extend_from_slice(bytes))
    }
}

#[derive(Debug)]
struct FarSink(ByteWriter);

impl Sink for FarSink {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_put(cx, bufs)
    }

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_reader_gone(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_finish(cx)
    }
}
