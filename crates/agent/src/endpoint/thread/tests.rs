//! Tests of descriptors that need a thread.

use std::future::poll_fn;
use std::io::{PipeReader, Read, Write};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::*;

fn source() -> (ThreadSource, PipeWriter) {
    let (reader, writer) = io::pipe().expect("a pipe");
    (ThreadSource::new(reader.into(), Kind::Pipe), writer)
}

fn sink() -> (ThreadSink, PipeReader) {
    let (reader, writer) = io::pipe().expect("a pipe");
    let sink = ThreadSink::new(writer.into(), Kind::Pipe);
    (sink.expect("a sink"), reader)
}

fn is_pending<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> bool {
    poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[tokio::test]
async fn a_source_that_waits_lets_go_when_dropped() {
    let (mut source, mut writer) = source();
    assert!(is_pending(|cx| source.poll_ready(cx)));
    writer.write_all(b"1").expect("a reader");
    poll_fn(|cx| source.poll_ready(cx)).await.expect("a byte");
    // The thread waits for the next one.
    drop(source);
    let begin = Instant::now();
    // Not by a write, which the thread might still read.
    let gone = fd::ReaderGone::watch(writer.as_fd()).expect("a watch");
    while poll_fn(|cx| Poll::Ready(gone.poll(cx).is_pending())).await {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "the thread holds on"
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nothing_is_read_before_it_is_wanted() {
    let (source, mut writer) = source();
    writer.write_all(b"x").expect("a reader");
    // Long enough for a thread that was started to take it.
    std::thread::sleep(Duration::from_millis(20)); // sleep: nothing may happen
    let reader = source.fd.as_ref().expect("not given to a thread yet");
    assert_eq!(rustix::io::ioctl_fionread(reader).expect("a pipe"), 1);
}

#[tokio::test]
async fn a_dropped_sink_ends_once_its_last_system_call_returns() {
    let (mut sink, mut reader) = sink();
    let block = vec![1; CHUNK_SIZE];
    for _ in 0..2 {
        // The second is taken once the thread is at the first, which the pipe cannot hold.
        let write = poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(&block)])).await;
        assert_eq!(write.expect("a write"), CHUNK_SIZE);
    }
    drop(sink);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).expect("the end");
    // What was under way is whole; whether the thread had begun what waited is its own affair.
    assert!(
        [CHUNK_SIZE, 2 * CHUNK_SIZE].contains(&rest.len()),
        "a torn write: {}",
        rest.len()
    );
}

#[tokio::test]
async fn an_error_of_the_thread_reaches_the_next_write_and_the_close() {
    for by_close in [true, false] {
        let (mut sink, reader) = sink();
        drop(reader);
        let write = poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(b"x")])).await;
        assert_eq!(write.expect("taken by the thread"), 1);
        let error = if by_close {
            poll_fn(|cx| sink.poll_close(cx)).await.expect_err("lost")
        } else {
            let mut write = Ok(1);
            while write.is_ok() {
                write = poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(b"x")])).await;
            }
            write.expect_err("lost")
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
