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
    /// What the agent listens by, or the relay.
    scheme: &'static str,
    by_relay: bool,
    /// Further flags of the caller.
    caller: &'static [&'static str],
}

/// What the others of the same security are compared with.
pub const EXEC_WS: &str = "exec ws";
pub const EXEC_WSS: &str = "exec wss";

pub const WAYS: &[Way] = &[
    Way {
        name: EXEC_WS,
        scheme: "ws",
        by_relay: false,
        caller: &[],
    },
    Way {
        name: "ws relay",
        scheme: "ws",
        by_relay: true,
        caller: &[],
    },
    Way {
        name: "fp relay",
        scheme: "fp",
        by_relay: true,
        caller: &[],
    },
    Way {
        name: EXEC_WSS,
        scheme: "wss",
        by_relay: false,
        caller: &["CERTS"],
    },
    Way {
        name: "wss relay, hop by hop",
        scheme: "wss",
        by_relay: true,
        caller: &["CERTS", "--no-e2e"],
    },
    Way {
        name: "wss relay, end to end",
        scheme: "wss",
        by_relay: true,
        caller: &["CERTS"],
    },
];

/// What a run is: GB (10^9 bytes) a second at the command, CPU seconds a GiB of the caller and the
/// relay.
pub fn through(writer: &Writer, way: &Way, farpipe: &Path) -> Result<(f64, f64)> {
    let start = |args: &[&str], url: &str| {
        let args = arguments(args, url);
        Process::start(farpipe, &args, Stdio::null(), Stdio::null())
    };
    let door = format!("{}://127.0.0.1:0", way.scheme);
    let is_tls = way.scheme == "wss";
    let own: &[&str] = if is_tls { &["AGENT"] } else { &[] };
    let policy = certs::folder().join("policy.yaml").display().to_string();
    let allow = ["--allow", "exec", "--policy", &policy];
    let (relay, agent, url) = if way.by_relay {
        let shows: &[&str] = if is_tls { &["CERTS"] } else { &[] };
        let relay = start(&[&["relay", "--listen", &door], shows].concat(), "")?;
        let url = relay.announced()?;
        let named = ["agent", "URL", "--name", "bench"];
        let agent = start(&[&named, &allow[..], own].concat(), &url)?;
        agent.said("registered as ")?;
        (Some(relay), agent, url)
    } else {
        let listening = ["agent", "--listen", &door];
        let agent = start(&[&listening, &allow[..], own].concat(), "")?;
        let url = agent.announced()?;
        (None, agent, url)
    };
    let program = std::env::current_exe().context("cannot find this program")?;
    let program = program.display().to_string();
    let target: &[&str] = match way.by_relay {
        true => &["exec", "--relay", "URL", "bench"],
        false => &["exec", "URL"],
    };
    let args = [target, way.caller, &["--", &program, "sink"]].concat();
    let mut source = start_writer(writer)?;
    let args = arguments(&args, &url);
    let mut caller = Process::start(farpipe, &args, source.stdout().into(), Stdio::piped())?;
    let rate = read_rate(&mut caller, writer.bytes)?;
    let mut cpu = caller.finish()?;
    source.finish()?;
    // Not its commands': they are measured programs' own.
    drop(agent);
    if let Some(relay) = relay {
        cpu += relay.end()?;
    }
    Ok((rate, cpu * f64::from(1 << 30) / writer.bytes as f64))
}
