//! One stream over a long link, made by farpipe-faultproxy: straight to a listener, and from an agent by
//! a relay that is far from it. Then one over a link that loses packets, beside plain TCP on the same link.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::certs::Certificates;
use crate::lossy::{ADDRESSES, LossyLink, Shape, has_congestion_control};
use crate::process::Process;
use crate::proxy;
use farpipe_bench::stats::median;

pub const USAGE: &str = "\
usage: farpipe-bench links [OPTIONS]

  --rate BYTES       bytes a second that the link takes (default 125000000)
  --delay MS         of each direction (default 100)
  --seconds N        how long is measured (default 10)
  --loss A,B         percent of packets lost, of the link that loses some (default 0,1)
  --congestion A,B   congestion controls there, as far as this kernel has them (default cubic,bbr)
  --rounds N         rounds there (default 3)
  --seed N           what is lost there (default 1)
  --only WHAT        proxy or lossy; lossy wants root
  --program N=PATH   farpipe, faultproxy
";

/// What is not counted: windows grow to what they stay at, a doubling in two round trips.
const BEFORE: Duration = Duration::from_secs(10);

/// Of the link that loses packets: how long it may take to drain.
const QUEUE: Duration = Duration::from_millis(100);

struct Link {
    rate: u64,
    delay: u64,
    loss: Vec<f64>,
    congestion: Vec<String>,
    rounds: usize,
    seed: u64,
    only: Option<String>,
    time: Duration,
    programs: HashMap<String, PathBuf>,
}

pub fn run(args: &[&str]) -> Result<()> {
    let mut link = Link {
        rate: 125_000_000,
        delay: 100,
        loss: vec![0.0, 1.0],
        congestion: vec!["cubic".to_owned(), "bbr".to_owned()],
        rounds: 3,
        seed: 1,
        only: None,
        time: Duration::from_secs(10),
        programs: HashMap::new(),
    };
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
        match arg {
            "--rate" => link.rate = value()?.parse()?,
            "--delay" => link.delay = value()?.parse()?,
            "--seconds" => link.time = Duration::from_secs(value()?.parse()?),
            "--loss" => {
                let percents = value()?.split(',').map(str::parse);
                link.loss = percents.collect::<Result<_, _>>()?;
            }
            "--congestion" => {
                link.congestion = value()?.split(',').map(str::to_owned).collect();
            }
            "--rounds" => link.rounds = value()?.parse()?,
            "--seed" => link.seed = value()?.parse()?,
            "--only" => link.only = Some((*value()?).to_owned()),
            "--program" => {
                let (name, path) = value()?.split_once('=').context("--program wants N=PATH")?;
                link.programs.insert(name.to_owned(), path.into());
            }
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(());
            }
            _ => bail!("unknown option {arg}\n{USAGE}"),
        }
    }
    let is_wanted = |what| link.only.as_deref().is_none_or(|only| only == what);
    if is_wanted("proxy") {
        link.tell("straight", link.straight()?);
        link.tell("from an agent by a relay", link.by_relay()?);
    }
    if is_wanted("lossy") {
        link.lossy()?;
    }
    Ok(())
}

impl Link {
    fn program(&self, name: &str) -> Result<&Path> {
        let path = self.programs.get(name).map(PathBuf::as_path);
        path.with_context(|| format!("--program {name}=PATH is wanted"))
    }

    fn start(&self, args: &[&str], stdin: Stdio, stdout: Stdio) -> Result<Process> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Process::start(self.program("farpipe")?, &args, stdin, stdout)
    }

    /// The link to `url`, and its own URL.
    fn lay(&self, url: &str) -> Result<(Process, String)> {
        let to = url.strip_prefix("ws://").context("a ws URL")?;
        let (delay, rate) = (
            format!("both={}ms", self.delay),
            format!("both={}", self.rate),
        );
        let limits = ["--delay", &delay, "--throttle", &rate];
        let (proxy, address) = proxy::before(self.program("faultproxy")?, to, &limits)?;
        Ok((proxy, format!("ws://{address}")))
    }

    fn straight(&self) -> Result<f64> {
        let listen = ["listen", "ws://127.0.0.1:0", "--recv"];
        let mut listener = self.start(&listen, Stdio::null(), Stdio::piped())?;
        let (_proxy, url) = self.lay(&listener.announced()?)?;
        let zeros = std::fs::File::open("/dev/zero")?;
        let connect = ["connect", &url, "--send"];
        let _sender = self.start(&connect, zeros.into(), Stdio::null())?;
        self.measure(&mut listener)
    }

    fn by_relay(&self) -> Result<f64> {
        let listen = ["relay", "--listen", "ws://127.0.0.1:0"];
        let relay = self.start(&listen, Stdio::null(), Stdio::null())?;
        let url = relay.announced()?;
        let (_proxy, far) = self.lay(&url)?;
        let named = ["agent", &far, "--name", "far", "--allow", "exec"];
        let agent = self.start(&named, Stdio::null(), Stdio::null())?;
        agent.said("registered as ")?;
        let exec = [
            "exec",
            "--no-reuse",
            "--relay",
            &url,
            "far",
            "--",
            "cat",
            "/dev/zero",
        ];
        let mut caller = self.start(&exec, Stdio::null(), Stdio::piped())?;
        self.measure(&mut caller)
    }

    /// A table of the link that loses packets.
    fn lossy(&self) -> Result<()> {
        let certificates = Certificates::make(self.program("farpipe")?)?;
        certificates.issue(self.program("farpipe")?, "far", ADDRESSES[1])?;
        println!(
            "\n| {:.0} MB/s, round trip {} ms, medians of {} rounds | loss % | TCP, MB/s | farpipe wss | ratio |\n|{}",
            self.rate as f64 / 1e6,
            2 * self.delay,
            self.rounds,
            "---|".repeat(5)
        );
        for congestion in &self.congestion {
            if !has_congestion_control(congestion) {
                println!("| {congestion}: this kernel has it not | | | | |");
                continue;
            }
            for &loss in &self.loss {
                let (mut plain, mut ours) = (Vec::new(), Vec::new());
                for round in 0..self.rounds {
                    let shape = Shape {
                        delay: Duration::from_millis(self.delay),
                        rate: self.rate,
                        queue: (QUEUE.as_secs_f64() * self.rate as f64) as u64,
                        loss: loss / 100.0,
                        seed: self.seed + round as u64,
                    };
                    plain.push(self.plain(&LossyLink::lay(shape, congestion)?)?);
                    ours.push(self.ours(&LossyLink::lay(shape, congestion)?, &certificates)?);
                    eprintln!("{congestion}, {loss} %: {plain:.0?} {ours:.0?}");
                }
                let ratios = ours.iter().zip(&plain).map(|(ours, plain)| ours / plain);
                let middle = |of: &[f64]| median(of.iter().copied()).unwrap_or(f64::NAN) / 1e6;
                println!(
                    "| {congestion} | {loss} | {:.2} | {:.2} | {:.2} |",
                    middle(&plain),
                    middle(&ours),
                    median(ratios).unwrap_or(f64::NAN)
                );
            }
        }
        Ok(())
    }

    /// Plain TCP.
    fn plain(&self, link: &LossyLink) -> Result<f64> {
        let program = std::env::current_exe()?.display().to_string();
        let args = |args: [&str; 2]| args.map(str::to_owned);
        let mut receiver = link.at(1, &program, &args(["tcp-receive", &any_port()]));
        receiver.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut receiver = Process::spawn(receiver)?;
        let mut sender = link.at(0, &program, &args(["tcp-send", &receiver.announced()?]));
        sender.stdin(Stdio::null()).stdout(Stdio::null());
        let _sender = Process::spawn(sender)?;
        self.measure(&mut receiver)
    }

    fn ours(&self, link: &LossyLink, certificates: &Certificates) -> Result<f64> {
        let farpipe = self.program("farpipe")?.display().to_string();
        let listen = ["listen", &format!("wss://{}", any_port()), "--recv"].map(str::to_owned);
        let listen = [&listen[..], &certificates.shown("far")].concat();
        let mut listener = link.at(1, &farpipe, &listen);
        listener.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut listener = Process::spawn(listener)?;
        let connect = ["connect", &listener.announced()?, "--send"].map(str::to_owned);
        let connect = [&connect[..], &certificates.shown("both")].concat();
        let mut sender = link.at(0, &farpipe, &connect);
        sender.stdin(std::fs::File::open("/dev/zero")?);
        sender.stdout(Stdio::null());
        let _sender = Process::spawn(sender)?;
        self.measure(&mut listener)
    }

    /// Bytes a second on `process`'s stdout.
    fn measure(&self, process: &mut Process) -> Result<f64> {
        let mut stdout = process.stdout();
        let mut buf = vec![0; 1 << 20];
        let began = Instant::now();
        let (mut since, mut bytes) = (None, 0);
        loop {
            let len = stdout.read(&mut buf)?;
            if len == 0 {
                bail!("it ended");
            }
            match since {
                None if began.elapsed() >= BEFORE => since = Some(Instant::now()),
                None => {}
                Some(since) => {
                    bytes += len;
                    let time = Instant::now() - since;
                    if time >= self.time {
                        return Ok(bytes as f64 / time.as_secs_f64());
                    }
                }
            }
        }
    }

    fn tell(&self, way: &str, rate: f64) {
        println!(
            "{way}: {:.1} MB/s of {:.1}, round trip {} ms: {:.0} %",
            rate / 1e6,
            self.rate as f64 / 1e6,
            2 * self.delay,
            100.0 * rate / self.rate as f64
        );
    }
}

/// Where the far end of a link listens.
fn any_port() -> String {
    format!("{}:0", ADDRESSES[1])
}
