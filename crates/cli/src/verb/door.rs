//! Opens a listener to callers: what every verb that listens does once it is bound.

use std::sync::Arc;

use farpipe_net::{Acceptor, Listener};
use tokio::task::JoinSet;

use super::ticket::Outlet;
use crate::output;
use crate::status::Status;

/// The line that a ticket is printed with: `farpipe VERB URL REST`.
pub(crate) struct Invitation {
    pub(crate) verb: &'static str,
    pub(crate) rest: &'static str,
}

/// Makes the first ticket where callers need one, says that it listens, and takes connections. With
/// `keep` there is a new ticket when one is used.
///
/// # Errors
/// The ticket cannot be written; nothing was said: a listener that nobody could get into is none.
///
/// # Cancellation
/// Dropping the tasks takes no more connections.
pub(crate) async fn open(
    listener: Listener,
    acceptor: Arc<Acceptor>,
    outlet: Option<Outlet>,
    invitation: &Invitation,
    keep: bool,
    quiet: bool,
    status: &Status,
) -> anyhow::Result<JoinSet<()>> {
    let Invitation { verb, rest } = invitation;
    let mut accepting = JoinSet::new();
    let tickets = match outlet {
        Some(outlet) => Some(outlet.open(verb, listener.url(), rest).await?),
        None => None,
    };
    if !quiet {
        output::line(&format!("listening on {}", listener.url()));
    }
    status.write(serde_json::json!({"event": "listening", "url": listener.url().to_string()}));
    if let Some(tickets) = tickets {
        accepting.spawn(tickets.serve(keep));
    }
    accepting.spawn(listener.serve(acceptor));
    Ok(accepting)
}
