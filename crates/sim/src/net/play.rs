//! Plays a scenario with the real opener, acceptor, drivers and carriers, and judges it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use farpipe_net::{Acceptor, Clock, LoopbackSecret, Opener, SessionEnd, Sessions};
use farpipe_proto::limits::{LINGER_UNCONFIRMED, REFUSED_SPAN};
use farpipe_proto::link::Prover;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::app::{self, Part};
use super::cable::Way;
use super::chance::{self, Digest};
use super::flow::{Ended, Flow, Told};
use super::network::Network;
use super::scenario::Scenario;
use super::trace::Trace;

/// Virtual time after which somebody hangs: far more than all faults of a scenario together.
const HANGS_AFTER: Duration = Duration::from_secs(24 * 3_600);

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

/// A runtime in virtual time that plays one scenario after the other.
#[derive(Debug)]
pub struct Stage {
    runtime: Runtime,
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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing of the system");
        Self { runtime }
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
        chance::seed(scenario.seed);
        let trace = Trace::default();
        let played = {
            let trace = trace.clone();
            catch_unwind(AssertUnwindSafe(|| {
                self.runtime.block_on(perform(scenario, trace))
            }))
        };
        let left = self.runtime.metrics().num_alive_tasks();
        let what = match played {
            Ok(Ok(report)) if left == 0 => return Ok((report, trace.lines())),
            Ok(Ok(_)) => format!("{left} tasks are left"),
            Ok(Err(what)) => what,
            Err(panic) => format!("panic: {}", words(panic.as_ref())),
        };
        // What is left of a failed run must not play along in the next.
        *self = Self::new();
        Err(Box::new(Failure {
            what,
            scenario: Box::new(scenario.clone()),
            trace: trace.lines(),
        }))
    }

    /// Plays a scenario twice: the same must happen at the same times.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn play_twice(&mut self, scenario: &Scenario) -> Result<Report, Box<Failure>> {
        let once = self.play(scenario)?;
        let again = self.play(scenario)?;
        if once == again {
            return Ok(once);
        }
        Err(Box::new(Failure {
            what: format!("not repeatable: {once:?}, then {again:?}"),
            scenario: Box::new(scenario.clone()),
            trace: Vec::new(),
        }))
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(words), _) => words,
        (_, Some(words)) => words,
        (None, None) => "without words",
    }
}

async fn perform(scenario: &Scenario, mut trace: Trace) -> Result<Report, String> {
    trace.begin();
    let began = Instant::now();
    let secret: Option<Arc<dyn Prover>> = scenario
        .proven
        .then(|| Arc::new(LoopbackSecret::new([7; 32])) as Arc<dyn Prover>);
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

/// How both ends ended.
#[derive(Debug)]
struct Ends {
    opener: app::Ended,
    /// `None`: no session came about.
    acceptor: Option<app::Ended>,
    sessions: u64,
    /// How long the opener and the acceptor had been without a link when they ended.
    unlinked: [Duration; 2],
}

impl Ends {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        let theirs = self.acceptor.iter().flat_map(|ended| &ended.parts);
        self.opener.parts.iter().chain(theirs)
    }
}

async fn both(
    scenario: &Scenario,
    network: &Network,
    secret: Option<Arc<dyn Prover>>,
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
        trace.note_end("opener", &ended);
        ended
    };
    let accepting = listen(serving, sessions, scenario, trace);
    let (opener, (acceptor, sessions)) = tokio::join!(opening, accepting);
    let mut unlinked = [Duration::ZERO; 2];
    while let Some(Ok((who, span))) = watches.join_next().await {
        unlinked[usize::from(who == "acceptor")] = span;
    }
    Ends {
        opener,
        acceptor,
        sessions,
        unlinked,
    }
}

/// A listener that ends after its first session.
async fn listen(
    serving: impl Future<Output = ()>,
    mut sessions: Sessions,
    scenario: &Scenario,
    trace: &Trace,
) -> (Option<app::Ended>, u64) {
    let session = async {
        let session = sessions.next().await?;
        let ended = app::accepted(session, &scenario.lanes, scenario.seed).await;
        trace.note_end("acceptor", &ended);
        Some(ended)
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

/// What must hold at the end.
fn judge(scenario: &Scenario, ends: &Ends) -> Result<(), String> {
    for part in ends.parts() {
        if let Ended::Wrong(at) = part.told.ended {
            return Err(format!("a wrong byte at offset {at}: {part:?}"));
        }
    }
    if ends.sessions != 1 {
        return Err(format!("{} sessions of one request", ends.sessions));
    }
    let Some(acceptor) = &ends.acceptor else {
        return Err("no session came about".to_owned());
    };
    match &acceptor.result {
        Ok(()) => {}
        // An opener that has all and finds nobody for a while leaves; the acceptor waits for its
        // last words in vain.
        Err(SessionEnd::Lost(_))
            if ends.opener.result.is_ok() && ends.unlinked[0] >= REFUSED_SPAN => {}
        Err(end) => return Err(format!("the acceptor failed: {end}")),
    }
    // One end left before the other had heard its last words.
    let is_short = ends.opener.result.is_err() || acceptor.result.is_err();
    for (number, lane) in scenario.lanes.iter().enumerate() {
        for (way, flow) in [(Way::Up, &lane.up), (Way::Down, &lane.down)] {
            let find = |giver| {
                ends.parts()
                    .find(|part| part.lane == number && part.way == way && part.giver == giver)
                    .map(|part| &part.told)
            };
            match (find(true), find(false)) {
                (Some(given), Some(taken)) => {
                    judge_flow(flow, given, taken, is_short).map_err(|what| {
                        format!("stream {number} {way:?}: {what}: {given:?}, {taken:?}")
                    })?
                }
                (given, taken) => {
                    return Err(format!("stream {number} {way:?}: {given:?}, {taken:?}"));
                }
            }
        }
    }
    match &ends.opener.result {
        Ok(()) => Ok(()),
        // A one-shot acceptor that has all and said so leaves one day; whether its last words
        // arrived the opener then cannot know.
        Err(SessionEnd::Lost(_) | SessionEnd::Refused(_))
            if !scenario.keep && ends.unlinked[1] >= LINGER_UNCONFIRMED =>
        {
            Ok(())
        }
        Err(end) => Err(format!("the opener failed: {end}")),
    }
}

fn judge_flow(flow: &Flow, given: &Told, taken: &Told, is_short: bool) -> Result<(), &'static str> {
    if taken.bytes > given.bytes {
        return Err("more was taken than given");
    }
    match (&given.ended, &taken.ended) {
        (Ended::Whole, Ended::Whole) => {
            if taken.bytes != flow.len || given.bytes != flow.len {
                return Err("cut short");
            }
            if flow.reset_at.is_some() {
                return Err("a source that failed is no end");
            }
            Ok(())
        }
        // Each end may break off at any time, also after the other had done its part.
        (_, Ended::Broke) if flow.stop_at.is_some_and(|at| taken.bytes >= at) => Ok(()),
        (Ended::Broke, Ended::Broken) if flow.reset_at.is_some() => Ok(()),
        (Ended::Broke, Ended::Session(_)) if flow.reset_at.is_some() && is_short => Ok(()),
        _ => Err("an end nobody asked for"),
    }
}
