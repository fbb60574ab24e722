//! Two hosts in turmoil's network: an opener's and a listener's, with the real code on both.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farpipe_net::{Acceptor, Blame, Clock, Dial, DialError, Dialled, LoopbackSecret, Opener};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use turmoil::net::{TcpListener, TcpStream};
use turmoil::{Builder, Sim};

use super::app::{accepted, opened};
use super::cable::Way;
use super::chance;
use super::flow::Ended;
use super::judge::{Ends, judge};
use super::network::{Kind, carry, handshake};
use super::play::{Failure, Report};
use super::process::each;
use super::runner::{not_repeatable, words};
use super::scenario::Scenario;
use super::storm::{Blow, Storm};
use super::trace::{Noted, Trace};

const OPENER: &str = "opener";
const LISTENER: &str = "listener";
const PORT: u16 = 7_000;
/// Virtual time after which somebody hangs: longer than all outages, waits and lingers together.
const HANGS_AFTER: Duration = Duration::from_secs(900);
/// A connection request is repeated for so long, as a kernel repeats SYNs.
const CONNECT_FOR: Duration = Duration::from_secs(6);
const CONNECT_AGAIN: Duration = Duration::from_millis(500);

/// What the sessions of all lives of the listening process came to.
#[derive(Debug, Default)]
struct Listened {
    begun: u64,
    ended: Vec<Noted>,
}

#[derive(Debug, Default)]
struct Counts {
    dials: AtomicU64,
    /// The listening process is killed and not back yet.
    is_down: AtomicBool,
}

/// Plays a storm; what happened are lines of milliseconds, who, what.
///
/// # Errors
/// [`Failure`], also for a panic.
pub fn brave(storm: &Storm) -> Result<(Report, Vec<String>), Box<Failure>> {
    chance::seed(storm.scenario.seed);
    let trace = Trace::default();
    let braved = catch_unwind(AssertUnwindSafe(|| perform(storm, &trace)));
    let what = match braved {
        Ok(Ok(report)) => return Ok((report, trace.lines())),
        Ok(Err(what)) => what,
        Err(panic) => format!("panic: {}", words(panic.as_ref())),
    };
    Err(Box::new(Failure {
        what: format!("{what}\n{storm:?}"),
        scenario: Box::new(storm.scenario.clone()),
        trace: trace.lines(),
    }))
}

/// Plays a storm twice: the same must happen at the same times.
///
/// # Errors
/// [`Failure`].
pub fn brave_twice(storm: &Storm) -> Result<Report, Box<Failure>> {
    let (once, lines) = brave(storm)?;
    let (again, others) = brave(storm)?;
    if once == again {
        return Ok(once);
    }
    let what = not_repeatable(&lines, &others);
    Err(Box::new(Failure {
        what: format!("{what}\n{storm:?}"),
        scenario: Box::new(storm.scenario.clone()),
        trace: lines,
    }))
}

/// Plays the storms of `seeds`, each twice.
///
/// # Errors
/// The first [`Failure`].
pub fn storms(seeds: impl IntoIterator<Item = u64>) -> Result<Report, Box<Failure>> {
    let mut sum = Report::default();
    for seed in seeds {
        sum.add(&brave_twice(&Storm::from_seed(seed))?);
    }
    Ok(sum)
}

fn perform(storm: &Storm, trace: &Trace) -> Result<Report, String> {
    let mut sim = build(storm);
    let counts = Arc::new(Counts::default());
    let listened = Arc::new(Mutex::new(Listened::default()));
    let opener = Rc::new(RefCell::new(None));
    let kill = Arc::new(Notify::new());
    listen(&mut sim, &storm.scenario, trace, &listened, &kill);
    open(&mut sim, &storm.scenario, trace, &counts, &opener);

    let mut blows = storm.blows.iter().copied().peekable();
    let mut deaths: VecDeque<Duration> = VecDeque::new();
    let mut back_at: Option<Duration> = None;
    let mut killed = false;
    loop {
        sim.step().map_err(|e| e.to_string())?;
        let now = sim.elapsed();
        while let Some((_, blow)) = blows.next_if(|(at, _)| *at <= now) {
            trace.note("storm", format_args!("{} {blow:?}", now.as_millis()));
            if let Blow::Kill(span) = blow {
                killed = true;
                counts.is_down.store(true, Ordering::Relaxed);
                kill.notify_waiters();
                let dead = now + storm.tick * 2;
                deaths.push_back(dead);
                back_at = Some(dead + span);
            } else {
                strike(&sim, blow);
            }
        }
        while deaths.pop_front_if(|at| *at <= now).is_some() {
            sim.crash(LISTENER);
        }
        if back_at.is_some_and(|at| at <= now) {
            back_at = None;
            counts.is_down.store(false, Ordering::Relaxed);
            sim.bounce(LISTENER);
        }
        let is_listener_done = {
            let listened = lock(&listened);
            killed || !listened.ended.is_empty()
        };
        let opener_failed = opener
            .borrow()
            .as_ref()
            .is_some_and(|noted: &Noted| noted.ended.result.is_err());
        if opener.borrow().is_some() && (is_listener_done || opener_failed) {
            break;
        }
        if now > HANGS_AFTER {
            return Err("somebody hangs".to_owned());
        }
    }
    let elapsed = sim.elapsed();
    drop(sim);
    let Some(opener) = opener.borrow_mut().take() else {
        return Err("no opener".to_owned());
    };
    let mut listened = lock(&listened);
    let ends = Ends {
        opener,
        acceptor: listened.ended.pop(),
        sessions: listened.begun,
    };
    if killed {
        judge_deadly(&ends)?;
    } else {
        judge(&storm.scenario, &ends)?;
    }
    let taken = ends.parts().filter(|part| !part.giver);
    Ok(Report {
        runs: 1,
        // The first connection is no loss.
        disconnects: counts.dials.load(Ordering::Relaxed).saturating_sub(1),
        bytes: taken.map(|part| part.told.bytes).sum(),
        elapsed,
        carried: [0, 0],
        trace: trace.digest(),
    })
}

fn lock(listened: &Mutex<Listened>) -> std::sync::MutexGuard<'_, Listened> {
    listened.lock().unwrap_or_else(PoisonError::into_inner)
}

fn build(storm: &Storm) -> Sim<'static> {
    let mut builder = Builder::new();
    builder
        .rng_seed(storm.scenario.seed)
        .tick_duration(storm.tick)
        .simulation_duration(Duration::from_secs(7 * 24 * 3_600))
        .min_message_latency(storm.latency[0])
        .max_message_latency(storm.latency[1])
        .fail_rate(f64::from(storm.losses) / 1e6)
        .repair_rate(0.2)
        .tcp_capacity(storm.segments);
    if storm.shuffled {
        builder.enable_random_order();
    }
    builder.build()
}

fn strike(sim: &Sim<'static>, blow: Blow) {
    match blow {
        Blow::Partition => sim.partition(OPENER, LISTENER),
        Blow::OneWay(Way::Up) => sim.partition_oneway(OPENER, LISTENER),
        Blow::OneWay(Way::Down) => sim.partition_oneway(LISTENER, OPENER),
        Blow::Hold => sim.hold(OPENER, LISTENER),
        Blow::Clear => sim.release(OPENER, LISTENER),
        Blow::Latency(latency) => sim.set_link_latency(OPENER, LISTENER, latency),
        Blow::Kill(_) => {}
    }
}

fn secret(scenario: &Scenario) -> Option<Arc<LoopbackSecret>> {
    let secret = || Arc::new(LoopbackSecret::new([7; 32]));
    scenario.proven.then(secret)
}

fn listen(
    sim: &mut Sim<'static>,
    scenario: &Scenario,
    trace: &Trace,
    listened: &Arc<Mutex<Listened>>,
    kill: &Arc<Notify>,
) {
    let (scenario, trace, listened) = (scenario.clone(), trace.clone(), Arc::clone(listened));
    let kill = Arc::clone(kill);
    sim.host(LISTENER, move || {
        let (scenario, mut trace, listened) =
            (scenario.clone(), trace.clone(), Arc::clone(&listened));
        let kill = Arc::clone(&kill);
        async move {
            trace.begin();
            trace.note(LISTENER, "begins");
            let mut watches = JoinSet::new();
            let mut config = scenario.acceptor(Clock::Tokio(Instant::now()), secret(&scenario));
            config.events = Some(trace.watch(&mut watches, "acceptor"));
            let (acceptor, sessions) = Acceptor::new(config);
            let play = |session| {
                let (scenario, trace, listened) =
                    (scenario.clone(), trace.clone(), Arc::clone(&listened));
                lock(&listened).begun += 1;
                async move {
                    let ended = accepted(session, &scenario.lanes, scenario.seed).await;
                    let noted = trace.note_end("acceptor", ended);
                    lock(&listened).ended.push(noted);
                }
            };
            tokio::select! {
                biased;
                // A runtime that is dropped drops its tasks in any order, and so their last words;
                // this way it is always the same.
                () = kill.notified() => {}
                () = each(sessions, play) => {}
                served = serve(scenario.kind, Arc::new(acceptor)) => served?,
            }
            std::future::pending().await
        }
    });
}

/// Accepts connections for ever.
async fn serve(kind: Kind, acceptor: Arc<Acceptor>) -> std::io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let mut handshakes = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                number += 1;
                handshakes.spawn(handshake(stream, kind, Arc::clone(&acceptor), number));
            }
            Some(_) = handshakes.join_next() => {}
        }
    }
}

fn open(
    sim: &mut Sim<'static>,
    scenario: &Scenario,
    trace: &Trace,
    counts: &Arc<Counts>,
    noted: &Rc<RefCell<Option<Noted>>>,
) {
    let (scenario, mut trace) = (scenario.clone(), trace.clone());
    let (noted, counts) = (Rc::clone(noted), Arc::clone(counts));
    sim.client(OPENER, async move {
        trace.begin();
        let mut watches = JoinSet::new();
        let mut config = scenario.opener(Clock::Tokio(Instant::now()), secret(&scenario));
        config.events = Some(trace.watch(&mut watches, "opener"));
        let dial = HostDial {
            kind: scenario.kind,
            counts,
        };
        let ended = opened(Opener::new(config), &dial, &scenario.lanes, scenario.seed).await;
        watches.join_all().await;
        noted.replace(Some(trace.note_end("opener", ended)));
        Ok(())
    });
}

/// Dials the listener's host.
#[derive(Debug)]
struct HostDial {
    kind: Kind,
    counts: Arc<Counts>,
}

impl Dial for HostDial {
    fn dial(&self) -> Dialled<'_> {
        Box::pin(async {
            self.counts.dials.fetch_add(1, Ordering::Relaxed);
            let deadline = Instant::now() + CONNECT_FOR;
            let stream = loop {
                match tokio::time::timeout_at(deadline, TcpStream::connect((LISTENER, PORT))).await
                {
                    Ok(Ok(stream)) => break stream,
                    Ok(Err(error)) if self.counts.is_down.load(Ordering::Relaxed) => {
                        return Err(DialError {
                            blame: Blame::Refused,
                            message: error.to_string(),
                            advice: None,
                        });
                    }
                    // turmoil refuses at once where a real network says nothing.
                    Ok(Err(_)) if Instant::now() < deadline => {
                        tokio::time::sleep(CONNECT_AGAIN).await;
                    }
                    Ok(Err(_)) | Err(_) => {
                        return Err(DialError {
                            blame: Blame::Cut,
                            message: "no answer".to_owned(),
                            advice: None,
                        });
                    }
                }
            };
            carry(stream, self.kind).await
        })
    }

    fn peer(&self) -> String {
        LISTENER.to_owned()
    }
}

/// What must hold where the listening process was killed: no wrong byte, nothing run twice, and
/// success only for an opener that has and knows everything.
fn judge_deadly(ends: &Ends) -> Result<(), String> {
    for part in ends.parts() {
        if let Ended::Wrong(at) = part.told.ended {
            return Err(format!("a wrong byte at offset {at}: {part:?}"));
        }
    }
    if ends.sessions > 1 {
        return Err(format!("{} sessions of one request", ends.sessions));
    }
    let opener = &ends.opener.ended;
    let is_settled = opener.parts.iter().all(|part| {
        // A sink that stops may do so after the giver's last byte has left.
        let answered = || {
            opener
                .fates
                .iter()
                .any(|(lane, fate)| *lane == part.lane && (fate.done || fate.stopped.is_some()))
        };
        match part.told.ended {
            Ended::Whole => !part.giver || answered(),
            Ended::Broke | Ended::Broken => true,
            Ended::Session(_) | Ended::Wrong(_) => false,
        }
    });
    match &opener.result {
        Ok(()) if is_settled => Ok(()),
        Ok(()) => Err(format!("success without confirmation: {opener:?}")),
        Err(_) => Ok(()),
    }
}
