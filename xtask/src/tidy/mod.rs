//! `cargo xtask tidy`: rules of the house that no compiler checks.
//!
//! A rule is a function from the tree to complaints; `RULES` lists them all. A complaint names a
//! file and, where it can, a line, and says what to do instead.

mod rules;
mod tree;

use anyhow::{Result, bail};

use tree::Tree;

/// One thing wrong at one place.
#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    path: String,
    /// 1-based; 0 when it is about the whole file.
    line: usize,
    what: String,
}

type Rule = fn(&Tree) -> Vec<Complaint>;

const RULES: &[(&str, Rule)] = &[
    ("headers", rules::headers),
    ("kinds", rules::kinds),
    ("length", rules::length),
    ("unfinished", rules::unfinished),
    ("sleeps", rules::sleeps),
    ("sections", rules::sections),
    ("links", rules::links),
    ("machine-paths", rules::machine_paths),
];

pub fn run() -> Result<()> {
    let tree = Tree::read(crate::tools::root())?;
    let mut broken = 0;
    for (name, rule) in RULES {
        for Complaint { path, line, what } in rule(&tree) {
            eprintln!("{path}:{line}: {what} [{name}]");
            broken += 1;
        }
    }
    if broken > 0 {
        bail!("{broken} breaches of the house rules (CONTRIBUTING.md)");
    }
    println!("tidy: {} files, {} rules", tree.files.len(), RULES.len());
    Ok(())
}
