//! Patterns of paths.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use super::glob::{Pattern, fits, is_wild, one_fits};

/// A path up to the first zero byte, then a name: a path without a pattern is itself, and a name fits its
/// last part when a matcher says so that tries everything.
pub fn path_pattern(data: &[u8]) {
    let (path, name) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b"app.log"[..]),
    };
    if let Some(pattern) = Pattern::parse(Path::new(OsStr::from_bytes(path)))
        && let Some(literal) = pattern.literal()
    {
        assert!(literal.is_absolute());
        let is_odd = |part: Component<'_>| matches!(part, Component::ParentDir | Component::CurDir);
        // Escaped dots are names.
        assert!(path.contains(&b'\\') || !literal.components().any(is_odd));
    }
    let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if !last.is_empty() && !name.contains(&b'/') && last.len() < 200 && name.len() < 200 {
        let hidden = name.first() == Some(&b'.') && last.first() != Some(&b'.');
        let expected = !hidden && tries_everything(last, name);
        assert_eq!(fits(last, name), expected, "{last:?} {name:?}");
        if !is_wild(last) && !last.contains(&b'\\') {
            assert_eq!(expected, last == name);
        }
    }
}

/// Row by row: whether what is behind `name[i..]` fits what is behind `pattern[j..]`.
fn tries_everything(pattern: &[u8], name: &[u8]) -> bool {
    let mut fits = vec![vec![false; pattern.len() + 1]; name.len() + 1];
    for i in (0..=name.len()).rev() {
        for j in (0..=pattern.len()).rev() {
            fits[i][j] = match (pattern.get(j), name.get(i)) {
                (None, None) => true,
                (None, Some(_)) => false,
                (Some(b'*'), byte) => fits[i][j + 1] || byte.is_some() && fits[i + 1][j],
                (Some(_), None) => false,
                (Some(_), Some(byte)) => {
                    one_fits(&pattern[j..], *byte).is_some_and(|len| fits[i + 1][j + len])
                }
            };
        }
    }
    fits[0][0]
}
