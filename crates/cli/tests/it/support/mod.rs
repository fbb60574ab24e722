//! Real processes of the built command: start them fluently, wait for them with a deadline.
//!
//! A [`Host`] is one user on one host: a temporary directory with a runtime directory of its own.
//! Nothing here sleeps and hopes; whatever is waited for is waited for until [`DEADLINE`], which
//! is generous, because it only decides how long a failure takes. A process that is dropped is
//! killed by its number.

pub(crate) mod bytes;
pub(crate) mod certs;
pub(crate) mod false_relay;
pub(crate) mod figures;
pub(crate) mod front;
pub(crate) mod gateway;
pub(crate) mod net;
pub(crate) mod output;
pub(crate) mod peer;
pub(crate) mod pki;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod proxy;
pub(crate) mod relay;
pub(crate) mod stubborn;
pub(crate) mod terminal;
pub(crate) mod tools;
pub(crate) mod topics;
pub(crate) mod websocket;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use farpipe_net::LoopbackSecret;
use tempfile::TempDir;

use front::{Fronts, Way};

pub(crate) use bytes::{assert_same, assert_text, random};
pub(crate) use net::Faults;
pub(crate) use process::{Ended, Invocation, Listener, Running};
pub(crate) use terminal::Terminal;

/// How long anything may take before a test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// Both carriers; what holds for one must hold for the other.
pub(crate) const SCHEMES: [&str; 2] = ["ws", "fp"];

/// The advice after a broken protocol.
pub(crate) const SAME_FARPIPE: &str =
    "hint: is it the same farpipe? `farpipe --version` tells at both ends";

/// Runs `test` for each item, several at a time: what they mostly do is wait.
pub(crate) fn at_once<T: Send>(items: impl IntoIterator<Item = T>, test: impl Fn(T) + Sync) {
    const AT_ONCE: usize = 8;
    let items: Vec<T> = items.into_iter().collect();
    let items = Mutex::new(items.into_iter());
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(item) = next() {
                    test(item);
                }
            });
        }
    });
}

/// A user on a host.
#[derive(Debug)]
pub(crate) struct Host {
    // Before its directory: it ends first.
    _local: Option<LocalAgent>,
    fronts: Arc<Fronts>,
    dir: TempDir,
}

/// The local agent that all commands of a host go through, with `FARPIPE_NO_REUSE=0` in the environment
/// of the tests.
#[derive(Debug)]
struct LocalAgent(std::process::Child);

impl LocalAgent {
    fn start(dir: &Path) -> Option<Self> {
        std::env::var_os("FARPIPE_NO_REUSE").filter(|value| value == "0")?;
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_farpipe"));
        command.args(["agent", "-q", "--client-only"]);
        let child = command.env("XDG_RUNTIME_DIR", dir).spawn();
        process::until("no local agent", || dir.join("farpipe/agent.sock").exists());
        child.ok().map(Self)
    }
}

impl Drop for LocalAgent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self {
            _local: LocalAgent::start(dir.path()),
            fronts: Arc::new(Fronts::new(Way::of_all())),
            dir,
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Makes a file.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file in a directory of our own");
        path
    }

    /// Makes a FIFO.
    pub(crate) fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).expect("a FIFO");
        path
    }

    /// What a file of this host contains.
    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The user's loopback secret, made here so that a peer of ours can prove it.
    pub(crate) fn secret(&self) -> LoopbackSecret {
        const SECRET: [u8; 32] = [0x5a; 32];
        let dir = self.path("farpipe");
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        if made.is_ok() {
            let mut options = fs::OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(dir.join("secret"))
                .expect("the secret's file");
            std::io::Write::write_all(&mut file, &SECRET).expect("the secret is written");
        }
        let bytes = fs::read(dir.join("secret")).expect("the secret");
        LoopbackSecret::new(bytes.try_into().expect("32 bytes"))
    }

    /// The command with these arguments.
    pub(crate) fn farpipe<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Invocation {
        Invocation::new(self.dir(), env!("CARGO_BIN_EXE_farpipe").as_ref()).args(args)
    }

    /// Runs a script in a directory that is a file system of its own, which only the script sees; nothing
    /// where none can be made.
    #[expect(clippy::print_stderr, reason = "a test that did not run says so")]
    pub(crate) fn with_disk(&self, options: &str, script: &str) -> Option<Ended> {
        self.file("script", script);
        let line = format!(
            "mkdir full; with=\"unshare -m\"; $with true 2> /dev/null || with=\"unshare -rm\"; \
             $with true 2> /dev/null || {{ echo no namespace; exit; }}; \
             $with sh -c 'mount -t tmpfs -o {options} none full && cd full && . ../script'"
        );
        let ended = self.shell(&line).run();
        if ended.stdout == b"no namespace\n" {
            eprintln!("not tested: this user can make no file system of its own");
            return None;
        }
        Some(ended)
    }

    /// Any other command, run as this user.
    pub(crate) fn shell(&self, script: &str) -> Invocation {
        Invocation::new(self.dir(), "/bin/sh".as_ref())
            .args(["-c", script])
            .env("FARPIPE", env!("CARGO_BIN_EXE_farpipe"))
    }

    /// `farpipe listen` on a free port.
    pub(crate) fn listen(&self, scheme: &str) -> Invocation {
        self.farpipe(["listen", &format!("{scheme}://127.0.0.1:0")])
    }

    /// `farpipe agent` on a free port, which runs anything for whoever it lets in.
    pub(crate) fn agent(&self, scheme: &str) -> Invocation {
        self.strict_agent(scheme).args(["--allow", "exec"])
    }

    /// The same, and it allows nothing.
    pub(crate) fn strict_agent(&self, scheme: &str) -> Invocation {
        self.farpipe(["agent", "--listen", &format!("{scheme}://127.0.0.1:0")])
            .env("XDG_CONFIG_HOME", self.path("config"))
    }

    /// `farpipe relay` on a free port.
    pub(crate) fn relay(&self, scheme: &str) -> Invocation {
        self.relay_at(&format!("{scheme}://127.0.0.1:0"))
    }

    /// `farpipe relay` where one was before; behind a proxy, if all tests are to be ([`Way`]).
    pub(crate) fn relay_at(&self, url: &str) -> Invocation {
        match self.fronts.behind(url) {
            // Its proxy is still there.
            Some(behind) => self.farpipe(["relay", "--listen", &behind]),
            None => self
                .farpipe(["relay", "--listen", url])
                .behind(Arc::clone(&self.fronts)),
        }
    }

    /// `farpipe agent` at relays, with commas between.
    pub(crate) fn agent_at(&self, relays: &str, name: &str) -> Invocation {
        self.farpipe(["agent", relays, "--name", name, "--allow", "exec"])
    }

    /// `farpipe exec` by name.
    pub(crate) fn exec_at(&self, relays: &str, name: &str) -> Invocation {
        self.farpipe(["exec", "--relay", relays, name])
    }

    /// `farpipe send` to a pipe at relays. It says when it is registered.
    pub(crate) fn send_at(&self, relays: &str, name: &str) -> Invocation {
        self.farpipe(["send", "-v", "--relay", relays, name])
    }

    /// `farpipe recv` from a pipe at relays.
    pub(crate) fn recv_at(&self, relays: &str, name: &str) -> Invocation {
        self.farpipe(["recv", "--relay", relays, name])
    }

    /// `farpipe exec`.
    pub(crate) fn exec(&self, url: &str) -> Invocation {
        self.farpipe(["exec", url])
    }

    /// `curl`, which is told nothing of a user's settings.
    pub(crate) fn curl<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Invocation {
        Invocation::new(self.dir(), "curl".as_ref())
            .args(["-q", "-sS", "-N"])
            .args(args)
    }

    /// `farpipe connect`.
    pub(crate) fn connect(&self, url: &str) -> Invocation {
        self.farpipe(["connect", url])
    }
}
