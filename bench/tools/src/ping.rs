//! Round trips of 64 bytes through a peer's two sides and a far `cat`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::bulk::{arguments, listen};
use crate::peer::Peer;
use crate::process::Process;

const SIZE: usize = 64;
const WARM_UP: usize = 1000;

/// No run should take this long; one that does has lost bytes.
const LIMIT: Duration = Duration::from_secs(120);

/// Microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    pub p50: f64,
    pub p99: f64,
}

/// Through a peer.
pub fn through(peer: &Peer, program: &Path, rounds: usize) -> Result<Outcome> {
    let (far_args, near_args) = peer.echo.context("cannot answer round trips")?;
    let (far, url) = listen(peer, program, far_args, Stdio::null())?;
    let args = arguments(near_args, &url);
    let mut near = Process::start(program, &args, Stdio::piped(), Stdio::piped())?;
    let outcome = measure(near.stdin(), near.stdout(), rounds);
    // What is measured is over; how these end is tested elsewhere.
    drop((near, far));
    outcome
}

/// Through a local `cat` and two pipes.
pub fn local(rounds: usize) -> Result<Outcome> {
    let mut cat = Process::start(Path::new("cat"), &[], Stdio::piped(), Stdio::piped())?;
    measure(cat.stdin(), cat.stdout(), rounds)
}

/// Over a TCP connection to a thread that sends everything back.
pub fn raw_tcp(rounds: usize) -> Result<Outcome> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let echo = thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match far.read(&mut buffer)? {
                0 => return Ok(()),
                n => far.write_all(&buffer[..n])?,
            }
        }
    });
    let outcome = measure(near.try_clone()?, near, rounds);
    echo.join().map_err(|_| anyhow!("the echo panicked"))??;
    outcome
}

pub fn measure(
    mut to: impl Write + Send + 'static,
    mut from: impl Read + Send + 'static,
    rounds: usize,
) -> Result<Outcome> {
    let (done, result) = channel();
    // In a thread, so that a peer that loses bytes fails its row and does not stop the bench.
    thread::spawn(move || {
        let mut run = || -> Result<Vec<f64>> {
            let mut times = Vec::with_capacity(rounds);
            let message = [b'.'; SIZE];
            let mut answer = [0; SIZE];
            for i in 0..WARM_UP + rounds {
                let start = Instant::now();
                to.write_all(&message)?;
                to.flush()?;
                from.read_exact(&mut answer)?;
                if i >= WARM_UP {
                    times.push(start.elapsed().as_secs_f64() * 1e6);
                }
            }
            Ok(times)
        };
        // The receiver is gone only after the time limit.
        let _ = done.send(run());
    });
    let mut times = result.recv_timeout(LIMIT).context("no answer")??;
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    Ok(Outcome {
        p50: at(0.5),
        p99: at(0.99),
    })
}
