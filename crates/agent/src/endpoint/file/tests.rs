//! Tests of files and FIFOs.

use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::Waker;

use tempfile::TempDir;
use tokio::time::Instant;

use super::super::error::IoContext;
use super::*;

fn temporary(name: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join(name);
    (dir, path)
}

fn fifo() -> (TempDir, PathBuf) {
    let (dir, path) = temporary("fifo");
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).expect("a FIFO");
    (dir, path)
}

/// A reading end that does not wait for a writer.
fn fifo_reader(path: &Path) -> File {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut options = File::options();
    options
        .read(true)
        .custom_flags(flags)
        .open(path)
        .expect("the FIFO")
}

/// A writing end; there must be a reader.
fn fifo_writer(path: &Path) -> File {
    File::options().write(true).open(path).expect("the FIFO")
}

async fn source_of(path: &Path) -> Box<dyn Source> {
    let spec = PathSpec {
        path: path.to_owned(),
        writers: Writers::First,
    };
    let endpoint = open(&spec, Use::Source).await.expect("an endpoint");
    endpoint.source.expect("a source")
}

async fn sink_of(path: &Path) -> Box<dyn Sink> {
    let endpoint = open(&path.into(), Use::Sink).await.expect("an endpoint");
    endpoint.sink.expect("a sink")
}

async fn read(source: &mut dyn Source) -> Vec<u8> {
    let mut buf = BytesMut::with_capacity(1000);
    let read = poll_fn(|cx| source.poll_read(cx, &mut buf, 1000)).await;
    let len = read.expect("a read");
    assert_eq!(len, buf.len());
    buf.to_vec()
}

fn is_ready(source: &mut dyn Source) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    source.poll_ready(&mut cx).is_ready()
}

/// Lets the runtime look at its descriptors.
async fn turn() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// What never returns to the runtime cannot be timed out by it: a thread does the test.
fn without_spinning<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(test());
        done.send(()).expect("somebody waits");
    });
    let limit = Duration::from_secs(20);
    finished
        .recv_timeout(limit)
        .expect("the test failed or spins");
}

#[tokio::test]
async fn a_fifo_does_not_end_before_its_first_writer_has_come() {
    let (_dir, path) = fifo();
    let mut source = source_of(&path).await;
    turn().await;
    assert!(!is_ready(&mut *source), "an end before the first writer");
    let mut writer = fifo_writer(&path);
    turn().await;
    assert!(!is_ready(&mut *source), "an end before the first byte");
    writer.write_all(b"hello").expect("room");
    assert_eq!(read(&mut *source).await, b"hello");
    drop(writer);
    assert_eq!(read(&mut *source).await, b"");
}

#[tokio::test]
async fn a_fifo_ends_with_a_writer_that_wrote_nothing() {
    let (_dir, path) = fifo();
    let mut source = source_of(&path).await;
    drop(fifo_writer(&path));
    assert_eq!(read(&mut *source).await, b"");
}

#[tokio::test]
async fn a_fifo_has_as_many_writers_as_come_before_the_last_one_leaves() {
    let (_dir, path) = fifo();
    let mut source = source_of(&path).await;
    let mut first = fifo_writer(&path);
    let mut second = fifo_writer(&path);
    first.write_all(b"1").expect("room");
    drop(first);
    assert_eq!(read(&mut *source).await, b"1");
    turn().await;
    assert!(!is_ready(&mut *source));
    second.write_all(b"2").expect("room");
    drop(second);
    assert_eq!(read(&mut *source).await, b"2");
    assert_eq!(read(&mut *source).await, b"");
}

#[test]
fn a_fifos_next_writer_in_time_neither_ends_it_nor_spins() {
    without_spinning(|| async {
        let (_dir, path) = fifo();
        let mut source = source_of(&path).await;
        let mut first = fifo_writer(&path);
        first.write_all(b"1").expect("room");
        drop(first);
        // The runtime learns that the writer has gone…
        poll_fn(|cx| source.poll_ready(cx)).await.expect("ready");
        turn().await;
        // …but the next one comes before anything is read.
        let mut second = fifo_writer(&path);
        assert_eq!(read(&mut *source).await, b"1");
        for _ in 0..3 {
            turn().await;
            assert!(!is_ready(&mut *source));
        }
        let mut buf = BytesMut::with_capacity(10);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(source.poll_read(&mut cx, &mut buf, 10).is_pending());
        second.write_all(b"2").expect("room");
        assert_eq!(read(&mut *source).await, b"2");
        drop(second);
        assert_eq!(read(&mut *source).await, b"");
    });
}

#[test]
fn a_fifo_is_read_from_one_writer_after_the_other_without_spinning() {
    without_spinning(|| async {
        let (_dir, path) = fifo();
        let endpoint = open(&path.as_path().into(), Use::Source).await;
        let mut source = endpoint.expect("an endpoint").source.expect("a source");
        let mut buf = BytesMut::with_capacity(100);
        for turn in [b"1", b"2", b"3"] {
            let mut writer = fifo_writer(&path);
            writer.write_all(turn).expect("room");
            drop(writer);
            assert_eq!(read(&mut *source).await, turn);
            // Nobody writes: one look at the end, and from then on nothing to look at.
            for _ in 0..3 {
                let mut cx = Context::from_waker(Waker::noop());
                assert!(source.poll_read(&mut cx, &mut buf, 100).is_pending());
                turn_and_stay_pending(&mut *source).await;
            }
        }
        // A writer that is there all the time, and one that says nothing, change nothing.
        let mut last = fifo_writer(&path);
        drop(fifo_writer(&path));
        last.write_all(b"4").expect("room");
        assert_eq!(read(&mut *source).await, b"4");
        turn_and_stay_pending(&mut *source).await;
    });
}

async fn turn_and_stay_pending(source: &mut dyn Source) {
    turn().await;
    assert!(!is_ready(source), "ready without a writer");
}

#[test]
fn a_fifos_next_reader_in_time_does_not_make_a_full_sink_spin() {
    without_spinning(|| async {
        let (_dir, path) = fifo();
        let first = fifo_reader(&path);
        let mut sink = sink_of(&path).await;
        let block = vec![0; 100_000];
        let mut fill = || {
            let mut cx = Context::from_waker(Waker::noop());
            while let Poll::Ready(len) = sink.poll_write(&mut cx, &[IoSlice::new(&block)]) {
                len.expect("a write");
            }
        };
        fill();
        // The pipe is full; the runtime learns that the reader has gone; the next one comes.
        drop(first);
        turn().await;
        let _second = fifo_reader(&path);
        fill();
        turn().await;
        fill();
    });
}

#[tokio::test(start_paused = true)]
async fn a_fifo_sink_waits_for_its_reader_and_looks_often_enough() {
    let (_dir, path) = fifo();
    let begin = Instant::now();
    let spec = path.clone().into();
    let mut opening = Box::pin(open(&spec, Use::Sink));
    let waited = tokio::time::timeout(Duration::from_secs(3600), opening.as_mut()).await;
    assert!(waited.is_err(), "opened without a reader");
    let mut reader = fifo_reader(&path);
    let came = Instant::now();
    assert!(came - begin >= Duration::from_secs(3600));
    let mut sink = opening.await.expect("an endpoint").sink.expect("a sink");
    assert!(
        came.elapsed() <= Duration::from_millis(50),
        "{:?}",
        came.elapsed()
    );
    let write = poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(b"hello")])).await;
    assert_eq!(write.expect("a write"), 5);
    let mut bytes = [0; 5];
    reader.read_exact(&mut bytes).expect("five bytes");
    assert_eq!(&bytes, b"hello");
}

#[tokio::test(start_paused = true)]
async fn a_fifo_that_vanishes_while_it_waits_is_an_error() {
    let (dir, path) = fifo();
    let spec = path.clone().into();
    let mut opening = Box::pin(open(&spec, Use::Sink));
    let waited = tokio::time::timeout(Duration::from_secs(1), opening.as_mut()).await;
    assert!(waited.is_err());
    drop(dir);
    let error = opening.await.expect_err("no FIFO and no directory");
    assert!(matches!(error, OpenError::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_file_is_created_like_any_other_and_truncated() {
    let (_dir, path) = temporary("new");
    let mut sink = sink_of(&path).await;
    let other = path.with_extension("other");
    File::create(&other).expect("a file");
    let mode = |path: &Path| path.metadata().expect("a file").permissions().mode();
    assert_eq!(mode(&path), mode(&other));
    let write = poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(b"long content")])).await;
    assert_eq!(write.expect("a write"), 12);
    poll_fn(|cx| sink.poll_close(cx)).await.expect("the close");
    assert_eq!(std::fs::read(&path).expect("a file"), b"long content");
    let mut sink = sink_of(&path).await;
    poll_fn(|cx| sink.poll_close(cx)).await.expect("the close");
    assert_eq!(std::fs::read(&path).expect("a file"), b"");
}

#[tokio::test]
async fn the_size_hint_is_what_a_file_has_and_nothing_else() {
    let (_dir, path) = temporary("file");
    std::fs::write(&path, [0; 1234]).expect("a file");
    let hint = async |path: &Path| {
        open(&path.into(), Use::Source)
            .await
            .expect("an endpoint")
            .size_hint
    };
    assert_eq!(hint(&path).await, Some(1234));
    let (_fifo_dir, fifo) = fifo();
    assert_eq!(hint(&fifo).await, None);
    assert_eq!(hint(Path::new("/dev/null")).await, None);
    assert_eq!(hint(Path::new("/proc/self/status")).await, None);
}

#[tokio::test]
async fn a_terminal_is_known_as_one() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours).expect("a terminal");
    unlockpt(&ours).expect("a terminal");
    let name = ptsname(&ours, Vec::new()).expect("a terminal");
    let path = Path::new(name.to_str().expect("a plain path"));
    let mut endpoint = open(&path.into(), Use::Source).await.expect("an endpoint");
    assert!(endpoint.source_is_terminal);
    assert_eq!(endpoint.size_hint, None);
    rustix::io::write(&ours, b"line\n").expect("a terminal");
    let source = endpoint.source.as_mut().expect("a source");
    assert_eq!(read(&mut **source).await, b"line\n");
}

#[tokio::test]
async fn devices_work() {
    let mut null = source_of(Path::new("/dev/null")).await;
    assert_eq!(read(&mut *null).await, b"");
    let mut zero = source_of(Path::new("/dev/zero")).await;
    assert_eq!(read(&mut *zero).await, [0; 1000]);
    let mut null = sink_of(Path::new("/dev/null")).await;
    let write = poll_fn(|cx| null.poll_write(cx, &[IoSlice::new(b"x")])).await;
    assert_eq!(write.expect("a write"), 1);
    poll_fn(|cx| null.poll_close(cx)).await.expect("the close");
}

#[tokio::test]
async fn a_full_disk_is_reported_with_the_path() {
    let mut sink = sink_of(Path::new("/dev/full")).await;
    let write = poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(b"x")])).await;
    let error = match write {
        // The thread has it; the close must not say it went well.
        Ok(_) => poll_fn(|cx| sink.poll_close(cx))
            .await
            .expect_err("a full disk"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("/dev/full"), "{error}");
    let context = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<IoContext>());
    let system = context.expect("the context").source.raw_os_error();
    assert_eq!(system, Some(Errno::NOSPC.raw_os_error()));
}

#[tokio::test]
async fn errors_say_what_is_wrong() {
    let (dir, missing) = temporary("missing");
    let directory = dir.path();
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let error =
        async |path: &Path, wanted: Use| open(&path.into(), wanted).await.expect_err("an error");

    let both = error(&missing, Use::Both).await;
    assert!(
        matches!(both, OpenError::PathNeedsDirection { .. }),
        "{both}"
    );
    assert!(both.hint().is_some());
    let none = error(&missing, Use::Source).await;
    assert!(
        matches!(
            none,
            OpenError::NotFound {
                half: Half::Source,
                ..
            }
        ),
        "{none}"
    );
    let none = error(&missing.join("file"), Use::Sink).await;
    assert!(
        matches!(
            none,
            OpenError::NotFound {
                half: Half::Sink,
                ..
            }
        ),
        "{none}"
    );
    for wanted in [Use::Source, Use::Sink] {
        let is_directory = error(directory, wanted).await;
        assert!(
            matches!(is_directory, OpenError::IsDirectory { .. }),
            "{is_directory}"
        );
        let is_socket = error(&socket, wanted).await;
        assert!(
            matches!(is_socket, OpenError::IsSocket { .. }),
            "{is_socket}"
        );
    }
    // As the superuser every file may be opened: only the translation can be tested.
    let missing = Place::Anywhere(missing);
    let denied = explain(&missing, Half::Sink, Errno::ACCESS.into());
    assert!(
        matches!(denied, OpenError::PermissionDenied { .. }),
        "{denied}"
    );
    let other = explain(&missing, Half::Sink, Errno::ROFS.into());
    assert!(matches!(other, OpenError::Open { .. }), "{other}");
}
