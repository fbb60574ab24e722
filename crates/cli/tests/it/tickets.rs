//! wss and fps without anybody's certificates: a ticket lets in one session, and nobody else gets
//! anything.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use farpipe_faultproxy::{Cut, Plan, When};
use farpipe_net::tls::Pin;
use farpipe_net::{Clock, Ticket, Tickets, system_random};
use rustix::process::Signal;

use crate::support::pki::shows;
use crate::support::{Ended, Faults, Host, Invocation, Listener, assert_same, at_once, random};

const SCHEMES: [&str; 2] = ["wss", "fps"];

/// What only an admitted peer may see, each way.
const SECRET: &[u8] = b"for nobody else";

const VARIABLE: &str = "FARPIPE_TICKET";

/// What to do about a ticket that is no good.
const COPY: &str = "copy the newest one that `farpipe listen` made";

/// The lines to run on the other host, of which there are `count` at least.
fn lines(listener: &Listener, count: usize) -> Vec<String> {
    let lines = |text: &str| {
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().filter(|line| line.contains(VARIABLE));
        lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    lines(&listener.stderr_until(|text| lines(text).len() >= count))
}

/// The ticket that was printed as number `number`, from 0.
pub(crate) fn printed_ticket(listener: &Listener, number: usize) -> String {
    let line = lines(listener, number + 1).swap_remove(number);
    let (_, rest) = line.split_once('=').expect("VARIABLE=TICKET");
    let (ticket, _) = rest.split_once(' ').expect("and a command");
    ticket.to_owned()
}

fn pin(ticket: &str) -> Pin {
    ticket.parse::<Ticket>().expect("a ticket").pin()
}

fn connect(host: &Host, url: &str, ticket: &str) -> Invocation {
    host.connect(url).env(VARIABLE, ticket)
}

/// Refused with these words, and nothing of what is secret came out.
#[track_caller]
fn is_refused(ended: Ended, words: &str) {
    ended.exits(125).printed("").says(words);
}

#[test]
fn the_printed_line_makes_a_pipe_both_ways() {
    for scheme in SCHEMES {
        let host = Host::new();
        let (there, back) = (random(3_000_000, 1), random(2_000_000, 2));
        let listener = host.listen(scheme).input(back.as_slice()).start_listening();
        let line = lines(&listener, 1).remove(0);
        assert!(line.ends_with(&format!("farpipe connect {}", listener.url())));
        let line = line.replace("farpipe connect", "\"$FARPIPE\" connect");
        let connected = host.shell(&line).input(there.as_slice()).run().exits(0);
        assert_same(&connected.stdout, &back);
        let listened = listener.end().exits(0);
        assert_same(&listened.stdout, &there);
        assert_eq!(listened.stderr.matches("fpt1-").count(), 1, "one ticket");
    }
}

#[test]
fn the_line_of_a_listener_on_every_address_names_one() {
    let host = Host::new();
    let listener = host
        .farpipe(["listen", "wss://0.0.0.0:0/a&b"])
        .input("hello")
        .start_listening();
    let line = lines(&listener, 1).remove(0);
    assert!(!line.contains("0.0.0.0"), "{line}");
    // A host without a network says HOST.
    let line = line.replace("farpipe connect", "\"$FARPIPE\" connect");
    let line = line.replace("//HOST:", "//127.0.0.1:");
    host.shell(&line).run().exits(0).printed("hello");
    listener.end().exits(0);
}

#[test]
fn n1_a_ticket_is_good_for_every_resume_of_its_session() {
    for scheme in SCHEMES {
        let host = Host::new();
        let (there, back) = (random(3 << 20, 1), random(3 << 20, 2));
        let listener = host.listen(scheme).input(back.as_slice()).start_listening();
        let ticket = printed_ticket(&listener, 0);
        let faults = Faults::shaped(&listener, |config| {
            let lifetime = Duration::from_millis(80)..=Duration::from_millis(120);
            config.plan = Plan::of(When::Lifetime(lifetime), Cut::Reset);
            // Slow enough for many connections, however fast this machine is.
            let rate = std::num::NonZeroU64::new(8 << 20);
            (config.up.throttle, config.down.throttle) = (rate, rate);
        });
        let connect = connect(&host, &faults.url(), &ticket);
        let connected = connect.input(there.as_slice()).run().exits(0);
        let listened = listener.end().exits(0);
        assert_same(&listened.stdout, &there);
        assert_same(&connected.stdout, &back);
        let stats = faults.stop();
        assert!(stats.cuts_reset > 0, "no cut: {}", stats.to_json());
    }
}

/// Row A1, with tickets instead of certificates: wrong ones, and who has none.
#[test]
fn a1_who_has_no_good_ticket_gets_nothing_and_hears_why() {
    at_once(SCHEMES, |scheme| {
        let host = Host::new();
        host.usual_certificates();
        let listener = host.listen(scheme).input(SECRET).start_listening();
        let other = host.listen(scheme).input(SECRET).start_listening();
        let ticket = printed_ticket(&listener, 0);
        let pin = pin(&ticket);
        let connect = |ticket: &str| connect(&host, listener.url(), ticket).input(SECRET).run();
        let at = format!("farpipe: {scheme}://127.0.0.1:PORT");

        is_refused(
            connect(&printed_ticket(&other, 0)),
            &format!(
                "{at}: the server was refused: another server answers there, or it was started \
                 anew: its key is not the one of the ticket or pin (it is {pin})"
            ),
        );
        // One that the listener did not make, though it names its key.
        let forged = Tickets::new(pin, Duration::from_secs(60), Clock::Boot, system_random);
        is_refused(
            connect(&forged.issue().reveal()),
            &format!(
                "{at} refused: this ticket is not known here: it is another listener's; {COPY}"
            ),
        );
        let (cut, damaged) = (&ticket[..60], ticket.replace("fpt1-", "fpt1-AAAA"));
        for slip in [cut, &damaged] {
            is_refused(
                connect(slip),
                "farpipe: FARPIPE_TICKET: the ticket is damaged
                 hint: copy the whole of it again",
            );
        }
        is_refused(
            connect("hello"),
            "farpipe: FARPIPE_TICKET: not a ticket: one begins with fpt1-
             hint: copy the one that `farpipe listen` made",
        );
        // No ticket at all: with the right pin, and with certificates that mean nothing here.
        let without = host.connect(listener.url()).input(SECRET);
        is_refused(
            without.args(["--pin", &pin.to_string()]).run(),
            &format!(
                "{at} refused: this side asks for a secret: the user's on loopback, a ticket's \
                 or a token's elsewhere"
            ),
        );
        let without = host.connect(listener.url()).input(SECRET);
        let without = without.args(shows("client")).run().exits(125).printed("");
        let words = "the server was refused: unknown certificate authority; --ca names one \
                     (for ws:wss:// the variable SSL_CERT_FILE does), and a listener that printed a \
                     ticket is known by that";
        assert!(without.stderr.contains(words), "{}", without.stderr);

        // None of that has used anything up.
        connect(&ticket).exits(0).printed(SECRET);
        listener.end().exits(0).printed(SECRET);
        other.signal(Signal::TERM);
        other.end().exits(143).printed("");
    });
}

#[test]
fn a_ticket_that_was_used_is_refused_and_the_next_one_is_good() {
    at_once(SCHEMES, |scheme| {
        let host = Host::new();
        let listener = host
            .listen(scheme)
            .args(["--keep", "exec:cat"])
            .start_listening();
        let ticket = printed_ticket(&listener, 0);
        let used = format!(
            "farpipe: {scheme}://127.0.0.1:PORT refused: this ticket was used already, each is \
             good for one session; {COPY}"
        );
        let mut first = connect(&host, listener.url(), &ticket).open_input().start();
        first.write("echo");
        assert_eq!(first.stdout_until(4), b"echo");
        let again = || connect(&host, listener.url(), &ticket).input(SECRET).run();
        // While its session runs, and when that is over.
        is_refused(again(), &used);
        first.close_input();
        first.end().exits(0).printed("echo");
        is_refused(again(), &used);
        let next = printed_ticket(&listener, 1);
        let connect = connect(&host, listener.url(), &next).input("next");
        connect.run().exits(0).printed("next");
        lines(&listener, 3);
        listener.signal(Signal::TERM);
        listener.end().exits(143);
    });
}

/// Who has the line already and comes second hears that it is somebody's already.
#[test]
fn a_second_user_of_a_one_shot_ticket_hears_that_it_is_taken() {
    let host = Host::new();
    let listener = host.listen("wss").input("").start_listening();
    let ticket = printed_ticket(&listener, 0);
    let mut first = connect(&host, listener.url(), &ticket).open_input().start();
    first.write("echo");
    assert_eq!(listener.stdout_until(4), b"echo");
    let second = connect(&host, listener.url(), &ticket).input(SECRET).run();
    let second = second.exits(125).printed("");
    assert!(second.stderr.contains("busy"), "{}", second.stderr);
    first.close_input();
    first.end().exits(0);
    listener.end().exits(0).printed("echo");
}

#[test]
fn an_unused_ticket_expires_and_there_is_another() {
    at_once(SCHEMES, |scheme| {
        let host = Host::new();
        let listener = host
            .listen(scheme)
            .args(["--ticket-for", "1s"])
            .input(SECRET)
            .start_listening();
        let (old, new) = (printed_ticket(&listener, 0), printed_ticket(&listener, 1));
        assert_ne!(old, new);
        let ended = connect(&host, listener.url(), &old).input(SECRET).run();
        is_refused(
            ended,
            &format!(
                "farpipe: {scheme}://127.0.0.1:PORT refused: this ticket has expired unused; \
                 {COPY}"
            ),
        );
        listener.signal(Signal::TERM);
        listener.end().exits(143).printed("");
    });
}

#[test]
fn a_ticket_file_is_new_private_and_goes_with_the_ticket() {
    let host = Host::new();
    let listen = || {
        let listen = host.listen("wss").args(["--ticket-file", "ticket"]);
        listen.input("hello")
    };
    host.file("ticket", "mine");
    listen().run().exits(125).says(
        "farpipe: ticket exists and is not overwritten
         hint: choose another name for --ticket-file, or move it away",
    );
    assert_eq!(host.content("ticket"), b"mine");
    std::fs::remove_file(host.path("ticket")).expect("our own");

    let listener = listen().start_listening();
    let told = listener.stderr_until(|text| text.contains("--ticket-file ticket\n"));
    assert!(!told.contains("fpt1-"), "{told}");
    let path = host.path("ticket");
    let mode = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode).expect("our own");
    };
    let meta = path.metadata().expect("a file");
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let connect = || {
        let connect = host.connect(listener.url());
        connect.args(["--ticket-file", "ticket"]).run()
    };
    mode(0o640);
    is_refused(
        connect(),
        "farpipe: ticket: this ticket is open to others (mode 0640)
         hint: chmod 600 ticket",
    );
    mode(0o600);
    connect().exits(0).printed("hello");
    listener.end().exits(0);
    is_refused(
        host.connect("wss://127.0.0.1:1")
            .args(["--ticket-file", "ticket"])
            .run(),
        "farpipe: ticket: no such file",
    );
}

#[test]
fn a_ticket_file_is_renewed_and_another_file_in_its_place_is_left_alone() {
    let host = Host::new();
    let listener = host
        .listen("fps")
        .args(["--ticket-file", "ticket", "--keep", "exec:cat"])
        .start_listening();
    listener.stderr_until(|text| text.contains("--ticket-file ticket\n"));
    let first = host.content("ticket");
    let connect = |text: &str| {
        let connect = host.connect(listener.url());
        let connect = connect.args(["--ticket-file", "ticket"]);
        connect.input(text).run().exits(0).printed(text);
    };
    connect("first");
    listener.stderr_until(|text| text.matches("a new ticket").count() == 1);
    assert_ne!(host.content("ticket"), first);
    connect("second");
    listener.stderr_until(|text| text.matches("a new ticket").count() == 2);
    std::fs::rename(host.path("ticket"), host.path("moved")).expect("our own");
    host.file("ticket", "mine");
    host.connect(listener.url())
        .args(["--ticket-file", "moved"])
        .input("third")
        .run()
        .exits(0)
        .printed("third");
    listener.stderr_until(|text| text.contains("no new ticket: ticket is no longer ours\n"));
    listener.signal(Signal::TERM);
    listener.end().exits(143);
    assert_eq!(host.content("ticket"), b"mine");
    assert!(!host.path("ticket.new").exists());
}

/// Row A8: the ticket is in no argument, log, event or environment of a command.
#[test]
fn a8_a_ticket_shows_nowhere_but_where_it_is_given_out() {
    let host = Host::new();
    let listener = host
        .shell(
            "exec \"$FARPIPE\" -vvv listen wss://127.0.0.1:0 --ticket-file ticket --status-fd 3 \
             3>events",
        )
        .start_listening();
    listener.stderr_until(|text| text.contains("--ticket-file ticket\n"));
    let ticket = String::from_utf8(host.content("ticket")).expect("text");
    let ticket = ticket.trim();
    let url = listener.url().to_owned();
    host.farpipe(["-v", "connect", &url, "--ticket-file", ticket])
        .run()
        .exits(2)
        .says(
            "farpipe: --ticket-file takes a file, and was given a ticket, which others can now see in ps
             hint: write it to a file of mode 0600, or set FARPIPE_TICKET",
        );
    let connect = host.farpipe(["-vvv", "connect", &url, "sh:env"]);
    let connected = connect.env(VARIABLE, ticket).run().exits(0);
    let listened = listener.end().exits(0);
    let events = String::from_utf8(host.content("events")).expect("text");
    let environment = String::from_utf8(listened.stdout).expect("text");
    assert!(environment.contains("XDG_RUNTIME_DIR"), "{environment}");
    assert!(events.contains("\"listening\""), "{events}");
    // In any part: the id alone is no secret, what follows is.
    let secret = &ticket["fpt1-".len() + 11..][..32];
    for (what, text) in [
        ("listener", &listened.stderr),
        ("connect", &connected.stderr),
        ("events", &events),
        ("command", &environment),
    ] {
        assert!(!text.contains(secret), "{what}:\n{text}");
        assert!(!text.contains("fpt1-"), "{what}:\n{text}");
    }
}

#[test]
fn what_contradicts_a_ticket_is_refused_before_anything_is_opened() {
    let host = Host::new();
    host.usual_certificates();
    let listener = host.listen("wss").start_listening();
    let ticket = printed_ticket(&listener, 0);
    host.farpipe(["-q", "listen", "wss://127.0.0.1:0"])
        .run()
        .exits(2)
        .says(
            "farpipe: -q would hide the ticket, without which nobody gets in
             hint: write it to a file with --ticket-file, or give --cert, --key and --ca",
        );
    let plain = "farpipe: ws:// has no TLS: tickets mean nothing there
                 hint: write wss://";
    for flags in [["--ticket-file", "t"], ["--ticket-for", "1m"]] {
        host.listen("ws").args(flags).run().exits(2).says(plain);
        let both = host.listen("wss").args(flags).args(shows("server"));
        both.run().exits(2).printed("");
    }
    assert!(!host.path("t").exists());
    connect(&host, "ws://127.0.0.1:1", &ticket)
        .run()
        .exits(2)
        .says(plain);
    connect(&host, listener.url(), &ticket)
        .args(shows("client"))
        .run()
        .exits(2)
        .says(
            "farpipe: a ticket in FARPIPE_TICKET beside certificates: only one of them can let in
             hint: unset FARPIPE_TICKET, or leave out --cert, --key, --ca and --pin",
        );
    // An empty variable is none.
    connect(&host, listener.url(), "").run().exits(125);
    for (verb, url) in [("listen", "wss://127.0.0.1:0"), ("connect", listener.url())] {
        let both = host.farpipe([verb, url, "--ticket-file", "t"]);
        both.args(shows("client")).run().exits(2).printed("");
    }
}
