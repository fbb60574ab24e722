//! Plays a scenario with the real opener, acceptor, drivers and carriers, and judges it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use farpipe_net::{Acceptor, Clock, LoopbackSecret, Opener, Sessions};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::app;
use super::chance::Digest;
use super::judge::{Ends, judge};
use super::network::Network;
use super::runner::{Runner, Wrong};
use super::scenario::Scenario;
use super::trace::{Noted, Trace};

/// Virtual time after which somebody hangs: far more than all faults of a scenario together.
const HANGS_AFTER: Duration = Duration::from_secs(48 * 3_600);

/// What a run amounted to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Runs.
    pub runs: u64,
    /// Connections lost, and attempts that failed.
    pub disconnects: u64,
    /// Stream bytes that arrived.
    pub bytes: u64,
    /// Virtual time.
    pub elapsed: Duration,
    /// Bytes that went up and down in all connections.
    pub carried: [u64; 2],
    /// Of all that happened and when.
    pub trace: Digest,
}

impl Report {
    /// Adds another; the trace becomes one of traces.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.disconnects += other.disconnects;
        self.bytes += other.bytes;
        self.elapsed += other.elapsed;
        self.carried[0] += other.carried[0];
        self.carried[1] += other.carried[1];
        self.trace.add(&other.trace.to_bytes());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} runs, {} disconnects, {} bytes, 0 wrong, {} s of virtual time",
            self.runs,
            self.disconnects,
            self.bytes,
            self.elapsed.as_secs()
        )
    }
}

/// A run that went wrong.
#[derive(Debug)]
pub struct Failure {
    /// What was found.
    pub what: String,
    /// All that decided the run.
    pub scenario: Box<Scenario>,
    /// What had happened, with the milliseconds when.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {}\n{:?}",
            self.scenario.seed, self.what, self.scenario
        )?;
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl Failure {
    fn of(scenario: &Scenario, wrong: Wrong) -> Box<Self> {
        Box::new(Self {
            what: wrong.what,
            scenario: Box::new(scenario.clone()),
            trace: wrong.trace,
        })
    }
}

/// A runtime in virtual time that plays one scenario after the other.
#[derive(Debug)]
pub struct Stage {
    runner: Runner,
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

impl Stage {
    /// An empty stage.
    ///
    /// # Panics
    /// If the system gives no runtime.
    #[must_use]
    pub fn new() -> Self {
        Self {
            runner: Runner::new(),
        }
    }

    /// Plays a scenario.
    ///
    /// # Errors
    /// [`Failure`], also for a panic.
    pub fn play(&mut self, scenario: &Scenario) -> Result<Report, Box<Failure>> {
        self.play_traced(scenario).map(|(report, _)| report)
    }

    /// Plays a scenario and says what happened: lines of milliseconds, who, what.
    ///
    /// # Errors
    /// [`Failure`], also for a panic.
    pub fn play_traced(
        &mut self,
        scenario: &Scenario,
    ) -> Result<(Report, Vec<String>), Box<Failure>> {
        let played = self
            .runner
            .play(scenario.seed, |trace| perform(scenario, trace));
        played.map_err(|wrong| Failure::of(scenario, wrong))
    }

    /// Plays a scenario twice: the same must happen at the same times.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn play_twice(&mut self, scenario: &Scenario) -> Result<Report, Box<Failure>> {
        let played = self
            .runner
            .play_twice(scenario.seed, |trace| perform(scenario, trace));
        played.map_err(|wrong| Failure::of(scenario, wrong))
    }
}

async fn perform(scenario: &Scenario, mut trace: Trace) -> Result<Report, String> {
    trace.begin();
    let began = Instant::now();
    let secret: Option<Arc<LoopbackSecret>> = scenario
        .proven
        .then(|| Arc::new(LoopbackSecret::new([7; 32])));
    let network = Network::new(
        scenario.kind,
        scenario.quality.clone(),
        scenario.fortunes.clone(),
    );
    let play = both(scenario, &network, secret.clone(), &trace);
    let Ok(ends) = timeout(HANGS_AFTER, play).await else {
        return Err("somebody hangs".to_owned());
    };
    let elapsed = began.elapsed();
    // Tasks that were told to end are gone a moment later.
    tokio::task::yield_now().await;
    judge(scenario, &ends)?;
    if network.live() > 0 {
        return Err(format!("{} connections are left", network.live()));
    }
    if secret.is_some_and(|secret| Arc::strong_count(&secret) > 1) {
        return Err("an opener, acceptor or session is left".to_owned());
    }
    let counts = network.counts();
    let taken = ends.parts().filter(|part| !part.giver);
    Ok(Report {
        runs: 1,
        disconnects: counts.disconnects,
        bytes: taken.map(|part| part.told.bytes).sum(),
        elapsed,
        carried: counts.bytes,
        trace: trace.digest(),
    })
}

async fn both(
    scenario: &Scenario,
    network: &Network,
    secret: Option<Arc<LoopbackSecret>>,
    trace: &Trace,
) -> Ends {
    let clock = Clock::Tokio(Instant::now());
    let mut watches = JoinSet::new();
    let mut config = scenario.opener(clock, secret.clone());
    config.events = Some(trace.watch(&mut watches, "opener"));
    let opener = Opener::new(config);
    let mut config = scenario.acceptor(clock, secret);
    config.events = Some(trace.watch(&mut watches, "acceptor"));
    let (acceptor, sessions) = Acceptor::new(config);

    // The address is open before it is dialled.
    let serving = network.clone().serve(Arc::new(acceptor));
    let opening = async {
        let ended = app::opened(opener, network, &scenario.lanes, scenario.seed).await;
        trace.note_end("opener", ended)
    };
    let accepting = listen(serving, sessions, scenario, trace);
    let (opener, (acceptor, sessions)) = tokio::join!(opening, accepting);
    watches.join_all().await;
    Ends {
        opener,
        acceptor,
        sessions,
    }
}

/// A listener that ends after its first session.
async fn listen(
    serving: impl Future<Output = ()>,
    mut sessions: Sessions,
    scenario: &Scenario,
    trace: &Trace,
) -> (Option<Noted>, u64) {
    let session = async {
        let session = sessions.next().await?;
        let ended = app::accepted(session, &scenario.lanes, scenario.seed).await;
        Some(trace.note_end("acceptor", ended))
    };
    let ended = tokio::select! {
        biased;
        ended = session => ended,
        () = serving => None,
    };
    let mut count = u64::from(ended.is_some());
    // A request must not be carried out twice.
    while let Ok(Some(_)) = timeout(Duration::ZERO, sessions.next()).await {
        count += 1;
    }
    (ended, count)
}
