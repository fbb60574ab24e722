//! Processes of a run: in an environment of their own, killed by their number, gone with their handle.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Stop;

const POLL: Duration = Duration::from_millis(2);
/// For what takes a moment.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Where a run's files are, and which program it runs.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) farpipe: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) stop: Stop,
}

impl Place {
    pub(super) fn new(farpipe: PathBuf, dir: PathBuf, stop: Stop) -> Result<Self> {
        for name in ["run", "home", "files"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(dir.join("run"), owner_only)
            .context("cannot close the runtime directory to others")?;
        Ok(Self { farpipe, dir, stop })
    }

    /// A file of this name, which is nobody else's.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join("files").join(name)
    }

    /// A directory of this name.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// The command in the run's environment. A ^C at the run is not its own.
    fn farpipe<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(&self.farpipe);
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.join("home"))
            .env("XDG_RUNTIME_DIR", self.dir.join("run"))
            .env("FARPIPE_NO_REUSE", "1")
            .env("LC_ALL", "C")
            .current_dir(self.dir.join("home"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        command
    }

    /// Starts it with this stdin, its output in files of that name.
    pub(super) fn start(&self, name: &str, args: &[&str], stdin: Option<File>) -> Result<Running> {
        let made = |end: &str| {
            let path = self.file(&format!("{name}.{end}"));
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))
        };
        let mut command = self.farpipe(args);
        command.stdout(made("out")?).stderr(made("err")?);
        if let Some(stdin) = stdin {
            command.stdin(stdin);
        }
        let child = command.spawn().context("cannot start farpipe")?;
        Ok(Running {
            child,
            output: self.file(&format!("{name}.out")),
            errors: self.file(&format!("{name}.err")),
            stop: self.stop.clone(),
        })
    }
}

/// A process with its output in files; killed if nobody has awaited its end.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    output: PathBuf,
    errors: PathBuf,
    stop: Stop,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// As a shell tells it.
    pub(super) status: i32,
    pub(super) output: Vec<u8>,
    pub(super) errors: String,
    /// It was killed by us.
    pub(super) is_killed: bool,
}

impl Running {
    /// Its end; killed after this time.
    pub(super) fn end_within(mut self, time: Duration) -> Result<Ended> {
        let until = Instant::now() + time;
        let mut is_killed = false;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            self.stop.check()?;
            if !is_killed && Instant::now() >= until {
                is_killed = true;
                self.child.kill()?;
            }
            thread::sleep(POLL);
        };
        Ok(Ended {
            status: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            output: fs::read(&self.output)?,
            errors: fs::read_to_string(&self.errors).unwrap_or_default(),
            // It may have ended just before.
            is_killed: is_killed && status.signal().is_some(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Errors: it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A relay that keeps topics.
#[derive(Debug)]
pub(super) struct Relay {
    child: Child,
    url: String,
}

impl Relay {
    /// Starts it and waits until it listens.
    pub(super) fn start(place: &Place, data: &Path, url: &str) -> Result<Self> {
        let mut command = place.farpipe(["relay", "--listen", url, "--heartbeat", "1s", "--data"]);
        command.arg(data).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start a relay")?;
        let errors = child.stderr.take().context("its stderr is a pipe")?;
        let mut relay = Self {
            child,
            url: String::new(),
        };
        let (tell, told) = mpsc::sync_channel(1);
        thread::spawn(move || listen(errors, &tell));
        relay.url = match told.recv_timeout(PATIENCE) {
            Ok(Ok(url)) => url,
            Ok(Err(said)) => {
                let status = relay.child.wait()?;
                bail!("the relay ended with {status}: {said}");
            }
            Err(_) => bail!("the relay does not listen after {PATIENCE:?}"),
        };
        Ok(relay)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// kill -9, and its end awaited.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Whether it has ended by itself, which none should.
    pub(super) fn ended(&mut self) -> Result<Option<String>> {
        Ok(self.child.try_wait()?.map(|status| status.to_string()))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells where a relay listens, or what it said instead; and reads on until its end, or it would wait for us.
fn listen(errors: ChildStderr, tell: &SyncSender<Result<String, String>>) {
    let mut lines = BufReader::new(errors);
    let mut said = Vec::new();
    loop {
        let begin = said.len();
        let is_over = !matches!(lines.read_until(b'\n', &mut said), Ok(1..));
        let line = String::from_utf8_lossy(&said[begin..]).into_owned();
        let answer = match line.trim().strip_prefix("listening on ") {
            Some(url) => Ok(url.to_owned()),
            None if is_over => Err(String::from_utf8_lossy(&said).trim().to_owned()),
            None => continue,
        };
        // Nobody waits any more: the relay is killed.
        let _ = tell.send(answer);
        let mut rest = [0; 4096];
        while matches!(lines.read(&mut rest), Ok(1..)) {}
        return;
    }
}
