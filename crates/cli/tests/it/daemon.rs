//! Started by something else than a person at a shell: what is not there, what is closed, and how it is
//! told to end. Row G2.

use rustix::process::Signal;

use crate::support::{Host, Invocation, Listener};

/// A `listen --keep exec:cat`.
fn echo(host: &Host) -> Listener {
    host.listen("ws")
        .args(["--keep", "exec:cat"])
        .start_listening()
}

#[test]
fn g2_sigterm_and_sighup_end_each_verb_in_order_with_their_status() {
    for (signal, status) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let host = Host::new();
        let listener = echo(&host);
        let mut connect = host.connect(listener.url()).open_input().start();
        connect.write("a part");
        connect.stdout_until(6);
        connect.signal(signal);
        connect.end().exits(status).printed("a part");
        // The listener serves on, and ends the same way.
        let again = host.connect(listener.url()).input("again");
        again.run().exits(0).printed("again");
        listener.signal(signal);
        listener.end().exits(status);
        let pipe = host.farpipe(["pipe", "-", "exec:cat"]);
        let mut pipe = pipe.open_input().start();
        pipe.write("a part");
        pipe.stdout_until(6);
        pipe.signal(signal);
        pipe.end().exits(status).printed("a part");
    }
}

#[test]
fn g2_a_second_listener_on_the_same_port_is_refused_and_harms_nothing() {
    let host = Host::new();
    let listener = echo(&host);
    let mut connect = host.connect(listener.url()).open_input().start();
    connect.write("one");
    connect.stdout_until(3);
    let second = host.farpipe(["listen", listener.url(), "--keep", "exec:cat"]);
    let refused = second.run().exits(125).printed("");
    let said = refused.said();
    assert!(said.contains("another process listens on port"), "{said}");
    connect.write("two");
    connect.stdout_until(6);
    connect.close_input();
    connect.end().exits(0).printed("onetwo");
}

/// As a service manager or a container starts it: nothing but what the verb needs.
fn bare(host: &Host, args: &str) -> Invocation {
    let script = format!(
        "exec env -i XDG_RUNTIME_DIR=\"$XDG_RUNTIME_DIR\" TMPDIR=/nowhere \"$FARPIPE\" {args}"
    );
    host.shell(&script)
}

#[test]
fn g2_neither_home_nor_a_temporary_directory_is_needed() {
    let host = Host::new();
    let listener = bare(&host, "listen ws://127.0.0.1:0 --keep exec:/bin/cat").start_listening();
    let connect = bare(&host, &format!("connect {}", listener.url()));
    connect.input("echo").run().exits(0).printed("echo");
    let pipe = bare(&host, "pipe - exec:/bin/cat");
    pipe.input("echo").run().exits(0).printed("echo");
}

#[test]
fn g2_without_a_place_for_the_secret_it_says_which_is_wanted() {
    let host = Host::new();
    for args in ["listen ws://127.0.0.1:0", "connect ws://127.0.0.1:1"] {
        let run = host
            .shell(&format!("exec \"$FARPIPE\" {args}"))
            .env("XDG_RUNTIME_DIR", "/nowhere");
        let said = run.run().exits(125).printed("").said();
        let expected = "set XDG_RUNTIME_DIR to a directory of yours";
        assert!(said.contains(expected), "{said}");
    }
    // What needs none does without.
    let pipe = host.farpipe(["pipe", "-", "exec:cat"]);
    let pipe = pipe.env("XDG_RUNTIME_DIR", "/nowhere").input("echo");
    pipe.run().exits(0).printed("echo");
}

#[test]
fn g2_closed_descriptors_are_never_taken_for_something_else() {
    let host = Host::new();
    host.file("file", "data");
    // stderr: nobody hears, and the data goes all the same.
    let listener = echo(&host);
    let connect = format!("exec \"$FARPIPE\" connect {} 2>&-", listener.url());
    host.shell(&connect)
        .input("echo")
        .run()
        .exits(0)
        .printed("echo");
    let pipe = "exec \"$FARPIPE\" pipe file - 0<&- 2>&-";
    host.shell(pipe).run().exits(0).printed("data");
    // stdin: an empty one.
    let connect = format!("exec \"$FARPIPE\" connect {} 0<&-", listener.url());
    host.shell(&connect).run().exits(0).printed("");
    // stdout: 125 at the first byte, and no file that was opened in its place has got it.
    for verb in [
        format!("connect {}", listener.url()),
        "pipe - exec:cat".to_owned(),
    ] {
        let script = format!("exec \"$FARPIPE\" {verb} >&-");
        let ended = host.shell(&script).input("lost").run().exits(125);
        assert!(ended.stderr.contains("stdout"), "{verb}: {}", ended.stderr);
    }
    // All three, as some that start daemons leave it.
    let script = "\"$FARPIPE\" listen ws://127.0.0.1:0 --keep exec:cat --status-fd 3 \
        0<&- 1>&- 2>&- 3>status & pid=$!
        until grep -q listening status 2>/dev/null; do kill -0 $pid || exit 9; sleep 0.02; done
        url=$(sed 's/.*\"url\":\"\\([^\"]*\\)\".*/\\1/;q' status)
        echo echo | \"$FARPIPE\" connect $url || exit 8
        kill -TERM $pid; wait $pid";
    host.shell(script).run().exits(143).printed("echo\n");
}
