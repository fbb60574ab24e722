//! How fast WebSocket libraries move bulk data, and what framing in place gains.
//!
//! One sending and one receiving thread, one connection over loopback, every library used in the
//! fastest way that its API offers, under farpipe's own condition: the sender keeps each message
//! until the receiver acknowledged it, because it may have to send it again. The handshake is left
//! out. Rounds are interleaved over the libraries, so that a slow minute of the machine hits all.

mod link;
mod report;
mod retain;
mod subject;

use anyhow::{Context, Result, bail};

use farpipe_bench::quiet::undisturbed;
use link::{Direction, Link};
use report::{Cell, Report};
use subject::SUBJECTS;

/// Bytes of payload in each message.
const MESSAGES: &[usize] = &[16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10];

const USAGE: &str = "\
usage: ws-libs [--rounds N] [--mib N] [--kib A,B] [--only TEXT] [--pipes] [--keep-last] [--quiet PERCENT]

  --rounds N     rounds over all libraries (default 7)
  --mib N        MiB a transfer (default 1024)
  --kib A,B      KiB a message (default 16,32,64,128,256)
  --only TEXT    only libraries whose name contains TEXT
  --pipes        read from a pipe and write to a pipe instead of memory
  --keep-last    keep the last 8 MiB sent, whatever was acknowledged
  --quiet N      repeat a transfer during which others used more than N % of the machine
";

struct Options {
    rounds: usize,
    total: u64,
    messages: Vec<usize>,
    only: String,
    pipes: bool,
    keep_last: bool,
    /// The share of the machine that others may use during a transfer.
    others_max: Option<f64>,
}

fn main() -> Result<()> {
    let Some(options) = parse(std::env::args().skip(1))? else {
        print!("{USAGE}");
        return Ok(());
    };
    let subjects: Vec<_> = SUBJECTS
        .iter()
        .filter(|subject| subject.name.contains(&options.only))
        .collect();
    for subject in &subjects {
        for direction in Direction::BOTH {
            Link::new(direction, 100_000, 10_000_000, options.keep_last)
                .verified()
                .run(subject)
                .with_context(|| format!("{} does not carry bytes faithfully", subject.name))?;
        }
    }
    let mut report = Report::default();
    for round in 1..=options.rounds {
        for direction in Direction::BOTH {
            for &message in &options.messages {
                for subject in &subjects {
                    let transfer = || {
                        let link = Link::new(direction, message, options.total, options.keep_last);
                        let link = if options.pipes {
                            link.through_pipes()?
                        } else {
                            link
                        };
                        link.run(subject).context(subject.name)
                    };
                    let outcome = undisturbed(options.others_max, transfer)?;
                    report.add(
                        Cell {
                            direction,
                            message,
                            subject: subject.name,
                        },
                        outcome,
                    );
                }
            }
        }
        eprintln!("round {round} of {} done", options.rounds);
    }
    println!("A cell: GB/s · rate to raw TCP in the same round · CPU s/GiB of both ends.");
    for direction in Direction::BOTH {
        print!("{}", report.table(direction, &options.messages, &subjects));
    }
    println!("\nHow the sender keeps what it sent:");
    for subject in &subjects {
        println!("- {}: {}", subject.name, subject.retention);
    }
    Ok(())
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let mut options = Options {
        rounds: 7,
        total: 1 << 30,
        messages: MESSAGES.to_vec(),
        only: String::new(),
        pipes: false,
        keep_last: false,
        others_max: None,
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--rounds" => options.rounds = value()?.parse()?,
            "--mib" => options.total = value()?.parse::<u64>()? << 20,
            "--kib" => {
                let sizes = value()?;
                let sizes = sizes.split(',').map(|kib| Ok(kib.parse::<usize>()? << 10));
                options.messages = sizes.collect::<Result<_>>()?;
            }
            "--only" => options.only = value()?,
            "--pipes" => options.pipes = true,
            "--keep-last" => options.keep_last = true,
            "--quiet" => options.others_max = Some(value()?.parse::<f64>()? / 100.0),
            "--help" | "-h" => return Ok(None),
            _ => bail!("unknown option {arg}\n{USAGE}"),
        }
    }
    Ok(Some(options))
}
