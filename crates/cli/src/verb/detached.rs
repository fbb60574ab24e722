//! What `farpipe ps`, `attach`, `wait` and `kill` share: one session that asks one thing of the
//! detached commands of an agent.

use std::sync::Arc;

use farpipe_agent::command::ask::{self, Here};
use farpipe_agent::{Outcome, PipeError};
use farpipe_net::Opener;
use farpipe_proto::limits::DETACHED_ID_MAX;
use farpipe_proto::wire::control::{Manage, Open};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::session::{SessionArgs, conclude, settle};
use super::target::{TargetArgs, Way};
use crate::exit::WithStatus;
use crate::progress::Counts;
use crate::signals::Signals;
use crate::status::Status;

/// A detached command as it is typed.
pub(super) fn id(text: &str) -> Result<String, String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.is_empty() || text.len() > DETACHED_ID_MAX || !text.chars().all(is_word) {
        return Err(format!(
            "1 to {DETACHED_ID_MAX} letters, digits, dots, hyphens and underscores"
        ));
    }
    Ok(text.to_owned())
}

/// A signal as it is typed: its name, with or without SIG, or its number.
pub(super) fn signal(text: &str) -> Result<u32, String> {
    const NAMES: [(&str, u32); 17] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ABRT", 6),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("CHLD", 17),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("TTIN", 21),
        ("WINCH", 28),
    ];
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let known = NAMES.iter().find(|(known, _)| *known == name);
    known
        .map(|(_, number)| *number)
        .or_else(|| text.parse().ok().filter(|number| (1..=64).contains(number)))
        .ok_or_else(|| "a name such as TERM or HUP, or a number from 1 to 64".to_owned())
}

/// Asks `manage` with nothing joined to it but `here`.
pub(super) async fn ask(
    target: &TargetArgs,
    session: &SessionArgs,
    manage: Manage,
    here: Here,
    quiet: bool,
) -> anyhow::Result<u8> {
    let open = Open {
        manage: Some(Box::new(manage)),
        ..Open::default()
    };
    let (outcome, signal, status) = opened(target, session, open, here, quiet).await?;
    conclude(Ok(outcome), signal, &status)
}

/// The same for any stream: how it ended, and by which signal if by one.
pub(super) async fn opened(
    target: &TargetArgs,
    session: &SessionArgs,
    open: Open,
    here: Here,
    quiet: bool,
) -> anyhow::Result<(Outcome, Option<u8>, Status)> {
    let Way {
        dial, mut config, ..
    } = target.way(session)?;
    let status = Status::open(session.status_fd, true)?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    config.events = Some(session.watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet));
    // Nothing is ever passed on.
    let (_asks, asked) = mpsc::channel(1);
    let opener = Opener::new(config);
    let meter = Arc::clone(&counts.meter);
    // A session is large, and every future around it would have room for one on the stack.
    let running = Box::pin(ask::run(open, here, opener, &*dial, meter, asked, cancel));
    let (outcome, signal) = signals.run(running).await;
    settle(tasks).await;
    let outcome = outcome.unwrap_or_else(|| PipeError::Cancelled.into());
    Ok((outcome, signal, status))
}

/// An answer that this version does not understand.
pub(super) fn not_understood() -> anyhow::Error {
    WithStatus::failure(
        "the agent's answer is not understood",
        Some("is it the same farpipe? `farpipe --version` tells at both ends".to_owned()),
    )
}
