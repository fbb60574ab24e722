//! `farpipe completions`: what a shell needs to complete farpipe's command lines.
//!
//! Made from the command line's own definition, so no verb and no flag can be missing.

use clap_complete::Shell;

use crate::{command, exit, output};

/// Print a script that completes farpipe's command lines in a shell
///
/// For bash: `farpipe completions bash > ~/.local/share/bash-completion/completions/farpipe`. For
/// fish: `farpipe completions fish > ~/.config/fish/completions/farpipe.fish`. For zsh: a file
/// `_farpipe` in a directory of $fpath.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which shell
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "farpipe", &mut script);
    exit::printed(output::data(&script))
}
