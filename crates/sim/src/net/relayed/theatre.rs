//! Plays a plan with real relays, an agent and callers, and judges it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use farpipe_net::Clock;
use farpipe_relay::Load;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::judge::judge;
use super::log::Log;
use super::plan::{Blow, CALLERS_MAX, Plan, RELAYS};
use super::process::{AgentProcess, Process, RelayProcess, Setting, call};
use crate::net::chance::Digest;
use crate::net::network::Network;
use crate::net::runner::{Runner, Wrong};
use crate::net::trace::Trace;

/// Virtual time after which somebody hangs: far more than all faults of a plan together.
const HANGS_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// How long a session is kept at most beyond what its opener's `resume_for` is.
const PARKED_ON: Duration = Duration::from_secs(120);

/// Nothing is under way for longer: the longest stall, and three beats.
const LATE: Duration = Duration::from_secs(100);

const NAMES: [&str; CALLERS_MAX] = ["caller 0", "caller 1", "caller 2", "caller 3"];

/// What runs amounted to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Runs.
    pub runs: u64,
    /// Connections lost, and attempts that failed.
    pub disconnects: u64,
    /// Stream bytes that arrived.
    pub bytes: u64,
    /// Requests that were carried out to the end.
    pub succeeded: u64,
    /// Requests whose caller heard that they failed.
    pub failed: u64,
    /// Requests whose caller was killed.
    pub killed: u64,
    /// Virtual time.
    pub elapsed: Duration,
    /// Of all that happened and when.
    pub trace: Digest,
}

impl Report {
    fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.disconnects += other.disconnects;
        self.bytes += other.bytes;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.killed += other.killed;
        self.elapsed += other.elapsed;
        self.trace.add(&other.trace.to_bytes());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} runs, {} disconnects, {} bytes, 0 wrong, {} requests succeeded, {} failed, {} killed, 0 ran \
             twice, {} s of virtual time",
            self.runs,
            self.disconnects,
            self.bytes,
            self.succeeded,
            self.failed,
            self.killed,
            self.elapsed.as_secs()
        )
    }
}

/// A run that went wrong.
#[derive(Debug)]
pub struct Failed {
    /// What was found.
    pub what: String,
    /// All that decided the run.
    pub plan: Box<Plan>,
    /// What had happened, with the milliseconds when.
    pub trace: Vec<String>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}\n{:?}", self.plan.seed, self.what, self.plan)?;
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(
            f,
            "again: cargo run --release -p farpipe-sim --example net_relays -- --from {} --seeds 1",
            self.plan.seed
        )
    }
}

impl std::error::Error for Failed {}

impl Failed {
    fn of(plan: &Plan, wrong: Wrong) -> Box<Self> {
        Box::new(Self {
            what: wrong.what,
            plan: Box::new(plan.clone()),
            trace: wrong.trace,
        })
    }
}

/// A runtime in virtual time that plays one plan after the other.
#[derive(Debug)]
pub struct Theatre {
    runner: Runner,
}

impl Default for Theatre {
    fn default() -> Self {
        Self::new()
    }
}

impl Theatre {
    /// An empty one.
    ///
    /// # Panics
    /// If the system gives no runtime.
    #[must_use]
    pub fn new() -> Self {
        Self {
            runner: Runner::new(),
        }
    }

    /// Plays a plan; also what happened: lines of milliseconds, who, what.
    ///
    /// # Errors
    /// [`Failed`], also for a panic.
    pub fn play(&mut self, plan: &Plan) -> Result<(Report, Vec<String>), Box<Failed>> {
        let played = self.runner.play(plan.seed, |trace| perform(plan, trace));
        played.map_err(|wrong| Failed::of(plan, wrong))
    }

    /// Plays a plan twice: the same must happen at the same times.
    ///
    /// # Errors
    /// [`Failed`].
    pub fn play_twice(&mut self, plan: &Plan) -> Result<Report, Box<Failed>> {
        let played = self
            .runner
            .play_twice(plan.seed, |trace| perform(plan, trace));
        played.map_err(|wrong| Failed::of(plan, wrong))
    }
}

/// Plays each seed twice.
///
/// # Errors
/// The first [`Failed`].
pub fn seeds(
    theatre: &mut Theatre,
    seeds: impl IntoIterator<Item = u64>,
) -> Result<Report, Box<Failed>> {
    let mut sum = Report::default();
    for seed in seeds {
        sum.add(&theatre.play_twice(&Plan::from_seed(seed))?);
    }
    Ok(sum)
}

/// All processes of a run.
struct Stage {
    setting: Setting,
    relays: [Option<RelayProcess>; RELAYS],
    agent: Option<AgentProcess>,
    callers: Vec<Option<Process>>,
    /// Relays on their way out.
    leaving: Vec<Process>,
    watches: JoinSet<()>,
}

async fn perform(plan: &Plan, mut trace: Trace) -> Result<Report, String> {
    trace.begin();
    let began = Instant::now();
    let addresses: [Vec<Network>; RELAYS] = std::array::from_fn(|relay| {
        let agent = std::iter::once(&plan.agent_links[relay]);
        let links = agent.chain(plan.callers.iter().map(|caller| &caller.links[relay]));
        let address =
            |fortunes: &Vec<_>| Network::new(plan.kind, plan.quality.clone(), fortunes.clone());
        links.map(address).collect()
    });
    let networks: Vec<Network> = addresses.iter().flatten().cloned().collect();
    let setting = Setting {
        plan: Arc::new(plan.clone()),
        clock: Clock::Tokio(Instant::now()),
        log: Log::new(trace.clone(), plan.callers.len()),
        addresses,
    };
    let mut stage = Stage {
        relays: std::array::from_fn(|number| Some(RelayProcess::start(&setting, number, true))),
        agent: None,
        callers: Vec::new(),
        leaving: Vec::new(),
        watches: JoinSet::new(),
        setting,
    };
    let Ok(played) = timeout(HANGS_AFTER, stage.play()).await else {
        return Err("somebody hangs".to_owned());
    };
    played?;
    stage.end().await;
    // Tasks that were told to end are gone a moment later.
    tokio::task::yield_now().await;
    let live: u64 = networks.iter().map(Network::live).sum();
    if live > 0 {
        return Err(format!("{live} connections are left"));
    }
    let requests = stage.setting.log.requests().clone();
    judge(plan, &requests)?;
    let taken = requests.iter().flat_map(|request| request.parts.iter());
    let taken = taken.flatten().filter(|part| !part.giver);
    let count = |of: fn(&super::log::Request) -> bool| {
        requests.iter().filter(|request| of(request)).count() as u64
    };
    Ok(Report {
        runs: 1,
        disconnects: networks.iter().map(|n| n.counts().disconnects).sum(),
        bytes: taken.map(|part| part.told.bytes).sum(),
        succeeded: count(|r| !r.killed && matches!(r.ended, Some(Ok(())))),
        failed: count(|r| !r.killed && matches!(r.ended, Some(Err(_)))),
        killed: count(|r| r.killed),
        elapsed: began.elapsed(),
        trace: trace.digest(),
    })
}

impl Stage {
    async fn play(&mut self) -> Result<(), String> {
        let mut agent = AgentProcess::start(&self.setting, &mut self.watches);
        agent.registered().await;
        self.agent = Some(agent);
        for caller in 0..self.setting.plan.callers.len() {
            let log = &self.setting.log;
            let events = log.watch(&mut self.watches, NAMES[caller % CALLERS_MAX], Some(caller));
            self.callers.push(Some(Process::begin(call(
                self.setting.clone(),
                caller,
                events,
            ))));
        }
        let began = Instant::now();
        for (at, blow) in self.setting.plan.blows.clone() {
            sleep_until(began + at).await;
            self.setting
                .log
                .trace
                .note("blow", format_args!("{blow:?}"));
            self.strike(blow).await;
        }
        // From now on nothing bad happens but what connections have in store.
        for process in self.callers.iter_mut().flatten() {
            process.over().await;
        }
        self.idle().await
    }

    async fn strike(&mut self, blow: Blow) {
        match blow {
            Blow::KillRelay(relay) => {
                if let Some(process) = self.relays[relay].take() {
                    process.kill().await;
                }
            }
            Blow::DrainRelay(relay) => {
                if let Some(process) = self.relays[relay].take() {
                    self.leaving.push(process.drain().await);
                }
            }
            Blow::StartRelay(relay) => {
                let setting = &self.setting;
                self.relays[relay].get_or_insert_with(|| RelayProcess::start(setting, relay, true));
            }
            Blow::StartStranger(relay) => {
                let setting = &self.setting;
                self.relays[relay]
                    .get_or_insert_with(|| RelayProcess::start(setting, relay, false));
            }
            Blow::KillAgent => {
                if let Some(process) = self.agent.take() {
                    process.kill().await;
                    for request in self.setting.log.requests().iter_mut() {
                        request.agent_died |= request.begun && request.ended.is_none();
                        request.cut_off |= request.begun && request.served.is_none();
                    }
                }
            }
            Blow::StartAgent => {
                let (setting, watches) = (&self.setting, &mut self.watches);
                self.agent
                    .get_or_insert_with(|| AgentProcess::start(setting, watches));
            }
            Blow::KillCaller(caller) => {
                if let Some(process) = self.callers.get_mut(caller).and_then(Option::take) {
                    process.kill().await;
                    let log = &self.setting.log;
                    log.of(caller, |request| request.killed = request.ended.is_none());
                }
            }
        }
    }

    /// Waits until nobody has anything to do any more; parked sessions may need their time.
    async fn idle(&mut self) -> Result<(), String> {
        // What is under way still arrives.
        sleep(LATE).await;
        let until = Instant::now() + self.setting.plan.resume_for + PARKED_ON;
        loop {
            let left = self.left();
            let Some(left) = left else {
                return Ok(());
            };
            if Instant::now() >= until {
                return Err(left);
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// What is left of sessions that are over.
    fn left(&self) -> Option<String> {
        let sessions = self.agent.as_ref().map_or(0, AgentProcess::sessions);
        if sessions > 0 {
            return Some(format!("{sessions} sessions are left in the agent"));
        }
        for (number, relay) in self.relays.iter().enumerate() {
            let load = relay.as_ref().map(RelayProcess::load).unwrap_or_default();
            let idle = Load {
                agents: load.agents,
                ..Load::default()
            };
            if load != idle {
                return Some(format!("relay {number} is not idle: {load:?}"));
            }
        }
        None
    }

    /// The end of all processes.
    async fn end(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill().await;
        }
        for relay in self.relays.iter_mut().filter_map(Option::take) {
            self.leaving.push(relay.drain().await);
        }
        for mut process in self.leaving.drain(..) {
            process.over().await;
        }
        self.callers.clear();
        while self.watches.join_next().await.is_some() {}
    }
}
