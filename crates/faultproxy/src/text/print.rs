//! The other way round: values into words.

use std::fmt;
use std::time::Duration;

use crate::plan::{
    Admit, Amount, Arm, Armed, ConnectionPlan, Cut, Dir, Fault, Framing, How, Place, Plan, Trigger,
    When,
};
use crate::proxy::Config;
use crate::shape::{Delay, Shape};

#[derive(PartialEq)]
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_micros() {
            micros if micros % 1_000_000 == 0 => write!(f, "{}s", micros / 1_000_000),
            micros if micros % 1000 == 0 => write!(f, "{}ms", micros / 1000),
            micros => write!(f, "{micros}us"),
        }
    }
}

/// A range, or its one value.
struct Span<T>(T, T);

impl<T: fmt::Display + PartialEq> fmt::Display for Span<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 == self.1 {
            true => self.0.fmt(f),
            false => write!(f, "{}..{}", self.0, self.1),
        }
    }
}

impl fmt::Display for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reset => "reset",
            Self::Fin => "fin",
            Self::Stall => "stall",
            Self::BlackHole => "blackhole",
        })
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Frame => f.write_str("frame"),
        }
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(cut) => cut.fmt(f),
            Self::HalfClose => f.write_str("half"),
            Self::Mute => f.write_str("mute"),
            Self::FlipBit => f.write_str("flip"),
            Self::Replay(amount) => write!(f, "replay={amount}"),
            Self::Drop(amount) => write!(f, "drop={amount}"),
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lifetime(range) => {
                write!(f, "life:{}", Span(Time(*range.start()), Time(*range.end())))
            }
            Self::Byte { dir, at } => write!(f, "byte:{dir}:{}", Span(at.start(), at.end())),
            Self::Frame {
                dir,
                nth,
                kind,
                place,
            } => {
                write!(
                    f,
                    "frame:{dir}:{}{}",
                    Span(nth.start(), nth.end()),
                    FrameWords(*kind, *place)
                )
            }
        }
    }
}

struct FrameWords(Option<u8>, Place);

impl fmt::Display for FrameWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(kind) = self.0 {
            write!(f, ":type={kind}")?;
        }
        match self.1 {
            Place::Before => Ok(()),
            Place::Inside(offset) => write!(f, ":inside={offset}"),
            Place::After => f.write_str(":after"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.when)?;
        for (i, how) in self.how.iter().enumerate() {
            write!(f, "{}{how}", if i == 0 { '@' } else { ',' })?;
        }
        Ok(())
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            fixed,
            jitter,
            buffer,
        } = self;
        write!(f, "{}", Time(*fixed))?;
        if !jitter.is_zero() {
            write!(f, "+{}", Time(*jitter))?;
        }
        match *buffer == Self::new(*fixed, *jitter).buffer {
            true => Ok(()),
            false => write!(f, ":{buffer}"),
        }
    }
}

/// What a connection was given: `connection 3: at 4211us reset; at byte 1000 up flip bit 5`.
impl fmt::Display for ConnectionPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {}:", self.connection)?;
        let mut words = Vec::new();
        match self.admit {
            Admit::Pass => {}
            Admit::Refuse => words.push("refuse".to_owned()),
            Admit::Reset => words.push("reset before the first byte".to_owned()),
        }
        words.extend(self.armed.iter().map(Armed::to_string));
        match words.is_empty() {
            true => f.write_str(" no faults"),
            false => write!(f, " {}", words.join("; ")),
        }
    }
}

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trigger,
            dir,
            how,
            bit,
        } = self;
        match trigger {
            Trigger::After(life) => write!(f, "at {} {how}", Time(*life))?,
            Trigger::Byte(at) => write!(f, "at byte {at} {dir} {how}")?,
            Trigger::Frame { nth, kind, place } => {
                write!(f, "at frame {nth}{} {dir} {how}", FrameWords(*kind, *place))?
            }
        }
        match (how, trigger) {
            (How::FlipBit, Trigger::After(_)) => write!(f, " bit {bit} {dir}"),
            (How::FlipBit, _) => write!(f, " bit {bit}"),
            (How::Cut(_), _) | (_, Trigger::Byte(_) | Trigger::Frame { .. }) => Ok(()),
            (_, Trigger::After(_)) => write!(f, " {dir}"),
        }
    }
}

/// The command line that starts this proxy; what is not said is the default.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            listen,
            upstream,
            seed,
            plan,
            up,
            down,
        } = self;
        write!(
            f,
            "farpipe-faultproxy --listen {listen} --to {upstream} --seed {seed}{}",
            PlanFlags(plan)
        )?;
        write!(
            f,
            "{}{}",
            ShapeFlags(Dir::Up, up),
            ShapeFlags(Dir::Down, down)
        )
    }
}

struct PlanFlags<'a>(&'a Plan);

impl fmt::Display for PlanFlags<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan {
            faults,
            arm,
            framing,
            connections,
            refuse_first,
            reset_first,
            refuse_for,
            hold,
            cut_idle,
        } = self.0;
        let default = Plan::default();
        for fault in faults {
            write!(f, " --fault {fault}")?;
        }
        match arm {
            Arm::All => {}
            Arm::One => f.write_str(" --arm one")?,
        }
        match framing {
            Framing::Auto => {}
            Framing::Ws => f.write_str(" --framing ws")?,
            Framing::Fp => f.write_str(" --framing fp")?,
        }
        match (*connections.start(), *connections.end()) {
            (0, u64::MAX) => {}
            (from, u64::MAX) => write!(f, " --connections {from}..")?,
            (from, to) => write!(f, " --connections {}", Span(from, to))?,
        }
        for (flag, count) in [("refuse-first", refuse_first), ("reset-first", reset_first)] {
            if *count > 0 {
                write!(f, " --{flag} {count}")?;
            }
        }
        if *refuse_for != default.refuse_for {
            write!(f, " --refuse-for {}", Time(*refuse_for))?;
        }
        if *hold != default.hold {
            write!(f, " --hold {}", Time(*hold))?;
        }
        if let Some(cut_idle) = cut_idle {
            write!(f, " --cut-idle {}", Time(*cut_idle))?;
        }
        Ok(())
    }
}

struct ShapeFlags<'a>(Dir, &'a Shape);

impl fmt::Display for ShapeFlags<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(
            dir,
            Shape {
                throttle,
                delay,
                dribble,
                socket_buffer,
            },
        ) = self;
        if let Some(throttle) = throttle {
            write!(f, " --throttle {dir}={throttle}")?;
        }
        if let Some(delay) = delay {
            write!(f, " --delay {dir}={delay}")?;
        }
        if let Some(dribble) = dribble {
            write!(f, " --dribble {dir}={dribble}")?;
        }
        if let Some(size) = socket_buffer {
            write!(f, " --socket-buffer {dir}={size}")?;
        }
        Ok(())
    }
}
