//! `farpipe quickstart`: what a newcomer sees first has to work.

use crate::support::{Host, random};

#[test]
fn it_sends_a_file_through_a_failing_network_and_leaves_nothing_behind() {
    let host = Host::new();
    host.file("data", random(3 << 20, 1));
    let sum = host.shell("sha256sum data").run().exits(0);
    let sum = String::from_utf8(sum.stdout).expect("text");
    let (sum, _) = sum.split_once(' ').expect("a sum and a name");
    let before = names(&host);
    let temporary = host.dir().to_owned();
    let ended = host
        .farpipe(["quickstart", "data"])
        .env("TMPDIR", temporary)
        .run()
        .exits(0);
    let text = ended.stderr;
    assert_eq!(
        text.matches(sum).count(),
        2,
        "the sum at both ends:\n{text}"
    );
    assert!(
        text.contains("nothing lost, doubled or cut short"),
        "{text}"
    );
    assert!(
        !text.contains(" 0 of them reset"),
        "the network did not fail:\n{text}"
    );
    for shown in [
        "--exit-at-end     15000 lines, exit status 0",
        "together each line once and in order",
        "exit status 7, as it is there",
        "wc -l      100000, exit status 0",
        "/p/live?view shows it",
    ] {
        assert!(text.contains(shown), "{shown} is not in:\n{text}");
    }
    let mut after = names(&host);
    // The user's secret stays.
    after.retain(|name| name != "farpipe");
    assert_eq!(after, before);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let host = Host::new();
    let ended = host.farpipe(["quickstart", "missing"]).run().exits(125);
    assert!(ended.stderr.contains("missing"), "{}", ended.stderr);
}

fn names(host: &Host) -> Vec<String> {
    let entries = std::fs::read_dir(host.dir()).expect("our own directory");
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}
