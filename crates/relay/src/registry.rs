//! Which agents there are. A lock that is held for moments; what is done with an agent is done by
//! its own task, which hears of it through a bounded channel.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farpipe_net::tls::PeerIdentity;
use farpipe_proto::Instant;
use farpipe_proto::identity::{Identity, Kind, is_name};
use farpipe_proto::limits::{AGENTS_MAX, HOP_CONTROL_MAX, TAG_MAX, TAGS_MAX};
use farpipe_proto::wire::control::{Host, Listed, RefuseCode, Register};
use tokio::sync::futures::Notified;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::joined::Joining;

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
    joining: mpsc::Sender<Joining>,
    /// Hears whether the process that takes the name over is another one.
    fenced: oneshot::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    agents: BTreeMap<String, Entry>,
    last: u64,
}

/// The agents of a relay.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    state: Mutex<State>,
    /// Somebody has registered. Who waits for it hears it in turn: first held, first joined.
    changed: Notify,
}

/// An agent's place; given up when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    registry: Arc<Registry>,
    pub(crate) name: String,
    number: u64,
    pub(crate) sessions: Arc<AtomicU32>,
    /// Who is to be joined; over when another has the name.
    pub(crate) joining: mpsc::Receiver<Joining>,
    /// Whether that is another process.
    pub(crate) fenced: oneshot::Receiver<bool>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers an agent, in place of an older link of its own.
    pub(crate) fn register(
        self: &Arc<Self>,
        register: Register,
        peer: Option<&PeerIdentity>,
        now: Instant,
    ) -> Result<Registration, Objection> {
        let owner = owner(&register, peer)?;
        let Register {
            name,
            tags,
            instance,
        } = register;
        let mut state = self.lock();
        if let Some(older) = state.agents.remove(&name) {
            if older.owner != owner {
                state.agents.insert(name.clone(), older);
                return Err(Objection::new(
                    RefuseCode::Busy,
                    format!("the name {name} is registered with another certificate"),
                ));
            }
            let _ = older.fenced.send(older.instance != instance);
        } else if state.agents.len() >= AGENTS_MAX {
            return Err(Objection::new(RefuseCode::Limit, "too many agents"));
        }
        state.last += 1;
        let number = state.last;
        let (joining, joined) = mpsc::channel(JOINING_MAX);
        let (fenced, is_fenced) = oneshot::channel();
        let sessions = Arc::default();
        let entry = Entry {
            number,
            owner,
            instance,
            tags,
            since: now,
            sessions: Arc::clone(&sessions),
            joining,
            fenced,
        };
        state.agents.insert(name.clone(), entry);
        drop(state);
        self.changed.notify_waiters();
        Ok(Registration {
            registry: Arc::clone(self),
            name,
            number,
            sessions,
            joining: joined,
            fenced: is_fenced,
        })
    }

    /// Sends a session to the agent of that name; or gives it back.
    pub(crate) fn join(
        &self,
        name: &str,
        joining: Joining,
    ) -> Result<(), Box<(NotJoined, Joining)>> {
        let state = self.lock();
        let Some(entry) = state.agents.get(name) else {
            return Err(Box::new((NotJoined::NoRoute, joining)));
        };
        entry
            .joining
            .try_send(joining)
            .map_err(|error| match error {
                TrySendError::Full(joining) => Box::new((NotJoined::Full, joining)),
                // Its task is ending, and the entry about to go.
                TrySendError::Closed(joining) => Box::new((NotJoined::NoRoute, joining)),
            })
    }

    /// Where sessions wait to be joined to the agent of that name: to wait for room there.
    pub(crate) fn queue(&self, name: &str) -> Option<mpsc::Sender<Joining>> {
        let state = self.lock();
        state.agents.get(name).map(|entry| entry.joining.clone())
    }

    /// Ready when somebody registers from now on.
    pub(crate) fn change(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// How many agents there are, and how many are joined to them.
    pub(crate) fn count(&self) -> (usize, usize) {
        let state = self.lock();
        let joined = |entry: &Entry| entry.sessions.load(Ordering::Relaxed) as usize;
        (state.agents.len(), state.agents.values().map(joined).sum())
    }

    /// The agents behind `after`, as many as fit into a frame.
    pub(crate) fn list(&self, after: &str, now: Instant) -> Listed {
        let state = self.lock();
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let mut listed = Listed::default();
        let mut len = 0;
        for (name, entry) in state.agents.range::<str, _>(behind) {
            // Each text with the few bytes in front of it, and something for the numbers.
            len += 32 + name.len() + entry.tags.iter().map(|tag| tag.len() + 4).sum::<usize>();
            if len > HOP_CONTROL_MAX - 64 {
                listed.more = true;
                break;
            }
            listed.hosts.push(Host {
                name: name.clone(),
                tags: entry.tags.clone(),
                up_ms: u64::try_from((now - entry.since).as_millis()).unwrap_or(u64::MAX),
                sessions: entry.sessions.load(Ordering::Relaxed),
            });
        }
        listed
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        let is_own = state
            .agents
            .get(&self.name)
            .is_some_and(|entry| entry.number == self.number);
        if is_own {
            state.agents.remove(&self.name);
        }
    }
}

/// Whose name an agent may register.
fn owner(register: &Register, peer: Option<&PeerIdentity>) -> Result<Option<Identity>, Objection> {
    let Register { name, tags, .. } = register;
    if !is_name(name) {
        return Err(Objection::new(
            RefuseCode::Protocol,
            "an agent's name has 1 to 64 letters, digits, dots, hyphens and underscores",
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
    let Some(peer) = peer else {
        return Ok(None);
    };
    match &peer.identity {
        Some(identity) if identity.kind() == Kind::Agent && identity.name() == name => {
            Ok(Some(identity.clone()))
        }
        Some(identity) => Err(Objection::new(
            RefuseCode::Auth,
            format!("the certificate of {identity} is not that of an agent {name}"),
        )),
        None => Err(Objection::new(
            RefuseCode::Auth,
            format!("the certificate names no agent; issue one for {name}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Register {
        Register {
            name: name.to_owned(),
            instance: vec![1; 16],
            tags: Vec::new(),
        }
    }

    fn certified(domain: &str, kind: Kind, name: &str) -> PeerIdentity {
        PeerIdentity {
            identity: Identity::new(domain, kind, name).ok(),
            subject: String::new(),
            fingerprint: [0; 32],
        }
    }

    fn register(
        registry: &Arc<Registry>,
        name: &str,
        peer: Option<&PeerIdentity>,
    ) -> Result<Registration, Objection> {
        registry.register(named(name), peer, Instant::default())
    }

    #[test]
    fn a5_the_name_is_that_of_the_certificate() {
        let registry = Arc::default();
        let peer = certified("example.org", Kind::Agent, "web1");
        assert!(register(&registry, "web1", Some(&peer)).is_ok());
        for (kind, name, asked) in [
            (Kind::Agent, "web1", "web2"),
            (Kind::Client, "web1", "web1"),
            (Kind::Relay, "web1", "web1"),
            // None at all.
            (Kind::Agent, "we,b1", "we,b1"),
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
        let registry = Arc::default();
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
        let registry = Arc::default();
        let ours = certified("example.org", Kind::Agent, "web1");
        let theirs = certified("example.net", Kind::Agent, "web1");
        let mut older = register(&registry, "web1", Some(&ours)).expect("free");
        let refused = register(&registry, "web1", Some(&theirs)).expect_err("taken");
        assert_eq!(refused.code, RefuseCode::Busy);
        assert!(older.fenced.try_recv().is_err(), "nobody took it over");
        let _newer = register(&registry, "web1", Some(&ours)).expect("its own");
        assert_eq!(older.fenced.try_recv(), Ok(false), "the same process");
        // What is left of the older one does not take the name with it.
        drop(older);
        assert_eq!(registry.list("", Instant::default()).hosts.len(), 1);
    }

    #[test]
    fn a_long_list_comes_in_parts() {
        let registry: Arc<Registry> = Arc::default();
        let mut held = Vec::new();
        for n in 0..AGENTS_MAX {
            let mut register = named(&format!("agent-with-a-long-name-{n:04}"));
            register.tags = vec!["t".repeat(TAG_MAX); TAGS_MAX];
            let registered = registry.register(register, None, Instant::default());
            held.push(registered.expect("there is room"));
        }
        assert!(register(&registry, "one-more", None).is_err());
        let (mut after, mut names) = (String::new(), 0);
        loop {
            let listed = registry.list(&after, Instant::default());
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
        assert_eq!(names, AGENTS_MAX);
    }
}
