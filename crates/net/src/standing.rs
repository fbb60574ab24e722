//! Whether what let a peer in would let it in still, looked at as long as it is in: a certificate that was
//! revoked or a token that was taken back ends what it began, within [`STANDING_LOOK`] of the change of the
//! file.

use std::sync::Arc;

use farpipe_proto::limits::STANDING_LOOK;

use crate::tls::PeerIdentity;
use crate::token::{Scope, TokenId, TokenRefusal, TokenState, TokenStore};

/// What let a peer in. Nothing is left of it where that cannot be taken back: a secret of this host, a ticket.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    certificate: Option<PeerIdentity>,
    token: Option<Arc<ByToken>>,
    /// What was shown in the session itself.
    sealed: Option<PeerIdentity>,
}

#[derive(Debug)]
struct ByToken {
    tokens: Arc<TokenStore>,
    id: TokenId,
    scope: Scope,
}

impl Standing {
    /// Of who has shown that certificate, if any.
    #[must_use]
    pub fn of(certificate: Option<PeerIdentity>) -> Self {
        Self {
            certificate,
            ..Self::default()
        }
    }

    /// The same for who has shown a token as well, for this.
    #[must_use]
    pub fn and_token(self, tokens: Arc<TokenStore>, id: TokenId, scope: Scope) -> Self {
        Self {
            token: Some(Arc::new(ByToken { tokens, id, scope })),
            ..self
        }
    }

    pub(crate) fn and_sealed(&self, sealed: Option<PeerIdentity>) -> Self {
        Self {
            sealed,
            ..self.clone()
        }
    }

    /// Whether it can be taken back at all.
    #[must_use]
    pub fn can_fall(&self) -> bool {
        let can_fall = |shown: &PeerIdentity| shown.vouched.can_fall();
        self.token.is_some()
            || self.certificate.as_ref().is_some_and(can_fall)
            || self.sealed.as_ref().is_some_and(can_fall)
    }

    /// Why it would not let in any more. Blocks on the disk for a moment.
    #[must_use]
    pub fn fallen(&self) -> Option<String> {
        for shown in self.certificate.iter().chain(&self.sealed) {
            if let Some(why) = shown.vouched.fallen() {
                return Some(format!("{shown}: {why}"));
            }
        }
        let by = self.token.as_deref()?;
        match by
            .tokens
            .stands(by.id, &by.scope, self.certificate.as_ref())
        {
            // It was good when it was shown; the next connection needs another.
            Ok(())
            | Err(TokenRefusal::Over {
                state: TokenState::Expired,
                ..
            }) => None,
            // That nobody can say is no reason to end what goes on.
            Err(TokenRefusal::Store(_)) => None,
            Err(refusal) => Some(refusal.to_string()),
        }
    }

    /// Looks now and then; ready when it has fallen, and says why.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn fell(&self) -> String {
        if !self.can_fall() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(STANDING_LOOK).await;
            if let Some(why) = self.look().await {
                return why;
            }
        }
    }

    /// As [`Standing::fallen`], on a thread that may block.
    pub(crate) async fn look(&self) -> Option<String> {
        let standing = self.clone();
        let looked = tokio::task::spawn_blocking(move || standing.fallen()).await;
        looked.unwrap_or_else(|error| {
            tracing::error!("whether a peer may stay could not be looked at: {error}");
            None
        })
    }
}
