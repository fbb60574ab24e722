//! The processes of a run: relays, the agent, callers. Each ends at once when it is killed, as with
//! `kill -9`: its connections close, all that it knew is gone.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use farpipe_net::{
    AcceptedSession, Acceptor, AgentLink, Clock, Opener, RelayDial, SessionHandle, Stream,
};
use farpipe_proto::wire::control::{Accept, Open, Refuse};
use farpipe_relay::{Load, Relay, RelayConfig};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep};

use super::AGENT;
use super::log::Log;
use super::plan::{Plan, RELAYS};
use crate::net::app::{Part, tag_of};
use crate::net::cable::Way;
use crate::net::chance::mix;
use crate::net::flow::{give, take};
use crate::net::network::Network;
use crate::net::process::each;
use crate::net::scenario::Lane;

/// What all processes know.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) plan: Arc<Plan>,
    pub(super) clock: Clock,
    pub(super) log: Log,
    /// The address of each relay, as the agent and as each caller reach it.
    pub(super) addresses: [Vec<Network>; RELAYS],
}

impl Setting {
    fn agents(&self, relay: usize) -> &Network {
        &self.addresses[relay][0]
    }

    fn callers(&self, relay: usize, caller: usize) -> &Network {
        &self.addresses[relay][1 + caller]
    }
}

/// A process, as long as it is not killed.
#[derive(Debug)]
pub(super) struct Process {
    tasks: JoinSet<()>,
}

impl Process {
    /// Runs `task` until it ends or is killed.
    pub(super) fn begin(task: impl Future<Output = ()> + Send + 'static) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(task);
        Self { tasks }
    }

    /// Ends it at once.
    pub(super) async fn kill(mut self) {
        self.tasks.abort_all();
        self.over().await;
    }

    /// Waits until it has ended by itself.
    pub(super) async fn over(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            unwind(ended);
        }
    }
}

/// A relay.
#[derive(Debug)]
pub(super) struct RelayProcess {
    listening: JoinSet<()>,
    process: Process,
    relay: Arc<Relay>,
    stop: oneshot::Sender<()>,
}

impl RelayProcess {
    /// Opens its addresses; that of the agent only if it is let in.
    pub(super) fn start(setting: &Setting, number: usize, lets_agent_in: bool) -> Self {
        let config = RelayConfig {
            heartbeat: setting.plan.heartbeat,
            clock: setting.clock,
            ..RelayConfig::default()
        };
        let (relay, running) = Relay::new(config);
        let relay = Arc::new(relay);
        let door = Arc::new(relay.door(setting.plan.door()));
        let (stop, stopped) = oneshot::channel();
        let mut listening = JoinSet::new();
        for address in setting.addresses[number]
            .iter()
            .skip(usize::from(!lets_agent_in))
        {
            listening.spawn(address.clone().serve(Arc::clone(&door)));
        }
        let process = Process::begin(async move {
            let stop = async {
                if stopped.await.is_err() {
                    // It is killed; nobody tells it anything.
                    std::future::pending::<()>().await;
                }
            };
            running.run(stop).await;
        });
        Self {
            listening,
            process,
            relay,
            stop,
        }
    }

    pub(super) fn load(&self) -> Load {
        self.relay.load()
    }

    /// Ends it at once.
    pub(super) async fn kill(mut self) {
        self.listening.shutdown().await;
        self.process.kill().await;
    }

    /// Tells it to end; when this returns its addresses are closed.
    pub(super) async fn drain(mut self) -> Process {
        self.listening.shutdown().await;
        // An error means that it has ended.
        let _ = self.stop.send(());
        self.process
    }
}

/// The agent's process.
#[derive(Debug)]
pub(super) struct AgentProcess {
    process: Process,
    acceptor: Arc<Acceptor>,
    registered: [watch::Receiver<bool>; RELAYS],
}

impl AgentProcess {
    /// Begins to dial the relays.
    pub(super) fn start(setting: &Setting, watches: &mut JoinSet<()>) -> Self {
        let mut config = setting.plan.acceptor(setting.clock);
        config.events = Some(setting.log.watch(watches, "agent", None));
        let (acceptor, sessions) = Acceptor::new(config);
        let acceptor = Arc::new(acceptor);
        let mut tasks = JoinSet::new();
        let served = setting.clone();
        tasks.spawn(each(sessions, move |session| {
            serve(served.clone(), session)
        }));
        let agent = setting.plan.agent();
        let registered = std::array::from_fn(|relay| {
            let mut config = agent.clone();
            let (told, registered) = watch::channel(false);
            config.registered = Some(told);
            let link = AgentLink::new(Arc::clone(&acceptor), config);
            let (dial, trace) = (setting.agents(relay).clone(), setting.log.trace.clone());
            tasks.spawn(async move {
                let Err(end) = link.run(&dial).await;
                trace.note(
                    "agent",
                    format_args!("is of no use to relay {relay}: {end}"),
                );
            });
            registered
        });
        Self {
            process: Process { tasks },
            acceptor,
            registered,
        }
    }

    /// Waits until all relays know it.
    pub(super) async fn registered(&mut self) {
        for registered in &mut self.registered {
            // An error means that the link is over for good.
            let _ = registered.wait_for(|registered| *registered).await;
        }
    }

    pub(super) fn sessions(&self) -> usize {
        self.acceptor.sessions()
    }

    pub(super) async fn kill(self) {
        self.process.kill().await;
    }
}

/// Asks and plays the caller's side.
pub(super) async fn call(setting: Setting, caller: usize, events: farpipe_net::Events) {
    let plan = Arc::clone(&setting.plan);
    let Some(planned) = plan.callers.get(caller) else {
        return;
    };
    sleep(planned.after).await;
    setting.log.of(caller, |request| request.begun = true);
    let mut config = plan.opener(setting.clock);
    config.events = Some(events);
    let opener = Opener::new(config);
    let handle = opener.handle();
    let relays = (0..RELAYS).map(|relay| setting.callers(relay, caller).clone());
    // Not all begin with the same one.
    let mut relays: Vec<Network> = relays.collect();
    relays.rotate_left(caller % RELAYS);
    let dial = RelayDial::new(AGENT.to_owned(), relays);
    let side = Side {
        setting: setting.clone(),
        caller,
        way: Way::Up,
    };
    let streams = async {
        side.play(&handle, &planned.lanes, None).await;
        handle.finish_opening();
    };
    let run = async {
        let result = opener.run(&dial).await;
        let log = &setting.log;
        log.trace
            .note("caller", format_args!("{caller} ended: {result:?}"));
        log.of(caller, |request| {
            request.ended = Some(result);
            request.alone = request
                .unlinked
                .map_or(Duration::ZERO, |since| since.elapsed());
        });
    };
    tokio::join!(run, streams);
}

/// Plays the agent's side of a session.
async fn serve(setting: Setting, session: AcceptedSession) {
    let handle = session.handle();
    handle.hold();
    let asked = OnceLock::new();
    let plan = Arc::clone(&setting.plan);
    let streams = async {
        if let Some(first) = handle.accept().await
            && let Some((caller, _)) = parse(&first.1.target)
            && let Some(planned) = plan.callers.get(caller)
        {
            asked.get_or_init(|| caller);
            setting.log.of(caller, |request| request.runs += 1);
            let side = Side {
                setting: setting.clone(),
                caller,
                way: Way::Down,
            };
            side.play(&handle, &planned.lanes, Some(first)).await;
        }
        // Nothing more is opened, but that is the opener's to say.
        while handle.accept().await.is_some() {}
        handle.release();
    };
    let (result, ()) = tokio::join!(session.run(), streams);
    let log = &setting.log;
    log.trace.note(
        "agent",
        format_args!("served {:?}: {result:?}", asked.get()),
    );
    if let Some(caller) = asked.get() {
        log.of(*caller, |request| request.served = Some(result));
    }
}

/// The caller and the stream that an OPEN names.
fn parse(target: &str) -> Option<(usize, usize)> {
    let (caller, lane) = target.split_once('/')?;
    Some((caller.parse().ok()?, lane.parse().ok()?))
}

/// One side of one request.
#[derive(Debug, Clone)]
struct Side {
    setting: Setting,
    caller: usize,
    way: Way,
}

impl Side {
    /// Opens the streams of this side, accepts those of the other, and plays all of them.
    async fn play(&self, handle: &SessionHandle, lanes: &[Lane], first: Option<(Stream, Open)>) {
        let mut tasks = JoinSet::new();
        for (number, lane) in lanes.iter().enumerate() {
            if lane.by == self.way {
                let (side, handle, lane) = (self.clone(), handle.clone(), lane.clone());
                tasks.spawn(async move {
                    sleep(lane.after).await;
                    let target = format!("{}/{number}", side.caller);
                    if let Some(stream) = handle.open(&target) {
                        side.stream(stream, number, lane).await;
                    }
                });
            }
        }
        let mut first = first;
        for _ in lanes.iter().filter(|lane| lane.by != self.way) {
            let opened = match first.take() {
                Some(first) => Some(first),
                None => handle.accept().await,
            };
            let Some((stream, open)) = opened else {
                break;
            };
            let number = parse(&open.target).map(|(_, number)| number);
            let Some((number, lane)) = number.and_then(|n| Some((n, lanes.get(n)?.clone()))) else {
                stream.refuse(Refuse::default());
                continue;
            };
            stream.accept(Accept::default());
            let side = self.clone();
            tasks.spawn(async move { side.stream(stream, number, lane).await });
        }
        while let Some(ended) = tasks.join_next().await {
            unwind(ended);
        }
    }

    async fn stream(&self, stream: Stream, number: usize, lane: Lane) {
        let Stream {
            mut send,
            mut recv,
            watch: _watch,
        } = stream;
        let (out, into, back) = match self.way {
            Way::Up => (&lane.up, &lane.down, Way::Down),
            Way::Down => (&lane.down, &lane.up, Way::Up),
        };
        let tag = mix(self.setting.plan.seed ^ mix(self.caller as u64));
        let note = |way, giver, told| {
            let part = Part {
                lane: number,
                way,
                giver,
                told,
                at: Instant::now(),
            };
            // At once: the process may be killed in the next moment.
            let end = usize::from(self.way == Way::Down);
            let log = &self.setting.log;
            log.of(self.caller, |request| request.parts[end].push(part));
        };
        let given = async {
            let told = give(out, tag_of(tag, number, self.way), &mut send).await;
            note(self.way, true, told);
        };
        let taken = async {
            let told = take(into, tag_of(tag, number, back), &mut recv).await;
            note(back, false, told);
        };
        tokio::join!(given, taken);
    }
}

/// Goes on with a task's panic.
fn unwind(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}
