//! The topics of a relay: where they are kept, and whether they are made when they are asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args};
use farpipe_log::{Log, Options};
use farpipe_net::{Acceptor, Clock, WallClock};
use farpipe_relay::Topics;
use tokio::task::JoinSet;

use crate::exit::WithStatus;

/// What is kept here.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct TopicsArgs {
    /// Keep topics in this directory (`farpipe pub`, `sub`, `topic`): it is made if it is not there, and is this relay's alone.
    /// Whoever is let in may publish and read
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Make a topic when it is first published to or read
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, requires = "data")]
    auto_create: bool,
}

impl TopicsArgs {
    /// Where they are.
    pub(super) fn dir(&self) -> Option<&Path> {
        self.data.as_deref()
    }

    /// Makes the directory, while that can be done.
    pub(super) fn prepare(&self) -> anyhow::Result<()> {
        let Some(dir) = &self.data else {
            return Ok(());
        };
        let made = std::fs::create_dir_all(dir);
        made.map_err(|error| {
            WithStatus::failure(format!("cannot make {}: {error}", dir.display()), None)
        })
    }

    /// Opens the log and begins to serve it: where sessions go, and what the gateway asks. `None`: no topics are kept.
    pub(super) async fn begin(
        &self,
        heartbeat: Duration,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<Option<(Arc<Acceptor>, Topics)>> {
        let Some(dir) = self.data.clone() else {
            return Ok(None);
        };
        let shown = dir.display().to_string();
        // It may have much to read.
        let opened =
            tokio::task::spawn_blocking(move || Log::open(&dir, Options::default(), now_ns));
        let opened = opened.await?;
        let (log, recovered) = opened.map_err(|error| {
            let message = format!("the topics in {shown} cannot be opened: {error}");
            WithStatus::failure(message, None)
        })?;
        for found in recovered {
            tracing::warn!("the topics in {shown}: {found}");
        }
        let (acceptor, sessions) = Topics::entrance(Clock::Boot, heartbeat);
        let topics = Topics::new(log, self.auto_create, Clock::Boot);
        tasks.spawn(topics.clone().serve(sessions));
        Ok(Some((acceptor, topics)))
    }
}

fn now_ns() -> u64 {
    u64::try_from(WallClock::System.now().as_nanos()).unwrap_or(u64::MAX)
}
