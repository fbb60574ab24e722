//! What those who serve others give up before they listen: the flag, and what is said of it.

use farpipe_sandbox::{Enforced, Sandbox};

use crate::output;
use crate::status::Status;

/// Whether anything is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub(crate) struct SandboxArgs {
    /// Keep what the system allows to this user: files, other programs, connections
    #[arg(long)]
    no_sandbox: bool,
}

/// What is closed; `Err`: nothing, and why nothing was to be.
pub(crate) struct Closed(Result<Enforced, &'static str>);

impl SandboxArgs {
    /// Whether nothing is to be given up.
    pub(crate) fn is_off(self) -> bool {
        self.no_sandbox
    }
}

/// What is open to whoever serves others, whatever they want of it.
pub(crate) fn usual() -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.look_up_names();
    // The service manager's, which would be out of reach.
    let manager = std::env::var_os("NOTIFY_SOCKET");
    if manager.is_some_and(|name| name.as_encoded_bytes().starts_with(b"@")) {
        sandbox.reach_abstract_sockets();
    }
    sandbox
}

impl Closed {
    /// Closes what the sandbox leaves closed. To be called before any other thread runs, and after what is opened
    /// once has been opened.
    pub(crate) fn by(sandbox: Sandbox) -> Self {
        Self(Ok(sandbox.enforce()))
    }

    /// Nothing is closed, as `--no-sandbox` says.
    pub(crate) fn unwanted() -> Self {
        Self::nothing("as --no-sandbox says")
    }

    /// Nothing is closed, for a reason.
    pub(crate) fn nothing(why: &'static str) -> Self {
        Self(Err(why))
    }

    /// Says what is closed, and what is not. What was held back until now is said first.
    pub(crate) fn tell(&self, status: &Status) {
        output::release();
        let enforced = match &self.0 {
            Ok(enforced) => enforced,
            Err(why) => {
                tracing::info!("sandbox: none, {why}");
                return;
            }
        };
        let version = enforced.files.as_ref().ok();
        let has_calls = enforced.calls.is_ok();
        let missing = enforced.missing();
        let files =
            version.map_or_else(|| "none".to_owned(), |version| format!("version {version}"));
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
                "sandbox: all of {} is open, for a file there: move that to a directory of its own",
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
