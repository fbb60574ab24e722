//! Each direction ends by itself, and the end of a reader reaches the far writer.

use rustix::process::Signal;

use crate::support::{Host, SCHEMES, assert_same, random};

#[test]
fn a_request_whose_writer_has_ended_gets_its_whole_answer() {
    for scheme in SCHEMES {
        let host = Host::new();
        let listener = host.listen(scheme).arg("exec:sort").start_listening();
        let connect = host
            .connect(listener.url())
            .input("pear\napple\nfig\n")
            .run();
        connect.exits(0).printed("apple\nfig\npear\n");
        listener.end().exits(0);
    }
}

#[test]
fn eight_mebibytes_of_answer_come_after_the_end_of_the_request() {
    let answer = random(8 << 20, 5);
    for scheme in SCHEMES {
        let host = Host::new();
        host.file("answer", &answer);
        let script = "sh:cat >question; cat answer";
        let listener = host.listen(scheme).arg(script).start_listening();
        let connect = host.connect(listener.url()).input("?").run().exits(0);
        listener.end().exits(0);
        assert_same(&connect.stdout, &answer);
        assert_eq!(host.content("question"), b"?");
    }
}

#[test]
fn either_side_may_end_first_and_still_receives() {
    for first in ["connect", "listen"] {
        let host = Host::new();
        let mut listener = host.listen("ws").open_input().start_listening();
        let mut connect = host.connect(listener.url()).open_input().start();
        let (one, other) = match first {
            "connect" => (&mut connect, &mut *listener),
            _ => (&mut *listener, &mut connect),
        };
        one.write("last words");
        one.close_input();
        other.stdout_until(10);
        other.write("an answer to them");
        one.stdout_until(17);
        other.close_input();
        connect.end().exits(0);
        listener.end().exits(0);
    }
}

#[test]
fn x2_a_reader_that_goes_away_ends_the_writer_like_sigpipe() {
    for scheme in SCHEMES {
        let host = Host::new();
        let script =
            format!("{{ \"$FARPIPE\" listen {scheme}://127.0.0.1:0; echo $? >status; }} | head -1");
        let listen = host.shell(&script).start_listening();
        let script = format!(
            "{{ yes; echo $? >yes; }} | {{ \"$FARPIPE\" connect {}; echo $? >connect; }}",
            listen.url()
        );
        host.shell(&script).run();
        listen.end().exits(0).printed("y\n");
        assert_eq!(host.content("connect"), b"141\n");
        assert_eq!(host.content("yes"), b"141\n");
        assert_eq!(host.content("status"), b"141\n");
    }
}

#[test]
fn x2_the_same_the_other_way_round() {
    let host = Host::new();
    let script =
        "{ yes; echo $? >yes; } | { \"$FARPIPE\" listen ws://127.0.0.1:0; echo $? >listen; }";
    let listen = host.shell(script).start_listening();
    let script = format!(
        "{{ \"$FARPIPE\" connect {}; echo $? >connect; }} | head -1",
        listen.url()
    );
    host.shell(&script).run().exits(0).printed("y\n");
    listen.end();
    for name in ["connect", "listen", "yes"] {
        assert_eq!(host.content(name), b"141\n", "{name}");
    }
}

/// The writer writes one line and is idle from then on: nothing it does can tell it that the
/// reader has gone.
#[test]
fn x2_an_idle_writer_hears_that_the_reader_is_gone() {
    for scheme in SCHEMES {
        let host = Host::new();
        let script = format!("\"$FARPIPE\" listen {scheme}://127.0.0.1:0 | head -1");
        let listen = host.shell(&script).start_listening();
        let mut connect = host.connect(listen.url()).open_input().start();
        connect.write("only line\n");
        // stdin is still open and nothing is written: that it ends is all there is to see.
        connect.end().exits(141);
        listen.end().exits(0).printed("only line\n");
    }
}

#[test]
fn x2_an_idle_listener_hears_that_the_reader_is_gone() {
    let host = Host::new();
    let mut listener = host.listen("ws").open_input().start_listening();
    let (reader, connect) = {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        (
            reader,
            host.connect(listener.url())
                .open_input()
                .stdout(writer)
                .start(),
        )
    };
    // The first byte proves that the session is there before its reader goes.
    listener.write("x");
    let mut byte = [0];
    std::io::Read::read_exact(&mut &reader, &mut byte).expect("a byte");
    drop(reader);
    connect.end().exits(141);
    listener.end().exits(141);
}

#[test]
fn a_far_command_that_reads_only_the_beginning_is_no_failure() {
    for scheme in SCHEMES {
        let host = Host::new();
        let listener = host.listen(scheme).arg("exec:head -1").start_listening();
        let script = format!(
            "yes | {{ \"$FARPIPE\" connect {}; echo $?; }}",
            listener.url()
        );
        host.shell(&script).run().exits(0).printed("y\n0\n");
        listener.end().exits(0);
    }
}

#[test]
fn a_local_command_that_reads_only_the_beginning_is_no_failure() {
    let host = Host::new();
    let script = "yes | { \"$FARPIPE\" listen ws://127.0.0.1:0; echo $? >status; }";
    let listen = host.shell(script).start_listening();
    host.connect(listen.url())
        .arg("exec:head -1 -")
        .run()
        .exits(0);
    listen.end();
    assert_eq!(host.content("status"), b"0\n");
}

#[test]
fn the_end_of_a_stopped_writer_comes_when_it_continues() {
    let host = Host::new();
    let listener = host.listen("ws").start_listening();
    let mut connect = host.connect(listener.url()).open_input().start();
    connect.write("before");
    listener.stdout_until(6);
    connect.signal(Signal::STOP);
    connect.write("after");
    connect.close_input();
    connect.signal(Signal::CONT);
    connect.end().exits(0);
    listener.end().exits(0).printed("beforeafter");
}

#[test]
fn a_far_command_that_reads_nothing_is_no_failure() {
    let host = Host::new();
    let listener = host.listen("ws").arg("exec:true").start_listening();
    host.connect(listener.url())
        .input(random(8 << 20, 6))
        .run()
        .exits(0);
    listener.end().exits(0);
}

#[test]
fn x2_a_far_command_gets_sigpipe_when_the_reader_is_gone() {
    let host = Host::new();
    let listener = host.listen("ws").arg("exec:yes").start_listening();
    let script = format!(
        "{{ \"$FARPIPE\" connect {}; echo $? >status; }} | head -1",
        listener.url()
    );
    host.shell(&script).run().exits(0).printed("y\n");
    assert_eq!(host.content("status"), b"141\n");
    listener.end().exits(141);
}
