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
    ("faults", faults),
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

/// All Rust files as path and text.
pub(crate) fn rust_files() -> Result<Vec<(String, String)>> {
    Ok(texts(&Tree::read(crate::tools::root())?))
}

fn texts(tree: &Tree) -> Vec<(String, String)> {
    let files = tree.rust();
    files
        .map(|file| (file.path.clone(), file.text.clone()))
        .collect()
}

/// The table of faults is that of the tests, and each test's faults are in it.
fn faults(tree: &Tree) -> Vec<Complaint> {
    let files = texts(tree);
    let complaint = |path: String, what: String| Complaint {
        path,
        line: 0,
        what,
    };
    let mut complaints: Vec<_> = crate::faults::unknown(&files)
        .into_iter()
        .map(|(path, id)| complaint(path, format!("no row {id} in xtask/src/faults/rows.rs")))
        .collect();
    let is = tree
        .files
        .iter()
        .find(|file| file.path == crate::faults::PAGE);
    if is.is_none_or(|file| file.text != crate::faults::page(&files)) {
        let what = "out of date: run cargo xtask faults".to_owned();
        complaints.push(complaint(crate::faults::PAGE.to_owned(), what));
    }
    complaints
}
