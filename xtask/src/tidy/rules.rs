//! The rules themselves.

use super::Complaint;
use super::tree::{File, Tree};

/// A set of kinds of which each member is known in few places, so that adding one stays cheap.
struct Kinds {
    /// The enum whose variants are the kinds; they are read from the source.
    name: &'static str,
    /// Where the enum is defined.
    home: &'static str,
    /// The folder of the kinds' own files. Its `mod.rs` may name all kinds, another file those
    /// whose names it begins: `tcp.rs` may name `Tcp` and `TcpListen`.
    folder: &'static str,
}

const KINDS: &[Kinds] = &[
    Kinds {
        name: "EndpointSpec",
        home: "crates/agent/src/endpoint/spec.rs",
        folder: "crates/agent/src/endpoint",
    },
    Kinds {
        name: "Scheme",
        home: "crates/net/src/tcp.rs",
        folder: "crates/net/src/carrier",
    },
];

/// Non-test lines beyond which a file probably has two jobs.
const LENGTH_MAX: usize = 800;

/// Files that are longer, each with the length it may not exceed and why. Lower the number when
/// the file shrinks; think twice before adding a line.
const LENGTH_EXCEPTIONS: &[(&str, usize, &str)] = &[];

/// Documents of numbered sections that code cites as `NAME section N.N`.
const NUMBERED: &[&str] = &["docs/protocol.md"];

/// Every Rust file says first what it is for.
pub(super) fn headers(tree: &Tree) -> Vec<Complaint> {
    tree.rust()
        .filter(|file| {
            let first = file.text.lines().next().unwrap_or_default();
            first
                .strip_prefix("//!")
                .is_none_or(|header| header.trim().is_empty())
        })
        .map(|file| {
            complaint(
                file,
                1,
                "begin with a `//!` header: what this file is for, and why",
            )
        })
        .collect()
}

/// A kind is known where its enum is, in its folder's mod.rs and in its own file, nowhere else.
/// Tests and examples may name kinds.
pub(super) fn kinds(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for kinds in KINDS {
        let Kinds { name, home, .. } = kinds;
        let variants = tree
            .file(home)
            .map(|file| variants(&file.text, name))
            .unwrap_or_default();
        if variants.is_empty() {
            complaints.push(Complaint {
                path: (*home).to_owned(),
                line: 0,
                what: format!(
                    "no `enum {name}` here: say in xtask/src/tidy/rules.rs where it went"
                ),
            });
        }
        for variant in &variants {
            let needle = format!("{name}::{variant}");
            let what =
                format!("{needle} is for {home} and the kind's own file: ask a method of {name}");
            for file in tree
                .rust()
                .filter(|file| !kinds.may_name(&file.path, variant))
            {
                let lines = file.lines().take(file.product_lines());
                for (line, _) in lines.filter(|(_, text)| has_word(text, &needle)) {
                    complaints.push(complaint(file, line, &what));
                }
            }
        }
    }
    complaints
}

impl Kinds {
    fn may_name(&self, path: &str, variant: &str) -> bool {
        let stem = path
            .strip_prefix(self.folder)
            .and_then(|rest| rest.strip_prefix('/'))
            .and_then(|rest| rest.split(['/', '.']).next());
        path == self.home
            || is_example_or_test(path)
            || stem.is_some_and(|stem| stem == "mod" || snake_case(variant).starts_with(stem))
    }
}

fn is_example_or_test(path: &str) -> bool {
    [
        "/examples/",
        "/tests/",
        "/tests.rs",
        "/conformance.rs",
        "/conformance/",
    ]
    .iter()
    .any(|part| path.contains(part))
}

/// Files keep to one job; a ratchet, not an absolute.
pub(super) fn length(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in tree.rust().filter(|file| !file.is_test()) {
        let max = LENGTH_EXCEPTIONS
            .iter()
            .find(|(path, ..)| *path == file.path)
            .map_or(LENGTH_MAX, |(_, max, _)| *max);
        let lines = file.product_lines();
        if lines > max {
            let what = format!("{lines} lines without tests, more than {max}: two jobs?");
            complaints.push(complaint(file, 0, &what));
        }
    }
    complaints
}

/// What is unfinished or switched off does not get in.
pub(super) fn unfinished(tree: &Tree) -> Vec<Complaint> {
    let banned = [
        (
            concat!("to", "do!("),
            "finish it, or return an error that says what is missing",
        ),
        (
            concat!("unimple", "mented!("),
            "finish it, or return an error that says what is missing",
        ),
        (
            concat!("#[ign", "ore"),
            "a test runs always, or it is not a test: fix or remove it",
        ),
    ];
    let mut complaints = Vec::new();
    for file in tree.rust() {
        for (line, text) in file.lines() {
            for (needle, hint) in banned {
                if text.contains(needle) {
                    complaints.push(complaint(file, line, &format!("`{needle}`: {hint}")));
                }
            }
        }
    }
    complaints
}

/// Tests wait for what they need, never for a time they guess.
pub(super) fn sleeps(tree: &Tree) -> Vec<Complaint> {
    let needle = concat!("sl", "eep(");
    let mut complaints = Vec::new();
    for file in tree.rust().filter(|file| file.is_test()) {
        for (line, text) in file.lines() {
            let reason = text
                .split_once("// sleep:")
                .map(|(_, reason)| reason.trim());
            if has_word(text, needle) && reason.is_none_or(str::is_empty) {
                let what = "a test that sleeps is slow or flaky: wait for the event, \
                            or say why not with `// sleep: reason` on the line";
                complaints.push(complaint(file, line, what));
            }
        }
    }
    complaints
}

/// Cited sections exist.
pub(super) fn sections(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for name in NUMBERED {
        let headings: Vec<&str> = tree
            .file(name)
            .map(|file| headings(&file.text))
            .unwrap_or_default();
        let cited = format!("{name} section ");
        for file in &tree.files {
            for (line, text) in file.lines() {
                for (at, _) in text.match_indices(&cited) {
                    let number = number(&text[at + cited.len()..]);
                    if !number.is_empty() && !headings.contains(&number) {
                        let what = format!("{name} has no section {number}");
                        complaints.push(complaint(file, line, &what));
                    }
                }
            }
        }
    }
    complaints
}

/// Relative links in Markdown lead somewhere.
pub(super) fn links(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in tree.markdown() {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut fenced = false;
        for (line, text) in file.lines() {
            fenced ^= text.trim_start().starts_with("```");
            if fenced {
                continue;
            }
            for (at, _) in text.match_indices("](") {
                let link = text[at + 2..]
                    .split([')', ' ', '#'])
                    .next()
                    .unwrap_or_default();
                let elsewhere =
                    link.is_empty() || link.contains("://") || link.starts_with("mailto:");
                if !elsewhere && !resolve(folder, link).is_some_and(|path| tree.holds(&path)) {
                    complaints.push(complaint(file, line, &format!("nothing lies at {link}")));
                }
            }
        }
    }
    complaints
}

/// The project reads the same on every machine.
pub(super) fn machine_paths(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in &tree.files {
        for (line, text) in file.lines() {
            for needle in [concat!("/wo", "rk/"), concat!("/ro", "ot/")] {
                let at_start = |at: usize| {
                    let before = text[..at].chars().next_back();
                    before.is_none_or(|c| !c.is_alphanumeric() && !"._-~}*".contains(c))
                };
                if text.match_indices(needle).any(|(at, _)| at_start(at)) {
                    complaints.push(complaint(
                        file,
                        line,
                        &format!("{needle} exists on one machine only"),
                    ));
                }
            }
        }
    }
    complaints
}

fn complaint(file: &File, line: usize, what: &str) -> Complaint {
    Complaint {
        path: file.path.clone(),
        line,
        what: what.to_owned(),
    }
}

/// Names of the variants of `enum name` in `text`; none if it is not there.
fn variants(text: &str, name: &str) -> Vec<String> {
    let Some(body) = text
        .split_once(&format!("enum {name} {{"))
        .and_then(|(_, rest)| rest.split_once("\n}"))
        .map(|(body, _)| body)
    else {
        return Vec::new();
    };
    // rustfmt indents variants by four spaces and what is inside them by more.
    body.lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| {
            line.split(|c: char| !c.is_alphanumeric())
                .next()
                .unwrap_or(line)
                .to_owned()
        })
        .collect()
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for (i, c) in name.char_indices() {
        if c.is_ascii_uppercase() && i > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// Whether `needle` stands in `text` and is not part of a longer word.
fn has_word(text: &str, needle: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(needle).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + needle.len()..].chars().next();
        !is_word(before) && (needle.ends_with('(') || !is_word(after))
    })
}

/// The numbers that open the headings of a Markdown text.
fn headings(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| number(line.trim_start_matches('#').trim_start()))
        .filter(|number| !number.is_empty())
        .collect()
}

/// The section number at the start of `text`, without a full stop behind it.
fn number(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    text[..end.unwrap_or(text.len())].trim_end_matches('.')
}

/// `link` as seen from `folder`, relative to the root; `None` if it leaves the project.
fn resolve(folder: &str, link: &str) -> Option<String> {
    let (base, link) = link
        .strip_prefix('/')
        .map_or((folder, link), |link| ("", link));
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let file = |(path, text): &(&str, &str)| File {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
        };
        Tree {
            files: files.iter().map(file).collect(),
        }
    }

    fn places(complaints: &[Complaint]) -> Vec<String> {
        complaints
            .iter()
            .map(|complaint| format!("{}:{}", complaint.path, complaint.line))
            .collect()
    }

    #[test]
    fn a_file_without_a_header_is_named() {
        let tree = tree(&[
            ("a.rs", "//! Says why.\n"),
            ("b.rs", "fn b() {}\n"),
            ("c.rs", "//! \n"),
        ]);
        assert_eq!(places(&headers(&tree)), ["b.rs:1", "c.rs:1"]);
    }

    #[test]
    fn a_kind_is_known_at_home_and_in_its_own_file_only() {
        let spec = "pub enum EndpointSpec {\n    /// A path.\n    File(PathBuf),\n    TcpListen {\n        Port: u16,\n    },\n}\n";
        let used = "match x {\n    EndpointSpec::TcpListen { .. } => 1,\n    EndpointSpec::Files => 2,\n}\n";
        let tree = tree(&[
            ("crates/net/src/tcp.rs", "enum Scheme {\n    Ws,\n}\n"),
            ("crates/agent/src/endpoint/spec.rs", spec),
            ("crates/agent/src/endpoint/mod.rs", used),
            ("crates/agent/src/endpoint/tcp.rs", used),
            ("crates/agent/src/endpoint/file.rs", used),
            ("crates/agent/tests/it.rs", used),
            ("crates/cli/src/main.rs", used),
        ]);
        let expected = [
            "crates/agent/src/endpoint/file.rs:2",
            "crates/cli/src/main.rs:2",
        ];
        assert_eq!(places(&kinds(&tree)), expected);
    }

    #[test]
    fn kinds_that_moved_are_missed() {
        let tree = tree(&[("crates/net/src/tcp.rs", "enum Scheme {\n    Ws,\n}\n")]);
        assert_eq!(
            places(&kinds(&tree)),
            ["crates/agent/src/endpoint/spec.rs:0"]
        );
    }

    #[test]
    fn tests_do_not_make_a_file_long() {
        let lines = "x();\n".repeat(LENGTH_MAX);
        let tests = format!("{lines}\n#[cfg(test)]\nmod tests {{\n{lines}}}\n");
        let long = format!("{lines}x();\n");
        let tree = tree(&[
            ("a.rs", &tests),
            ("b.rs", &long),
            ("crates/x/tests/c.rs", &long),
        ]);
        assert_eq!(places(&length(&tree)), ["b.rs:0"]);
    }

    #[test]
    fn unfinished_code_and_switched_off_tests_are_named() {
        let text = concat!("to", "do!();\n", "#[ign", "ore]\n", "todo_list();\n");
        assert_eq!(
            places(&unfinished(&tree(&[("a.rs", text)]))),
            ["a.rs:1", "a.rs:2"]
        );
    }

    #[test]
    fn a_sleep_in_a_test_needs_a_reason() {
        let text = concat!(
            "thread::sl",
            "eep(d);\n",
            "thread::sl",
            "eep(d); // sleep: the kernel says nothing when this ends\n",
            "thread::sl",
            "eep(d); // sleep:\n",
            "no_sl",
            "eep(d);\n",
        );
        let tree = tree(&[("crates/x/tests/a.rs", text), ("crates/x/src/a.rs", text)]);
        assert_eq!(
            places(&sleeps(&tree)),
            ["crates/x/tests/a.rs:1", "crates/x/tests/a.rs:3"]
        );
    }

    #[test]
    fn cited_sections_must_exist() {
        let cited = concat!(
            "// docs/protocol.md ",
            "section 2.1.\n// docs/protocol.md ",
            "section 2.9 (limits)\n"
        );
        let tree = tree(&[
            ("docs/protocol.md", "# P\n## 2. Frames\n### 2.1 DATA\n"),
            ("a.rs", cited),
        ]);
        assert_eq!(places(&sections(&tree)), ["a.rs:2"]);
    }

    #[test]
    fn links_are_resolved_from_where_they_stand() {
        let text = "[a](../a.md#x) [b](b.md) [c](https://c.example/x) [d](#d)\n```\n[e](e.md)\n```\n[f](../../f)\n[g](../src)\n";
        let tree = tree(&[
            ("docs/index.md", text),
            ("a.md", ""),
            ("src/lib.rs", "//! x"),
        ]);
        assert_eq!(
            places(&links(&tree)),
            ["docs/index.md:1", "docs/index.md:5"]
        );
    }

    #[test]
    fn paths_of_one_machine_are_named() {
        let text = concat!(
            "cd /wo",
            "rk/main\nhome=/ro",
            "ot/x\ndocs/wo",
            "rk/plan\n$HOME/x\n"
        );
        assert_eq!(
            places(&machine_paths(&tree(&[("a.sh", text)]))),
            ["a.sh:1", "a.sh:2"]
        );
    }
}
