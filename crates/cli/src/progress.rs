//! `--progress`: bytes, rate, and time left where the size is known.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use farpipe_agent::Meter;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::output;

/// How often a display is refreshed.
const REFRESH: Duration = Duration::from_millis(100);
/// How often a JSON line is written.
const JSON_EVERY: Duration = Duration::from_secs(1);

/// What `--progress` may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// A bar when stderr is a terminal and stdout is not, else nothing
    Auto,
    /// A JSON line on stderr each second
    Json,
    /// Nothing
    None,
}

/// Counts for the display.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Bytes moved.
    pub(crate) meter: Arc<Meter>,
    /// Links resumed.
    pub(crate) resumes: AtomicU64,
}

/// Shows progress as long as `work` lasts.
pub(crate) async fn during<T>(
    progress: Progress,
    quiet: bool,
    total: Option<u64>,
    counts: &Counts,
    work: impl Future<Output = T>,
) -> T {
    let show = match progress {
        Progress::None => return work.await,
        Progress::Json => Display::Json,
        Progress::Auto => {
            // A terminal on stdout shows the data itself.
            if quiet || !std::io::stderr().is_terminal() || std::io::stdout().is_terminal() {
                return work.await;
            }
            Display::Bar(bar(total))
        }
    };
    let every = match &show {
        Display::Json => JSON_EVERY,
        Display::Bar(_) => REFRESH,
    };
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(every);
    loop {
        tokio::select! {
            result = &mut work => {
                show.refresh(total, counts);
                show.finish();
                return result;
            }
            _ = ticks.tick() => show.refresh(total, counts),
        }
    }
}

enum Display {
    Json,
    Bar(ProgressBar),
}

impl Display {
    fn refresh(&self, total: Option<u64>, counts: &Counts) {
        let sent = counts.meter.sent.load(Ordering::Relaxed);
        let received = counts.meter.received.load(Ordering::Relaxed);
        let resumes = counts.resumes.load(Ordering::Relaxed);
        match self {
            Self::Json => output::line(
                &json!({
                    "event": "progress",
                    "sent_bytes": sent,
                    "received_bytes": received,
                    "total_bytes": total,
                    "resumes": resumes,
                })
                .to_string(),
            ),
            Self::Bar(bar) => {
                bar.set_position(sent.max(received));
                if resumes > 0 {
                    bar.set_message(format!("resumed {resumes}×"));
                }
            }
        }
    }

    fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.abandon();
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{bytes:>10} of {total_bytes} {wide_bar} {bytes_per_sec:>12} {eta:>4} left {msg}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{bytes:>10} in {elapsed} {bytes_per_sec:>12} {msg}",
        ),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
