//! What a relay counts, as Prometheus reads it. docs/relay.md has the table.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use farpipe_net::HandshakeError;
use farpipe_proto::limits::HOP_WINDOWS_MAX;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::tunnels::Tunnels;

/// One label and its value, both from this program: nothing a peer says becomes a label.
type Label = [(&'static str, &'static str); 1];
type Counters = Family<Label, Counter>;

/// Counters that go up where something happens. What is now (agents, tunnels, windows) is looked at
/// when somebody asks: [`Gauges`].
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) tunnels: Arc<Tunnels>,
    handshakes_failed: Counters,
    registrations: Counters,
    agents_gone: Counters,
    pub(crate) sessions_joined: Counter,
    sessions_refused: Counters,
    sessions_parted: Counters,
    heartbeat_losses: Counters,
    agents: Gauge,
    joined: Gauge,
    held: Gauge,
    windows: Gauge,
    doors_open: Gauge,
    draining: Gauge,
    /// Doors that there are.
    pub(crate) doors: AtomicUsize,
    pub(crate) is_draining: AtomicBool,
}

/// What is now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gauges {
    pub(crate) agents: usize,
    pub(crate) held: usize,
    /// Bytes of all tunnels' windows.
    pub(crate) windows: u64,
}

/// How an agent's link came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// It took its leave.
    Left,
    Lost,
    TimedOut,
    Fenced,
    Disconnected,
    Revoked,
    Drained,
}

impl Gone {
    /// For who asks for the agent.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Left => "it has ended",
            Self::Lost => "its link was lost",
            Self::TimedOut => "it was silent for three heartbeats",
            Self::Fenced => "it had a newer link",
            Self::Disconnected => "it was disconnected by whoever runs the relay",
            Self::Revoked => "what let it in was taken back",
            Self::Drained => "the relay was going away",
        }
    }
}

/// How a tunnel came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parted {
    /// The agent said so.
    ByAgent,
    /// The client said so.
    ByClient,
    ClientLost,
    /// What let the client in was taken back.
    Revoked,
    AgentLost,
}

/// On which side of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Neighbour {
    Agent,
    Client,
}

impl Default for Metrics {
    fn default() -> Self {
        let tunnels = Arc::new(Tunnels::default());
        let mut all = Registry::with_prefix("farpipe");
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        all.register("build", "What runs here", Info::new(version));
        let mut metrics = Self {
            registry: Registry::default(),
            tunnels,
            handshakes_failed: Counters::default(),
            registrations: Counters::default(),
            agents_gone: Counters::default(),
            sessions_joined: Counter::default(),
            sessions_refused: Counters::default(),
            sessions_parted: Counters::default(),
            heartbeat_losses: Counters::default(),
            agents: Gauge::default(),
            joined: Gauge::default(),
            held: Gauge::default(),
            windows: Gauge::default(),
            doors_open: Gauge::default(),
            draining: Gauge::default(),
            doors: AtomicUsize::new(0),
            is_draining: AtomicBool::new(false),
        };
        metrics.name_all(all.sub_registry_with_prefix("relay"));
        metrics.registry = all;
        metrics
    }
}

impl Metrics {
    fn name_all(&self, all: &mut Registry) {
        let mut counters = |name, help, counters: &Counters| {
            all.register(name, help, counters.clone());
        };
        counters(
            "handshakes_failed",
            "Connections that were not let in, by the step at which they failed",
            &self.handshakes_failed,
        );
        counters(
            "registrations",
            "Agents that asked to be registered, by what became of it",
            &self.registrations,
        );
        counters(
            "agents_gone",
            "Agents' links that ended, by reason",
            &self.agents_gone,
        );
        counters(
            "sessions_refused",
            "Attaches that were joined to no agent, by reason",
            &self.sessions_refused,
        );
        counters(
            "sessions_parted",
            "Tunnels that ended, by reason",
            &self.sessions_parted,
        );
        counters(
            "heartbeat_losses",
            "Links that were silent for three heartbeats, by neighbour",
            &self.heartbeat_losses,
        );
        all.register(
            "sessions_joined",
            "Attaches that were joined to an agent",
            self.sessions_joined.clone(),
        );
        let [to_agent, to_client] = self.tunnels.passed.clone();
        for (name, counter) in [
            ("passed_to_agents", to_agent),
            ("passed_to_clients", to_client),
        ] {
            let help = "Payload that was passed on, of all tunnels";
            all.register_with_unit(name, help, Unit::Bytes, counter);
        }
        let mut gauge = |name, help, gauge: &Gauge| all.register(name, help, gauge.clone());
        gauge("agents", "Agents registered now", &self.agents);
        gauge("tunnels", "Tunnels joined now", &self.joined);
        gauge(
            "held",
            "Attaches held now for an agent that is away",
            &self.held,
        );
        gauge("doors", "Listeners open now", &self.doors_open);
        gauge(
            "draining",
            "1 while the relay is going away",
            &self.draining,
        );
        let limit = Gauge::<i64>::default();
        limit.set(signed(HOP_WINDOWS_MAX));
        let help = "What may wait here for slow readers, of all tunnels";
        all.register_with_unit("windows", help, Unit::Bytes, self.windows.clone());
        let help = "The largest value of windows_bytes";
        all.register_with_unit("windows_limit", help, Unit::Bytes, limit);
    }

    pub(crate) fn handshake_failed(&self, error: &HandshakeError) {
        let step = error.step().unwrap_or("cut");
        self.handshakes_failed
            .get_or_create(&[("step", step)])
            .inc();
    }

    pub(crate) fn registration(&self, outcome: &'static str) {
        self.registrations
            .get_or_create(&[("outcome", outcome)])
            .inc();
    }

    pub(crate) fn agent_gone(&self, gone: Gone) {
        let reason = match gone {
            Gone::Left => "left",
            Gone::Lost => "lost",
            Gone::TimedOut => "timed_out",
            Gone::Fenced => "fenced",
            Gone::Disconnected => "disconnected",
            Gone::Revoked => "revoked",
            Gone::Drained => "drained",
        };
        self.agents_gone.get_or_create(&[("reason", reason)]).inc();
    }

    pub(crate) fn session_refused(&self, reason: &'static str) {
        self.sessions_refused
            .get_or_create(&[("reason", reason)])
            .inc();
    }

    pub(crate) fn session_parted(&self, parted: Parted) {
        let reason = match parted {
            Parted::ByAgent => "by_agent",
            Parted::ByClient => "by_client",
            Parted::ClientLost => "client_lost",
            Parted::Revoked => "client_revoked",
            Parted::AgentLost => "agent_lost",
        };
        self.sessions_parted
            .get_or_create(&[("reason", reason)])
            .inc();
    }

    pub(crate) fn heartbeat_lost(&self, neighbour: Neighbour) {
        let neighbour = match neighbour {
            Neighbour::Agent => "agent",
            Neighbour::Client => "client",
        };
        self.heartbeat_losses
            .get_or_create(&[("neighbour", neighbour)])
            .inc();
    }

    /// Whether who comes now is served.
    pub(crate) fn is_ready(&self) -> bool {
        self.doors.load(Ordering::Relaxed) > 0 && !self.is_draining.load(Ordering::Relaxed)
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self, now: Gauges) -> String {
        self.agents.set(signed(now.agents as u64));
        self.held.set(signed(now.held as u64));
        self.windows.set(signed(now.windows));
        self.joined.set(signed(self.tunnels.len() as u64));
        let doors = self.doors.load(Ordering::Relaxed);
        self.doors_open.set(signed(doors as u64));
        let is_draining = self.is_draining.load(Ordering::Relaxed);
        self.draining.set(i64::from(is_draining));
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
