//! What of a stream goes to the audit log of its host (docs/audit.md): who asked for what, whether that
//! was allowed and why, and how it ended.
//!
//! That something is allowed is written before it begins, and where that cannot be written it does not
//! begin. How it ended is written when it is over; if that cannot be, the log of this process says so.

use std::sync::{Mutex, MutexGuard, PoisonError};

use farpipe_audit::{Audit, Unwritten};
use farpipe_net::redacted;
use farpipe_proto::identity::Caller;
use farpipe_proto::wire::control::{self, ManageWhat, Open};
use serde_json::{Map, Value, json};

use crate::endpoint::Exit;
use crate::outcome::to_wire;
use crate::shown::shown;

/// Bytes of one request that are written, as they are shown; of more than that it is said how much.
const WHAT_MAX: usize = 64 * 1024;

/// What is written of one stream.
#[derive(Debug)]
pub(crate) struct Record {
    audit: Audit,
    /// What stands in each of its lines.
    about: Map<String, Value>,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    is_allowed: bool,
    /// Why not, in full.
    denied: Option<String>,
    /// Why it is not allowed any more.
    withdrawn: Option<String>,
    /// How it ended, and the command's status.
    end: Option<String>,
    exit: Option<Exit>,
}

impl Record {
    pub(crate) fn new(
        audit: &Audit,
        (session, stream): (&str, u32),
        caller: Option<&Caller>,
        peer: &str,
        open: &Open,
    ) -> Self {
        let mut about = Map::new();
        if audit.is_kept() {
            let who = caller.map(ToString::to_string);
            about.insert("who".to_owned(), who.into());
            about.insert("address".to_owned(), peer.into());
            about.insert("session".to_owned(), session.into());
            about.insert("stream".to_owned(), stream.into());
            about.insert("what".to_owned(), what(open));
        }
        Self {
            audit: audit.clone(),
            about,
            said: Mutex::default(),
        }
    }

    /// It may begin, once this is written. By which rule, if one decides it as a whole.
    pub(crate) async fn allowed(&self, rule: Option<String>) -> Result<(), Unwritten> {
        self.write("allowed", [("rule", rule.into())]).await?;
        self.said().is_allowed = true;
        Ok(())
    }

    /// Why it may not, in full; it is written when its opener is told.
    pub(crate) fn deny(&self, why: &str) {
        self.said().denied = Some(why.to_owned());
    }

    /// It is joined to nothing.
    pub(crate) async fn refused(&self, told: &str) {
        let why = self.said().denied.clone();
        let why = hidden(&why.unwrap_or_else(|| told.to_owned()));
        // It does not begin either way.
        let _ = self.write("refused", [("why", why.into())]).await;
        self.said().is_allowed = false;
    }

    /// It has begun, as this process.
    pub(crate) async fn started(&self, pid: i32) {
        // That it may was written.
        let _ = self.write("started", [("pid", pid.into())]).await;
    }

    /// How it ended.
    pub(crate) fn ends(&self, how: &str, exit: Option<Exit>) {
        let mut said = self.said();
        said.end = Some(hidden(how));
        said.exit = exit;
    }

    /// It has to end, since the policy does not allow it any more.
    pub(crate) fn withdrawn(&self, why: &str) {
        self.said().withdrawn = Some(hidden(why));
    }

    /// It is over, if it has begun.
    pub(crate) async fn over(&self) {
        let (how, exit, withdrawn) = {
            let mut said = self.said();
            if !std::mem::take(&mut said.is_allowed) {
                return;
            }
            (said.end.take(), said.exit, said.withdrawn.take())
        };
        // It is over; who reads the log finds an end missing.
        let how = match (how, withdrawn) {
            (Some(how), Some(why)) => Some(format!("not allowed any more: {why}; {how}")),
            (None, Some(why)) => Some(format!("not allowed any more: {why}")),
            (how, None) => how,
        };
        let _ = self.write("ended", ending(how, exit)).await;
    }

    /// What writes of a command that outlives its stream.
    pub(crate) fn detach(&self) -> Self {
        Self {
            audit: self.audit.clone(),
            about: self.about.clone(),
            said: Mutex::new(Said {
                is_allowed: true,
                ..Said::default()
            }),
        }
    }

    async fn write<const N: usize>(
        &self,
        event: &str,
        more: [(&str, Value); N],
    ) -> Result<(), Unwritten> {
        let mut line = self.about.clone();
        line.insert("event".to_owned(), event.into());
        for (name, value) in more {
            line.insert(name.to_owned(), value);
        }
        self.audit.append(Value::Object(line)).await
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ending(how: Option<String>, exit: Option<Exit>) -> [(&'static str, Value); 2] {
    let status = exit.map(|exit| {
        let exit = to_wire(exit);
        json!({"code": exit.code, "signal": exit.signal})
    });
    [("how", how.into()), ("status", status.into())]
}

/// As it may be written: secrets hidden as everywhere.
fn hidden(text: &str) -> String {
    redacted(text).into_owned()
}

/// Names that a peer has said, so that nothing of them is taken for something else.
fn names<'a>(names: impl IntoIterator<Item = &'a Vec<u8>>) -> Value {
    let mut left = WHAT_MAX;
    let mut written = Vec::new();
    let mut names = names.into_iter();
    for name in names.by_ref() {
        let name = hidden(&shown(name));
        let Some(rest) = left.checked_sub(name.len()) else {
            written.push(json!({"more": names.count() + 1}));
            break;
        };
        left = rest;
        written.push(Value::String(name));
    }
    Value::Array(written)
}

/// What is asked for; the values of variables are nobody's business.
fn what(open: &Open) -> Value {
    if let Some(command) = &open.command {
        return command_asked(command);
    }
    if let Some(manage) = &open.manage {
        let verb = match ManageWhat::from_wire(manage.what) {
            Some(ManageWhat::List) => "list",
            Some(ManageWhat::Attach) => "attach",
            Some(ManageWhat::Wait) => "wait",
            Some(ManageWhat::Kill) => "kill",
            None => "unknown",
        };
        return json!({"detached": verb, "id": manage.id, "signal": manage.signal});
    }
    if let Some(copy) = &open.copy {
        return match &copy.target {
            Some(target) => json!({"copy-to": hidden(&shown(target)), "names": names(&copy.names)}),
            None => json!({"copy-from": names(&copy.sources)}),
        };
    }
    if let Some(tail) = &open.tail {
        return json!({"tail": names(&tail.paths)});
    }
    match &open.endpoint {
        Some(endpoint) => json!({"endpoint": hidden(&shown(&endpoint.spec))}),
        None => json!({"unknown": true}),
    }
}

fn command_asked(command: &control::Command) -> Value {
    let variables = command.env.iter().map(|variable| {
        let name = variable.split(|byte| *byte == b'=').next();
        name.unwrap_or_default().to_vec()
    });
    let variables: Vec<Vec<u8>> = variables.collect();
    let verb = if command.shell { "shell" } else { "exec" };
    let mut what = Map::new();
    what.insert(verb.to_owned(), names(&command.argv));
    if !variables.is_empty() {
        what.insert("variables".to_owned(), names(&variables));
    }
    if !command.cwd.is_empty() {
        what.insert("directory".to_owned(), hidden(&shown(&command.cwd)).into());
    }
    if let Some(detached) = &command.detached {
        what.insert("id".to_owned(), detached.id.clone().into());
    }
    if command.terminal.is_some() {
        what.insert("terminal".to_owned(), true.into());
    }
    Value::Object(what)
}
