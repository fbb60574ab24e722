//! `--progress`: bytes, rate, and time left where the size is known.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use clap::ValueEnum;
use farpipe_agent::Meter;
use farpipe_agent::copy::Tally;
use farpipe_agent::endpoint::{EndpointSpec, Use};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::sync::oneshot;

use crate::output;

/// How often a display is refreshed.
const REFRESH: Duration = Duration::from_millis(100);
/// How often a JSON line is written.
const JSON_EVERY: Duration = Duration::from_secs(1);

/// How long the end waits for the last look of the bar.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// What `--progress` may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// A bar when stderr is a terminal that the data is not written to or typed at, else nothing
    Auto,
    /// A JSON line on stderr each second
    Json,
    /// Nothing
    None,
}

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// A bar on the terminal.
    Bar,
    /// JSON lines on stderr.
    Json,
    /// Nothing.
    Nothing,
}

impl Progress {
    /// What that means where stderr is data as well: a bar would be drawn over it.
    pub(crate) fn without_bar(self) -> Show {
        match self {
            Self::Json => Show::Json,
            Self::None | Self::Auto => Show::Nothing,
        }
    }

    /// What that means for a pipe that uses its endpoints so. A bar needs a terminal for itself:
    /// the data is neither shown there nor typed.
    pub(crate) fn resolve(self, quiet: bool, endpoints: &[(&EndpointSpec, Use)]) -> Show {
        match self {
            Self::None => return Show::Nothing,
            Self::Json => return Show::Json,
            Self::Auto => {}
        }
        let is_shown = std::io::stdout().is_terminal()
            && endpoints
                .iter()
                .any(|(spec, wanted)| spec.writes_stdout(*wanted));
        // Only who sends alone means what is typed; else stdin is just not redirected.
        let is_typed = std::io::stdin().is_terminal()
            && endpoints
                .iter()
                .any(|(spec, wanted)| spec.is_shared() && *wanted == Use::Source);
        if quiet || is_shown || is_typed || !std::io::stderr().is_terminal() {
            Show::Nothing
        } else {
            Show::Bar
        }
    }
}

/// Counts for the display.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Bytes moved.
    pub(crate) meter: Arc<Meter>,
    /// Links resumed.
    pub(crate) resumes: AtomicU64,
    /// What is copied now, if files are.
    copy: Mutex<Option<Arc<Tally>>>,
}

/// Files of a copy, as far as it has come.
#[derive(Debug, Clone, Copy)]
struct Files {
    moved_bytes: u64,
    total_bytes: u64,
    moved: u64,
    total: u64,
}

impl Counts {
    /// From now on this copy is shown.
    pub(crate) fn show(&self, tally: Arc<Tally>) {
        *self.copy.lock().unwrap_or_else(PoisonError::into_inner) = Some(tally);
    }

    fn files(&self) -> Option<Files> {
        let tally = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = tally.as_ref()?;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Some(Files {
            moved_bytes: read(&tally.moved_bytes),
            total_bytes: read(&tally.wanted_bytes),
            moved: read(&tally.moved_files),
            total: read(&tally.wanted_files),
        })
    }

    /// Bytes sent, bytes received, links resumed.
    fn now(&self) -> (u64, u64, u64) {
        (
            self.meter.sent.load(Ordering::Relaxed),
            self.meter.received.load(Ordering::Relaxed),
            self.resumes.load(Ordering::Relaxed),
        )
    }
}

/// Shows progress as long as `work` lasts.
pub(crate) async fn during<T>(
    show: Show,
    total: Option<u64>,
    counts: &Arc<Counts>,
    work: impl Future<Output = T>,
) -> T {
    match show {
        Show::Nothing => work.await,
        Show::Json => tell(total, counts, work).await,
        Show::Bar => draw(total, counts, work).await,
    }
}

/// Writes JSON lines meanwhile, and one at the end.
async fn tell<T>(total: Option<u64>, counts: &Counts, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(JSON_EVERY);
    loop {
        let result = tokio::select! {
            result = &mut work => Some(result),
            _ = ticks.tick() => None,
        };
        let (sent, received, resumes) = counts.now();
        let mut event = json!({
            "event": "progress",
            "sent_bytes": sent,
            "received_bytes": received,
            "total_bytes": total,
            "resumes": resumes,
        });
        if let Some(files) = counts.files() {
            event["copied_bytes"] = files.moved_bytes.into();
            event["total_bytes"] = files.total_bytes.into();
            event["copied_files"] = files.moved.into();
            event["total_files"] = files.total.into();
        }
        output::line(&event.to_string());
        if let Some(result) = result {
            return result;
        }
    }
}

/// Draws a bar meanwhile, in a thread of its own: a terminal may be stopped.
async fn draw<T>(total: Option<u64>, counts: &Arc<Counts>, work: impl Future<Output = T>) -> T {
    let bar = bar(total);
    output::show_bar(Some(bar.clone()));
    let (stop, stopped) = mpsc::sync_channel(1);
    let (drawn, ended) = oneshot::channel();
    let counts = Arc::clone(counts);
    let drawing = std::thread::Builder::new().name("farpipe-progress".to_owned());
    let started = drawing.spawn(move || {
        draw_until(&bar, &counts, &stopped);
        output::show_bar(None);
        let _ = drawn.send(());
    });
    if let Err(error) = started {
        tracing::debug!(%error, "no bar");
        output::show_bar(None);
    }
    let result = work.await;
    drop(stop);
    // Of a terminal that stays stopped nothing is expected.
    let _ = tokio::time::timeout(LAST_LOOK, ended).await;
    result
}

fn draw_until(bar: &ProgressBar, counts: &Counts, stopped: &mpsc::Receiver<()>) {
    loop {
        let over = stopped.recv_timeout(REFRESH) != Err(mpsc::RecvTimeoutError::Timeout);
        let (sent, received, resumes) = counts.now();
        let mut message = String::new();
        match counts.files() {
            None => bar.set_position(sent.max(received)),
            Some(files) => {
                if bar.length().is_none() {
                    bar.set_style(style(BOUNDED));
                }
                bar.set_length(files.total_bytes);
                bar.set_position(files.moved_bytes);
                message = format!("{} of {} files ", files.moved, files.total);
            }
        }
        if resumes > 0 {
            message = format!("{message}resumed {resumes}×");
        }
        if !message.is_empty() {
            bar.set_message(message);
        }
        if over {
            bar.abandon();
            return;
        }
    }
}

const BOUNDED: &str =
    "{bytes:>10} of {total_bytes} {wide_bar} {bytes_per_sec:>12} {eta:>4} left {msg}";
const UNBOUNDED: &str = "{bytes:>10} in {elapsed} {bytes_per_sec:>12} {msg}";

fn bar(total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), BOUNDED),
        None => (ProgressBar::new_spinner(), UNBOUNDED),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    bar.with_style(style(template))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
