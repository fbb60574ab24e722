//! SIGINT, SIGTERM and SIGHUP end a pipe in order; a second one ends the process at once. One that
//! was ignored when the process started stays so: `nohup` and a shell's `&` rely on it.

use farpipe_agent::pipe::Cancel;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Which signal came, if one did.
#[derive(Debug)]
pub(crate) struct Signals {
    told: watch::Sender<bool>,
    kinds: Vec<(i32, Signal)>,
}

impl Signals {
    /// Catches the signals from now on.
    pub(crate) fn catch() -> std::io::Result<(Self, Cancel)> {
        let (told, cancel) = watch::channel(false);
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let ignored = ignored();
        let kinds = kinds
            .into_iter()
            .filter(|kind| ignored & (1 << (kind.as_raw_value() - 1)) == 0)
            .map(|kind| Ok((kind.as_raw_value(), signal(kind)?)))
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
