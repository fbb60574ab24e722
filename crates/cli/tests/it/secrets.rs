//! What is typed as a secret into a URL is shown nowhere: not in errors, logs, events, nor to the
//! other side. One rule hides it; each place that shows a URL is a row here.

use crate::support::net::silent_port;
use crate::support::{Ended, Host};

/// It stands in each URL here.
const SECRET: &str = "hunter2";

#[track_caller]
fn hidden(ended: &Ended, shown: &str) {
    let stdout = String::from_utf8_lossy(&ended.stdout);
    for text in [&ended.stderr, &*stdout] {
        assert!(!text.contains(SECRET), "{text}");
    }
    assert!(ended.stderr.contains(shown), "{}", ended.stderr);
}

#[test]
fn a8_no_error_and_no_log_shows_a_secret_of_a_url() {
    let host = Host::new();
    let (nobody, _guard) = silent_port();
    let port = nobody.port();
    let token = |scheme: &str| format!("{scheme}://{nobody}/p?access_token={SECRET}&room=5");
    let user = |scheme: &str| format!("{scheme}://u:{SECRET}@{nobody}/p");
    let shown_token = format!("://127.0.0.1:{port}/p?access_token=***&room=5");
    let shown_user = format!("://***@127.0.0.1:{port}/p");
    let ws = |url: String| format!("ws:{url}");
    let cases: Vec<(u8, Vec<String>, &str)> = vec![
        (
            2,
            vec!["pipe".into(), ws(user("ws")), "-".into()],
            &shown_user,
        ),
        (
            125,
            vec!["pipe".into(), ws(token("ws")), "-".into()],
            &shown_token,
        ),
        (2, vec!["connect".into(), user("ws")], &shown_user),
        (2, vec!["listen".into(), user("wss")], &shown_user),
        (2, vec!["doctor".into(), user("wss")], &shown_user),
        (125, vec!["connect".into(), token("ws")], &shown_token),
        (125, vec!["doctor".into(), token("ws")], &shown_token),
        (
            125,
            vec!["bench".into(), "link".into(), token("ws")],
            &shown_token,
        ),
        (
            2,
            vec!["pipe".into(), format!("ws:u:{SECRET}@h"), "-".into()],
            "***@h",
        ),
        (
            2,
            vec!["pipe".into(), format!("tcp:u:{SECRET}@h:x"), "-".into()],
            "***@h:x",
        ),
        (
            2,
            vec!["connect".into(), format!("http://u:{SECRET}@h")],
            "http://***@h",
        ),
        (
            2,
            vec![
                "connect".into(),
                "wss://h.example:1".into(),
                "--http-proxy".into(),
                format!("http://u:{SECRET}@p:1"),
            ],
            "a password does not belong into an argument",
        ),
        // What the parser of arguments quotes.
        (
            2,
            vec![
                "connect".into(),
                "ws://h:1".into(),
                "--heartbeat".into(),
                user("ws"),
            ],
            &shown_user,
        ),
        (
            2,
            vec!["connect".into(), "ws://h:1".into(), "-".into(), user("ws")],
            &shown_user,
        ),
    ];
    for (status, args, shown) in cases {
        for verbose in [None, Some("-v"), Some("-vvv")] {
            let invocation = host.farpipe(verbose.into_iter().chain(args.iter().map(|a| &**a)));
            hidden(&invocation.input("").run().exits(status.into()), shown);
        }
    }
}

#[test]
fn a8_a_proxys_password_from_the_environment_is_in_no_log() {
    let host = Host::new();
    host.usual_certificates();
    let (nobody, _guard) = silent_port();
    for url in [
        format!("http://u:{SECRET}@{nobody}"),
        format!("socks5h://u:{SECRET}@{nobody}"),
    ] {
        let connect = host.farpipe(["-vvv", "connect", "wss://h.example:1"]);
        let connect = connect.args(crate::support::pki::shows("client"));
        let ended = connect.env("HTTPS_PROXY", url).run().exits(125);
        hidden(&ended, "the proxy ");
    }
}

#[test]
fn a8_events_and_the_other_side_hear_nothing_of_it() {
    let host = Host::new();
    let (nobody, _guard) = silent_port();
    // The listener's endpoint fails, and says so to whoever connects.
    let to = format!("ws:ws://{nobody}/?token={SECRET}");
    let url = format!("ws://127.0.0.1:0/p?token={SECRET}");
    let listen = host.shell(&format!(
        "exec \"$FARPIPE\" -vvv listen '{url}' '{to}' --status-fd 3 3>events --progress json"
    ));
    let listening = listen.start();
    let told =
        listening.stderr_until(|text| text.contains("listening on ") && text.ends_with('\n'));
    let port = told.split("127.0.0.1:").nth(1).expect("an address");
    let port = port.split('/').next().expect("a port").to_owned();
    let dial = format!("ws://127.0.0.1:{port}/p?token={SECRET}");
    let connect = host.shell(&format!(
        "exec \"$FARPIPE\" -vvv connect '{dial}' --status-fd 3 3>seen --progress json"
    ));
    let connected = connect.input("").run();
    hidden(&connected, "token=***");
    let listened = listening.end();
    hidden(&listened, "token=***");
    for file in ["events", "seen"] {
        let events = String::from_utf8(host.content(file)).expect("JSON");
        assert!(!events.contains(SECRET), "{events}");
        assert!(events.contains("token=***"), "{events}");
    }
}

#[test]
fn a8_a_configuration_that_cannot_be_used_is_told_without_its_secrets() {
    let host = Host::new();
    host.file("c.yaml", format!("heartbeat: http://h/?token={SECRET}\n"));
    hidden(
        &host.farpipe(["config", "check", "c.yaml"]).run().exits(2),
        "c.yaml:1:1: 'heartbeat': \"http://h/?token=***\" cannot be used",
    );
}

/// The line that is to be run on the other host works as it is printed.
#[test]
fn what_is_to_be_typed_at_the_other_end_is_whole() {
    let host = Host::new();
    let listen = host.farpipe(["listen", "wss://127.0.0.1:0/p?token=hunter2"]);
    let listening = listen.start();
    listening.stderr_until(|text| text.contains("/p?token=hunter2'\n"));
    listening.signal(rustix::process::Signal::TERM);
    listening.end();
}
