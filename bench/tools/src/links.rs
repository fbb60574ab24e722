//! One stream over a long link, made by farpipe-faultproxy: straight to a listener, and from an agent by
//! a relay that is far from it.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::Process;
use crate::proxy;

pub const USAGE: &str = "\
usage: farpipe-bench links [OPTIONS]

  --rate BYTES       bytes a second that the link takes (default 125000000)
  --delay MS         of each direction (default 100)
  --seconds N        how long is measured (default 10)
  --program N=PATH   farpipe, faultproxy
";

/// What is not counted: windows grow to what they stay at, a doubling in two round trips.
const BEFORE: Duration = Duration::from_secs(10);

struct Link {
    rate: u64,
    delay: u64,
    time: Duration,
    programs: HashMap<String, PathBuf>,
}

pub fn run(args: &[&str]) -> Result<()> {
    let mut link = Link {
        rate: 125_000_000,
        delay: 100,
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
    link.tell("straight", link.straight()?);
    link.tell("from an agent by a relay", link.by_relay()?);
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
