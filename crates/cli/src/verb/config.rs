//! `farpipe config`: looks at configuration files without running anything.

use std::path::{Path, PathBuf};

use clap::{Command, Subcommand};

use crate::config::Typed;
use crate::exit::WithStatus;
use crate::{command, config, output};

/// Check configuration files
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say whether every key and value of a file can be used, and where one cannot
    Check {
        /// The YAML file
        file: PathBuf,
    },
}

pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    let Action::Check { file } = &args.action;
    let (_, count) = load(command(), file, &Typed::default())?;
    let s = if count == 1 { "" } else { "s" };
    output::line(&format!("{}: ok, {count} setting{s}", file.display()));
    Ok(0)
}

/// [`config::apply`] with an error for people.
pub(crate) fn load(
    command: Command,
    file: &Path,
    typed: &Typed,
) -> anyhow::Result<(Command, usize)> {
    config::apply(command, file, typed)
        .map_err(|error| WithStatus::usage(error.to_string(), error.hint.clone()))
}
