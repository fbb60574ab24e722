//! The flags, and the configuration they mean.

#![expect(
    rustdoc::broken_intra_doc_links,
    reason = "the documentation of the flags is their help text, which has brackets"
)]

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::CommandError;
use crate::plan::{Arm, Cut, Dir, Fault, Framing, How, Plan, When};
use crate::proxy::Config;
use crate::shape::{Delay, Shape};
use crate::text::{self, ParseError};

/// A TCP proxy that breaks connections on purpose, repeatably from a seed.
#[derive(Clone, Debug, Parser)]
#[command(name = "farpipe-faultproxy", after_help = CONTROL_HELP)]
pub struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: String,
    /// Where to pass connections on to.
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// What all chance follows from [default: a new one, printed on stderr].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Cut each connection so long after its accept: 2ms..9ms[@HOW,...]
    #[arg(long, value_name = "A[..B]", value_parser = |s: &str| fault("life", s))]
    lifetime: Vec<Spec>,
    /// Cut when so many bytes of a direction have passed: up:1000[..2000][@HOW,...]
    #[arg(long, value_name = "DIR:N", value_parser = |s: &str| fault("byte", s))]
    cut_byte: Vec<Spec>,
    /// Cut at a frame of a direction: down:3[..9][:type=T][:before|:inside=N|:after][@HOW,...]
    #[arg(long, value_name = "DIR:K", value_parser = |s: &str| fault("frame", s))]
    cut_frame: Vec<Spec>,
    /// Any fault: life:A..B, byte:DIR:N or frame:DIR:K as above, then [@HOW,...]
    #[arg(long, value_name = "WHEN", value_parser = spec)]
    fault: Vec<Spec>,
    /// What a fault that does not say it does; of several, each connection draws one: reset, fin,
    /// stall, blackhole, half, mute, flip, replay=N|frame, drop=N|frame.
    #[arg(long, value_name = "HOW,...", default_value = "reset", value_parser = manners)]
    how: Manners,
    /// Give each connection all faults, or one of them.
    #[arg(long, value_name = "all|one", default_value = "all")]
    arm: Arm,
    /// How frames are recognised: auto, ws or fp.
    #[arg(long, value_name = "F", default_value = "auto")]
    framing: Framing,
    /// Only these connections, counted from 0, get faults: 3, 0..9 or 5..
    #[arg(long, value_name = "A..B", default_value = "0..", value_parser = text::connections)]
    connections: RangeInclusive<u64>,
    /// Reset the first so many connections at once, without the upstream.
    #[arg(long, value_name = "K", default_value_t = 0)]
    refuse_first: u64,
    /// Reset so many connections after those once the upstream has them too.
    #[arg(long, value_name = "K", default_value_t = 0)]
    reset_first: u64,
    /// Listen only after so long; connects are refused until then.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = text::duration)]
    refuse_for: Duration,
    /// Reset stalled and black-holed connections after so long.
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = text::duration)]
    hold: Duration,

    /// Reset a connection on which no byte has moved, either way, for so long.
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    cut_idle: Option<Duration>,

    /// Bytes a second: [up=|down=|both=]100k
    #[arg(long, value_name = "[DIR=]RATE", value_parser = |s: &str| directed(s, text::rate))]
    throttle: Vec<Directed<std::num::NonZeroU64>>,
    /// Let everything arrive later: [DIR=]20ms[+5ms of jitter][:bytes under way at most]
    #[arg(long, value_name = "[DIR=]TIME", value_parser = |s: &str| directed(s, text::delay))]
    delay: Vec<Directed<Delay>>,
    /// Write in pieces of so many bytes.
    #[arg(long, value_name = "[DIR=]N", value_parser = |s: &str| directed(s, text::non_zero))]
    dribble: Vec<Directed<std::num::NonZeroUsize>>,
    /// Size of the kernel's buffers, so that a throttle is felt early.
    #[arg(long, value_name = "[DIR=]SIZE", value_parser = |s: &str| directed(s, text::non_zero))]
    socket_buffer: Vec<Directed<std::num::NonZeroUsize>>,

    /// Take control lines from stdin (its end then ends the proxy) or from a Unix socket made at
    /// this path.
    #[arg(long, value_name = "stdin|PATH")]
    pub(super) control: Option<PathBuf>,
    /// At the end print on stderr what each connection was given and what happened to it.
    #[arg(short, long)]
    pub(super) verbose: bool,
}

impl Args {
    /// What the flags mean; chooses a seed if none was given.
    pub fn config(&self) -> Result<Config, CommandError> {
        let specs = [&self.lifetime, &self.cut_byte, &self.cut_frame, &self.fault];
        let faults = specs
            .into_iter()
            .flatten()
            .map(|spec| spec.fault(&self.how))
            .collect();
        let mut config = Config {
            listen: resolve(&self.listen)?,
            upstream: resolve(&self.to)?,
            seed: self.seed.unwrap_or_else(chosen_seed),
            plan: Plan {
                faults,
                arm: self.arm,
                framing: self.framing,
                connections: self.connections.clone(),
                refuse_first: self.refuse_first,
                reset_first: self.reset_first,
                refuse_for: self.refuse_for,
                hold: self.hold,
                cut_idle: self.cut_idle,
            },
            up: Shape::default(),
            down: Shape::default(),
        };
        set(&mut config, &self.throttle, |shape, rate| {
            shape.throttle = Some(*rate)
        });
        set(&mut config, &self.delay, |shape, delay| {
            shape.delay = Some(delay.clone())
        });
        set(&mut config, &self.dribble, |shape, crumb| {
            shape.dribble = Some(*crumb)
        });
        set(&mut config, &self.socket_buffer, |shape, size| {
            shape.socket_buffer = Some(*size)
        });
        Ok(config)
    }
}

/// A fault whose manner may be left to `--how`.
#[derive(Clone, Debug)]
struct Spec {
    when: When,
    how: Option<Vec<How>>,
}

impl Spec {
    fn fault(&self, default: &Manners) -> Fault {
        let how = self.how.as_ref().unwrap_or(&default.0);
        Fault {
            when: self.when.clone(),
            how: how.clone(),
        }
    }
}

/// A type of its own, or clap would take it for a repeated flag.
#[derive(Clone, Debug)]
struct Manners(Vec<How>);

#[derive(Clone, Debug)]
struct Directed<T> {
    dirs: &'static [Dir],
    value: T,
}

fn spec(text: &str) -> Result<Spec, ParseError> {
    match text.split_once('@') {
        Some((when, how)) => Ok(Spec {
            when: when.parse()?,
            how: Some(text::manners(how)?),
        }),
        None => Ok(Spec {
            when: text.parse()?,
            how: None,
        }),
    }
}

fn fault(kind: &str, text: &str) -> Result<Spec, ParseError> {
    spec(&format!("{kind}:{text}"))
}

fn manners(text: &str) -> Result<Manners, ParseError> {
    text::manners(text).map(Manners)
}

fn directed<T>(
    text: &str,
    value: impl Fn(&str) -> Result<T, ParseError>,
) -> Result<Directed<T>, ParseError> {
    let (dirs, text) = text.split_once('=').unwrap_or(("both", text));
    Ok(Directed {
        dirs: text::directions(dirs)?,
        value: value(text)?,
    })
}

fn set<T>(config: &mut Config, flags: &[Directed<T>], apply: impl Fn(&mut Shape, &T)) {
    for Directed { dirs, value } in flags {
        for dir in *dirs {
            match dir {
                Dir::Up => apply(&mut config.up, value),
                Dir::Down => apply(&mut config.down, value),
            }
        }
    }
}

pub(super) fn resolve(name: &str) -> Result<SocketAddr, CommandError> {
    let error = |source| CommandError::Resolve {
        name: name.to_owned(),
        source,
    };
    let first = name.to_socket_addrs().map_err(error)?.next();
    first.ok_or_else(|| error(io::Error::new(io::ErrorKind::NotFound, "no address")))
}

/// Small enough to be typed.
fn chosen_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(()) >> 32
}

/// What `cut` alone does.
pub(super) const DEFAULT_CUT: Cut = Cut::Reset;

const CONTROL_HELP: &str = "\
Control lines, each answered by a line (`ok`, `error: ...` or JSON):
  cut [reset|fin|stall|blackhole]   tear all open connections
  blackhole on|off                  swallow everything; off is for new connections only
  pause on|off                      move no byte for a while; nothing is lost
  refuse on|off                     answer connects with ECONNREFUSED
  upstream HOST:PORT                pass new connections to another upstream
  stats                             the counts so far
  quit                              end, as SIGTERM does

The first line on stdout is `listening on ADDR`, the last the counts as JSON.";

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &str) -> Config {
        let args = Args::try_parse_from(flags.split_whitespace())
            .unwrap_or_else(|error| panic!("{error}"));
        args.config().unwrap()
    }

    #[test]
    fn a_configuration_prints_as_the_flags_that_make_it() {
        for flags in [
            "farpipe-faultproxy --listen 127.0.0.1:0 --to 127.0.0.1:9 --seed 7",
            "farpipe-faultproxy --listen 127.0.0.1:0 --to [::1]:9 --seed 7 --fault life:2ms..9ms@reset,fin \
             --fault byte:up:1000@flip --fault frame:down:3:type=4:after@drop=frame --arm one --framing ws \
             --connections 3..9 --refuse-first 1 --reset-first 2 --refuse-for 1s --hold 5s --cut-idle 60s --throttle up=100000 \
             --delay up=20ms+5ms --dribble up=1 --socket-buffer up=4096 --delay down=1s:4096",
            "farpipe-faultproxy --listen 127.0.0.1:0 --to 127.0.0.1:9 --seed 7 --framing fp --connections 5..",
        ] {
            let config = config(flags);
            assert_eq!(
                config.to_string(),
                flags.split_whitespace().collect::<Vec<_>>().join(" ")
            );
        }
    }

    #[test]
    fn short_flags_mean_the_long_ones() {
        let short = config(
            "x --to 127.0.0.1:9 --seed 1 --cut-frame down:3 --lifetime 2ms..9ms --cut-byte up:5@half --how fin,stall \
             --throttle 10k --dribble down=2",
        );
        let long = config(
            "x --to 127.0.0.1:9 --seed 1 --fault life:2ms..9ms@fin,stall --fault byte:up:5@half \
             --fault frame:down:3@fin,stall --throttle up=10000 --throttle down=10000 --dribble down=2",
        );
        assert_eq!(short, long);
    }

    #[test]
    fn flags_are_well_formed() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn wrong_flags_say_what_is_right() {
        for (flags, words) in [
            ("x", "--to"),
            (
                "x --to h:1 --lifetime 2..9",
                "`2` is not a time such as 250us, 2ms, 1.5s or 2m",
            ),
            ("x --to h:1 --cut-byte left:5", "byte:up:1000"),
            (
                "x --to h:1 --how explode",
                "`explode` is not a manner: reset, fin",
            ),
            (
                "x --to h:1 --throttle sideways=5",
                "`sideways` is not up, down or both",
            ),
            ("x --to h:1 --throttle 0", "at least 1 byte a second"),
        ] {
            let error = Args::try_parse_from(flags.split_whitespace())
                .unwrap_err()
                .to_string();
            assert!(error.contains(words), "{flags}: {error}");
        }
    }

    #[test]
    fn a_seed_of_its_own_differs() {
        assert_ne!(
            config("x --to 127.0.0.1:9").seed,
            config("x --to 127.0.0.1:9").seed
        );
    }
}
