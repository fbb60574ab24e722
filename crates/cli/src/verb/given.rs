//! Secrets that a dialling side was given: in a file, or in the environment. Never an argument, where
//! every process of the host could read it.

use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use farpipe_net::token::{Token, TokenError};
use farpipe_net::{Ticket, TicketError, tls};
use zeroize::Zeroizing;

use super::environment::Environment;
use crate::exit::WithStatus;

/// A kind of secret.
pub(super) trait Secret: FromStr<Err: Display + Copy> {
    /// What it is called.
    const NAME: &str;
    /// The flag for its file.
    const FLAG: &str;
    /// The variable that holds it.
    const VARIABLE: &str;

    /// What something is that is none.
    fn none() -> Self::Err;

    /// What to do about one that cannot be used.
    fn hint(error: Self::Err) -> &'static str;
}

impl Secret for Ticket {
    const NAME: &str = "ticket";
    const FLAG: &str = "--ticket-file";
    const VARIABLE: &str = super::ticket::VARIABLE;

    fn none() -> TicketError {
        TicketError::NoTicket
    }

    fn hint(error: TicketError) -> &'static str {
        error.hint()
    }
}

impl Secret for Token {
    const NAME: &str = "token";
    const FLAG: &str = "--token-file";
    const VARIABLE: &str = "FARPIPE_TOKEN";

    fn none() -> TokenError {
        TokenError::NoToken
    }

    fn hint(error: TokenError) -> &'static str {
        error.hint()
    }
}

/// The secret in `file`, or in the environment.
pub(super) fn given<S: Secret>(
    file: Option<&Path>,
    environment: &Environment,
) -> anyhow::Result<Option<S>> {
    let failed = |place: &str, error: S::Err| {
        let hint = S::hint(error).to_owned();
        WithStatus::failure(format!("{place}: {error}"), Some(hint))
    };
    if let Some(file) = file {
        if file.to_str().is_some_and(|name| name.parse::<S>().is_ok()) {
            let (flag, name, variable) = (S::FLAG, S::NAME, S::VARIABLE);
            return Err(WithStatus::usage(
                format!(
                    "{flag} takes a file, and was given a {name}, which others can now see in ps"
                ),
                format!("write it to a file of mode 0600, or set {variable}"),
            ));
        }
        let text = tls::read_private(file, S::NAME).map_err(|error| {
            WithStatus::failure(error.to_string(), error.hint().map(str::to_owned))
        })?;
        let place = file.display().to_string();
        let text = str::from_utf8(&text).map_err(|_| failed(&place, S::none()))?;
        let secret = text.parse().map_err(|error| failed(&place, error))?;
        return Ok(Some(secret));
    }
    let Some(text) = environment
        .variable(S::VARIABLE)
        .filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    let text = text.into_string().map(Zeroizing::new);
    let text = text.map_err(|_| failed(S::VARIABLE, S::none()))?;
    let secret = text.parse().map_err(|error| failed(S::VARIABLE, error))?;
    Ok(Some(secret))
}
