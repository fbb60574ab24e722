//! What is printed. What people read goes to stderr; stdout carries data only, which is what a verb
//! was asked for: the tables of a benchmark, a manual page.
//!
//! A thread of its own writes to stderr, see [`crate::lines`]: a terminal that is stopped, or a pipe
//! that nobody reads, does not stop the data. What was typed as a secret into a URL is not shown
//! again, whoever quotes it: all lines go through [`redacted`]. A progress bar that is shown makes room for each line.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use clap::{Args, ValueEnum};
use farpipe_net::redacted;
use indicatif::ProgressBar;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use crate::lines::{Lines, Room};

/// `-q` and `-v`.
#[derive(Debug, Args)]
pub(crate) struct Verbosity {
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice for every event
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// How what is said on stderr is written: as text, or each line as a JSON object with its
    /// time, level and message
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        value_name = "FORMAT",
        env = "FARPIPE_LOG_FORMAT",
        hide_possible_values = true
    )]
    log_format: LogFormat,
}

/// How lines on stderr are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Whether lines are JSON.
static IS_JSON: AtomicBool = AtomicBool::new(false);

impl Verbosity {
    /// Whether `-q` was given.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }
}

/// Sends logs to stderr at the chosen level.
pub(crate) fn init(verbosity: &Verbosity) {
    let level = match (verbosity.quiet, verbosity.verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, 0) => LevelFilter::WARN,
        (_, 1) => LevelFilter::INFO,
        (_, 2) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| Log)
        .with_target(false);
    match verbosity.log_format {
        LogFormat::Text => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            log.with_ansi(is_terminal).init();
        }
        LogFormat::Json => {
            IS_JSON.store(true, Ordering::Relaxed);
            log.json().flatten_event(true).init();
        }
    }
}

/// A line as the chosen format has it.
fn formatted(level: &str, text: &str) -> String {
    if !IS_JSON.load(Ordering::Relaxed) {
        return text.to_owned();
    }
    let mut time = String::new();
    // Writing to a String cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    serde_json::json!({"timestamp": time, "level": level, "message": text}).to_string()
}

/// What was asked for, to stdout. Fails if not all of it could be written.
pub(crate) fn data(bytes: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// One line for people.
pub(crate) fn line(text: &str) {
    push(Room::Usual, &formatted("INFO", &redacted(text)));
}

/// The same for what must be whole: a secret that is to be passed on.
pub(crate) fn line_with_secret(text: &str) {
    push(Room::Usual, &formatted("INFO", text));
}

/// An error, one line.
pub(crate) fn error(text: &str) {
    let text = format!("farpipe: {}", redacted(text));
    push(Room::LastWords, &formatted("ERROR", &text));
}

/// What to do about the error before, one line.
pub(crate) fn hint(text: &str) {
    let text = format!("hint: {}", redacted(text));
    push(Room::LastWords, &formatted("ERROR", &text));
}

/// Waits, not for ever, until what was said is written.
pub(crate) fn flush() {
    release();
    // Where nothing was said there is no thread, and none is started for that.
    if let (Some(lines), Some(true)) = (LINES.get(), HAS_THREAD.get()) {
        lines.flush();
    }
}

/// The bar that lines must not be written over, if there is one.
pub(crate) fn show_bar(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn push(room: Room, text: &str) {
    match lines() {
        Some(lines) => lines.push(room, |dropped| match dropped {
            0 => text.to_owned(),
            n => format!("farpipe: {n} lines are missing here: nobody read them\n{text}"),
        }),
        // Out of threads: better late than never. A closed stderr is no reason to fail.
        None => drop(Stderr.write_all(format!("{text}\n").as_bytes())),
    }
}

/// What is said waits until [`release`], and no thread is started for it: a sandbox is closed by the only one.
pub(crate) fn hold() {
    IS_HELD.store(true, Ordering::Relaxed);
}

/// What is said is written from now on, and what was said.
pub(crate) fn release() {
    if IS_HELD.swap(false, Ordering::Relaxed) && LINES.get().is_some() {
        let _begun = lines();
    }
}

static IS_HELD: AtomicBool = AtomicBool::new(false);
static LINES: OnceLock<Lines> = OnceLock::new();
/// Whether there was a thread to be had, once one was wanted.
static HAS_THREAD: OnceLock<bool> = OnceLock::new();

fn lines() -> Option<&'static Lines> {
    let lines = LINES.get_or_init(|| Lines::held("farpipe-stderr", Stderr));
    if IS_HELD.load(Ordering::Relaxed) {
        return Some(lines);
    }
    let has_thread = HAS_THREAD.get_or_init(|| lines.begin().is_ok());
    has_thread.then_some(lines)
}

/// stderr, whether a bar is shown there or not. A write takes all or fails.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let write = || io::stderr().write_all(bytes);
        match bar {
            Some(bar) => bar.suspend(write)?,
            None => write()?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Takes a log's lines; each comes in one write.
struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        push(Room::Usual, &redacted(text.trim_end_matches('\n')));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
