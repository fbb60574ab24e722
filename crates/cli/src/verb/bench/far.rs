//! `farpipe bench far`: the other end of `farpipe bench link`, between stdin and stdout.
//!
//! It begins as an echo, byte for byte, and stays one unless what comes first is a request for one
//! direction alone: `farpipe-bench-far up SIZE` or `down SIZE` and a line feed. Such a request is
//! answered with `ok`, the bytes go in that direction, and after those that went up there is an `ok`
//! more: they have been read. A `cat` in its place sends the request back, which tells it apart.

use std::fmt;
use std::io::{self, Read, Write};

use super::pattern;

/// What a request begins with; no echo does.
const BEGIN: &str = "farpipe-bench-far ";
/// What a request is answered with.
pub(super) const OK: &[u8] = b"ok\n";
/// Longer is no request.
const REQUEST_MAX: usize = 64;
/// Bytes a call moves.
const BLOCK: usize = 256 << 10;

/// Answer `farpipe bench link` at the other end: an echo, and each direction alone
///
/// For `farpipe listen --keep URL 'exec:farpipe bench far'`. Reads stdin and writes stdout.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// The direction that is measured, as the near end sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// A request for `size` bytes in one direction.
pub(super) fn request(way: Way, size: u64) -> String {
    format!("{BEGIN}{way} {size}\n")
}

pub(super) fn run() -> anyhow::Result<u8> {
    serve(&mut io::stdin().lock(), &mut io::stdout().lock())?;
    Ok(0)
}

fn serve(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let mut begun = Vec::new();
    let mut byte = [0];
    // A request comes once: byte by byte takes nothing of what follows.
    while begun.len() < REQUEST_MAX && !begun.ends_with(b"\n") {
        if input.read(&mut byte)? == 0 {
            break;
        }
        begun.push(byte[0]);
        let len = begun.len().min(BEGIN.len());
        if begun[..len] != BEGIN.as_bytes()[..len] {
            break;
        }
    }
    let mut block = pattern(BLOCK);
    match asked(&begun) {
        Some((Way::Up, size)) => {
            say(output, OK)?;
            let mut left = size;
            while left > 0 {
                let read = input.read(&mut block)?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                left = left.saturating_sub(read as u64);
            }
            say(output, OK)
        }
        Some((Way::Down, size)) => {
            say(output, OK)?;
            let mut left = size;
            while left > 0 {
                let now = left.min(BLOCK as u64);
                output.write_all(&block[..usize::try_from(now).unwrap_or(BLOCK)])?;
                left -= now;
            }
            output.flush()
        }
        None => {
            say(output, &begun)?;
            loop {
                match input.read(&mut block)? {
                    0 => return Ok(()),
                    read => say(output, &block[..read])?,
                }
            }
        }
    }
}

fn say(output: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    output.write_all(bytes)?;
    output.flush()
}

fn asked(line: &[u8]) -> Option<(Way, u64)> {
    let line = str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (way, size) = line.strip_prefix(BEGIN)?.split_once(' ')?;
    let way = match way {
        "up" => Way::Up,
        "down" => Way::Down,
        _ => return None,
    };
    Some((way, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(input: &[u8]) -> Vec<u8> {
        let mut output = Vec::new();
        serve(&mut &input[..], &mut output).expect("memory");
        output
    }

    #[test]
    fn what_is_no_request_comes_back() {
        for text in [
            "",
            "x",
            "farpipe",
            "farpipe-bench-far sideways 1\nx",
            "\n\n",
        ] {
            assert_eq!(served(text.as_bytes()), text.as_bytes());
        }
    }

    #[test]
    fn one_direction_alone() {
        let up = [request(Way::Up, 300_000).into_bytes(), pattern(300_000)].concat();
        assert_eq!(served(&up), b"ok\nok\n");
        let down = served(request(Way::Down, 300_000).as_bytes());
        assert_eq!(down.len(), OK.len() + 300_000);
    }
}
