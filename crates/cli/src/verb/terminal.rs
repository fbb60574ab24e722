//! The terminal of a person who sits before a far command.

use std::os::fd::OwnedFd;

use farpipe_net::Asked;
use farpipe_proto::wire::control::{Resize, Terminal};
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
/// they are taken, the last.
pub(super) async fn resizing<T>(asks: mpsc::Sender<Asked>, work: impl Future<Output = T>) -> T {
    let resizing = async {
        let Ok(mut changed) = signal(SignalKind::window_change()) else {
            return std::future::pending().await;
        };
        let mut told = size();
        while changed.recv().await.is_some() {
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
    }
}

/// stdin's terminal in raw mode: each key goes to the far side at once, which shows it and knows what
/// it means. As it was before when this is dropped, by a panic as well.
#[derive(Debug)]
pub(super) struct Raw {
    /// Of our own: stdin's number is given to /dev/null when it is of no more use.
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// `None` if stdin is no terminal.
    pub(super) fn enter() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        if !isatty(stdin) {
            return None;
        }
        let terminal = rustix::io::fcntl_dupfd_cloexec(stdin, 3).ok()?;
        let before = tcgetattr(&terminal).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw).ok()?;
        Some(Self { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Without waiting for what is still to be shown: a screen may be stopped.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
