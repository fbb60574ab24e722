//! `farpipe bench link`: what it prints has the promised shape, and comes from where it says. No time
//! is asserted.

use farpipe_faultproxy::{Cut, Dir, Plan, When};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::figures::{assert_spread, json};
use crate::support::pki::shows;
use crate::support::proxy::Proxy;
use crate::support::{Ended, Faults, Host, Invocation, Listener};

/// Little of all, for a test.
const LITTLE: [&str; 6] = ["--setups", "3", "--echoes", "20", "--size", "1MiB"];

fn bench(host: &Host, url: &str) -> Invocation {
    host.farpipe(["bench", "link", url]).args(LITTLE)
}

fn end(listener: Listener) -> Ended {
    listener.signal(Signal::TERM);
    listener.end().exits(143)
}

#[test]
fn link_has_every_figure_and_resumes_tls_where_it_says_so() {
    for scheme in ["ws", "fp", "wss", "fps"] {
        let host = Host::new();
        host.usual_certificates();
        let has_tls = scheme.ends_with('s') && scheme != "ws";
        let flags = |name| {
            if has_tls {
                shows(name).to_vec()
            } else {
                Vec::new()
            }
        };
        let url = format!("{scheme}://127.0.0.1:0");
        let far = format!("exec:{} bench far", env!("CARGO_BIN_EXE_farpipe"));
        let listener = host.farpipe(["-v", "listen", "--keep", &url, &far]);
        let listener = listener.args(flags("server")).start_listening();
        let measured = bench(&host, listener.url())
            .args(flags("client"))
            .arg("--json");
        let measured = measured.run().exits(0);
        let figures = json(&measured);
        assert_eq!(figures["bench"], "link");
        assert_eq!(figures["url"], listener.url());
        for what in ["session", "first_byte"] {
            assert_spread(&figures["set_up"]["cold"][what], 3);
            match has_tls {
                true => assert_spread(&figures["set_up"]["tls_resumed"][what], 3),
                false => assert_eq!(figures["set_up"]["tls_resumed"], Value::Null),
            }
        }
        assert_spread(&figures["round_trip"], 20);
        assert_eq!(figures["echoed_bytes"], 1 << 20);
        for rate in ["each_way", "there_alone", "back_alone"] {
            let rate = &figures[format!("mb_per_s_{rate}")];
            assert!(rate.as_f64().is_some_and(|rate| rate > 0.0), "{figures}");
        }
        let log = end(listener).stderr;
        // Those that are measured, the session with the round trips, and one for each way alone.
        let resumed = if has_tls { 3 + 1 + 2 } else { 0 };
        assert_eq!(log.matches("TLS session resumed").count(), resumed, "{log}");
    }
}

#[test]
fn link_prints_a_table_and_goes_through_a_proxy() {
    let host = Host::new();
    let proxy = Proxy::start();
    let listener = host
        .listen("ws")
        .args(["--keep", "exec:cat"])
        .start_listening();
    let flag = format!("--http-proxy=http://{}", proxy.addr());
    let measured = bench(&host, listener.url())
        .arg(flag)
        .run()
        .exits(0)
        .says("");
    let text = String::from_utf8(measured.stdout).expect("text");
    for begin in [
        "session, cold ",
        "first byte back, cold ",
        "round trip of 64 B ",
        "1 MiB there and back at once: ",
        "one way alone: not measured",
    ] {
        let count = text.lines().filter(|line| line.starts_with(begin)).count();
        assert_eq!(count, 1, "{begin} in:\n{text}");
    }
    assert!(!text.contains("resumed"), "{text}");
    // Three and one that could resume, that with the round trips, and one that found a mere echo.
    assert_eq!(proxy.asked().len(), 3 + 1 + 1 + 1);
    end(listener);
}

#[test]
fn link_measures_no_lost_link_and_nothing_but_an_echo() {
    let host = Host::new();
    for (endpoint, words) in [
        (
            "exec:true",
            "farpipe: the other end sent nothing back: it must be exec:cat",
        ),
        (
            "sh:printf y; cat",
            "farpipe: what came back is not what was sent: the other end must be exec:cat",
        ),
        (
            "exec:no-such-command",
            "farpipe: the far end refused: cannot run 'no-such-command': command not found",
        ),
    ] {
        let listen = host.listen("ws").args(["--keep", endpoint]);
        let listener = listen.start_listening();
        let refused = bench(&host, listener.url()).run().exits(125).printed("");
        refused.says(words);
        end(listener);
    }
    let listener = host
        .listen("ws")
        .args(["--keep", "exec:cat"])
        .start_listening();
    let (dir, at) = (Dir::Up, 100_000..=100_000);
    let plan = Plan::of(When::Byte { dir, at }, Cut::Reset);
    let faults = Faults::between(&listener, plan);
    let lost = bench(&host, &faults.url()).run().exits(125).printed("");
    let words = "farpipe: ws://127.0.0.1:PORT: the link was lost: the connection broke: ";
    assert!(lost.said().starts_with(words), "{}", lost.stderr);
    end(listener);
}
