//! A plain TCP stream: what a link gives to anybody.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use anyhow::Result;

const BUFFER: usize = 256 << 10;

/// Says where it listens, and writes what one connection brings to stdout.
pub fn receive(at: &str) -> Result<()> {
    let listener = TcpListener::bind(at)?;
    eprintln!("listening on {}", listener.local_addr()?);
    let (mut stream, _) = listener.accept()?;
    let mut stdout = std::io::stdout().lock();
    let mut buffer = vec![0; BUFFER];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => stdout.write_all(&buffer[..len])?,
        }
    }
}

/// Sends zeros until it is killed.
pub fn send(to: &str) -> Result<()> {
    let mut stream = TcpStream::connect(to)?;
    let zeros = vec![0; BUFFER];
    loop {
        stream.write_all(&zeros)?;
    }
}
