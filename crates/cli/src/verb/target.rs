//! Where the agent is that a verb talks to: the flags, and the way there.

use std::time::Duration;

use clap::Args;

use super::reuse::ReusedRoute;
pub(crate) use super::route::Way;
use super::session::{SessionArgs, span};

/// The agent, what is shown to it and believed of it, and how patiently it is sought.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// The agent: its name at a relay, or where it listens: wss://HOST:PORT[/PATH] or fps://HOST:PORT; on
    /// this host also ws:// or fp://
    target: String,
    /// How long to try to get a lost connection back (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10m")]
    resume_for: Duration,
    #[command(flatten)]
    route: ReusedRoute,
}

impl TargetArgs {
    /// What it was called.
    pub(crate) fn shown(&self) -> &str {
        &self.target
    }

    /// How long to try to get it back.
    pub(crate) fn resume_for(&self) -> Duration {
        self.resume_for
    }

    /// How to come to the target: see [`ReusedRoute::way_of`].
    pub(crate) fn way(&self, session: &SessionArgs) -> anyhow::Result<Way> {
        self.route.way_of(&self.target, self.resume_for, session)
    }
}
