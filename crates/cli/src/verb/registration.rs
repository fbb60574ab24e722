//! How an agent, or a pipe's writer, makes itself known: the relays of its list, and its name there.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use farpipe_agent::endpoint::is_kind;
use farpipe_net::tls::{identity_in_certificate, read_certificate};
use farpipe_net::token::Token;
use farpipe_net::{Acceptor, AgentLink, AgentLinkConfig, Dial as _, TcpDial};
use farpipe_proto::identity::{Kind, is_name};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::environment::Environment;
use super::given::given;
use super::route::Leg;
use super::secure::{ListenTls, Proves};
use super::session::{dialling, url};
use crate::exit::WithStatus;
use crate::output;
use crate::status::Status;

/// After that a pipe is asked for once more whose writer has perhaps just ended.
const TAKEN_AGAIN: Duration = Duration::from_secs(1);

/// How long a relay that refused for good is left alone, as long as another one is not.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Where an agent registers.
#[derive(Debug, clap::Args)]
pub(crate) struct RegistrationArgs {
    /// The relays to register at, all of them at once: wss://HOST:PORT[/PATH] or fps://HOST:PORT, on this
    /// host also ws:// or fp://; several with commas between
    #[arg(value_name = "RELAY", env = "FARPIPE_RELAY", value_delimiter = ',')]
    relay: Vec<String>,
    /// The name that callers ask for [default: the one in the certificate]
    #[arg(long)]
    name: Option<String>,
    /// The token to prove to the relays, as `farpipe token issue` printed it, in a file of mode 0600;
    /// $FARPIPE_TOKEN holds the token itself
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// What else to say of this host; repeatable
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
}

/// What registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum What {
    #[default]
    Agent,
    /// A name that somebody else has at one relay is not to be had at all.
    Pipe,
}

/// The links of an agent or a pipe, not yet dialled.
#[derive(Debug, Default)]
pub(crate) struct Links {
    what: What,
    name: String,
    links: Vec<(AgentLink, TcpDial, watch::Receiver<bool>)>,
}

impl RegistrationArgs {
    /// The file of the token that is proven, if there is one.
    pub(crate) fn token_file(&self) -> Option<&Path> {
        self.token_file.as_deref()
    }

    /// Whether there is a relay to register at.
    pub(crate) fn is_given(&self) -> bool {
        self.relays().next().is_some()
    }

    /// The list, without what is empty: as a variable is that was unset in a hurry.
    fn relays(&self) -> impl Iterator<Item = &str> {
        let texts = self.relay.iter().map(String::as_str);
        texts.filter(|text| !text.is_empty())
    }

    /// The name to register.
    fn name(&self, tls: &ListenTls) -> anyhow::Result<String> {
        let certified = tls.certificate().map(certified).transpose()?.flatten();
        match (&self.name, certified) {
            (Some(name), Some(certified)) if *name != certified => Err(WithStatus::usage(
                format!("the certificate is that of the agent {certified}, not of {name}"),
                "leave out --name, or issue a certificate for that name",
            )),
            (_, Some(certified)) => Ok(certified),
            (Some(name), None) if is_kind(name) => Err(WithStatus::usage(
                format!("'{name}' is a kind of endpoint, and no name for a host"),
                "choose another --name: in HOST:PATH it would be taken for the kind",
            )),
            (Some(name), None) if is_name(name) => Ok(name.clone()),
            (Some(name), None) => Err(WithStatus::usage(
                format!("'{}' cannot be a name", name.escape_debug()),
                "a name has up to 63 small letters, digits, dots, hyphens and underscores",
            )),
            (None, None) => Err(WithStatus::usage(
                "callers at a relay need a name to ask for",
                "give --name, or a certificate of an agent: farpipe cert issue NAME --kind agent; to \
                 listen only, without a relay, unset FARPIPE_RELAY",
            )),
        }
    }

    /// The links to all relays, which bring what callers want to `acceptor`.
    pub(crate) fn links(
        &self,
        tls: &ListenTls,
        acceptor: &Arc<Acceptor>,
        heartbeat: Duration,
    ) -> anyhow::Result<Links> {
        let name = match self.is_given() {
            true => self.name(tls)?,
            false => String::new(),
        };
        let token: Option<Token> = given(self.token_file.as_deref(), &Environment::Own)?;
        let proves = token.map_or(Proves::Usual, |token| Proves::Token(Arc::new(token)));
        let mut links = Vec::new();
        let mut instance = vec![0; 16];
        farpipe_net::system_random(&mut instance);
        for text in self.relays() {
            let url = url(text)?;
            let greeting = dialling(proves.admission(&url), proves.clone())?;
            let mut config = AgentLinkConfig::new(name.clone(), greeting);
            config.tags.clone_from(&self.tag);
            config.instance.clone_from(&instance);
            config.heartbeat = heartbeat;
            let (registered, is_registered) = watch::channel(false);
            config.registered = Some(registered);
            let link = AgentLink::new(Arc::clone(acceptor), config);
            links.push((link, tls.dial(url)?, is_registered));
        }
        Ok(Links {
            what: What::Agent,
            name,
            links,
        })
    }
}

impl Links {
    /// The links of the writer of a pipe to all relays of its list, which bring its readers to
    /// `acceptor`.
    pub(crate) fn of_pipe(
        name: &str,
        legs: Vec<Leg>,
        acceptor: &Arc<Acceptor>,
        heartbeat: Duration,
    ) -> anyhow::Result<Self> {
        let mut instance = vec![0; 16];
        farpipe_net::system_random(&mut instance);
        let link = |leg: Leg| {
            let mut config = AgentLinkConfig::new(name.to_owned(), leg.greeting()?);
            config.pipe = true;
            config.must_be_there = true;
            config.instance.clone_from(&instance);
            config.heartbeat = heartbeat;
            let (registered, is_registered) = watch::channel(false);
            config.registered = Some(registered);
            let link = AgentLink::new(Arc::clone(acceptor), config);
            anyhow::Ok((link, leg.dial, is_registered))
        };
        Ok(Self {
            what: What::Pipe,
            name: name.to_owned(),
            links: legs.into_iter().map(link).collect::<Result<_, _>>()?,
        })
    }
}

/// The agent's name in a certificate.
fn certified(path: &Path) -> anyhow::Result<Option<String>> {
    let der = read_certificate(path)
        .map_err(|error| WithStatus::failure(error.to_string(), error.hint().map(str::to_owned)))?;
    let identity = identity_in_certificate(&der).filter(|identity| identity.kind() == Kind::Agent);
    Ok(identity.map(|identity| identity.name().to_owned()))
}

impl Links {
    /// Keeps the agent or pipe registered, and says where it is. Ready when no relay wants it any more:
    /// for ever pending without any relay. For a pipe with the reason, which has not been said. Ready also
    /// when `leave` is true and it has taken its leave of all relays, which takes up to a second.
    ///
    /// # Cancellation
    /// Dropping it ends all links: lost ones, to their relays.
    pub(crate) async fn keep(
        self,
        quiet: bool,
        status: &Status,
        leave: watch::Receiver<bool>,
    ) -> Option<String> {
        let Self { what, name, links } = self;
        if links.is_empty() {
            told_to_leave(leave).await;
            return None;
        }
        let mut running = JoinSet::new();
        let alive = Arc::new(watch::channel(links.len()).0);
        for (link, dial, is_registered) in links {
            let was_registered: Arc<AtomicBool> = Arc::default();
            let told = told(
                what,
                name.clone(),
                dial.peer(),
                is_registered,
                Arc::clone(&was_registered),
                quiet,
                status.clone(),
            );
            let alive = Arc::clone(&alive);
            let leave = leave.clone();
            running.spawn(one(what, link, dial, told, was_registered, alive, leave));
        }
        while let Some(ended) = running.join_next().await {
            match ended {
                Ok(None) => {}
                Ok(Some(why)) => return Some(why),
                Err(error) => output::error(&format!("a link's task failed: {error}")),
            }
        }
        None
    }
}

/// Keeps one link. What is wrong with its relay may be mended, so as long as another relay wants the
/// agent it asks again; ready when none does, or another process has the name. Then a pipe is over that
/// has not begun, and the reason is returned; else it was said. One that has begun at other relays goes on
/// there.
async fn one(
    what: What,
    link: AgentLink,
    dial: TcpDial,
    told: impl Future<Output = Infallible>,
    was_registered: Arc<AtomicBool>,
    alive: Arc<watch::Sender<usize>>,
    leave: watch::Receiver<bool>,
) -> Option<String> {
    let linked = async {
        let mut last = None;
        let mut was_taken = false;
        loop {
            let leaving = told_to_leave(leave.clone());
            let end = match link.run_until(&dial, leaving).await {
                Ok(()) => return None,
                Err(end) => end,
            };
            let text = end.to_string();
            if what == What::Pipe && end.is_taken && !was_taken {
                was_taken = true;
                tokio::select! {
                    () = tokio::time::sleep(TAKEN_AGAIN) => {}
                    () = told_to_leave(leave.clone()) => {}
                }
                continue;
            }
            let is_alone = *alive.borrow() == 1;
            let has_begun = was_registered.load(Ordering::Relaxed);
            if what == What::Pipe && (is_alone || !has_begun && (end.is_taken || end.is_ousted)) {
                return Some(text);
            }
            if last.as_ref() != Some(&text) {
                output::error(&text);
                last = Some(text);
            }
            alive.send_modify(|alive| *alive -= 1);
            if end.is_ousted {
                return None;
            }
            let mut others = alive.subscribe();
            tokio::select! {
                _ = others.wait_for(|alive| *alive == 0) => return None,
                () = tokio::time::sleep(ASK_AGAIN) => {}
                () = told_to_leave(leave.clone()) => return None,
            }
            alive.send_modify(|alive| *alive += 1);
        }
    };
    tokio::select! {
        why = linked => why,
        never = told => match never {},
    }
}

/// Ready when `leave` is true; never without one who says so.
async fn told_to_leave(mut leave: watch::Receiver<bool>) {
    if leave.wait_for(|leave| *leave).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Says where an agent is registered, each time; of a pipe only as an event.
async fn told(
    what: What,
    name: String,
    relay: String,
    mut is_registered: watch::Receiver<bool>,
    was_registered: Arc<AtomicBool>,
    quiet: bool,
    status: Status,
) -> Infallible {
    loop {
        let _ = is_registered.wait_for(|registered| *registered).await;
        was_registered.store(true, Ordering::Relaxed);
        // Whoever reads or writes a pipe waits for the other end, not for a relay: -v tells.
        if !quiet && what == What::Agent {
            output::line(&format!("registered as {name} at {relay}"));
        }
        status.write(serde_json::json!({"event": "registered", "name": name, "url": relay}));
        let _ = is_registered.wait_for(|registered| !*registered).await;
    }
}
