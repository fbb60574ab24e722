//! One process of a test: how it is started, what it says, how it ends.

use std::ffi::{OsStr, OsString};
use std::io::{Read as _, Write as _};
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::front::Fronts;
use super::output::Output;
use super::{DEADLINE, Terminal};

/// What is ignored where the tests run (in a script's background) is not ignored by what they run.
const HEARD: &str = "--default-signal=INT,QUIT,HUP,TERM";

/// A command line that is being put together. stdin is empty, stdout and stderr are collected,
/// unless said otherwise.
#[derive(Debug)]
pub(crate) struct Invocation {
    command: Command,
    name: String,
    dir: PathBuf,
    input: Input,
    collects_stdout: bool,
    fronts: Option<Arc<Fronts>>,
}

#[derive(Debug)]
enum Input {
    /// Given to the command already, or `/dev/null`.
    Set,
    /// A pipe with these bytes and then its end.
    Bytes(Vec<u8>),
    /// A pipe that the test writes.
    Open,
}

/// A test that wants a command to go through a local agent says so; with `FARPIPE_NO_REUSE=0` in the
/// environment of the tests all do, and each host has one.
fn no_reuse() -> OsString {
    std::env::var_os("FARPIPE_NO_REUSE").unwrap_or_else(|| "1".into())
}

impl Invocation {
    pub(super) fn new(dir: &Path, program: &OsStr) -> Self {
        // Each process leads a group of its own, so that a shell's pipeline dies with it. And on a
        // terminal farpipe leaves its commands in the terminal's group: the tests are to see the
        // same with and without one.
        let mut command = if std::fs::File::open("/dev/tty").is_ok() {
            let mut command = Command::new("setsid");
            command.args(["env", HEARD]).arg(program);
            command
        } else {
            let mut command = Command::new("env");
            command.arg(HEARD).arg(program).process_group(0);
            command
        };
        command
            .current_dir(dir)
            .env("XDG_RUNTIME_DIR", dir)
            .env("FARPIPE_NO_REUSE", no_reuse())
            .env("LC_ALL", "C")
            // A bar is drawn on a terminal that is known to move its cursor.
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A proxy of whoever runs the tests is none of theirs.
        for name in ["https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        Self {
            command,
            name: program.display().to_string(),
            dir: dir.to_owned(),
            input: Input::Set,
            collects_stdout: true,
            fronts: None,
        }
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        for arg in args {
            self.name = format!("{} {}", self.name, arg.as_ref().display());
            self.command.arg(arg);
        }
        self
    }

    pub(crate) fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        self.args([arg])
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What listens is reached by a proxy of these.
    pub(super) fn behind(mut self, fronts: Arc<Fronts>) -> Self {
        self.fronts = Some(fronts);
        self
    }

    /// stdin is a pipe with these bytes and then its end.
    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes(bytes.into());
        self
    }

    /// stdin is a pipe that the test writes and closes: [`Running::write`].
    pub(crate) fn open_input(mut self) -> Self {
        self.input = Input::Open;
        self
    }

    /// stdin is this.
    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    /// stdout is this and not collected.
    pub(crate) fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout);
        self.collects_stdout = false;
        self
    }

    /// stdin, stdout and stderr are this terminal and not collected.
    pub(crate) fn on_terminal(mut self, terminal: &Terminal) -> Self {
        self.command.stdin(terminal.open()).stdout(terminal.open());
        self.command.stderr(terminal.open());
        self.collects_stdout = false;
        self
    }

    /// stdout is collected, but only from the moment [`Running::read_on`] is called.
    pub(crate) fn unread_stdout(mut self) -> (Self, Output) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        self = self.stdout(writer);
        (self, Output::paused(reader))
    }

    pub(crate) fn start(mut self) -> Running {
        if !matches!(self.input, Input::Set) {
            self.command.stdin(Stdio::piped());
        }
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        // The command keeps our ends of pipes given to the child: they would never end.
        drop(self.command);
        let stdout = match child.stdout.take() {
            Some(stdout) if self.collects_stdout => Output::collect(stdout),
            _ => Output::none(),
        };
        let stderr = child
            .stderr
            .take()
            .map_or_else(Output::none, Output::collect);
        let mut stdin = child.stdin.take();
        if let Input::Bytes(bytes) = self.input {
            let mut stdin = stdin.take().expect("stdin is piped");
            // Ends with the child; a reader that wants no more is not this thread's business.
            thread::spawn(move || {
                let _ = stdin.write_all(&bytes);
            });
        }
        let pid = Pid::from_child(&child);
        let (dead, ended) = mpsc::channel();
        thread::spawn(move || {
            // The child stays a zombie until the test reaps it: until then its number is its own.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while let Err(rustix::io::Errno::INTR) =
                rustix::process::waitid(WaitId::Pid(pid), options)
            {}
            let _ = dead.send(());
        });
        Running {
            child,
            pid,
            name: self.name,
            dir: self.dir,
            stdin,
            stdout,
            stderr,
            ended,
            is_dead: false,
            is_reaped: false,
        }
    }

    /// Starts it and waits for its end.
    #[track_caller]
    pub(crate) fn run(self) -> Ended {
        self.start().end()
    }

    /// Starts a listener and waits until it listens.
    #[track_caller]
    pub(crate) fn start_listening(mut self) -> Listener {
        let fronts = self.fronts.take();
        let running = self.start();
        let text =
            running.stderr_until(|text| text.contains("listening on ") && text.ends_with('\n'));
        let url = text
            .lines()
            .find_map(|line| line.strip_prefix("listening on "))
            .expect("waited for")
            .to_owned();
        let own = url.clone();
        let url = match fronts {
            Some(fronts) => fronts.before(url),
            None => url,
        };
        Listener { running, url, own }
    }
}

impl Invocation {
    /// Starts an agent and waits until so many relays know it.
    #[track_caller]
    pub(crate) fn start_registered(self, relays: usize) -> Running {
        let running = self.start();
        running.await_registered(relays);
        running
    }
}

/// A process that may still run.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pid: Pid,
    name: String,
    dir: PathBuf,
    stdin: Option<ChildStdin>,
    stdout: Output,
    stderr: Output,
    ended: mpsc::Receiver<()>,
    is_dead: bool,
    is_reaped: bool,
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid, signal).expect("our own child takes signals");
    }

    /// Waits until the agent has registered so many times.
    #[track_caller]
    pub(crate) fn await_registered(&self, times: usize) {
        self.stderr_until(|text| text.matches("registered as ").count() >= times);
    }

    /// `kill -9`.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Writes to its stdin.
    #[track_caller]
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("started with open_input");
        stdin.write_all(bytes.as_ref()).expect("its stdin is read");
    }

    /// Its stdin, for a test that watches how much of it is taken.
    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("started with open_input")
    }

    pub(crate) fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Waits until its stderr satisfies `enough`, and returns it.
    #[track_caller]
    pub(crate) fn stderr_until(&self, enough: impl Fn(&str) -> bool) -> String {
        let found = self
            .stderr
            .until(|bytes| enough(&String::from_utf8_lossy(bytes)));
        match found {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(bytes) => panic!(
                "{}: waited in vain; stderr is:\n{}",
                self.name,
                String::from_utf8_lossy(&bytes)
            ),
        }
    }

    /// Waits until `len` bytes came out of its stdout, and returns all that came.
    #[track_caller]
    pub(crate) fn stdout_until(&self, len: usize) -> Vec<u8> {
        self.stdout
            .until(|bytes| bytes.len() >= len)
            .unwrap_or_else(|bytes| {
                panic!(
                    "{}: {} bytes instead of {len}; stderr is:\n{}",
                    self.name,
                    bytes.len(),
                    self.stderr.text()
                )
            })
    }

    /// What came out of its stdout so far.
    pub(crate) fn printed_so_far(&self) -> String {
        self.stdout.text()
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        self.is_dead |= self.ended.try_recv().is_ok();
        !self.is_dead
    }

    /// Waits for its end and that of its outputs.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        if !self.is_dead && self.ended.recv_timeout(DEADLINE).is_err() {
            panic!(
                "{} does not end; stderr is:\n{}",
                self.name,
                self.stderr.text()
            );
        }
        let status = self.child.wait().expect("a child that has ended");
        self.is_reaped = true;
        let whole = |output: &Output, what| {
            output
                .until_end()
                .unwrap_or_else(|_| panic!("{}: someone else holds its {what}", self.name))
        };
        Ended {
            stdout: whole(&self.stdout, "stdout"),
            stderr: String::from_utf8_lossy(&whole(&self.stderr, "stderr")).into_owned(),
            status,
            name: self.name.clone(),
            dir: self.dir.clone(),
        }
    }

    /// The largest resident size it had, in bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn memory_peak(&self) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|mut file| file.read_to_string(&mut text))
            .expect("the status of a running process");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .expect("VmHWM");
        let kib = line.trim().trim_end_matches(" kB");
        kib.parse::<u64>().expect("a number") * 1024
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_reaped {
            // Its number may be another's by now.
            return;
        }
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A `farpipe listen` that listens.
#[derive(Debug)]
pub(crate) struct Listener {
    running: Running,
    url: String,
    /// Behind the proxy, if there is one.
    own: String,
}

impl Listener {
    /// What to give to `connect`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> std::net::SocketAddr {
        Self::address(&self.url)
    }

    /// Where it listens itself, past the proxy that is before it, if there is one.
    pub(crate) fn own_url(&self) -> &str {
        &self.own
    }

    /// The same as an address.
    pub(crate) fn own_addr(&self) -> std::net::SocketAddr {
        Self::address(&self.own)
    }

    fn address(url: &str) -> std::net::SocketAddr {
        let (_, authority) = url.split_once("://").expect("a URL");
        authority.parse().expect("an address and a port")
    }

    #[track_caller]
    pub(crate) fn end(self) -> Ended {
        self.running.end()
    }

    /// The process, when its place is known.
    pub(crate) fn into_running(self) -> Running {
        self.running
    }
}

impl Deref for Listener {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl DerefMut for Listener {
    fn deref_mut(&mut self) -> &mut Running {
        &mut self.running
    }
}

/// How a process ended and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: std::process::ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    name: String,
    dir: PathBuf,
}

impl Ended {
    /// It exited by itself with this status.
    #[track_caller]
    pub(crate) fn exits(self, status: i32) -> Self {
        assert!(
            self.status.code() == Some(status),
            "{}: {} instead of {status}; stderr is:\n{}",
            self.name,
            self.status,
            self.stderr
        );
        self
    }

    /// stdout is exactly this.
    #[track_caller]
    pub(crate) fn printed(self, expected: impl AsRef<[u8]>) -> Self {
        super::assert_same(&self.stdout, expected.as_ref());
        self
    }

    /// stderr, with what differs between two runs replaced: see [`super::output::stable`].
    pub(crate) fn said(&self) -> String {
        super::output::stable(&self.stderr, &self.dir)
    }

    /// stderr is this, with what differs between two runs replaced.
    #[track_caller]
    pub(crate) fn says(self, expected: &str) -> Self {
        super::assert_text(&self.said(), expected);
        self
    }
}

/// A process's number, as a script prints it.
#[track_caller]
pub(crate) fn pid(text: &str) -> Pid {
    let number = text.trim().parse().expect("a number");
    Pid::from_raw(number).expect("not zero")
}

/// Whether the process exists and is no zombie.
pub(crate) fn is_alive(pid: Pid) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) else {
        return false;
    };
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}

/// Nobody tells about the end of a process that is not ours: it has to be looked for.
#[track_caller]
pub(crate) fn await_death(pid: Pid, name: &str) {
    until(&format!("the {name} is an orphan"), || !is_alive(pid));
}

/// Looks again and again whether something that nobody tells about has come true.
#[track_caller]
pub(crate) fn until(otherwise: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < until, "{otherwise}");
        thread::sleep(Duration::from_millis(5)); // sleep: polls, with a deadline
    }
}
