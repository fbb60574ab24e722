//! Wrong command lines and things that are not there: what is said, and with which status.

use crate::support::{Host, assert_text};

/// The command line `args` fails with `status` and says `expected`.
#[track_caller]
fn fails(args: &[&str], status: i32, expected: &str) {
    let host = Host::new();
    host.farpipe(args)
        .run()
        .exits(status)
        .printed("")
        .says(expected);
}

/// A help that lists what is refused sends people the wrong way.
#[test]
fn helps_list_the_endpoints_that_their_verb_takes() {
    let host = Host::new();
    for (verb, listens) in [("listen", false), ("connect", true), ("pipe", true)] {
        let help = host.farpipe([verb, "--help"]).run().exits(0).stdout;
        let help = String::from_utf8(help).expect("text");
        assert!(help.contains("ws:URL"), "{help}");
        assert_eq!(help.contains("tcp-listen:[HOST:]PORT"), listens, "{help}");
    }
    let help = host.farpipe(["bench", "link", "--help"]).run().exits(0);
    let help = String::from_utf8(help.stdout).expect("text");
    assert!(!help.contains("ticket"), "{help}");
}

#[test]
fn urls_that_are_none() {
    const HINT: &str = "hint: for example ws://127.0.0.1:7000";
    let cases = [
        (
            "127.0.0.1:7000",
            "not a URL; write wss://HOST:PORT or ws://HOST:PORT",
        ),
        (
            "http://127.0.0.1:7000",
            "unknown scheme; use wss:// or fps://, or ws:// or fp:// on loopback",
        ),
        ("ws://127.0.0.1", "no port; write HOST:PORT"),
        ("ws://:7000", "no host; write HOST:PORT"),
        (
            "ws://127.0.0.1:70000",
            "the port is no number from 0 to 65535",
        ),
        (
            "ws://127.0.0.1:http",
            "the port is no number from 0 to 65535",
        ),
        (
            "ws://::1:7000",
            "write an IPv6 address in brackets: [ADDRESS]:PORT",
        ),
        ("ws://[::1]", "no port; write [ADDRESS]:PORT"),
        ("ws://[x]:1", "no IPv6 address between the brackets"),
        ("ws://***@127.0.0.1:1", "no user or password in a URL"),
        (
            "ws://127.0.0.1:1/a b",
            "the path has characters that must be %-escaped",
        ),
        ("fp://127.0.0.1:1/path", "fp:// and fps:// have no path"),
        ("fps://127.0.0.1:1/path", "fp:// and fps:// have no path"),
    ];
    for verb in ["connect", "listen"] {
        for (url, what) in cases {
            let host = Host::new();
            let ended = host.farpipe([verb, url]).run().exits(2).printed("");
            assert_text(&ended.stderr, &format!("farpipe: {url}: {what}\n{HINT}"));
        }
    }
}

#[test]
fn addresses_of_other_hosts_are_refused_without_tls() {
    let host = Host::new();
    let ended = host
        .farpipe(["connect", "ws://192.0.2.1:7000"])
        .run()
        .exits(125);
    assert_text(
        &ended.stderr,
        "farpipe: ws://192.0.2.1:7000: 192.0.2.1 is not on this host; without TLS only loopback is \
         allowed",
    );
    for address in ["0.0.0.0", "192.0.2.1", "[::]"] {
        let url = format!("fp://{address}:0");
        let ended = host.farpipe(["listen", &url]).run().exits(125);
        assert_text(
            &ended.stderr,
            &format!(
                "farpipe: cannot listen on {url}: without TLS only loopback addresses are allowed"
            ),
        );
    }
}

#[test]
fn a_name_that_does_not_exist() {
    let host = Host::new();
    let ended = host
        .farpipe(["connect", "ws://name.invalid:7000"])
        .run()
        .exits(125);
    let begin = "farpipe: ws://name.invalid:7000: the name name.invalid cannot be resolved: ";
    assert!(ended.stderr.starts_with(begin), "{}", ended.stderr);
}

#[test]
fn a_port_in_use() {
    let host = Host::new();
    let listener = host.listen("ws").start_listening();
    let url = format!("fp://{}", listener.addr());
    host.farpipe(["listen", &url]).run().exits(125).says(&format!(
        "farpipe: cannot listen on fp://127.0.0.1:PORT: another process listens on port {}; choose \
         another, or 0 for any",
        listener.addr().port()
    ));
    host.connect(listener.url()).run().exits(0);
    listener.end().exits(0);
}

const KNOWN: &str = "-, PATH, exec:CMD, sh:CMD, tcp:HOST:PORT, tcp-listen:[HOST:]PORT, unix:PATH, \
                     unix-listen:PATH, ws:URL and ws-listen:[HOST:]PORT[/PATH]";

/// Every verb says the same about the same endpoint, before anything is dialled or bound.
#[test]
fn endpoints_that_are_none() {
    let cases: [(&str, &str); 7] = [
        ("", &format!("empty endpoint: use {KNOWN}")),
        ("exec:", "'exec:' needs a command: exec:CMD"),
        ("sh: ", "'sh:' needs a command: sh:CMD"),
        (
            "exec:echo 'a",
            "unbalanced quotes in 'exec:echo 'a': a quote is not closed, or \\ ends the command",
        ),
        ("tcp:localhost", "'tcp:localhost': no port; write HOST:PORT"),
        (
            "kafka:topic",
            &format!("'kafka:' is not supported yet; known are {KNOWN}"),
        ),
        (
            "foo:bar",
            &format!(
                "unknown kind 'foo:': known are {KNOWN}; for a file of that name write ./foo:…"
            ),
        ),
    ];
    for (endpoint, what) in cases {
        for verb in ["connect", "listen"] {
            let expected = format!("farpipe: {what}\nhint: see `farpipe --help`");
            fails(&[verb, "ws://127.0.0.1:0", endpoint], 2, &expected);
        }
        // There a first word that is no kind is a host.
        let expected = match endpoint {
            "foo:bar" => format!(
                "farpipe: 'foo:' is no kind of endpoint, and no relay was named that may know a host \
                 foo\nhint: kinds are {KNOWN}; a host needs --relay wss://HOST:PORT; for a file of \
                 that name write ./foo:…"
            ),
            _ => format!("farpipe: {what}\nhint: see `farpipe pipe --help`"),
        };
        fails(&["pipe", "-", endpoint], 2, &expected);
    }
}

#[test]
fn a_path_needs_a_direction_between_hosts() {
    for verb in ["connect", "listen"] {
        fails(
            &[verb, "ws://127.0.0.1:0", "data.bin"],
            2,
            "farpipe: 'data.bin' could be read or written
             hint: say which: --send reads it, --recv writes it",
        );
    }
}

#[test]
fn keep_needs_an_endpoint_for_each_session() {
    for args in [
        ["listen", "ws://127.0.0.1:0", "--keep"].as_slice(),
        &["listen", "ws://127.0.0.1:0", "--keep", "-"],
    ] {
        fails(
            args,
            2,
            "farpipe: --keep needs an endpoint that each session can have for itself
             hint: use exec:CMD, sh:CMD or a PATH instead of -",
        );
    }
}

#[test]
fn times_that_cannot_work() {
    let cases = [
        ("--heartbeat=99ms", "from 100ms to 1h; the default is 10s"),
        (
            "--heartbeat=18446744073709549568",
            "from 100ms to 1h; the default is 10s",
        ),
        (
            "--heartbeat=soon",
            "write a number and a unit: 500ms, 30s, 10m, 2h",
        ),
        (
            "--heartbeat=5 parsecs",
            "write a number and a unit: 500ms, 30s, 10m, 2h",
        ),
        ("--resume-for=1y", "the unit is ms, s, m, h or d"),
        ("--resume-for=-1s", "less than nothing"),
        (
            "--resume-for=inf",
            "write a number and a unit: 500ms, 30s, 10m, 2h",
        ),
        (
            "--resume-for=nan",
            "write a number and a unit: 500ms, 30s, 10m, 2h",
        ),
        ("--resume-for=1e300h", "out of range"),
        (
            "--resume-for=",
            "write a number and a unit: 500ms, 30s, 10m, 2h",
        ),
    ];
    for (flag, what) in cases {
        for verb in ["connect", "listen"] {
            let host = Host::new();
            let ended = host
                .farpipe([verb, "ws://127.0.0.1:0", flag])
                .run()
                .exits(2)
                .printed("");
            assert!(ended.stderr.contains(what), "{flag}: {}", ended.stderr);
        }
    }
}

#[test]
fn files_that_cannot_be_opened() {
    let host = Host::new();
    let listener = host.listen("ws").start_listening();
    let connect = |args: [&str; 2]| host.connect(listener.url()).args(args).run().exits(125);
    connect(["--send", "missing"])
        .says("farpipe: cannot open 'missing' for reading: no such file or directory");
    connect(["--recv", "no/such/directory"])
        .says("farpipe: cannot open 'no/such/directory' for writing: no such file or directory");
    connect(["--send", "."]).says(
        "farpipe: cannot open '.' for reading: it is a directory
         hint: pack it: sh:'tar c DIR'",
    );
    connect(["--recv", "."]).says(
        "farpipe: cannot open '.' for writing: it is a directory
         hint: pack it: sh:'tar c DIR'",
    );
    // None of them reached the listener.
    host.connect(listener.url()).input("fine").run().exits(0);
    listener.end().exits(0).printed("fine");
}

#[test]
fn a_file_missing_at_the_listener_is_noticed_before_anybody_connects() {
    fails(
        &["listen", "ws://127.0.0.1:0", "--send", "missing"],
        125,
        "farpipe: cannot open 'missing' for reading: no such file or directory",
    );
}

#[test]
fn a_file_the_listener_cannot_write_is_125_at_both_ends() {
    let host = Host::new();
    let listener = host
        .listen("ws")
        .args(["--recv", "no/such/directory"])
        .start_listening();
    host.connect(listener.url()).input("data").run().exits(125).says(
        "farpipe: the far end refused: cannot open 'no/such/directory' for writing: no such file \
         or directory",
    );
    listener.end().exits(125).says(
        "listening on ws://127.0.0.1:PORT
         farpipe: cannot open 'no/such/directory' for writing: no such file or directory",
    );
}

#[test]
fn a_status_descriptor_that_is_not_open() {
    let host = Host::new();
    for verb in ["connect", "listen"] {
        let ended = host
            .farpipe([verb, "ws://127.0.0.1:0", "--status-fd", "77"])
            .run()
            .exits(2);
        ended.printed("").says(
            "farpipe: --status-fd 77: cannot write to it: No such file or directory (os error 2)
             hint: open it in the shell: farpipe … --status-fd 77 77>FILE",
        );
    }
    host.farpipe(["connect", "ws://127.0.0.1:1", "--status-fd", "1"])
        .run()
        .exits(2)
        .printed("")
        .says(
            "farpipe: --status-fd 1: stdout carries the data of the endpoint
             hint: use another one: farpipe … --status-fd 3 3>FILE",
        );
    let ended = host
        .farpipe(["connect", "ws://127.0.0.1:1", "--status-fd", "x"])
        .run()
        .exits(2);
    assert!(
        ended.stderr.contains("invalid value 'x' for '--status-fd"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_runtime_directory_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let host = Host::new();
    host.secret();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(host.path("farpipe"), open).expect("our own directory");
    host.listen("ws").run().exits(125).says(
        "farpipe: the loopback secret TMP/farpipe/secret: its directory must be a real directory \
         of yours with mode 0700",
    );
}

#[test]
fn no_verb_or_an_unknown_one() {
    let host = Host::new();
    host.farpipe([""; 0]).run().exits(2).printed("");
    let ended = host.farpipe(["lisen"]).run().exits(2).printed("");
    assert!(
        ended.stderr.contains("'listen'"),
        "no suggestion: {}",
        ended.stderr
    );
}

#[test]
fn help_goes_to_stdout_and_names_the_exit_statuses() {
    let host = Host::new();
    let ended = host.farpipe(["--help"]).run().exits(0);
    assert_eq!(ended.stderr, "");
    let help = String::from_utf8(ended.stdout).expect("text");
    for word in ["listen", "connect", "pipe", "141", "125", "126", "127"] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
}

#[test]
fn the_version_is_that_of_farpipe() {
    let host = Host::new();
    let expected = concat!("farpipe ", env!("CARGO_PKG_VERSION"), "\n");
    host.farpipe(["--version"])
        .run()
        .exits(0)
        .printed(expected)
        .says("");
}
