//! What every source and every sink must do, whatever its kind. `kinds.rs` has one line for each.

mod kinds;
mod websocket;

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice, Read};
use std::pin::pin;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use tempfile::NamedTempFile;

use super::{Sink, Source};

/// What must outlive an endpoint: files, threads, processes.
type Keep = Box<dyn Send>;

/// A source that will give `content` and then end, fed in writes of `chunk` bytes where its kind
/// has a writer.
type MakeSource = fn(content: Vec<u8>, chunk: usize) -> (Box<dyn Source>, Keep);

/// A sink, and the other side of it.
type MakeSink = fn() -> (Box<dyn Sink>, Reader);

/// What becomes of the bytes a sink takes.
enum Reader {
    /// Something that reads them, and ends when dropped.
    Stream(Box<dyn Read + Send>, Keep),
    /// A file that can be looked at.
    File(NamedTempFile),
}

/// Bytes on their way through a [`Reader`].
enum Collected {
    Stream(JoinHandle<Vec<u8>>),
    File(NamedTempFile),
}

impl Reader {
    /// Reads everything, in a thread.
    fn collect(self) -> Collected {
        match self {
            Self::Stream(mut stream, keep) => Collected::Stream(std::thread::spawn(move || {
                let _keep = keep;
                let mut all = Vec::new();
                stream
                    .read_to_end(&mut all)
                    .expect("reading what was written");
                all
            })),
            Self::File(file) => Collected::File(file),
        }
    }
}

impl Collected {
    /// All that has arrived, once the sink is closed.
    fn finish(self) -> Vec<u8> {
        match self {
            Self::Stream(thread) => thread.join().expect("the reading thread"),
            Self::File(file) => std::fs::read(file.path()).expect("the file"),
        }
    }
}

macro_rules! endpoint_conformance {
    ($kind:ident, source: $make:expr) => {
        mod $kind {
            use super::*;

            #[test]
            fn all_byte_values_come_through() {
                check_source($make, (0..=255).collect(), 256, 1 << 16);
            }

            #[test]
            fn no_bytes_are_an_end() {
                check_source($make, Vec::new(), 1, 1 << 16);
            }

            #[test]
            fn one_byte_comes_through() {
                check_source($make, vec![7], 1, 1 << 16);
            }

            #[test]
            fn tiny_writes_come_through() {
                check_source($make, noise(300_000), 7, 1 << 16);
            }

            #[test]
            fn many_megabytes_come_through() {
                check_source($make, noise(20 << 20), 1 << 20, 512 << 10);
            }

            #[test]
            fn tiny_reads_lose_nothing() {
                check_source($make, noise(20_000), 1000, 3);
            }

            #[test]
            fn dropped_polls_lose_nothing() {
                check_source_cancelled($make);
            }
        }
    };
    ($kind:ident, sink: $make:expr, reader: $reader:ident) => {
        mod $kind {
            use super::*;

            #[test]
            fn all_byte_values_come_through() {
                check_sink($make, (0..=255).collect(), 256);
            }

            #[test]
            fn no_bytes_are_an_end() {
                check_sink($make, Vec::new(), 1);
            }

            #[test]
            fn one_byte_comes_through() {
                check_sink($make, vec![7], 1);
            }

            #[test]
            fn tiny_writes_come_through() {
                check_sink($make, noise(100_000), 7);
            }

            #[test]
            fn many_megabytes_come_through() {
                check_sink($make, noise(20 << 20), 1 << 20);
            }

            #[test]
            fn a_write_after_the_close_is_an_error() {
                check_closed($make);
            }

            endpoint_conformance!(@$reader, $make);
        }
    };
    (@stream, $make:expr) => {
        #[test]
        fn a_stalled_reader_holds_the_writer_back() {
            check_backpressure($make);
        }

        #[test]
        fn a_reader_that_goes_away_is_noticed_by_an_idle_sink() {
            check_reader_gone($make);
        }

        #[test]
        fn a_write_without_a_reader_is_a_broken_pipe() {
            check_broken_pipe($make);
        }
    };
    (@connection, $make:expr) => {
        #[test]
        fn a_stalled_reader_holds_the_writer_back() {
            check_backpressure($make);
        }

        #[test]
        fn a_reset_is_noticed_by_an_idle_sink() {
            check_gone($make, io::ErrorKind::ConnectionReset);
        }
    };
    (@websocket, $make:expr) => {
        #[test]
        fn a_stalled_reader_holds_the_writer_back() {
            check_backpressure($make);
        }

        #[test]
        fn a_cut_is_noticed_by_an_idle_sink() {
            check_gone($make, io::ErrorKind::ConnectionAborted);
        }

        #[test]
        fn a_reader_that_ends_in_order_is_gone_for_further_writes_only() {
            check_ended($make);
        }
    };
    (@none, $make:expr) => {
        #[test]
        fn a_reader_is_never_said_to_be_gone() {
            check_no_reader($make);
        }
    };
}
use endpoint_conformance;

fn check_source(make: MakeSource, content: Vec<u8>, chunk: usize, max: usize) {
    run(async move {
        let (mut source, _keep) = make(content.clone(), chunk);
        let mut buf = BytesMut::new();
        loop {
            poll_fn(|cx| source.poll_ready(cx)).await.expect("ready");
            // A headroom that must stay as it is, as the pump's buffers have.
            let headroom = buf.len();
            buf.reserve(max);
            let len = poll_fn(|cx| source.poll_read(cx, &mut buf, max))
                .await
                .expect("a read");
            assert!(len <= max, "{len} bytes, more than the {max} asked for");
            assert_eq!(buf.len(), headroom + len);
            if len == 0 {
                break;
            }
        }
        assert!(
            buf == content,
            "{} bytes differ from {}",
            buf.len(),
            content.len()
        );
        poll_fn(|cx| source.poll_ready(cx))
            .await
            .expect("still at its end");
        buf.reserve(max);
        let again = poll_fn(|cx| source.poll_read(cx, &mut buf, max)).await;
        assert_eq!(again.expect("a read at the end"), 0);
    });
}

/// Each future is dropped after one poll, ready or not.
fn check_source_cancelled(make: MakeSource) {
    run(async move {
        let content = noise(3 << 20);
        let (mut source, _keep) = make(content.clone(), 10_000);
        let mut buf = BytesMut::new();
        let mut turn = 0_u32;
        loop {
            turn += 1;
            if turn.is_multiple_of(3) {
                let ready = once(poll_fn(|cx| source.poll_ready(cx))).await;
                assert!(ready.is_none_or(|ready| ready.is_ok()));
            }
            buf.reserve(5000);
            let read = once(poll_fn(|cx| source.poll_read(cx, &mut buf, 5000))).await;
            match read.map(|len| len.expect("a read")) {
                Some(0) => break,
                Some(_) => {}
                None => tokio::task::yield_now().await,
            }
        }
        assert!(
            buf == content,
            "{} bytes differ from {}",
            buf.len(),
            content.len()
        );
    });
}

fn check_sink(make: MakeSink, content: Vec<u8>, chunk: usize) {
    run(async move {
        let (mut sink, reader) = make();
        let collected = reader.collect();
        let mut rest = content.as_slice();
        while !rest.is_empty() {
            // Two slices, so that gathering is tried as well.
            let part = &rest[..rest.len().min(chunk)];
            let (first, second) = part.split_at(part.len() / 3);
            let slices = [IoSlice::new(first), IoSlice::new(second)];
            let len = poll_fn(|cx| sink.poll_write(cx, &slices))
                .await
                .expect("a write");
            assert!(len > 0 && len <= part.len());
            rest = &rest[len..];
        }
        poll_fn(|cx| sink.poll_close(cx)).await.expect("the close");
        // The end must come from the close, so the sink itself is still there.
        let arrived = collected.finish();
        assert!(
            arrived == content,
            "{} bytes differ from {}",
            arrived.len(),
            content.len()
        );
        drop(sink);
    });
}

fn check_closed(make: MakeSink) {
    run(async move {
        let (mut sink, reader) = make();
        let _collected = reader.collect();
        poll_fn(|cx| sink.poll_close(cx)).await.expect("the close");
        let late = poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(b"x")])).await;
        assert!(late.is_err(), "a write after the close went through");
    });
}

fn check_backpressure(make: MakeSink) {
    run(async move {
        let (mut sink, reader) = make();
        let block = noise(64 << 10);
        let mut taken = Vec::new();
        // The reader reads nothing: what lies in between (pipes of 1 MiB, a chunk or two) fills up.
        loop {
            let at = taken.len() % block.len();
            let write = poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(&block[at..])]));
            match tokio::time::timeout(Duration::from_millis(200), write).await {
                Ok(len) => {
                    let len = len.expect("a write");
                    taken.extend_from_slice(&block[at..at + len]);
                }
                Err(_) => break,
            }
            assert!(taken.len() < 16 << 20, "nothing held the writer back");
        }
        let collected = reader.collect();
        let at = taken.len() % block.len();
        let len = poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(&block[at..])]))
            .await
            .expect("a write once the reader reads");
        taken.extend_from_slice(&block[at..at + len]);
        poll_fn(|cx| sink.poll_close(cx)).await.expect("the close");
        assert!(collected.finish() == taken);
    });
}

fn check_reader_gone(make: MakeSink) {
    run(async move {
        let (mut sink, reader) = make();
        assert!(
            once(poll_fn(|cx| sink.poll_reader_gone(cx)))
                .await
                .is_none()
        );
        write(&mut *sink, b"read by nobody")
            .await
            .expect("room for a few bytes");
        assert!(
            once(poll_fn(|cx| sink.poll_reader_gone(cx)))
                .await
                .is_none()
        );
        drop(reader);
        // And it stays so.
        for _ in 0..2 {
            let gone = poll_fn(|cx| sink.poll_reader_gone(cx)).await;
            let error = gone.expect_err("no end in order");
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
        }
    });
}

/// A peer that leaves bytes unread has broken the connection: they did not arrive.
fn check_gone(make: MakeSink, kind: io::ErrorKind) {
    run(async move {
        let (mut sink, reader) = make();
        write(&mut *sink, b"read by nobody")
            .await
            .expect("room for a few bytes");
        drop(reader);
        for _ in 0..2 {
            let gone = poll_fn(|cx| sink.poll_reader_gone(cx)).await;
            let error = gone.expect_err("no end in order");
            assert_eq!(error.kind(), kind, "{error}");
        }
        let error = write(&mut *sink, b"x").await.expect_err("no write");
        assert_eq!(error.kind(), kind, "{error}");
    });
}

/// A peer that says its end, once it has read something.
fn check_ended(make: MakeSink) {
    run(async move {
        let (mut sink, reader) = make();
        let Reader::Stream(mut stream, _keep) = reader else {
            panic!("a connection is a stream");
        };
        write(&mut *sink, b"x").await.expect("room for a byte");
        let peer = std::thread::spawn(move || {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("what was written");
            // It says its end when it is asked for nothing.
            assert_eq!(stream.read(&mut []).expect("its end"), 0);
            stream
        });
        for _ in 0..2 {
            let gone = poll_fn(|cx| sink.poll_reader_gone(cx)).await;
            gone.expect("an end in order");
        }
        let error = write(&mut *sink, b"y").await.expect_err("no write");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
        drop(peer.join().expect("the peer"));
    });
}

fn check_broken_pipe(make: MakeSink) {
    run(async move {
        let (mut sink, reader) = make();
        drop(reader);
        let error = loop {
            if let Err(error) = write(&mut *sink, b"read by nobody").await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
    });
}

fn check_no_reader(make: MakeSink) {
    run(async move {
        let (mut sink, _reader) = make();
        write(&mut *sink, b"data").await.expect("a write");
        assert!(
            once(poll_fn(|cx| sink.poll_reader_gone(cx)))
                .await
                .is_none()
        );
    });
}

async fn write(sink: &mut dyn Sink, bytes: &[u8]) -> io::Result<usize> {
    poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(bytes)])).await
}

/// One poll, then the future is dropped.
async fn once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Runs a test, which must not take long.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .expect("the test hangs");
    });
}

/// Bytes that repeat late.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut all = Vec::with_capacity(len + 8);
    while all.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend_from_slice(&state.to_le_bytes());
    }
    all.truncate(len);
    all
}
