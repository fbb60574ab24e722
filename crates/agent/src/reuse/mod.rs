//! Lets the commands of this user go through this process, which keeps the sessions they need: the
//! next command finds its far agent linked, and needs no handshake with anybody but this process
//! (docs/decisions/0015-connection-reuse.md).

mod far;
mod near;
mod splice;
mod ways;

use std::sync::Arc;

use farpipe_net::{AcceptorConfig, LocalSocket, Visitor};
use farpipe_proto::limits::{DRAIN, REUSE_CLIENTS_MAX, REUSE_IDLE};
use tokio::task::{JoinError, JoinSet};

use self::far::Far;
use self::ways::Ways;
pub use self::ways::{Road, Roads};
use crate::pipe::{self, Cancel, cancelled};

/// Looks for sessions that nobody uses this often while one may be idle.
const SWEEPS: u32 = 20;

/// Serves the commands that come by `socket` until `cancel` fires, by roads that `roads` makes. What
/// `config` says is said to them; their windows are of its budget, and those of the far sessions too.
///
/// # Cancellation
/// Dropping it ends all sessions without a word. Use `cancel`: commands hear why they fail.
pub async fn serve(socket: LocalSocket, config: AcceptorConfig, roads: Arc<Roads>, cancel: Cancel) {
    let (ways, mut begun) = Ways::new(roads, Arc::clone(&config.windows));
    let ways = Arc::new(ways);
    let mut near = JoinSet::new();
    let mut far = JoinSet::new();
    let mut sweep = tokio::time::interval(REUSE_IDLE / SWEEPS);
    loop {
        tokio::select! {
            () = cancelled(cancel.clone()) => break,
            visitor = socket.accept(), if near.len() < REUSE_CLIENTS_MAX => {
                near.spawn(one(visitor, Arc::clone(&ways), config.clone(), cancel.clone()));
            }
            Some((session, opener)) = begun.recv() => {
                far.spawn(session.run(opener));
            }
            Some(ended) = near.join_next() => log(ended.err()),
            Some(ended) = far.join_next() => log(ended.err()),
            _ = sweep.tick() => ways.sweep(),
        }
    }
    // Who comes now goes its own way.
    drop(socket);
    while let Some(ended) = near.join_next().await {
        log(ended.err());
    }
    // What was said last for commands that are gone must arrive, or theirs would run on.
    for leave in [Far::leave, Far::end] {
        ways.each(leave);
        let left = async { while far.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, left).await.is_ok() {
            return;
        }
    }
    far.shutdown().await;
}

async fn one(visitor: Visitor, ways: Arc<Ways>, config: AcceptorConfig, cancel: Cancel) {
    // Each of the two is large, and every task would have room for both.
    let receiving = Box::pin(near::receive(visitor, ways, config));
    let Ok(received) = pipe::unless_cancelled(cancel.clone(), receiving).await else {
        return;
    };
    match received {
        Ok((served, session)) => {
            let name = session.name();
            match Box::pin(served.run(session, cancel)).await {
                Ok(()) => tracing::info!("session {name}: over"),
                Err(end) => tracing::info!("session {name}: {end}"),
            }
        }
        Err(error) => tracing::info!("a command goes its own way: {error}"),
    }
}

fn log(failed: Option<JoinError>) {
    if let Some(error) = failed {
        tracing::error!("a task of a command that goes through here failed: {error}");
    }
}
