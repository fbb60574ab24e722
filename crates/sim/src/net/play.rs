//! Plays a scenario with the real opener, acceptor, drivers and carriers, and judges it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farpipe_net::{
    Acceptor, AcceptorConfig, Clock, Greeting, LinkEvent, LoopbackSecret, Opener, OpenerConfig,
    SessionEnd, SessionHandle, Sessions, Stream, StreamWatch,
};
use farpipe_proto::limits::{LINGER_UNCONFIRMED, REFUSED_SPAN};
use farpipe_proto::link::Prover;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::cable::Way;
use super::chance::{self, Digest, mix};
use super::flow::{Ended, Flow, Told, give, take};
use super::network::Network;
use super::scenario::{Lane, Scenario};


/// Virtual time after which somebody hangs: far more than all faults of a scenario together.
const HANGS_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// Events of one end; more than any scenario has.
const EVENTS_MAX: usize = 1_024;

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
            Ok(Ok(report)) if left == 0 => return Ok(report),
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

/// What happened, in order.
#[derive(Debug, Clone)]
struct Trace {
    began: Option<Instant>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            began: None,
            lines: Arc::default(),
        }
    }
}

impl Trace {
    fn note(&self, who: &str, what: impl fmt::Display) {
        let at = self.began.map_or(0, |began| began.elapsed().as_millis());
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(format!("{at} {who} {what}"));
    }

    fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.clone()
    }

    fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for line in self.lines() {
            digest.add(line.as_bytes());
        }
        digest
    }
}

/// One end of one flow, and what became of it.
#[derive(Debug)]
struct Part {
    lane: usize,
    way: Way,
    giver: bool,
    told: Told,
}

async fn perform(scenario: &Scenario, mut trace: Trace) -> Result<Report, String> {
    let began = Instant::now();
    trace.began = Some(began);
    let secret: Option<Arc<dyn Prover>> = scenario
        .proven
        .then(|| Arc::new(LoopbackSecret::new([7; 32])) as Arc<dyn Prover>);
    let network = Network::new(
        scenario.kind,
        scenario.quality.clone(),
        scenario.fortunes.clone(),
    );
    let ends = {
        let play = both(scenario, &network, secret.clone(), &trace);
        match timeout(HANGS_AFTER, play).await {
            Ok(ends) => ends?,
            Err(_) => return Err("somebody hangs".to_owned()),
        }
    };
    let elapsed = began.elapsed();
    // Tasks that were told to end are gone a moment later.
    tokio::task::yield_now().await;
    judge(scenario, &ends)?;
    if network.live() > 0 {
        return Err(format!("{} connections are left", network.live()));
    }
    if secret
        .as_ref()
        .is_some_and(|secret| Arc::strong_count(secret) > 1)
    {
        return Err("an opener, acceptor or session is left".to_owned());
    }
    let counts = network.counts();
    let taken = ends.parts.iter().filter(|part| !part.giver);
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
    opener: Result<(), SessionEnd>,
    acceptor: Result<(), SessionEnd>,
    sessions: u64,
    parts: Vec<Part>,
    /// How long the opener and the acceptor had been without a link when they ended.
    unlinked: [Duration; 2],
}

async fn both(
    scenario: &Scenario,
    network: &Network,
    secret: Option<Arc<dyn Prover>>,
    trace: &Trace,
) -> Result<Ends, String> {
    let clock = Clock::Tokio(Instant::now());
    let mut tasks = JoinSet::new();
    let (opener_events, watched) = mpsc::channel(EVENTS_MAX);
    tasks.spawn(watch(watched, trace.clone(), 0));
    let (acceptor_events, watched) = mpsc::channel(EVENTS_MAX);
    tasks.spawn(watch(watched, trace.clone(), 1));
    let greeting = Greeting {
        software: "sim".to_owned(),
        prover: secret,
        random: chance::random,
    };
    let mut config = OpenerConfig::new(greeting.clone());
    config.clock = clock;
    config.heartbeat = scenario.heartbeat;
    config.resume_for = scenario.resume_for;
    config.buffer_max = scenario.buffers[0];
    config.events = Some(opener_events);
    let opener = Opener::new(config);
    let mut config = AcceptorConfig::new(greeting);
    config.clock = clock;
    config.heartbeat = scenario.heartbeat;
    config.buffer_max = scenario.buffers[1];
    config.one_shot = !scenario.keep;
    config.events = Some(acceptor_events);
    let (acceptor, sessions) = Acceptor::new(config);

    // The address is open before it is dialled.
    let serving = network.serve(Arc::new(acceptor));
    let opening = open(opener, network, scenario, trace);
    let accepting = listen(serving, sessions, scenario, trace);
    let ((opener, mut parts), served) = tokio::join!(opening, accepting);
    let mut unlinked = [Duration::ZERO; 2];
    while let Some(ended) = tasks.join_next().await {
        let (end, span) = ended.map_err(|e| e.to_string())?;
        unlinked[end] = span;
    }
    let (acceptor, more, sessions) = served;
    parts.extend(more);
    Ok(Ends {
        opener,
        acceptor,
        sessions,
        parts,
        unlinked,
    })
}

/// Notes events of one end until it is over; how long it was without a link then.
async fn watch(
    mut events: mpsc::Receiver<LinkEvent>,
    trace: Trace,
    end: usize,
) -> (usize, Duration) {
    let who = ["opener", "acceptor"][end];
    let mut lost: Option<Instant> = None;
    while let Some(event) = events.recv().await {
        match &event {
            LinkEvent::Lost { .. } => lost = lost.or_else(|| Some(Instant::now())),
            LinkEvent::Connected { .. } | LinkEvent::Resumed { .. } => lost = None,
            _ => {}
        }
        trace.note(who, format_args!("{event:?}"));
    }
    (end, lost.map_or(Duration::ZERO, |at| at.elapsed()))
}

async fn open(
    opener: Opener,
    network: &Network,
    scenario: &Scenario,
    trace: &Trace,
) -> (Result<(), SessionEnd>, Vec<Part>) {
    let handle = opener.handle();
    let streams = async {
        let parts = streams(&handle, scenario, Way::Up).await;
        handle.finish_opening();
        parts
    };
    let (result, (parts, watches)) = tokio::join!(opener.run(network), streams);
    trace.note("opener", format_args!("{result:?}"));
    note_fates(trace, "opener", &watches);
    (result, parts)
}

async fn listen(
    serving: impl Future<Output = ()>,
    mut sessions: Sessions,
    scenario: &Scenario,
    trace: &Trace,
) -> (Result<(), SessionEnd>, Vec<Part>, u64) {
    let session = async {
        let Some(session) = sessions.next().await else {
            return (Err(SessionEnd::Closed), Vec::new(), 0);
        };
        let handle = session.handle();
        handle.hold();
        let streams = async {
            let parts = streams(&handle, scenario, Way::Down).await;
            // Nothing more is opened, but that is the opener's to say.
            while handle.accept().await.is_some() {}
            handle.release();
            parts
        };
        let run = async {
            let result = session.run().await;
            trace.note("acceptor", format_args!("{result:?}"));
            result
        };
        let (result, (parts, watches)) = tokio::join!(run, streams);
        note_fates(trace, "acceptor", &watches);
        (result, parts, 1)
    };
    let (result, parts, mut count) = tokio::select! {
        biased;
        ended = session => ended,
        () = serving => unreachable!("it serves for ever"),
    };
    // A request must not be carried out twice.
    while let Ok(Some(_)) = timeout(Duration::ZERO, sessions.next()).await {
        count += 1;
    }
    (result, parts, count)
}

fn note_fates(trace: &Trace, who: &str, watches: &[(usize, StreamWatch)]) {
    for (lane, watch) in watches {
        trace.note(who, format_args!("{lane} {:?}", watch.fate()));
    }
}

/// Opens the streams of this side, accepts those of the other, and plays all of them.
async fn streams(
    handle: &SessionHandle,
    scenario: &Scenario,
    side: Way,
) -> (Vec<Part>, Vec<(usize, StreamWatch)>) {
    let mut tasks = JoinSet::new();
    let tag = scenario.seed;
    for (number, lane) in scenario.lanes.iter().enumerate() {
        if lane.by == side {
            let (handle, lane) = (handle.clone(), lane.clone());
            tasks.spawn(async move {
                sleep(lane.after).await;
                let stream = handle.open(&number.to_string())?;
                Some(stream_of(stream, side, number, lane, tag).await)
            });
        }
    }
    for _ in scenario.lanes.iter().filter(|lane| lane.by != side) {
        let Some((stream, open)) = handle.accept().await else {
            break;
        };
        let Some(number) = open
            .target
            .parse::<usize>()
            .ok()
            .filter(|n| *n < scenario.lanes.len())
        else {
            stream.refuse(farpipe_proto::wire::control::Refuse::default());
            continue;
        };
        stream.accept();
        let lane = scenario.lanes[number].clone();
        tasks.spawn(async move { Some(stream_of(stream, side, number, lane, tag).await) });
    }
    let mut parts = Vec::new();
    let mut watches = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Some((both, number, watch))) => {
                parts.extend(both);
                watches.push((number, watch));
            }
            Ok(None) => {}
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => break,
            },
        }
    }
    watches.sort_by_key(|(number, _)| *number);
    (parts, watches)
}

async fn stream_of(
    stream: Stream,
    side: Way,
    number: usize,
    lane: Lane,
    tag: u64,
) -> ([Part; 2], usize, StreamWatch) {
    let Stream {
        mut send,
        mut recv,
        watch,
    } = stream;
    let (out, into, back) = match side {
        Way::Up => (&lane.up, &lane.down, Way::Down),
        Way::Down => (&lane.down, &lane.up, Way::Up),
    };
    let (given, taken) = tokio::join!(
        give(out, tag_of(tag, number, side), &mut send),
        take(into, tag_of(tag, number, back), &mut recv)
    );
    let part = |way, giver, told| Part {
        lane: number,
        way,
        giver,
        told,
    };
    (
        [part(side, true, given), part(back, false, taken)],
        number,
        watch,
    )
}

fn tag_of(seed: u64, lane: usize, way: Way) -> u64 {
    mix(seed.wrapping_add(mix(lane as u64 * 2 + u64::from(way == Way::Down))))
}

/// What must hold at the end.
fn judge(scenario: &Scenario, ends: &Ends) -> Result<(), String> {
    for part in &ends.parts {
        if let Ended::Wrong(at) = part.told.ended {
            return Err(format!("a wrong byte at offset {at}: {part:?}"));
        }
    }
    if ends.sessions != 1 {
        return Err(format!("{} sessions of one request", ends.sessions));
    }
    match &ends.acceptor {
        Ok(()) => {}
        // An opener that has all and finds nobody for a while leaves; the acceptor waits for its
        // last words in vain.
        Err(SessionEnd::Lost(_)) if ends.opener.is_ok() && ends.unlinked[0] >= REFUSED_SPAN => {}
        Err(end) => return Err(format!("the acceptor failed: {end}")),
    }
    // One end left before the other had heard its last words.
    let is_short = ends.opener.is_err() || ends.acceptor.is_err();
    for (number, lane) in scenario.lanes.iter().enumerate() {
        for (way, flow) in [(Way::Up, &lane.up), (Way::Down, &lane.down)] {
            let find = |giver| {
                ends.parts
                    .iter()
                    .find(|part| part.lane == number && part.way == way && part.giver == giver)
                    .map(|part| &part.told)
            };
            match (find(true), find(false)) {
                (Some(given), Some(taken)) => judge_flow(flow, given, taken, is_short).map_err(|what| {
                    format!("stream {number} {way:?}: {what}: {given:?}, {taken:?}")
                })?,
                (given, taken) => {
                    return Err(format!("stream {number} {way:?}: {given:?}, {taken:?}"));
                }
            }
        }
    }
    match &ends.opener {
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

fn judge_flow(
    flow: &Flow,
    given: &Told,
    taken: &Told,
    is_short: bool,
) -> Result<(), &'static str> {
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
