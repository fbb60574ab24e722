//! Who somebody is: one name, parsed once, and how far it was proven.
//!
//! `farpipe://DOMAIN/KIND/NAME` is the only form. It is what a route is looked up by and what a
//! policy decides on, as one whole value: text that lists, paths, patterns or another alphabet are
//! made of never becomes an [`Identity`], so nobody downstream can read two names in one, or take one
//! for another. Names are lower case, because an agent's is a DNS name too and DNS does not tell the
//! cases apart.

use std::fmt;
use std::str::FromStr;

/// Longest domain, and longest name: what a label of DNS may have.
pub const PART_MAX: usize = 63;

const SCHEME: &str = "farpipe://";

/// What somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Opens sessions.
    Client,
    /// Serves one host.
    Agent,
    /// Joins tunnels.
    Relay,
    /// Issues certificates. Never somebody at the other end: no authority's certificate is accepted
    /// as a leaf.
    Authority,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Client, Self::Agent, Self::Relay, Self::Authority];

    /// As it is written in an identity.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Agent => "agent",
            Self::Relay => "relay",
            Self::Authority => "ca",
        }
    }
}

impl FromStr for Kind {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let kinds = Self::ALL.into_iter();
        let mut found = kinds.filter(|kind| kind.as_str() == text);
        found.next().ok_or(IdentityError::Kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is no identity. It quotes nothing: what was refused may be made to be misread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It has another shape.
    #[error("an identity is {SCHEME}DOMAIN/KIND/NAME")]
    Form,
    /// The kind is none.
    #[error("the kind of an identity is client, agent or relay")]
    Kind,
    /// The domain or the name has something in it that it may not have.
    #[error(
        "a name has 1 to {PART_MAX} lower-case letters, digits, dots, hyphens and underscores, \
         and a letter or digit at both ends and beside each dot"
    )]
    Name,
}

/// `farpipe://DOMAIN/KIND/NAME`, as a certificate or a token has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    domain: String,
    kind: Kind,
    name: String,
}

impl Identity {
    /// An identity of parts, each checked.
    ///
    /// # Errors
    /// [`IdentityError::Name`].
    pub fn new(domain: &str, kind: Kind, name: &str) -> Result<Self, IdentityError> {
        if !is_name(domain) || !is_name(name) {
            return Err(IdentityError::Name);
        }
        let [domain, name] = [domain, name].map(str::to_owned);
        Ok(Self { domain, kind, name })
    }

    /// Whose authority names it.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Its name in the domain.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Whether a text may be a domain or a name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_label = |label: &str| {
        let ends = [label.bytes().next(), label.bytes().next_back()];
        ends.into_iter().all(|end| end.is_some_and(is_plain))
            && label.bytes().all(|b| is_plain(b) || b"-_".contains(&b))
    };
    text.len() <= PART_MAX && text.split('.').all(is_label)
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let mut parts = text
            .strip_prefix(SCHEME)
            .ok_or(IdentityError::Form)?
            .split('/');
        let mut part = || parts.next().ok_or(IdentityError::Form);
        let (domain, kind, name) = (part()?, part()?, part()?);
        if parts.next().is_some() {
            return Err(IdentityError::Form);
        }
        Self::new(domain, kind.parse()?, name)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, kind, name } = self;
        write!(f, "{SCHEME}{domain}/{kind}/{name}")
    }
}

/// SHA-256 of a certificate.
pub type Fingerprint = [u8; 32];

/// Somebody who wants something, and who says that it is they.
///
/// The loopback secret has no [`Identity`]: whatever name it had, some authority could issue it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Caller {
    /// Showed a certificate in the session itself, through whatever lies between.
    EndToEnd {
        /// Who the certificate is about.
        identity: Identity,
        /// Which certificate.
        fingerprint: Fingerprint,
    },
    /// Showed a certificate on a connection that ends here.
    Direct {
        /// Who the certificate is about.
        identity: Identity,
        /// Which certificate.
        fingerprint: Fingerprint,
    },
    /// A relay says so, and nothing else does.
    RelayAsserted {
        /// Who the relay says it is.
        identity: Identity,
        /// Whose word that is.
        relay: Asserting,
    },
    /// Proved the loopback secret: the user whom this process runs as.
    ThisUser,
    /// Proved a token on a connection that ends here.
    Token {
        /// Whom the token stands for.
        identity: Identity,
    },
    /// Was let in by something that has no name.
    Unnamed(LetInBy),
}

/// What lets in somebody without a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LetInBy {
    /// A ticket that this process made, on a connection that ends here.
    Ticket,
    /// A certificate of the right authority, with no identity in it, on a connection that ends here.
    Certificate,
    /// A relay, which says no name.
    Relay(Asserting),
}

/// Who says who somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asserting {
    /// A relay that somebody else runs, or might.
    Another,
    /// A relay that proved the loopback secret: it runs as the user whom this process runs as, and
    /// gains nothing by a lie.
    ThisUser,
}

impl Caller {
    /// The name to route and to decide by; none for [`Caller::ThisUser`] and [`Caller::Unnamed`].
    #[must_use]
    pub const fn identity(&self) -> Option<&Identity> {
        match self {
            Self::EndToEnd { identity, .. }
            | Self::Direct { identity, .. }
            | Self::RelayAsserted { identity, .. }
            | Self::Token { identity } => Some(identity),
            Self::ThisUser | Self::Unnamed(_) => None,
        }
    }

    /// Whether a relay that lies could be this caller.
    #[must_use]
    pub const fn rests_on_relay(&self) -> bool {
        match self {
            Self::RelayAsserted { relay, .. } | Self::Unnamed(LetInBy::Relay(relay)) => match relay
            {
                Asserting::Another => true,
                Asserting::ThisUser => false,
            },
            Self::EndToEnd { .. }
            | Self::Direct { .. }
            | Self::ThisUser
            | Self::Token { .. }
            | Self::Unnamed(LetInBy::Ticket | LetInBy::Certificate) => false,
        }
    }

    /// Whether `other` is the same somebody, shown the same way. A certificate may have been renewed
    /// meanwhile.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.source() == other.source() && self.identity() == other.identity()
    }

    /// Whether `other` is certainly the same somebody: as [`Caller::is_same`], and has a name or is this
    /// user. Two who have no name may be anybody, unless this user's own relay lets them in without one.
    #[must_use]
    pub fn is_surely(&self, other: &Self) -> bool {
        const OWN: LetInBy = LetInBy::Relay(Asserting::ThisUser);
        match (self, other) {
            (Self::Unnamed(has), Self::Unnamed(asks)) => *has == OWN && *asks == OWN,
            _ => self.is_same(other),
        }
    }

    /// Where the name comes from, as logs have it.
    #[must_use]
    pub const fn source(&self) -> &'static str {
        match self {
            Self::EndToEnd { .. } => "e2e-cert",
            Self::Direct { .. } => "direct-cert",
            Self::RelayAsserted { .. } => "relay-asserted",
            Self::ThisUser => "loopback-secret",
            Self::Token { .. } => "direct-token",
            Self::Unnamed(LetInBy::Ticket) => "ticket",
            Self::Unnamed(LetInBy::Certificate) => "direct-cert",
            Self::Unnamed(LetInBy::Relay(_)) => "relay-asserted",
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source();
        match (self, self.identity()) {
            (_, Some(identity)) => write!(f, "{identity} ({source})"),
            (Self::Unnamed(_), None) => write!(f, "somebody without a name ({source})"),
            (_, None) => write!(f, "this user ({source})"),
        }
    }
}
