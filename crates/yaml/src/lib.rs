//! A YAML file as it stands on the disk: keys, values, and where each of them is.
//!
//! What the keys mean is the reader's business: settings of the command, a policy, tokens. Errors name
//! file, line and column as compilers do. Scalars stay text; anchors and tags are not supported. At
//! most 1 MiB, nested at most 32 deep.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use marked_yaml::types::{MarkedMappingNode, MarkedScalarNode};
use marked_yaml::{LoaderOptions, Node};

/// No honest configuration is longer.
const FILE_MAX: u64 = 1 << 20;
/// Nor nested deeper.
const DEPTH_MAX: usize = 32;

/// What is wrong with a file, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {what}")]
pub struct ConfigError {
    place: Place,
    what: String,
    /// What to write instead.
    pub hint: String,
}

/// A place in a file, as editors and compilers write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    /// Line and column, from 1; none for the file itself.
    at: Option<(usize, usize)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match self.at {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

impl Place {
    /// A file as a whole.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            at: None,
        }
    }

    /// Line and column alone.
    #[must_use]
    pub fn in_file(&self) -> String {
        let (line, column) = self.at.unwrap_or((1, 1));
        format!("{line}:{column}")
    }

    /// What is wrong here, and what to write instead.
    #[must_use]
    pub fn error(&self, what: impl Into<String>, hint: impl Into<String>) -> ConfigError {
        ConfigError {
            place: self.clone(),
            what: what.into(),
            hint: hint.into(),
        }
    }

    fn of(&self, marker: Option<&marked_yaml::Marker>) -> Self {
        Self {
            path: self.path.clone(),
            at: marker.map(|marker| (marker.line(), marker.column())),
        }
    }
}

/// A mapping.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// In the order of the file.
    pub entries: Vec<Entry>,
}

/// A key and what stands behind it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name that counts; a reader may put another in its place.
    pub key: String,
    /// As it is written in the file, for messages.
    pub written: String,
    /// Where the key is.
    pub place: Place,
    /// What stands behind it.
    pub value: Value,
}

/// What stands behind a key, or at a place of a list.
#[derive(Debug, Clone)]
pub enum Value {
    /// A scalar, as text.
    Text(String),
    /// A sequence.
    List(Vec<Item>),
    /// A mapping.
    Section(Section),
}

/// A member of a list.
#[derive(Debug, Clone)]
pub struct Item {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

/// The bytes of a file.
///
/// # Errors
/// [`ConfigError`] when it cannot be read or is too long; `hint` says what to do about a file that
/// cannot be read.
pub fn read(path: &Path, hint: &str) -> Result<Vec<u8>, ConfigError> {
    let file = Place::file(path);
    let cannot = |error: std::io::Error| file.error(format!("cannot be read: {error}"), hint);
    let opened = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    // A device or a FIFO does not say how much it has.
    let mut start = opened.take(FILE_MAX + 1);
    start.read_to_end(&mut bytes).map_err(cannot)?;
    if start.limit() == 0 {
        return Err(file.error("longer than 1 MiB", "this is no configuration file"));
    }
    Ok(bytes)
}

/// Parses what was read from `path`. A file without keys is an empty section.
///
/// # Errors
/// [`ConfigError`].
pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Section, ConfigError> {
    let file = Place::file(path);
    let text = String::from_utf8(bytes).map_err(|error| not_utf8(&file, &error))?;
    // What some editors begin a file with. Between lines the parser takes CRLF as well.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    }) {
        return Ok(Section::default());
    }
    let options = LoaderOptions::default().error_on_duplicate_keys(true);
    let node = marked_yaml::parse_yaml_with_options(0, text, options)
        .map_err(|error| malformed(&file, &error))?;
    let source = Source {
        file: &file,
        lines: text.lines().collect(),
    };
    match node {
        Node::Mapping(mapping) => source.section(&mapping, 0),
        Node::Scalar(_) | Node::Sequence(_) => Err(file.error(
            "not a list of settings",
            "write KEY: VALUE lines, for example `resume_for: 10m`",
        )),
    }
}

fn not_utf8(file: &Place, error: &std::string::FromUtf8Error) -> ConfigError {
    let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let good = String::from_utf8_lossy(good);
    let (line, rest) = good.split('\n').enumerate().last().unwrap_or_default();
    let place = Place {
        at: Some((line + 1, rest.chars().count() + 1)),
        ..file.clone()
    };
    place.error(
        "not UTF-8",
        "save the file as UTF-8, not as UTF-16 or Latin-1",
    )
}

fn malformed(file: &Place, error: &marked_yaml::LoadError) -> ConfigError {
    use marked_yaml::LoadError as E;
    let hint = "see https://yaml.org; write KEY: VALUE, and indent with spaces";
    let (marker, what) = match error {
        E::TopLevelMustBeMapping(marker) | E::TopLevelMustBeSequence(marker) => {
            (Some(marker), "not a list of settings".to_owned())
        }
        E::UnexpectedAnchor(marker) => (Some(marker), "anchors are not supported".to_owned()),
        E::MappingKeyMustBeScalar(marker) => (Some(marker), "a key must be a word".to_owned()),
        E::UnexpectedTag(marker) => (Some(marker), "tags are not supported".to_owned()),
        E::ScanError(marker, error) => (Some(marker), format!("no valid YAML: {}", error.info())),
        E::DuplicateKey(duplicate) => (
            duplicate.key.span().start(),
            format!("'{}' is there twice", duplicate.key.as_str()),
        ),
    };
    file.of(marker).error(what, hint)
}

/// A text, and whose it is.
struct Source<'a> {
    file: &'a Place,
    lines: Vec<&'a str>,
}

impl Source<'_> {
    fn section(&self, mapping: &MarkedMappingNode, depth: usize) -> Result<Section, ConfigError> {
        let entry = |(key, node): (&MarkedScalarNode, &Node)| {
            Ok(Entry {
                key: key.as_str().to_owned(),
                written: key.as_str().to_owned(),
                place: self.file.of(key.span().start()),
                value: self.value(node, depth)?,
            })
        };
        let entries = mapping.iter().map(entry).collect::<Result<_, _>>()?;
        Ok(Section { entries })
    }

    fn value(&self, node: &Node, depth: usize) -> Result<Value, ConfigError> {
        if depth > DEPTH_MAX {
            let place = self.file.of(begin(node));
            return Err(place.error("nested too deep", "this is no configuration file"));
        }
        Ok(match node {
            Node::Scalar(scalar) => {
                self.check_one_line(scalar)?;
                Value::Text(scalar.as_str().to_owned())
            }
            Node::Mapping(inner) => Value::Section(self.section(inner, depth + 1)?),
            Node::Sequence(items) => {
                let item = |node: &Node| {
                    Ok(Item {
                        place: self.file.of(begin(node)),
                        value: self.value(node, depth + 1)?,
                    })
                };
                Value::List(items.iter().map(item).collect::<Result<_, _>>()?)
            }
        })
    }

    /// Cut off between its lines, a value without quotes is another valid one, and of a path a wider one. Within
    /// quotes it is none.
    fn check_one_line(&self, scalar: &MarkedScalarNode) -> Result<(), ConfigError> {
        let place = self.file.of(scalar.span().start());
        let Some((line, column)) = place.at else {
            return Ok(());
        };
        let line = self.lines.get(line.saturating_sub(1)).unwrap_or(&"");
        let skipped = line.char_indices().nth(column.saturating_sub(1));
        let written = skipped.map_or("", |(at, _)| &line[at..]);
        if written.starts_with(['"', '\'']) || written.starts_with(scalar.as_str()) {
            return Ok(());
        }
        Err(place.error(
            "a value over several lines",
            "put it into one line, or into quotes",
        ))
    }
}

/// The parser says of a mapping where the first key ends.
fn begin(node: &Node) -> Option<&marked_yaml::Marker> {
    let first = node.as_mapping().and_then(|mapping| mapping.keys().next());
    first.map_or_else(|| node.span().start(), |key| key.span().start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_place() {
        let text = b"a: 1\nrules:\n  - who: x\n    read: [/b, /c]\n".to_vec();
        let root = parse(Path::new("f"), text).expect("good");
        let Value::List(rules) = &root.entries[1].value else {
            panic!("a list")
        };
        assert_eq!(rules[0].place.to_string(), "f:3:5");
        let Value::Section(rule) = &rules[0].value else {
            panic!("a section")
        };
        let Value::List(roots) = &rule.entries[1].value else {
            panic!("a list")
        };
        assert_eq!(roots[1].place.to_string(), "f:4:16");
    }

    #[test]
    fn what_is_nested_without_end_is_an_error() {
        for depth in [40, 1000, 100_000] {
            for open in ["[", "{a: "] {
                let text = format!("a: {}", open.repeat(depth)).into_bytes();
                assert!(parse(Path::new("f"), text).is_err(), "{depth} {open}");
            }
        }
        let text = format!("a: {}{}\n", "[".repeat(40), "]".repeat(40));
        let error = parse(Path::new("f"), text.into_bytes()).expect_err("deep");
        assert!(error.to_string().contains("nested too deep"), "{error}");
    }

    #[test]
    fn a_value_is_in_one_line_unless_quotes_say_where_it_ends() {
        for whole in [
            "a: b c\n",
            "a:\n  - /x\n  - ä b  # note\n",
            "a: 'b\n  c'\n",
            "ä: [b, \"c\", '']\n",
            "a:\nb: ~\n",
            "a: 'it''s'\n",
            "a: b\r\nc: d\r\n",
        ] {
            let parsed = parse(Path::new("f"), whole.into());
            assert!(parsed.is_ok(), "{whole:?}: {parsed:?}");
        }
        for (folded, at) in [
            ("a:\n  - /\n    srv\n", "f:2:5"),
            ("a: /\n  srv\n", "f:1:4"),
            ("ä: {b: /\n   srv}\n", "f:1:8"),
            ("a: >\n  /\n  srv\n", "f:2:3"),
            ("a: |\n  /\n  srv\n", "f:2:3"),
        ] {
            let error = parse(Path::new("f"), folded.into()).expect_err("over several lines");
            assert!(error.to_string().starts_with(at), "{folded:?}: {error}");
        }
    }
}
