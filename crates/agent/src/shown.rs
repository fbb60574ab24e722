//! Names and paths as people read them: a name is bytes, and what moves a cursor, hides or reorders what
//! stands beside it is not printed as it is. Such a name is shown as ls(1) shows it and as a shell reads
//! it again, `$'a\nb'`; all others stand as they are. So no two names look the same.

use std::fmt::Write as _;

/// What is shown of a longer one: the longest path that systems take.
const LEN_MAX: usize = 4096;

/// A name or a path: as it is, or as `$'…'` if something in it cannot be printed.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let short = &bytes[..bytes.len().min(LEN_MAX)];
    plain(short).map_or_else(|| escaped(short), str::to_owned)
}

/// The same within a sentence: in quotes in any case.
#[must_use]
pub fn quoted(bytes: &[u8]) -> String {
    let short = &bytes[..bytes.len().min(LEN_MAX)];
    plain(short).map_or_else(|| escaped(short), |text| format!("'{text}'"))
}

/// What can be printed as it is, and does not look as if it could not.
fn plain(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.starts_with("$'") && text.chars().all(is_printable)).then_some(text)
}

fn escaped(bytes: &[u8]) -> String {
    let mut shown = "$'".to_owned();
    let octal = |shown: &mut String, bytes: &[u8]| {
        for byte in bytes {
            write!(shown, "\\{byte:03o}").expect("a String has room");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => shown.push_str("\\n"),
                '\r' => shown.push_str("\\r"),
                '\t' => shown.push_str("\\t"),
                '\\' | '\'' => shown.extend(['\\', c]),
                c if is_printable(c) => shown.push(c),
                c => octal(&mut shown, c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        octal(&mut shown, chunk.invalid());
    }
    shown.push('\'');
    shown
}

/// Neither a control character nor one that turns the direction of a line, or cannot be seen.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // Behind another one, because accents stand behind letters.
    format!("a{c}").escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn f1_what_is_shown_moves_no_cursor() {
        for (name, expected) in [
            (&b"/var/log/app.log"[..], "/var/log/app.log"),
            (b"it's a \"name\" \\ of mine", "it's a \"name\" \\ of mine"),
            ("e\u{301}t\u{e9}".as_bytes(), "e\u{301}t\u{e9}"),
            (b"a\nb\x1b[2J\xff'", r"$'a\nb\033[2J\377\''"),
            ("a\u{202e}b".as_bytes(), r"$'a\342\200\256b'"),
            (b"$'a'", r"$'$\'a\''"),
            (b"", ""),
        ] {
            assert_eq!(shown(name), expected);
        }
        assert_eq!(quoted(b"a b"), "'a b'");
        assert_eq!(quoted(b"a\tb"), r"$'a\tb'");
    }

    /// Whether there is a shell that knows the notation: not every sh(1) does.
    fn bash(line: &str) -> Option<Vec<u8>> {
        let run = Command::new("bash").args(["-c", line]).output().ok()?;
        run.status.success().then_some(run.stdout)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_shell_reads_what_is_shown(name in prop::collection::vec(1_u8.., 1..60)) {
            let shown = shown(&name);
            prop_assert!(shown.chars().all(is_printable), "{shown}");
            let word = match shown.strip_prefix("$'") {
                Some(_) => shown,
                None => {
                    prop_assert_eq!(OsStr::new(&shown).as_bytes(), &name[..]);
                    return Ok(());
                }
            };
            if let Some(read) = bash(&format!("printf %s {word}")) {
                prop_assert_eq!(read, name);
            }
        }
    }
}
