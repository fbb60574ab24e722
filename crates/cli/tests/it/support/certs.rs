//! Certificates made by farpipe itself, in a host's directory, and the flags that show them.

use super::Host;

/// Certificates of one authority: a relay's, two agents', two clients'.
pub(crate) fn certified() -> Host {
    let host = Host::new();
    let cert = |args: &[&str]| {
        host.farpipe(["cert", "-q"]).args(args).run().exits(0);
    };
    cert(&["init"]);
    cert(&["issue", "relay", "--kind", "relay", "--san", "127.0.0.1"]);
    for name in ["web1", "web2"] {
        cert(&["issue", name, "--kind", "agent"]);
    }
    for name in ["alice", "bob"] {
        cert(&["issue", name]);
    }
    host
}

/// The flags that show `name`'s certificate.
pub(crate) fn shows(name: &str) -> [String; 6] {
    let dir = "farpipe-certs";
    let (cert, key) = (format!("{dir}/{name}.pem"), format!("{dir}/{name}-key.pem"));
    [
        "--cert",
        &cert,
        "--key",
        &key,
        "--ca",
        "farpipe-certs/ca.pem",
    ]
    .map(str::to_owned)
}
