//! `farpipe policy`: looks at what an agent's policy allows, without an agent.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use farpipe_agent::policy::{Decision, Exec, Policy, Program, Request, Setting, Within, target};
use farpipe_net::HostPort;
use farpipe_proto::identity::{Asserting, Caller, Identity, Kind};

use super::allow::{AllowArgs, unusable};
use crate::exit::{WithStatus, printed};
use crate::output;

/// The status of `test` when the answer is no.
const STATUS_DENIED: u8 = 1;

/// Look at what an agent's policy allows
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Check(CheckArgs),
    Test(TestArgs),
}

/// Say whether a file can be used as a policy, and where it cannot
#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The YAML file
    file: PathBuf,
}

/// Say what would be decided, and by which rule; exit with 0 if it is allowed and 1 if not
#[derive(Debug, clap::Args)]
struct TestArgs {
    /// Who asks: farpipe://DOMAIN/KIND/NAME, or self for this user on this host
    #[arg(long = "as", value_name = "ID", value_parser = who)]
    who: Who,
    /// How the identity was shown
    #[arg(long, value_name = "HOW", default_value = "e2e")]
    shown: Shown,
    #[command(flatten)]
    allow: AllowArgs,
    /// A variable that the caller sets for a command; repeatable
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Where the caller wants a command to run
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// What is wanted; flags stand before it
    #[arg(value_name = "VERB")]
    verb: Verb,
    /// PROGRAM ARG... for exec, PATH for read and write, HOST:PORT for connect and listen, TOPIC for
    /// publish and subscribe, nothing for shell
    #[arg(
        value_name = "ARG",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    args: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Verb {
    Exec,
    Shell,
    Read,
    Write,
    Connect,
    Listen,
    Publish,
    Subscribe,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shown {
    /// By a certificate in the session itself
    E2e,
    /// By a certificate on a connection without a relay
    Direct,
    /// By a relay's word
    Relay,
}

#[derive(Debug, Clone)]
enum Who {
    ThisUser,
    One(Identity),
}

fn who(text: &str) -> Result<Who, String> {
    if text == "self" {
        return Ok(Who::ThisUser);
    }
    let identity: Identity = text.parse().map_err(|error| format!("{error}, or self"))?;
    match identity.kind() {
        Kind::Client | Kind::Agent | Kind::Relay => Ok(Who::One(identity)),
        Kind::Authority => Err("an authority issues; it never asks".to_owned()),
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    match &args.action {
        Action::Check(args) => check(&args.file),
        Action::Test(args) => test(args),
    }
}

fn check(file: &Path) -> anyhow::Result<u8> {
    let policy = Policy::load(file).map_err(|error| unusable(&error))?;
    let says = match policy.grants() {
        0 => "allows nothing".to_owned(),
        1 => "1 thing allowed".to_owned(),
        count => format!("{count} things allowed"),
    };
    output::line(&format!("{}: ok, {says}", file.display()));
    Ok(0)
}

fn test(args: &TestArgs) -> anyhow::Result<u8> {
    let policy = match args.allow.file() {
        Some(file) => Policy::load(&file),
        None => Ok(Policy::default()),
    };
    let policy = policy
        .map_err(|error| unusable(&error))?
        .and_flags(&args.allow.flags());
    let decision = args.decide(&policy)?;
    let (said, status) = match decision {
        Decision::Allowed { rule, within } => {
            let limit = match within {
                Within::AsAsked => String::new(),
                Within::Program(program) => format!(", run as {}", program.display()),
                Within::Directory(dir) => format!(", beneath {}", dir.display()),
            };
            (format!("allowed by {rule}{limit}\n"), 0)
        }
        Decision::Denied(why) => (format!("denied: {why}\n"), STATUS_DENIED),
    };
    match printed(output::data(said.as_bytes()))? {
        0 => Ok(status),
        failed => Ok(failed),
    }
}

impl TestArgs {
    fn decide(&self, policy: &Policy) -> anyhow::Result<Decision> {
        let names: Vec<OsString> = self.env.iter().map(|variable| name(variable)).collect();
        let directory = self.cwd.as_deref().map(resolved).transpose()?;
        let setting = Setting {
            environment: &names,
            directory: directory.as_deref(),
        };
        let caller = self.caller();
        let decide = |request| Ok(policy.decide(&caller, &request));
        match self.verb {
            Verb::Exec => {
                let Some((program, arguments)) = self.args.split_first() else {
                    return Err(wrong("exec needs a program", "exec PROGRAM ARG..."));
                };
                let path = std::env::var_os("PATH").unwrap_or_default();
                let cwd = match &directory {
                    Some(dir) => dir.clone(),
                    None => std::env::home_dir().unwrap_or_else(|| "/".into()),
                };
                let found = Program::find(program, &path, &cwd).map_err(|error| {
                    let shown = program.display().to_string();
                    let what = format!("'{}': {error}", shown.escape_debug());
                    wrong(
                        &what,
                        "programs are looked up on this host, as its agent does",
                    )
                })?;
                decide(Request::Exec(Exec {
                    program: &found,
                    arguments,
                    setting,
                }))
            }
            Verb::Shell if self.args.is_empty() => decide(Request::Shell(setting)),
            Verb::Shell => Err(wrong(
                "shell takes nothing behind it",
                "whoever may use a shell may run any line",
            )),
            Verb::Read => decide(Request::Read(&resolved(Path::new(self.only("PATH")?))?)),
            Verb::Write => decide(Request::Write(&resolved(Path::new(self.only("PATH")?))?)),
            Verb::Connect => decide(Request::Connect(&self.address()?)),
            Verb::Listen => decide(Request::Listen(&self.address()?)),
            Verb::Publish => decide(Request::Publish(self.text("TOPIC")?)),
            Verb::Subscribe => decide(Request::Subscribe(self.text("TOPIC")?)),
        }
    }

    fn caller(&self) -> Caller {
        // Nothing is decided by it.
        let fingerprint = [0; 32];
        match (&self.who, self.shown) {
            (Who::ThisUser, _) => Caller::ThisUser,
            (Who::One(identity), shown) => {
                let identity = identity.clone();
                match shown {
                    Shown::E2e => Caller::EndToEnd {
                        identity,
                        fingerprint,
                    },
                    Shown::Direct => Caller::Direct {
                        identity,
                        fingerprint,
                    },
                    Shown::Relay => Caller::RelayAsserted {
                        identity,
                        relay: Asserting::Another,
                    },
                }
            }
        }
    }

    fn only(&self, what: &str) -> anyhow::Result<&OsStr> {
        match self.args.as_slice() {
            [one] => Ok(one),
            _ => Err(wrong("one value is needed behind the verb", what)),
        }
    }

    fn text(&self, what: &str) -> anyhow::Result<&str> {
        let text = self.only(what)?;
        text.to_str()
            .ok_or_else(|| wrong("the value is not UTF-8", what))
    }

    fn address(&self) -> anyhow::Result<HostPort> {
        let text = self.text("HOST:PORT")?;
        text.parse()
            .map_err(|error| wrong(&format!("'{}': {error}", text.escape_debug()), "HOST:PORT"))
    }
}

fn resolved(path: &Path) -> anyhow::Result<PathBuf> {
    target(path).map_err(|error| {
        let shown = path.display().to_string();
        let what = format!("'{}': {error}", shown.escape_debug());
        wrong(&what, "paths are looked up on this host, as its agent does")
    })
}

fn name(variable: &OsStr) -> OsString {
    use std::os::unix::ffi::OsStrExt as _;
    let name = variable.as_bytes().split(|b| *b == b'=').next();
    OsStr::from_bytes(name.unwrap_or_default()).to_owned()
}

fn wrong(what: &str, hint: &str) -> anyhow::Error {
    WithStatus::usage(what, hint)
}
