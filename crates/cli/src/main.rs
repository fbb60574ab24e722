//! The `farpipe` command: parses what was typed, runs one verb, exits with its status.

mod config;
mod exit;
mod lines;
mod notify;
mod output;
mod progress;
mod runtime;
mod signals;
mod spin;
mod status;
mod stdout;
mod verb;

use std::ffi::OsString;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;

use clap::{Args, FromArgMatches as _, Subcommand};

use farpipe_agent::command::{launch, spawner};
use farpipe_agent::endpoint::End;
use output::Verbosity;

/// What was typed.
struct Cli {
    top: Top,
    verb: Verb,
}

/// What may stand before the verb, and behind it as well.
#[derive(Debug, Args)]
struct Top {
    #[command(flatten)]
    verbosity: Verbosity,
    /// YAML file with settings; flags and the environment go before it
    #[arg(long, global = true, value_name = "FILE", env = "FARPIPE_CONFIG")]
    config: Option<PathBuf>,
}

/// The whole command line as clap knows it, for what is made from it.
fn command() -> clap::Command {
    Verb::augment_subcommands(root()).mut_subcommands(with_endpoints)
}

/// The command line with no other verb than the one that comes first in it: to describe them all takes longer
/// than anything else that a short command does before it dials. `None`: it begins in another way.
fn command_alone(args: &[OsString]) -> Option<clap::Command> {
    let name = args.get(1)?.to_str()?;
    let described = Verb::alone(name)?(clap::Command::new(name.to_owned()));
    Some(root().subcommand(with_endpoints(described)))
}

fn root() -> clap::Command {
    Top::augment_args(clap::Command::new("farpipe"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("The Unix pipe, between hosts: loses, doubles and truncates nothing when the network fails")
        .after_help(EXIT_HELP)
        .max_term_width(100)
        .subcommand_required(true)
        .arg_required_else_help(true)
}

/// What an endpoint can be depends on the end it stands at.
fn with_endpoints(verb: clap::Command) -> clap::Command {
    use verb::session::endpoint_help;

    let (arg, end) = match verb.get_name() {
        "listen" => ("endpoint", End::Listener),
        "connect" | "send" | "recv" => ("endpoint", End::Other),
        "pipe" => ("src", End::Other),
        _ => return verb,
    };
    // In place: `mut_arg` puts an argument behind the others, and these are known by their place.
    verb.mut_args(|one| match one.get_id() == arg {
        true => one.help(endpoint_help(end)),
        false => one,
    })
}

const EXIT_HELP: &str = "\
Exit status: that of the command at the other end, 128+n if signal n ended it; 141 when the reader \
went away; 125 when farpipe itself failed; 126 or 127 when a command could not be run or found; \
2 for a wrong command line.";

/// The verbs, each with its arguments; their names are those in small letters.
macro_rules! verbs {
    ($($verb:ident($args:ty)),* $(,)?) => {
        #[derive(Debug, Subcommand)]
        enum Verb {
            $($verb($args)),*
        }

        impl Verb {
            /// What describes the verb of that name and no other.
            fn alone(name: &str) -> Option<fn(clap::Command) -> clap::Command> {
                let is = |verb: &str| name == verb.to_ascii_lowercase();
                $(if is(stringify!($verb)) {
                    return Some(<$args as Args>::augment_args);
                })*
                None
            }
        }
    };
}

verbs! {
    Listen(verb::listen::Args),
    Connect(verb::connect::Args),
    Pipe(verb::pipe::Args),
    Relay(verb::relay::Args),
    Agent(verb::agent::Args),
    Send(verb::send::Args),
    Recv(verb::recv::Args),
    Exec(verb::exec::Args),
    Cp(verb::cp::Args),
    Forward(verb::forward::Args),
    Tail(verb::tail::Args),
    Pub(verb::publish::Args),
    Sub(verb::subscribe::Args),
    Topic(verb::topic::Args),
    Log(verb::log::Args),
    Ls(verb::ls::Args),
    Ping(verb::ping::Args),
    Ps(verb::ps::Args),
    Attach(verb::attach::Args),
    Wait(verb::wait::Args),
    Kill(verb::kill::Args),
    Doctor(verb::doctor::Args),
    Cert(verb::cert::Args),
    Quickstart(verb::quickstart::Args),
    Config(verb::config::Args),
    Policy(verb::policy::Args),
    Audit(verb::audit::Args),
    Token(verb::token::Args),
    Bench(verb::bench::Args),
    Completions(verb::completions::Args),
    Man(verb::man::Args),
}

/// The command line over the configuration file that it names; and which one that is.
fn parse() -> Result<(Cli, Option<PathBuf>), ParseError> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let mut typed = config::Typed::default();
    // Looking takes as long as parsing, and most commands have no file.
    let command = match may_name_file(&args) {
        true => {
            let whole = command();
            typed = config::Typed::of(&whole, &args);
            match &typed.file {
                Some(file) => verb::config::load(whole, file, &typed)?.0,
                None => whole,
            }
        }
        false => command_alone(&args).unwrap_or_else(command),
    };
    let matches = command.try_get_matches_from(args)?;
    let cli = Cli {
        top: Top::from_arg_matches(&matches)?,
        verb: Verb::from_arg_matches(&matches)?,
    };
    Ok((cli, typed.file))
}

/// Whether a configuration file can be named at all.
fn may_name_file(args: &[OsString]) -> bool {
    let is_flag = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"--config");
    std::env::var_os("FARPIPE_CONFIG").is_some() || args.iter().any(is_flag)
}

/// Why there is nothing to run.
enum ParseError {
    /// By the configuration file.
    File(anyhow::Error),
    /// By the command line, or because help was asked for.
    Line(clap::Error),
}

impl From<anyhow::Error> for ParseError {
    fn from(error: anyhow::Error) -> Self {
        Self::File(error)
    }
}

impl From<clap::Error> for ParseError {
    fn from(error: clap::Error) -> Self {
        Self::Line(error)
    }
}

impl ParseError {
    /// Says it; the code to exit with.
    fn tell(&self) -> ExitCode {
        match self {
            Self::File(error) => exit::failure(error),
            Self::Line(error) => exit::usage(error),
        }
    }
}

/// The settings of `farpipe relay` as they are now: its configuration file is read once more.
///
/// # Errors
/// What is wrong with the file, and where.
fn relay_settings() -> anyhow::Result<verb::relay::Args> {
    match parse() {
        Ok((
            Cli {
                verb: Verb::Relay(args),
                ..
            },
            _,
        )) => Ok(args),
        Ok(_) => anyhow::bail!("the command line is not that of a relay any more"),
        Err(ParseError::File(error)) => Err(error),
        Err(ParseError::Line(error)) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            anyhow::bail!("{}", first.trim_start_matches("error: "))
        }
    }
}

/// A verb's work, on the heap: each is large, and one frame with room for all of them is more than a small
/// stack has.
fn boxed<F: Future<Output = anyhow::Result<u8>> + 'static>(
    make: impl FnOnce() -> F,
) -> Pin<Box<dyn Future<Output = anyhow::Result<u8>>>> {
    Box::pin(make())
}

/// The least that a pipe, its runtime and its connection need. Said here, because the runtime takes
/// some of them for granted.
const DESCRIPTORS_MIN: u64 = 16;

fn check_descriptors() -> Result<(), ExitCode> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if limit.is_none_or(|limit| limit >= DESCRIPTORS_MIN) {
        return Ok(());
    }
    let error = exit::WithStatus {
        status: farpipe_agent::outcome::STATUS_FAILURE,
        message: format!("too few file descriptors: at least {DESCRIPTORS_MIN} are needed"),
        hint: Some("raise the limit: ulimit -n 1024".to_owned()),
    };
    let code = exit::failure(&error.into());
    output::flush();
    Err(code)
}

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if name == launch::NAME {
        return launch::main();
    }
    if let Err(error) = stdout::keep_closed() {
        let code = exit::failure(&anyhow::anyhow!("stdout is closed: {error}"));
        output::flush();
        return code;
    }
    let (cli, file) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            let code = error.tell();
            output::flush();
            return code;
        }
    };
    output::init(&cli.top.verbosity);
    if name == spawner::NAME {
        return match &cli.verb {
            Verb::Agent(args) => verb::agent::spawn(args),
            _ => ExitCode::FAILURE,
        };
    }
    if let Err(code) = check_descriptors() {
        return code;
    }
    let quiet = cli.top.verbosity.is_quiet();
    let runtime = match runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            let code = exit::failure(&anyhow::anyhow!("cannot start: {error}"));
            output::flush();
            return code;
        }
    };
    let verb = match cli.verb {
        Verb::Listen(args) => boxed(move || verb::listen::run(args, quiet)),
        Verb::Connect(args) => boxed(move || verb::connect::run(args, quiet)),
        Verb::Pipe(args) => boxed(move || verb::pipe::run(args, quiet)),
        Verb::Relay(args) => {
            let source = verb::relay::Source {
                file,
                read: relay_settings,
            };
            boxed(move || verb::relay::run(args, source, quiet))
        }
        Verb::Agent(args) => boxed(move || verb::agent::run(args, quiet)),
        Verb::Send(args) => boxed(move || verb::send::run(args, quiet)),
        Verb::Recv(args) => boxed(move || verb::recv::run(args, quiet)),
        Verb::Exec(args) => boxed(move || verb::exec::run(args, quiet)),
        Verb::Cp(args) => boxed(move || verb::cp::run(args, quiet)),
        Verb::Forward(args) => boxed(move || verb::forward::run(args, quiet)),
        Verb::Tail(args) => boxed(move || verb::tail::run(args, quiet)),
        Verb::Pub(args) => boxed(move || verb::publish::run(args, quiet)),
        Verb::Sub(args) => boxed(move || verb::subscribe::run(args, quiet)),
        Verb::Topic(args) => boxed(move || verb::topic::run(args)),
        Verb::Log(args) => boxed(move || async move { verb::log::run(&args) }),
        Verb::Ls(args) => boxed(move || verb::ls::run(args)),
        Verb::Ping(args) => boxed(move || verb::ping::run(args)),
        Verb::Ps(args) => boxed(move || verb::ps::run(args, quiet)),
        Verb::Attach(args) => boxed(move || verb::attach::run(args, quiet)),
        Verb::Wait(args) => boxed(move || verb::wait::run(args, quiet)),
        Verb::Kill(args) => boxed(move || verb::kill::run(args, quiet)),
        Verb::Doctor(args) => boxed(move || verb::doctor::run(args)),
        Verb::Cert(args) => boxed(move || async move { verb::cert::run(&args, quiet) }),
        Verb::Quickstart(args) => boxed(move || verb::quickstart::run(args)),
        Verb::Config(args) => boxed(move || async move { verb::config::run(&args) }),
        Verb::Policy(args) => boxed(move || async move { verb::policy::run(&args) }),
        Verb::Audit(args) => boxed(move || async move { verb::audit::run(&args) }),
        Verb::Token(args) => boxed(move || async move { verb::token::run(&args, quiet) }),
        Verb::Bench(args) => boxed(move || async move { verb::bench::run(&args, quiet).await }),
        Verb::Completions(args) => boxed(move || async move { verb::completions::run(&args) }),
        Verb::Man(args) => boxed(move || async move { verb::man::run(&args) }),
    };
    let status = runtime.block_on(verb);
    let code = match status {
        Ok(status) => ExitCode::from(status),
        Err(error) => exit::failure(&error),
    };
    output::flush();
    // A thread may still wait in a read from a terminal; nothing it could get is wanted any more.
    runtime.shutdown_background();
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> clap::Command {
        let mut whole = command();
        whole.build();
        whole
    }

    #[test]
    fn a_verb_described_alone_is_what_it_is_among_the_others() {
        let whole = whole();
        // clap's own.
        let verbs = whole
            .get_subcommands()
            .filter(|verb| verb.get_name() != "help");
        for verb in verbs {
            let name = verb.get_name();
            let args = ["farpipe", name].map(OsString::from);
            let mut alone = command_alone(&args).expect("every verb can be described alone");
            alone.build();
            let described = alone.find_subcommand(name).expect("is described");
            let long = |verb: &clap::Command| verb.clone().render_long_help().to_string();
            assert_eq!(long(described), long(verb));
        }
    }

    #[test]
    fn what_does_not_begin_with_a_verb_is_described_whole() {
        for first in ["help", "-q", "--help", "Exec", "exce", ""] {
            let args = ["farpipe", first, "exec"].map(OsString::from);
            assert!(command_alone(&args).is_none(), "{first}");
        }
        assert!(command_alone(&["farpipe".into()]).is_none());
    }
}
