//! `cargo xtask faults`: the page that says which test shows what becomes of which fault.
//!
//! A test names its faults at the front of its own name: `n1_n2_a_cut_…` is for N1 and N2. The rows
//! are in `rows.rs`; the page is generated, and `tidy` compares it.

mod rows;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};

pub(crate) use rows::{NOT_YET, SECTIONS};

/// Where the page is.
pub(crate) const PAGE: &str = "docs/faults.md";

/// Tests by the fault that their name begins with: the file, and the name.
type Tests = BTreeMap<String, Vec<(String, String)>>;

/// Writes the page.
pub(crate) fn run() -> Result<()> {
    let files = crate::tidy::rust_files()?;
    let page = page(&files);
    let path = crate::tools::root().join(PAGE);
    std::fs::write(&path, page).with_context(|| format!("cannot write {PAGE}"))
}

/// The page, of all Rust files as path and text.
pub(crate) fn page(files: &[(String, String)]) -> String {
    let tests = tests(files);
    let mut page = HEAD.to_owned();
    for (title, rows) in SECTIONS {
        // Writing to a String cannot fail.
        let _ = write!(
            page,
            "\n## {title}\n\n| | fault | what becomes of it | shown by |\n|---|---|---|---|\n"
        );
        for row in *rows {
            let shown = tests
                .get(row.id)
                .map_or_else(|| "**nothing yet**".to_owned(), |tests| list(tests));
            let _ = writeln!(
                page,
                "| {} | {} | {} | {shown} |",
                row.id, row.fault, row.outcome
            );
        }
    }
    page += "\n## Not yet\n\n";
    for (what, why) in NOT_YET {
        let _ = writeln!(page, "- {what}: {why}");
    }
    page
}

/// Names of faults in the names of tests that no row has.
pub(crate) fn unknown(files: &[(String, String)]) -> Vec<(String, String)> {
    let known = |id: &str| {
        SECTIONS
            .iter()
            .any(|(_, rows)| rows.iter().any(|row| row.id == id))
    };
    let strangers = tests(files).into_iter().filter(|(id, _)| !known(id));
    strangers
        .flat_map(|(id, tests)| tests.into_iter().map(move |(path, _)| (path, id.clone())))
        .collect()
}

/// A file's tests together, by number; names are greppable.
fn list(tests: &[(String, String)]) -> String {
    let mut by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (path, name) in tests {
        by_file.entry(path).or_default().push(name);
    }
    let one = |(path, names): (&&str, &Vec<&str>)| {
        let short = path.strip_prefix("crates/").unwrap_or(path);
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        format!("{short}: {}", names.join(", "))
    };
    by_file.iter().map(one).collect::<Vec<_>>().join("<br>")
}

fn tests(files: &[(String, String)]) -> Tests {
    let mut found = Tests::new();
    for (path, text) in files {
        // The function behind `#[test]` or `#[tokio::test(…)]`, whatever other attributes are between.
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            }
            let signature = line.strip_prefix("async ").unwrap_or(line);
            if let Some(rest) = signature.strip_prefix("fn ")
                && std::mem::take(&mut is_test)
            {
                let name = rest.split(['(', '<']).next().unwrap_or_default();
                for id in faults_of(name) {
                    found
                        .entry(id)
                        .or_default()
                        .push((path.clone(), name.to_owned()));
                }
            }
        }
    }
    found
}

/// `n1_n10_what_it_shows`: N1 and N10.
fn faults_of(name: &str) -> impl Iterator<Item = String> {
    let is_fault = |word: &&str| {
        let digits = word.strip_prefix(|c: char| c.is_ascii_lowercase());
        digits.is_some_and(|digits| {
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    name.split('_').take_while(is_fault).map(str::to_uppercase)
}

const HEAD: &str = "\
# Faults

What can go wrong, what becomes of it, and the tests that show it. Written by `cargo xtask faults` from
the names of the tests, which begin with the faults they are for; `cargo xtask tidy` says when it is
out of date. Beside the tests of this page, [soak.md](soak.md) has what real processes outlived for
long, [benchmarks.md](benchmarks.md#simulations) the simulations, [fuzzing.md](fuzzing.md) the fuzzing.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tests_name_says_its_faults() {
        let faults = |name| faults_of(name).collect::<Vec<_>>().join(" ");
        assert_eq!(faults("n1_n10_what_it_shows"), "N1 N10");
        assert_eq!(faults("a_byte_arrives"), "");
        assert_eq!(faults("what_n1_is_not"), "");
    }

    #[test]
    fn only_tests_count_and_each_is_listed_once() {
        let text = "#[test]\nfn n1_one() {}\nfn n2_helper() {}\n#[tokio::test(start_paused = true)]\nasync fn n1_z9_two() {}\n";
        let files = [("crates/x/tests/y.rs".to_owned(), text.to_owned())];
        let page = page(&files);
        assert!(
            page.contains("| x/tests/y.rs: `n1_one`, `n1_z9_two` |"),
            "{page}"
        );
        assert!(!page.contains("n2_helper"));
        assert_eq!(
            unknown(&files),
            [("crates/x/tests/y.rs".to_owned(), "Z9".to_owned())]
        );
    }
}
