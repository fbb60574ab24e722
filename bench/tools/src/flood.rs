//! A relay under attack: an authenticated stream through it and new commands beside that, before, while and
//! after strangers come.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::attack::Kind;
use crate::certs::Certificates;
use crate::process::Process;
use crate::watched::{cpu, descriptors, resident};
use farpipe_bench::stats::quantile;

pub const USAGE: &str = "\
usage: farpipe-bench flood [OPTIONS]

  --attacks A,B      of silent, tls, reset, heads (default all)
  --seconds N        of each of before, during and after (default 10)
  --rate N           connections that strangers make a second, at most (default 2000)
  --held N           connections that silent strangers hold at once (default 4000)
  --nice N           of the strangers' process (default 0)
  --pace MB          the stream is read no faster than so many MB a second (default as fast as it comes)
  --program N=PATH   farpipe
";

/// A command that has not ended then has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what the relay has.
const LOOK: Duration = Duration::from_millis(100);
/// Windows grow to what they stay at.
const BEFORE: Duration = Duration::from_secs(2);

struct Options {
    attacks: Vec<Kind>,
    seconds: f64,
    rate: u64,
    held: usize,
    nice: i32,
    pace: f64,
    programs: HashMap<String, PathBuf>,
}

pub fn run(args: &[&str]) -> Result<()> {
    let mut options = Options {
        attacks: Kind::ALL.to_vec(),
        seconds: 10.0,
        rate: 2000,
        held: 4000,
        nice: 0,
        pace: f64::INFINITY,
        programs: HashMap::new(),
    };
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
        match arg {
            "--attacks" => {
                let names = value()?.split(',');
                options.attacks = names.map(Kind::named).collect::<Result<_>>()?;
            }
            "--seconds" => options.seconds = value()?.parse()?,
            "--rate" => options.rate = value()?.parse()?,
            "--held" => options.held = value()?.parse()?,
            "--nice" => options.nice = value()?.parse()?,
            "--pace" => options.pace = value()?.parse::<f64>()? * 1e6,
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
    ensure!(options.rate > 0, "--rate is at least 1");
    let farpipe = options.programs.get("farpipe");
    let farpipe = farpipe.context("--program farpipe=PATH is wanted")?;
    let certificates = Certificates::make(farpipe)?;
    println!(
        "at most {} connections a second, nice {}; the attacker runs on the same cores",
        options.rate, options.nice
    );
    println!(
        "\n| strangers | | MB/s | `exec true` p50 ms | p99 ms | of them failed | relay CPU % | MiB | descriptors | \
         came/s | TLS/s | closed/s | attacker CPU % |\n|{}",
        "---|".repeat(13)
    );
    for &kind in &options.attacks {
        Attacked::new(farpipe, &certificates, kind, &options)?.measure(&options)?;
    }
    Ok(())
}

/// A relay with an agent, a stream through both, and who attacks it.
struct Attacked<'a> {
    farpipe: &'a Path,
    certs: &'a Certificates,
    kind: Kind,
    relay: Process,
    url: String,
    _agent: Process,
    _caller: Process,
    /// Bytes of the stream so far.
    bytes: Arc<AtomicU64>,
}

impl<'a> Attacked<'a> {
    fn new(
        farpipe: &'a Path,
        certs: &'a Certificates,
        kind: Kind,
        options: &Options,
    ) -> Result<Self> {
        let mut listen = words(&["relay", "--listen", "wss://127.0.0.1:0"]);
        listen.extend(certs.shown("both"));
        if kind == Kind::Heads {
            // Else nobody without a certificate comes as far as HTTP.
            listen.extend(["--tokens".to_owned(), tokens(farpipe, certs.dir())?]);
        }
        let start = |args: &[String], stdout| Process::start(farpipe, args, Stdio::null(), stdout);
        let relay = start(&listen, Stdio::null())?;
        let url = relay.announced()?;
        let mut agent = words(&["agent", "--no-reuse", &url, "--name", "bench"]);
        let policy = certs.dir().join("policy.yaml").display().to_string();
        agent.extend(words(&["--allow", "exec", "--policy", &policy]));
        agent.extend(certs.shown("bench"));
        let agent = start(&agent, Stdio::null())?;
        agent.said("registered as ")?;
        let zeros = exec(certs, &url, &["cat", "/dev/zero"]);
        let mut caller = start(&zeros, Stdio::piped())?;
        let bytes = Arc::new(AtomicU64::new(0));
        let (mut stdout, counted, pace) = (caller.stdout(), Arc::clone(&bytes), options.pace);
        // Ends with the caller, which is killed with this.
        thread::spawn(move || {
            let mut buf = vec![0; 1 << 18];
            let began = Instant::now();
            while let Ok(len) = stdout.read(&mut buf) {
                if len == 0 {
                    return;
                }
                let all = counted.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
                let due = began + Duration::from_secs_f64(all as f64 / pace);
                sleep(due.saturating_duration_since(Instant::now()));
            }
        });
        sleep(BEFORE);
        ensure!(
            bytes.load(Ordering::Relaxed) > 0,
            "nothing comes by the relay"
        );
        Ok(Self {
            farpipe,
            certs,
            kind,
            relay,
            url,
            _agent: agent,
            _caller: caller,
            bytes,
        })
    }

    fn measure(&self, options: &Options) -> Result<()> {
        self.phase("before", options.seconds)?.print("", "");
        let address = self.url.rsplit_once('/').context("a URL")?.1;
        let program = std::env::current_exe()?.display().to_string();
        let mut attack = Command::new("nice");
        attack.args(["-n", &options.nice.to_string(), &program, "attack"]);
        attack.args([self.kind.name(), address]);
        attack.args([options.seconds.to_string(), options.rate.to_string()]);
        attack.arg(options.held.to_string());
        attack.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut attack = Process::spawn(attack)?;
        let during = self.phase("during", options.seconds)?;
        let mut said = String::new();
        attack.stdout().read_to_string(&mut said)?;
        let used = attack.finish()? / options.seconds * 100.0;
        let said: Value = serde_json::from_str(&said).context("the attacker said no JSON")?;
        let a_second = |name: &str| said[name].as_f64().unwrap_or(0.0) / options.seconds;
        let came = format!(
            "{:.0} | {:.0} | {:.0} | {used:.0}",
            a_second("tried"),
            a_second("shaken"),
            a_second("turned_away")
        );
        during.print(self.kind.name(), &came);
        self.phase("after", options.seconds)?.print("", "");
        Ok(())
    }

    fn phase(&self, name: &'static str, seconds: f64) -> Result<Phase> {
        let pid = self.relay.id();
        let (cpu_before, bytes_before) = (cpu(pid)?, self.bytes.load(Ordering::Relaxed));
        let began = Instant::now();
        let until = began + Duration::from_secs_f64(seconds);
        let is_over = AtomicBool::new(false);
        let (farpipe, args) = (self.farpipe, exec(self.certs, &self.url, &["true"]));
        thread::scope(|scope| {
            let commands = scope.spawn(|| commands(farpipe, &args, until));
            let most = scope.spawn(|| most(pid, &is_over));
            sleep(until.saturating_duration_since(Instant::now()));
            let bytes = self.bytes.load(Ordering::Relaxed) - bytes_before;
            let used = cpu(pid)? - cpu_before;
            is_over.store(true, Ordering::Relaxed);
            let (memory, open) = most.join().expect("it does not panic");
            let (times, failed) = commands.join().expect("it does not panic");
            Ok(Phase {
                name,
                rate: bytes as f64 / seconds,
                times,
                failed,
                cpu: used / seconds,
                memory,
                open,
            })
        })
    }
}

/// New commands one after the other until then; their milliseconds, and how many failed.
fn commands(farpipe: &Path, args: &[String], until: Instant) -> (Vec<f64>, usize) {
    let (mut times, mut failed) = (Vec::new(), 0);
    while Instant::now() < until {
        let began = Instant::now();
        let command = Process::start(farpipe, args, Stdio::null(), Stdio::null());
        match command.and_then(|command| command.finish_within(PATIENCE)) {
            Ok(_) => {}
            Err(error) => {
                if failed == 0 {
                    eprintln!("exec true: {error:#}");
                }
                failed += 1;
            }
        }
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    (times, failed)
}

/// What was measured in one of before, during, after.
struct Phase {
    name: &'static str,
    rate: f64,
    times: Vec<f64>,
    failed: usize,
    cpu: f64,
    memory: u64,
    open: usize,
}

impl Phase {
    fn print(&self, strangers: &str, came: &str) {
        let at = |part| quantile(self.times.iter().copied(), part).unwrap_or(f64::NAN);
        println!(
            "| {strangers} | {} | {:.0} | {:.0} | {:.0} | {} of {} | {:.0} | {} | {} | {} |",
            self.name,
            self.rate / 1e6,
            at(0.5),
            at(0.99),
            self.failed,
            self.times.len(),
            self.cpu * 100.0,
            self.memory >> 20,
            self.open,
            if came.is_empty() { " | | | " } else { came }
        );
    }
}

/// The most memory and descriptors that a process had.
fn most(pid: u32, is_over: &AtomicBool) -> (u64, usize) {
    let (mut memory, mut open) = (0, 0);
    while !is_over.load(Ordering::Relaxed) {
        memory = memory.max(resident(pid).unwrap_or(0));
        open = open.max(descriptors(pid).unwrap_or(0));
        sleep(LOOK);
    }
    (memory, open)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn exec(certs: &Certificates, url: &str, command: &[&str]) -> Vec<String> {
    let mut args = words(&["exec", "--no-reuse", "--no-e2e", "--relay", url]);
    args.extend(certs.shown("both"));
    args.extend(words(&["bench", "--"]));
    args.extend(words(command));
    args
}

/// A file with a token that nobody uses.
fn tokens(farpipe: &Path, dir: &Path) -> Result<String> {
    let store = dir.join("tokens").display().to_string();
    let mut issue = Command::new(farpipe);
    let issue = issue.args(["token", "issue", "--store", &store, "nobody"]);
    let output = issue.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "farpipe token issue: {said}");
    Ok(store)
}
