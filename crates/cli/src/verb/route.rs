//! The way to an agent or to relays: the flags that say it, and what dials it.

use std::time::Duration;

use clap::Args;
use farpipe_net::tls::AcceptorSeal;
use farpipe_net::{Admission, Dial, Greeting, OpenerConfig, Proxy, RelayDial, TcpDial, Url, Waits};
use farpipe_proto::identity::is_name;
use farpipe_proto::limits::{HOLD, HOLD_WALKING};

use super::proxy::ProxyArgs;
use super::secure::{ConnectTls, Proves};
use super::session::{dialling, url};
use crate::exit::WithStatus;

/// Which relays there are, what is shown on the way and believed of it.
#[derive(Debug, Args)]
pub(crate) struct RouteArgs {
    /// The relays to ask for a name, in turn until one knows it: wss://HOST:PORT[/PATH] or
    /// fps://HOST:PORT, on this host also ws:// or fp://; several with commas between
    #[arg(long, value_name = "URL", env = "FARPIPE_RELAY", value_delimiter = ',')]
    pub(super) relay: Vec<String>,
    /// Do not encrypt up to the other end: the relay reads what passes, and could change it; agents allow
    /// little to such callers
    #[arg(long)]
    pub(super) no_e2e: bool,
    #[command(flatten)]
    pub(super) tls: ConnectTls,
    #[command(flatten)]
    pub(super) proxy: ProxyArgs,
}

/// The way to an agent.
pub(crate) struct Way {
    pub(crate) dial: Box<dyn Dial>,
    pub(crate) config: OpenerConfig,
    /// It goes through a local agent: a link says nothing of the far one.
    pub(crate) is_reused: bool,
}

impl Way {
    fn direct(dial: Box<dyn Dial>, config: OpenerConfig) -> Self {
        Self {
            dial,
            config,
            is_reused: false,
        }
    }
}

/// One connection on it, and what lets it in.
pub(crate) struct Leg {
    pub(crate) dial: TcpDial,
    pub(crate) admission: Admission,
    /// What lies between.
    pub(crate) proxy: Option<Proxy>,
    proves: Proves,
}

impl Leg {
    /// What this side says of itself there.
    pub(crate) fn greeting(&self) -> anyhow::Result<Greeting> {
        dialling(self.admission, self.proves.clone())
    }
}

impl RouteArgs {
    /// How to come to the target. The one place that knows what a target can be.
    pub(crate) fn way(&self, target: &str) -> anyhow::Result<Way> {
        if target.contains("://") {
            let leg = self.listener(target)?;
            let config = OpenerConfig::new(leg.greeting()?);
            let dial = Box::new(leg.dial);
            return Ok(Way::direct(dial, config));
        }
        check_name(target)?;
        self.by_name(
            target,
            self.relays(&format!("which relay knows {target}?"))?,
        )
    }

    /// The way to an agent by the first of `relays` that knows it.
    pub(crate) fn by_name(&self, agent: &str, relays: &[String]) -> anyhow::Result<Way> {
        let legs = self.legs(relays)?;
        let mut config = OpenerConfig::new(legs[0].greeting()?);
        if !self.no_e2e {
            config.seal = self.tls.seal(agent)?;
        }
        let dials = legs.into_iter().map(|leg| leg.dial).collect();
        let dial = Box::new(RelayDial::new(agent.to_owned(), dials));
        Ok(Way::direct(dial, config))
    }

    /// The way to whoever writes to a pipe at one of the relays, now or later.
    pub(crate) fn to_pipe(&self, name: &str, wait: Option<Duration>) -> anyhow::Result<Way> {
        let legs = self.legs_of_pipe(name)?;
        let mut config = OpenerConfig::new(legs[0].greeting()?);
        config.waits = Some(Waits {
            whom: format!("a writer of the pipe {name}"),
            at_most: wait,
            hold: if legs.len() > 1 { HOLD_WALKING } else { HOLD },
        });
        if !self.no_e2e {
            config.seal = self.tls.seal_to_writer()?;
        }
        let dials = legs.into_iter().map(|leg| leg.dial).collect();
        let dial = Box::new(RelayDial::new(format!("p/{name}"), dials));
        Ok(Way::direct(dial, config))
    }

    /// The way to the topics of one of the relays: the first that keeps any. The relay is the other end.
    pub(crate) fn to_topics(&self) -> anyhow::Result<(Box<dyn Dial>, OpenerConfig)> {
        let legs = self.legs(self.relays("which relay keeps the topic?")?)?;
        let config = OpenerConfig::new(legs[0].greeting()?);
        let dials = legs.into_iter().map(|leg| leg.dial).collect();
        Ok((Box::new(RelayDial::new("t/".to_owned(), dials)), config))
    }

    /// What the writer of a pipe shows to its readers and believes of them, and whether it sends to those,
    /// too, who come without.
    pub(crate) fn seal_of_writer(&self) -> anyhow::Result<(Option<AcceptorSeal>, bool)> {
        let seal = self.tls.seal_of_writer()?;
        let is_plain_enough = self.no_e2e || seal.is_none();
        Ok((seal, is_plain_enough))
    }

    /// One connection to each relay of the list, of which there is at least one, for a pipe.
    pub(crate) fn legs_of_pipe(&self, name: &str) -> anyhow::Result<Vec<Leg>> {
        if !is_name(name) {
            return Err(WithStatus::usage(
                format!("'{}' cannot be the name of a pipe", name.escape_debug()),
                "a name has up to 63 small letters, digits, dots, hyphens and underscores, for example \
                 logs",
            ));
        }
        self.legs(self.relays(&format!("at which relay is the pipe {name}?"))?)
    }

    /// One connection to each of `relays`, which let in by one way.
    fn legs(&self, relays: &[String]) -> anyhow::Result<Vec<Leg>> {
        let legs = relays.iter().map(|relay| self.relay(relay));
        let legs: Vec<Leg> = legs.collect::<Result<_, _>>()?;
        if legs.iter().any(|leg| leg.admission != legs[0].admission) {
            return Err(WithStatus::usage(
                "the relays of the list let in by different ways",
                "name relays with TLS only, or relays on this host only",
            ));
        }
        Ok(legs)
    }

    /// Whether any relay was named.
    pub(crate) fn has_relay(&self) -> bool {
        // A variable that is empty is as good as none.
        self.relay.iter().any(|relay| !relay.is_empty())
    }

    /// The relays of the list, of which there is at least one; `question` is what a relay is wanted
    /// for.
    pub(crate) fn relays(&self, question: &str) -> anyhow::Result<&[String]> {
        if !self.has_relay() {
            return Err(WithStatus::usage(
                format!("{question} none was named"),
                "give --relay wss://HOST:PORT, or set FARPIPE_RELAY",
            ));
        }
        Ok(&self.relay)
    }

    /// A listener's URL.
    pub(crate) fn listener(&self, text: &str) -> anyhow::Result<Leg> {
        let url = url(text)?;
        self.leg(&url, |proves| self.tls.dial(url.clone(), proves.ticket()))
    }

    /// A relay of the list. On this host it has no use for certificates, which are the agent's to see.
    pub(crate) fn relay(&self, text: &str) -> anyhow::Result<Leg> {
        let url = url(text)?;
        self.leg(&url, |proves| match url.scheme.is_tls() {
            true => self.tls.dial(url.clone(), proves.ticket()),
            false => Ok(TcpDial::new(url.clone())),
        })
    }

    fn leg(
        &self,
        url: &Url,
        dial: impl FnOnce(&Proves) -> anyhow::Result<TcpDial>,
    ) -> anyhow::Result<Leg> {
        let proves = self.tls.proves(url)?;
        let admission = proves.admission(url);
        let proxy = self.proxy.resolve(url)?;
        let dial = dial(&proves)?.through(proxy.clone());
        Ok(Leg {
            dial,
            admission,
            proxy,
            proves,
        })
    }
}

/// Whether a target that is no URL can be the name of an agent.
pub(crate) fn check_name(target: &str) -> anyhow::Result<()> {
    if is_name(target) {
        return Ok(());
    }
    Err(WithStatus::usage(
        format!("'{}' is neither a URL nor a name", target.escape_debug()),
        "a name has up to 63 small letters, digits, dots, hyphens and underscores, for example \
         web1; a URL begins with wss://",
    ))
}
