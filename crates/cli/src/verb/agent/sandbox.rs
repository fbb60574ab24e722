//! What an agent has need of. Commands would inherit what is closed, so another process starts them.

use std::path::Path;

use farpipe_agent::command::launch::Launcher;
use farpipe_agent::command::spawner::Spawner;
use farpipe_agent::policy::{LivePolicy, Reach};
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
    /// allows now, but for commands. If there are any, what starts them is begun before.
    ///
    /// # Errors
    /// Nothing could be begun that starts commands.
    pub(super) fn close(&self, policy: &LivePolicy) -> anyhow::Result<(Closed, Launcher)> {
        let open = |why| Ok((why, Launcher::own()?));
        if self.no_sandbox.is_off() {
            return open(Closed::unwanted());
        }
        let reach = policy.current().reach();
        if reach.any_program && !self.sandbox {
            return open(Closed::nothing(
                "for the policy lets somebody run anything: --sandbox closes all else",
            ));
        }
        // A rule holds a directory and not its name: one that is unmounted at boot would be closed for good.
        let has_files = !reach.read.is_empty() || !reach.changed.is_empty();
        if has_files && !self.sandbox {
            return open(Closed::nothing(
                "for the policy names files, which may be replaced: --sandbox closes all but what is there now",
            ));
        }
        let launcher = match reach.programs {
            true => Launcher::Spawner(Spawner::begin(std::env::args_os().skip(1))?),
            false => Launcher::own()?,
        };
        Ok((self.close_to(&policy.keep_within()), launcher))
    }

    fn close_to(&self, reach: &Reach) -> Closed {
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
        if reach.programs {
            // What is left of a command is found and ended by its number, and a terminal is made for it.
            sandbox.signal_others();
            sandbox.read_below(Path::new("/proc"));
            sandbox.change_below(Path::new("/dev/pts"));
            sandbox.order_device(Path::new("/dev/ptmx"));
        }
        Closed::by(sandbox)
    }
}
