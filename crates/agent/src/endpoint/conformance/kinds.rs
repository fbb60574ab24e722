//! How each kind is made for the suite.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use rustix::fs::{Mode, OFlags};
use tempfile::{NamedTempFile, TempDir};

use super::super::fd::Kind;
use super::super::pipe::{PipeSink, PipeSource};
use super::super::socket::{AtEnd, SocketSink, SocketSource};
use super::super::thread::{ThreadSink, ThreadSource};
use super::super::{Endpoint, EndpointSpec, Listening, Sink, Source, Use, listen, open};
use super::*;

endpoint_conformance!(file_is_a_source, source: file_source);
endpoint_conformance!(fifo_is_a_source, source: fifo_source);
endpoint_conformance!(pipe_is_a_source, source: pipe_source);
endpoint_conformance!(socket_is_a_source, source: socket_source);
endpoint_conformance!(thread_is_a_source, source: thread_source);
endpoint_conformance!(exec_is_a_source, source: exec_source);
endpoint_conformance!(shell_is_a_source, source: shell_source);
endpoint_conformance!(tcp_is_a_source, source: tcp_source);
endpoint_conformance!(tcp_listen_is_a_source, source: tcp_listen_source);
endpoint_conformance!(unix_is_a_source, source: unix_source);
endpoint_conformance!(unix_listen_is_a_source, source: unix_listen_source);

endpoint_conformance!(file_is_a_sink, sink: file_sink, reader: none);
endpoint_conformance!(fifo_is_a_sink, sink: fifo_sink, reader: stream);
endpoint_conformance!(pipe_is_a_sink, sink: pipe_sink, reader: stream);
endpoint_conformance!(socket_is_a_sink, sink: socket_sink, reader: stream);
endpoint_conformance!(thread_is_a_sink, sink: thread_sink, reader: stream);
endpoint_conformance!(exec_is_a_sink, sink: exec_sink, reader: stream);
endpoint_conformance!(tcp_is_a_sink, sink: tcp_sink, reader: connection);
endpoint_conformance!(tcp_listen_is_a_sink, sink: tcp_listen_sink, reader: connection);
endpoint_conformance!(unix_is_a_sink, sink: unix_sink, reader: connection);
endpoint_conformance!(unix_listen_is_a_sink, sink: unix_listen_sink, reader: connection);

/// Feeds `writer` in a thread that ends, at the latest, when nobody reads any more.
pub(super) fn feed(
    mut writer: impl Write + Send + 'static,
    content: Vec<u8>,
    chunk: usize,
) -> Box<dyn Send> {
    Box::new(std::thread::spawn(move || {
        // One that is opened late is opened, also to write nothing.
        let _ = writer.flush();
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

fn once(path: &Path) -> EndpointSpec {
    EndpointSpec::Path(path.into()).once().expect("a path")
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

fn command(line: &str, path: &Path) -> EndpointSpec {
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
    let endpoint = opened(once(&path), Use::Source);
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
    let endpoint = opened(EndpointSpec::Path(path.into()), Use::Sink);
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
        Box::new(LateStream::new(move || File::open(path))),
        Box::new((endpoint.child, dir)),
    );
    (endpoint.sink.expect("a sink"), reader)
}

fn tcp_source(content: Vec<u8>, chunk: usize) -> (Box<dyn Source>, Keep) {
    let (spec, listener) = tcp_listener();
    let writer = LateStream::new(move || Ok(listener.accept()?.0));
    (
        Box::new(Late::open(spec, Use::Both)),
        feed(writer, content, chunk),
    )
}

fn tcp_sink() -> (Box<dyn Sink>, Reader) {
    let (spec, listener) = tcp_listener();
    let reader = LateStream::new(move || Ok(listener.accept()?.0));
    let reader = Reader::Stream(Box::new(reader), Box::new(()));
    (Box::new(Late::open(spec, Use::Both)), reader)
}

fn tcp_listener() -> (EndpointSpec, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let spec = format!("tcp:{}", listener.local_addr().expect("bound"));
    (spec.parse().expect("a spec"), listener)
}

fn unix_source(content: Vec<u8>, chunk: usize) -> (Box<dyn Source>, Keep) {
    let (spec, listener, dir) = unix_listener();
    let writer = LateStream::new(move || Ok(listener.accept()?.0));
    let keep = (dir, feed(writer, content, chunk));
    (Box::new(Late::open(spec, Use::Both)), Box::new(keep))
}

fn unix_sink() -> (Box<dyn Sink>, Reader) {
    let (spec, listener, dir) = unix_listener();
    let reader = LateStream::new(move || Ok(listener.accept()?.0));
    (
        Box::new(Late::open(spec, Use::Both)),
        Reader::Stream(Box::new(reader), Box::new(dir)),
    )
}

fn unix_listener() -> (EndpointSpec, UnixListener, TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    (EndpointSpec::Unix(path), listener, dir)
}

fn tcp_listen_source(content: Vec<u8>, chunk: usize) -> (Box<dyn Source>, Keep) {
    let listening = listening(&"tcp-listen:0".parse().expect("a spec"));
    let writer = tcp_peer(&listening);
    (
        Box::new(Late::accept(listening, Use::Both)),
        feed(writer, content, chunk),
    )
}

fn tcp_listen_sink() -> (Box<dyn Sink>, Reader) {
    let listening = listening(&"tcp-listen:0".parse().expect("a spec"));
    let reader = Reader::Stream(Box::new(tcp_peer(&listening)), Box::new(()));
    (Box::new(Late::accept(listening, Use::Both)), reader)
}

fn tcp_peer(listening: &Listening) -> TcpStream {
    let address = listening
        .address()
        .strip_prefix("tcp ")
        .expect("an address");
    TcpStream::connect(address).expect("a connection")
}

fn unix_listen_source(content: Vec<u8>, chunk: usize) -> (Box<dyn Source>, Keep) {
    let (listening, writer, dir) = unix_peer();
    let keep = (dir, feed(writer, content, chunk));
    (Box::new(Late::accept(listening, Use::Both)), Box::new(keep))
}

fn unix_listen_sink() -> (Box<dyn Sink>, Reader) {
    let (listening, reader, dir) = unix_peer();
    let reader = Reader::Stream(Box::new(reader), Box::new(dir));
    (Box::new(Late::accept(listening, Use::Both)), reader)
}

fn unix_peer() -> (Listening, UnixStream, TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("socket");
    let listening = listening(&EndpointSpec::UnixListen(path.clone()));
    (
        listening,
        UnixStream::connect(path).expect("a connection"),
        dir,
    )
}

/// Listening waits for nobody.
pub(super) fn listening(spec: &EndpointSpec) -> Listening {
    let mut listening = pin!(listen(spec));
    let mut cx = Context::from_waker(Waker::noop());
    match listening.as_mut().poll(&mut cx) {
        Poll::Ready(listening) => listening.expect("a listening endpoint"),
        Poll::Pending => panic!("{spec} waits"),
    }
}

/// An endpoint that waits while it is opened, opened by its first poll.
pub(super) struct Late {
    opening: Option<Pin<Box<dyn Future<Output = Endpoint> + Send>>>,
    endpoint: Option<Endpoint>,
}

impl Late {
    pub(super) fn open(spec: EndpointSpec, wanted: Use) -> Self {
        Self::new(async move { open(&spec, wanted).await.expect("an endpoint") })
    }

    pub(super) fn accept(mut listening: Listening, wanted: Use) -> Self {
        Self::new(async move { listening.accept(wanted).await.endpoint })
    }

    fn new(opening: impl Future<Output = Endpoint> + Send + 'static) -> Self {
        Self {
            opening: Some(Box::pin(opening)),
            endpoint: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<&mut Endpoint> {
        if let Some(opening) = &mut self.opening {
            self.endpoint = Some(ready!(opening.as_mut().poll(cx)));
            self.opening = None;
        }
        Poll::Ready(self.endpoint.as_mut().expect("opened"))
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<&mut Box<dyn Source>> {
        self.poll(cx).map(|e| e.source.as_mut().expect("a source"))
    }

    fn poll_sink(&mut self, cx: &mut Context<'_>) -> Poll<&mut Box<dyn Sink>> {
        self.poll(cx).map(|e| e.sink.as_mut().expect("a sink"))
    }
}

impl std::fmt::Debug for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Late")
    }
}

impl Source for Late {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_source(cx)).poll_ready(cx)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_source(cx)).poll_read(cx, buf, max)
    }
}

impl Sink for Late {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_sink(cx)).poll_write(cx, bufs)
    }

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sink(cx)).poll_reader_gone(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sink(cx)).poll_close(cx)
    }
}

type Opening<T> = Box<dyn FnOnce() -> io::Result<T> + Send>;

/// Opened by the first read or write, which may wait.
pub(super) struct LateStream<T> {
    opening: Option<Opening<T>>,
    stream: Option<T>,
}

impl<T> LateStream<T> {
    pub(super) fn new(opening: impl FnOnce() -> io::Result<T> + Send + 'static) -> Self {
        Self {
            opening: Some(Box::new(opening)),
            stream: None,
        }
    }

    fn stream(&mut self) -> io::Result<&mut T> {
        if let Some(opening) = self.opening.take() {
            self.stream = Some(opening()?);
        }
        self.stream
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<T: Read> Read for LateStream<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream()?.read(buf)
    }
}

impl<T: Write> Write for LateStream<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream()?.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream()?.flush()
    }
}
