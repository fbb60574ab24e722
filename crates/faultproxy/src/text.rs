//! Faults and configurations in words: what the command takes, and what a failure is replayed from.
//!
//! Every value prints as what parses into it again; a [`crate::Config`] prints as the command line
//! that starts it.

use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::plan::{Amount, Arm, Cut, Dir, Fault, Framing, How, Place, When};
use crate::shape::Delay;

/// A word that means nothing here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not {expected}")]
pub struct ParseError {
    given: String,
    expected: &'static str,
}

impl ParseError {
    fn new(given: &str, expected: &'static str) -> Self {
        Self {
            given: given.to_owned(),
            expected,
        }
    }
}

/// `250us`, `2ms`, `1.5s`, `2m`.
pub fn duration(text: &str) -> Result<Duration, ParseError> {
    let error = || ParseError::new(text, "a time such as 250us, 2ms, 1.5s or 2m");
    let unit_at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .ok_or_else(error)?;
    let (number, unit) = text.split_at(unit_at);
    let micros = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 6e7,
        _ => return Err(error()),
    };
    let number: f64 = number.parse().map_err(|_| error())?;
    let micros = (number * micros).round();
    // A century: beyond it clocks overflow, and a test has been given up.
    if !(0.0..3.2e15).contains(&micros) {
        return Err(error());
    }
    Ok(Duration::from_micros(micros as u64))
}

/// `1000`, `100k`, `1.5M`, `1G` (decimal), `64Ki`, `1Mi`, `1Gi` (binary).
pub fn size(text: &str) -> Result<u64, ParseError> {
    let error = || ParseError::new(text, "a number of bytes such as 1000, 100k, 1.5M or 64Ki");
    if let Ok(plain) = text.parse() {
        return Ok(plain);
    }
    let unit_at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .ok_or_else(error)?;
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit {
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(error()),
    };
    let number: f64 = number.parse().map_err(|_| error())?;
    let bytes = (number * factor).round();
    match (0.0..1e18).contains(&bytes) {
        true => Ok(bytes as u64),
        false => Err(error()),
    }
}

/// `A..B`, both included, or `A` alone.
pub fn range<T: Clone>(
    text: &str,
    value: impl Fn(&str) -> Result<T, ParseError>,
) -> Result<RangeInclusive<T>, ParseError> {
    match text.split_once("..") {
        Some((from, to)) => Ok(value(from)?..=value(to)?),
        None => value(text).map(|value| value.clone()..=value),
    }
}

/// `A..B` or `A`, or `A..` for all from A on.
pub fn connections(text: &str) -> Result<RangeInclusive<u64>, ParseError> {
    match text.strip_suffix("..") {
        Some(from) => Ok(count(from)?..=u64::MAX),
        None => range(text, count),
    }
}

/// `up`, `down` or `both`.
pub fn directions(text: &str) -> Result<&'static [Dir], ParseError> {
    match text {
        "up" => Ok(&[Dir::Up]),
        "down" => Ok(&[Dir::Down]),
        "both" => Ok(&[Dir::Up, Dir::Down]),
        _ => Err(ParseError::new(text, "up, down or both")),
    }
}

/// `20ms`, `20ms+5ms` with jitter, `20ms+5ms:1Mi` with a buffer of that size.
pub fn delay(text: &str) -> Result<Delay, ParseError> {
    let (times, buffer) = text
        .split_once(':')
        .map_or((text, None), |(times, buffer)| (times, Some(buffer)));
    let (fixed, jitter) = times.split_once('+').unwrap_or((times, "0us"));
    let mut delay = Delay::new(duration(fixed)?, duration(jitter)?);
    if let Some(buffer) = buffer {
        delay.buffer = non_zero(buffer)?.get();
    }
    Ok(delay)
}

/// A size that is not 0.
pub fn non_zero(text: &str) -> Result<NonZeroUsize, ParseError> {
    let size = usize::try_from(size(text)?)
        .ok()
        .and_then(NonZeroUsize::new);
    size.ok_or_else(|| ParseError::new(text, "a size of at least 1"))
}

/// Bytes a second.
pub fn rate(text: &str) -> Result<NonZeroU64, ParseError> {
    NonZeroU64::new(size(text)?)
        .ok_or_else(|| ParseError::new(text, "a rate of at least 1 byte a second"))
}

/// Manners, separated by commas: `reset`, `fin`, `stall`, `blackhole`, `half`, `mute`, `flip`,
/// `replay=N|frame`, `drop=N|frame`.
pub fn manners(text: &str) -> Result<Vec<How>, ParseError> {
    text.split(',').map(str::parse).collect()
}

fn count(text: &str) -> Result<u64, ParseError> {
    text.parse().map_err(|_| ParseError::new(text, "a count"))
}

impl FromStr for How {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || {
            let manners = "a manner: reset, fin, stall, blackhole, half, mute, flip, replay=N|frame or drop=N|frame";
            ParseError::new(text, manners)
        };
        if let Ok(cut) = text.parse() {
            return Ok(Self::Cut(cut));
        }
        let (name, amount) = text
            .split_once('=')
            .map_or((text, None), |(name, amount)| (name, Some(amount)));
        let amount = match amount {
            None => None,
            Some("frame") => Some(Amount::Frame),
            Some(bytes) => Some(Amount::Bytes(
                u32::try_from(size(bytes)?).map_err(|_| error())?,
            )),
        };
        match (name, amount) {
            ("half", None) => Ok(Self::HalfClose),
            ("mute", None) => Ok(Self::Mute),
            ("flip", None) => Ok(Self::FlipBit),
            ("replay", Some(amount)) => Ok(Self::Replay(amount)),
            ("drop", Some(amount)) => Ok(Self::Drop(amount)),
            _ => Err(error()),
        }
    }
}

impl FromStr for Cut {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "reset" => Ok(Self::Reset),
            "fin" => Ok(Self::Fin),
            "stall" => Ok(Self::Stall),
            "blackhole" => Ok(Self::BlackHole),
            _ => Err(ParseError::new(text, "reset, fin, stall or blackhole")),
        }
    }
}

/// `life:2ms..9ms`, `byte:up:1000..2000`, `frame:down:3:type=4:after` (`before`, `inside=N`,
/// `after`).
impl FromStr for When {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || {
            let times = "a time of a fault: life:2ms..9ms, byte:up:1000 or frame:down:3[:type=T][:before|:inside=N|:after]";
            ParseError::new(text, times)
        };
        let dir = |text: Option<&str>| match text {
            Some("up") => Ok(Dir::Up),
            Some("down") => Ok(Dir::Down),
            _ => Err(error()),
        };
        let mut words = text.split(':');
        let when = match words.next() {
            Some("life") => Self::Lifetime(range(words.next().ok_or_else(error)?, duration)?),
            Some("byte") => Self::Byte {
                dir: dir(words.next())?,
                at: range(words.next().ok_or_else(error)?, size)?,
            },
            Some("frame") => {
                let dir = dir(words.next())?;
                let nth = range(words.next().ok_or_else(error)?, count)?;
                let (mut kind, mut place) = (None, Place::Before);
                for word in words.by_ref() {
                    match word.split_once('=') {
                        Some(("type", value)) => kind = Some(byte(value)?),
                        Some(("inside", offset)) => {
                            place =
                                Place::Inside(u32::try_from(size(offset)?).map_err(|_| error())?);
                        }
                        None if word == "before" => place = Place::Before,
                        None if word == "after" => place = Place::After,
                        _ => return Err(error()),
                    }
                }
                Self::Frame {
                    dir,
                    nth,
                    kind,
                    place,
                }
            }
            _ => return Err(error()),
        };
        match words.next() {
            None => Ok(when),
            Some(_) => Err(error()),
        }
    }
}

/// A frame type: `4` or `0x04`.
fn byte(text: &str) -> Result<u8, ParseError> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u8::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| ParseError::new(text, "a frame type from 0 to 255 or 0xff"))
}

impl FromStr for Framing {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "auto" => Ok(Self::Auto),
            "ws" => Ok(Self::Ws),
            "fp" => Ok(Self::Fp),
            _ => Err(ParseError::new(text, "a framing: auto, ws or fp")),
        }
    }
}

impl FromStr for Arm {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "all" => Ok(Self::All),
            "one" => Ok(Self::One),
            _ => Err(ParseError::new(text, "all or one")),
        }
    }
}

/// `WHEN@HOW,HOW`; without manners a reset.
impl FromStr for Fault {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.split_once('@') {
            Some((when, how)) => Ok(Self {
                when: when.parse()?,
                how: manners(how)?,
            }),
            None => Ok(Self::new(text.parse()?, Cut::Reset)),
        }
    }
}

mod print;

#[cfg(test)]
mod tests;
