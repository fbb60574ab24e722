//! The task beside a detached command: moves its bytes to and from their queues, and sees its end.

use std::future::poll_fn;
use std::io::IoSlice;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use farpipe_proto::limits::DRAIN;
use tokio::sync::watch;

use super::super::process::Process;
use super::kept::{Kept, Which};
use crate::endpoint::{Endpoint, Sink, Source};
use crate::pipe::{Cancel, cancelled};

/// Bytes moved at once.
const MOVED_MAX: usize = 64 * 1024;

/// Keeps a command until nothing of its session is left, and its output is taken or nobody can ask for
/// it any more. When `cancel` fires all of the session is hung up.
///
/// # Cancellation
/// Dropping it kills the command.
pub(super) async fn keep(
    kept: Arc<Kept>,
    process: Process,
    main: Endpoint,
    stderr: Option<Endpoint>,
    cancel: Cancel,
) {
    let (over, is_over) = watch::channel(false);
    let ending = {
        let (kept, cancel) = (Arc::clone(&kept), cancel.clone());
        async move {
            end(kept, process, cancel).await;
            over.send_replace(true);
        }
    };
    let output = async move {
        let moving = async {
            let stdout = fill(&kept, Which::Stdout, main.source);
            let stderr = fill(&kept, Which::Stderr, stderr.and_then(|end| end.source));
            tokio::join!(stdout, stderr, feed(&kept, main.sink));
        };
        let rest = async {
            tokio::select! {
                () = cancelled(kept.forgotten.subscribe()) => {}
                () = async {
                    cancelled(cancel).await;
                    cancelled(is_over).await;
                    // Who is attached may still hear the last words.
                    tokio::time::sleep(DRAIN).await;
                } => {}
            }
        };
        tokio::select! {
            () = moving => {}
            () = rest => {}
        }
        for which in [Which::Stdout, Which::Stderr] {
            kept.with(which, super::ring::Ring::end);
        }
    };
    tokio::join!(ending, output);
}

/// Waits for the end, however it comes, and notes it; then for that of whatever else of the session
/// goes on.
async fn end(kept: Arc<Kept>, process: Process, cancel: Cancel) {
    let mut ladder = kept.ladder.subscribe();
    let told = async {
        match ladder.wait_for(Option::is_some).await.map(|told| *told) {
            Ok(Some((signal, grace))) => process.end(signal, grace).await,
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        () = told => {}
        () = process.ended(), if kept.ladder.borrow().is_none() => {}
        () = cancelled(cancel.clone()) => process.hang_up().await,
    }
    kept.bury();
    let exit = process.status();
    if let Err(error) = &exit {
        tracing::error!("the status of a detached command is lost: {error}");
    }
    kept.exited(exit.ok());
    // What ended it is no order for the rest.
    ladder.mark_unchanged();
    // It may be forgotten before the rest has ended.
    drop(kept);
    // Not reaped before that: until then the number of the session is its own.
    loop {
        tokio::select! {
            () = process.emptied() => break,
            () = cancelled(cancel.clone()) => {
                process.hang_up().await;
                break;
            }
            Ok(()) = ladder.changed() => {
                let told = *ladder.borrow_and_update();
                match told {
                    Some((signal, Duration::ZERO)) => process.signal(signal),
                    Some((signal, grace)) => {
                        process.end(signal, grace).await;
                        break;
                    }
                    None => {}
                }
            }
        }
    }
    // Its status is known.
    let _ = process.reap().await;
}

/// Command to queue.
async fn fill(kept: &Kept, which: Which, source: Option<Box<dyn Source>>) {
    let mut buf = BytesMut::new();
    if let Some(mut source) = source {
        loop {
            let room = poll_fn(|cx| kept.with(which, |ring| ring.poll_room(cx))).await;
            let read = poll_fn(|cx| {
                if let Err(error) = std::task::ready!(source.poll_ready(cx)) {
                    return Poll::Ready(Err(error));
                }
                buf.reserve(MOVED_MAX);
                source.poll_read(cx, &mut buf, room.min(MOVED_MAX))
            });
            match read.await {
                Ok(0) => break,
                Ok(_) => kept.with(which, |ring| ring.push(&buf)),
                Err(error) => {
                    tracing::warn!("the output of a detached command: {error}");
                    break;
                }
            }
            // An idle command holds no buffer.
            buf = BytesMut::new();
        }
    }
    kept.with(which, super::ring::Ring::end);
}

/// Queue to command.
async fn feed(kept: &Kept, sink: Option<Box<dyn Sink>>) {
    let Some(mut sink) = sink else { return };
    loop {
        let mut buf = BytesMut::new();
        let taken = poll_fn(|cx| {
            let taken = kept.with(Which::Stdin, |ring| ring.poll_take(cx, &mut buf, MOVED_MAX));
            match taken {
                Poll::Ready(len) => Poll::Ready(Some(len)),
                Poll::Pending => sink.poll_reader_gone(cx).map(|_| None),
            }
        });
        match taken.await {
            None => return kept.input_over(false),
            Some(0) => {
                let closed = poll_fn(|cx| sink.poll_close(cx)).await;
                return kept.input_over(closed.is_ok());
            }
            Some(_) => kept.with(Which::Stdin, super::ring::Ring::arrived_all),
        }
        while !buf.is_empty() {
            let written = poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(&buf)])).await;
            match written {
                Ok(len) => buf.advance(len),
                Err(_) => return kept.input_over(false),
            }
        }
    }
}
