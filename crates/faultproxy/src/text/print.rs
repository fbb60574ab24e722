//! The other way round: values into words.

use super::*;

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
            Self::Lifetime(range) => write!(f, "life:{}", Span(Text(range.start()), Text(range.end()))),
            Self::Byte { dir, at } => write!(f, "byte:{dir}:{}", Span(at.start(), at.end())),
            Self::Frame { dir, nth, kind, place } => {
                write!(f, "frame:{dir}:{}{}", Span(nth.start(), nth.end()), FrameWords(*kind, *place))
            }
        }
    }
}

/// A time that compares as it prints.
struct Text<'a>(&'a Duration);

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Time(*self.0).fmt(f)
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
