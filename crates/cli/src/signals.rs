//! SIGINT, SIGTERM and SIGHUP end a pipe in order; a second one ends the process at once. One that
//! was ignored when the process started stays so: `nohup` and a shell's `&` rely on it.
//!
//! Where a far command runs, the first one is the command's: see [`Forward`].

use std::time::Duration;

use farpipe_agent::pipe::Cancel;
use farpipe_net::Asked;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Which signal came, if one did.
#[derive(Debug)]
pub(crate) struct Signals {
    told: watch::Sender<bool>,
    kinds: Vec<(i32, Signal)>,
}

impl Signals {
    /// Catches the signals from now on.
    pub(crate) fn catch() -> std::io::Result<(Self, Cancel)> {
        Self::catch_these(&[
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ])
    }

    /// Catches the others from now on, and hands out the hangups; none if they were ignored.
    pub(crate) fn catch_but_hangup() -> std::io::Result<(Self, Cancel, Option<Signal>)> {
        let (signals, cancel) =
            Self::catch_these(&[SignalKind::interrupt(), SignalKind::terminate()])?;
        let (mut hangup, _) = Self::catch_these(&[SignalKind::hangup()])?;
        let hangup = hangup.kinds.pop().map(|(_, signal)| signal);
        Ok((signals, cancel, hangup))
    }

    fn catch_these(kinds: &[SignalKind]) -> std::io::Result<(Self, Cancel)> {
        let (told, cancel) = watch::channel(false);
        let ignored = ignored();
        let kinds = kinds
            .iter()
            .filter(|kind| ignored & (1 << (kind.as_raw_value() - 1)) == 0)
            .map(|kind| Ok((kind.as_raw_value(), signal(*kind)?)))
            .collect::<std::io::Result<_>>()?;
        Ok((Self { told, kinds }, cancel))
    }

    /// Runs `work`; the first signal tells it to end, the second abandons it. Returns the work's
    /// result if it came to its end, and the signal that came.
    pub(crate) async fn run<T>(mut self, work: impl Future<Output = T>) -> (Option<T>, Option<u8>) {
        let mut work = std::pin::pin!(work);
        let first = tokio::select! {
            done = &mut work => return (Some(done), None),
            number = Self::any(&mut self.kinds) => number,
        };
        self.told.send_replace(true);
        tokio::select! {
            done = work => (Some(done), Some(first)),
            _ = Self::any(&mut self.kinds) => (None, Some(first)),
        }
    }

    async fn any(kinds: &mut [(i32, Signal)]) -> u8 {
        std::future::poll_fn(|cx| {
            for (number, signal) in kinds.iter_mut() {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(u8::try_from(*number).unwrap_or(15));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// A signal that comes again so soon is the same one by two ways: from a terminal, and from a
/// `timeout` that passes it on.
const SAME: Duration = Duration::from_millis(250);

/// Passes signals on to a far command: the first. A second one gives the command up, a third ends the
/// process at once.
#[derive(Debug)]
pub(crate) struct Forward {
    signals: Signals,
    asks: mpsc::Sender<Asked>,
    /// The command outlives this process: only what comes from a keyboard is the command's.
    outlives: bool,
}

impl Forward {
    /// Catches the signals from now on.
    pub(crate) fn catch(
        asks: mpsc::Sender<Asked>,
        outlives: bool,
    ) -> std::io::Result<(Self, Cancel)> {
        let (signals, cancel) = Signals::catch_these(&[
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ])?;
        let forward = Self {
            signals,
            asks,
            outlives,
        };
        Ok((forward, cancel))
    }

    /// As [`Signals::run`]; the signal is the first that came, whatever became of it.
    pub(crate) async fn run<T>(mut self, work: impl Future<Output = T>) -> (Option<T>, Option<u8>) {
        let mut work = std::pin::pin!(work);
        let first = tokio::select! {
            done = &mut work => return (Some(done), None),
            number = Signals::any(&mut self.signals.kinds) => number,
        };
        let is_typed = [SignalKind::interrupt(), SignalKind::quit()]
            .iter()
            .any(|kind| kind.as_raw_value() == i32::from(first));
        let is_passed_on = is_typed || !self.outlives;
        if is_passed_on {
            // There is room: nothing else came before but sizes, and of those there are few.
            let _ = self.asks.try_send(Asked::Signal(u32::from(first)));
        }
        let at = Instant::now();
        loop {
            if !is_passed_on {
                break;
            }
            tokio::select! {
                done = &mut work => return (Some(done), Some(first)),
                _ = Signals::any(&mut self.signals.kinds) => {
                    if at.elapsed() >= SAME {
                        break;
                    }
                }
            }
        }
        self.signals.told.send_replace(true);
        tokio::select! {
            done = work => (Some(done), Some(first)),
            _ = Signals::any(&mut self.signals.kinds) => (None, Some(first)),
        }
    }
}

/// Whether a signal was ignored when this process started.
pub(crate) fn is_ignored(number: i32) -> bool {
    ignored() & (1 << (number - 1)) != 0
}

/// The signals that are ignored, number 1 in the lowest bit; none where that is unknown.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

/// The status of a process that this signal ended.
pub(crate) fn status(number: u8) -> u8 {
    128 + number
}
