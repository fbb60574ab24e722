//! A command's stdin at another host: straight to its agent, or by a relay.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::bulk::{Writer, arguments, read_rate, start_writer};
use crate::certs;
use crate::process::Process;

/// A way to the agent.
#[derive(Debug)]
pub struct Way {
    pub name: &'static str,
    /// The same for a forwarded port.
    pub forward: &'static str,
    /// What the agent listens by, or the relay.
    scheme: &'static str,
    by_relay: bool,
    /// Further flags of the caller.
    caller: &'static [&'static str],
}

/// What the others of the same security are compared with.
pub const EXEC_WS: &str = "exec ws";
pub const EXEC_WSS: &str = "exec wss";
pub const EXEC_RELAY: &str = "wss relay, end to end";
pub const FORWARD_WS: &str = "forward ws";

pub const WAYS: &[Way] = &[
    Way {
        name: EXEC_WS,
        forward: FORWARD_WS,
        scheme: "ws",
        by_relay: false,
        caller: &[],
    },
    Way {
        name: "ws relay",
        forward: "forward ws relay",
        scheme: "ws",
        by_relay: true,
        caller: &[],
    },
    Way {
        name: "fp relay",
        forward: "forward fp relay",
        scheme: "fp",
        by_relay: true,
        caller: &[],
    },
    Way {
        name: EXEC_WSS,
        forward: "forward wss",
        scheme: "wss",
        by_relay: false,
        caller: &["CERTS"],
    },
    Way {
        name: "wss relay, hop by hop",
        forward: "forward wss relay, hop by hop",
        scheme: "wss",
        by_relay: true,
        caller: &["CERTS", "--no-e2e"],
    },
    Way {
        name: EXEC_RELAY,
        forward: "forward wss relay, end to end",
        scheme: "wss",
        by_relay: true,
        caller: &["CERTS"],
    },
];

/// An agent, and the relay before it if there is one; ended when dropped.
#[derive(Debug)]
pub struct Net {
    agent: Process,
    relay: Option<Process>,
    url: String,
}

impl Net {
    /// HOST:PORT of what listens.
    pub fn address(&self) -> &str {
        self.url
            .split_once("://")
            .map_or(&self.url, |(_, rest)| rest)
    }
}

impl Way {
    /// The way of that name.
    pub fn named(name: &str) -> Result<&'static Self> {
        let way = WAYS.iter().find(|way| way.name == name);
        way.with_context(|| format!("there is no way {name}"))
    }

    /// Starts what is on the way; the agent has these flags. It keeps no connections for this user's
    /// commands, which would go through it rather than by the way that is measured.
    pub fn open(&self, farpipe: &Path, allow: &[&str]) -> Result<Net> {
        let start = |args: &[&str], url: &str| {
            let args = arguments(args, url);
            Process::start(farpipe, &args, Stdio::null(), Stdio::null())
        };
        let door = format!("{}://127.0.0.1:0", self.scheme);
        let is_tls = self.scheme == "wss";
        let own: &[&str] = if is_tls { &["AGENT"] } else { &[] };
        let policy = certs::folder().join("policy.yaml").display().to_string();
        let allow = [allow, &["--policy", &policy]].concat();
        if !self.by_relay {
            let listening = ["agent", "--no-reuse", "--listen", &door];
            let agent = start(&[&listening, &allow[..], own].concat(), "")?;
            let url = agent.announced()?;
            return Ok(Net {
                agent,
                relay: None,
                url,
            });
        }
        let shows: &[&str] = if is_tls { &["CERTS"] } else { &[] };
        let relay = start(&[&["relay", "--listen", &door], shows].concat(), "")?;
        let url = relay.announced()?;
        let named = ["agent", "--no-reuse", "URL", "--name", "bench"];
        let agent = start(&[&named, &allow[..], own].concat(), &url)?;
        agent.said("registered as ")?;
        Ok(Net {
            agent,
            relay: Some(relay),
            url,
        })
    }

    /// A command line of `verb` to the agent, which connects for itself.
    pub fn command(&self, net: &Net, verb: &str, rest: &[&str]) -> Vec<String> {
        self.reusing(net, verb, &[&["--no-reuse"], rest].concat())
    }

    /// The same by a connection that the user's own agent keeps, if there is one.
    pub fn reusing(&self, net: &Net, verb: &str, rest: &[&str]) -> Vec<String> {
        let target: &[&str] = match self.by_relay {
            true => &[verb, "--relay", "URL", "bench"],
            false => &[verb, "URL"],
        };
        arguments(&[target, self.caller, rest].concat(), &net.url)
    }

    /// A copy of `source` to `target` at an agent that listens, whose `address` (HOST:PORT) may be
    /// that of a proxy before it.
    pub fn copy(&self, address: &str, source: &str, target: &str) -> Vec<String> {
        let begin = ["cp", "--no-reuse", "-q"];
        let place = format!("[{}://{address}]:{target}", self.scheme);
        arguments(&[&begin, self.caller, &[source, &place]].concat(), address)
    }
}

/// What a run is: GB (10^9 bytes) a second at the command, CPU seconds a GiB of the caller and the
/// relay.
pub fn through(writer: &Writer, way: &Way, farpipe: &Path) -> Result<(f64, f64)> {
    let net = way.open(farpipe, &["--allow", "exec"])?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let program = program.display().to_string();
    let args = way.command(&net, "exec", &["--", &program, "sink"]);
    let mut source = start_writer(writer)?;
    let mut caller = Process::start(farpipe, &args, source.stdout().into(), Stdio::piped())?;
    let rate = read_rate(&mut caller, writer.bytes)?;
    let mut cpu = caller.finish()?;
    source.finish()?;
    // Not its commands': they are measured programs' own.
    drop(net.agent);
    if let Some(relay) = net.relay {
        cpu += relay.end()?;
    }
    Ok((rate, cpu * f64::from(1 << 30) / writer.bytes as f64))
}
