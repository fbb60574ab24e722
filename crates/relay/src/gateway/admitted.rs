//! Who asks. Where a farpipe has to show a certificate or a token, so has a foreign end: a client
//! certificate in TLS, or `Authorization: Bearer TOKEN`, which is shown to a relay that the client has
//! verified. Nothing of it is ever in a URL.

use std::sync::Arc;

use farpipe_net::carrier::ws::raw::Foreign;
use farpipe_net::token::{Scope, Token, TokenId, TokenRefusal, TokenStore};
use farpipe_proto::identity::Identity;

use super::answer::Answer;

/// What an `Authorization` line begins with.
const BEARER: &str = "Bearer ";

/// What proxies add to the requests of others, one or the other.
const FORWARDED: [&str; 4] = ["X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "Via"];

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

/// Who was let in, and by what.
#[derive(Debug, Clone)]
pub(super) struct LetIn {
    /// The name in which it asks; none where anybody of this host may use pipes.
    pub(super) who: Option<Identity>,
    by: By,
}

/// What has to be good still when something else stands for it.
#[derive(Debug, Clone)]
enum By {
    /// A door on loopback without TLS.
    ThisHost,
    Certificate,
    Token(Arc<TokenStore>, TokenId),
}

impl LetIn {
    /// By a door where nothing is asked.
    pub(super) const THIS_HOST: Self = Self {
        who: None,
        by: By::ThisHost,
    };

    /// Whether it is good still, for a connection that shows what stands for it: the door is as that
    /// was, the certificate is shown there as well, the token was not taken back.
    ///
    /// # Errors
    /// The answer that refuses it, and why.
    pub(super) async fn stands(&self, foreign: &Foreign) -> Result<(), NotLetIn> {
        let shown = foreign.shown.clone();
        match &self.by {
            By::ThisHost if !foreign.is_secure => Ok(()),
            By::ThisHost => Err(unknown("it was for a door on loopback").into()),
            By::Certificate
                if shown
                    .as_ref()
                    .is_some_and(|shown| shown.identity == self.who) =>
            {
                Ok(())
            }
            By::Certificate => {
                let why = "show the certificate that it was made for";
                Err(unknown(why).into())
            }
            By::Token(tokens, id) => {
                let (tokens, id) = (Arc::clone(tokens), *id);
                let checking = move || tokens.stands(id, &Scope::Attach, shown.as_ref());
                Ok(checked(checking).await??)
            }
        }
    }
}

/// What a token store says; it reads the disk, and may have to write and sync.
async fn checked<T: Send + 'static>(
    checking: impl FnOnce() -> Result<T, TokenRefusal> + Send + 'static,
) -> Result<Result<T, TokenRefusal>, Answer> {
    let checked = tokio::task::spawn_blocking(checking).await;
    checked.map_err(|error| {
        tracing::error!("a token could not be checked: {error}");
        Answer::line(503, "tokens cannot be checked now")
    })
}

/// Who asks; nobody by name on a door on loopback without TLS, where anybody of this host may
/// use pipes.
///
/// # Errors
/// The answer that refuses it, and why.
pub(super) async fn who(
    foreign: &Foreign,
    tokens: Option<&Arc<TokenStore>>,
) -> Result<LetIn, NotLetIn> {
    if !foreign.is_secure {
        // A door for this host, and somebody has put a proxy before it without telling the relay.
        if FORWARDED
            .iter()
            .any(|name| foreign.request.values(name).next().is_some())
        {
            let why = "this came through a proxy: the relay needs --behind-proxy http and --tokens";
            return Err(Answer::line(403, why).into());
        }
        return Ok(LetIn::THIS_HOST);
    }
    if foreign.request.values("Authorization").next().is_some() {
        return bearer(foreign, tokens).await;
    }
    match &foreign.shown {
        Some(shown) => match &shown.identity {
            Some(identity) => Ok(LetIn {
                who: Some(identity.clone()),
                by: By::Certificate,
            }),
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

async fn bearer(foreign: &Foreign, tokens: Option<&Arc<TokenStore>>) -> Result<LetIn, NotLetIn> {
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
    let (store, id) = (Arc::clone(&tokens), token.id());
    let admitting = move || store.admit_shown(&token, &Scope::Attach, shown.as_ref());
    let admitted = checked(admitting).await??;
    Ok(LetIn {
        who: Some(admitted.identity),
        by: By::Token(tokens, id),
    })
}

/// Nobody knows who asks.
pub(super) fn unknown(why: &str) -> Answer {
    Answer::line(401, why).with("WWW-Authenticate", "Bearer")
}
