//! `farpipe token`: makes, lists and revokes tokens.
//!
//! A token is printed once, to stdout, and never taken as an argument.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use farpipe_net::token::{Scope, StoreError, Token, TokenEntry, TokenId, TokenStore, Wanted};
use farpipe_net::{WallClock, tls};
use farpipe_proto::identity::{Fingerprint, Identity, Kind};
use sha2::{Digest as _, Sha256};

use super::session::span;
use crate::exit::{WithStatus, printed};
use crate::output;

/// The domain of a name without one, as `cert init` has it.
const DOMAIN: &str = "local";
/// How long a token may be good.
const VALID_FOR: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);

/// Make, list and revoke tokens for joining and for small set-ups
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Issue(IssueArgs),
    Ls(LsArgs),
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
struct Store {
    /// Where tokens are kept [default: tokens.yaml in /etc/farpipe or ~/.config/farpipe]
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
}

/// Make a token and print it, once; only the SHA-256 of its secret is kept
#[derive(Debug, clap::Args)]
struct IssueArgs {
    /// Whom it stands for: farpipe://DOMAIN/KIND/NAME, or NAME for farpipe://local/client/NAME
    #[arg(value_name = "ID", value_parser = identity)]
    identity: Identity,
    /// What it lets do: join, register, attach, publish:PREFIX or subscribe:PREFIX; repeatable
    #[arg(long, value_name = "SCOPE", default_value = "attach")]
    scope: Vec<Scope>,
    /// How long it is good, from 1s to 366d
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = valid_for)]
    expires: Duration,
    /// Good once; join tokens always are
    #[arg(long)]
    once: bool,
    /// Good only together with this certificate
    #[arg(long, value_name = "PEM")]
    bind: Option<PathBuf>,
    #[command(flatten)]
    store: Store,
}

/// List tokens: id, state, end, identity and scopes
#[derive(Debug, clap::Args)]
struct LsArgs {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: Store,
}

/// Take a token back; it is refused from then on
#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// Its id, as ls shows it; never the token itself
    id: String,
    #[command(flatten)]
    store: Store,
}

pub(crate) fn run(args: &Args, quiet: bool) -> anyhow::Result<u8> {
    match &args.action {
        Action::Issue(args) => issue(args, quiet),
        Action::Ls(args) => ls(args),
        Action::Revoke(args) => revoke(args, quiet),
    }
}

impl Store {
    fn open(&self) -> TokenStore {
        let path = self.store.clone().unwrap_or_else(TokenStore::default_path);
        TokenStore::new(path, WallClock::System)
    }
}

fn identity(text: &str) -> Result<Identity, String> {
    let identity = if text.contains('/') {
        text.parse()
    } else {
        Identity::new(DOMAIN, Kind::Client, text)
    };
    let identity: Identity = identity.map_err(|error| error.to_string())?;
    match identity.kind() {
        Kind::Client | Kind::Agent | Kind::Relay => Ok(identity),
        Kind::Authority => Err("no token stands for an authority".to_owned()),
    }
}

fn valid_for(text: &str) -> Result<Duration, String> {
    let time = span(text)?;
    if !VALID_FOR.contains(&time) {
        return Err("from 1s to 366d; the default is 30d".to_owned());
    }
    Ok(time)
}

fn issue(args: &IssueArgs, quiet: bool) -> anyhow::Result<u8> {
    let bound_to = args.bind.as_deref().map(fingerprint).transpose()?;
    let wanted = Wanted {
        identity: args.identity.clone(),
        scopes: args.scope.clone(),
        valid_for: args.expires,
        once: args.once || args.scope.contains(&Scope::Join),
        bound_to,
    };
    let once = if wanted.once { ", once" } else { "" };
    let token = args.store.open().issue(wanted, farpipe_net::system_random);
    let token = token.map_err(|error| failed(&error))?;
    let mut text = token.reveal();
    text.push('\n');
    let status = printed(output::data(text.as_bytes()))?;
    if status == 0 && !quiet {
        let scopes: Vec<String> = args.scope.iter().map(ToString::to_string).collect();
        let (id, identity, scopes) = (token.id(), &args.identity, scopes.join(", "));
        output::line(&format!(
            "token {id} stands for {identity}, to {scopes}{once}; it is not shown again"
        ));
    }
    Ok(status)
}

fn fingerprint(file: &Path) -> anyhow::Result<Fingerprint> {
    let certificate = tls::read_certificate(file).map_err(|error| {
        let hint = error.hint().map(str::to_owned);
        WithStatus::failure(error.to_string(), hint)
    })?;
    Ok(Sha256::digest(&certificate).into())
}

fn ls(args: &LsArgs) -> anyhow::Result<u8> {
    let entries = args.store.open().list().map_err(|error| failed(&error))?;
    let now = WallClock::System.now();
    let mut out = String::new();
    for entry in &entries {
        let line = if args.json {
            as_json(entry, now)
        } else {
            as_text(entry, now)
        };
        // A String takes all.
        let _ = writeln!(out, "{line}");
    }
    printed(output::data(out.as_bytes()))
}

fn scopes(entry: &TokenEntry) -> Vec<String> {
    entry.scopes.iter().map(ToString::to_string).collect()
}

fn as_text(entry: &TokenEntry, now: Duration) -> String {
    let state = entry.state(now).as_str();
    let left = match entry.expires.checked_sub(now) {
        Some(left) if left >= Duration::from_secs(2 * 86_400) => {
            format!("{}d left", left.as_secs() / 86_400)
        }
        Some(left) => format!("{}m left", left.as_secs().div_ceil(60)),
        None => "over".to_owned(),
    };
    let mut notes = scopes(entry).join(",");
    if entry.once {
        notes.push_str(" once");
    }
    if entry.bound_to.is_some() {
        notes.push_str(" bound");
    }
    format!(
        "{}  {state:<7}  {left:<9}  {}  {notes}",
        entry.id, entry.identity
    )
}

fn as_json(entry: &TokenEntry, now: Duration) -> String {
    serde_json::json!({
        "id": entry.id.to_string(),
        "state": entry.state(now).as_str(),
        "identity": entry.identity.to_string(),
        "scopes": scopes(entry),
        "expires": entry.expires.as_secs(),
        "once": entry.once,
        "bound": entry.bound_to.is_some(),
    })
    .to_string()
}

fn revoke(args: &RevokeArgs, quiet: bool) -> anyhow::Result<u8> {
    let id: TokenId = match args.id.parse() {
        Ok(id) => id,
        Err(_) if args.id.parse::<Token>().is_ok() => {
            return Err(WithStatus::usage(
                "revoke takes a token's id, and was given the token, which others can now see in ps",
                "revoke it by its id, which `farpipe token ls` lists",
            ));
        }
        // Not quoted: it may be most of a token.
        Err(error) => return Err(WithStatus::usage(error.to_string(), error.hint())),
    };
    args.store
        .open()
        .revoke(id)
        .map_err(|error| failed(&error))?;
    if !quiet {
        output::line(&format!("token {id} is revoked"));
    }
    Ok(0)
}

fn failed(error: &StoreError) -> anyhow::Error {
    WithStatus::failure(error.to_string(), Some(error.hint().to_owned()))
}
