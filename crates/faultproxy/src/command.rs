//! The `farpipe-faultproxy` command: flags, the control lines, what it prints.
//!
//! stdout: `listening on ADDR` first, then the answers to control lines given on stdin, the counts
//! as one line of JSON last. stderr: everything for people, with the command line that replays this
//! run.

mod args;
mod control;

use std::io::{self, Write};
use std::path::PathBuf;

pub use args::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::proxy::Proxy;

/// Runs the proxy until SIGTERM, SIGINT, `quit`, or the end of a stdin given as `--control stdin`.
pub fn run(args: &Args) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CommandError::Runtime)?;
    runtime.block_on(serve(args))
}

async fn serve(args: &Args) -> Result<(), CommandError> {
    let config = args.config()?;
    // From here on a signal ends the proxy in order.
    let mut terminate = signal(SignalKind::terminate()).map_err(CommandError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandError::Runtime)?;
    let listen = config.listen;
    let proxy = Proxy::start(config).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidInput => CommandError::Plan { source },
        _ => CommandError::Listen { listen, source },
    })?;
    let mut control = control::Control::open(args.control.as_ref())?;
    let _ = writeln!(io::stderr(), "replay with: {}", proxy.config());
    say(&format!("listening on {}", proxy.addr()))?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            line = control.next() => match line {
                Some(line) => if !line.serve(&proxy).await? {
                    break;
                },
                None => break,
            },
        }
    }
    drop(control);
    let account = args.verbose.then(|| proxy.account());
    let stats = proxy.stop().await;
    if let Some(account) = account {
        let _ = io::stderr().write_all(account.as_bytes());
    }
    say(&stats.to_json())
}

/// One line on stdout, at once.
fn say(line: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .map_err(CommandError::Stdout)
}

/// Why the command ends without having done its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// `--to` or `--listen` names nothing that can be connected to.
    #[error("cannot resolve `{name}`: {source}")]
    Resolve {
        /// What was given.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// The faults make no sense together.
    #[error("{source}")]
    Plan {
        /// Which, and why.
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: std::net::SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The control socket cannot be made.
    #[error("cannot make the control socket {}: {source}", path.display())]
    Control {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Nobody reads stdout.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
    /// The system gives no threads, timers or signals.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}
