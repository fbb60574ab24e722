//! tcp:, tcp-listen:, unix: and unix-listen:, with real programs' sockets at both ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use farpipe_faultproxy::{Cut, Plan, When};
use rustix::net::sockopt::set_socket_linger;
use rustix::process::Signal;

use crate::support::pki::shows;
use crate::support::programs::{ask_tcp, ask_unix, echo, echo_at, server};
use crate::support::{DEADLINE, Faults, Host, Listener, SCHEMES, assert_same, at_once, random};

/// Connects to a farpipe that listens.
fn dial(listener: &Listener) -> TcpStream {
    let address = listener.url().strip_prefix("tcp ").expect("an address");
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

/// Asks one connection.
type Ask = Box<dyn FnOnce(&[u8]) -> Vec<u8> + Send>;

/// A listener that passes streams to `target`, and a connect that makes them of connections.
fn forward(host: &Host, scheme: &str, target: &str) -> (Listener, Listener) {
    let listener = host.listen(scheme).arg(target).start_listening();
    let connect = host
        .connect(listener.url())
        .arg("tcp-listen:0")
        .start_listening();
    (listener, connect)
}

fn stop(connect: Listener, listener: Listener) -> (String, String) {
    connect.signal(Signal::TERM);
    let connect = connect.end().exits(143);
    (connect.stderr, listener.end().exits(0).stderr)
}

#[test]
fn twenty_connections_at_once_are_byte_exact_both_ways() {
    for scheme in SCHEMES {
        let host = Host::new();
        let (listener, connect) = forward(&host, scheme, &format!("tcp:{}", server(echo)));
        thread::scope(|scope| {
            for number in 0..20 {
                let stream = dial(&connect);
                scope.spawn(move || {
                    let data = random(300_000 + 1000 * number as usize, number);
                    assert_same(&ask_tcp(stream, &data), &data);
                });
            }
        });
        let (connect, listener) = stop(connect, listener);
        assert!(!connect.contains("farpipe:"), "{connect}");
        assert!(!listener.contains("farpipe:"), "{listener}");
    }
}

/// Half-close, both ways, and ends of every kind at both sides.
#[test]
fn sockets_of_every_kind_pass_every_carrier() {
    let host = Host::new();
    host.usual_certificates();
    let tcp = format!("tcp:{}", server(echo));
    echo_at(&host.path("server"));
    let data = random(300_000, 8);
    for scheme in ["ws", "fp", "wss", "fps"] {
        let flags = |name| match scheme {
            "wss" | "fps" => shows(name).to_vec(),
            _ => Vec::new(),
        };
        for (near, far) in [("tcp-listen:0", "unix:server"), ("unix-listen:near", &*tcp)] {
            let listener = host.listen(scheme).arg(far).args(flags("server"));
            let listener = listener.start_listening();
            let connect = host.connect(listener.url()).arg(near);
            let connect = connect.args(flags("client")).start_listening();
            let ask = || -> Ask {
                if near == "tcp-listen:0" {
                    let stream = dial(&connect);
                    return Box::new(move |question| ask_tcp(stream, question));
                }
                let stream = UnixStream::connect(host.path("near")).expect("it listens");
                Box::new(move |question| ask_unix(stream, question))
            };
            let asks: Vec<_> = std::iter::repeat_with(ask).take(4).collect();
            at_once(asks, |ask| assert_same(&ask(&data), &data));
            let (connect, listener) = stop(connect, listener);
            assert!(!connect.contains("farpipe:"), "{scheme}: {connect}");
            assert!(!listener.contains("farpipe:"), "{scheme}: {listener}");
            assert!(!host.path("near").exists(), "the socket's file is left");
        }
    }
}

#[test]
fn n1_twenty_connections_survive_resets_of_the_one_that_carries_them() {
    let host = Host::new();
    let target = format!("tcp:{}", server(echo));
    let listener = host.listen("ws").arg(target).start_listening();
    let lifetime = Duration::from_millis(6)..=Duration::from_millis(30);
    let plan = Plan::of(When::Lifetime(lifetime), Cut::Reset);
    let faults = Faults::between(&listener, plan);
    let connect = host
        .connect(&faults.url())
        .arg("tcp-listen:0")
        .start_listening();
    thread::scope(|scope| {
        for number in 0..20 {
            let stream = dial(&connect);
            scope.spawn(move || {
                let data = random(200_000, number);
                assert_same(&ask_tcp(stream, &data), &data);
            });
        }
    });
    stop(connect, listener);
    let stats = faults.stop();
    assert!(stats.cuts_reset > 0, "nothing was cut: {}", stats.to_json());
}

#[test]
fn a_request_whose_writer_has_ended_gets_its_whole_answer() {
    let host = Host::new();
    let (listener, connect) = forward(&host, "ws", "exec:sort");
    assert_eq!(ask_tcp(dial(&connect), b"pear\napple\n"), b"apple\npear\n");
    assert_eq!(ask_tcp(dial(&connect), b"b\na\n"), b"a\nb\n");
    stop(connect, listener);
}

/// The other end's half-close comes first: what the client still says arrives.
#[test]
fn an_answer_that_ends_first_leaves_the_request_open() {
    let (told, hears) = std::sync::mpsc::channel();
    let target = server(move |mut stream| {
        stream.write_all(b"greeting").expect("it is read");
        stream.shutdown(Shutdown::Write).expect("a half-close");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the end");
        told.send(rest).expect("the test waits");
    });
    let host = Host::new();
    let (listener, connect) = forward(&host, "fp", &format!("tcp:{target}"));
    let mut stream = dial(&connect);
    let mut greeting = Vec::new();
    stream.read_to_end(&mut greeting).expect("its end");
    assert_eq!(greeting, b"greeting");
    stream.write_all(b"still there").expect("it is read");
    drop(stream);
    assert_eq!(
        hears.recv_timeout(DEADLINE).expect("the rest"),
        b"still there"
    );
    stop(connect, listener);
}

#[test]
fn a_target_that_refuses_ends_only_the_connection_that_asked() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = free.local_addr().expect("bound");
    drop(free);
    let host = Host::new();
    let (listener, connect) = forward(&host, "ws", &format!("tcp:{target}"));
    for _ in 0..2 {
        let error = dial(&connect).read(&mut [0; 8]).expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let why = format!("cannot connect to tcp:{target}: Connection refused");
    connect.stderr_until(|text| text.matches(&why).count() == 2);
    // Somebody listens by now: the third is served.
    let late = TcpListener::bind(target).expect("the port is free again");
    thread::scope(|scope| {
        scope.spawn(|| echo(late.accept().expect("a connection").0));
        assert_eq!(ask_tcp(dial(&connect), b"at last"), b"at last");
    });
    let (connect, listener) = stop(connect, listener);
    let refused = connect
        .lines()
        .filter(|line| line.contains("the far end refused"));
    assert_eq!(refused.count(), 2, "{connect}");
    assert!(
        connect.contains("farpipe: the connection from 127.0.0.1:"),
        "{connect}"
    );
    assert_eq!(listener.matches(&why).count(), 2, "{listener}");
}

#[test]
fn a_reset_reaches_the_other_end_as_a_reset_and_no_other_connection() {
    let (told, hears) = std::sync::mpsc::channel();
    let target = server(move |mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a byte");
        stream.write_all(&byte).expect("it is read");
        let ended = stream.read(&mut byte).map_err(|error| error.kind());
        told.send((byte[0], ended)).expect("the test waits");
    });
    let host = Host::new();
    let (listener, connect) = forward(&host, "ws", &format!("tcp:{target}"));
    let open = |byte: u8| {
        let mut stream = dial(&connect);
        stream.write_all(&[byte]).expect("it is read");
        stream.read_exact(&mut [0]).expect("the echo");
        stream
    };
    let (first, second) = (open(1), open(2));
    set_socket_linger(&first, Some(Duration::ZERO)).expect("a TCP option");
    drop(first);
    let heard = hears.recv_timeout(DEADLINE).expect("a reset");
    assert_eq!(heard, (1, Err(ErrorKind::ConnectionReset)));
    drop(second);
    let heard = hears.recv_timeout(DEADLINE).expect("an end");
    assert_eq!(heard, (2, Ok(0)));
    let (connect, _) = stop(connect, listener);
    assert!(connect.contains("Connection reset by peer"), "{connect}");
}

/// What a killed farpipe leaves behind must not look like an end to the programs beside it.
#[test]
fn a_killed_farpipe_resets_its_connections() {
    let host = Host::new();
    let pipe = host
        .farpipe(["pipe", "tcp-listen:0", "sh:printf x; cat"])
        .start_listening();
    let mut stream = dial(&pipe);
    stream.read_exact(&mut [0]).expect("a byte");
    pipe.kill();
    let error = stream.read(&mut [0; 8]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn connections_beyond_the_limit_of_streams_wait_for_their_turn() {
    const LIMIT: usize = 256;
    let host = Host::new();
    let script = "ulimit -n 4096 2>/dev/null; exec \"$FARPIPE\" ";
    let listen = format!("{script} listen ws://127.0.0.1:0 tcp:{}", server(echo));
    let listener = host.shell(&listen).start_listening();
    let connect = host.shell(&format!("{script} connect {} tcp-listen:0", listener.url()));
    let connect = connect.start_listening();
    let mut held: Vec<_> = (0..LIMIT).map(|_| dial(&connect)).collect();
    for stream in &mut held {
        stream.write_all(b"x").expect("room");
        stream.read_exact(&mut [0]).expect("the echo");
    }
    // One more: it is connected, and not served until another has ended.
    let mut late = dial(&connect);
    late.write_all(b"late").expect("room");
    late.set_nonblocking(true).expect("flags");
    let error = late.read(&mut [0; 4]).expect_err("nobody serves it");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    late.set_nonblocking(false).expect("flags");
    drop(held.pop());
    let mut answer = [0; 4];
    late.read_exact(&mut answer).expect("its turn");
    assert_eq!(&answer, b"late");
    drop((held, late));
    let (connect, listener) = stop(connect, listener);
    assert!(!connect.contains("farpipe:"), "{connect}");
    assert!(!listener.contains("farpipe:"), "{listener}");
}

#[test]
fn each_connection_gets_a_command_of_its_own_on_one_host() {
    for args in [
        ["pipe", "tcp-listen:0", "exec:cat"],
        ["pipe", "exec:cat", "tcp-listen:0"],
    ] {
        let host = Host::new();
        let pipe = host.farpipe(args).start_listening();
        let streams = (0..8).map(|number| (number, dial(&pipe)));
        at_once(streams, |(number, stream)| {
            let data = random(100_000, number);
            assert_same(&ask_tcp(stream, &data), &data);
        });
        pipe.signal(Signal::TERM);
        pipe.end().exits(143);
    }
}

/// Out of descriptors, a listener waits for some instead of ending.
#[test]
fn a_listener_without_descriptors_serves_on_when_there_are_some() {
    let host = Host::new();
    let script = "ulimit -n 24; exec \"$FARPIPE\" pipe tcp-listen:0 tcp:";
    let pipe = host
        .shell(&format!("{script}{}", server(echo)))
        .start_listening();
    let held: Vec<_> = (0..24).map(|_| dial(&pipe)).collect();
    pipe.stderr_until(|text| text.contains("Too many open files"));
    drop(held);
    // Those that were turned away by then are over; one that is served will come.
    let served = (0..50).any(|_| {
        let mut stream = dial(&pipe);
        stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
    });
    assert!(served);
    pipe.signal(Signal::TERM);
    pipe.end().exits(143);
}

#[test]
fn with_a_shared_end_one_connection_is_served_and_the_pipe_ends_with_it() {
    let host = Host::new();
    let pipe = host
        .farpipe(["pipe", "tcp-listen:0", "-"])
        .input("answer")
        .start_listening();
    let address = pipe
        .url()
        .strip_prefix("tcp ")
        .expect("an address")
        .to_owned();
    assert_eq!(ask_tcp(dial(&pipe), b"question"), b"answer");
    pipe.end().exits(0).printed("question");
    TcpStream::connect(address).expect_err("nobody listens any more");

    let pipe = host
        .farpipe(["pipe", "tcp-listen:0", "copy"])
        .start_listening();
    dial(&pipe).write_all(b"into a file").expect("room");
    pipe.end().exits(0);
    assert_eq!(host.content("copy"), b"into a file");

    let args = ["pipe", "--once", "tcp-listen:0", "exec:cat"];
    let pipe = host.farpipe(args).start_listening();
    assert_eq!(ask_tcp(dial(&pipe), b"once"), b"once");
    pipe.end().exits(0);
}

/// Which the connecting side learns only when it asks.
#[test]
fn with_a_shared_end_far_away_the_first_connection_is_served_and_others_are_reset() {
    for scheme in SCHEMES {
        let host = Host::new();
        let listener = host.listen(scheme).input("answer").start_listening();
        let connect = host.connect(listener.url()).arg("tcp-listen:0");
        let connect = connect.start_listening();
        let refused = "the far end refused: this listener joins one stream to its endpoint";
        let reset = |count| {
            let error = dial(&connect).read(&mut [0; 8]).expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            connect.stderr_until(|text| text.matches(refused).count() == count);
        };
        let mut first = dial(&connect);
        first.write_all(b"quest").expect("room");
        first.read_exact(&mut [0; 6]).expect("the answer");
        reset(1);
        assert_eq!(ask_tcp(first, b"ion"), b"");
        reset(2);
        // It goes on until a signal, as with any other far end; the listener with it.
        connect.signal(Signal::TERM);
        connect.end().exits(143);
        listener.end().exits(0).printed("question");

        let listener = host.listen(scheme).input("answer").start_listening();
        let connect = host
            .connect(listener.url())
            .args(["tcp-listen:0", "--once"]);
        let connect = connect.start_listening();
        assert_eq!(ask_tcp(dial(&connect), b"question"), b"answer");
        connect.end().exits(0);
        listener.end().exits(0).printed("question");
    }
}

#[test]
fn two_that_listen_are_joined_by_their_first_connections() {
    let host = Host::new();
    let args = ["pipe", "tcp-listen:0", "unix-listen:socket"];
    let pipe = host.farpipe(args).start_listening();
    pipe.stderr_until(|text| text.contains("listening on unix socket"));
    let (left, mut right) = (
        dial(&pipe),
        UnixStream::connect(host.path("socket")).expect("it listens"),
    );
    right.write_all(b"from the right").expect("room");
    right.shutdown(Shutdown::Write).expect("a half-close");
    assert_eq!(ask_tcp(left, b"from the left"), b"from the right");
    let mut text = String::new();
    right.read_to_string(&mut text).expect("the end");
    assert_eq!(text, "from the left");
    pipe.end().exits(0);
}

#[test]
fn stdin_and_stdout_through_a_connection() {
    for keep in [false, true] {
        let host = Host::new();
        let target = format!("tcp:{}", server(echo));
        let data = random(3 << 20, 7);
        let mut listen = host.listen("ws").arg(&target);
        if keep {
            listen = listen.arg("--keep");
        }
        let listener = listen.start_listening();
        let connect = host.connect(listener.url()).input(data.as_slice());
        connect.run().exits(0).printed(&data);
        if keep {
            listener.signal(Signal::TERM);
        }
        listener.end().exits(if keep { 143 } else { 0 });
        let pipe = host.farpipe(["pipe", "-", &target]).input(data.as_slice());
        pipe.run().exits(0).printed(&data);
    }
}

#[test]
fn a_connection_that_is_reset_is_a_failure_at_both_ends() {
    let target = server(|mut stream| {
        stream.write_all(b"prefix").expect("it is read");
        stream.read_exact(&mut [0]).expect("a byte");
        set_socket_linger(&stream, Some(Duration::ZERO)).expect("a TCP option");
    });
    let host = Host::new();
    let listener = host
        .listen("ws")
        .arg(format!("tcp:{target}"))
        .start_listening();
    let mut connect = host.connect(listener.url()).open_input().start();
    assert_eq!(connect.stdout_until(6), b"prefix");
    connect.write("x");
    let connect = connect.end().exits(125);
    // Whichever half asked first.
    let why = format!("ing tcp:{target} failed: Connection reset by peer");
    assert!(
        connect.stderr.contains("the far end failed: "),
        "{}",
        connect.stderr
    );
    assert!(connect.stderr.contains(&why), "{}", connect.stderr);
    let listener = listener.end().exits(125);
    assert!(listener.stderr.contains(&why), "{}", listener.stderr);
}

#[test]
fn a_port_in_use_and_one_nobody_listens_on() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound");
    let host = Host::new();
    let ended = host
        .farpipe([
            "pipe",
            &format!("tcp-listen:{}", address.port()),
            "exec:cat",
        ])
        .run()
        .exits(125);
    let expected = format!(
        "farpipe: cannot listen on tcp {address}: address already in use\n\
         hint: choose another port, or 0 to let the system choose\n"
    );
    assert_eq!(ended.stderr, expected);
    drop(taken);
    let ended = host
        .farpipe(["pipe", "-", &format!("tcp:{address}")])
        .run()
        .exits(125);
    let expected =
        format!("farpipe: cannot connect to tcp:{address}: Connection refused (os error 111)\n");
    assert_eq!(ended.stderr, expected);
}

#[test]
fn the_side_that_listens_for_sessions_does_not_listen_for_connections() {
    let host = Host::new();
    for (endpoint, shown) in [
        ("tcp-listen:80", "tcp-listen:127.0.0.1:PORT"),
        ("unix-listen:x", "unix-listen:x"),
    ] {
        host.listen("ws").arg(endpoint).run().exits(2).says(&format!(
            "farpipe: '{shown}' cannot be the endpoint of `listen`: only the side that connects can \
             open streams\n\
             hint: swap the verbs: here `farpipe connect URL {shown}`, on the other side \
             `farpipe listen URL ENDPOINT`"
        ));
    }
}

fn mode(host: &Host, name: &str) -> u32 {
    let meta = host
        .path(name)
        .symlink_metadata()
        .expect("the socket's file");
    meta.permissions().mode() & 0o777
}

#[test]
fn a_unix_socket_serves_commands_is_private_and_goes_with_its_listener() {
    let host = Host::new();
    let script = "umask 0; exec \"$FARPIPE\" pipe unix-listen:socket exec:cat";
    let pipe = host.shell(script).start_listening();
    assert_eq!(pipe.url(), "unix socket");
    assert_eq!(mode(&host, "socket"), 0o600);
    at_once(0..8, |number| {
        let data = random(100_000, number);
        let stream = UnixStream::connect(host.path("socket")).expect("it listens");
        assert_same(&ask_unix(stream, &data), &data);
    });
    pipe.signal(Signal::TERM);
    pipe.end().exits(143);
    assert!(!host.path("socket").exists(), "the socket's file is left");
}

#[test]
fn a_dead_listeners_socket_is_replaced_and_nothing_else() {
    let host = Host::new();
    let start = || host.farpipe(["pipe", "unix-listen:socket", "exec:cat"]);
    let dead = start().start_listening();
    dead.kill();
    dead.end();
    assert!(host.path("socket").exists(), "there is nothing to replace");
    let alive = start().start_listening();

    let in_use = "farpipe: cannot listen on unix socket: address already in use\n\
                  hint: another program listens there, or it is no socket; choose another path";
    assert_eq!(start().run().exits(125).stderr.trim(), in_use);
    let stream = UnixStream::connect(host.path("socket")).expect("it still listens");
    assert_eq!(ask_unix(stream, b"alive"), b"alive");
    alive.signal(Signal::TERM);
    alive.end().exits(143);

    host.file("socket", "precious");
    assert_eq!(start().run().exits(125).stderr.trim(), in_use);
    assert_eq!(host.content("socket"), b"precious");
}

#[test]
fn a_port_that_was_listened_on_is_told_to_programs() {
    let host = Host::new();
    let pipe = host.shell("exec \"$FARPIPE\" pipe --status-fd 3 tcp-listen:0 exec:cat 3>events");
    let pipe = pipe.start_listening();
    let expected = format!(
        "{{\"address\":\"{}\",\"event\":\"listening\"}}\n",
        pipe.url()
    );
    pipe.signal(Signal::TERM);
    let said = pipe.url().to_owned();
    pipe.end().exits(143);
    let events = String::from_utf8(host.content("events")).expect("text");
    assert!(
        events.contains(&said) && events.starts_with(&expected),
        "{events}"
    );
}
