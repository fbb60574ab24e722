//! How each kind is made for the suite.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use rustix::fs::{Mode, OFlags};
use tempfile::{NamedTempFile, TempDir};

use super::super::fd::Kind;
use super::super::pipe::{PipeSink, PipeSource};
use super::super::socket::{AtEnd, SocketSink, SocketSource};
use super::super::thread::{ThreadSink, ThreadSource};
use super::super::{Endpoint, EndpointSpec, Sink, Source, Use, open};
use super::*;

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
