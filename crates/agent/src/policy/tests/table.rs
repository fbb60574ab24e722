//! One request after the other, and what is decided.

use super::*;

#[test]
fn a6_nothing_is_allowed_that_is_not_said() {
    let none = policy("");
    let path = Path::new("/srv/x");
    let there = address("h:1");
    let requests = [
        Request::Shell(Setting::default()),
        Request::Read(path),
        Request::Write(path),
        Request::Connect(&there),
        Request::Listen(&there),
        Request::Publish("t"),
        Request::Subscribe("t"),
    ];
    for caller in [shown(ALICE), Caller::ThisUser] {
        for request in &requests {
            assert!(!is_allowed(&none.decide(&caller, request)), "{request}");
        }
        assert!(!is_allowed(&run(&none, &caller, "/bin/true", &[])));
    }
    // Each key grants what it says and nothing else.
    for (key, granted) in [
        ("shell: true", 0),
        ("read: /srv", 1),
        ("write: /srv", 2),
        ("connect: 'h:1'", 3),
        ("listen: 'h:1'", 4),
        ("publish: t", 5),
        ("subscribe: t", 6),
    ] {
        let policy = alices(key);
        for (at, request) in requests.iter().enumerate() {
            let decision = policy.decide(&shown(ALICE), request);
            assert_eq!(is_allowed(&decision), at == granted, "{key}: {request}");
        }
        assert!(!is_allowed(&run(&policy, &shown(ALICE), "/bin/true", &[])));
    }
}

#[test]
fn a5_a_rule_is_for_the_identity_that_was_shown_and_no_other() {
    let policy = policy(&format!(
        "rules:\n  - who: {ALICE}\n    read: /a\n  - who: farpipe://example.org/agent/*\n    read: /b\n"
    ));
    let may = |who: &str, path: &str| {
        is_allowed(&policy.decide(&shown(who), &Request::Read(Path::new(path))))
    };
    assert!(may(ALICE, "/a"));
    assert!(may("farpipe://example.org/agent/alice", "/b"));
    for other in [
        "farpipe://example.org/client/bob",
        "farpipe://example.org/client/alice2",
        "farpipe://example.org/client/alic",
        "farpipe://example.org/agent/alice",
        "farpipe://example.org/relay/alice",
        "farpipe://example.com/client/alice",
        "farpipe://sub.example.org/client/alice",
    ] {
        assert!(!may(other, "/a"), "{other}");
    }
    for other in [
        ALICE,
        "farpipe://example.com/agent/alice",
        "farpipe://example.org/relay/x",
    ] {
        assert!(!may(other, "/b"), "{other}");
    }
    let this_user = policy.decide(&Caller::ThisUser, &Request::Read(Path::new("/a")));
    assert!(
        !is_allowed(&this_user),
        "the user of the agent is not alice"
    );
}

#[test]
fn a4_no_rule_is_for_a_list_a_pattern_or_a_look_alike() {
    for who in [
        "alice",
        "'*'",
        "farpipe://*/client/alice",
        "farpipe://example.org/*/alice",
        "farpipe://example.org/client/a*",
        "farpipe://example.org/client/alice,bob",
        "farpipe://example.org/client/Alice",
        "farpipe://example.org/client/аlice",
        "farpipe://example.org/ca/root",
        "farpipe://example.org/ca/*",
        "farpipe://example.org/*",
        "farpipe://example.org/client/*/*",
        "farpipe://EXAMPLE.org/client/*",
        "\"farpipe://example.org/client/alice\\nbob\"",
        "Anyone",
    ] {
        let (what, hint) = malformed(&format!("rules:\n  - who: {who}\n    read: /a\n"));
        assert!(what.starts_with("p.yaml:2:5: 'who': "), "{what}");
        assert!(hint.contains("name") || hint.contains("identity"), "{hint}");
    }
}

#[test]
fn what_reaches_into_the_host_needs_more_than_a_relays_word() {
    let keys = "exec: any\n    shell: true\n    read: /s\n    write: /s\n    connect: '*:*'\n    \
                listen: '*:*'\n    publish: '*'\n    subscribe: '*'";
    let (path, there) = (Path::new("/s"), address("h:1"));
    let program = Program::made_up("/bin/ls", "/bin/ls");
    let exec = Exec {
        program: &program,
        arguments: &[],
        setting: Setting::default(),
    };
    let requests = [
        (Request::Exec(exec), true),
        (Request::Shell(Setting::default()), true),
        (Request::Read(path), true),
        (Request::Write(path), true),
        (Request::Connect(&there), true),
        (Request::Listen(&there), true),
        (Request::Publish("t"), false),
        (Request::Subscribe("t"), false),
    ];
    let strict = alices(keys);
    let trusting = policy(&format!(
        "trust_relay: true\nrules:\n  - who: {ALICE}\n    {keys}\n"
    ));
    let stranger = asserted(ALICE, Asserting::Another);
    for (request, needs_certificate) in &requests {
        for known in [
            shown(ALICE),
            direct(ALICE),
            asserted(ALICE, Asserting::ThisUser),
        ] {
            assert!(is_allowed(&strict.decide(&known, request)), "{request}");
        }
        let decision = strict.decide(&stranger, request);
        assert_eq!(!is_allowed(&decision), *needs_certificate, "{request}");
        if *needs_certificate {
            let why = denied(decision);
            assert!(matches!(why, Denied::NeedsCertificate { .. }), "{why}");
            assert!(why.rule().is_some(), "it names the rule");
        }
        assert!(
            is_allowed(&trusting.decide(&stranger, request)),
            "{request}"
        );
    }
    // This user needs a rule as anybody does, and no certificate.
    let own = policy("rules:\n  - who: self\n    exec: any\n");
    assert!(is_allowed(&run(&own, &Caller::ThisUser, "/bin/ls", &[])));
    assert!(!is_allowed(&run(&own, &shown(ALICE), "/bin/ls", &[])));
}

#[test]
fn a7_a_program_is_the_file_that_runs_and_its_arguments_are_matched_one_by_one() {
    let policy = alices(
        "exec:\n      - /no/uptime\n      - /no/git log **\n      - /no/cat /srv/*\n      \
         - /no/echo * 'a b' '\\*'\n      - /no/x --level=*",
    );
    let may = |program: &str, arguments: &[&str]| {
        is_allowed(&run(&policy, &shown(ALICE), program, arguments))
    };
    for (program, arguments) in [
        ("/no/uptime", vec![]),
        ("/no/git", vec!["log"]),
        ("/no/git", vec!["log", "--oneline", "-n", "../x"]),
        ("/no/cat", vec!["/srv/a/b"]),
        ("/no/cat", vec!["/srv/..a/b.."]),
        ("/no/echo", vec!["", "a b", "*"]),
        ("/no/echo", vec!["..\n", "a b", "*"]),
        ("/no/x", vec!["--level=7"]),
    ] {
        assert!(may(program, &arguments), "{program} {arguments:?}");
    }
    for (program, arguments) in [
        ("/no/uptime", vec!["-p"]),
        ("/no/uptim", vec![]),
        ("/no/uptime2", vec![]),
        ("/no/git", vec![]),
        ("/no/git", vec!["-c", "x=y", "log"]),
        ("/no/git", vec!["logs"]),
        ("/no/cat", vec![]),
        ("/no/cat", vec!["/etc/shadow"]),
        ("/no/cat", vec!["/srv"]),
        ("/no/cat", vec!["/srv/../etc/shadow"]),
        ("/no/cat", vec!["/srv/a/.."]),
        ("/no/cat", vec!["/srv/a", "/etc/shadow"]),
        // A value is no option.
        ("/no/echo", vec!["-n", "a b", "*"]),
        ("/no/echo", vec!["x", "a", "b", "*"]),
        ("/no/echo", vec!["x", "a b", "x"]),
        ("/no/x", vec!["--level=../../etc"]),
    ] {
        assert!(!may(program, &arguments), "{program} {arguments:?}");
    }
}

#[test]
fn a7_a_link_is_what_it_leads_to_or_what_the_rule_calls_it_and_never_what_the_caller_calls_it() {
    let policy = alices("exec:\n      - /no/bin/ls\n      - /no/bin/busybox ls *");
    let decide = |named: &str, resolved: &str, arguments: &[&str]| {
        let program = Program::made_up(named, resolved);
        let exec = Exec {
            program: &program,
            arguments: &words(arguments),
            setting: Setting::default(),
        };
        policy.decide(&shown(ALICE), &Request::Exec(exec))
    };
    // The administrator's link to a multi-call binary: runs as the link.
    let Decision::Allowed { within, .. } = decide("/no/bin/ls", "/no/bin/busybox", &[]) else {
        panic!("allowed")
    };
    assert_eq!(within, Within::Program("/no/bin/ls".into()));
    // The caller's link to it: runs under the binary's own name.
    let Decision::Allowed { within, .. } = decide("/tmp/sh", "/no/bin/busybox", &["ls", "x"])
    else {
        panic!("allowed")
    };
    assert_eq!(within, Within::Program("/no/bin/busybox".into()));
    // What the link is called does not count.
    denied(decide("/tmp/ls", "/tmp/evil", &[]));
    denied(decide("/no/bin/sh", "/no/bin/busybox", &["-c", "id"]));
    denied(decide("/no/bin/sh", "/no/bin/busybox", &[]));
}

#[test]
fn a7_programs_are_found_as_a_shell_finds_them() {
    use std::ffi::OsStr;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let dir = tempfile::tempdir().expect("a directory");
    let base = dir.path().canonicalize().expect("it is there");
    let (one, two) = (base.join("one"), base.join("two"));
    for dir in [&one, &two] {
        std::fs::create_dir(dir).expect("ours");
    }
    std::fs::write(two.join("tool"), "#!/bin/sh\n").expect("ours");
    std::fs::write(one.join("tool"), "not executable\n").expect("ours");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(two.join("tool"), executable).expect("ours");
    symlink(two.join("tool"), base.join("link")).expect("ours");
    symlink(&two, base.join("dirlink")).expect("ours");
    let path = std::env::join_paths([&one, &two, Path::new("relative")]).expect("a path");
    let find = |name: &str| Program::find(OsStr::new(name), &path, &one);

    assert_eq!(find("tool").expect("found").resolved(), two.join("tool"));
    let link = find(&base.join("link").display().to_string()).expect("found");
    assert_eq!(link.named(), base.join("link"));
    assert_eq!(link.resolved(), two.join("tool"));
    let linked = format!("{}/dirlink/../two/tool", base.display());
    assert_eq!(find(&linked).expect("found").named(), two.join("tool"));
    let relative = find("../two/tool").expect("from the directory");
    assert_eq!(relative.named(), two.join("tool"));
    for missing in ["", "missing", "/missing/x", "two/tool", "a\0b"] {
        assert!(
            matches!(find(missing), Err(ProgramError::NotFound)),
            "{missing:?}"
        );
    }
    for not in [one.join("tool"), two.clone()] {
        let not = not.display().to_string();
        assert!(
            matches!(find(&not), Err(ProgramError::NotExecutable(_))),
            "{not}"
        );
    }
    // Through any link, a rule for the file is a rule for it; one for another file is not.
    let rule = |path: &Path| alices(&format!("exec: {}", path.display()));
    let may = |policy: &Policy, program: &Program| {
        let exec = Exec {
            program,
            arguments: &[],
            setting: Setting::default(),
        };
        is_allowed(&policy.decide(&shown(ALICE), &Request::Exec(exec)))
    };
    assert!(may(&rule(&two.join("tool")), &link));
    assert!(may(&rule(&base.join("link")), &link));
    assert!(
        may(&rule(&base.join("dirlink/tool")), &link),
        "a linked directory of the policy"
    );
    assert!(!may(&rule(&one.join("tool")), &link));
}

#[test]
fn a7_variables_that_change_what_programs_do_are_never_taken() {
    let setting = |policy: &Policy, names: &[&str]| {
        let names = words(names);
        let setting = Setting {
            environment: &names,
            directory: None,
        };
        policy.decide(&shown(ALICE), &Request::Shell(setting))
    };
    let plain = alices("shell: true");
    let listing = alices("shell: true\n    env: ['*']");
    let one = alices("shell: true\n    env: [JOB, BUILD_*]");
    for usual in ["LANG", "LC_ALL", "TZ", "TERM"] {
        assert!(is_allowed(&setting(&plain, &[usual])), "{usual}");
    }
    for listed in ["JOB", "BUILD_ID"] {
        assert!(!is_allowed(&setting(&plain, &[listed])), "{listed}");
        assert!(is_allowed(&setting(&one, &[listed, "LANG"])), "{listed}");
        assert!(is_allowed(&setting(&listing, &[listed])), "{listed}");
    }
    assert!(!is_allowed(&setting(&one, &["JOB", "JOBS"])));
    for never in [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "LD_AUDIT",
        "PATH",
        "BASH_ENV",
        "ENV",
        "IFS",
        "PYTHONPATH",
        "PERL5OPT",
        "RUBYOPT",
        "NODE_OPTIONS",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "HOME",
        "GIT_SSH_COMMAND",
        "BASH_FUNC_ls%%",
        "FARPIPE_TOKEN",
        "",
        "A=B",
        "A\0",
        "1A",
        "A B",
        "Ä",
    ] {
        for policy in [&plain, &listing, &one] {
            let why = denied(setting(policy, &["LANG", never]));
            assert!(
                matches!(why, Denied::NeverVariable { .. }),
                "{never:?}: {why}"
            );
        }
    }
    for never in ["LD_PRELOAD", "PATH"] {
        let (what, hint) = malformed(&format!(
            "rules:\n  - who: self\n    shell: true\n    env: [A, {never}]\n"
        ));
        assert_eq!(
            what,
            format!("p.yaml:4:14: 'env': \"{never}\" cannot be used")
        );
        assert!(hint.contains("no caller may set this variable"), "{hint}");
    }
}

#[test]
fn a7_where_a_listed_program_runs_is_listed_as_well() {
    let decide = |policy: &Policy, dir: &str| {
        let program = Program::made_up("/no/make", "/no/make");
        let exec = Exec {
            program: &program,
            arguments: &[],
            setting: Setting {
                environment: &[],
                directory: Some(Path::new(dir)),
            },
        };
        is_allowed(&policy.decide(&shown(ALICE), &Request::Exec(exec)))
    };
    let plain = alices("exec: /no/make");
    let listed = alices("exec: /no/make\n    cwd: /no/src");
    let any = alices("exec: any");
    assert!(!decide(&plain, "/no/src"));
    assert!(decide(&listed, "/no/src") && decide(&listed, "/no/src/a"));
    assert!(decide(&any, "/anywhere"));
    for other in ["/no", "/no/src2", "/no/src/../x", "src"] {
        assert!(!decide(&listed, other), "{other}");
    }
}

#[test]
fn a7_a_megabyte_of_arguments_is_decided_and_not_shown() {
    let policy = alices("exec: /no/x *a*b*c*");
    let long = "ab".repeat(1 << 19);
    let why = denied(run(&policy, &shown(ALICE), "/no/x", &[&long])).to_string();
    assert!(why.len() < 300, "{why}");
    assert!(is_allowed(&run(
        &policy,
        &shown(ALICE),
        "/no/x",
        &[&format!("{long}c")]
    )));
    let many = vec!["x"; 100_000];
    assert!(!is_allowed(&run(&policy, &shown(ALICE), "/no/x", &many)));
}

#[test]
fn directories_are_compared_by_component_and_only_when_resolved() {
    let policy = alices("read: [/no/data, /no/one.txt]");
    let decide = |path: &str| policy.decide(&shown(ALICE), &Request::Read(Path::new(path)));
    let Decision::Allowed { rule, within } = decide("/no/data/a/b") else {
        panic!("allowed")
    };
    assert_eq!(rule.to_string(), "p.yaml:3:12");
    assert_eq!(within, Within::Directory("/no/data".into()));
    assert!(is_allowed(&decide("/no/data")) && is_allowed(&decide("/no/one.txt")));
    for outside in [
        "/no/data2",
        "/no/dat",
        "/no",
        "/",
        "no/data/a",
        "",
        "/no/data/../etc",
        "/no/data/a/../../x",
        "/no/data/a\0b",
        "/no/one.txt2",
    ] {
        assert!(!is_allowed(&decide(outside)), "{outside:?}");
    }
}

#[test]
fn a_target_is_where_all_links_lead_also_before_it_is_made() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().expect("a directory");
    let base = dir.path().canonicalize().expect("it is there");
    let (inside, outside) = (base.join("in"), base.join("out"));
    std::fs::create_dir(&inside).expect("ours");
    std::fs::create_dir(&outside).expect("ours");
    symlink(&outside, inside.join("way")).expect("ours");
    symlink(outside.join("later"), inside.join("dangling")).expect("ours");
    let policy = alices(&format!("write: {}", inside.display()));
    let may = |path: PathBuf| {
        target(&path)
            .is_ok_and(|path| is_allowed(&policy.decide(&shown(ALICE), &Request::Write(&path))))
    };
    assert!(may(inside.join("new")));
    assert!(!may(inside.join("way/new")));
    assert!(!may(inside.join("dangling")));
    assert!(!may(inside.join("../out/new")));
    assert!(
        !may(inside.join("missing/..")),
        "its directory is not there"
    );
    assert!(target(Path::new("in/new")).is_err());
}

#[test]
fn addresses_are_compared_as_what_they_are() {
    for (rule, asked, may) in [
        ("db:5432", "db:5432", true),
        ("db:5432", "DB.:5432", true),
        ("db:5432", "db:5433", false),
        ("db:5432", "db2:5432", false),
        ("*.corp:443", "a.corp:443", true),
        ("*.corp:443", "a.b.corp:443", true),
        ("*.corp:443", "corp:443", false),
        ("*.corp:443", "evilcorp:443", false),
        ("*:80-90", "h:90", true),
        ("*:80-90", "h:91", false),
        ("h:*", "h:1", true),
        ("127.0.0.1:1", "127.0.0.1:1", true),
        ("127.0.0.1:1", "[::ffff:127.0.0.1]:1", true),
        ("127.0.0.1:1", "localhost:1", false),
        ("localhost:1", "127.0.0.1:1", false),
        ("10.0.0.0/8:22", "10.1.2.3:22", true),
        ("10.0.0.0/8:22", "11.0.0.1:22", false),
        ("0.0.0.0/0:22", "1.2.3.4:22", true),
        ("0.0.0.0/0:22", "[::1]:22", false),
        ("[fd00::/8]:22", "[fd12::1]:22", true),
        ("[fd00::/8]:22", "[fe80::1]:22", false),
        ("[::1]:22", "[0:0::1]:22", true),
        // What a resolver takes for an address is nobody's name.
        ("*:1", "0x7f.1:1", false),
        ("*:1", "127.1:1", false),
        ("*:1", "2130706433:1", false),
        ("*:1", "a b:1", false),
    ] {
        let policy = alices(&format!("connect: '{rule}'"));
        let asked_for = address(asked);
        let decision = policy.decide(&shown(ALICE), &Request::Connect(&asked_for));
        assert_eq!(is_allowed(&decision), may, "{rule}: {asked}");
    }
    let policy = alices("listen: 8080");
    let may = |on: &str| is_allowed(&policy.decide(&shown(ALICE), &Request::Listen(&address(on))));
    assert!(may("127.0.0.1:8080") && !may("0.0.0.0:8080") && !may("127.0.0.1:8081"));
    for wrong in [
        "h",
        "h:",
        "h:x",
        "h:+1",
        "h:9-1",
        "h:1-",
        "::1:1",
        "[h]:1",
        "a*:1",
        "10.0.0.0/33:1",
        "h/8:1",
    ] {
        let (what, _) = malformed(&format!("rules:\n  - who: self\n    connect: '{wrong}'\n"));
        assert!(what.starts_with("p.yaml:3:5: 'connect'"), "{what}");
    }
}

#[test]
fn topics_are_names_or_beginnings() {
    let policy = alices("subscribe: [logs, 'app.*']");
    let may = |topic: &str| is_allowed(&policy.decide(&shown(ALICE), &Request::Subscribe(topic)));
    assert!(may("logs") && may("app.") && may("app.x"));
    assert!(!may("logs2") && !may("log") && !may("app") && !may("application"));
    malformed("rules:\n  - who: self\n    publish: 'a*b'\n");
}

#[test]
fn flags_hold_for_whoever_was_let_in_and_are_named() {
    let allow = |texts: &[&str]| {
        let allow = texts.iter().map(|text| text.parse().expect(text)).collect();
        Policy::default().and_flags(&flags(allow))
    };
    let policy = allow(&["exec", "read:/no/a", "connect:db:5432", "listen:8080"]);
    assert_eq!(
        by(&run(&policy, &shown(ALICE), "/bin/x", &["y"])),
        "--allow exec"
    );
    let read = |path: &str| policy.decide(&Caller::ThisUser, &Request::Read(Path::new(path)));
    assert_eq!(by(&read("/no/a/b")), "--allow read:/no/a");
    assert!(!is_allowed(&read("/no/b")));
    assert!(!is_allowed(
        &policy.decide(&Caller::ThisUser, &Request::Write(Path::new("/no/a")))
    ));
    let stranger = asserted(ALICE, Asserting::Another);
    assert!(matches!(
        denied(run(&policy, &stranger, "/bin/x", &[])),
        Denied::NeedsCertificate { .. }
    ));
    for by_itself in [LetInBy::Ticket, LetInBy::Certificate] {
        let unnamed = Caller::Unnamed(by_itself);
        assert_eq!(by(&run(&policy, &unnamed, "/bin/x", &[])), "--allow exec");
    }
    let all = allow(&["all"]);
    assert!(is_allowed(
        &all.decide(&shown(ALICE), &Request::Publish("t"))
    ));
    assert!(is_allowed(
        &all.decide(&shown(ALICE), &Request::Write(Path::new("/etc/x")))
    ));
    assert!(!is_allowed(&all.decide(
        &shown(ALICE),
        &Request::Write(Path::new("/srv/../etc/x"))
    )));
    for wrong in [
        "",
        "everything",
        "exec:x",
        "all:",
        "read",
        "read:a",
        "read:/a/../b",
        "write:",
        "connect:5",
        "listen:x",
        "shell",
    ] {
        assert!(wrong.parse::<Allow>().is_err(), "{wrong}");
    }
}

#[test]
fn a_file_and_flags_add_up_and_the_deciding_rule_is_named() {
    let exec = "exec".parse().expect("a flag");
    let policy = alices("exec: [/no/a, '/no/b **']").and_flags(&flags(vec![exec]));
    assert_eq!(
        by(&run(&policy, &shown(ALICE), "/no/b", &["x"])),
        "p.yaml:3:19"
    );
    assert_eq!(
        by(&run(&policy, &shown(ALICE), "/no/c", &[])),
        "--allow exec"
    );
    assert_eq!(policy.grants(), 3);
}

#[test]
fn a6_what_is_wrong_with_a_policy_is_told_with_line_and_column() {
    for (text, at, what, hint) in [
        ("rules: 5\n", ":1:1", "'rules' is a list", "- who: anyone"),
        (
            "rule: []\n",
            ":1:1",
            "unknown key 'rule'",
            "known here: trust_relay, rules",
        ),
        (
            "rules:\n  - x\n",
            ":2:5",
            "a rule has keys",
            "- who: anyone",
        ),
        (
            "rules:\n  - read: /a\n",
            ":2:5",
            "the rule does not say who it is for",
            "self or anyone",
        ),
        (
            "rules:\n  - who: []\n    read: /a\n",
            ":2:5",
            "the rule does not say who it is for",
            "self or anyone",
        ),
        (
            "rules:\n  - who: self\n    raed: /a\n",
            ":3:5",
            "unknown key 'raed'",
            "who, exec",
        ),
        (
            "rules:\n  - who: self\n    read: a\n",
            ":3:5",
            "'read': \"a\" cannot be used",
            "absolute path",
        ),
        (
            "rules:\n  - who: self\n    read: [/a, /b/../c]\n",
            ":3:16",
            "'read': \"/b/../c\" cannot be used",
            "absolute path",
        ),
        (
            "rules:\n  - who: self\n    read:\n",
            ":3:5",
            "'read' takes a value, or a list of values",
            "read: VALUE",
        ),
        (
            "rules:\n  - who: self\n    exec: ls\n",
            ":3:5",
            "'exec': \"ls\" cannot be used",
            "absolute path",
        ),
        (
            "rules:\n  - who: self\n    exec: /bin/*\n",
            ":3:5",
            "'exec': \"/bin/*\" cannot be used",
            "one file",
        ),
        (
            "rules:\n  - who: self\n    exec: /bin/x ** y\n",
            ":3:5",
            "'exec': \"/bin/x ** y\" cannot be used",
            "comes last",
        ),
        (
            "rules:\n  - who: self\n    exec: [[/bin/x]]\n",
            ":3:12",
            "'exec' is a list of plain values",
            "in each item",
        ),
        (
            "rules:\n  - who: self\n    shell: yes\n",
            ":3:5",
            "'shell' is a switch",
            "true or false",
        ),
        (
            "trust_relay: 1\n",
            ":1:1",
            "'trust_relay' is a switch",
            "true or false",
        ),
        (
            "trust_relay: true\ntrust_relay: false\n",
            ":2:1",
            "'trust_relay' is there twice",
            "yaml.org",
        ),
        (
            "trust_relay: true",
            "",
            "the last line has no end: is the file still being written?",
            "newline",
        ),
    ] {
        let (said, advice) = malformed(text);
        assert_eq!(said, format!("p.yaml{at}: {what}"), "{text}");
        assert!(advice.contains(hint), "{text}: {advice}");
    }
}
