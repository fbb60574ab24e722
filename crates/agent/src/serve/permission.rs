//! Asks the policy about files and addresses of this host. What a path leads to is looked up first: a
//! rule is for a file, not for a way to write its name.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farpipe_net::HostPort;
use farpipe_proto::identity::Caller;

use super::{Agent, Refusal, Serving};
use crate::beneath::Place;
use crate::command::environment::User;
use crate::policy::{self, Decision, Denied, Origin, Policy, Request, Within};
use crate::shown::shown;

/// What is wanted of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wants {
    /// To read it.
    Read,
    /// To write, make or remove it.
    Write,
    /// To connect to the socket there.
    Connect,
    /// To make a socket there.
    Listen,
}

impl Wants {
    fn request(self, path: &Path) -> Request<'_> {
        match self {
            Self::Read => Request::Read(path),
            Self::Write => Request::Write(path),
            Self::Connect => Request::ConnectUnix(path),
            Self::Listen => Request::ListenUnix(path),
        }
    }
}

/// What came of a question.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    /// It may be done, and the rule that says so.
    Allowed(T, Origin),
    /// It may not; why is for this host's log.
    Denied(Denied),
    /// It may be known that it is not there.
    Missing(io::Error),
}

impl Serving {
    /// The place that the caller may have by this path: absolute, or from the home directory on.
    pub(crate) async fn permitted_path(&self, wants: Wants, path: &Path) -> Result<Place, Refusal> {
        let path = User::own().home.join(path);
        let shown = shown(path.as_os_str().as_bytes());
        let again = path.clone();
        let answer = self.ask(move |policy, caller| place(policy, caller, wants, &path));
        let allowed = self.told(answer.await?, &shown).await?;
        self.granted
            .note(move |policy, caller| denied_place(policy, caller, wants, &again));
        Ok(allowed)
    }

    /// Whether the caller may have a connection made to that address from here.
    pub(crate) async fn permitted_connect(&self, to: &HostPort) -> Result<(), Refusal> {
        self.permitted_address(to, |to| Request::Connect(to)).await
    }

    /// Whether the caller may have that port listened on here.
    pub(crate) async fn permitted_listen(&self, on: &HostPort) -> Result<(), Refusal> {
        self.permitted_address(on, |on| Request::Listen(on)).await
    }

    async fn permitted_address(
        &self,
        address: &HostPort,
        request: fn(&HostPort) -> Request<'_>,
    ) -> Result<(), Refusal> {
        let (shown, address, again) = (address.to_string(), address.clone(), address.clone());
        let answer =
            self.ask(
                move |policy, caller| match policy.decide(caller, &request(&address)) {
                    Decision::Allowed { rule, .. } => Answer::Allowed((), rule),
                    Decision::Denied(denied) => Answer::Denied(denied),
                },
            );
        self.told(answer.await?, &shown).await?;
        self.granted.note(
            move |policy, caller| match policy.decide(caller, &request(&again)) {
                Decision::Allowed { .. } => None,
                Decision::Denied(denied) => Some(denied),
            },
        );
        Ok(())
    }

    /// Asks the newest policy. The disk may be slow: not on this thread.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Policy, &Caller) -> Answer<T> + Send + 'static,
    ) -> Result<Answer<T>, Refusal> {
        let Some(caller) = self.caller.clone() else {
            self.deny("nothing says who asks");
            return Err(Refusal::Denied);
        };
        let live = Arc::clone(&self.agent.policy);
        // Dropped, it only looks at the disk for nothing.
        let asked = tokio::task::spawn_blocking(move || question(&live.current(), &caller));
        asked.await.map_err(|error| {
            tracing::error!("{}: the policy could not be asked: {error}", self.name);
            Refusal::Denied
        })
    }

    async fn told<T>(&self, answer: Answer<T>, shown: &str) -> Result<T, Refusal> {
        match answer {
            Answer::Allowed(what, rule) => {
                let name = &self.name;
                tracing::info!("{name}: {}: {shown}: allowed by {rule}", self.who());
                self.record.allowed(Some(rule.to_string())).await?;
                Ok(what)
            }
            Answer::Missing(error) => Err(Refusal::Path {
                path: shown.to_owned(),
                error,
            }),
            Answer::Denied(why) => {
                self.deny(&why.to_string());
                Err(Refusal::Denied)
            }
        }
    }

    /// Who asks, for the log.
    pub(crate) fn who(&self) -> String {
        match &self.caller {
            Some(caller) => caller.to_string(),
            None => "nobody".to_owned(),
        }
    }

    /// Says in this host's log what was denied and why.
    pub(crate) fn deny(&self, why: &str) {
        self.record.deny(why);
        self.teller().deny(why);
    }

    /// Says how it ended, here and in the audit log.
    pub(crate) fn ends(&self, how: &str) {
        tracing::info!("{}: {how}", self.name);
        self.record.ends(how, None);
    }

    /// What says it, for whoever asks the policy elsewhere.
    pub(crate) fn teller(&self) -> Teller {
        Teller {
            agent: self.agent.clone(),
            stream: format!("{}: {}", self.peer, self.name),
            who: self.who(),
        }
    }
}

/// Says in this host's log what a stream's opener was denied.
#[derive(Debug)]
pub(crate) struct Teller {
    agent: Agent,
    stream: String,
    who: String,
}

impl Teller {
    pub(crate) fn deny(&self, why: &str) {
        let hint = match self.agent.policy.current().is_empty() {
            true => "; nothing is allowed here: start the agent with --policy or --allow",
            false => "",
        };
        let (stream, who) = (&self.stream, &self.who);
        let told = format!("{stream}: denied to {who}: {why}{hint}");
        self.agent.refusals.tell(told);
    }
}

/// The place of an absolute path, if `caller` may have it so.
pub(crate) fn place(policy: &Policy, caller: &Caller, wants: Wants, path: &Path) -> Answer<Place> {
    let (resolved, missing) = match policy::target(path) {
        Ok(resolved) => (resolved, None),
        Err(error) => match nearest(path) {
            Some(lexical) => (lexical, Some(error)),
            None => return Answer::Missing(error),
        },
    };
    let (rule, within) = match policy.decide(caller, &wants.request(&resolved)) {
        Decision::Allowed { rule, within } => (rule, within),
        Decision::Denied(denied) => return Answer::Denied(denied),
    };
    if let Some(error) = missing {
        return Answer::Missing(error);
    }
    let root = match &within {
        Within::Directory(root) => root.as_path(),
        Within::AsAsked | Within::Program(_) => Path::new("/"),
    };
    match Place::beneath(root, &resolved) {
        Some(place) => Answer::Allowed(place, rule),
        None => Answer::Missing(io::ErrorKind::InvalidInput.into()),
    }
}

/// Why `caller` may not have it so; what is missing, or was replaced, is no matter.
pub(crate) fn denied_place(
    policy: &Policy,
    caller: &Caller,
    wants: Wants,
    path: &Path,
) -> Option<Denied> {
    match place(policy, caller, wants, path) {
        Answer::Denied(denied) => Some(denied),
        Answer::Allowed(..) | Answer::Missing(_) => None,
    }
}

/// What cannot be resolved, from the nearest directory on that is there: who may have what lies beneath
/// that may know what is missing.
fn nearest(path: &Path) -> Option<PathBuf> {
    let mut above = path.parent()?;
    loop {
        if let Ok(resolved) = above.canonicalize() {
            return Some(resolved.join(path.strip_prefix(above).ok()?));
        }
        above = above.parent()?;
    }
}
