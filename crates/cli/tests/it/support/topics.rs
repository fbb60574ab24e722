//! What tests of topics begin with: a relay that keeps them, and those who publish and read.

use super::process::Invocation;
use super::{Host, Listener};

/// A relay that keeps topics.
pub(crate) fn relay(host: &Host, url: &str) -> Listener {
    let relay = host.relay_at(url).args(["--data", "data"]);
    relay.start_listening()
}

pub(crate) fn publish(host: &Host, relay: &str) -> Invocation {
    host.farpipe(["pub", "--relay", relay, "--heartbeat", "1s"])
}

pub(crate) fn subscribe(host: &Host, relay: &str) -> Invocation {
    host.farpipe(["sub", "--relay", relay, "--heartbeat", "1s"])
}

pub(crate) fn topic(host: &Host, relay: &str, action: &str) -> Invocation {
    host.farpipe(["topic", action, "--relay", relay])
}

pub(crate) fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|n| format!("line {n}\n")).collect()
}
