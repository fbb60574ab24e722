//! What holds for every policy and every request.

use proptest::prelude::*;

use super::*;

const SAMPLE: &str = "\
# Who may do what here.
trust_relay: true
rules:
  - who: farpipe://example.org/client/alice
    exec:
      - /no/git log **
      - /no/tool a*b
    env: [BUILD_ID, X_*]
    cwd: /no/src
    read:
      - /no/data/public
  - who: [anyone, self]
    write: /no/data/inbox
    connect: ['db:5432', '10.0.0.0/8:1-1024']
    listen: 8080
    subscribe: ['logs.*']
";

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(1024)
    }
}

fn callers() -> impl Strategy<Value = Caller> {
    prop_oneof![
        Just(Caller::ThisUser),
        Just(shown(ALICE)),
        Just(direct("farpipe://example.org/client/bob")),
        Just(asserted(ALICE, Asserting::Another)),
        Just(asserted(ALICE, Asserting::ThisUser)),
    ]
}

/// A request of its own data.
#[derive(Debug, Clone)]
enum Asked {
    Exec(String, Vec<String>, Vec<String>, Option<String>),
    Shell,
    Read(String),
    Write(String),
    Connect(String, u16),
    Listen(String, u16),
    Publish(String),
    Subscribe(String),
}

fn requests() -> impl Strategy<Value = Asked> {
    let path = || {
        prop_oneof![
            "/no/(data|src|x)(/(public|inbox|[.]{1,3}|[a-z*])){0,3}",
            any::<String>(),
        ]
    };
    let word = || prop_oneof!["(log|a[a-z.]{0,3}b|--x|[.]{2}/x)", any::<String>()];
    let host = || {
        prop_oneof![
            "(db|10[.]1[.]2[.]3|127[.]0[.]0[.]1|[a-z]{1,3})",
            any::<String>()
        ]
    };
    let port = || prop_oneof![Just(5432), Just(8080), any::<u16>()];
    let topic = || prop_oneof!["logs[.a-z]{0,3}", any::<String>()];
    let names = prop::collection::vec(
        prop_oneof!["(LANG|BUILD_ID|X_A|LD_PRELOAD)", any::<String>()],
        0..3,
    );
    let program = prop_oneof![
        Just("/no/git".to_owned()),
        Just("/no/tool".to_owned()),
        path()
    ];
    prop_oneof![
        (
            program,
            prop::collection::vec(word(), 0..3),
            names,
            prop::option::of(path())
        )
            .prop_map(|(program, args, env, dir)| Asked::Exec(program, args, env, dir)),
        Just(Asked::Shell),
        path().prop_map(Asked::Read),
        path().prop_map(Asked::Write),
        (host(), port()).prop_map(|(host, port)| Asked::Connect(host, port)),
        (host(), port()).prop_map(|(host, port)| Asked::Listen(host, port)),
        topic().prop_map(Asked::Publish),
        topic().prop_map(Asked::Subscribe),
    ]
}

fn decide(policy: &Policy, caller: &Caller, asked: &Asked) -> Decision {
    let there = |host: &str, port: u16| HostPort {
        host: host.to_owned(),
        port,
    };
    match asked {
        Asked::Exec(program, arguments, environment, directory) => {
            let program = Program::made_up(program, program);
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            let environment: Vec<OsString> = environment.iter().map(OsString::from).collect();
            let exec = Exec {
                program: &program,
                arguments: &arguments,
                setting: Setting {
                    environment: &environment,
                    directory: directory.as_deref().map(Path::new),
                },
            };
            policy.decide(caller, &Request::Exec(exec))
        }
        Asked::Shell => policy.decide(caller, &Request::Shell(Setting::default())),
        Asked::Read(path) => policy.decide(caller, &Request::Read(Path::new(path))),
        Asked::Write(path) => policy.decide(caller, &Request::Write(Path::new(path))),
        Asked::Connect(host, port) => policy.decide(caller, &Request::Connect(&there(host, *port))),
        Asked::Listen(host, port) => policy.decide(caller, &Request::Listen(&there(host, *port))),
        Asked::Publish(topic) => policy.decide(caller, &Request::Publish(topic)),
        Asked::Subscribe(topic) => policy.decide(caller, &Request::Subscribe(topic)),
    }
}

proptest! {
    #![proptest_config(config())]

    /// Row A6: a file that was cut off anywhere is refused, or allows no more than the whole.
    #[test]
    fn a6_half_a_policy_allows_no_more_than_the_whole(
        cut in 0..=SAMPLE.len(),
        caller in callers(),
        asked in prop::collection::vec(requests(), 1..20),
    ) {
        let whole = policy(SAMPLE);
        let half = SAMPLE.as_bytes()[..cut].to_vec();
        if let Ok(half) = Policy::parse(Path::new("p.yaml"), half) {
            for asked in &asked {
                let of_half = is_allowed(&decide(&half, &caller, asked));
                prop_assert!(!of_half || is_allowed(&decide(&whole, &caller, asked)), "{:?}", asked);
            }
        }
    }

    /// Nothing that is written into a policy makes it panic, and what is refused says where.
    #[test]
    fn a6_a_mangled_policy_is_refused_or_read_and_never_panics(
        at in 0..SAMPLE.len(),
        len in 0..20usize,
        with in any::<String>(),
        caller in callers(),
        asked in requests(),
    ) {
        let end = (at + len).min(SAMPLE.len());
        let text = [&SAMPLE.as_bytes()[..at], with.as_bytes(), &SAMPLE.as_bytes()[end..]].concat();
        match Policy::parse(Path::new("p.yaml"), text) {
            Ok(policy) => drop(decide(&policy, &caller, &asked)),
            Err(error) => prop_assert!(error.to_string().starts_with("p.yaml")),
        }
    }

    /// Row A7: whatever is allowed is within what the rules name, however it was asked for.
    #[test]
    fn a7_whatever_is_allowed_lies_within_the_rules(caller in callers(), asked in requests()) {
        let sample = policy(SAMPLE);
        let decision = decide(&sample, &caller, &asked);
        if let Decision::Allowed { within, .. } = &decision {
            let alice = caller.identity().is_some_and(|who| who.to_string() == ALICE);
            match asked {
                Asked::Exec(program, arguments, environment, directory) => {
                    prop_assert!(alice);
                    prop_assert_eq!(within, &Within::Program(program.clone().into()));
                    match program.as_str() {
                        "/no/git" => prop_assert_eq!(&arguments[0], "log"),
                        "/no/tool" => {
                            prop_assert_eq!(arguments.len(), 1);
                            prop_assert!(arguments[0].starts_with('a') && arguments[0].ends_with('b'));
                        }
                        other => prop_assert!(false, "{}", other),
                    }
                    prop_assert!(environment.iter().all(|name| !name.starts_with("LD_")));
                    if let Some(dir) = directory {
                        let is_in = Path::new(&dir).starts_with("/no/src");
                        prop_assert!(is_in && !dir.split('/').any(|part| part == ".."));
                    }
                }
                Asked::Read(path) => {
                    prop_assert!(alice && Path::new(&path).starts_with("/no/data/public"));
                    prop_assert!(!path.split('/').any(|part| part == ".."));
                }
                Asked::Write(path) => {
                    prop_assert!(Path::new(&path).starts_with("/no/data/inbox"));
                    prop_assert!(!path.split('/').any(|part| part == ".."));
                }
                Asked::Connect(host, port) => {
                    prop_assert!((host.as_str(), port) == ("db", 5432) || host.starts_with("10."));
                }
                Asked::Listen(host, port) => {
                    prop_assert!(port == 8080 && host.ends_with("127.0.0.1"));
                }
                Asked::Subscribe(topic) => prop_assert!(topic.starts_with("logs.")),
                Asked::Shell | Asked::Publish(_) => prop_assert!(false, "no rule has it"),
            }
        }
    }

    /// A word of a rule fits what a backtracking matcher says it fits.
    #[test]
    fn a_pattern_fits_what_it_says(pattern in "[ab*]{0,6}", argument in "[ab]{0,8}") {
        fn fits(pattern: &[u8], text: &[u8]) -> bool {
            match pattern.split_first() {
                None => text.is_empty(),
                Some((b'*', rest)) => (0..=text.len()).any(|at| fits(rest, &text[at..])),
                Some((byte, rest)) => text.first() == Some(byte) && fits(rest, &text[1..]),
            }
        }
        prop_assume!(pattern != "**");
        let policy = alices(&format!("exec: \"/no/x '{pattern}'\""));
        let decision = run(&policy, &shown(ALICE), "/no/x", &[&argument]);
        prop_assert_eq!(is_allowed(&decision), fits(pattern.as_bytes(), argument.as_bytes()));
    }
}
