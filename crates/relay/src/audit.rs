//! What of a relay's work goes to its audit log (docs/audit.md): who registers and who asks for whom, before
//! it is done; who was refused; what was over.

use farpipe_audit::{Audit, Unwritten};
use farpipe_net::{HandshakeError, redacted};
use serde_json::{Map, Value, json};

use crate::joined::Joining;
use crate::registry::Route;

/// Something that a neighbour asks for.
#[derive(Debug)]
pub(crate) struct Asks(Map<String, Value>);

impl Asks {
    /// To be known under a name, as an `agent` or the writer of a `pipe`.
    pub(crate) fn registration(what: &str, name: &str, who: &str, peer: &str) -> Self {
        Self(fields(who, peer, json!({"register": what, "name": name})))
    }

    /// To be joined to an agent or a pipe.
    pub(crate) fn session(joining: &Joining, route: &Route) -> Self {
        let what = json!({"attach": route.to_string()});
        let mut fields = fields(&joining.attach.caller, &joining.peer, what);
        fields.insert("session".to_owned(), joining.key.clone().into());
        Self(fields)
    }

    /// It may be done, once this is written.
    pub(crate) async fn asked(&self, audit: &Audit) -> Result<(), Unwritten> {
        audit.append(self.with("allowed", None)).await
    }

    pub(crate) async fn refused(&self, audit: &Audit, why: &str) {
        // It is not done either way.
        let _ = audit.append(self.with("refused", Some(why))).await;
    }

    fn with(&self, event: &str, why: Option<&str>) -> Value {
        let mut line = self.0.clone();
        line.insert("event".to_owned(), event.into());
        if let Some(why) = why {
            line.insert("why".to_owned(), redacted(why).into());
        }
        Value::Object(line)
    }
}

/// Who shows no name is this user, on loopback.
fn fields(who: &str, peer: &str, what: Value) -> Map<String, Value> {
    let who = match who {
        "" => Value::Null,
        who => who.into(),
    };
    let mut fields = Map::new();
    fields.insert("who".to_owned(), who);
    fields.insert("address".to_owned(), peer.into());
    fields.insert("what".to_owned(), what);
    fields
}

/// Somebody did not get in, and `left_out` before of whom nothing was written.
pub(crate) async fn stranger(audit: &Audit, peer: &str, error: &HandshakeError, left_out: u64) {
    let line = json!({
        "event": "refused",
        "who": Value::Null,
        "address": peer,
        "what": {"connect": true},
        "why": redacted(&error.to_string()),
        "left_out": left_out,
    });
    let _ = audit.append(line).await;
}

/// A session is not joined any more.
pub(crate) fn parted(session: &str, route: &Route, how: &str, up: u64, down: u64) -> Value {
    json!({
        "event": "ended",
        "what": {"attach": route.to_string()},
        "session": session,
        "how": redacted(how),
        "bytes": [up, down],
    })
}

/// An agent, or a pipe's writer, is not registered any more.
pub(crate) fn gone(what: &str, name: &str, who: &str, how: &str) -> Value {
    json!({
        "event": "ended",
        "who": who,
        "what": {"register": what, "name": name},
        "how": how,
    })
}
