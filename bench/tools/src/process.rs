//! Child processes: started with their stderr read, waited for with a limit, their CPU time counted.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

/// Lines of stderr kept for messages; more are dropped, never waited for.
const STDERR_LINES: usize = 64;

/// How long a program may take to listen, and to end once its work is done.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program that runs. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stderr: Receiver<String>,
}

impl Process {
    pub fn start(program: &Path, args: &[String], stdin: Stdio, stdout: Stdio) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(args).stdin(stdin).stdout(stdout);
        Self::spawn(command)
    }

    /// A command that says itself what its stdin and stdout are, and what its environment.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let program = Path::new(command.get_program()).to_owned();
        let name = program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (lines, stderr) = sync_channel(STDERR_LINES);
        let from = BufReader::new(child.stderr.take().expect("stderr is piped"));
        // Ends with the child; nothing waits for it.
        thread::spawn(move || {
            for line in from.lines().map_while(Result::ok) {
                // Full: the line is lost, the child must not block.
                let _ = lines.try_send(line);
            }
        });
        Ok(Self {
            name,
            child,
            stderr,
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// As by `kill -9`.
    pub fn kill(&mut self) {
        // Both fail when the process has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("stdin is piped")
    }

    pub fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("stdout is piped")
    }

    /// The URL in a line `… listening on URL`.
    pub fn announced(&self) -> Result<String> {
        self.said("listening on ")
    }

    /// The word behind `words` in a line that it says.
    pub fn said(&self, words: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.stderr.recv_timeout(left) else {
                bail!("{} did not say '{words}…'", self.name);
            };
            if let Some((_, rest)) = line.split_once(words) {
                return Ok(rest
                    .split_whitespace()
                    .next()
                    .unwrap_or_default()
                    .to_owned());
            }
        }
    }

    /// Tells a server to end, and waits; as [`Process::finish`].
    pub fn end(self) -> Result<f64> {
        let pid = i32::try_from(self.child.id()).context("a process id")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        self.finish()
    }

    /// Waits until something listens on `port` without connecting, which could use it up.
    pub fn wait_listening(&mut self, port: u16) -> Result<()> {
        let local = format!("0100007F:{port:04X}");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let table = std::fs::read_to_string("/proc/net/tcp")?;
            let listens = |line: &str| {
                let mut words = line.split_whitespace().skip(1);
                words.next() == Some(&local) && words.nth(1) == Some("0A")
            };
            if table.lines().any(listens) {
                return Ok(());
            }
            if self.child.try_wait()?.is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        bail!("{} does not listen: {}", self.name, self.complaints())
    }

    /// Waits for the end; seconds of user and system time that the process and its own children
    /// took. Only one thread may wait for children while this does.
    pub fn finish(self) -> Result<f64> {
        self.finish_within(PATIENCE)
    }

    /// As [`Process::finish`], of one that is still at work.
    pub fn finish_within(mut self, limit: Duration) -> Result<f64> {
        let before = cpu_of_children()?;
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("{} has not ended after {} s", self.name, limit.as_secs());
            }
            thread::sleep(Duration::from_micros(200));
        };
        let cpu = cpu_of_children()? - before;
        if !status.success() {
            bail!("{}: {status}: {}", self.name, self.complaints());
        }
        Ok(cpu)
    }

    fn complaints(&self) -> String {
        self.stderr.try_iter().collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Milliseconds that a command takes, from before its start until it has ended well.
pub fn timed(command: &mut Command) -> Result<f64> {
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output();
    let took = began.elapsed();
    let output = output.with_context(|| format!("cannot run {command:?}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {words}");
    Ok(took.as_secs_f64() * 1000.0)
}

fn cpu_of_children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
