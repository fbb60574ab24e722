//! Whom a rule is for.

use std::str::FromStr;

use farpipe_proto::identity::{Caller, Identity, IdentityError, Kind, is_name};

/// One entry of `who`. Compared with whole, typed identities; never as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Everybody who was let in.
    Anyone,
    /// Whoever proved this user's loopback secret.
    ThisUser,
    /// One.
    One(Identity),
    /// All of a kind that an authority's domain names.
    All {
        /// The authority's.
        domain: String,
        /// Which.
        kind: Kind,
    },
}

impl Who {
    /// Whether it is for the caller, however that was shown.
    #[must_use]
    pub fn is(&self, caller: &Caller) -> bool {
        match (self, caller.identity()) {
            (Self::Anyone, _) => true,
            (Self::ThisUser, _) => *caller == Caller::ThisUser,
            (Self::One(one), Some(identity)) => one == identity,
            (Self::All { domain, kind }, Some(identity)) => {
                identity.domain() == domain && identity.kind() == *kind
            }
            (Self::One(_) | Self::All { .. }, None) => false,
        }
    }
}

impl FromStr for Who {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        match text {
            "anyone" => return Ok(Self::Anyone),
            "self" => return Ok(Self::ThisUser),
            _ => {}
        }
        let all = text
            .strip_prefix("farpipe://")
            .and_then(|rest| rest.strip_suffix("/*"));
        let who = match all.and_then(|rest| rest.split_once('/')) {
            Some((domain, _)) if !is_name(domain) => return Err(IdentityError::Name),
            Some((domain, kind)) => Self::All {
                domain: domain.to_owned(),
                kind: kind.parse()?,
            },
            None => Self::One(text.parse()?),
        };
        // An authority issues; it is never somebody at the other end.
        match who {
            Self::All {
                kind: Kind::Authority,
                ..
            } => Err(IdentityError::Kind),
            Self::One(identity) if identity.kind() == Kind::Authority => Err(IdentityError::Kind),
            who => Ok(who),
        }
    }
}
