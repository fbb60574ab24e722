//! `farpipe token`: makes, lists and revokes tokens.
//!
//! A token is printed once, to stdout or to a new file, and never taken as an argument.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
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
    #[arg(value_name = "WHO", value_parser = identity)]
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
    /// Write it to this new file, mode 0600, instead of printing it: as those who use it want it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
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
    /// Its id, as ls shows it, or WHO: all that stand for them; never the token itself
    #[arg(value_name = "ID|WHO")]
    which: String,
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
    // First of all: of a token that could not be written nobody would know the secret.
    let file = args.token_file.as_deref().map(New::create).transpose()?;
    let token = args.store.open().issue(wanted, farpipe_net::system_random);
    let token = token.map_err(|error| failed(&error))?;
    let mut text = token.reveal();
    text.push('\n');
    let status = match file {
        Some(file) => {
            file.fill(text.as_bytes())?;
            0
        }
        None => printed(output::data(text.as_bytes()))?,
    };
    if status == 0 && !quiet {
        let scopes: Vec<String> = args.scope.iter().map(ToString::to_string).collect();
        let (id, identity, scopes) = (token.id(), &args.identity, scopes.join(", "));
        output::line(&format!(
            "token {id} stands for {identity}, to {scopes}{once}; it is not shown again"
        ));
    }
    Ok(status)
}

/// A file that did not exist, and does not if nothing is written to it.
struct New<'a> {
    file: Option<File>,
    path: &'a Path,
}

impl<'a> New<'a> {
    fn create(path: &'a Path) -> anyhow::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| {
            let hint = "name a file that does not exist, in a directory of yours".to_owned();
            WithStatus::failure(format!("{}: {error}", path.display()), Some(hint))
        })?;
        Ok(Self {
            file: Some(file),
            path,
        })
    }

    fn fill(mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let Some(mut file) = self.file.take() else {
            return Ok(());
        };
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|error| {
            self.file = Some(file);
            let hint = "the token is of no use: revoke it".to_owned();
            WithStatus::failure(format!("{}: {error}", self.path.display()), Some(hint))
        })
    }
}

impl Drop for New<'_> {
    fn drop(&mut self) {
        if self.file.is_some() {
            // What is left there is no token.
            let _ = fs::remove_file(self.path);
        }
    }
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
    let store = args.store.open();
    for id in wanted(&args.which, &store)? {
        store.revoke(id).map_err(|error| failed(&error))?;
        if !quiet {
            output::line(&format!("token {id} is revoked"));
        }
    }
    Ok(0)
}

/// The tokens that are meant; by whom they stand for, those that are not over.
fn wanted(which: &str, store: &TokenStore) -> anyhow::Result<Vec<TokenId>> {
    let error = match which.parse::<TokenId>() {
        Ok(id) => return Ok(vec![id]),
        Err(error) => error,
    };
    if which.parse::<Token>().is_ok() {
        return Err(WithStatus::usage(
            "revoke takes a token's id, and was given the token, which others can now see in ps",
            "revoke it by its id, which `farpipe token ls` lists",
        ));
    }
    // Not quoted: it may be most of a token.
    let usage = || WithStatus::usage(error.to_string(), error.hint());
    if which.starts_with("fpk1") {
        return Err(usage());
    }
    let who = identity(which).map_err(|_| usage())?;
    let now = WallClock::System.now();
    let entries = store.list().map_err(|error| failed(&error))?;
    let meant = |entry: &&TokenEntry| {
        entry.identity == who && entry.revoked.is_none() && now < entry.expires
    };
    let ids: Vec<TokenId> = entries.iter().filter(meant).map(|entry| entry.id).collect();
    if ids.is_empty() {
        let hint = "`farpipe token ls` lists them".to_owned();
        return Err(WithStatus::failure(
            format!("no token that is good stands for {who}"),
            Some(hint),
        ));
    }
    Ok(ids)
}

fn failed(error: &StoreError) -> anyhow::Error {
    WithStatus::failure(error.to_string(), Some(error.hint().to_owned()))
}
