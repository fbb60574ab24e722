//! `farpipe completions` and `farpipe man`: what is made from the command line's definition names
//! every verb and is accepted by the programs that read it.

use std::collections::BTreeSet;

use crate::support::{Host, assert_same};

const SHELLS: [&str; 5] = ["bash", "zsh", "fish", "elvish", "powershell"];

/// What `farpipe VERB… --help` lists.
fn verbs(host: &Host, of: &[&str]) -> Vec<String> {
    let ended = host.farpipe(of).args(["--help"]).run().exits(0);
    let text = String::from_utf8(ended.stdout).expect("text");
    let Some((_, list)) = text.split_once("Commands:\n") else {
        return Vec::new();
    };
    list.lines()
        .take_while(|line| !line.is_empty())
        // A long description goes on further to the right.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|&verb| verb != "help")
        .map(str::to_owned)
        .collect()
}

/// All verbs, those of verbs with the words before them.
fn all_verbs(host: &Host) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for verb in verbs(host, &[]) {
        for under in verbs(host, &[&verb]) {
            all.push(vec![verb.clone(), under]);
        }
        all.push(vec![verb]);
    }
    for known in [["listen"].as_slice(), &["man"], &["bench", "pipe"]] {
        assert!(
            all.iter().any(|verb| verb == known),
            "{known:?} is not in {all:?}"
        );
    }
    all
}

fn print(host: &Host, args: &[&str]) -> String {
    let ended = host.farpipe(args).run().exits(0).says("");
    String::from_utf8(ended.stdout).expect("text")
}

#[test]
fn completions_know_every_verb_and_its_flags() {
    let host = Host::new();
    for shell in SHELLS {
        let script = print(&host, &["completions", shell]);
        for verb in all_verbs(&host).iter().flatten() {
            let quoted = format!("'{verb}'");
            let is_there = match shell {
                "bash" => script.contains(&format!(",{verb})\n")),
                "zsh" => script.contains(&format!("({verb})\n")),
                "fish" => script.contains(&format!("-a \"{verb}\"")),
                "elvish" => script.contains(&format!("cand {verb} '")),
                _ => script.contains(&quoted),
            };
            assert!(
                is_there,
                "{verb} is not in the script for {shell}:\n{script}"
            );
        }
        for flag in ["resume-for", "rounds"] {
            assert!(
                script.contains(flag),
                "{flag} is not in the script for {shell}"
            );
        }
    }
}

#[test]
fn bash_accepts_the_script_and_completes_with_it() {
    let host = Host::new();
    let complete = |words: &str| {
        let script = format!(
            "\"$FARPIPE\" completions bash >c && bash -n c && bash -c '\
             . ./c; COMP_WORDS=({words} \"\"); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _farpipe farpipe \"\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf \"%s\\n\" \"${{COMPREPLY[@]}}\"'"
        );
        let ended = host.shell(&script).run().exits(0).says("");
        let text = String::from_utf8(ended.stdout).expect("text");
        text.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let offered = complete("farpipe");
    for verb in verbs(&host, &[]) {
        assert!(offered.contains(&verb), "{verb} is not in {offered:?}");
    }
    assert!(complete("farpipe bench").contains("pipe"));
    assert_eq!(
        complete("farpipe bench pipe --cores"),
        ["apart", "free", "together"].map(str::to_owned).into()
    );
}

#[test]
fn a_shell_that_is_not_known_is_named() {
    let host = Host::new();
    let ended = host
        .farpipe(["completions", "ksh"])
        .run()
        .exits(2)
        .printed("");
    for word in SHELLS.iter().chain(&["ksh"]) {
        assert!(ended.stderr.contains(word), "{}", ended.stderr);
    }
}

#[test]
fn every_verb_has_a_manual_page_and_the_first_page_names_them() {
    let host = Host::new();
    let first = print(&host, &["man"]);
    assert!(first.contains(".TH farpipe 1"), "{first}");
    for verb in all_verbs(&host) {
        let words: Vec<&str> = ["man"]
            .into_iter()
            .chain(verb.iter().map(String::as_str))
            .collect();
        let page = print(&host, &words);
        let name = format!("farpipe-{}", verb.join("-"));
        assert!(page.contains(&format!(".TH {name} 1")), "{page}");
        assert!(page.contains(".SH DESCRIPTION"), "{page}");
        if verb.len() == 1 {
            let named = format!("{}(1)", name.replace('-', "\\-"));
            assert!(first.contains(&named), "{named} is not in:\n{first}");
        }
    }
    assert!(first.contains("Exit status:"), "{first}");
}

#[test]
fn all_pages_go_into_a_directory() {
    let host = Host::new();
    host.farpipe(["man", "--dir", "share/man1"])
        .run()
        .exits(0)
        .printed("")
        .says("");
    let entries = std::fs::read_dir(host.path("share/man1")).expect("the directory was made");
    let names: BTreeSet<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    let mut expected: BTreeSet<String> = all_verbs(&host)
        .iter()
        .map(|verb| format!("farpipe-{}.1", verb.join("-")))
        .collect();
    expected.insert("farpipe.1".to_owned());
    assert_eq!(names, expected);
    let connect = host.content("share/man1/farpipe-connect.1");
    assert_same(&connect, print(&host, &["man", "connect"]).as_bytes());
    // Where groff is, it has nothing to say about any of them.
    host.shell("command -v groff >/dev/null || exit 0; groff -man -ww -z -Tutf8 share/man1/*.1")
        .run()
        .exits(0)
        .says("");
}

#[test]
fn a_page_that_is_not_there() {
    let host = Host::new();
    let ended = host.farpipe(["man", "nothing"]).run().exits(2).printed("");
    let begin = "farpipe: no manual page for 'nothing'\nhint: known are listen, connect, ";
    assert!(ended.stderr.starts_with(begin), "{}", ended.stderr);
    host.farpipe(["man", "pipe", "nothing"])
        .run()
        .exits(2)
        .printed("")
        .says(
            "farpipe: no manual page for 'nothing'
         hint: `pipe` has no verbs",
        );
    host.file("taken", "");
    host.farpipe(["man", "--dir", "taken"])
        .run()
        .exits(125)
        .printed("")
        .says("farpipe: cannot make the directory 'taken': File exists (os error 17)");
}

#[test]
fn a_reader_that_is_gone_is_141_and_a_full_disk_is_125() {
    let host = Host::new();
    for args in [["completions", "bash"].as_slice(), &["man"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        host.farpipe(args).stdout(writer).run().exits(141).says("");
        let full = std::fs::File::options().write(true).open("/dev/full");
        host.farpipe(args)
            .stdout(full.expect("a device"))
            .run()
            .exits(125)
            .says("farpipe: cannot write to stdout: No space left on device (os error 28)");
    }
}
