//! Small files of lines, whose last one is the CRC32C of those before.

const LAST: &str = "crc ";

/// The bytes of such a file.
pub(crate) fn to_bytes(lines: &str) -> Vec<u8> {
    let sum = crc32c::crc32c(lines.as_bytes());
    format!("{lines}{LAST}{sum:08x}\n").into_bytes()
}

/// Its lines; `None`: it is damaged.
pub(crate) fn lines(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (lines, last) = text.split_at(text.rfind(LAST)?);
    let sum = last.strip_prefix(LAST)?.strip_suffix('\n')?;
    let is_whole = u32::from_str_radix(sum, 16).ok()? == crc32c::crc32c(lines.as_bytes());
    is_whole.then_some(lines)
}
