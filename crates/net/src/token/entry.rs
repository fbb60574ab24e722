//! What is kept of a token: everything but its secret.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use farpipe_proto::identity::{Fingerprint, Identity};
use farpipe_yaml::{ConfigError, Entry, Place, Section, Value};

use super::{TokenId, hex, parse_hex};

/// What a token lets its holder do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// To be issued a certificate of the token's identity.
    Join,
    /// To attach an agent of that name to a relay.
    Register,
    /// To open sessions through a relay.
    Attach,
    /// To append to topics that begin so.
    Publish(String),
    /// To read topics that begin so.
    Subscribe(String),
}

/// Why a text is no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a scope is join, register, attach, publish:PREFIX or subscribe:PREFIX")]
pub struct ScopeError;

impl Scope {
    /// Whether who has this may do what `wanted` says.
    pub(super) fn covers(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Publish(begin), Self::Publish(topic))
            | (Self::Subscribe(begin), Self::Subscribe(topic)) => topic.starts_with(begin),
            (
                Self::Join | Self::Register | Self::Attach | Self::Publish(_) | Self::Subscribe(_),
                _,
            ) => self == wanted,
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        // What a YAML file or a list of them could take for something else is in no topic's name.
        let topic = |text: &str| {
            let is_in = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
            text.bytes()
                .all(is_in)
                .then(|| text.to_owned())
                .ok_or(ScopeError)
        };
        match text.split_once(':') {
            None if text == "join" => Ok(Self::Join),
            None if text == "register" => Ok(Self::Register),
            None if text == "attach" => Ok(Self::Attach),
            Some(("publish", begin)) => topic(begin).map(Self::Publish),
            Some(("subscribe", begin)) => topic(begin).map(Self::Subscribe),
            _ => Err(ScopeError),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join => f.write_str("join"),
            Self::Register => f.write_str("register"),
            Self::Attach => f.write_str("attach"),
            Self::Publish(begin) => write!(f, "publish:{begin}"),
            Self::Subscribe(begin) => write!(f, "subscribe:{begin}"),
        }
    }
}

/// A token as it is kept. Times are since the beginning of 1970, whole seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEntry {
    /// Which token.
    pub id: TokenId,
    /// SHA-256 of its secret.
    pub(super) digest: [u8; 32],
    /// Whom it stands for.
    pub identity: Identity,
    /// What it lets do.
    pub scopes: Vec<Scope>,
    /// When it ends.
    pub expires: Duration,
    /// Whether it is good once.
    pub once: bool,
    /// The certificate that must be shown with it.
    pub bound_to: Option<Fingerprint>,
    /// When it was used, if it was good once.
    pub used: Option<Duration>,
    /// When it was revoked.
    pub revoked: Option<Duration>,
}

/// Whether a token still lets anybody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// It does.
    Good,
    /// Its time is over.
    Expired,
    /// It was good once.
    Used,
    /// Somebody took it back.
    Revoked,
}

impl TokenState {
    /// As `token ls` has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Expired => "expired",
            Self::Used => "used",
            Self::Revoked => "revoked",
        }
    }
}

impl TokenEntry {
    /// What it is worth at a time.
    #[must_use]
    pub fn state(&self, now: Duration) -> TokenState {
        if self.revoked.is_some() {
            TokenState::Revoked
        } else if self.used.is_some() {
            TokenState::Used
        } else if now >= self.expires {
            TokenState::Expired
        } else {
            TokenState::Good
        }
    }

    /// Its lines of the file. Nothing in it needs quotes but the numbers that stand for bytes.
    pub(super) fn write(&self, out: &mut String) {
        let scopes: Vec<String> = self
            .scopes
            .iter()
            .map(|scope| format!("\"{scope}\""))
            .collect();
        out.push_str(&format!(
            "  \"{}\":\n    sha256: \"{}\"\n    identity: \"{}\"\n    scopes: [{}]\n    expires: {}\n    once: {}\n",
            self.id,
            hex(&self.digest),
            self.identity,
            scopes.join(", "),
            self.expires.as_secs(),
            self.once,
        ));
        if let Some(bound_to) = &self.bound_to {
            out.push_str(&format!("    bound_to: \"{}\"\n", hex(bound_to)));
        }
        for (key, time) in [("used", self.used), ("revoked", self.revoked)] {
            if let Some(time) = time {
                out.push_str(&format!("    {key}: {}\n", time.as_secs()));
            }
        }
    }

    fn read(entry: &Entry) -> Result<Self, ConfigError> {
        let Value::Section(Section { entries }) = &entry.value else {
            return Err(bad(&entry.place, "a token has keys"));
        };
        let text = |key: &str| {
            let found = entries.iter().find(|entry| entry.key == key);
            found.map(|entry| match &entry.value {
                Value::Text(text) => Ok((text.as_str(), &entry.place)),
                Value::List(_) | Value::Section(_) => {
                    Err(bad(&entry.place, &format!("'{key}' is one value")))
                }
            })
        };
        let needed = |key: &str| {
            let missing = || Err(bad(&entry.place, &format!("the token has no '{key}'")));
            text(key).unwrap_or_else(missing)
        };
        let time = |key: &str| {
            let read = |(text, place): (&str, &Place)| {
                let seconds = text
                    .parse()
                    .map_err(|_| bad(place, &format!("'{key}' is no time")))?;
                Ok(Duration::from_secs(seconds))
            };
            text(key).map(|found| found.and_then(read)).transpose()
        };
        let bytes = |(text, place): (&str, &Place)| {
            parse_hex(text).ok_or_else(|| bad(place, "no SHA-256 in hexadecimal digits"))
        };
        const KEYS: &[&str] = &[
            "sha256", "identity", "scopes", "expires", "once", "bound_to", "used", "revoked",
        ];
        if let Some(unknown) = entries
            .iter()
            .find(|entry| !KEYS.contains(&entry.key.as_str()))
        {
            let what = format!("unknown key '{}'", unknown.written.escape_debug());
            return Err(bad(&unknown.place, &what));
        }
        let (identity, identity_place) = needed("identity")?;
        let (once, once_place) = needed("once")?;
        Ok(Self {
            id: entry
                .key
                .parse()
                .map_err(|error: super::TokenError| bad(&entry.place, &error.to_string()))?,
            digest: bytes(needed("sha256")?)?,
            identity: identity.parse().map_err(
                |error: farpipe_proto::identity::IdentityError| {
                    bad(identity_place, &error.to_string())
                },
            )?,
            scopes: scopes(entry, entries)?,
            expires: time("expires")?
                .ok_or_else(|| bad(&entry.place, "the token has no 'expires'"))?,
            once: once
                .parse()
                .map_err(|_| bad(once_place, "'once' is true or false"))?,
            bound_to: text("bound_to").transpose()?.map(bytes).transpose()?,
            used: time("used")?,
            revoked: time("revoked")?,
        })
    }
}

fn scopes(token: &Entry, entries: &[Entry]) -> Result<Vec<Scope>, ConfigError> {
    let found = entries.iter().find(|entry| entry.key == "scopes");
    let Some(Value::List(items)) = found.map(|entry| &entry.value) else {
        return Err(bad(&token.place, "the token has no list of 'scopes'"));
    };
    let scope = |item: &farpipe_yaml::Item| match &item.value {
        Value::Text(text) => text
            .parse()
            .map_err(|error: ScopeError| bad(&item.place, &error.to_string())),
        Value::List(_) | Value::Section(_) => Err(bad(&item.place, "a scope is one word")),
    };
    items.iter().map(scope).collect()
}

/// All tokens of a file.
pub(super) fn read_all(path: &Path, bytes: Vec<u8>) -> Result<Vec<TokenEntry>, ConfigError> {
    let mut all = Vec::new();
    for entry in farpipe_yaml::parse(path, bytes)?.entries {
        let Value::Section(Section { entries }) = &entry.value else {
            return Err(bad(&entry.place, "no mapping of tokens"));
        };
        if entry.key != "tokens" {
            let what = format!("unknown key '{}'", entry.written.escape_debug());
            return Err(bad(&entry.place, &what));
        }
        for token in entries {
            all.push(TokenEntry::read(token)?);
        }
    }
    Ok(all)
}

/// The file of all these tokens.
pub(super) fn write_all(entries: &[TokenEntry]) -> String {
    let mut out = String::from(
        "# Written by farpipe, which locks it meanwhile. Secrets are not in it: sha256 is of one.\n",
    );
    if !entries.is_empty() {
        out.push_str("tokens:\n");
    }
    for entry in entries {
        entry.write(&mut out);
    }
    out
}

fn bad(place: &Place, what: &str) -> ConfigError {
    place.error(
        what,
        "restore the file from a copy, or move it away and issue new tokens",
    )
}
