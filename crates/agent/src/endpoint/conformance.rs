//! What every source and every sink must do, whatever its kind: one line a kind, at the end.

use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use rustix::fs::{Mode, OFlags};
use tempfile::{NamedTempFile, TempDir};

use super::fd::Kind;
use super::pipe::{PipeSink, PipeSource};
use super::socket::{AtEnd, SocketSink, SocketSource};
use super::thread::{ThreadSink, ThreadSource};
use super::{Endpoint, EndpointSpec, Sink, Source, Use, open};

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
    (@none, $make:expr) => {
        #[test]
        fn a_reader_is_never_said_to_be_gone() {
            check_no_reader($make);
        }
    };
}

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
        let (mut sink, _reader) = make();
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
        poll_fn(|cx| sink.poll_reader_gone(cx)).await;
        // And it stays so.
        poll_fn(|cx| sink.poll_reader_gone(cx)).await;
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

/// Feeds `writer` in a thread that ends, at the latest, when nobody reads any more.
fn feed(mut writer: impl Write + Send + 'static, content: Vec<u8>, chunk: usize) -> Box<dyn Send> {
    Box::new(std::thread::spawn(move || {
        for part in content.chunks(chunk) {
            if writer.write_all(part).is_err() {
                break;
            }
        }
    }))
}

/// Opens what does not wait.
fn opened(spec: EndpointSpec, wanted: Use) -> Endpoint {
    let mut opening = pin!(open(&spec, wanted));
    match opening
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(opened) => opened.expect("an endpoint"),
        Poll::Pending => panic!("{spec} waits"),
    }
}

fn file_with(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(content).expect("room for it");
    file
}

fn fifo() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("fifo");
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).expect("a FIFO");
    (dir, path)
}

/// A blocking reader of a FIFO that has no writer yet.
fn fifo_reader(path: &PathBuf) -> File {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut options = File::options();
    let file = options
        .read(true)
        .custom_flags(flags)
        .open(path)
        .expect("the FIFO");
    rustix::fs::fcntl_setfl(&file, OFlags::empty()).expect("a blocking FIFO");
    file
}

fn command(line: &str, path: &std::path::Path) -> EndpointSpec {
    let path = path.to_str().expect("a plain path");
    EndpointSpec::parse(line.replace("FILE", path).as_ref()).expect(line)
}

fn file_source(content: Vec<u8>, _chunk: usize) -> (Box<dyn Source>, Keep) {
    let file = file_with(&content);
    let endpoint = opened(EndpointSpec::Path(file.path().into()), Use::Source);
    (endpoint.source.expect("a source"), Box::new(file))
}

fn fifo_source(content: Vec<u8>, chunk: usize) -> (Box<dyn Source>, Keep) {
    let (dir, path) = fifo();
    let endpoint = opened(EndpointSpec::Path(path.clone()), Use::Source);
    let writer = File::options().write(true).open(path).expect("the FIFO");
    let keep = (dir, feed(writer, content, chunk));
    (endpoint.source.expect("a source"), Box::new(keep))
}

fn pipe_source(content: Vec<u8>, chunk: usize) -> (Box<dyn Source>, Keep) {
    let (reader, writer) = io::pipe().expect("a pipe");
    let source = PipeSource::new(reader.into()).expect("a source");
    (Box::new(source), feed(writer, content, chunk))
}

fn socket_source(content: Vec<u8>, chunk: usize) -> (Box<dyn Source>, Keep) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let source = SocketSource::new(ours.into(), AtEnd::Close).expect("a source");
    (Box::new(source), feed(theirs, content, chunk))
}

fn thread_source(content: Vec<u8>, chunk: usize) -> (Box<dyn Source>, Keep) {
    let (reader, writer) = io::pipe().expect("a pipe");
    let source = ThreadSource::new(reader.into(), Kind::Pipe);
    (Box::new(source), feed(writer, content, chunk))
}

fn exec_source(content: Vec<u8>, _chunk: usize) -> (Box<dyn Source>, Keep) {
    let file = file_with(&content);
    let endpoint = opened(command("exec:cat FILE", file.path()), Use::Source);
    let source = endpoint.source.expect("a source");
    (source, Box::new((endpoint.child, file)))
}

fn shell_source(content: Vec<u8>, chunk: usize) -> (Box<dyn Source>, Keep) {
    let file = file_with(&content);
    let line = format!("sh:dd if=FILE bs={} status=none", chunk.max(100));
    let endpoint = opened(command(&line, file.path()), Use::Source);
    let source = endpoint.source.expect("a source");
    (source, Box::new((endpoint.child, file)))
}

fn file_sink() -> (Box<dyn Sink>, Reader) {
    let file = file_with(b"what was there before is cut off");
    let endpoint = opened(EndpointSpec::Path(file.path().into()), Use::Sink);
    (endpoint.sink.expect("a sink"), Reader::File(file))
}

fn fifo_sink() -> (Box<dyn Sink>, Reader) {
    let (dir, path) = fifo();
    let reader = fifo_reader(&path);
    let endpoint = opened(EndpointSpec::Path(path), Use::Sink);
    let reader = Reader::Stream(Box::new(reader), Box::new(dir));
    (endpoint.sink.expect("a sink"), reader)
}

fn pipe_sink() -> (Box<dyn Sink>, Reader) {
    let (reader, writer) = io::pipe().expect("a pipe");
    let sink = PipeSink::new(writer.into()).expect("a sink");
    (
        Box::new(sink),
        Reader::Stream(Box::new(reader), Box::new(())),
    )
}

fn socket_sink() -> (Box<dyn Sink>, Reader) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let sink = SocketSink::new(ours.into(), AtEnd::Close).expect("a sink");
    (
        Box::new(sink),
        Reader::Stream(Box::new(theirs), Box::new(())),
    )
}

fn thread_sink() -> (Box<dyn Sink>, Reader) {
    let (reader, writer) = io::pipe().expect("a pipe");
    let sink = ThreadSink::new(writer.into(), Kind::Pipe).expect("a sink");
    (
        Box::new(sink),
        Reader::Stream(Box::new(reader), Box::new(())),
    )
}

fn exec_sink() -> (Box<dyn Sink>, Reader) {
    let (dir, path) = fifo();
    let endpoint = opened(command("sh:exec cat >FILE", &path), Use::Sink);
    let reader = Reader::Stream(
        Box::new(LateFile { path, file: None }),
        Box::new((endpoint.child, dir)),
    );
    (endpoint.sink.expect("a sink"), reader)
}

/// Opened by the first read, which waits for a writer.
struct LateFile {
    path: PathBuf,
    file: Option<File>,
}

impl Read for LateFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        let len = file.read(buf);
        self.file = Some(file);
        len
    }
}

endpoint_conformance!(file_is_a_source, source: file_source);
endpoint_conformance!(fifo_is_a_source, source: fifo_source);
endpoint_conformance!(pipe_is_a_source, source: pipe_source);
endpoint_conformance!(socket_is_a_source, source: socket_source);
endpoint_conformance!(thread_is_a_source, source: thread_source);
endpoint_conformance!(exec_is_a_source, source: exec_source);
endpoint_conformance!(shell_is_a_source, source: shell_source);

endpoint_conformance!(file_is_a_sink, sink: file_sink, reader: none);
endpoint_conformance!(fifo_is_a_sink, sink: fifo_sink, reader: stream);
endpoint_conformance!(pipe_is_a_sink, sink: pipe_sink, reader: stream);
endpoint_conformance!(socket_is_a_sink, sink: socket_sink, reader: stream);
endpoint_conformance!(thread_is_a_sink, sink: thread_sink, reader: stream);
endpoint_conformance!(exec_is_a_sink, sink: exec_sink, reader: stream);
