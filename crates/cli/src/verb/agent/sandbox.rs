//! What an agent has need of, if its policy has it start no programs: these would inherit what is closed.

use std::path::Path;

use farpipe_agent::policy::LivePolicy;
use farpipe_net::runtime_dir;

use super::Args;
use crate::exit::WithStatus;
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
    ///
    /// # Errors
    /// `--sandbox` where the policy has it start programs.
    pub(super) fn close(&self, policy: &LivePolicy) -> anyhow::Result<Closed> {
        if self.no_sandbox.is_off() {
            return Ok(Closed::unwanted());
        }
        let reach = policy.current().reach();
        if reach.programs {
            if self.sandbox {
                return Err(WithStatus::failure(
                    "the policy has this agent start programs, to which a sandbox would be closed as well",
                    Some("leave --sandbox out, or allow no exec and no shell".to_owned()),
                ));
            }
            return Ok(Closed::nothing(
                "for the policy has this agent start programs, to which all would be closed as well",
            ));
        }
        // A rule holds a directory and not its name: one that is unmounted at boot would be closed for good.
        let has_files = !reach.read.is_empty() || !reach.changed.is_empty();
        if has_files && !self.sandbox {
            return Ok(Closed::nothing(
                "for the policy names files, which may be replaced: --sandbox closes all but what is there now",
            ));
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
        Ok(Closed::by(sandbox))
    }
}
