//! `cargo xtask soak`: real processes under chaos, for as long as is said (docs/soak.md).

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::tools;

/// Builds the command and the soak, and runs it with these options; its exit status is ours. With
/// `--farpipe FILE` that one is used as it is, else a debug build of this tree.
pub fn run(options: &[String]) -> Result<ExitCode> {
    let mut build = vec!["build", "--package", "farpipe-soak"];
    let is_given = options.iter().any(|option| option == "--farpipe");
    if !is_given {
        build.extend(["--package", "farpipe-cli"]);
    }
    tools::check(&mut tools::cargo(&build))?;
    let built = tools::target_dir()?.join("debug");
    // Not `cargo run`: a ^C is the soak's, which has things to end.
    let mut soak = Command::new(built.join("farpipe-soak"));
    if !is_given {
        soak.arg("--farpipe").arg(built.join("farpipe"));
    }
    let status = soak.args(options).status().context("cannot run the soak")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
