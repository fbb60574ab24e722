//! Many streams in one session: `many RELAY HOST FILE…` prints how long each file of that host is. The
//! agent there runs with `--allow read:DIR`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that prints"
)]

use std::error::Error;
use std::sync::Arc;

use farpipe::{Host, Settings};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(relay), Some(host)) = (args.next(), args.next()) else {
        return Err("many RELAY HOST FILE…".into());
    };
    let host = Arc::new(Settings::new().relay(relay).connect(&host)?);
    let mut running = JoinSet::new();
    for file in args {
        let host = Arc::clone(&host);
        running.spawn(async move { (length(&host, &file).await, file) });
    }
    while let Some(ended) = running.join_next().await {
        match ended? {
            (Ok(len), file) => println!("{len} {file}"),
            (Err(error), file) => eprintln!("{file}: {error}"),
        }
    }
    if let Some(host) = Arc::into_inner(host) {
        host.close().await?;
    }
    Ok(())
}

/// A stream costs no round trip of its own: it is opened in a session that stands.
async fn length(host: &Host, file: &str) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let mut stream = host.open_source(file).await?;
    let mut buf = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match stream.read(&mut buf).await? {
            0 => return Ok(total),
            len => total += len as u64,
        }
    }
}
