//! Round trips of 64 bytes through a TCP port that a peer forwards to an echo.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::bulk::{arguments, free_port, listen};
use crate::peer::{Forward, Peer};
use crate::ping::{Outcome, measure};
use crate::process::Process;
use crate::relay::Way;

/// Through a peer's one or two sides.
pub fn through(peer: &Peer, program: &Path, rounds: usize) -> Result<Outcome> {
    let Forward { far, near } = peer.forward.as_ref().context("does not forward")?;
    let (to, echo) = echo()?;
    let fill = |args: &[&str], near: u16| -> Vec<String> {
        let (echo, near) = (to.to_string(), near.to_string());
        let filled = |arg: &&str| arg.replace("ECHO", &echo).replace("NEAR", &near);
        args.iter().map(filled).collect()
    };
    let far_args = fill(far, 0);
    let far_args: Vec<&str> = far_args.iter().map(String::as_str).collect();
    let (_far, address) = listen(peer, program, &far_args, Stdio::null())?;
    let (_near, port) = match near {
        None => (None, address.parse().context("no port")?),
        Some(near) => {
            let port = free_port()?;
            let args = fill(near, port);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let args = arguments(&args, &address);
            let mut near = Process::start(program, &args, Stdio::null(), Stdio::null())?;
            near.wait_listening(port)?;
            (Some(near), port)
        }
    };
    let client = TcpStream::connect(("127.0.0.1", port))?;
    client.set_nodelay(true)?;
    let outcome = measure(client.try_clone()?, client, rounds);
    // Ends with its connection, which the peer's sides drop with themselves.
    drop((_near, _far));
    echo.join().map_err(|_| anyhow!("the echo panicked"))?;
    outcome
}

/// By `farpipe forward` to an agent.
pub fn by_agent(way: &Way, farpipe: &Path, rounds: usize) -> Result<Outcome> {
    let (to, echo) = echo()?;
    let net = way.open(farpipe, &["--allow", &format!("connect:127.0.0.1:{to}")])?;
    let args = way.command(&net, "forward", &["-L", &format!("0:127.0.0.1:{to}")]);
    let near = Process::start(farpipe, &args, Stdio::null(), Stdio::null())?;
    let address = near.said("forwarding tcp ")?;
    let client = TcpStream::connect(address)?;
    client.set_nodelay(true)?;
    let outcome = measure(client.try_clone()?, client, rounds);
    drop((near, net));
    echo.join().map_err(|_| anyhow!("the echo panicked"))?;
    outcome
}

/// A server of one connection that sends everything back, and its port.
fn echo() -> Result<(u16, thread::JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let echo = thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else {
            return;
        };
        let _ = stream.set_nodelay(true);
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    });
    Ok((port, echo))
}
