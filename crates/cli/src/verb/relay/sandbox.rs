//! What a relay gives up before it listens: it joins strangers, and reads what they send.

use std::path::Path;

use farpipe_net::{LoopbackSecret, runtime_dir};
use farpipe_sandbox::{Enforced, Sandbox};

use super::Args;
use crate::status::Status;

/// A relay dials nobody; names of its doors are looked up, by TCP where an answer is long.
const DNS: u16 = 53;

/// Whether anything is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub(crate) struct SandboxArgs {
    /// Keep what the system allows to this user: files, other programs, connections
    #[arg(long)]
    no_sandbox: bool,
}

/// What is closed; `None`: nothing was to be.
pub(super) struct Closed(Option<Enforced>);

impl Args {
    /// Closes what a relay with these settings has no need of. To be called before any other thread runs, and
    /// after what is opened once has been opened.
    pub(super) fn close(&self, configuration: Option<&Path>) -> Closed {
        if self.sandbox.no_sandbox {
            return Closed(None);
        }
        let mut sandbox = Sandbox::new();
        sandbox.look_up_names();
        sandbox.connect_only_to(&[DNS]);
        for file in configuration
            .into_iter()
            .chain(self.tls.certificate_files())
        {
            sandbox.read(file);
        }
        if let Some(tokens) = self.tls.token_file() {
            sandbox.replace(tokens);
        }
        if let Some(log) = self.audit.file() {
            sandbox.append(log);
        }
        let is_plain = self.listen.iter().any(|door| !door.scheme.is_tls());
        // Made while it can be; why it could not is told where it is wanted.
        if is_plain && !self.behind.is_given() && LoopbackSecret::load_or_create().is_ok() {
            sandbox.read_below(&runtime_dir());
        }
        // The service manager's, which would be out of reach.
        let manager = std::env::var_os("NOTIFY_SOCKET");
        if manager.is_some_and(|name| name.as_encoded_bytes().starts_with(b"@")) {
            sandbox.reach_abstract_sockets();
        }
        Closed(Some(sandbox.enforce()))
    }
}

impl Closed {
    /// Says what is closed, and what is not.
    pub(super) fn tell(&self, status: &Status) {
        let Some(enforced) = &self.0 else {
            tracing::info!("sandbox: none, as --no-sandbox says");
            return;
        };
        let version = enforced.files.as_ref().ok();
        let has_calls = enforced.calls.is_ok();
        let missing = enforced.missing();
        let files = version.map_or("none".to_owned(), |version| format!("version {version}"));
        let calls = if has_calls { "yes" } else { "none" };
        tracing::info!("sandbox: landlock: {files}; seccomp: {calls}");
        for missing in &missing {
            tracing::info!("sandbox: {missing}");
        }
        for file in enforced.alone() {
            tracing::info!(
                "sandbox: {}: a file that takes its place will not be read, for the directory has others' files; \
                 move it to one of its own",
                file.display()
            );
        }
        for directory in enforced.wide() {
            tracing::info!(
                "sandbox: files in {} can be written, for the audit log or the tokens are there; move them to a \
                 directory of their own",
                directory.display()
            );
        }
        status.write(serde_json::json!({
            "event": "sandbox",
            "landlock": version,
            "seccomp": has_calls,
            "missing": missing,
        }));
    }
}
