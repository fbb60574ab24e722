//! A group of three readers of a topic, of which one is killed again and again, and now and then the relay: each record that was
//! acknowledged is read by somebody, and one that is read twice was written by a member that was killed before it could say so.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::bytes::Draw;

/// Members, and the topic's partitions.
const MEMBERS: usize = 3;
/// Records that are published at once, and how often.
const BURST: u64 = 40;
const EACH: Duration = Duration::from_millis(20);
/// How long the group may take for what is left when nobody is killed any more.
const SETTLING: Duration = Duration::from_secs(120);

/// What came of it.
#[derive(Debug, Default)]
struct Counts {
    published: u64,
    members_killed: u64,
    relays_killed: u64,
    missing: u64,
    /// Records that were written more than once, each once by a member that was killed.
    explained: u64,
    unexplained: u64,
    left: u64,
}

/// Everything that is running; whatever it is, it ends with this.
struct World {
    farpipe: PathBuf,
    dir: PathBuf,
    url: String,
    relay: Child,
    members: Vec<(usize, Child)>,
    /// Runs of members so far, and which of them were killed.
    runs: usize,
    killed: Vec<usize>,
}

impl Drop for World {
    fn drop(&mut self) {
        let members = self.members.iter_mut().map(|(_, child)| child);
        for child in members.chain([&mut self.relay]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs it for so long; whether all was right.
///
/// # Errors
/// Something could not be started.
pub(crate) fn run(farpipe: &Path, dir: &Path, minutes: f64, seed: u64) -> Result<bool> {
    let dir = dir.join(format!("farpipe-group-{seed}-{}", std::process::id()));
    for name in ["run", "out"] {
        std::fs::create_dir_all(dir.join(name)).context("cannot make a directory")?;
    }
    let mut world = World::start(farpipe, &dir)?;
    let mut counts = Counts::default();
    let stop = Arc::new(AtomicBool::new(false));
    let mut publish = world
        .command(&["pub", "t", "--key-separator", ":"])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut stdin = publish.stdin.take().context("a pipe")?;
    let stopped = Arc::clone(&stop);
    let feeding = thread::spawn(move || -> std::io::Result<u64> {
        let mut sent = 0;
        while !stopped.load(Ordering::Relaxed) {
            let lines: String = (sent..sent + BURST)
                .map(|n| format!("k{}:{n}\n", n % 997))
                .collect();
            stdin.write_all(lines.as_bytes())?;
            sent += BURST;
            thread::sleep(EACH);
        }
        Ok(sent)
    });
    for _ in 0..MEMBERS {
        world.join()?;
    }
    let mut draw = Draw::new(seed, 0);
    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(2_000 + draw.below(6_000)));
        world.kill_member(draw.below(MEMBERS as u64) as usize)?;
        counts.members_killed += 1;
        if draw.below(10) == 0 {
            world.kill_relay()?;
            counts.relays_killed += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let fed = feeding
        .join()
        .map_err(|_| anyhow::anyhow!("the feeder failed"))?;
    counts.published = fed.context("pub ended before its input did")?;
    let published = publish.wait()?;
    if !published.success() {
        bail!("pub: {published}; its words are above");
    }
    world.judge(&mut counts)?;
    drop(world);
    let is_right = (counts.missing, counts.unexplained, counts.left) == (0, 0, 0);
    print_counts(&counts);
    match is_right {
        true => std::fs::remove_dir_all(&dir).context("cannot remove the directory")?,
        false => println!("what each member has written is in {}", dir.display()),
    }
    Ok(is_right)
}

fn print_counts(counts: &Counts) {
    let Counts {
        published,
        members_killed,
        relays_killed,
        missing,
        explained,
        unexplained,
        left,
    } = counts;
    println!("published and acknowledged   {published}");
    println!("members killed               {members_killed}");
    println!("relays killed                {relays_killed}");
    println!("read by nobody               {missing}");
    println!("read twice, once by a member that was killed   {explained}");
    println!("read twice otherwise         {unexplained}");
    println!("left for the group           {left}");
}

impl World {
    fn start(farpipe: &Path, dir: &Path) -> Result<Self> {
        let (relay, url) = relay(farpipe, dir, "ws://127.0.0.1:0")?;
        let world = Self {
            farpipe: farpipe.to_owned(),
            dir: dir.to_owned(),
            url,
            relay,
            members: Vec::new(),
            runs: 0,
            killed: Vec::new(),
        };
        let partitions = MEMBERS.to_string();
        let made = world
            .command(&["topic", "create", "t", "--partitions", &partitions])
            .status()?;
        match made.success() {
            true => Ok(world),
            false => bail!("the topic could not be made: {made}"),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(&self.farpipe, &self.dir);
        command.args(args).args(["--relay", &self.url]);
        command
    }

    fn join(&mut self) -> Result<()> {
        self.runs += 1;
        let out = File::create(self.dir.join("out").join(self.runs.to_string()))?;
        let member = self
            .command(&["sub", "t", "--group", "g", "--from", "earliest"])
            .stdout(out)
            .stderr(Stdio::null())
            .spawn()?;
        self.members.push((self.runs, member));
        Ok(())
    }

    fn kill_member(&mut self, at: usize) -> Result<()> {
        let (run, mut member) = self.members.swap_remove(at);
        member.kill()?;
        member.wait()?;
        self.killed.push(run);
        self.join()
    }

    fn kill_relay(&mut self) -> Result<()> {
        self.relay.kill()?;
        self.relay.wait()?;
        (self.relay, _) = relay(&self.farpipe, &self.dir, &self.url)?;
        Ok(())
    }

    /// Waits until all was read, ends the members in order, and counts.
    fn judge(&mut self, counts: &mut Counts) -> Result<()> {
        let deadline = Instant::now() + SETTLING;
        while (self.read()?.len() as u64) < counts.published && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(500));
        }
        for (_, member) in &mut self.members {
            let id = rustix::process::Pid::from_child(member);
            rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        }
        for (_, member) in &mut self.members {
            member.wait()?;
        }
        let read = self.read()?;
        counts.missing = (0..counts.published)
            .filter(|n| !read.contains_key(n))
            .count() as u64;
        for runs in read.values().filter(|runs| runs.len() > 1) {
            let by_the_living = runs.iter().filter(|run| !self.killed.contains(run));
            match by_the_living.count() <= 1 {
                true => counts.explained += 1,
                false => counts.unexplained += 1,
            }
        }
        let left = self
            .command(&["sub", "t", "--group", "g", "--exit-at-end"])
            .output()?;
        counts.left = left.stdout.iter().filter(|byte| **byte == b'\n').count() as u64;
        Ok(())
    }

    /// Of each record, the runs that have written it. The last line of one that was killed may be a part.
    fn read(&self) -> Result<HashMap<u64, Vec<usize>>> {
        let mut read: HashMap<u64, Vec<usize>> = HashMap::new();
        for run in 1..=self.runs {
            let mut out = BufReader::new(File::open(self.dir.join("out").join(run.to_string()))?);
            let mut line = String::new();
            while out.read_line(&mut line)? > 0 && line.ends_with('\n') {
                let number = line
                    .trim_end()
                    .parse()
                    .context("a line that was not published")?;
                read.entry(number).or_default().push(run);
                line.clear();
            }
        }
        Ok(read)
    }
}

fn command(farpipe: &Path, dir: &Path) -> Command {
    let mut command = Command::new(farpipe);
    command
        .current_dir(dir)
        .env("XDG_RUNTIME_DIR", dir.join("run"))
        .env("HOME", dir)
        .stdin(Stdio::null());
    command
}

/// A relay, once it listens, and where.
fn relay(farpipe: &Path, dir: &Path, url: &str) -> Result<(Child, String)> {
    let mut relay = command(farpipe, dir)
        .args(["relay", "--listen", url, "--data", "data"])
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start a relay")?;
    let mut stderr = BufReader::new(relay.stderr.take().context("a pipe")?);
    let mut said = String::new();
    loop {
        let mut line = String::new();
        if stderr.read_line(&mut line)? == 0 {
            bail!("the relay has ended: {said}");
        }
        if let Some(url) = line.trim_end().strip_prefix("listening on ") {
            let url = url.to_owned();
            let mut log = File::options()
                .create(true)
                .append(true)
                .open(dir.join("relay.log"))?;
            // It must not wait for a reader, and what it says is kept.
            thread::spawn(move || std::io::copy(&mut stderr, &mut log));
            return Ok((relay, url));
        }
        said.push_str(&line);
    }
}
