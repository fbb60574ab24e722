//! Who asks. Where a farpipe has to show a certificate or a token, so has a foreign end: a client
//! certificate in TLS, or `Authorization: Bearer TOKEN`, which is shown to a relay that the client has
//! verified. Nothing of it is ever in a URL.

use std::sync::Arc;

use farpipe_net::carrier::ws::raw::Foreign;
use farpipe_net::token::{Scope, Token, TokenRefusal, TokenStore};
use farpipe_proto::identity::Identity;

use super::answer::Answer;

/// What an `Authorization` line begins with.
const BEARER: &str = "Bearer ";

/// Who asks was not let in.
#[derive(Debug)]
pub(super) struct NotLetIn {
    /// For the log.
    pub(super) why: String,
    pub(super) answer: Answer,
}

/// What is said is all that there is to say.
impl From<Answer> for NotLetIn {
    fn from(answer: Answer) -> Self {
        Self {
            why: answer.words(),
            answer,
        }
    }
}

impl From<TokenRefusal> for NotLetIn {
    fn from(refusal: TokenRefusal) -> Self {
        Self {
            why: refusal.to_string(),
            answer: unknown(TokenRefusal::TOLD),
        }
    }
}

/// The name in which it asks; none on a door on loopback without TLS, where anybody of this host may
/// use pipes.
///
/// # Errors
/// The answer that refuses it, and why.
pub(super) async fn who(
    foreign: &Foreign,
    tokens: Option<&Arc<TokenStore>>,
) -> Result<Option<Identity>, NotLetIn> {
    if !foreign.is_secure {
        return Ok(None);
    }
    if foreign.request.values("Authorization").next().is_some() {
        return bearer(foreign, tokens).await.map(Some);
    }
    match &foreign.shown {
        Some(shown) => match &shown.identity {
            Some(identity) => Ok(Some(identity.clone())),
            None => {
                let why = "the certificate has no farpipe identity; issue one with `farpipe cert`";
                Err(Answer::line(403, why).into())
            }
        },
        None => {
            let why = "show a client certificate, or a token: Authorization: Bearer TOKEN";
            Err(unknown(why).into())
        }
    }
}

async fn bearer(foreign: &Foreign, tokens: Option<&Arc<TokenStore>>) -> Result<Identity, NotLetIn> {
    let line = foreign.request.only("Authorization").unwrap_or_default();
    let text = line.split_at_checked(BEARER.len());
    let text = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER));
    let Some((_, text)) = text else {
        return Err(unknown("Authorization is \"Bearer TOKEN\" here").into());
    };
    let Some(tokens) = tokens.cloned() else {
        return Err(unknown("this relay takes no tokens").into());
    };
    let token: Token = text.parse().map_err(TokenRefusal::NoToken)?;
    let shown = foreign.shown.clone();
    // It may have to be written, and synced.
    let admitting = move || tokens.admit_shown(&token, &Scope::Attach, shown.as_ref());
    let admitted = tokio::task::spawn_blocking(admitting).await;
    let admitted = admitted.map_err(|error| {
        tracing::error!("a token could not be checked: {error}");
        Answer::line(503, "tokens cannot be checked now")
    })?;
    Ok(admitted?.identity)
}

/// Nobody knows who asks.
pub(super) fn unknown(why: &str) -> Answer {
    Answer::line(401, why).with("WWW-Authenticate", "Bearer")
}
