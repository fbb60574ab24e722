//! What an agent has need of, if its policy has it start no programs: these would inherit what is closed.

use std::path::Path;

use farpipe_agent::policy::LivePolicy;
use farpipe_net::runtime_dir;

use super::Args;
use crate::verb::sandbox::{Closed, usual};

/// Read wherever names are looked up, and files of these are replaced while an agent runs: it dials for months.
const SETTINGS: &str = "/etc";

/// Where the authorities are that the system trusts, besides [`SETTINGS`].
const AUTHORITIES: [&str; 3] = [
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
];

/// The variables that say where else.
const OWN_AUTHORITIES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

impl Args {
    /// Closes what this agent has no need of: see [`Closed::by`]. From then on its policy allows no more than what it
    /// allows now.
    pub(super) fn close(&self, policy: &LivePolicy) -> Closed {
        if self.sandbox.is_off() {
            return Closed::unwanted();
        }
        if policy.current().reach().programs {
            return Closed::nothing(
                "for the policy has this agent start programs, to which all would be closed as well",
            );
        }
        let reach = policy.keep_within();
        let mut sandbox = usual();
        sandbox.set_modes();
        sandbox.read_below(Path::new(SETTINGS));
        for directory in AUTHORITIES {
            sandbox.read_below(Path::new(directory));
        }
        for variable in OWN_AUTHORITIES {
            if let Some(path) = std::env::var_os(variable) {
                sandbox.read_below_or_beside(Path::new(&path));
            }
        }
        let policy = self.allow.file();
        let files = self.tls.certificate_files().map(Path::to_owned);
        let token = self.registration.token_file().map(Path::to_owned);
        for file in files.chain(token).chain(policy) {
            sandbox.read(&file);
        }
        let replaced = [self.tls.token_file(), self.tls.ticket_file()];
        for file in replaced.into_iter().flatten() {
            sandbox.replace(file);
        }
        if let Some(log) = self.audit.file() {
            sandbox.append(log);
        }
        sandbox.change_below(&runtime_dir());
        if self.client_only {
            // Its user's commands name certificates, wherever these are.
            sandbox.read_below(Path::new("/"));
        }
        for path in &reach.read {
            sandbox.read_below_or_beside(path);
        }
        for path in &reach.changed {
            sandbox.change_below(path);
        }
        Closed::by(sandbox)
    }
}
