//! Good files, bad files, and what is said of them.

use std::io::Write as _;

use clap::{Args as _, CommandFactory as _, Parser, Subcommand};

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Listen(Listen),
    Connect(Connect),
}

#[derive(Debug, clap::Args)]
struct Listen {
    url: String,
    endpoint: Option<String>,
    #[arg(long)]
    keep: bool,
    #[arg(long, default_value = "7")]
    resume_for: u32,
    #[arg(long)]
    cert: Option<String>,
    #[arg(long, value_parser = ["auto", "none"])]
    progress: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Connect {
    url: String,
    #[arg(long, default_value = "7")]
    resume_for: u32,
    #[arg(long)]
    pin: Vec<String>,
}

fn written(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn parse(text: &str, args: &[&str]) -> Verb {
    use clap::FromArgMatches as _;
    let file = written(text);
    let args = std::iter::once("farpipe").chain(args.iter().copied());
    let args: Vec<OsString> = args.map(Into::into).collect();
    let typed = Typed::of(&Cli::command(), &args);
    let (command, _) = apply(Cli::command(), file.path(), &typed).expect("a good file");
    let matches = command.try_get_matches_from(args).expect("a good line");
    Cli::from_arg_matches(&matches).expect("parsed").verb
}

#[track_caller]
fn fails(text: &str, at: &str, what: &str, hint: &str) {
    let file = written(text);
    let error = apply(Cli::command(), file.path(), &Typed::default()).expect_err("a bad file");
    let said = error.to_string();
    let name = file.path().display().to_string();
    assert_eq!(said, format!("{name}{at}: {what}"));
    assert!(error.hint.contains(hint), "{}", error.hint);
}

#[test]
fn flags_beat_the_file_and_the_file_beats_defaults() {
    let text = "resume_for: 20\nlisten:\n  url: ws://127.0.0.1:1\n  keep: true\n";
    let Verb::Listen(listen) = parse(text, &["listen"]) else {
        panic!("listen")
    };
    assert_eq!((listen.resume_for, listen.keep), (20, true));
    assert_eq!(listen.url, "ws://127.0.0.1:1");
    let Verb::Listen(listen) = parse(text, &["listen", "ws://h:2", "--resume-for", "30"]) else {
        panic!("listen")
    };
    assert_eq!((listen.resume_for, listen.url.as_str()), (30, "ws://h:2"));
    let Verb::Connect(connect) = parse(text, &["connect", "ws://h:2"]) else {
        panic!("connect")
    };
    assert_eq!(connect.resume_for, 20, "common settings hold for all verbs");
}

#[test]
fn what_is_typed_has_the_place_it_has_without_a_file() {
    let text = "listen:\n  url: ws://127.0.0.1:1\n";
    let Verb::Listen(listen) = parse(text, &["listen", "ws://h:2", "exec:cat"]) else {
        panic!("listen")
    };
    assert_eq!(
        (listen.url.as_str(), listen.endpoint.as_deref()),
        ("ws://h:2", Some("exec:cat"))
    );
}

#[test]
fn what_stands_below_the_verb_wins_and_lists_repeat_a_flag() {
    let text = "resume-for: 20\nconnect:\n  resume_for: 5\n  pin:\n  - a\n  - b\n";
    let Verb::Connect(connect) = parse(text, &["connect", "u"]) else {
        panic!("connect")
    };
    assert_eq!((connect.resume_for, connect.pin.len()), (5, 2));
}

#[test]
fn the_tls_mapping_stands_for_flags() {
    let text = "tls:\n  cert_file: a.pem\n";
    let Verb::Listen(listen) = parse(text, &["listen", "u"]) else {
        panic!("listen")
    };
    assert_eq!(listen.cert.as_deref(), Some("a.pem"));
}

#[test]
fn an_empty_file_says_nothing() {
    for text in ["", "# only words\n", "---\n"] {
        parse(text, &["connect", "u"]);
    }
}

#[test]
fn errors_say_where_and_what_to_write() {
    fails(
        "resume_fro: 5\n",
        ":1:1",
        "unknown key 'resume_fro'",
        "did you mean 'resume_for'?",
    );
    fails(
        "listen:\n  pin: x\n",
        ":2:3",
        "unknown key 'pin'",
        "known here: cert, endpoint, keep",
    );
    fails(
        "\nresume_for: soon\n",
        ":2:1",
        "'resume_for': \"soon\" cannot be used: invalid digit found in string",
        "--help",
    );
    fails(
        "listen:\n  progress: loud\n",
        ":2:3",
        "'progress': \"loud\" cannot be used: not one of its values",
        "auto, none",
    );
    fails(
        "listen:\n  keep: yes please\n",
        ":2:3",
        "'keep': \"yes please\" cannot be used: it is a switch",
        "true or false",
    );
    fails(
        "listen: 5\n",
        ":1:1",
        "'listen' is a verb; its settings go below it",
        "listen:",
    );
    fails(
        "tls:\n  cert: x\n",
        ":2:3",
        "unknown key 'cert'",
        "cert_file",
    );
    fails(
        "ticket: fp\n",
        ":1:1",
        "'ticket': secrets do not belong into this file",
        "FARPIPE_TICKET",
    );
    fails(
        "listen:\n  url: [a, b]\n",
        ":2:3",
        "'url' takes one value, not a list",
        "url: VALUE",
    );
    fails("config: x\n", ":1:1", "unknown key 'config'", "known here");
}

#[test]
fn malformed_yaml_is_shown_where_it_is() {
    for (text, at) in [("a: [1\n", ":2:1"), ("keep: true\nkeep: false\n", ":2:1")] {
        let file = written(text);
        let said = apply(Cli::command(), file.path(), &Typed::default())
            .expect_err("bad")
            .to_string();
        assert!(said.contains(at), "{said}");
    }
    let missing = Path::new("/nonexistent/farpipe.yaml");
    let said = apply(Cli::command(), missing, &Typed::default())
        .expect_err("none")
        .to_string();
    assert!(
        said.starts_with("/nonexistent/farpipe.yaml: cannot be read"),
        "{said}"
    );
}

#[test]
fn the_file_is_found_before_the_rest_is_parsed() {
    let command = Listen::augment_args(Command::new("farpipe")).arg(
        Arg::new("config")
            .long("config")
            .value_parser(clap::value_parser!(std::path::PathBuf)),
    );
    let args = ["farpipe", "--config", "x.yaml", "--no-such-flag"].map(OsString::from);
    assert_eq!(Typed::of(&command, &args).file, Some("x.yaml".into()));
    assert_eq!(Typed::of(&command, &["farpipe".into()]).file, None);
}
