//! `farpipe man`: the help texts as manual pages.
//!
//! Made from the command line's own definition, as the help is; a page a verb, named as git names
//! its own: farpipe-bench-pipe(1).

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Command;
use clap_mangen::Man;

use crate::exit::WithStatus;
use crate::{command, exit, output};

/// Print a manual page
///
/// To read it: `farpipe man connect | man -l -`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The verb, such as `connect` or `bench pipe`; farpipe itself if not given
    verb: Vec<String>,
    /// Write all pages into this directory instead, which is made if it is not there
    #[arg(long, value_name = "DIR", conflicts_with = "verb")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    // `help` is no verb to have a page of its own.
    let mut root = command().disable_help_subcommand(true);
    // Gives the verbs of verbs their full names, and every verb the global flags.
    root.build();
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("cannot make the directory '{}'", dir.display()))?;
        write_all(&root, dir)?;
        return Ok(0);
    }
    let mut verb = &root;
    for word in &args.verb {
        verb = verb
            .find_subcommand(word)
            .ok_or_else(|| unknown(verb, word))?;
    }
    exit::printed(output::data(&page(verb)?.1))
}

/// The pages of `verb` and of its verbs.
fn write_all(verb: &Command, dir: &Path) -> anyhow::Result<()> {
    let (name, text) = page(verb)?;
    let path = dir.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write '{}'", path.display()))?;
    verb.get_subcommands()
        .try_for_each(|verb| write_all(verb, dir))
}

/// A page's file name and text.
fn page(verb: &Command) -> anyhow::Result<(String, Vec<u8>)> {
    let man = Man::new(verb.clone())
        .source(concat!("farpipe ", env!("CARGO_PKG_VERSION")))
        .manual("farpipe manual");
    let mut text = Vec::new();
    man.render(&mut text).context("cannot make the page")?;
    Ok((man.get_filename(), text))
}

fn unknown(verb: &Command, word: &str) -> anyhow::Error {
    let known: Vec<_> = verb.get_subcommands().map(Command::get_name).collect();
    let hint = match known.as_slice() {
        [] => format!("`{}` has no verbs", verb.get_name()),
        known => format!("known are {}", known.join(", ")),
    };
    WithStatus::usage(format!("no manual page for '{word}'"), hint)
}
