//! Row A6: what a running agent does while its policy changes.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

const GOOD: &str = "rules:\n  - who: anyone\n    read: /no/a\n";

struct Scene {
    dir: tempfile::TempDir,
    live: LivePolicy,
}

impl Scene {
    fn new(allow: Vec<Allow>) -> Self {
        let flags = flags(allow);
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("policy.yaml");
        std::fs::write(&path, GOOD).expect("ours");
        close(&path);
        let live = LivePolicy::open(Some(path), flags).expect("a good policy");
        Self { dir, live }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("policy.yaml")
    }

    /// As a careful editor does, so that each version has a number of its own.
    fn replace(&self, text: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, text).expect("ours");
        close(&new);
        std::fs::rename(new, self.path()).expect("ours");
    }

    fn read(&self, path: &str) -> Decision {
        let policy = self.live.current();
        policy.decide(&shown(ALICE), &Request::Read(Path::new(path)))
    }
}

fn close(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("ours");
}

#[test]
fn a6_a_changed_policy_holds_for_the_next_request() {
    let scene = Scene::new(Vec::new());
    assert!(is_allowed(&scene.read("/no/a")));
    scene.replace("rules:\n  - who: anyone\n    read: /no/b\n");
    assert!(!is_allowed(&scene.read("/no/a")));
    assert!(is_allowed(&scene.read("/no/b")));
}

#[test]
fn a6_a_malformed_policy_leaves_the_last_good_one_in_force() {
    let scene = Scene::new(Vec::new());
    for bad in [
        "rules:\n  - who: anyone\n    read: [/no",
        "rules:\n  - who: anyone\n    read: /",
        "rules:\n  - who: everybody\n    read: /\n",
    ] {
        scene.replace(bad);
        assert!(is_allowed(&scene.read("/no/a")), "{bad}");
        assert!(!is_allowed(&scene.read("/etc")), "{bad}");
    }
    scene.replace("rules:\n  - who: anyone\n    read: /no/c\n");
    assert!(
        is_allowed(&scene.read("/no/c")),
        "the next good one holds again"
    );
}

#[test]
fn a6_a_policy_that_is_gone_empty_or_open_to_others_allows_nothing() {
    let scene = Scene::new(vec!["read:/no/flag".parse().expect("a flag")]);
    for empty in ["", "# nothing\n", "---\n", "rules: []\n"] {
        scene.replace(empty);
        assert!(
            matches!(denied(scene.read("/no/a")), Denied::NoRule { .. }),
            "{empty}"
        );
        assert!(
            is_allowed(&scene.read("/no/flag")),
            "flags are not in the file"
        );
        scene.replace(GOOD);
        assert!(is_allowed(&scene.read("/no/a")));
    }
    std::fs::remove_file(scene.path()).expect("ours");
    let why = denied(scene.read("/no/a"));
    assert!(matches!(why, Denied::Unusable(_)), "{why}");
    assert!(
        why.to_string().contains("policy.yaml: cannot be read"),
        "{why}"
    );
    scene.replace(GOOD);
    assert!(is_allowed(&scene.read("/no/a")));
    let open = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(scene.path(), open).expect("ours");
    let why = denied(scene.read("/no/a")).to_string();
    assert!(
        why.contains("others may write to this policy (mode 0666)"),
        "{why}"
    );
    close(&scene.path());
    assert!(is_allowed(&scene.read("/no/a")));
    std::fs::remove_file(scene.path()).expect("ours");
    std::fs::create_dir(scene.path()).expect("ours");
    assert!(!is_allowed(&scene.read("/no/a")), "what is no file");
}

#[test]
fn a6_an_agent_does_not_start_on_a_policy_that_it_cannot_use() {
    let scene = Scene::new(Vec::new());
    let missing = LivePolicy::open(Some(scene.dir.path().join("none")), Flags::default());
    assert!(matches!(missing, Err(LoadError::Unreadable(_))));
    scene.replace("rules: [\n");
    let bad = LivePolicy::open(Some(scene.path()), Flags::default());
    assert!(matches!(bad, Err(LoadError::Malformed(_))));
    let neither = LivePolicy::open(None, Flags::default()).expect("it allows nothing");
    assert!(neither.current().is_empty());
}

/// What its process has given up, a policy cannot allow again; less it can.
#[test]
fn a_policy_that_is_kept_within_what_it_was_allows_no_more_later() {
    let scene = Scene::new(vec!["read:/no/flag".parse().expect("a flag")]);
    let reach = scene.live.keep_within();
    assert!(!reach.programs);
    assert_eq!(
        reach.read,
        [PathBuf::from("/no/a"), PathBuf::from("/no/flag")]
    );
    assert!(reach.changed.is_empty());
    scene.replace(
        "rules:\n  - who: anyone\n    read: [/no/a/below, /no/b, /no/ab]\n    write: /no/a\n    exec: any\n",
    );
    assert!(is_allowed(&scene.read("/no/a/below/x")));
    assert!(is_allowed(&scene.read("/no/flag")));
    for path in ["/no/a", "/no/b", "/no/ab"] {
        assert!(!is_allowed(&scene.read(path)), "{path}");
    }
    let policy = scene.live.current();
    let wanted = Request::Write(Path::new("/no/a"));
    assert!(!is_allowed(&policy.decide(&shown(ALICE), &wanted)));
    let shell = Request::Shell(Setting::default());
    assert!(!is_allowed(&policy.decide(&shown(ALICE), &shell)));
    // Again what it was.
    scene.replace(GOOD);
    assert!(is_allowed(&scene.read("/no/a")));
}
