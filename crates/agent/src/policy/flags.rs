//! `--allow`: rules that fit on a command line.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::environment::Environment;
use super::grant::Grant;
use super::resolve;
use super::who::Who;
use super::{Origin, Rule};

/// One value of `--allow`; it holds for every caller that was let in.
#[derive(Debug, Clone)]
pub struct Allow {
    typed: String,
    grant: Grant,
}

/// Why a text is no value of `--allow` or `--allow-env`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllowError {
    /// It begins with no word of it.
    #[error(
        "write all, exec, read:DIR, write:DIR, connect:HOST:PORT, listen:[HOST:]PORT, or \
         connect:unix:PATH and listen:unix:PATH for sockets"
    )]
    Unknown,
    /// What is behind the word is wrong.
    #[error("{0}")]
    Value(String),
}

/// One value of `--allow-env`: a variable that callers may set for what `--allow` lets them run.
#[derive(Debug, Clone)]
pub struct AllowEnv(String);

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--allow`.
    pub allow: Vec<Allow>,
    /// `--allow-env`.
    pub env: Vec<AllowEnv>,
}

impl Flags {
    pub(super) fn rules(&self) -> impl Iterator<Item = Rule> {
        let environment = Environment::of(self.env.iter().map(|AllowEnv(name)| name.as_str()));
        self.allow.iter().map(move |allow| Rule {
            who: vec![Who::Anyone],
            grants: vec![(
                allow.grant.clone(),
                Origin::Flag(format!("--allow {}", allow.typed)),
            )],
            environment: environment.clone(),
            directories: Vec::new(),
        })
    }
}

impl FromStr for AllowEnv {
    type Err = AllowError;

    fn from_str(text: &str) -> Result<Self, AllowError> {
        let listed = Environment::check(text);
        listed.map_err(|why| AllowError::Value(why.to_owned()))?;
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Allow {
    type Err = AllowError;

    fn from_str(text: &str) -> Result<Self, AllowError> {
        let (word, value) = match text.split_once(':') {
            Some((word, value)) => (word, Some(value)),
            None => (text, None),
        };
        let grant = match (word, value) {
            ("all", None) => Grant::Everything,
            ("exec", None) => Grant::AnyProgram,
            ("read", Some(dir)) => Grant::Read(root(dir)?),
            ("write", Some(dir)) => Grant::Write(root(dir)?),
            ("connect", Some(to)) => Grant::parse_connect(to).map_err(AllowError::Value)?,
            ("listen", Some(on)) => Grant::parse_listen(on).map_err(AllowError::Value)?,
            _ => return Err(AllowError::Unknown),
        };
        Ok(Self {
            typed: text.to_owned(),
            grant,
        })
    }
}

fn root(dir: &str) -> Result<PathBuf, AllowError> {
    let dir = Path::new(dir);
    if !resolve::is_plain(dir) {
        let why = "the directory is an absolute path without ..";
        return Err(AllowError::Value(why.to_owned()));
    }
    Ok(resolve::root(dir))
}
