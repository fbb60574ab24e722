//! The terminal of a person who sits before a far command.

use std::io;
use std::os::fd::OwnedFd;

use farpipe_net::Asked;
use farpipe_proto::wire::control::{Resize, Terminal};
use rustix::process::Signal;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// The size of a terminal that has none: that of the first ones.
const SIZE: Resize = Resize { rows: 24, cols: 80 };

/// The size of the terminal that one of the standard descriptors is.
fn size() -> Option<Resize> {
    let [stdin, stdout, stderr] = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    let size = [stdin, stdout, stderr]
        .into_iter()
        .find_map(|fd| tcgetwinsize(fd).ok())?;
    let (rows, cols) = (u32::from(size.ws_row), u32::from(size.ws_col));
    (rows > 0 && cols > 0).then_some(Resize { rows, cols })
}

/// What the far terminal is to be like.
pub(super) fn describe() -> Terminal {
    use std::os::unix::ffi::OsStringExt as _;

    let Resize { rows, cols } = size().unwrap_or(SIZE);
    let term = std::env::var_os("TERM").filter(|term| !term.is_empty());
    let term = term.unwrap_or_else(|| "dumb".into()).into_vec();
    Terminal { rows, cols, term }
}

/// Runs `work`, and tells the command each new size of the terminal; of those that come faster than
/// they are taken, the last. While this process is stopped the terminal is as it was before.
pub(super) async fn shown<T>(asks: mpsc::Sender<Asked>, work: impl Future<Output = T>) -> T {
    let raw = Raw::enter();
    let resizing = async {
        let caught = || {
            io::Result::Ok((
                signal(SignalKind::window_change())?,
                signal(SignalKind::from_raw(CONT))?,
            ))
        };
        let Ok((mut changed, mut continued)) = caught() else {
            return std::future::pending().await;
        };
        let mut told = size();
        loop {
            tokio::select! {
                Some(()) = changed.recv() => {}
                Some(()) = continued.recv() => {
                    // Whoever had the terminal meanwhile has left it in a way of its own.
                    if let Some(raw) = &raw {
                        raw.again();
                    }
                }
                else => break,
            }
            let now = size();
            if let Some(size) = now.filter(|_| now != told) {
                told = now;
                if asks.send(Asked::Resize(size)).await.is_err() {
                    break;
                }
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        done = work => done,
        never = resizing => never,
        never = stopping(raw.as_ref()) => never,
    }
}

const CONT: i32 = Signal::CONT.as_raw();
const TSTP: i32 = Signal::TSTP.as_raw();

/// Stops this process when it is told to, with its terminal in order; never ready.
async fn stopping<T>(raw: Option<&Raw>) -> T {
    // Where no shell controls jobs, nobody would continue it.
    let is_ignored = crate::signals::is_ignored(TSTP);
    let caught = signal(SignalKind::from_raw(TSTP));
    let (Ok(mut told), Some(raw), false) = (caught, raw, is_ignored) else {
        return std::future::pending().await;
    };
    while told.recv().await.is_some() {
        raw.restore();
        // Returns when it is continued; if it cannot stop, nothing has happened.
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::STOP);
    }
    std::future::pending().await
}

/// stdin's terminal in raw mode: each key goes to the far side at once, which shows it and knows what
/// it means. As it was before when this is dropped, by a panic as well.
#[derive(Debug)]
struct Raw {
    /// Of our own: stdin's number is given to /dev/null when it is of no more use.
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// `None` if stdin is no terminal.
    fn enter() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        if !isatty(stdin) {
            return None;
        }
        let terminal = rustix::io::fcntl_dupfd_cloexec(stdin, 3).ok()?;
        let before = tcgetattr(&terminal).ok()?;
        let raw = Self { terminal, before };
        raw.again().then_some(raw)
    }

    /// Raw once more. Whether it is.
    fn again(&self) -> bool {
        let mut raw = self.before.clone();
        raw.make_raw();
        tcsetattr(&self.terminal, OptionalActions::Now, &raw).is_ok()
    }

    fn restore(&self) {
        // Without waiting for what is still to be shown: a screen may be stopped.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.restore();
    }
}
