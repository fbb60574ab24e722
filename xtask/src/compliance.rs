//! `cargo xtask compliance`: Autobahn's test suite against our WebSocket ends, both directions. Each case
//! that is not passed as the suite wishes must be one that docs/websocket.md gives a reason for.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::bench::cache;
use crate::tools;

const SUITE: &str = "autobahntestsuite";
/// The last one, for the last Python 2.
const SUITE_VERSION: &str = "0.8.2";
const PYTHON: &str = "2.7.18";
/// How long the suite may take to listen.
const START_MAX: Duration = Duration::from_secs(30);

/// What the suite says of a case: of what came, and of how it was closed.
type Verdicts = BTreeMap<Vec<u32>, [String; 2]>;

/// Cases that end otherwise than the suite wishes, by the beginning of their number: what it says of them,
/// and why that is right.
const REASONS: [(&str, &str, &str); 8] = [
    (
        "2.10",
        "FAILED",
        "ten pings at once: the last one is answered, as RFC 6455 section 5.5.3 allows; answers to all of \
         them would be memory that the other end commands",
    ),
    ("2.11", "FAILED", "as 2.10, byte by byte"),
    (
        "3.",
        "NON-STRICT",
        "the rule is broken behind a good message in the same piece: the connection ends at once, and the \
         echo of that message is not sent any more",
    ),
    ("4.", "NON-STRICT", "as 3"),
    ("5.15", "NON-STRICT", "as 3"),
    (
        "6.4",
        "NON-STRICT",
        "text that is no UTF-8 is refused when the message is whole, not at the first bad byte: none of it \
         is handed on",
    ),
    (
        "7.1.5",
        "FAILED",
        "a close in the midst of a message is answered with 1002: half a message is not what was said",
    ),
    (
        "9.",
        "FAILED",
        "text of more than 1 MiB is refused with 1009 (RAW_MESSAGE_MAX): it must be whole in memory to be \
         checked. Binary messages have no limit",
    ),
];

/// Runs all cases, or those that begin with one of `cases`.
pub fn run(cases: &[String]) -> Result<()> {
    let cases = match cases {
        [] => vec!["*".to_owned()],
        some => some.to_vec(),
    };
    let suite = Suite::installed()?;
    tools::check(&mut tools::cargo(&[
        "build",
        "--package",
        "farpipe-net",
        "--features",
        "conformance",
        "--example",
        "ws_echo",
    ]))?;
    let target = tools::target_dir()?;
    let echo = target.join("debug/examples/ws_echo");
    let folder = target.join("compliance");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let server = suite.test_server(&echo, &folder, &cases)?;
    let client = suite.test_client(&echo, &folder, &cases)?;
    let mut unexplained = judge("farpipe listens", &server);
    unexplained += judge("farpipe dials", &client);
    println!("reports: {}", folder.display());
    if unexplained > 0 {
        bail!("{unexplained} cases have no reason (xtask/src/compliance.rs, docs/websocket.md)");
    }
    Ok(())
}

/// Prints what became of the cases, and says how many went wrong without a reason.
fn judge(direction: &str, verdicts: &Verdicts) -> usize {
    let is_ok = |verdict: &str| matches!(verdict, "OK" | "INFORMATIONAL");
    let (passed, others): (Vec<_>, Vec<_>) = verdicts
        .iter()
        .partition(|(_, [came, closed])| is_ok(came) && is_ok(closed));
    println!(
        "{direction}: {} cases, {} passed",
        verdicts.len(),
        passed.len()
    );
    let mut unexplained = 0;
    // Neighbours that ended alike for one reason are one line.
    let mut lines: Vec<(String, String, usize, String)> = Vec::new();
    for (case, [came, closed]) in others {
        let number = numbered(case);
        let reason = reason(&number, came);
        unexplained += usize::from(reason.is_none());
        let what = format!("{came}, close {closed}: {}", reason.unwrap_or("NO REASON"));
        match lines.last_mut().filter(|(.., said)| *said == what) {
            Some((_, last, count, _)) => {
                *last = number;
                *count += 1;
            }
            None => lines.push((number.clone(), number, 1, what)),
        }
    }
    for (first, last, count, what) in lines {
        match count {
            1 => println!("  {first} {what}"),
            _ => println!("  {first} to {last} ({count} cases) {what}"),
        }
    }
    unexplained
}

fn reason(number: &str, verdict: &str) -> Option<&'static str> {
    // A client that offers no compression is tested without; so is an offer that is not taken.
    if verdict == "UNIMPLEMENTED" && (number.starts_with("12.") || number.starts_with("13.")) {
        return Some(
            "compression is not agreed on: as a client it is not offered, and a window below 15 bits not taken",
        );
    }
    let found = REASONS
        .iter()
        .find(|(begin, said, _)| *said == verdict && number.starts_with(begin));
    found.map(|(_, _, why)| *why)
}

fn numbered(case: &[u32]) -> String {
    let parts: Vec<String> = case.iter().map(u32::to_string).collect();
    parts.join(".")
}

/// The suite, and the Python that it runs on.
struct Suite {
    python: &'static str,
    packages: PathBuf,
}

impl Suite {
    fn installed() -> Result<Self> {
        let python = "python2.7";
        let packages = cache()?.join(format!("{SUITE}-{SUITE_VERSION}"));
        let suite = Self { python, packages };
        let mut version = suite.python(&["--version"]);
        let found = version.output().is_ok_and(|output| output.status.success());
        if !found {
            bail!("no {python} is found\nhint: the suite needs Python 2.7: pyenv install {PYTHON}");
        }
        let marker = suite.packages.join("zope/__init__.py");
        if !marker.exists() {
            let into = suite.packages.to_string_lossy().into_owned();
            let exact = format!("{SUITE}=={SUITE_VERSION}");
            tools::check(
                &mut suite.python(&["-m", "pip", "-q", "install", "--target", &into, &exact]),
            )?;
            // A namespace package, which --target leaves without its root.
            std::fs::write(&marker, "").context("cannot complete the suite's packages")?;
        }
        Ok(suite)
    }

    fn python(&self, args: &[&str]) -> Command {
        let mut python = tools::command(self.python, args);
        python
            .env("PYENV_VERSION", PYTHON)
            .env("PYTHONPATH", &self.packages);
        python
    }

    fn wstest(&self, mode: &str, spec: &Path) -> Command {
        let spec = spec.to_string_lossy();
        self.python(&[
            "-W",
            "ignore",
            "-m",
            "autobahntestsuite.wstest",
            "-m",
            mode,
            "-s",
            &spec,
        ])
    }

    /// Our server, tested by the suite's client.
    fn test_server(&self, echo: &Path, folder: &Path, cases: &[String]) -> Result<Verdicts> {
        let mut server = tools::command(&echo.to_string_lossy(), &["serve"]);
        let mut server = Owned(server.stdout(Stdio::piped()).spawn()?);
        let mut address = String::new();
        let said = server.0.stdout.take().context("its stdout")?;
        BufReader::new(said).read_line(&mut address)?;
        let out = folder.join("listens");
        let spec = json!({
            "outdir": out,
            "servers": [{"agent": "farpipe", "url": format!("ws://{}", address.trim())}],
            "cases": cases,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        });
        let file = write(folder, "listens.json", &spec)?;
        tools::check(self.wstest("fuzzingclient", &file).stdout(Stdio::null()))?;
        verdicts(&out)
    }

    /// Our client, tested by the suite's server.
    fn test_client(&self, echo: &Path, folder: &Path, cases: &[String]) -> Result<Verdicts> {
        let out = folder.join("dials");
        // It takes no port 0: one that was free a moment ago.
        let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let spec = json!({
            "url": format!("ws://{free}"),
            "outdir": out,
            "cases": cases,
            "exclude-cases": [],
            "exclude-agent-cases": {},
            "webport": 0,
        });
        let file = write(folder, "dials.json", &spec)?;
        let mut server = self.wstest("fuzzingserver", &file);
        let _server = Owned(server.stdout(Stdio::null()).spawn()?);
        let start = Instant::now();
        while std::net::TcpStream::connect(free).is_err() {
            if start.elapsed() > START_MAX {
                bail!("the suite does not listen on {free}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let to = free.to_string();
        tools::check(&mut tools::command(
            &echo.to_string_lossy(),
            &["drive", &to],
        ))?;
        verdicts(&out)
    }
}

fn write(folder: &Path, name: &str, spec: &Value) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, spec.to_string())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn verdicts(out: &Path) -> Result<Verdicts> {
    let path = out.join("index.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("the suite wrote no {}", path.display()))?;
    let index: Value = serde_json::from_str(&text)?;
    let cases = index["farpipe"]
        .as_object()
        .context("no cases of farpipe")?;
    let verdict = |case: &Value, what: &str| case[what].as_str().unwrap_or_default().to_owned();
    let one = |(number, case): (&String, &Value)| {
        let parts = number.split('.').map(str::parse);
        let parts: Result<Vec<u32>, _> = parts.collect();
        Ok((
            parts?,
            [verdict(case, "behavior"), verdict(case, "behaviorClose")],
        ))
    };
    cases.iter().map(one).collect()
}

/// Ended when it is dropped.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
