//! What a file may not say although each of its values is one that the flag takes.

use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Command};
use farpipe_net::token::Token;
use farpipe_net::{Ticket, redacted_url, tls};
use farpipe_yaml::{ConfigError, Entry, Place};

use super::{Setting, same};

/// Flags whose file nobody else may read, and what it holds. A listener's ticket file is made by it.
const PRIVATE: &[(&str, &str)] = &[("key", "private key")];

/// One key in two spellings, or a flag under two names: one of them would silently not count.
pub(super) fn no_key_twice(entries: &[Entry]) -> Result<(), ConfigError> {
    for (at, entry) in entries.iter().enumerate() {
        let before = entries[..at].iter().find(|b| same(&b.key, &entry.key));
        if let Some(before) = before {
            return Err(entry.place.error(
                format!(
                    "'{}' is '{}' again, which stands at {}",
                    entry.written,
                    before.written,
                    before.place.in_file()
                ),
                "remove one of them",
            ));
        }
    }
    Ok(())
}

/// Others read a configuration, copy it and show it around.
pub(super) fn no_secret(written: &str, value: &str, place: &Place) -> Result<(), ConfigError> {
    if value.parse::<Ticket>().is_ok() {
        return Err(place.error(
            format!("'{written}': a ticket does not belong into this file"),
            "write the ticket to a file of mode 0600 and give its name, or set FARPIPE_TICKET",
        ));
    }
    if value.parse::<Token>().is_ok() {
        return Err(place.error(
            format!("'{written}': a token does not belong into this file"),
            "write the token to a file of mode 0600 and give its name, or set FARPIPE_TOKEN",
        ));
    }
    let is_proxy = same(written, "http_proxy");
    if has_login(value, is_proxy) {
        let instead = if is_proxy {
            "put the URL into the environment, as HTTPS_PROXY"
        } else {
            "leave it out: tickets and certificates say who may connect"
        };
        return Err(place.error(
            format!("'{written}': a password does not belong into this file"),
            instead,
        ));
    }
    Ok(())
}

/// Whether a URL has a password in it.
fn has_login(value: &str, may_lack_scheme: bool) -> bool {
    let is_url = value.contains("://");
    let login = value.rsplit_once('@').map(|(login, _)| login);
    let login = login.map(|login| login.split_once("://").map_or(login, |(_, login)| login));
    let is_hidden = || redacted_url(value).contains("***@");
    (is_url || may_lack_scheme) && login.is_some_and(|login| login.contains(':')) && is_hidden()
}

/// A setting that needs another one, which is neither here nor typed: it would mean nothing.
pub(super) fn no_half(
    verb: &Command,
    settings: &[Setting],
    given: &[String],
) -> Result<(), ConfigError> {
    let missing = |without: Option<&Setting>| {
        let counted = settings.iter();
        let counted = counted.filter(|s| without.is_none_or(|w| w.flag != s.flag));
        missing(verb, counted, given)
    };
    let Some(lacks) = missing(None) else {
        return Ok(());
    };
    // The one without which nothing is missing.
    let culprit = settings.iter().find(|s| missing(Some(s)).is_none());
    let Some(culprit) = culprit.or_else(|| settings.first()) else {
        return Ok(());
    };
    let key = lacks.replace('-', "_");
    Err(culprit.place.error(
        format!("'{}' means nothing without '{key}'", culprit.written),
        format!("add {key}, or remove this"),
    ))
}

/// The flag that the verb misses beside these, as the command line's own definition says.
fn missing<'a>(
    verb: &Command,
    settings: impl Iterator<Item = &'a Setting>,
    given: &[String],
) -> Option<String> {
    let mut line = Vec::new();
    for Setting { flag, values, .. } in settings {
        let arg = verb.get_arguments().find(|arg| arg.get_id() == flag);
        let Some((arg, long)) = arg.and_then(|arg| Some((arg, arg.get_long()?))) else {
            continue;
        };
        match (arg.get_action(), values.as_slice()) {
            (ArgAction::SetTrue, [on]) if on == "true" => line.push(format!("--{long}")),
            (ArgAction::SetTrue, _) => {}
            (_, values) => line.extend(values.iter().map(|value| format!("--{long}={value}"))),
        }
    }
    let args = verb.get_arguments().cloned();
    let parsed = Command::new("config")
        .no_binary_name(true)
        .disable_help_flag(true)
        .args(args.map(|arg| arg.required(false)))
        .try_get_matches_from(line);
    let error = parsed.err()?;
    if error.kind() != ErrorKind::MissingRequiredArgument {
        return None;
    }
    let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    // Each is written as `--cert <FILE>`.
    let names = missing
        .iter()
        .filter_map(|usage| usage.split_whitespace().next());
    let mut names = names.map(|name| name.trim_start_matches('-'));
    let is_given = |name: &&str| given.iter().any(|id| same(id, name));
    names.find(|name| !is_given(name)).map(str::to_owned)
}

/// What others must not read is not read by others: seen before anything is started.
pub(super) fn private_files<'a>(
    settings: impl Iterator<Item = &'a Setting>,
) -> Result<(), ConfigError> {
    for setting in settings {
        let private = PRIVATE.iter().find(|(flag, _)| *flag == setting.flag);
        let (Some((_, what)), [path]) = (private, setting.values.as_slice()) else {
            continue;
        };
        if let Err(error) = tls::read_private(Path::new(path), what) {
            let hint = error.hint().unwrap_or("see that the path is right");
            return Err(setting
                .place
                .error(format!("'{}': {error}", setting.written), hint));
        }
    }
    Ok(())
}
