//! One pipeline: a writing program, a peer's two sides, and the sink.

use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::certs;
use crate::peer::{Address, Peer};
use crate::process::Process;

/// Bytes a second below which a pipeline counts as stuck, after a grace.
const SLOWEST: u64 = 20_000_000;
const GRACE: Duration = Duration::from_secs(20);

/// What writes into the pipeline, and how its end reads.
#[derive(Debug, Clone)]
pub struct Writer {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub bytes: u64,
    /// Bytes of a read.
    pub read: u64,
}

/// What one run cost.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// GB (10^9 bytes) a second at the sink.
    pub rate: f64,
    /// CPU seconds a GiB of the peer's two sides (of nothing for a local pipe).
    pub cpu: f64,
}

/// Runs `writer | peer … peer | sink`, or `writer | sink` without a peer.
pub fn run(writer: &Writer, peer: Option<(&Peer, &Path)>) -> Result<Outcome> {
    let Some((peer, program)) = peer else {
        let mut source = start_writer(writer)?;
        let mut sink = start_sink(writer, source.stdout().into())?;
        let rate = read_rate(&mut sink, writer.bytes)?;
        source.finish()?;
        sink.finish()?;
        return Ok(Outcome { rate, cpu: 0.0 });
    };
    let (mut far, url) = listen(peer, program, peer.listen, Stdio::null())?;
    let mut sink = start_sink(writer, far.stdout().into())?;
    let mut source = start_writer(writer)?;
    let args = arguments(peer.connect, &url);
    let near = Process::start(program, &args, source.stdout().into(), Stdio::null())?;
    let rate = read_rate(&mut sink, writer.bytes)?;
    let cpu = near.finish()? + far.finish()?;
    source.finish()?;
    sink.finish()?;
    Ok(Outcome {
        rate,
        cpu: cpu * f64::from(1 << 30) / writer.bytes as f64,
    })
}

/// Starts a listening side and returns what stands for `URL` (or `PORT`) on the other.
pub fn listen(
    peer: &Peer,
    program: &Path,
    args: &[&str],
    stdin: Stdio,
) -> Result<(Process, String)> {
    match peer.address {
        Address::Chosen => {
            let port = free_port()?;
            let args = arguments(args, &port.to_string());
            let mut far = Process::start(program, &args, stdin, Stdio::piped())?;
            far.wait_listening(port)?;
            Ok((far, port.to_string()))
        }
        Address::Announced => {
            let far = Process::start(program, &arguments(args, ""), stdin, Stdio::piped())?;
            let url = far.announced()?;
            Ok((far, url))
        }
    }
}

/// Arguments with the address and the certificates filled in.
pub fn arguments(args: &[&str], address: &str) -> Vec<String> {
    let certs = certs::folder();
    let file = |name: &str| certs.join(name).display().to_string();
    let shows = |cert: &str, key: &str| {
        [("--cert", cert), ("--key", key), ("--ca", "ca.pem")]
            .into_iter()
            .flat_map(|(flag, name)| [flag.to_owned(), file(name)])
            .collect()
    };
    let filled = |arg: &&str| match *arg {
        "CERTS" => shows("both.pem", "both-key.pem"),
        "AGENT" => shows("bench.pem", "bench-key.pem"),
        arg => vec![arg.replace("PORT", address).replace("URL", address)],
    };
    args.iter().flat_map(filled).collect()
}

pub fn start_writer(writer: &Writer) -> Result<Process> {
    Process::start(&writer.program, &writer.args, Stdio::null(), Stdio::piped())
}

fn start_sink(writer: &Writer, stdin: Stdio) -> Result<Process> {
    let program = std::env::current_exe().context("cannot find this program")?;
    Process::start(
        &program,
        &["sink".to_owned(), writer.read.to_string()],
        stdin,
        Stdio::piped(),
    )
}

/// What the sink measured; an error if a single byte is missing or too many.
pub fn read_rate(sink: &mut Process, bytes: u64) -> Result<f64> {
    let mut stdout = sink.stdout();
    let (done, result) = channel();
    // In a thread, so that a pipeline that hangs fails its row and does not stop the bench.
    thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.read_to_string(&mut text).map(|_| text);
        // The receiver is gone only after the time limit.
        let _ = done.send(read);
    });
    let limit = GRACE + Duration::from_secs(bytes / SLOWEST);
    let text = result
        .recv_timeout(limit)
        .with_context(|| format!("not done after {} s", limit.as_secs()))??;
    let figures: Value = serde_json::from_str(&text).context("the sink said nothing")?;
    let got = figures["bytes"]
        .as_u64()
        .context("the sink counted nothing")?;
    ensure!(got == bytes, "{got} of {bytes} bytes arrived");
    let seconds = figures["seconds"]
        .as_f64()
        .context("the sink measured nothing")?;
    Ok(bytes as f64 / seconds / 1e9)
}

/// Free now; another program could take it before the peer does, which then says so.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
