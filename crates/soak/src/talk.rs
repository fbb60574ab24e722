//! One client process of a workload: fed with one content, its output compared with another.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::bytes::{Check, Content};
use crate::process::{self, Place};
use crate::report::Outcome;

/// Longer than any fault of a soak lasts, by far: who takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

const CHUNK: usize = 32 << 10;

/// What is fed, and what is wanted back.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Bytes {
    pub(crate) input: Option<(Content, u64)>,
    pub(crate) output: Option<(Content, u64)>,
    /// kill -9 after so long, if it still runs.
    pub(crate) kill_after: Option<Duration>,
}

impl Bytes {
    /// Only fed.
    pub(crate) fn fed(input: (Content, u64)) -> Self {
        Self {
            input: Some(input),
            ..Self::default()
        }
    }

    /// Only wanted back.
    pub(crate) fn wanted(output: (Content, u64)) -> Self {
        Self {
            output: Some(output),
            ..Self::default()
        }
    }
}

/// A started client.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    bytes: Bytes,
    log: PathBuf,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exit: i32,
    pub(crate) right: u64,
    pub(crate) wrong: Option<String>,
    wanted: Option<u64>,
    pub(crate) killed: bool,
    stuck: bool,
    pub(crate) log: PathBuf,
}

impl Client {
    /// Starts `farpipe ARGS`.
    pub(crate) fn start(place: &Place, name: &str, args: &[&str], bytes: Bytes) -> Result<Self> {
        let command = place.command(&place.farpipe, name)?;
        Self::start_command(place, name, command, args, bytes)
    }

    pub(crate) fn start_command(
        place: &Place,
        name: &str,
        mut command: Command,
        args: &[&str],
        bytes: Bytes,
    ) -> Result<Self> {
        command.args(args);
        if bytes.input.is_some() {
            command.stdin(Stdio::piped());
        }
        if bytes.output.is_some() {
            command.stdout(Stdio::piped());
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            child,
            bytes,
            log: place.log(name),
        })
    }

    /// What it says on stderr so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        process::signal(&self.child, signal);
    }

    /// Until a line of stderr begins so; the rest of that line.
    pub(crate) async fn says(&mut self, begin: &str) -> Result<String> {
        for _ in 0..PATIENCE.as_millis() / 10 {
            let said = self.said();
            let whole = said.rsplit_once('\n').map_or("", |(lines, _)| lines);
            if let Some(rest) = whole.lines().find_map(|line| line.strip_prefix(begin)) {
                return Ok(rest.to_owned());
            }
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("ended with {status} before it said {begin:?}: {said}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("never said {begin:?}")
    }

    /// Feeds it, compares, and waits for its end. Dropping the future kills the process.
    pub(crate) async fn end(mut self) -> Result<Ended> {
        let feeding = feed(self.child.stdin.take(), self.bytes.input);
        let mut check = self.bytes.output.map(|(content, _)| Check::new(content));
        let comparing = compare(self.child.stdout.take(), check.as_mut());
        let mut killed = false;
        let child = &mut self.child;
        let kill_after = self.bytes.kill_after;
        let ending = async {
            if let Some(after) = kill_after
                && tokio::time::timeout(after, child.wait()).await.is_err()
            {
                killed = true;
                process::signal(child, Signal::KILL);
            }
            child.wait().await
        };
        // The feeding ends with the process: its stdin is then broken.
        let all = async { tokio::join!(feeding, comparing, ending).2 };
        let ended = tokio::time::timeout(PATIENCE, all).await;
        let stuck = ended.is_err();
        let exit = match ended {
            Ok(status) => process::status(status.context("cannot wait for a client")?),
            Err(_) => {
                process::signal(&self.child, Signal::KILL);
                process::status(self.child.wait().await?)
            }
        };
        Ok(Ended {
            exit,
            right: check.as_ref().map_or(0, Check::right),
            wrong: check.as_ref().and_then(Check::wrong),
            wanted: self.bytes.output.map(|(_, length)| length),
            killed,
            stuck,
            log: self.log,
        })
    }
}

async fn feed(stdin: Option<tokio::process::ChildStdin>, input: Option<(Content, u64)>) {
    let (Some(mut stdin), Some((content, length))) = (stdin, input) else {
        return;
    };
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    while offset < length {
        let part = (length - offset).min(CHUNK as u64) as usize;
        content.fill(offset, &mut buffer[..part]);
        if stdin.write_all(&buffer[..part]).await.is_err() {
            return;
        }
        offset += part as u64;
    }
}

async fn compare(stdout: Option<tokio::process::ChildStdout>, check: Option<&mut Check>) {
    let (Some(mut stdout), Some(check)) = (stdout, check) else {
        return;
    };
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = stdout.read(&mut buffer).await {
        check.take(&buffer[..length]);
    }
}

impl Ended {
    /// Nothing ran: the agent was on its way back, or the relay was, which is said and can be asked again.
    pub(crate) fn is_refused(&self) -> bool {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        self.exit == 125 && self.right == 0 && is_refusal(&said)
    }

    /// Whole with `exit`, or a prefix and another status if it `may_fail`; else what is wrong. What
    /// came is compared in any case.
    pub(crate) fn judge(&self, exit: i32, may_fail: bool) -> Result<Outcome, String> {
        let Self { right, wanted, .. } = self;
        let of = wanted.map_or(String::new(), |wanted| {
            format!(" with {right} of {wanted} bytes")
        });
        let fault = if let Some(wrong) = &self.wrong {
            wrong.clone()
        } else if wanted.is_some_and(|wanted| *right > wanted) {
            format!("more than was sent{of}")
        } else if self.stuck {
            format!("did not end{of}")
        } else if self.killed {
            return Ok(Outcome::Harmed);
        } else if self.exit == exit && wanted.is_none_or(|wanted| *right == wanted) {
            return Ok(Outcome::Whole);
        } else if self.exit == exit {
            format!("success{of}")
        } else if may_fail || self.is_refused() {
            return Ok(Outcome::Harmed);
        } else {
            format!("exit {} in the place of {exit}{of}", self.exit)
        };
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = said.trim_end().lines().last().unwrap_or_default();
        Err(format!("{fault} ({last}; {})", self.log.display()))
    }
}

/// Who has reached nobody yet does not wait for one to come.
pub(crate) fn is_refusal(said: &str) -> bool {
    [
        "is registered here",
        "nothing listens there",
        "younger than the request",
    ]
    .iter()
    .any(|why| said.contains(why))
}
