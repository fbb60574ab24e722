//! `[HOST:]PATH`, and what it is here.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use farpipe_agent::beneath::Place;
use farpipe_agent::copy::{Base, Source, name_of};
use farpipe_agent::endpoint::is_kind;
use farpipe_agent::policy;
use farpipe_agent::shown::{quoted, shown};

use crate::exit::WithStatus;
use crate::verb::far::Word;
use crate::verb::route::RouteArgs;

/// A source or a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    /// `None`: here.
    pub(super) host: Option<String>,
    pub(super) path: OsString,
}

impl Spot {
    pub(super) fn of(text: &OsStr, route: &RouteArgs) -> anyhow::Result<Self> {
        let Word { host, rest: path } = Word::of(text);
        let (quoted, shown) = (quoted(text.as_bytes()), shown(text.as_bytes()));
        match &host {
            Some(host) if !host.contains("://") && !route.has_relay() => Err(WithStatus::usage(
                format!("{quoted} names a host {host}, and no relay was named that may know it"),
                format!("give --relay wss://HOST:PORT; for a file of that name write ./{shown}"),
            )),
            // What stands in front is a kind of endpoint, or could be no name.
            None if has_host_like(text) => Err(WithStatus::usage(
                format!("{quoted} begins with what is no host"),
                format!(
                    "for a file of that name write ./{shown}; a URL stands in brackets: \
                     [wss://HOST:PORT]:PATH"
                ),
            )),
            None if path.is_empty() => Err(WithStatus::usage(
                "a path is empty",
                "`.` is the current directory",
            )),
            Some(_) | None => Ok(Self { host, path }),
        }
    }
}

/// Whether a word looks as if a host was meant.
fn has_host_like(text: &OsStr) -> bool {
    let bytes = text.as_bytes();
    let front = bytes.split(|byte| *byte == b'/').next().unwrap_or_default();
    let Some(colon) = front.iter().position(|byte| *byte == b':') else {
        return false;
    };
    let word = String::from_utf8_lossy(&front[..colon]);
    is_kind(&word) || matches!(&*word, "ws" | "wss" | "fp" | "fps")
}

/// The last component of a path, in quotes, for people.
pub(super) fn last(path: &OsStr) -> String {
    let name = name_of(path).unwrap_or_default();
    quoted(&name)
}

pub(super) fn bytes(path: &OsString) -> Vec<u8> {
    path.as_bytes().to_vec()
}

/// Where a path leads here, all links followed.
fn place(path: &OsStr) -> io::Result<Place> {
    let path: PathBuf = std::env::current_dir()?.join(Path::new(path));
    let resolved = policy::target(&path)?;
    let place = Place::beneath(Path::new("/"), &resolved);
    place.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Whether a target here lies in a source here, or is it: such a copy would have no end.
pub(super) async fn is_within(target: OsString, source: OsString) -> bool {
    let look = move || {
        let (target, source) = (place(&target).ok()?, place(&source).ok()?.path());
        Some(source.is_dir() && target.path().starts_with(source))
    };
    let looked = tokio::task::spawn_blocking(look).await;
    looked.ok().flatten().unwrap_or(false)
}

/// Whether a source here is what it would be copied to.
pub(super) async fn is_same(target: OsString, source: OsString) -> bool {
    let look = move || {
        let target = PathBuf::from(target);
        let target = match (target.is_dir(), name_of(&source)) {
            (true, Some(name)) => target.join(OsStr::from_bytes(&name)),
            // What is in it is meant.
            (true, None) => return None,
            (false, _) => target,
        };
        let (target, source) = (target.metadata().ok()?, Path::new(&source).metadata().ok()?);
        Some((target.dev(), target.ino()) == (source.dev(), source.ino()))
    };
    let looked = tokio::task::spawn_blocking(look).await;
    looked.ok().flatten().unwrap_or(false)
}

/// Whether a source is written as its target is, or as what it would be called in there, at a host whose files are
/// not seen from here.
pub(super) fn reads_the_same(target: &OsStr, source: &OsStr) -> bool {
    let Some(name) = name_of(source) else {
        return false;
    };
    let (target, source) = (plain(target), plain(source));
    target == source || target.join(OsStr::from_bytes(&name)) == source
}

/// Sources that have what a shell would expand in them, for people.
pub(super) fn patterns(sources: &[OsString]) -> impl Iterator<Item = String> {
    let sources = sources.iter().map(|source| source.as_bytes());
    let is_pattern = |source: &&[u8]| source.iter().any(|byte| b"*?[".contains(byte));
    sources.filter(is_pattern).map(shown)
}

/// Whether a path is written as one below another, at a host whose files are not seen from here.
pub(super) fn lies_below(target: &OsStr, source: &OsStr) -> bool {
    let (target, source) = (plain(target), plain(source));
    target != source && target.starts_with(source)
}

/// A path without what only its spelling has.
fn plain(path: &OsStr) -> PathBuf {
    let mut names = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(names.last(), Some(Component::Normal(_))) => {
                names.pop();
            }
            part => names.push(part),
        }
    }
    names.iter().map(|part| part.as_os_str()).collect()
}

/// Opens sources of this host; those that cannot be had say so in their turn.
pub(super) async fn sources(paths: Vec<OsString>) -> Vec<Source> {
    let open = move || {
        let open = |path: OsString| {
            let opened = place(&path).and_then(|place| Source::open(place, &path));
            opened.unwrap_or_else(|error| Source::missing(&path, error))
        };
        paths.into_iter().map(open).collect()
    };
    tokio::task::spawn_blocking(open).await.unwrap_or_default()
}

/// Opens the target here.
pub(super) async fn base(
    path: OsString,
    several: bool,
    names: Vec<Option<Vec<u8>>>,
) -> anyhow::Result<Base> {
    let shown = shown(path.as_bytes());
    let open = move || Base::open(&place(&path)?, &path, several, &names);
    let opened = tokio::task::spawn_blocking(open).await?;
    opened.map_err(|error| WithStatus::failure(format!("cannot copy to {shown}: {error}"), None))
}
