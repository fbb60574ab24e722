//! Where the agent is that a verb talks to: the flags, and the way there.

use std::time::Duration;

use clap::Args;
use farpipe_net::{Admission, OpenerConfig, TcpDial};

use super::proxy::ProxyArgs;
use super::secure::ConnectTls;
use super::session::{SessionArgs, dialling, span, url};

/// The agent, what is shown to it and believed of it, and how patiently it is sought.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// Where the agent listens: wss://HOST:PORT[/PATH] or fps://HOST:PORT; on this host also ws:// or
    /// fp://
    target: String,
    /// How long to try to get a lost connection back (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10m")]
    resume_for: Duration,
    #[command(flatten)]
    tls: ConnectTls,
    #[command(flatten)]
    proxy: ProxyArgs,
}

/// The way to an agent.
pub(crate) struct Way {
    pub(crate) dial: TcpDial,
    pub(crate) config: OpenerConfig,
}

impl TargetArgs {
    /// How to come to the target. The one place that knows what a target can be.
    pub(crate) fn way(&self, session: &SessionArgs) -> anyhow::Result<Way> {
        let url = url(&self.target)?;
        let ticket = self.tls.ticket(&url)?;
        let admission = Admission::shown(url.scheme, ticket.as_deref());
        let proxy = self.proxy.resolve(&url)?;
        let dial = self.tls.dial(url, ticket.as_deref())?.through(proxy);
        let mut config = OpenerConfig::new(dialling(admission, ticket)?);
        config.resume_for = self.resume_for;
        config.heartbeat = session.heartbeat;
        Ok(Way { dial, config })
    }
}
