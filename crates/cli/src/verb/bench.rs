//! `farpipe bench`: measures what farpipe stands on: this machine, and the way to another.
//!
//! Signals keep their default action: nothing here has to be put in order at the end, so SIGINT
//! ends it at once.

mod codec;
mod far;
mod link;
mod log;
mod push;
mod spread;
mod stream;

use std::num::{NonZeroU32, NonZeroU64};

use clap::{Subcommand, ValueEnum};

/// Measure this machine and the way to another
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

/// One thing to measure.
#[derive(Debug, Subcommand)]
enum What {
    Pipe(PipeArgs),
    Link(Box<link::Args>),
    Push(push::Args),
    Log(log::Args),
    Codec(codec::Args),
    Far(far::Args),
}

/// Measure local pipes: batch sizes, pipe sizes, ways to read and write
///
/// Blocking write and read with calls of 512 B to 1 MiB, in pipes of 64 KiB and 1 MiB and in a
/// FIFO; then epoll, vmsplice, splice and shared memory at the best of these sizes. Tables go to
/// stdout. Two threads of one process, interleaved rounds, medians; every byte is counted. Use it
/// on a machine that has nothing else to do.
#[derive(Debug, clap::Args)]
struct PipeArgs {
    /// How often each row is run
    #[arg(long, value_name = "N", default_value = "5")]
    rounds: NonZeroU32,
    /// How much a run sends, at least 1MiB
    #[arg(long, value_name = "BYTES", value_parser = size, default_value = "128MiB")]
    size: NonZeroU64,
    /// Where the two sides run
    #[arg(long, value_name = "HOW", default_value = "apart")]
    cores: Cores,
    /// Print every figure as one JSON object instead
    #[arg(long)]
    json: bool,
}

/// What `--cores` may be.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Cores {
    /// Each on a core of its own, like two programs that both have work
    Apart,
    /// Both on one core, like two programs on a busy machine
    Together,
    /// Wherever the kernel puts them
    Free,
}

/// Shorter runs measure how two threads start.
const SIZE_MIN: u64 = 1 << 20;

pub(crate) async fn run(args: &Args, quiet: bool) -> anyhow::Result<u8> {
    match &args.what {
        What::Pipe(args) => pipe(args, quiet),
        What::Link(args) => link::run(args).await,
        What::Push(args) => push::run(args, quiet).await,
        What::Log(args) => log::run(args, quiet).await,
        What::Codec(args) => codec::run(args, quiet),
        What::Far(far::Args {}) => far::run(),
    }
}

#[cfg(target_os = "linux")]
fn pipe(args: &PipeArgs, quiet: bool) -> anyhow::Result<u8> {
    use std::io::IsTerminal as _;

    use anyhow::Context as _;
    use farpipe_localbench::{Options, measure};
    use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

    use crate::{exit, output};

    let options = Options {
        rounds: args.rounds,
        size: args.size,
        cores: match args.cores {
            Cores::Apart => farpipe_localbench::Cores::Apart,
            Cores::Together => farpipe_localbench::Cores::Together,
            Cores::Free => farpipe_localbench::Cores::Free,
        },
    };
    let bar = if quiet || !std::io::stderr().is_terminal() {
        ProgressBar::hidden()
    } else {
        ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
            .with_style(ProgressStyle::with_template("measuring {wide_bar} {eta}")?)
    };
    let report = measure(&options, |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    })
    .context("cannot measure pipes")?;
    bar.finish_and_clear();
    let text = if args.json {
        format!("{:#}\n", report.to_json())
    } else {
        report.to_string()
    };
    let status = exit::printed(output::data(text.as_bytes()))?;
    if status == 0 && report.has_failures() {
        anyhow::bail!("not every row could be measured");
    }
    Ok(status)
}

#[cfg(not(target_os = "linux"))]
fn pipe(_args: &PipeArgs, _quiet: bool) -> anyhow::Result<u8> {
    anyhow::bail!("cannot measure pipes here: `bench pipe` is for Linux only")
}

/// Bytes as `100000`, `64KiB`, `128MiB`, `1GiB`.
fn count(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .map_err(|_| format!("write a number from 1 to {}", u32::MAX))
}

fn size(text: &str) -> Result<NonZeroU64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        _ => return Err("the unit is KiB, MiB or GiB".to_owned()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "write a number and a unit: 64MiB, 1GiB".to_owned())?;
    let size = number.checked_mul(1 << shift).ok_or("out of range")?;
    NonZeroU64::new(size)
        .filter(|size| size.get() >= SIZE_MIN)
        .ok_or_else(|| "at least 1MiB; the default is 128MiB".to_owned())
}

/// Bytes that no link makes smaller: from a fixed seed.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[7]
    })
    .take(len)
    .collect()
}
