//! Which agents, or which pipes, a relay knows: what `farpipe ls` shows.

use farpipe_proto::identity::is_name;
use farpipe_proto::wire::control::Host;

use crate::carrier::Close;
use crate::checkup::CheckupError;
use crate::link::{self, Greeting, Wire};
use crate::opener::Dial;

/// Asks the relay that `dial` leads to for its agents, in the order of their names: at most 65,536,
/// each with a name that is one, and tags without control characters.
///
/// # Errors
/// [`CheckupError`].
///
/// # Cancellation
/// Dropping it drops the connection.
pub async fn hosts(dial: &dyn Dial, greeting: &Greeting) -> Result<Vec<Host>, CheckupError> {
    listed(dial, greeting, false).await
}

/// As [`hosts`], the pipes that have a writer there; the sessions of each are its readers.
///
/// # Errors
/// As there.
///
/// # Cancellation
/// As there.
pub async fn pipes(dial: &dyn Dial, greeting: &Greeting) -> Result<Vec<Host>, CheckupError> {
    listed(dial, greeting, true).await
}

async fn listed(
    dial: &dyn Dial,
    greeting: &Greeting,
    pipes: bool,
) -> Result<Vec<Host>, CheckupError> {
    let mut wire = Wire::new(dial.dial().await?);
    let listed = link::list(&mut wire, greeting, pipes).await;
    wire.close(Close {
        code: 1000,
        reason: "told",
    })
    .await;
    let mut hosts = listed?;
    hosts.retain(|host| is_name(&host.name));
    for host in &mut hosts {
        for tag in &mut host.tags {
            *tag = link::printable(tag);
        }
    }
    Ok(hosts)
}
