//! Processes: started with an environment of their own, looked at in /proc, ended by their number.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

/// The variable by which the processes of one soak, and what they started, are found again.
pub(crate) const MARK: &str = "FARPIPE_SOAK";

/// Where a soak's files and sockets are, and which program it runs.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) farpipe: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) mark: String,
}

impl Place {
    pub(crate) fn new(farpipe: PathBuf, dir: PathBuf, mark: String) -> Result<Self> {
        for name in ["run", "home", "logs", "data"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(dir.join("run"), owner_only)
            .context("cannot close the runtime directory to others")?;
        Ok(Self { farpipe, dir, mark })
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(name)
    }

    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.dir.join("data").join(name)
    }

    /// A command in the soak's environment; stderr is appended to the log of this name. It dies with
    /// its handle, and a ^C at the soak is not its own.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>, log: &str) -> Result<Command> {
        let path = self.log(log);
        let file = fs::File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.join("home"))
            .env("XDG_RUNTIME_DIR", self.dir.join("run"))
            .env("FARPIPE_NO_REUSE", "1")
            .env("LC_ALL", "C")
            .env(MARK, &self.mark)
            .current_dir(self.dir.join("home"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }
}

/// As a shell tells it: 128 and its number for a signal.
pub(crate) fn status(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Sends a signal to a child that is not reaped yet.
pub(crate) fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // It may have ended by itself; until it is reaped its number is its own.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// What a process holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// What each leads to, sorted.
    pub(crate) descriptors: Vec<String>,
    pub(crate) children: usize,
    pub(crate) threads: usize,
    pub(crate) rss_kib: u64,
}

impl Held {
    /// `None`: there is no such process.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let count = |what: &str| fs::read_dir(proc.join(what)).map(Iterator::count);
        let status = fs::read_to_string(proc.join("status")).ok()?;
        let rss = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let tasks = fs::read_dir(proc.join("task")).ok()?;
        let children = tasks
            .flatten()
            .map(|task| fs::read_to_string(task.path().join("children")));
        Some(Self {
            descriptors: descriptors(&proc)?,
            children: children
                .flatten()
                .map(|text| text.split_whitespace().count())
                .sum(),
            threads: count("task").ok()?,
            rss_kib: rss.split_whitespace().next()?.parse().ok()?,
        })
    }
}

fn descriptors(proc: &Path) -> Option<Vec<String>> {
    let entries = fs::read_dir(proc.join("fd")).ok()?.flatten();
    // One that is closed meanwhile is none.
    let leads = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    let mut leads: Vec<String> = leads
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    leads.sort();
    Some(leads)
}

/// Processes that carry the mark, as `PID COMMAND`.
pub(crate) fn marked(mark: &str) -> Vec<String> {
    let wanted = format!("{MARK}={mark}");
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let is_ours = |path: &Path| {
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_bytes())
    };
    let found = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_ours(path));
    found
        .map(|path| {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            format!("{} {line}", path.file_name().unwrap_or_default().display())
        })
        .collect()
}
