//! What tests of topics begin with: a relay that keeps them, and those who publish and read.

use super::process::Invocation;
use super::{Host, Listener, tools};

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

/// A relay that keeps topics, and whose system calls fail or are late as `fault` says (`strace -e inject`).
pub(crate) fn failing(host: &Host, url: &str, fault: &str) -> Listener {
    let (strace, libraries) = tools::strace();
    let call = fault.split(':').next().unwrap_or_default();
    // The tracer is no parent of the relay, which is the process that the test has.
    let script = format!(
        "LD_LIBRARY_PATH={} exec {} -D -f -qq -o strace.log -E LD_LIBRARY_PATH -e trace={call} \
         -e inject={fault} \"$FARPIPE\" relay --listen {url} --data data",
        libraries.display(),
        strace.display()
    );
    host.shell(&script).start_listening()
}
