//! The way to an agent or to relays: the flags that say it, and what dials it.

use std::sync::Arc;

use clap::Args;
use farpipe_net::{Admission, Dial, Greeting, Proxy, RelayDial, TcpDial, Ticket};
use farpipe_proto::identity::is_name;

use super::proxy::ProxyArgs;
use super::secure::ConnectTls;
use super::session::{dialling, url};
use crate::exit::WithStatus;

/// Which relays there are, what is shown on the way and believed of it.
#[derive(Debug, Args)]
pub(crate) struct RouteArgs {
    /// The relays to ask for a name, in turn until one knows it: wss://HOST:PORT[/PATH] or
    /// fps://HOST:PORT, on this host also ws:// or fp://; several with commas between
    #[arg(long, value_name = "URL", env = "FARPIPE_RELAY", value_delimiter = ',')]
    relay: Vec<String>,
    #[command(flatten)]
    tls: ConnectTls,
    #[command(flatten)]
    proxy: ProxyArgs,
}

/// One connection of the way, and what to prove on it.
pub(crate) struct Leg {
    pub(crate) dial: TcpDial,
    pub(crate) admission: Admission,
    /// What lies on the way.
    pub(crate) proxy: Option<Proxy>,
    ticket: Option<Arc<Ticket>>,
}

impl Leg {
    /// What this side says of itself there.
    pub(crate) fn greeting(&self) -> anyhow::Result<Greeting> {
        dialling(self.admission, self.ticket.clone())
    }
}

impl RouteArgs {
    /// How to come to the target, and what to prove on the way. The one place that knows what a
    /// target can be.
    pub(crate) fn dial(&self, target: &str) -> anyhow::Result<(Box<dyn Dial>, Greeting)> {
        if target.contains("://") {
            let leg = self.leg(target)?;
            let greeting = leg.greeting()?;
            return Ok((Box::new(leg.dial), greeting));
        }
        if !is_name(target) {
            return Err(WithStatus::usage(
                format!("'{}' is neither a URL nor a name", target.escape_debug()),
                "a name has up to 63 small letters, digits, dots, hyphens and underscores; for example: \
                 farpipe exec web1 -- CMD",
            ));
        }
        let relays = self.relays(&format!("which relay knows {target}?"))?;
        let legs: Vec<Leg> = relays
            .iter()
            .map(|relay| self.leg(relay))
            .collect::<Result<_, _>>()?;
        let ways_in = |leg: &Leg| leg.admission != legs[0].admission;
        if legs.iter().any(ways_in) {
            return Err(WithStatus::usage(
                "the relays of the list let in by different ways",
                "name relays with TLS only, or relays on this host only",
            ));
        }
        let greeting = legs[0].greeting()?;
        let dials = legs.into_iter().map(|leg| leg.dial).collect();
        Ok((Box::new(RelayDial::new(target.to_owned(), dials)), greeting))
    }

    /// The relays of the list, of which there is at least one; `question` is what a relay is wanted
    /// for.
    pub(crate) fn relays(&self, question: &str) -> anyhow::Result<&[String]> {
        if self.relay.is_empty() {
            return Err(WithStatus::usage(
                format!("{question} none was named"),
                "give --relay wss://HOST:PORT, or set FARPIPE_RELAY",
            ));
        }
        Ok(&self.relay)
    }

    /// A connection to one URL.
    pub(crate) fn leg(&self, text: &str) -> anyhow::Result<Leg> {
        let url = url(text)?;
        let ticket = self.tls.ticket(&url)?;
        let admission = Admission::shown(url.scheme, ticket.as_deref());
        let proxy = self.proxy.resolve(&url)?;
        let dial = self
            .tls
            .dial(url, ticket.as_deref())?
            .through(proxy.clone());
        Ok(Leg {
            dial,
            proxy,
            admission,
            ticket,
        })
    }
}
