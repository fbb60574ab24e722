//! A host by its name: `farpipe relay`, agents that register there, `farpipe exec NAME`.

use rustix::process::Signal;

use crate::support::{Host, SCHEMES, random};

#[test]
fn a_host_is_asked_for_by_its_name() {
    for scheme in SCHEMES {
        let host = Host::new();
        let relay = host.relay(scheme).start_listening();
        let _agents = ["web1", "web2"].map(|name| {
            let agent = host.agent_at(relay.url(), name);
            agent.start_registered(1)
        });
        // Whose child it is.
        let script = "tr '\\0' ' ' </proc/$PPID/cmdline";
        for name in ["web1", "web2"] {
            let exec = host
                .exec_at(relay.url(), name)
                .args(["--", "sh", "-c", script]);
            let ended = exec.run().exits(0);
            assert_eq!(ended.stderr, "");
            let printed = String::from_utf8(ended.stdout).expect("a command line");
            assert!(printed.contains(&format!("--name {name}")), "{printed}");
        }
        relay.signal(Signal::TERM);
        relay.end().exits(0);
    }
}

#[test]
fn the_relay_of_the_environment_is_asked() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let agent = host.farpipe(["agent", "--name", "web1", "--allow", "exec"]);
    let _agent = agent.env("FARPIPE_RELAY", relay.url()).start_registered(1);
    let exec = host.farpipe(["exec", "web1", "--", "sh", "-c", "exit 7"]);
    exec.env("FARPIPE_RELAY", relay.url()).run().exits(7);
}

#[test]
fn stdin_stdout_and_status_pass_through_a_relay() {
    let input = random(3 << 20, 3);
    for scheme in SCHEMES {
        let host = Host::new();
        let relay = host.relay(scheme).start_listening();
        let _agent = host.agent_at(relay.url(), "web1").start_registered(1);
        let line = format!(
            "\"$FARPIPE\" exec --relay {} web1 -- sh -c 'cat; echo aside >&2; kill -KILL $$' 2>heard",
            relay.url()
        );
        let ended = host.shell(&line).input(input.as_slice()).run();
        ended.exits(137).printed(&input);
        assert_eq!(host.content("heard"), b"aside\n");
    }
}

/// The first relay of the list does not know the host, or is not there at all.
#[test]
fn the_relays_of_a_list_are_asked_in_turn() {
    let host = Host::new();
    let (empty, knows) = (
        host.relay("ws").start_listening(),
        host.relay("ws").start_listening(),
    );
    let _agent = host.agent_at(knows.url(), "web1").start_registered(1);
    let list = format!("{},{}", empty.url(), knows.url());
    let exec = || host.exec_at(&list, "web1").args(["--", "echo", "here"]);
    exec().run().exits(0).printed("here\n");
    empty.signal(Signal::TERM);
    empty.end().exits(0);
    exec().run().exits(0).printed("here\n");
}

#[test]
fn what_nobody_knows_is_said_at_once() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let unknown = host.exec_at(relay.url(), "web9").args(["--", "true"]);
    unknown
        .run()
        .exits(125)
        .says("farpipe: ws://127.0.0.1:PORT refused: no agent web9 is registered here");
    let nowhere = host.farpipe(["exec", "web9", "--", "true"]);
    nowhere.run().exits(2).says(
        "farpipe: which relay knows web9? none was named
         hint: give --relay wss://HOST:PORT, or set FARPIPE_RELAY",
    );
    for name in ["we,b1", "web1\n", "*", "Web1", "we/b1", "..", ""] {
        let odd = host.exec_at(relay.url(), name).args(["--", "true"]);
        odd.run().exits(2);
        host.agent_at(relay.url(), name).run().exits(2);
    }
}

/// A session needs a host to go to, and a listener is no relay.
#[test]
fn a_relay_is_no_listener_and_a_listener_no_relay() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let ended = host.exec(relay.url()).args(["--", "true"]).run().exits(125);
    ended.says("farpipe: ws://127.0.0.1:PORT refused: this is a relay: name the agent to ask for");
    let agent = host.agent("ws").start_listening();
    let lost = host.agent_at(agent.url(), "web1").start();
    let why = "refused: this is no relay: it serves its own host only); next try in";
    lost.stderr_until(|text| text.contains(why));
}

/// Beyond loopback strangers come by: a relay without certificates would let in everybody, and a
/// ticket is good for one session.
#[test]
fn a_relay_with_tls_wants_certificates() {
    let host = Host::new();
    let ended = host.relay("wss").run().exits(2);
    ended.says(
        "farpipe: a relay lets in by certificate, and none was given
         hint: give --cert, --key and --ca; `farpipe cert` makes all three",
    );
}

/// The same user's other process takes the name over; the older one ends and says why.
#[test]
fn a_second_agent_of_the_same_user_takes_the_name_over() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let older = host.agent_at(relay.url(), "web1").start_registered(1);
    let newer = host.agent_at(relay.url(), "web1").start_registered(1);
    older.end().exits(125).says(
        "registered as web1 at ws://127.0.0.1:PORT
         farpipe: ws://127.0.0.1:PORT refused: another process has registered as web1",
    );
    let exec = host.exec_at(relay.url(), "web1").args(["--", "true"]);
    exec.run().exits(0);
    drop(newer);
}

/// One agent more than the relay is told to take asks again, and has the place when it is free.
#[test]
fn a_relay_takes_as_many_agents_as_it_is_told() {
    let host = Host::new();
    let relay = host
        .relay("ws")
        .args(["--agents-max", "1"])
        .start_listening();
    let first = host.agent_at(relay.url(), "web1").start_registered(1);
    let second = host.agent_at(relay.url(), "web2").start();
    second.stderr_until(|told| told.contains("refused: too many agents"));
    first.signal(Signal::TERM);
    first.end();
    second.await_registered(1);
    for wrong in ["0", "65537", "many"] {
        let relay = host.relay("ws").args(["--agents-max", wrong]);
        let ended = relay.run().exits(2);
        assert!(ended.said().contains("a number from 1 to 65536"), "{wrong}");
    }
}
