//! All secrets that a listening side takes: one of the old kinds, and tokens.

use farpipe_proto::link::{Keys, LinkError, NotLetIn, SecretId};
use farpipe_proto::wire::id::SessionKey;

use super::TokenStore;
use super::store::TokenRefusal;

/// What neighbours may prove.
#[derive(Debug)]
pub(crate) struct Gate<'a> {
    keys: Option<&'a dyn Keys>,
    tokens: Option<&'a TokenStore>,
}

impl<'a> Gate<'a> {
    /// None if nothing has to be proven.
    pub(crate) fn new(keys: Option<&'a dyn Keys>, tokens: Option<&'a TokenStore>) -> Option<Self> {
        (keys.is_some() || tokens.is_some()).then_some(Self { keys, tokens })
    }

    /// Why a neighbour leaves that has seen this side's proof and proves nothing: the reason, if it is
    /// the token that it named. It is not told.
    pub(crate) fn left(&self, named: Option<&SecretId>) -> Option<LinkError> {
        match (named, self.tokens) {
            (Some(SecretId::Token(id)), Some(tokens)) => {
                Some(NotLetIn::from(tokens.unproven(id)).into())
            }
            _ => None,
        }
    }

    fn other(&self) -> Result<&'a dyn Keys, NotLetIn> {
        self.keys.ok_or_else(|| {
            NotLetIn::openly("a token is needed: give --token-file, or set FARPIPE_TOKEN")
        })
    }
}

impl From<TokenRefusal> for NotLetIn {
    fn from(refusal: TokenRefusal) -> Self {
        Self {
            told: TokenRefusal::TOLD.to_owned(),
            why: refusal.to_string(),
        }
    }
}

impl Keys for Gate<'_> {
    fn prove_for(
        &self,
        secret: &SecretId,
        label: &str,
        dialling: &[u8],
        accepting: &[u8],
    ) -> Result<[u8; 32], NotLetIn> {
        match (secret, self.tokens) {
            (SecretId::Token(id), Some(tokens)) => Ok(tokens.prove(id, label, dialling, accepting)),
            (SecretId::Token(_), None) => Err(NotLetIn::openly("this side takes no tokens")),
            (SecretId::Loopback | SecretId::Ticket(_), _) => {
                self.other()?.prove_for(secret, label, dialling, accepting)
            }
        }
    }

    fn verify_for(
        &self,
        secret: &SecretId,
        label: &str,
        dialling: &[u8],
        accepting: &[u8],
        proof: &[u8],
    ) -> Result<(), NotLetIn> {
        match (secret, self.tokens) {
            (SecretId::Token(id), Some(tokens)) => {
                Ok(tokens.verify(id, label, dialling, accepting, proof)?)
            }
            (SecretId::Token(_), None) => Err(NotLetIn::openly("this side takes no tokens")),
            (SecretId::Loopback | SecretId::Ticket(_), _) => self
                .other()?
                .verify_for(secret, label, dialling, accepting, proof),
        }
    }

    fn claim(&self, ticket: &[u8], session: &SessionKey) -> Result<(), String> {
        match self.keys {
            Some(keys) => keys.claim(ticket, session),
            None => Ok(()),
        }
    }

    fn release(&self, session: &SessionKey) {
        if let Some(keys) = self.keys {
            keys.release(session);
        }
    }
}
