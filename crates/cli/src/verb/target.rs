//! Where the agent is that a verb talks to: the flags, and the way there.

use std::time::Duration;

use clap::Args;

use super::reuse::Patience;
use super::route::RouteArgs;
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
    route: RouteArgs,
}

impl TargetArgs {
    /// How to come to the target; through the local agent, if there is one. May wait for that for a moment.
    pub(crate) fn way(&self, session: &SessionArgs) -> anyhow::Result<Way> {
        let patience = Patience {
            resume_for: self.resume_for,
            heartbeat: session.heartbeat,
        };
        // What becomes of the link to the far agent is known to the local agent only.
        if !session.tells_of_links()
            && let Some(way) = self.route.reused(&self.target, patience)
        {
            return Ok(way);
        }
        let mut way = self.route.way(&self.target)?;
        way.config.resume_for = self.resume_for;
        way.config.heartbeat = session.heartbeat;
        Ok(way)
    }
}
