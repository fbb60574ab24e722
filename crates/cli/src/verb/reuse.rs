//! Commands go through the local agent of their user, if one runs, which keeps sessions open for them:
//! what a command says of its way, and what the local agent makes of that
//! (docs/decisions/0015-connection-reuse.md).
//!
//! Nothing that only the command has goes along: tickets, and tokens of its environment. Whatever is
//! in the way of reuse is no error: the command goes its own way, and says itself what is wrong with it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use farpipe_agent::reuse::{Road, Roads};
use farpipe_net::{FileStamp, LocalAgent, OpenerConfig, Proxy};
use farpipe_proto::limits::{HANDSHAKE_STEP, REUSE_HEARTBEAT};
use farpipe_proto::wire::local::{WayAnswer, WayAsked, WayFile, WayFileUse, WayVariable, exactly};

use super::environment::Environment;
use super::proxy::ProxyArgs;
use super::route::{RouteArgs, Way};
use super::secure::{ConnectCertificates, ConnectTls};
use super::session::{HEARTBEATS, SOFTWARE, SessionArgs, nothing_to_prove};

/// Variables with a secret that is good for the command alone.
const OWN_SECRETS: [&str; 2] = ["FARPIPE_TICKET", "FARPIPE_TOKEN"];
/// Variables that say which authorities the system trusts: they cannot be told, but compared.
const OWN_AUTHORITIES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// How patiently an agent is sought.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) resume_for: Duration,
    pub(super) heartbeat: Duration,
}

/// A route that a local agent may know already.
#[derive(Debug, Args)]
pub(crate) struct ReusedRoute {
    /// Connect anew, though a local agent of this user (`farpipe agent`) could keep the connection
    #[arg(long, env = "FARPIPE_NO_REUSE", value_parser = FalseyValueParser::new())]
    no_reuse: bool,
    #[command(flatten)]
    route: RouteArgs,
}

impl ReusedRoute {
    /// The route without it.
    pub(super) fn anew(&self) -> &RouteArgs {
        &self.route
    }

    /// The way to the target, and how patiently it is gone: through the local agent if there is one, for
    /// which this may wait for a moment.
    pub(super) fn way_of(
        &self,
        target: &str,
        resume_for: Duration,
        session: &SessionArgs,
    ) -> anyhow::Result<Way> {
        let heartbeat = session.heartbeat;
        let patience = Patience {
            resume_for,
            heartbeat,
        };
        // What becomes of the link to the far agent is known to the local agent only.
        let is_told = session.tells_of_links();
        if !is_told && let Some(way) = self.reused(target, patience) {
            return Ok(way);
        }
        let mut way = self.route.way(target)?;
        way.config.resume_for = resume_for;
        way.config.heartbeat = heartbeat;
        Ok(way)
    }

    /// The way to the target through the local agent; `None`: there is none, or it cannot be taken.
    pub(super) fn reused(&self, target: &str, patience: Patience) -> Option<Way> {
        if self.no_reuse {
            return None;
        }
        let asked = self.route.described(target, patience);
        let (agent, answer) = asked
            .map_err(str::to_owned)
            .and_then(|asked| LocalAgent::ask(&asked.to_bytes()).map_err(|error| error.to_string()))
            .inspect_err(|why| tracing::debug!("no local agent is used: {why}"))
            .ok()?;
        let answer: WayAnswer = exactly(&answer)?;
        if !answer.taken {
            tracing::info!("the local agent cannot be used: {}", answer.why);
            return None;
        }
        tracing::info!("by the local agent to {}", answer.peer);
        let mut config = OpenerConfig::new(nothing_to_prove());
        // The local agent does what patience is needed for; itself it is there or not.
        config.resume_for = HANDSHAKE_STEP;
        config.heartbeat = REUSE_HEARTBEAT;
        let dial = Box::new(agent.into_dial(answer.peer));
        Some(Way {
            dial,
            config,
            is_reused: true,
        })
    }
}

impl RouteArgs {
    /// The way as the local agent is told it, or why it cannot be told.
    fn described(&self, target: &str, patience: Patience) -> Result<WayAsked, &'static str> {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let tls = &self.tls;
        if tls.ticket_file.is_some() || OWN_SECRETS.iter().any(|name| is_set(name)) {
            return Err("a ticket or a token of the environment is the command's own");
        }
        let certificates = &tls.certificates;
        let named = [
            (WayFileUse::Certificate, &certificates.cert),
            (WayFileUse::Key, &certificates.key),
            (WayFileUse::Authority, &certificates.ca),
            (WayFileUse::Revoked, &certificates.crl),
            (WayFileUse::Token, &tls.token_file),
        ];
        let files = named
            .into_iter()
            .filter_map(|(usage, path)| Some((usage, path.as_deref()?)))
            .map(|(usage, path)| seen(usage, path).ok_or("a file that it names is not there"))
            .collect::<Result<_, _>>()?;
        let variables = Proxy::variables().chain(OWN_AUTHORITIES);
        let variables = variables.filter_map(|name| {
            let value = std::env::var_os(name)?.into_vec();
            let name = name.to_owned();
            Some(WayVariable { name, value })
        });
        Ok(WayAsked {
            software: SOFTWARE.to_owned(),
            target: target.to_owned(),
            relays: match target.contains("://") {
                true => Vec::new(),
                false => self.relay.clone(),
            },
            no_e2e: self.no_e2e,
            files,
            pins: certificates.pin.iter().map(ToString::to_string).collect(),
            proxy: self.proxy.http_proxy.clone(),
            variables: variables.collect(),
            resume_for_ms: millis(patience.resume_for),
            heartbeat_ms: millis(patience.heartbeat),
        })
    }

    /// The flags of a command that has told its way.
    fn told(asked: &WayAsked) -> Result<Self, String> {
        let mut files = BTreeMap::new();
        for file in &asked.files {
            let usage = WayFileUse::from_wire(file.usage).ok_or("a file for an unknown use")?;
            let path = PathBuf::from(OsStr::from_bytes(&file.path));
            if files.insert(usage as u32, path).is_some() {
                return Err("two files for one use".to_owned());
            }
        }
        let mut take = |usage: WayFileUse| files.remove(&(usage as u32));
        let environment = environment(asked);
        let pins = asked.pins.iter().map(|pin| pin.parse());
        let pin = pins
            .collect::<Result<_, _>>()
            .map_err(|_| "a pin that is none")?;
        let certificates = ConnectCertificates {
            cert: take(WayFileUse::Certificate),
            key: take(WayFileUse::Key),
            ca: take(WayFileUse::Authority),
            crl: take(WayFileUse::Revoked),
            pin,
        };
        Ok(Self {
            relay: asked.relays.clone(),
            no_e2e: asked.no_e2e,
            tls: ConnectTls {
                certificates,
                ticket_file: None,
                token_file: take(WayFileUse::Token),
                environment: environment.clone(),
            },
            proxy: ProxyArgs {
                http_proxy: asked.proxy.clone(),
                environment,
            },
        })
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A file as it is seen from here; `None` if it is not.
fn seen(usage: WayFileUse, path: &Path) -> Option<WayFile> {
    let path = std::path::absolute(path).ok()?;
    match FileStamp::of(&path) {
        FileStamp::File {
            device,
            inode,
            len,
            modified,
            changed,
        } => Some(WayFile {
            usage: usage as u32,
            path: path.into_os_string().into_vec(),
            device,
            inode,
            len,
            modified: modified.0,
            modified_nanos: modified.1,
            changed: changed.0,
            changed_nanos: changed.1,
        }),
        FileStamp::Failed(_) => None,
    }
}

/// What a command has told of its environment.
fn environment(asked: &WayAsked) -> Environment {
    let variables = asked.variables.iter().map(|variable| {
        let value = OsString::from_vec(variable.value.clone());
        (variable.name.clone(), value)
    });
    Environment::Told(variables.collect())
}

/// What makes roads of the ways that commands tell.
pub(super) fn roads() -> Arc<Roads> {
    Arc::new(road)
}

/// The command would go this road itself: the files that it names are the ones that are read here.
fn road(asked: &WayAsked) -> Result<Road, String> {
    let are_same = || {
        asked.files.iter().all(|file| {
            let usage = WayFileUse::from_wire(file.usage);
            let path = Path::new(OsStr::from_bytes(&file.path));
            usage.and_then(|usage| seen(usage, path)).as_ref() == Some(file)
        })
    };
    let environment = environment(asked);
    let is_own = |name: &str| environment.variable(name) == std::env::var_os(name);
    if !OWN_AUTHORITIES.iter().all(|name| is_own(name)) {
        return Err("it has other authorities in its environment".to_owned());
    }
    let heartbeat = Duration::from_millis(asked.heartbeat_ms);
    if !HEARTBEATS.contains(&heartbeat) {
        return Err("a heartbeat out of range".to_owned());
    }
    let route = RouteArgs::told(asked)?;
    let way = route.way(&asked.target);
    let Way {
        dial, mut config, ..
    } = way.map_err(|error| format!("{error:#}"))?;
    // Behind the reading: what was read is what was named.
    if !are_same() {
        return Err("its files look different from here".to_owned());
    }
    config.resume_for = Duration::from_millis(asked.resume_for_ms);
    config.heartbeat = heartbeat;
    Ok(Road { dial, config })
}
