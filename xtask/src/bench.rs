//! Builds and runs the benchmarks of bench/, which are workspaces of their own.
//!
//! Peers come by ordinary package clients (Debian, crates.io, the Go module proxy); one that
//! cannot be had is left out, and why is said.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::tools;

/// The last of websocat's stable line; 4.x is alpha.
const WEBSOCAT_VERSION: &str = "1.14.1";

/// What the comparison uses of websocat; TLS would need the system's OpenSSL to build.
const WEBSOCAT_FEATURES: &str = "signal_handler,tokio-process,unix_stdio";

/// The broker that topics are measured beside.
const NATS_SERVER_VERSION: &str = "2.15.3";

/// Where a peer's program comes from.
type Source = fn() -> Result<PathBuf>;

const PEERS: &[(&str, Source)] = &[
    ("farpipe", farpipe),
    ("socat", || installed("socat")),
    ("ncat", || installed("ncat")),
    ("websocat", websocat),
    ("gorilla", gorilla),
    ("faultproxy", faultproxy),
    ("rsync", || installed("rsync")),
    ("ssh", || installed_as("ssh", "openssh-client")),
    ("scp", || installed_as("scp", "openssh-client")),
    ("sshd", sshd),
];

/// `cargo xtask bench-peers`: farpipe and other pipes, measured in the same way.
pub fn peers(options: &[String]) -> Result<()> {
    let bench = build("tools", "farpipe-bench")?;
    let mut args = vec!["peers".to_owned()];
    let asks_for_help = options
        .iter()
        .any(|option| option == "--help" || option == "-h");
    let sources = if asks_for_help { &[] } else { PEERS };
    for (name, source) in sources {
        match source() {
            Ok(path) => args.extend(["--program".to_owned(), format!("{name}={}", path.display())]),
            Err(error) => eprintln!("xtask: without {name}: {error:#}"),
        }
    }
    args.extend_from_slice(options);
    run(bench, &args)
}

/// `cargo xtask bench-scale`: many agents at one relay, many streams through it.
pub fn scale(options: &[String]) -> Result<()> {
    let bench = build("tools", "farpipe-bench")?;
    let agents = product(
        &["--package", "farpipe-net", "--example", "agents"],
        "examples/agents",
    )?;
    let fair = product(
        &["--package", "farpipe", "--example", "fair"],
        "examples/fair",
    )?;
    let programs = [("farpipe", farpipe()?), ("agents", agents), ("fair", fair)];
    run_with(bench, "scale", &programs, options)
}

/// `cargo xtask bench-links`: one stream over a long link.
pub fn links(options: &[String]) -> Result<()> {
    let bench = build("tools", "farpipe-bench")?;
    let programs = [("farpipe", farpipe()?), ("faultproxy", faultproxy()?)];
    run_with(bench, "links", &programs, options)
}

/// `cargo xtask bench-flood`: a relay that strangers attack.
pub fn flood(options: &[String]) -> Result<()> {
    let bench = build("tools", "farpipe-bench")?;
    run_with(bench, "flood", &[("farpipe", farpipe()?)], options)
}

/// `cargo xtask bench-topics`: topics of a relay, and NATS JetStream beside them.
pub fn topics(options: &[String]) -> Result<()> {
    let bench = build("tools", "farpipe-bench")?;
    let mut programs = vec![("farpipe", farpipe()?)];
    let sources: [(&str, Source); 2] = [("nats-server", nats_server), ("nats-client", nats_client)];
    for (name, source) in sources {
        match source() {
            Ok(path) => programs.push((name, path)),
            Err(error) => eprintln!("xtask: without {name}: {error:#}"),
        }
    }
    // On the disk that things are built on: the folder for temporary files is in memory in some places.
    let folder = tools::target_dir()?.display().to_string();
    let options = [&["--dir".to_owned(), folder], options].concat();
    run_with(bench, "topics", &programs, &options)
}

/// Runs a table of farpipe-bench with the programs that it measures.
fn run_with(
    bench: PathBuf,
    table: &str,
    programs: &[(&str, PathBuf)],
    options: &[String],
) -> Result<()> {
    let mut args = vec![table.to_owned()];
    for (name, path) in programs {
        args.extend(["--program".to_owned(), format!("{name}={}", path.display())]);
    }
    args.extend_from_slice(options);
    run(bench, &args)
}

/// `cargo xtask bench-ws-libs`: WebSocket libraries and framing in place.
pub fn ws_libs(options: &[String]) -> Result<()> {
    run(build("ws-libs", "ws-libs")?, options)
}

/// Builds a workspace of bench/ with optimisation and returns its program.
fn build(workspace: &str, program: &str) -> Result<PathBuf> {
    let target_dir = tools::target_dir()?.join("bench").join(workspace);
    let manifest = format!("bench/{workspace}/Cargo.toml");
    tools::check(
        tools::cargo(&[
            "build",
            "--release",
            "--locked",
            "--manifest-path",
            &manifest,
        ])
        .env("CARGO_TARGET_DIR", &target_dir),
    )?;
    Ok(target_dir.join("release").join(program))
}

/// Runs a benchmark; its output is ours.
fn run(program: PathBuf, args: &[String]) -> Result<()> {
    let program = program.to_string_lossy();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    tools::check(&mut tools::command(&program, &args))
}

fn farpipe() -> Result<PathBuf> {
    product(&["--package", "farpipe-cli"], "farpipe")
}

fn faultproxy() -> Result<PathBuf> {
    product(&["--package", "farpipe-faultproxy"], "farpipe-faultproxy")
}

/// Builds a program of the product with optimisation; where it is below `release`.
fn product(what: &[&str], program: &str) -> Result<PathBuf> {
    let target_dir = tools::target_dir()?;
    let build = [&["build", "--release", "--locked"], what].concat();
    tools::check(tools::cargo(&build).env("CARGO_TARGET_DIR", &target_dir))?;
    Ok(target_dir.join("release").join(program))
}

/// A program of the system, installed if we may.
fn installed(name: &str) -> Result<PathBuf> {
    installed_as(name, name)
}

fn installed_as(name: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = find(name) {
        return Ok(path);
    }
    if find("apt-get").is_none() || tools::output("id", &["-u"])? != "0" {
        bail!("{name} is not installed\nhint: install the package {package}");
    }
    tools::check(&mut tools::command(
        "apt-get",
        &["install", "--yes", package],
    ))?;
    find(name).with_context(|| format!("the package {package} holds no program {name}"))
}

/// Not installed by us, for its package opens port 22. By its whole path, because it starts itself
/// anew; that is not in the PATH of everybody.
fn sshd() -> Result<PathBuf> {
    let program = find("sshd").unwrap_or_else(|| PathBuf::from("/usr/sbin/sshd"));
    match program.is_file() {
        true => Ok(program),
        false => bail!("sshd is not installed\nhint: install the package openssh-server"),
    }
}

fn websocat() -> Result<PathBuf> {
    let folder = cache()?.join(format!("websocat-{WEBSOCAT_VERSION}"));
    let program = folder.join("bin/websocat");
    if !program.exists() {
        let root = folder.to_string_lossy();
        tools::check(&mut tools::cargo(&[
            "install",
            "websocat",
            "--locked",
            "--version",
            WEBSOCAT_VERSION,
            "--no-default-features",
            "--features",
            WEBSOCAT_FEATURES,
            "--root",
            &root,
        ]))?;
    }
    Ok(program)
}

/// The pipe that people write by hand, in Go.
fn gorilla() -> Result<PathBuf> {
    go_program("gorilla-pipe")
}

/// `pub` and `sub` for NATS.
fn nats_client() -> Result<PathBuf> {
    go_program("nats-client")
}

/// Builds a module of bench/.
fn go_program(name: &str) -> Result<PathBuf> {
    let program = cache()?.join(name);
    let output = program.to_string_lossy();
    let mut go = tools::command("go", &["build", "-o", &output, "."]);
    tools::check(go.current_dir(tools::root().join("bench").join(name)))?;
    Ok(program)
}

fn nats_server() -> Result<PathBuf> {
    let folder = cache()?.join(format!("nats-server-{NATS_SERVER_VERSION}"));
    let program = folder.join("nats-server");
    if !program.exists() {
        let what = format!("github.com/nats-io/nats-server/v2@v{NATS_SERVER_VERSION}");
        tools::check(tools::command("go", &["install", &what]).env("GOBIN", &folder))?;
    }
    Ok(program)
}

/// Where installed tools are kept between runs; .ci/run keeps its own there too.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    let folder = base.join("farpipe-tools");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// The program of that name that the shell would run.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}
