//! `cargo xtask fuzz`: runs the targets of fuzz/ with coverage guidance, and says how often each ran.
//!
//! The compiler that everything else is built with marks the branches for libFuzzer: its pass for
//! that needs no nightly flag. What else cargo-fuzz would bring, the address sanitizer, finds nothing
//! in a project without unsafe code.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::tools;

/// How long a target runs unless said otherwise.
const SECONDS: u64 = 10;

/// libFuzzer's own build of a program: counters of edges, and what is compared with what.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// What libFuzzer says when it ends, in front of the number of runs.
const RUNS: &str = "stat::number_of_executed_units:";

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// All of them, if there is none.
    targets: Vec<String>,
    /// libFuzzer's flag for when to end.
    until: String,
}

/// Builds the targets, runs one after the other, and prints a table.
pub fn run(args: &[String]) -> Result<()> {
    let wanted = Wanted::parse(args)?;
    let all = targets()?;
    let unknown = wanted.targets.iter().find(|name| !all.contains(name));
    if let Some(unknown) = unknown {
        bail!("no target {unknown:?}\nhint: there are {}", all.join(", "));
    }
    let chosen = match wanted.targets.is_empty() {
        true => all,
        false => wanted.targets,
    };
    let programs = build(&chosen)?;
    println!("| target | runs | a second |\n|---|---:|---:|");
    let (mut sum, mut failed) = (0, Vec::new());
    for target in &chosen {
        let (runs, took) = match play(&programs, target, &wanted.until) {
            Ok(played) => played,
            Err(error) => {
                eprintln!("xtask: {error:#}");
                failed.push(target.as_str());
                continue;
            }
        };
        let rate = runs as f64 / took.as_secs_f64().max(0.001);
        println!("| `{target}` | {runs} | {rate:.0} |");
        sum += runs;
    }
    println!("| all | {sum} | |");
    if !failed.is_empty() {
        bail!("what was found in {} is above", failed.join(", "));
    }
    Ok(())
}

impl Wanted {
    fn parse(args: &[String]) -> Result<Self> {
        let mut wanted = Self {
            targets: Vec::new(),
            until: format!("-max_total_time={SECONDS}"),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let flag = match arg.as_str() {
                "--seconds" => "max_total_time",
                "--runs" => "runs",
                name if name.starts_with('-') => {
                    bail!("fuzz takes names of targets, --seconds N or --runs N, not {name}")
                }
                name => {
                    wanted.targets.push(name.to_owned());
                    continue;
                }
            };
            let number = args
                .next()
                .with_context(|| format!("{arg} takes a number"))?;
            let number: u64 = number
                .parse()
                .with_context(|| format!("{arg} takes a number"))?;
            wanted.until = format!("-{flag}={number}");
        }
        Ok(wanted)
    }
}

/// The names of all targets, sorted: each is a program in fuzz/src/bin.
fn targets() -> Result<Vec<String>> {
    let folder = tools::root().join("fuzz/src/bin");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).context("cannot list fuzz/src/bin")? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        names.extend(stem.map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Builds the targets, and says where their programs are.
fn build(targets: &[String]) -> Result<PathBuf> {
    let target_dir = tools::target_dir()?.join("fuzz");
    let version = tools::output("rustc", &["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    // With a target of its own, build scripts are built without the counters that they cannot link.
    let host = host.context("rustc does not say what it builds for")?;
    let mut args = vec![
        "build",
        "--release",
        "--locked",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--target",
        host,
    ];
    for target in targets {
        args.extend(["--bin", target]);
    }
    let mut cargo = tools::cargo(&args);
    cargo.env("CARGO_TARGET_DIR", &target_dir);
    cargo.env("RUSTFLAGS", COVERAGE);
    tools::check(&mut cargo)?;
    Ok(target_dir.join(host).join("release"))
}

/// Runs a target; how often its function was called, and how long that took.
fn play(programs: &Path, target: &str, until: &str) -> Result<(u64, Duration)> {
    let fuzz = tools::root().join("fuzz");
    let found = fuzz.join("corpus").join(target);
    let artifacts = fuzz.join("artifacts").join(target);
    for folder in [&found, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let log = artifacts.join("log");
    let to = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
    let program = programs.join(target).to_string_lossy().into_owned();
    let mut command = tools::command(&program, &["-print_final_stats=1", "-timeout=10", until]);
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.args([&found, &fuzz.join("seeds").join(target)]);
    let begun = Instant::now();
    let status = command.stdout(to.try_clone()?).stderr(to).status();
    let status = status.with_context(|| format!("cannot run {program}"))?;
    let took = begun.elapsed();
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if !status.success() {
        let lines: Vec<&str> = said.lines().collect();
        eprintln!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        bail!(
            "{target} found something\nhint: put the input that the log names into fuzz/seeds/{target}, \
             named by what it finds; `cargo test -p farpipe-sim --test corpus` plays it again"
        );
    }
    let runs = said.lines().find_map(|line| line.strip_prefix(RUNS));
    let runs = runs.and_then(|runs| runs.trim().parse().ok());
    Ok((runs.context("the log has no number of runs")?, took))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Wanted> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Wanted::parse(&args)
    }

    #[test]
    fn targets_and_an_end_are_taken_in_any_order() {
        let wanted = parsed(&["a", "--runs", "7", "b"]).expect("good");
        assert_eq!(wanted.targets, ["a", "b"]);
        assert_eq!(wanted.until, "-runs=7");
        let wanted = parsed(&[]).expect("good");
        assert!(wanted.targets.is_empty());
        assert_eq!(wanted.until, "-max_total_time=10");
        for bad in [&["--seconds"][..], &["--seconds", "x"], &["--minutes", "1"]] {
            assert!(parsed(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn there_are_targets() {
        assert!(
            targets()
                .expect("a folder")
                .contains(&"two_peers".to_owned())
        );
    }
}
