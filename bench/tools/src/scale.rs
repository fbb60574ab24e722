//! Ten thousand idle agents at one relay, and a thousand streams through it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::certs::Certificates;
use crate::process::{Process, timed};
use crate::watched::{cpu, resident};
use farpipe_bench::stats::quantile;

pub const USAGE: &str = "\
usage: farpipe-bench scale [OPTIONS]

  --agents N         idle agents (default 10000)
  --tls              over wss, each with a certificate of its own
  --commands N       new commands to one agent beside them (default 200)
  --streams N        streams at once, without TLS (default 1000)
  --idle SECONDS     how long the relay's CPU is measured while idle (default 30)
  --program N=PATH   farpipe, agents, fair
";

/// How long the agents may take to be there.
const PATIENCE: Duration = Duration::from_secs(180);
/// A heartbeat and more: what the handshakes took is given back.
const SETTLED: Duration = Duration::from_secs(15);
/// Streams in one session; what a session may have is 256.
const EACH: usize = 125;
/// How long shares are measured.
const FAIR_SECONDS: usize = 8;

struct Options {
    agents: usize,
    tls: bool,
    commands: usize,
    streams: usize,
    idle: u64,
    programs: HashMap<String, PathBuf>,
}

pub fn run(args: &[&str]) -> Result<()> {
    let mut options = Options {
        agents: 10_000,
        tls: false,
        commands: 200,
        streams: 1000,
        idle: 30,
        programs: HashMap::new(),
    };
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
        match arg {
            "--agents" => options.agents = value()?.parse()?,
            "--commands" => options.commands = value()?.parse()?,
            "--streams" => options.streams = value()?.parse()?,
            "--idle" => options.idle = value()?.parse()?,
            "--tls" => options.tls = true,
            "--program" => {
                let (name, path) = value()?.split_once('=').context("--program wants N=PATH")?;
                options.programs.insert(name.to_owned(), path.into());
            }
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(());
            }
            _ => bail!("unknown option {arg}\n{USAGE}"),
        }
    }
    let program = |name: &str| {
        let path = options.programs.get(name);
        path.with_context(|| format!("--program {name}=PATH is wanted"))
    };
    let (farpipe, agents) = (program("farpipe")?, program("agents")?);
    idle(&options, farpipe, agents)?;
    match options.tls || options.streams == 0 {
        true => Ok(()),
        false => fair(&options, farpipe, program("fair")?),
    }
}

/// A relay, how to come to it, and who may.
struct Net {
    relay: Process,
    url: String,
    /// Flags of whoever comes as a client.
    client: Vec<String>,
}

fn idle(options: &Options, farpipe: &Path, agents: &Path) -> Result<()> {
    let count = options.agents;
    let certs = match options.tls {
        true => Some(certificates(farpipe, count)?),
        false => None,
    };
    let dir = certs.as_ref().map(Certificates::dir);
    let door = match options.tls {
        true => "wss://127.0.0.1:0",
        false => "ws://127.0.0.1:0",
    };
    let mut net = relay(farpipe, door, certs.as_ref(), count + 8)?;
    let shown = shown(certs.as_ref(), "bench");
    let named = ["agent", &net.url, "--name", "bench", "--allow", "exec"].map(str::to_owned);
    let agent = [&named[..], &shown].concat();
    let agent = Process::start(farpipe, &agent, Stdio::null(), Stdio::null())?;
    agent.said("registered as ")?;
    sleep(SETTLED);
    commands(farpipe, &net, options.commands, "alone")?;
    let before = resident(net.relay.id())?;

    let began = Instant::now();
    let mut crowd = Crowd::start(agents, &net.url, count, dir)?;
    crowd.until(count)?;
    println!(
        "{count} agents came within {:.1} s",
        began.elapsed().as_secs_f64()
    );
    sleep(SETTLED);
    let after = resident(net.relay.id())?;
    println!(
        "the relay: {} MiB, {:.1} KiB an agent",
        after >> 20,
        (after.saturating_sub(before)) as f64 / 1024.0 / count as f64
    );
    let used = cpu(net.relay.id())?;
    sleep(Duration::from_secs(options.idle));
    let used = (cpu(net.relay.id())? - used) / options.idle as f64;
    println!(
        "the relay, while they are idle: {:.1} % of a core",
        used * 100.0
    );

    let listing = [
        &["ls".to_owned(), "--relay".to_owned(), net.url.clone()],
        &net.client[..],
    ]
    .concat();
    let times = (0..5)
        .map(|_| timed(Command::new(farpipe).args(&listing)))
        .collect::<Result<Vec<_>>>()?;
    let middle = quantile(times.into_iter(), 0.5);
    println!("farpipe ls: {:.0} ms", middle.unwrap_or(f64::NAN));
    commands(farpipe, &net, options.commands, "beside them")?;

    let port = net.url.rsplit_once(':').context("a URL has a port")?.1;
    let door = door.replace(":0", &format!(":{port}"));
    net.relay.kill();
    crowd.until(0)?;
    // As long as a supervisor takes; some have tried in vain by then.
    sleep(Duration::from_secs(1));
    let began = Instant::now();
    net = relay(farpipe, &door, certs.as_ref(), count + 8)?;
    crowd.until(count)?;
    println!(
        "the relay killed and started again: all back within {:.1} s, for {:.1} s of its CPU",
        began.elapsed().as_secs_f64(),
        cpu(net.relay.id())?
    );
    println!("the relay then: {} MiB", resident(net.relay.id())? >> 20);
    commands(farpipe, &net, options.commands, "then")?;
    Ok(())
}

fn fair(options: &Options, farpipe: &Path, fair: &Path) -> Result<()> {
    let net = relay(farpipe, "ws://127.0.0.1:0", None, 16)?;
    let most = options.streams;
    let in_one = [10, 100].map(|streams| (streams, 1, 1));
    let many = (most, most.div_ceil(EACH), 1);
    let apart = [(10, 10, 1), (100, 100, 1), (10, 10, 10)];
    let cases = in_one.into_iter().chain([many]).chain(apart);
    for (streams, sessions, agents) in cases.filter(|case| case.0 <= most) {
        let numbers = [FAIR_SECONDS, streams, sessions, agents].map(|number| number.to_string());
        let args = [std::slice::from_ref(&net.url), &numbers[..]].concat();
        println!(
            "{streams} streams of {sessions} sessions of {agents} agents, \
             bytes of each in {FAIR_SECONDS} s: least, median, most"
        );
        let mut fair = Process::start(fair, &args, Stdio::null(), Stdio::piped())?;
        let mut told = String::new();
        fair.stdout().read_to_string(&mut told)?;
        print!("{told}");
    }
    println!("the relay: {} MiB", resident(net.relay.id())? >> 20);
    Ok(())
}

fn relay(farpipe: &Path, door: &str, certs: Option<&Certificates>, most: usize) -> Result<Net> {
    let listening = ["relay", "--listen", door, "--agents-max"].map(str::to_owned);
    let shown = shown(certs, "both");
    let args = [&listening[..], &[most.to_string()], &shown].concat();
    let relay = Process::start(farpipe, &args, Stdio::null(), Stdio::null())?;
    let url = relay.announced()?;
    Ok(Net {
        relay,
        url,
        client: shown,
    })
}

fn shown(certs: Option<&Certificates>, name: &str) -> Vec<String> {
    certs.map_or_else(Vec::new, |certs| certs.shown(name))
}

fn certificates(farpipe: &Path, count: usize) -> Result<Certificates> {
    let made = Certificates::make(farpipe)?;
    for number in 0..count {
        let mut command = Command::new(farpipe);
        let name = format!("idle-{number:05}");
        command.args(["cert", "issue", &name, "--kind", "agent", "-q", "--dir"]);
        let status = command.arg(made.dir()).status();
        ensure!(status?.success(), "farpipe cert issue {name} failed");
    }
    Ok(made)
}

/// The process with all idle agents.
struct Crowd {
    _process: Process,
    /// Keeps it running.
    _stdin: std::process::ChildStdin,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Crowd {
    fn start(agents: &Path, url: &str, count: usize, dir: Option<&Path>) -> Result<Self> {
        let mut args = vec![url.to_owned(), count.to_string()];
        args.extend(dir.map(|dir| dir.display().to_string()));
        let mut process = Process::start(agents, &args, Stdio::piped(), Stdio::piped())?;
        let (stdin, stdout) = (process.stdin(), process.stdout());
        Ok(Self {
            _process: process,
            _stdin: stdin,
            lines: BufReader::new(stdout).lines(),
        })
    }

    /// Until so many are registered.
    fn until(&mut self, count: usize) -> Result<()> {
        let began = Instant::now();
        for line in &mut self.lines {
            let line = line?;
            let now: usize = line.split(' ').next().unwrap_or_default().parse()?;
            if now == count {
                return Ok(());
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "{now} agents are there, not {count}"
            );
        }
        bail!("the agents ended")
    }
}

/// New commands to one agent, each a process and a session of its own.
fn commands(farpipe: &Path, net: &Net, count: usize, when: &str) -> Result<()> {
    let words = ["exec", "--no-reuse", "--relay", &net.url].map(str::to_owned);
    let what = ["bench", "--", "true"].map(str::to_owned);
    let args = [&words[..], &net.client, &what].concat();
    let times = (0..count)
        .map(|_| timed(Command::new(farpipe).args(&args)))
        .collect::<Result<Vec<_>>>()?;
    let at = |part| quantile(times.iter().copied(), part).unwrap_or(f64::NAN);
    println!(
        "exec true, {when}: p50 {:.1} ms, p99 {:.1} ms",
        at(0.5),
        at(0.99)
    );
    Ok(())
}
