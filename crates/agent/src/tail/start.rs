//! Where the last lines or bytes of a file begin, or its line or byte number so and so.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Bytes that are looked at in one go.
const BLOCK: usize = 64 * 1024;

/// Where reading begins in a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Before the last so many lines; one without an end counts.
    Last(u64),
    /// At the line of this number, from 1 on.
    Line(u64),
    /// Before the last so many bytes.
    LastBytes(u64),
    /// At the byte of this number, from 1 on.
    Byte(u64),
}

impl Start {
    /// The offset in a file of `size` bytes. Reads as much as that takes.
    pub(super) fn offset(self, file: &File, size: u64) -> io::Result<u64> {
        match self {
            Self::Last(0) => Ok(size),
            Self::Last(lines) => before_last(file, size, lines),
            Self::LastBytes(bytes) => Ok(size.saturating_sub(bytes)),
            Self::Byte(number) => Ok(size.min(number.saturating_sub(1))),
            Self::Line(number) => after(file, size, number.saturating_sub(1)),
        }
    }
}

/// Backwards, block by block, to the newline in front of the first of them.
fn before_last(file: &File, size: u64, lines: u64) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let mut end = size;
    let mut left = lines;
    while end > 0 {
        let len = block.len().min(usize::try_from(end).unwrap_or(BLOCK));
        let begin = end - len as u64;
        let Some(bytes) = read(file, &mut block[..len], begin)? else {
            // It has become shorter meanwhile.
            return Ok(0);
        };
        for (at, byte) in bytes.iter().enumerate().rev() {
            let after = begin + at as u64 + 1;
            // The last line's own end is not in front of any.
            if *byte == b'\n' && after < size {
                left -= 1;
                if left == 0 {
                    return Ok(after);
                }
            }
        }
        end = begin;
    }
    Ok(0)
}

/// Behind so many lines, or at the end if there are fewer.
fn after(file: &File, size: u64, lines: u64) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let mut begin = 0;
    let mut left = lines;
    while left > 0 && begin < size {
        let len = block
            .len()
            .min(usize::try_from(size - begin).unwrap_or(BLOCK));
        let Some(bytes) = read(file, &mut block[..len], begin)? else {
            return Ok(0);
        };
        for (at, byte) in bytes.iter().enumerate() {
            if *byte == b'\n' {
                left -= 1;
                if left == 0 {
                    return Ok(begin + at as u64 + 1);
                }
            }
        }
        begin += len as u64;
    }
    Ok(begin)
}

fn read<'a>(file: &File, block: &'a mut [u8], at: u64) -> io::Result<Option<&'a [u8]>> {
    match file.read_exact_at(block, at) {
        Ok(()) => Ok(Some(block)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn offset(content: &[u8], start: Start) -> u64 {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(content).expect("written");
        let size = content.len() as u64;
        start.offset(&file, size).expect("it can be read")
    }

    #[test]
    fn the_last_lines_begin_behind_a_newline() {
        for (content, lines, expected) in [
            ("", 3, 0),
            ("a\nb\nc\n", 1, 4),
            ("a\nb\nc\n", 2, 2),
            ("a\nb\nc\n", 3, 0),
            ("a\nb\nc\n", 9, 0),
            ("a\nb\nc", 1, 4),
            ("a\n\n", 1, 2),
            ("abc", 1, 0),
            ("a\n", 0, 2),
        ] {
            let got = offset(content.as_bytes(), Start::Last(lines));
            assert_eq!(got, expected, "{content:?} {lines}");
        }
    }

    #[test]
    fn a_line_is_found_by_its_number() {
        for (line, expected) in [(0, 0), (1, 0), (2, 2), (3, 4), (4, 6), (9, 6)] {
            let got = offset(b"a\nb\nc\n", Start::Line(line));
            assert_eq!(got, expected, "{line}");
        }
    }

    #[test]
    fn bytes_are_counted() {
        for (start, expected) in [
            (Start::LastBytes(0), 6),
            (Start::LastBytes(2), 4),
            (Start::LastBytes(9), 0),
            (Start::Byte(0), 0),
            (Start::Byte(1), 0),
            (Start::Byte(3), 2),
            (Start::Byte(9), 6),
        ] {
            assert_eq!(offset(b"a\nb\nc\n", start), expected, "{start:?}");
        }
    }

    #[test]
    fn blocks_have_no_seams() {
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        let content = line.repeat(300);
        for lines in [1, 64, 65, 66, 131, 200, 299] {
            let expected = content.len() as u64 - lines * 1000;
            assert_eq!(offset(&content, Start::Last(lines)), expected);
            assert_eq!(offset(&content, Start::Line(lines + 1)), lines * 1000);
        }
    }
}
