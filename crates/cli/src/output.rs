//! What is printed. What people read goes to stderr; stdout carries data only, which is what a verb
//! was asked for: the tables of a benchmark, a manual page.

use std::io::Write as _;

use clap::Args;
use tracing_subscriber::filter::LevelFilter;

/// `-q` and `-v`.
#[derive(Debug, Args)]
pub(crate) struct Verbosity {
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice for every event
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

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
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
}

/// What was asked for, to stdout. Fails if not all of it could be written.
pub(crate) fn data(bytes: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// One line for people.
pub(crate) fn line(text: &str) {
    // A closed stderr is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// An error, one line.
pub(crate) fn error(text: &str) {
    line(&format!("farpipe: {text}"));
}

/// What to do about the error before, one line.
pub(crate) fn hint(text: &str) {
    line(&format!("hint: {text}"));
}
