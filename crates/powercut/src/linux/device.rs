//! Loop devices and mounts, each undone when its guard goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Runs a program of the system; what it says is its error.
pub(super) fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{program} {}: {}, {}",
            args.join(" "),
            output.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is no text", path.display()))
}

/// What was just let go of may be held for a moment, by a process that ends.
fn patiently(program: &str, args: &[&str]) -> Result<()> {
    let mut tries = 0;
    loop {
        match run(program, args) {
            Ok(_) => return Ok(()),
            Err(error) if tries == 100 => return Err(error),
            Err(_) => {
                tries += 1;
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Ends a mount, and if somebody holds it, takes it out of sight at least.
pub(super) fn unmount(at: &Path) -> Result<()> {
    let at = text(at)?;
    let ended = patiently("umount", &[at]);
    if ended.is_err() {
        run("umount", &["--lazy", at])?;
    }
    ended
}

/// A file as a block device: its name, and the file's.
#[derive(Debug)]
pub(super) struct Loop(String, String);

impl Loop {
    pub(super) fn attach(file: &Path) -> Result<Self> {
        // Two who look for a free device at the same time may find the same one.
        let mut tries = 0;
        loop {
            match run("losetup", &["--find", "--show", text(file)?]) {
                Ok(device) => return Ok(Self(device, text(file)?.to_owned())),
                Err(error) if tries == 20 => return Err(error),
                Err(_) => {
                    tries += 1;
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    /// Makes an ext4 on it: of what was there before, only what ext4 needs is overwritten.
    pub(super) fn format(&self, options: &[&str]) -> Result<()> {
        let mut args = vec!["-q", "-F", "-m", "0", "-J", "size=4"];
        args.extend(["-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]);
        args.extend(options);
        args.push(&self.0);
        run("mkfs.ext4", &args)?;
        Ok(())
    }

    pub(super) fn mount(self, at: &Path, options: &str) -> Result<Mount> {
        run("mount", &["-t", "ext4", "-o", options, &self.0, text(at)?])?;
        Ok(Mount {
            at: at.to_owned(),
            is_there: true,
            _device: self,
        })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Err(error) = patiently("losetup", &["--detach", &self.0]) {
            eprintln!("farpipe-powercut: {error:#}");
        }
        // Whoever looks at all devices at that moment holds it for as long, and its file with it.
        let name = self.0.trim_start_matches("/dev/");
        let backed = PathBuf::from(format!("/sys/block/{name}/loop/backing_file"));
        let until = Instant::now() + Duration::from_secs(5);
        while fs::read_to_string(&backed).is_ok_and(|file| file.trim() == self.1)
            && Instant::now() < until
        {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// An ext4 that is mounted; its device goes behind it.
#[derive(Debug)]
pub(super) struct Mount {
    at: PathBuf,
    is_there: bool,
    _device: Loop,
}

impl Mount {
    pub(super) fn end(mut self) -> Result<()> {
        self.is_there = false;
        unmount(&self.at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.is_there
            && let Err(error) = unmount(&self.at)
        {
            eprintln!("farpipe-powercut: {error:#}");
        }
    }
}

/// Mounts and loop devices below a directory, as the system lists them: none is to be left.
pub(super) fn left(dir: &Path) -> Result<Vec<String>> {
    let dir = text(dir)?;
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot list mounts")?;
    let mut left: Vec<_> = mounts
        .lines()
        .filter(|line| line.contains(dir))
        .map(str::to_owned)
        .collect();
    let devices = run(
        "losetup",
        &["--list", "--noheadings", "--output", "NAME,BACK-FILE"],
    )?;
    left.extend(
        devices
            .lines()
            .filter(|line| line.contains(dir))
            .map(str::to_owned),
    );
    Ok(left)
}
