//! Which agents and which pipes there are. A lock that is held for moments; what is done with one of
//! them is done by its own task, which hears of it through a bounded channel.
//!
//! A pipe is its writer, registered as an agent is; its readers are joined to it as callers to an
//! agent. Names of pipes are apart from those of agents.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farpipe_proto::Instant;
use farpipe_proto::identity::{Identity, Kind, is_name};
use farpipe_proto::limits::{HOP_CONTROL_MAX, PIPES_MAX, TAG_MAX, TAGS_MAX};
use farpipe_proto::wire::control::{Host, List, Listed, RefuseCode, Register};
use tokio::sync::futures::Notified;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::joined::Joining;
use crate::left::Left;

/// What a pipe's name begins with in a route; no agent's name has a slash.
const PIPE: &str = "p/";

/// What one asks a relay for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Route {
    /// The agent of that name.
    Agent(String),
    /// The pipe of that name.
    Pipe(String),
}

impl Route {
    /// What the route of an ATTACH asks for; what is no name is one that nobody has.
    pub(crate) fn of(route: String) -> Self {
        match route.strip_prefix(PIPE) {
            Some(name) => Self::Pipe(name.to_owned()),
            None => Self::Agent(route),
        }
    }

    pub(crate) fn is_pipe(&self) -> bool {
        matches!(self, Self::Pipe(_))
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Agent(name) | Self::Pipe(name) => name,
        }
    }

    /// What it is, for the log.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Self::Agent(_) => "agent",
            Self::Pipe(_) => "pipe",
        }
    }
}

/// As an ATTACH writes it.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(name) => f.write_str(name),
            Self::Pipe(name) => write!(f, "{PIPE}{name}"),
        }
    }
}

/// Those who wait to be joined to one agent. Policy when full: the newest is refused and asks again.
const JOINING_MAX: usize = 64;

/// Why an agent is not registered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Objection {
    pub(crate) code: RefuseCode,
    pub(crate) message: String,
}

impl Objection {
    fn new(code: RefuseCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// Why a session cannot be joined to an agent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotJoined {
    /// There is no such agent.
    NoRoute,
    /// Too many come to it at once.
    Full,
}

#[derive(Debug)]
struct Entry {
    /// Tells this registration from a later one of the same name.
    number: u64,
    /// Whose name it is; `None`: a process that was let in without a certificate.
    owner: Option<Identity>,
    instance: Vec<u8>,
    tags: Vec<String>,
    since: Instant,
    sessions: Arc<AtomicU32>,
    /// Boxed: a queue has room for 32 from the beginning, and ten thousand agents have one each.
    joining: mpsc::Sender<Box<Joining>>,
    /// Where it came from.
    address: String,
    /// Hears why it has no place here any more.
    ousted: oneshot::Sender<Ousted>,
}

/// Why an agent has lost its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ousted {
    /// It has a newer link.
    Newer,
    /// Another process has its name.
    Other,
    /// Whoever runs the relay wants it so.
    Disconnected,
}

/// An agent, for the admin.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) tags: Vec<String>,
    /// As its certificate names it.
    pub(crate) identity: Option<String>,
    pub(crate) address: String,
    pub(crate) instance: String,
    pub(crate) since: Instant,
    pub(crate) sessions: u32,
}

#[derive(Debug)]
struct State {
    entries: BTreeMap<Route, Entry>,
    /// How many of them are pipes: counted as they come and go, for ten thousand come at once.
    pipes: usize,
    last: u64,
    /// Those that are not there any more.
    left: Left,
    /// Whom somebody waits for.
    awaited: BTreeMap<Route, Arc<Notify>>,
}

impl State {
    fn insert(&mut self, route: Route, entry: Entry) {
        self.pipes += usize::from(route.is_pipe());
        let older = self.entries.insert(route, entry);
        debug_assert!(older.is_none(), "an older one is removed before");
    }

    fn remove(&mut self, route: &Route) -> Option<Entry> {
        let entry = self.entries.remove(route)?;
        self.pipes -= usize::from(route.is_pipe());
        Some(entry)
    }

    fn agents(&self) -> usize {
        self.entries.len() - self.pipes
    }

    /// All agents, or all pipes, behind a name, in the order of their names.
    fn behind(&self, after: &Route) -> impl Iterator<Item = (&Route, &Entry)> {
        let pipes = after.is_pipe();
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let behind = self.entries.range(behind);
        behind.take_while(move |(route, _)| route.is_pipe() == pipes)
    }
}

/// The agents and pipes of a relay.
#[derive(Debug)]
pub(crate) struct Registry {
    state: Mutex<State>,
    agents_max: usize,
}

/// Somebody waits for an agent or a pipe; over when dropped.
#[derive(Debug)]
pub(crate) struct Awaited<'a> {
    registry: &'a Registry,
    route: &'a Route,
    /// It has registered. Who waits for it hears it in turn: first held, first joined.
    came: Arc<Notify>,
}

impl Awaited<'_> {
    /// Ready when it registers from now on.
    pub(crate) fn came(&self) -> Notified<'_> {
        self.came.notified()
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        // The map's and this one.
        if Arc::strong_count(&self.came) == 2 {
            state.awaited.remove(self.route);
        }
    }
}

/// An agent's place; given up when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    registry: Arc<Registry>,
    pub(crate) route: Route,
    number: u64,
    pub(crate) sessions: Arc<AtomicU32>,
    /// Who is to be joined; over when another has the name.
    pub(crate) joining: mpsc::Receiver<Box<Joining>>,
    /// Why that is so.
    pub(crate) ousted: oneshot::Receiver<Ousted>,
    /// Where it came from, who it is, and which process of that name, for people.
    pub(crate) who: String,
}

impl Registry {
    /// One with room for so many agents.
    pub(crate) fn new(agents_max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                entries: BTreeMap::new(),
                pipes: 0,
                last: 0,
                left: Left::new(agents_max + PIPES_MAX),
                awaited: BTreeMap::new(),
            }),
            agents_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers an agent, in place of an older link of its own or of another process of the same owner;
    /// or a pipe's writer, in place of an older link of its own only.
    pub(crate) fn register(
        self: &Arc<Self>,
        register: Register,
        who: Option<&Identity>,
        address: &str,
        now: Instant,
    ) -> Result<Registration, Objection> {
        let owner = owner(&register, who)?;
        let Register {
            name,
            tags,
            instance,
            pipe,
        } = register;
        let route = match pipe {
            true => Route::Pipe(name),
            false => Route::Agent(name),
        };
        let mut state = self.lock();
        if let Some(older) = state.remove(&route) {
            let is_same = older.owner == owner && (!pipe || older.instance == instance);
            if !is_same {
                let name = route.name();
                let why = match pipe {
                    true => format!("the pipe {name} has a writer already"),
                    false => format!("the name {name} is registered with another certificate"),
                };
                state.insert(route, older);
                return Err(Objection::new(RefuseCode::Busy, why));
            }
            let why = match older.instance == instance {
                true => Ousted::Newer,
                false => Ousted::Other,
            };
            // An error means that its link is ending anyhow.
            let _ = older.ousted.send(why);
        } else if match pipe {
            true => state.pipes >= PIPES_MAX,
            false => state.agents() >= self.agents_max,
        } {
            let why = format!("too many {}s", route.what());
            return Err(Objection::new(RefuseCode::Limit, why));
        }
        state.last += 1;
        let number = state.last;
        let (joining, joined) = mpsc::channel(JOINING_MAX);
        let (ousted, is_ousted) = oneshot::channel();
        let who = match &owner {
            Some(identity) => identity.to_string(),
            None => "this user".to_owned(),
        };
        let who = format!("{address}, {who}, instance {}", short(&instance));
        let sessions = Arc::default();
        let entry = Entry {
            number,
            owner,
            instance,
            tags,
            since: now,
            sessions: Arc::clone(&sessions),
            joining,
            address: address.to_owned(),
            ousted,
        };
        state.left.forget(&route);
        let awaited = state.awaited.get(&route).cloned();
        state.insert(route.clone(), entry);
        drop(state);
        if let Some(awaited) = awaited {
            awaited.notify_waiters();
        }
        Ok(Registration {
            registry: Arc::clone(self),
            route,
            number,
            sessions,
            joining: joined,
            ousted: is_ousted,
            who,
        })
    }

    /// Sends a session to whom it asks for; or gives it back.
    pub(crate) fn join(
        &self,
        route: &Route,
        joining: Box<Joining>,
    ) -> Result<(), (NotJoined, Box<Joining>)> {
        let state = self.lock();
        let Some(entry) = state.entries.get(route) else {
            return Err((NotJoined::NoRoute, joining));
        };
        entry
            .joining
            .try_send(joining)
            .map_err(|error| match error {
                TrySendError::Full(joining) => (NotJoined::Full, joining),
                // Its task is ending, and the entry about to go.
                TrySendError::Closed(joining) => (NotJoined::NoRoute, joining),
            })
    }

    /// Takes an agent's place away; its link ends. Whether there was one.
    pub(crate) fn disconnect(&self, name: &str) -> bool {
        let route = Route::Agent(name.to_owned());
        let Some(entry) = self.lock().remove(&route) else {
            return false;
        };
        // An error means that its link is ending anyhow.
        let _ = entry.ousted.send(Ousted::Disconnected);
        true
    }

    /// What is known of whom somebody asks for that is not there.
    pub(crate) fn no_route(&self, route: &Route, now: Instant) -> String {
        let mut words = match route {
            Route::Agent(name) => format!("no agent {name} is registered here"),
            Route::Pipe(name) => format!("the pipe {name} has no writer here"),
        };
        if let Some((at, why)) = self.lock().left.get(route) {
            let seconds = (now - at).as_secs();
            let it = if route.is_pipe() {
                "it had one"
            } else {
                "it was"
            };
            words.push_str(&format!("; {it} until {seconds} s ago: {why}"));
        }
        words
    }

    /// How many agents there are.
    pub(crate) fn agents_len(&self) -> usize {
        self.lock().agents()
    }

    /// All agents, in the order of their names.
    pub(crate) fn agents(&self) -> Vec<Agent> {
        let state = self.lock();
        let first = Route::Agent(String::new());
        let agents = state.behind(&first).map(|(route, entry)| Agent {
            name: route.name().to_owned(),
            tags: entry.tags.clone(),
            identity: entry.owner.as_ref().map(ToString::to_string),
            address: entry.address.clone(),
            instance: short(&entry.instance),
            since: entry.since,
            sessions: entry.sessions.load(Ordering::Relaxed),
        });
        agents.collect()
    }

    /// Where sessions wait to be joined to whom they ask for: to wait for room there.
    pub(crate) fn queue(&self, route: &Route) -> Option<mpsc::Sender<Box<Joining>>> {
        let state = self.lock();
        state.entries.get(route).map(|entry| entry.joining.clone())
    }

    /// Waits for one to register; of nobody else it hears.
    pub(crate) fn awaited<'a>(&'a self, route: &'a Route) -> Awaited<'a> {
        let mut state = self.lock();
        let came = state.awaited.entry(route.clone()).or_default();
        Awaited {
            registry: self,
            route,
            came: Arc::clone(came),
        }
    }

    /// How many agents there are, and how many are joined to them and to pipes.
    pub(crate) fn count(&self) -> (usize, usize) {
        let state = self.lock();
        let joined = |entry: &Entry| entry.sessions.load(Ordering::Relaxed) as usize;
        (state.agents(), state.entries.values().map(joined).sum())
    }

    /// The agents or pipes that are asked for, as many as fit into a frame.
    pub(crate) fn list(&self, list: List, now: Instant) -> Listed {
        let state = self.lock();
        let after = match list.pipes {
            true => Route::Pipe(list.after),
            false => Route::Agent(list.after),
        };
        let mut listed = Listed::default();
        let mut len = 0;
        for (route, entry) in state.behind(&after) {
            let name = route.name();
            // Each text with the few bytes in front of it, and something for the numbers.
            len += 32 + name.len() + entry.tags.iter().map(|tag| tag.len() + 4).sum::<usize>();
            if len > HOP_CONTROL_MAX - 64 {
                listed.more = true;
                break;
            }
            listed.hosts.push(Host {
                name: name.to_owned(),
                tags: entry.tags.clone(),
                up_ms: u64::try_from((now - entry.since).as_millis()).unwrap_or(u64::MAX),
                sessions: entry.sessions.load(Ordering::Relaxed),
            });
        }
        listed
    }
}

impl Registration {
    /// Notes why the agent has left, unless its name is another's by now.
    pub(crate) fn note_left(&self, now: Instant, why: &'static str) {
        let mut state = self.registry.lock();
        let is_anothers = |entry: &Entry| entry.number != self.number;
        if state.entries.get(&self.route).is_some_and(is_anothers) {
            return;
        }
        state.left.note(self.route.clone(), now, why);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        let is_own = state
            .entries
            .get(&self.route)
            .is_some_and(|entry| entry.number == self.number);
        if is_own {
            state.remove(&self.route);
        }
    }
}

/// Enough of an instance to tell it from others.
fn short(instance: &[u8]) -> String {
    instance
        .iter()
        .take(4)
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Whose name it is that one may register.
fn owner(register: &Register, who: Option<&Identity>) -> Result<Option<Identity>, Objection> {
    let Register {
        name, tags, pipe, ..
    } = register;
    if !is_name(name) {
        return Err(Objection::new(
            RefuseCode::Protocol,
            "a name has 1 to 63 small letters, digits, dots, hyphens and underscores",
        ));
    }
    let is_tag = |tag: &String| {
        (1..=TAG_MAX).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_graphic())
    };
    if tags.len() > TAGS_MAX || !tags.iter().all(is_tag) {
        return Err(Objection::new(
            RefuseCode::Protocol,
            format!("at most {TAGS_MAX} tags of 1 to {TAG_MAX} characters without spaces"),
        ));
    }
    match who {
        None => Ok(None),
        // A pipe's name is whose it is for now.
        Some(who) if *pipe => match who.kind() {
            Kind::Client | Kind::Agent => Ok(Some(who.clone())),
            Kind::Relay | Kind::Authority => Err(Objection::new(
                RefuseCode::Auth,
                format!("{who} is neither a client nor an agent: it cannot write to a pipe"),
            )),
        },
        Some(who) if who.kind() == Kind::Agent && who.name() == name => Ok(Some(who.clone())),
        Some(who) => Err(Objection::new(
            RefuseCode::Auth,
            format!("{who} is not the agent {name}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    /// Agents that there is room for.
    const SOME: usize = 1024;

    fn registry() -> Arc<Registry> {
        Arc::new(Registry::new(SOME))
    }

    fn named(name: &str) -> Register {
        Register {
            name: name.to_owned(),
            instance: vec![1; 16],
            ..Register::default()
        }
    }

    fn writer(name: &str, instance: u8) -> Register {
        Register {
            instance: vec![instance; 16],
            pipe: true,
            ..named(name)
        }
    }

    fn listed(registry: &Registry, after: &str, pipes: bool) -> Listed {
        let after = after.to_owned();
        registry.list(List { after, pipes }, Instant::default())
    }

    fn certified(domain: &str, kind: Kind, name: &str) -> Identity {
        Identity::new(domain, kind, name).expect("an identity")
    }

    fn register(
        registry: &Arc<Registry>,
        name: &str,
        who: Option<&Identity>,
    ) -> Result<Registration, Objection> {
        registry.register(named(name), who, "", Instant::default())
    }

    #[test]
    fn a5_the_name_is_that_of_the_certificate() {
        let registry = registry();
        let peer = certified("example.org", Kind::Agent, "web1");
        assert!(register(&registry, "web1", Some(&peer)).is_ok());
        for (kind, name, asked) in [
            (Kind::Agent, "web1", "web2"),
            (Kind::Client, "web1", "web1"),
            (Kind::Relay, "web1", "web1"),
        ] {
            let peer = certified("example.org", kind, name);
            assert!(
                register(&registry, asked, Some(&peer)).is_err(),
                "{kind} {asked}"
            );
        }
    }

    #[test]
    fn a4_odd_names_are_refused_at_the_door() {
        let registry = registry();
        for name in [
            "",
            "a,b",
            "a\nb",
            "*",
            "a/b",
            "..",
            "ä",
            "a\0",
            &"x".repeat(65),
        ] {
            let refused = register(&registry, name, None).expect_err(name);
            assert_eq!(refused.code, RefuseCode::Protocol);
        }
    }

    #[test]
    fn the_same_owner_takes_a_name_over_and_another_is_refused() {
        let registry = registry();
        let ours = certified("example.org", Kind::Agent, "web1");
        let theirs = certified("example.net", Kind::Agent, "web1");
        let mut older = register(&registry, "web1", Some(&ours)).expect("free");
        let refused = register(&registry, "web1", Some(&theirs)).expect_err("taken");
        assert_eq!(refused.code, RefuseCode::Busy);
        assert!(older.ousted.try_recv().is_err(), "nobody took it over");
        let _newer = register(&registry, "web1", Some(&ours)).expect("its own");
        assert_eq!(older.ousted.try_recv(), Ok(Ousted::Newer));
        // What is left of the older one does not take the name with it.
        drop(older);
        assert_eq!(listed(&registry, "", false).hosts.len(), 1);
    }

    #[test]
    fn of_an_agent_that_left_it_is_known_when_and_why() {
        let registry = registry();
        let start = Instant::default();
        let later = start + std::time::Duration::from_secs(7);
        let web1 = Route::Agent("web1".to_owned());
        let known = |registry: &Registry| registry.no_route(&web1, later);
        assert_eq!(known(&registry), "no agent web1 is registered here");
        let older = register(&registry, "web1", None).expect("free");
        older.note_left(start, "its link was lost");
        drop(older);
        let expected = "no agent web1 is registered here; it was until 7 s ago: its link was lost";
        assert_eq!(known(&registry), expected);
        // What is left of an older link says nothing of the newer one.
        let older = register(&registry, "web1", None).expect("free");
        let newer = register(&registry, "web1", None).expect("its own");
        older.note_left(start, "its link was lost");
        assert_eq!(known(&registry), "no agent web1 is registered here");
        drop((older, newer));
    }

    #[test]
    fn a_pipe_has_one_writer_and_a_name_apart_from_those_of_agents() {
        let registry = registry();
        let agent = register(&registry, "logs", None).expect("free");
        let write =
            |instance| registry.register(writer("logs", instance), None, "", Instant::default());
        let mut older = write(1).expect("another name than the agent's");
        let refused = write(2).expect_err("it has one");
        assert_eq!(refused.code, RefuseCode::Busy);
        assert_eq!(refused.message, "the pipe logs has a writer already");
        assert!(older.ousted.try_recv().is_err(), "it goes on");
        let newer = write(1).expect("its own newer link");
        assert_eq!(older.ousted.try_recv(), Ok(Ousted::Newer));
        drop(older);
        let names = |pipes| listed(&registry, "", pipes).hosts.len();
        assert_eq!((names(false), names(true)), (1, 1));
        assert_eq!(registry.count(), (1, 0));
        assert_eq!(registry.agents().len(), 1);
        assert!(!registry.disconnect("logs/"), "no such name");
        newer.note_left(Instant::default(), "its link was lost");
        drop(newer);
        let route = Route::of("p/logs".to_owned());
        assert_eq!(
            registry.no_route(&route, Instant::default()),
            "the pipe logs has no writer here; it had one until 0 s ago: its link was lost"
        );
        assert_eq!((names(false), names(true)), (1, 0));
        drop(agent);
    }

    #[test]
    fn a_pipe_is_its_writers_as_long_as_there_is_one() {
        let registry = registry();
        let write = |who: &Identity| {
            registry.register(writer("logs", 1), Some(who), "", Instant::default())
        };
        let [alice, bob] = ["alice", "bob"].map(|name| certified("a.org", Kind::Client, name));
        let agent = certified("a.org", Kind::Agent, "web1");
        let first = write(&alice).expect("any name");
        assert_eq!(write(&bob).expect_err("taken").code, RefuseCode::Busy);
        drop(first);
        drop(write(&bob).expect("free again"));
        drop(write(&agent).expect("agents, too"));
        let relay = certified("a.org", Kind::Relay, "relay");
        assert_eq!(write(&relay).expect_err("no").code, RefuseCode::Auth);
    }

    #[test]
    fn a_long_list_comes_in_parts() {
        let registry = registry();
        let mut held = Vec::new();
        for n in 0..SOME {
            let mut register = named(&format!("agent-with-a-long-name-{n:04}"));
            register.tags = vec!["t".repeat(TAG_MAX); TAGS_MAX];
            let registered = registry.register(register, None, "", Instant::default());
            held.push(registered.expect("there is room"));
        }
        assert!(register(&registry, "one-more", None).is_err());
        let pipe = writer("one-more", 1);
        let pipe = registry.register(pipe, None, "", Instant::default());
        held.push(pipe.expect("agents take no place of theirs"));
        let (mut after, mut names) = (String::new(), 0);
        loop {
            let listed = listed(&registry, &after, false);
            let frame = farpipe_proto::wire::hop::HopFrame::Listed(listed.clone()).encode();
            assert!(frame.len() <= HOP_CONTROL_MAX, "{}", frame.len());
            names += listed.hosts.len();
            let Some(last) = listed.hosts.last() else {
                break;
            };
            after = last.name.clone();
            if !listed.more {
                break;
            }
        }
        assert_eq!(names, SOME);
    }

    #[test]
    fn who_waits_hears_of_the_one_it_waits_for_and_of_nobody_else() {
        let registry = registry();
        let [web1, web2] = ["web1", "web2"].map(|name| Route::Agent(name.to_owned()));
        let (first, second) = (registry.awaited(&web1), registry.awaited(&web1));
        let (mut came, mut also) = (Box::pin(first.came()), Box::pin(second.came()));
        let other = registry.awaited(&web2);
        let mut nobody = Box::pin(other.came());
        let _web1 = register(&registry, "web1", None).expect("free");
        let mut cx = Context::from_waker(Waker::noop());
        assert!(came.as_mut().poll(&mut cx).is_ready());
        assert!(also.as_mut().poll(&mut cx).is_ready());
        assert!(nobody.as_mut().poll(&mut cx).is_pending());
        drop((came, also, nobody));
        drop((first, other));
        assert_eq!(registry.lock().awaited.len(), 1, "one still waits");
        drop(second);
        assert!(registry.lock().awaited.is_empty());
    }
}
