//! A policy as a YAML file.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use farpipe_yaml::{ConfigError, Entry, Item, Place, Section, Value};

use super::command::CommandPattern;
use super::environment::Environment;
use super::grant::{Grant, Topics};
use super::resolve;
use super::who::Who;
use super::{Origin, Policy, Rule};

const KEYS: &str = "trust_relay, rules";
const RULE_KEYS: &str =
    "who, exec, shell, read, write, connect, listen, publish, subscribe, env, cwd";

/// Why a file is no policy. Both say file, line, column and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is not there, cannot be read, or somebody else may have written it: nothing is allowed.
    #[error(transparent)]
    Unreadable(ConfigError),
    /// What is in it is wrong; a version before may have been right.
    #[error(transparent)]
    Malformed(ConfigError),
}

impl LoadError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Self::Unreadable(error) | Self::Malformed(error) => &error.hint,
        }
    }
}

/// Where an agent's policy is unless it says otherwise: `/etc/farpipe/policy.yaml` for root,
/// `$XDG_CONFIG_HOME/farpipe/policy.yaml` or `~/.config/farpipe/policy.yaml` for others.
#[must_use]
pub fn default_path() -> PathBuf {
    farpipe_net::settings_dir().join("policy.yaml")
}

impl Policy {
    /// Reads a policy. A file that says nothing allows nothing. Blocks on the disk for a moment.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let hint = "`farpipe policy check FILE` looks at one";
        let bytes = farpipe_yaml::read(path, hint).map_err(LoadError::Unreadable)?;
        only_ours(path).map_err(LoadError::Unreadable)?;
        Self::parse(path, bytes).map_err(LoadError::Malformed)
    }

    /// Parses what was read from `path`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, ConfigError> {
        // Half of `- /srv/data` is `- /`.
        if bytes.last().is_some_and(|last| *last != b'\n') {
            return Err(Place::file(path).error(
                "the last line has no end: is the file still being written?",
                "end it with a newline",
            ));
        }
        let mut policy = Self::default();
        for entry in farpipe_yaml::parse(path, bytes)?.entries {
            match (entry.key.as_str(), &entry.value) {
                ("trust_relay", value) => policy.trust_relay = switch(&entry, value)?,
                ("rules", Value::List(items)) => {
                    for item in items {
                        policy.rules.push(rule(item)?);
                    }
                }
                ("rules", _) => {
                    let hint = "rules:\n  - who: anyone\n    read: /srv/public";
                    return Err(entry.place.error("'rules' is a list", hint));
                }
                _ => return Err(unknown(&entry, KEYS)),
            }
        }
        Ok(policy)
    }
}

/// Whoever may write to the file decides who may run commands.
fn only_ours(path: &Path) -> Result<(), ConfigError> {
    let place = Place::file(path);
    let meta = fs::metadata(path)
        .map_err(|error| place.error(format!("cannot be read: {error}"), "try again"))?;
    let mode = meta.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(place.error(
            format!("others may write to this policy (mode {mode:04o})"),
            format!("chmod go-w {}", path.display()),
        ));
    }
    let user = rustix::process::geteuid().as_raw();
    if meta.uid() != user && meta.uid() != 0 {
        return Err(place.error(
            "this policy belongs to another user",
            format!("chown it to user {user}, or to root"),
        ));
    }
    Ok(())
}

fn rule(item: &Item) -> Result<Rule, ConfigError> {
    let Value::Section(Section { entries }) = &item.value else {
        let hint = "- who: anyone\n    read: /srv/public";
        return Err(item.place.error("a rule has keys", hint));
    };
    let mut rule = Rule {
        who: Vec::new(),
        grants: Vec::new(),
        environment: Environment::default(),
        directories: Vec::new(),
    };
    for entry in entries {
        read(&mut rule, entry)?;
    }
    if rule.who.is_empty() {
        let hint = "who: farpipe://DOMAIN/client/NAME, farpipe://DOMAIN/client/*, self or anyone";
        return Err(item
            .place
            .error("the rule does not say who it is for", hint));
    }
    Ok(rule)
}

fn read(rule: &mut Rule, entry: &Entry) -> Result<(), ConfigError> {
    let mut grant = |parse: &dyn Fn(&str) -> Result<Grant, String>| {
        for (text, place) in texts(entry)? {
            let grant = parse(text).map_err(|why| wrong(entry, text, place, &why))?;
            rule.grants.push((grant, Origin::File(place.clone())));
        }
        Ok(())
    };
    match entry.key.as_str() {
        "exec" => grant(&|text| match text {
            "any" => Ok(Grant::AnyProgram),
            _ => Ok(Grant::Program(CommandPattern::parse(text)?)),
        }),
        "read" => grant(&|text| Ok(Grant::Read(root(text)?))),
        "write" => grant(&|text| Ok(Grant::Write(root(text)?))),
        "connect" => grant(&|text| Grant::parse_connect(text)),
        "listen" => grant(&|text| Grant::parse_listen(text)),
        "publish" => grant(&|text| Ok(Grant::Publish(Topics::parse(text)?))),
        "subscribe" => grant(&|text| Ok(Grant::Subscribe(Topics::parse(text)?))),
        "shell" => {
            if switch(entry, &entry.value)? {
                let origin = Origin::File(entry.place.clone());
                rule.grants.push((Grant::Shell, origin));
            }
            Ok(())
        }
        "who" => {
            for (text, place) in texts(entry)? {
                let who = text.parse::<Who>();
                let why = |error: farpipe_proto::identity::IdentityError| error.to_string();
                rule.who
                    .push(who.map_err(|error| wrong(entry, text, place, &why(error)))?);
            }
            Ok(())
        }
        "env" => {
            for (text, place) in texts(entry)? {
                let listed = rule.environment.list(text);
                listed.map_err(|why| wrong(entry, text, place, why))?;
            }
            Ok(())
        }
        "cwd" => {
            for (text, place) in texts(entry)? {
                let dir = root(text).map_err(|why| wrong(entry, text, place, why))?;
                rule.directories.push(dir);
            }
            Ok(())
        }
        _ => Err(unknown(entry, RULE_KEYS)),
    }
}

fn root(text: &str) -> Result<PathBuf, &'static str> {
    let dir = Path::new(text);
    if !resolve::is_plain(dir) {
        return Err("a directory is an absolute path without ..");
    }
    Ok(resolve::root(dir))
}

/// One value, or a list of them.
fn texts(entry: &Entry) -> Result<Vec<(&str, &Place)>, ConfigError> {
    let plain = |value: &'_ Value| matches!(value, Value::Text(text) if !text.is_empty());
    match &entry.value {
        Value::Text(text) if plain(&entry.value) => Ok(vec![(text.as_str(), &entry.place)]),
        Value::List(items) => items
            .iter()
            .map(|item| match &item.value {
                Value::Text(text) if plain(&item.value) => Ok((text.as_str(), &item.place)),
                Value::Text(_) | Value::List(_) | Value::Section(_) => Err(item.place.error(
                    format!("'{}' is a list of plain values", entry.written),
                    "write one value in each item",
                )),
            })
            .collect(),
        Value::Text(_) | Value::Section(_) => Err(entry.place.error(
            format!("'{}' takes a value, or a list of values", entry.written),
            format!("{}: VALUE", entry.written),
        )),
    }
}

fn switch(entry: &Entry, value: &Value) -> Result<bool, ConfigError> {
    match value {
        Value::Text(text) if text == "true" => Ok(true),
        Value::Text(text) if text == "false" => Ok(false),
        Value::Text(_) | Value::List(_) | Value::Section(_) => Err(entry.place.error(
            format!("'{}' is a switch", entry.written),
            "write true or false",
        )),
    }
}

fn wrong(entry: &Entry, text: &str, place: &Place, why: &str) -> ConfigError {
    let what = format!("'{}': {text:?} cannot be used", entry.written);
    place.error(what, why)
}

fn unknown(entry: &Entry, known: &str) -> ConfigError {
    entry.place.error(
        format!("unknown key '{}'", entry.written.escape_debug()),
        format!("known here: {known}"),
    )
}
