//! A process and what is on its fd 0 and fd 1.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions};

/// What the process under test has as fd 0 or fd 1, seen from outside.
pub(crate) struct Side {
    /// Given to the process.
    pub(crate) theirs: OwnedFd,
    /// The other end; a file's is opened anew when it is read.
    pub(crate) ours: Option<File>,
    /// Another descriptor of the same file description, as a shell keeps one.
    pub(crate) shared: OwnedFd,
    /// Files that must stay.
    pub(crate) dir: tempfile::TempDir,
}

impl Side {
    fn new(theirs: impl Into<OwnedFd>, ours: Option<OwnedFd>) -> Self {
        Self::in_directory(theirs, ours, directory())
    }

    fn in_directory(
        theirs: impl Into<OwnedFd>,
        ours: Option<OwnedFd>,
        dir: tempfile::TempDir,
    ) -> Self {
        let theirs = theirs.into();
        Self {
            shared: theirs.try_clone().expect("a duplicate"),
            theirs,
            ours: ours.map(File::from),
            dir,
        }
    }
}

/// Writes `content` and ends it, in a thread.
pub(crate) fn feed(ours: Option<File>, content: Vec<u8>) -> JoinHandle<io::Result<()>> {
    std::thread::spawn(move || match ours {
        Some(mut ours) => ours.write_all(&content),
        None => Ok(()),
    })
}

pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

pub(crate) fn make_fifo(dir: &tempfile::TempDir) -> (PathBuf, File) {
    let path = dir.path().join("fifo");
    rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).expect("a FIFO");
    // Open for both, so that opening one end does not wait for the other.
    let both = File::options().read(true).write(true).open(&path);
    (path, both.expect("the FIFO"))
}

/// A terminal without echo or line editing; the program's side and ours.
pub(crate) fn raw_terminal() -> (OwnedFd, OwnedFd) {
    let (program, ours) = terminal();
    let mut modes = rustix::termios::tcgetattr(&program).expect("a terminal");
    modes.make_raw();
    rustix::termios::tcsetattr(&program, OptionalActions::Now, &modes).expect("a terminal");
    (program, ours)
}

pub(crate) fn terminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = rustix::pty::openpt(flags).expect("a terminal");
    rustix::pty::grantpt(&ours).expect("a terminal");
    rustix::pty::unlockpt(&ours).expect("a terminal");
    let name = rustix::pty::ptsname(&ours, Vec::new()).expect("a terminal");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let program = rustix::fs::open(&*name, flags, Mode::empty()).expect("a terminal");
    let mut modes = rustix::termios::tcgetattr(&program).expect("a terminal");
    modes.local_modes -= LocalModes::ECHO;
    rustix::termios::tcsetattr(&program, OptionalActions::Now, &modes).expect("a terminal");
    (program, ours)
}

/// Kinds of stdin; the content is written by [`feed`] unless it is there already.
pub(crate) mod input {
    use super::*;

    pub(crate) fn pipe(_content: &[u8]) -> Side {
        let (reader, writer) = io::pipe().expect("a pipe");
        Side::new(reader, Some(writer.into()))
    }

    pub(crate) fn file(content: &[u8]) -> Side {
        let dir = directory();
        let path = dir.path().join("in");
        std::fs::write(&path, content).expect("a file");
        Side::in_directory(File::open(&path).expect("a file"), None, dir)
    }

    pub(crate) fn fifo(_content: &[u8]) -> Side {
        let dir = directory();
        let (path, _both) = make_fifo(&dir);
        let reader = File::open(&path).expect("the FIFO");
        let writer = File::options().write(true).open(&path).expect("the FIFO");
        Side::in_directory(reader, Some(writer.into()), dir)
    }

    pub(crate) fn socket(_content: &[u8]) -> Side {
        let (theirs, ours) = UnixStream::pair().expect("sockets");
        Side::new(theirs, Some(ours.into()))
    }
}

/// Kinds of stdout.
pub(crate) mod output {
    use super::*;

    pub(crate) fn pipe() -> Side {
        let (reader, writer) = io::pipe().expect("a pipe");
        Side::new(writer, Some(reader.into()))
    }

    pub(crate) fn file() -> Side {
        let dir = directory();
        let path = dir.path().join("out");
        Side::in_directory(File::create(&path).expect("a file"), None, dir)
    }

    pub(crate) fn fifo() -> Side {
        let dir = directory();
        let (path, _both) = make_fifo(&dir);
        let reader = File::open(&path).expect("the FIFO");
        let writer = File::options().write(true).open(&path).expect("the FIFO");
        Side::in_directory(writer, Some(reader.into()), dir)
    }

    pub(crate) fn socket() -> Side {
        let (theirs, ours) = UnixStream::pair().expect("sockets");
        Side::new(theirs, Some(ours.into()))
    }

    pub(crate) fn terminal() -> Side {
        let (theirs, ours) = raw_terminal();
        Side::new(theirs, Some(ours))
    }
}

/// Everything up to the end; of a terminal, until nobody has it open any more.
pub(crate) fn collect(ours: Option<File>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut ours) = ours
            && let Err(error) = ours.read_to_end(&mut all)
        {
            assert_eq!(
                error.raw_os_error(),
                Some(rustix::io::Errno::IO.raw_os_error())
            );
        }
        all
    })
}

pub(crate) fn helper() -> PathBuf {
    let test = std::env::current_exe().expect("this program's path");
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("target/PROFILE");
    let path = profile.join("examples/stdio_copy");
    assert!(
        path.exists(),
        "{} is not built: cargo test builds it",
        path.display()
    );
    path
}

pub(crate) fn start(
    arguments: &[&str],
    stdin: impl Into<Stdio>,
    stdout: impl Into<Stdio>,
) -> Child {
    let mut command = Command::new(helper());
    command
        .args(arguments)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::piped());
    command.spawn().expect("stdio_copy")
}

/// Waits for the end, not for ever.
pub(crate) fn finish(mut child: Child) -> (ExitStatus, String) {
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a status") {
            break status;
        }
        if begin.elapsed() > Duration::from_secs(30) {
            child.kill().expect("a signal");
            child.wait().expect("a status");
            panic!("stdio_copy hangs");
        }
        std::thread::sleep(Duration::from_millis(1)); // sleep: polls another process, with a deadline
    };
    let mut messages = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut messages).expect("messages");
    }
    (status, messages)
}

pub(crate) fn succeed(child: Child) {
    let (status, messages) = finish(child);
    assert!(
        status.success() && messages.is_empty(),
        "{status}: {messages}"
    );
}

pub(crate) fn end(mut child: Child) {
    child.kill().expect("a signal");
    child.wait().expect("a status");
}
