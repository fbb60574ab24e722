//! `cargo xtask powercut`: power cuts of a disk below a real relay (docs/log.md).

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::tools;

/// Builds the command and the harness, and runs it with these options; its exit status is ours. With
/// `--farpipe FILE` that one is used as it is, else a debug build of this tree.
pub fn run(options: &[String]) -> Result<ExitCode> {
    let mut build = vec!["build", "--package", "farpipe-powercut"];
    let is_given = options.iter().any(|option| option == "--farpipe");
    if !is_given {
        build.extend(["--package", "farpipe-cli"]);
    }
    tools::check(&mut tools::cargo(&build))?;
    let built = tools::target_dir()?.join("debug");
    // Not `cargo run`: a ^C is the harness's, which has things to end.
    let mut powercut = Command::new(built.join("farpipe-powercut"));
    if !is_given {
        powercut.arg("--farpipe").arg(built.join("farpipe"));
    }
    let status = powercut
        .args(options)
        .status()
        .context("cannot run the harness")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
