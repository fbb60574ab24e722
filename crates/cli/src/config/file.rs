//! A configuration file as it stands on the disk: keys, values, and where each of them is.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use marked_yaml::types::MarkedMappingNode;
use marked_yaml::{LoaderOptions, Node};

/// No honest configuration is longer.
const FILE_MAX: u64 = 1 << 20;

/// What is wrong with a file, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {what}")]
pub(crate) struct ConfigError {
    place: Place,
    what: String,
    /// What to write instead.
    pub(crate) hint: String,
}

/// A place in a file, as editors and compilers write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
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
    /// Line and column alone.
    pub(crate) fn in_file(&self) -> String {
        let (line, column) = self.at.unwrap_or((1, 1));
        format!("{line}:{column}")
    }

    pub(crate) fn error(&self, what: impl Into<String>, hint: impl Into<String>) -> ConfigError {
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
#[derive(Debug, Clone)]
pub(crate) struct Section {
    pub(crate) entries: Vec<Entry>,
}

/// A key and what stands behind it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The flag it stands for.
    pub(crate) key: String,
    /// As it is written in the file, for messages.
    pub(crate) written: String,
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// What stands behind a key.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(String),
    List(Vec<(String, Place)>),
    Section(Section),
}

/// Reads and parses a file.
pub(crate) fn read(path: &Path) -> Result<Section, ConfigError> {
    let file = Place {
        path: path.to_owned(),
        at: None,
    };
    let cannot = |error: std::io::Error| {
        file.error(
            format!("cannot be read: {error}"),
            "check the path given with --config or $FARPIPE_CONFIG",
        )
    };
    let opened = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    // A device or a FIFO does not say how much it has.
    let mut start = opened.take(FILE_MAX + 1);
    start.read_to_end(&mut bytes).map_err(cannot)?;
    if start.limit() == 0 {
        return Err(file.error("longer than 1 MiB", "this is no configuration file"));
    }
    let text = String::from_utf8(bytes).map_err(|error| not_utf8(&file, &error))?;
    // What some editors begin a file with. Between lines the parser takes CRLF as well.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    }) {
        return Ok(Section {
            entries: Vec::new(),
        });
    }
    let options = LoaderOptions::default().error_on_duplicate_keys(true);
    let node = marked_yaml::parse_yaml_with_options(0, text, options)
        .map_err(|error| malformed(&file, &error))?;
    match node {
        Node::Mapping(mapping) => section(&file, &mapping),
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

fn section(file: &Place, mapping: &MarkedMappingNode) -> Result<Section, ConfigError> {
    let mut entries = Vec::new();
    for (key, node) in mapping.iter() {
        let value = match node {
            Node::Scalar(text) => Value::Text(text.as_str().to_owned()),
            Node::Mapping(inner) => Value::Section(section(file, inner)?),
            Node::Sequence(items) => {
                let mut list = Vec::new();
                for item in items.iter() {
                    let place = file.of(item.span().start());
                    let Node::Scalar(text) = item else {
                        return Err(place.error(
                            format!("'{}' is a list of plain values", key.as_str()),
                            "write one value in each item",
                        ));
                    };
                    list.push((text.as_str().to_owned(), place));
                }
                Value::List(list)
            }
        };
        entries.push(Entry {
            key: key.as_str().to_owned(),
            written: key.as_str().to_owned(),
            place: file.of(key.span().start()),
            value,
        });
    }
    Ok(Section { entries })
}
