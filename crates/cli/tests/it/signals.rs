//! Processes that are told to end, killed or stopped, and what the other side makes of it.

use rustix::process::Signal;

use crate::support::net::accept;
use crate::support::{Host, SCHEMES};

#[test]
fn sigint_to_connect_ends_both() {
    for scheme in SCHEMES {
        let host = Host::new();
        let mut listener = host.listen(scheme).open_input().start_listening();
        let mut connect = host.connect(listener.url()).open_input().start();
        connect.write("a part");
        listener.stdout_until(6);
        listener.write("b");
        connect.stdout_until(1);
        connect.signal(Signal::INT);
        let ended = connect.end().exits(130).printed("b");
        assert_eq!(ended.stderr, "", "who typed ^C knows it");
        listener.end().exits(125).printed("a part").says(&format!(
            "listening on {scheme}://127.0.0.1:PORT
             farpipe: the far end failed: interrupted"
        ));
    }
}

#[test]
fn a_signal_to_listen_ends_both() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let host = Host::new();
        let mut listener = host.listen("ws").open_input().start_listening();
        let connect = host.connect(listener.url()).open_input().start();
        listener.write("b");
        connect.stdout_until(1);
        listener.signal(signal);
        listener.end().exits(status);
        connect
            .end()
            .exits(125)
            .says("farpipe: the far end failed: interrupted");
    }
}

#[test]
fn a_listener_nobody_came_to_ends_at_once() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        for keep in [["--recv", "out"].as_slice(), &["--keep", "exec:cat"]] {
            let host = Host::new();
            let listener = host.listen("ws").args(keep).start_listening();
            listener.signal(signal);
            listener
                .end()
                .exits(status)
                .says("listening on ws://127.0.0.1:PORT");
        }
    }
}

#[test]
fn sigint_ends_a_connect_that_still_waits_for_an_answer() {
    for scheme in SCHEMES {
        let host = Host::new();
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = silent.local_addr().expect("its address");
        let mut connect = host
            .connect(&format!("{scheme}://{addr}"))
            .open_input()
            .start();
        let _connection = accept(&silent);
        // stdin is read while there is no session yet: credit for it is there from the start.
        connect.write("early");
        connect.signal(Signal::INT);
        connect.end().exits(130).says("");
    }
}

#[test]
fn n16_the_listener_gives_a_killed_connect_up_when_its_time_is_over() {
    let host = Host::new();
    let listener = host.listen("ws").args(["--recv"]).start_listening();
    let connect = host.connect(listener.url()).args(["--resume-for", "500ms"]);
    let mut connect = connect.open_input().start();
    connect.write("a part");
    listener.stdout_until(6);
    connect.kill();
    let ended = listener.end().exits(125).printed("a part");
    let said = ended.said();
    assert!(said.contains("was given up after"), "{said}");
}

/// Its own `--resume-for` caps what the other side asks for.
#[test]
fn n16_the_listener_decides_how_long_it_keeps_a_session() {
    let host = Host::new();
    let listen = host.listen("ws").args(["--recv", "--resume-for", "800ms"]);
    let listener = listen.start_listening();
    let mut connect = host.connect(listener.url()).open_input().start();
    connect.write("a part");
    listener.stdout_until(6);
    connect.kill();
    let ended = listener.end().exits(125).printed("a part");
    let said = ended.said();
    assert!(said.contains("was given up after 800 ms"), "{said}");
}

#[test]
fn n16_the_command_of_a_killed_connect_is_hung_up() {
    let host = Host::new();
    let script =
        "sh:trap 'echo hung up >hup; exit 1' HUP TERM; echo up; cat >/dev/null & wait; sleep 1000";
    let listener = host.listen("ws").arg(script).start_listening();
    let connect = host.connect(listener.url()).args(["--resume-for", "300ms"]);
    let connect = connect.open_input().start();
    connect.stdout_until(3);
    connect.kill();
    listener.end().exits(125);
    assert_eq!(host.content("hup"), b"hung up\n");
}

#[test]
fn n15_connect_gives_a_killed_listener_up_and_never_says_success() {
    for scheme in SCHEMES {
        let host = Host::new();
        let mut listener = host.listen(scheme).open_input().start_listening();
        let connect = host
            .connect(listener.url())
            .args(["--resume-for", "1s"])
            .open_input()
            .start();
        listener.write("a part");
        connect.stdout_until(6);
        listener.kill();
        let ended = connect.end().exits(125).printed("a part");
        let last = ended.said().lines().last().unwrap_or_default().to_owned();
        let begin = format!("farpipe: no link to {scheme}://127.0.0.1:PORT for 1 s: ");
        assert!(last.starts_with(&begin), "{last}");
    }
}

/// The session died with its process: whoever listens there now does not know it.
#[test]
fn n12_a_listener_that_was_started_anew_ends_the_old_session() {
    let host = Host::new();
    let mut listener = host.listen("ws").open_input().start_listening();
    let connect = host.connect(listener.url()).open_input().start();
    listener.write("a part");
    connect.stdout_until(6);
    let url = listener.url().to_owned();
    listener.kill();
    drop(listener);
    let anew = host.farpipe(["listen", &url]).start_listening();
    let ended = connect.end().exits(125).printed("a part");
    let last = ended.said().lines().last().unwrap_or_default().to_owned();
    assert_eq!(
        last,
        "farpipe: ws://127.0.0.1:PORT refused: this session is not known here (any more): it \
         ended, was given up, or this is another process than before"
    );
    // And is free for a new one.
    host.connect(anew.url()).input("new").run().exits(0);
    anew.end().exits(0).printed("new");
}

/// `nohup farpipe …` and `farpipe … &` in a script.
#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let host = Host::new();
    let script = "trap '' HUP INT; exec \"$FARPIPE\" listen ws://127.0.0.1:0 exec:cat --keep";
    let listener = host.shell(script).start_listening();
    listener.signal(Signal::HUP);
    listener.signal(Signal::INT);
    let connect = host.connect(listener.url()).input("still there");
    connect.run().exits(0).printed("still there");
    listener.signal(Signal::TERM);
    listener.end().exits(143);
}
