//! Where the agent is that a verb talks to: the flags, and the way there.

use std::time::Duration;

use clap::Args;
use farpipe_net::{Admission, Dial, Greeting, OpenerConfig, RelayDial, TcpDial, Url};
use farpipe_proto::identity::is_name;

use super::proxy::ProxyArgs;
use super::secure::{ConnectTls, Proves};
use super::session::{SessionArgs, dialling, span, url};
use crate::exit::WithStatus;

/// The agent, what is shown to it and believed of it, and how patiently it is sought.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// The agent: its name at a relay, or where it listens: wss://HOST:PORT[/PATH] or fps://HOST:PORT; on
    /// this host also ws:// or fp://
    target: String,
    /// The relays to ask for a name, in turn until one knows it: wss://HOST:PORT[/PATH] or
    /// fps://HOST:PORT, on this host also ws:// or fp://; several with commas between
    #[arg(long, value_name = "URL", env = "FARPIPE_RELAY", value_delimiter = ',')]
    relay: Vec<String>,
    /// How long to try to get a lost connection back (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10m")]
    resume_for: Duration,
    /// Do not encrypt up to the agent: the relay reads what passes, and could change it; agents allow
    /// little to such callers
    #[arg(long)]
    no_e2e: bool,
    #[command(flatten)]
    tls: ConnectTls,
    #[command(flatten)]
    proxy: ProxyArgs,
}

/// The way to an agent.
pub(crate) struct Way {
    pub(crate) dial: Box<dyn Dial>,
    pub(crate) config: OpenerConfig,
}

/// One connection on it, and what lets it in.
struct Hop {
    dial: TcpDial,
    admission: Admission,
    proves: Proves,
}

impl TargetArgs {
    /// How to come to the target. The one place that knows what a target can be.
    pub(crate) fn way(&self, session: &SessionArgs) -> anyhow::Result<Way> {
        let (dial, mut config): (Box<dyn Dial>, _) = if self.target.contains("://") {
            let url = url(&self.target)?;
            let hop = self.hop(&url, |proves| self.tls.dial(url.clone(), proves.ticket()))?;
            let greeting = dialling(hop.admission, hop.proves)?;
            (Box::new(hop.dial), OpenerConfig::new(greeting))
        } else {
            let (dial, greeting) = self.by_name()?;
            let mut config = OpenerConfig::new(greeting);
            if !self.no_e2e {
                config.seal = self.tls.seal(&self.target)?;
            }
            (Box::new(dial), config)
        };
        config.resume_for = self.resume_for;
        config.heartbeat = session.heartbeat;
        Ok(Way { dial, config })
    }

    fn by_name(&self) -> anyhow::Result<(RelayDial, Greeting)> {
        let host = &self.target;
        if !is_name(host) {
            return Err(WithStatus::usage(
                format!("'{}' is neither a URL nor a name", host.escape_debug()),
                "a name has up to 63 small letters, digits, dots, hyphens and underscores, for example \
                 web1; a URL begins with wss://",
            ));
        }
        let hops = self.relay.iter().map(|relay| self.relay(relay));
        let hops: Vec<Hop> = hops.collect::<Result<_, _>>()?;
        let Some(first) = hops.first() else {
            return Err(WithStatus::usage(
                format!("which relay knows {host}? none was named"),
                "give --relay wss://HOST:PORT, or set FARPIPE_RELAY",
            ));
        };
        if hops.iter().any(|hop| hop.admission != first.admission) {
            return Err(WithStatus::usage(
                "the relays of the list let in by different ways",
                "name relays with TLS only, or relays on this host only",
            ));
        }
        let greeting = dialling(first.admission, first.proves.clone())?;
        let relays = hops.into_iter().map(|hop| hop.dial).collect();
        Ok((RelayDial::new(host.clone(), relays), greeting))
    }

    /// A relay of the list. On this host it has no use for certificates, which are the agent's to see.
    fn relay(&self, text: &str) -> anyhow::Result<Hop> {
        let url = url(text)?;
        self.hop(&url, |proves| match url.scheme.is_tls() {
            true => self.tls.dial(url.clone(), proves.ticket()),
            false => Ok(TcpDial::new(url.clone())),
        })
    }

    fn hop(
        &self,
        url: &Url,
        dial: impl FnOnce(&Proves) -> anyhow::Result<TcpDial>,
    ) -> anyhow::Result<Hop> {
        let proves = self.tls.proves(url)?;
        let admission = proves.admission(url);
        let proxy = self.proxy.resolve(url)?;
        let dial = dial(&proves)?.through(proxy);
        Ok(Hop {
            dial,
            admission,
            proves,
        })
    }
}
