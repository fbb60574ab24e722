//! `farpipe relay`: the meeting point of agents and those who ask for them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farpipe_agent::pipe::{Cancel, cancelled};
use farpipe_audit::Audit;
use farpipe_net::{FileStamp, Url};
use farpipe_proto::limits::{AGENTS_MAX, AGENTS_SET_MAX};
use farpipe_relay::{AdminError, AdminListener, Order, Relay, RelayConfig};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::behind::BehindArgs;
use self::doors::Doors;
use self::gateway::GatewayArgs;
use self::topics::TopicsArgs;
use super::audit::{self, AuditArgs};
use super::sandbox::SandboxArgs;
use super::secure::ListenTls;
use super::session::{conclude, heartbeat};
use crate::exit::WithStatus;
use crate::signals::Signals;
use crate::status::Status;
use crate::{notify, output};

mod behind;
mod doors;
mod gateway;
mod sandbox;
mod topics;

/// How often it is seen whether the configuration file is another.
const LOOK: Duration = Duration::from_secs(1);

/// Join those who ask for a host by name to its agent
///
/// Agents register here under the name in their certificate; `farpipe exec NAME` and the like ask for
/// them. The relay sees tunnels: which agent, how many bytes, when. It keeps nothing of what they
/// carry: when it is killed, sessions go on over the next one, or over the same one started again.
///
/// Beyond loopback it wants certificates: those of agents and clients are of the authority of --ca. On
/// loopback it lets in this user's own processes.
///
/// At /p/NAME of its ws and wss doors are the named pipes for those who have no farpipe: curl -T - and
/// curl -N, browsers (/p/NAME?view), and any WebSocket client. Topics (--data) are at /t/TOPIC.
///
/// SIGTERM and SIGINT end it in order: it closes its doors, tells agents and clients to go elsewhere
/// and gives them 5 seconds; a second one ends it at once. SIGHUP, and a change of the file that
/// --config names, open and close doors as the file now says; a file with an error changes nothing. SIGHUP
/// also opens the file of --audit-log again.
///
/// On Linux it gives up what it has no need of before it listens: files beside those that it is told of,
/// other programs, connections to elsewhere. -v says what this kernel could not close.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen: wss://HOST:PORT or fps://HOST:PORT with certificates; ws:// or fp:// on loopback
    /// only; repeatable
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:7000", value_parser = door)]
    listen: Vec<Url>,
    #[command(flatten)]
    tls: ListenTls,
    #[command(flatten)]
    behind: BehindArgs,
    #[command(flatten)]
    gateway: GatewayArgs,
    /// The beat of the signs of life; a link silent for three beats is dead
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = heartbeat)]
    heartbeat: Duration,
    /// Agents at once, up to 65536; one more is refused and asks again. Each link takes a descriptor
    #[arg(long, value_name = "N", default_value_t = AGENTS_MAX, value_parser = agents_max)]
    agents_max: usize,
    /// Answer HTTP here, on loopback only, for whoever runs the relay: GET /healthz, /readyz, /metrics,
    /// /agents, /tunnels, /audit-head; POST /agents/NAME/disconnect, /drain, /reload. Whoever reaches the port on
    /// this host may give orders
    #[arg(long, value_name = "HOST:PORT")]
    admin_listen: Option<String>,
    /// Answer GET /healthz, /readyz and /metrics here, and nothing else: for the probes of an orchestrator
    /// and for Prometheus, from any address. Port 0 picks one
    #[arg(long, value_name = "HOST:PORT")]
    probe_listen: Option<String>,
    #[command(flatten)]
    topics: TopicsArgs,
    #[command(flatten)]
    audit: AuditArgs,
    #[command(flatten)]
    sandbox: SandboxArgs,
    /// Write events to this descriptor, as lines of JSON
    #[arg(long, value_name = "FD")]
    status_fd: Option<u32>,
}

fn agents_max(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(most @ 1..=AGENTS_SET_MAX) => Ok(most),
        _ => Err(format!("a number from 1 to {AGENTS_SET_MAX} is wanted")),
    }
}

fn door(text: &str) -> Result<Url, String> {
    text.parse::<Url>().map_err(|error| error.to_string())
}

/// Where the settings come from.
pub(crate) struct Source {
    /// The configuration file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// Reads them again.
    pub(crate) read: fn() -> anyhow::Result<Args>,
}

pub(crate) async fn run(args: Args, source: Source, quiet: bool) -> anyhow::Result<u8> {
    output::hold();
    let status = Status::open_held(args.status_fd, false)?;
    let (signals, cancel, hangups) = Signals::catch_but_hangup()?;
    args.topics.prepare()?;
    let audit = args.audit.open()?;
    // Before there is another thread: what it may not do is given up by each for itself.
    let closed = args.close(source.file.as_deref());
    status.begin()?;
    closed.tell(&status);
    let mut aside = JoinSet::new();
    let (topics, kept) = match args.topics.begin(args.heartbeat, &mut aside).await {
        Ok(topics) => topics.unzip(),
        Err(error) => return conclude(Err(error), None, &status),
    };
    let config = RelayConfig {
        heartbeat: args.heartbeat,
        agents_max: args.agents_max,
        audit: audit.clone(),
        topics,
        kept,
        ..RelayConfig::default()
    };
    let (relay, running) = Relay::new(config);
    let (admin, orders) = relay.admin();
    let mut doors = Doors::new(Arc::new(relay), quiet, status.clone());
    if let Err(error) = doors.set(&args).await {
        return conclude(Err(error), None, &status);
    }
    let admin = Arc::new(admin);
    for (name, listener) in [
        (
            "admin",
            bound(&args.admin_listen, AdminListener::bind).await,
        ),
        (
            "probes",
            bound(&args.probe_listen, AdminListener::bind_probes).await,
        ),
    ] {
        let listener = match listener {
            Ok(Some(listener)) => listener,
            Ok(None) => continue,
            Err(failed) => return conclude(Err(failed), None, &status),
        };
        let address = listener.address();
        if !quiet {
            output::line(&format!("{name} on http://{address}"));
        }
        status.write(serde_json::json!({"event": name, "address": address.to_string()}));
        let admin = Arc::clone(&admin);
        aside.spawn(async move { match admin.serve(listener).await {} });
    }
    notify::ready();
    let keeper = Keeper {
        stamp: source.file.as_deref().map(FileStamp::of),
        args,
        source,
        doors,
        status: status.clone(),
        audit,
    };
    // A signal is how a relay ends: in order.
    signals
        .run(running.run(keeper.keep(orders, hangups, cancel)))
        .await;
    aside.shutdown().await;
    status.flush();
    Ok(0)
}

/// The listener at an address that was given.
async fn bound<'a, F>(
    address: &'a Option<String>,
    bind: impl FnOnce(&'a str) -> F,
) -> anyhow::Result<Option<AdminListener>>
where
    F: Future<Output = Result<AdminListener, AdminError>>,
{
    let Some(address) = address else {
        return Ok(None);
    };
    let failed =
        |error: AdminError| WithStatus::failure(error.to_string(), Some(error.hint().to_owned()));
    bind(address).await.map(Some).map_err(failed)
}

/// Carries out what a running relay is told.
struct Keeper {
    /// As they count now.
    args: Args,
    source: Source,
    /// Of the file as it was tried last, whether that went well or not.
    stamp: Option<FileStamp>,
    doors: Doors,
    status: Status,
    audit: Audit,
}

impl Keeper {
    /// Ready when the relay is told to end; then its doors are closed.
    async fn keep(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        mut hangups: Option<Signal>,
        cancel: Cancel,
    ) {
        let told = cancelled(cancel);
        tokio::pin!(told);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = &mut told => break,
                Some(order) = orders.recv() => match order {
                    Order::Drain => {
                        tracing::warn!("told to drain");
                        break;
                    }
                    Order::Reload(tell) => {
                        // An error means that whoever asked has left.
                        let _ = tell.send(self.reload("the admin asked for it").await);
                    }
                },
                () = hung_up(&mut hangups) => {
                    let audit = self.audit.clone();
                    // What came of it was said; the task holds nothing.
                    let _ = tokio::task::spawn_blocking(move || audit::reopen(&audit)).await;
                    // Said where it is heard.
                    let _ = self.reload("SIGHUP").await;
                }
                _ = look.tick(), if self.source.file.is_some() => {
                    if self.stamp != self.source.file.as_deref().map(FileStamp::of) {
                        let _ = self.reload("its file has changed").await;
                    }
                }
            }
        }
        notify::stopping();
        self.status.write(serde_json::json!({"event": "draining"}));
        self.doors.close_all().await;
    }

    /// Reads the settings again and does what they say, or nothing. What was done, or why nothing.
    async fn reload(&mut self, cause: &str) -> Result<Vec<String>, String> {
        notify::reloading();
        // Before the file is read: a change in between is seen next time.
        self.stamp = self.source.file.as_deref().map(FileStamp::of);
        let reloaded = self.reloaded().await;
        notify::ready();
        match reloaded {
            Ok(changes) => {
                let told = match changes.as_slice() {
                    [] => "nothing is to be changed".to_owned(),
                    changes => changes.join("; "),
                };
                tracing::warn!("the configuration was read again ({cause}): {told}");
                let event = serde_json::json!({"event": "reloaded", "changes": changes});
                self.status.write(event);
                Ok(changes)
            }
            Err(error) => {
                let mut why = format!("{error:#}");
                if let Some(hint) = crate::exit::hint_of(&error) {
                    why = format!("{why} ({hint})");
                }
                output::error(&format!(
                    "the configuration cannot be used, the last good one stays ({cause}): {why}"
                ));
                let event = serde_json::json!({"event": "reload-failed", "error": why});
                self.status.write(event);
                Err(why)
            }
        }
    }

    async fn reloaded(&mut self) -> anyhow::Result<Vec<String>> {
        let new = (self.source.read)()?;
        let mut changes = self.doors.set(&new).await?;
        for (is_other, what) in [
            (new.tls != self.args.tls, "which files hold certificates"),
            (new.heartbeat != self.args.heartbeat, "heartbeat"),
            (new.agents_max != self.args.agents_max, "agents_max"),
            (new.admin_listen != self.args.admin_listen, "admin_listen"),
            (new.probe_listen != self.args.probe_listen, "probe_listen"),
            (new.behind != self.args.behind, "what is before the relay"),
            (new.gateway != self.args.gateway, "the gateway"),
            (new.topics != self.args.topics, "the topics"),
            (new.audit != self.args.audit, "the audit log"),
            (new.sandbox != self.args.sandbox, "the sandbox"),
        ] {
            if is_other {
                changes.push(format!(
                    "{what}: takes effect when the relay is started anew"
                ));
            }
        }
        Ok(changes)
    }
}

/// The next SIGHUP; never where it was ignored when the process started. Cancel safe.
async fn hung_up(hangups: &mut Option<Signal>) {
    if let Some(hangups) = hangups
        && hangups.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}
