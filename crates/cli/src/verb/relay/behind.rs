//! What stands before a relay's doors.

use std::net::IpAddr;

use clap::{Args, ValueEnum};
use farpipe_net::{ProxyBefore, Url};

use crate::exit::WithStatus;

/// A proxy before the relay.
#[derive(Debug, PartialEq, Eq, Args)]
pub(crate) struct BehindArgs {
    /// A proxy hands on the connections of others: it ends TLS and passes HTTP on to a ws door (http), or
    /// passes TCP on with a PROXY protocol header in front (tcp). Then a door without TLS lets in by
    /// token only, not this user's processes, and the logs have the address that the proxy tells
    #[arg(long, value_name = "WHAT")]
    behind_proxy: Option<Behind>,
    /// The address of a proxy that is not on this host; others are turned away; repeatable
    #[arg(long, value_name = "IP", requires = "behind_proxy")]
    proxy_address: Vec<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Behind {
    #[value(help = "one that speaks HTTP: its last X-Forwarded-For is whose connection it is")]
    Http,
    #[value(help = "one that passes TCP on: the PROXY protocol, version 1 or 2, says whose it is")]
    Tcp,
}

impl BehindArgs {
    /// Whether there is one.
    pub(super) fn is_given(&self) -> bool {
        self.behind_proxy.is_some()
    }

    /// The proxy before these doors.
    pub(super) fn proxy(&self, doors: &[Url]) -> anyhow::Result<Option<ProxyBefore>> {
        let Some(behind) = self.behind_proxy else {
            return Ok(None);
        };
        let before = match behind {
            Behind::Http if !self.proxy_address.is_empty() => {
                return Err(WithStatus::usage(
                    "a proxy that has ended TLS is on this host, or what it passes on could be read on the way",
                    "leave out --proxy-address, or have it pass TCP on: --behind-proxy tcp",
                ));
            }
            Behind::Http => ProxyBefore::Http,
            Behind::Tcp => ProxyBefore::Tcp {
                from: self
                    .proxy_address
                    .iter()
                    .map(IpAddr::to_canonical)
                    .collect(),
            },
        };
        if !doors.iter().any(|door| before.is_before(door.scheme)) {
            return Err(WithStatus::usage(
                "a proxy that speaks HTTP needs a door without TLS, and there is none",
                "give --listen ws://127.0.0.1:7000; or --behind-proxy tcp for one that passes TLS on",
            ));
        }
        Ok(Some(before))
    }
}
