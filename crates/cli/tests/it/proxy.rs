//! Connections that lead through a proxy, a real one: CONNECT and SOCKS 5, by the flag and by the
//! environment.

use std::net::Ipv4Addr;

use crate::support::net::{foreign_server, silent_port};
use crate::support::pki::shows;
use crate::support::proxy::Proxy;
use crate::support::{Host, Listener, SCHEMES, assert_same, at_once, random};

/// A name that only the proxy can resolve.
const NAME: &str = "listener.example";

/// What the proxy is called in the environment, and its own login: plain and in base64.
const LOGIN: (&str, &str) = ("me:se/cret", "bWU6c2UvY3JldA==");

/// Certificates for a listener that is reached by [`NAME`].
fn certified() -> Host {
    let host = Host::new();
    host.certificates(
        r#"
        ca ca
        issue server ca '1 hour ago' '30 days' $both 'subjectAltName=IP:127.0.0.1,DNS:listener.example'
        issue client ca '1 hour ago' '30 days' $both "$(here client)"
        "#,
    );
    host
}

/// Where a proxy finds `listener`.
fn named(listener: &Listener) -> String {
    listener.url().replace("127.0.0.1", NAME)
}

fn asked_for(listener: &Listener) -> String {
    format!("{NAME}:{}", listener.addr().port())
}

#[test]
fn data_goes_both_ways_through_proxies_that_resolve_the_name() {
    let all = ["wss", "fps"].into_iter();
    let all = all.flat_map(|s| ["http", "socks5h"].map(|kind| (s, kind)));
    at_once(all, |(scheme, kind)| {
        let host = certified();
        let proxy = Proxy::start();
        let (there, back) = (random(3_000_000, 1), random(2_000_000, 2));
        let listen = host.listen(scheme).args(shows("server"));
        let listener = listen.input(back.as_slice()).start_listening();
        let connect = host.connect(&named(&listener)).args(shows("client"));
        let connect = connect.arg(format!("--http-proxy={kind}://{}", proxy.addr()));
        let connected = connect.input(there.as_slice()).run().exits(0);
        assert_same(&connected.stdout, &back);
        assert_eq!(proxy.asked(), [asked_for(&listener)]);
        let listened = listener.end().exits(0);
        assert_same(&listened.stdout, &there);
    });
}

#[test]
fn the_environment_names_the_proxy_and_may_have_its_password() {
    at_once(["http", "socks5h"], |kind| {
        let host = certified();
        let proxy = Proxy::start_with(Some(LOGIN));
        let listen = host.listen("wss").args(shows("server"));
        let listener = listen.args(["--keep", "exec:cat"]).start_listening();
        let value = |login: &str| format!("{kind}://{login}{}", proxy.addr());
        for (variable, url) in [
            ("HTTPS_PROXY", value("me:se%2Fcret@")),
            ("all_proxy", value("me:se/cret@")),
        ] {
            let connect = host.connect(&named(&listener)).args(shows("client"));
            let connect = connect.env(variable, url).input("echo");
            connect.run().exits(0).printed("echo");
        }
        assert_eq!(proxy.asked(), [asked_for(&listener), asked_for(&listener)]);
        for (login, words) in [
            (
                "",
                format!(
                    "wants a user and a password; put them into the environment: \
                     HTTPS_PROXY={kind}://USER:PASSWORD@127.0.0.1:PORT"
                ),
            ),
            (
                "me:wrong@",
                "does not take this user and password".to_owned(),
            ),
        ] {
            let connect = host.connect(&named(&listener)).args(shows("client"));
            let refused = connect.env("HTTPS_PROXY", value(login)).run().exits(125);
            let url = format!("wss://{}", asked_for(&listener));
            refused.says(&format!(
                "farpipe: {url}: the proxy {kind}://127.0.0.1:PORT {words}"
            ));
        }
    });
}

/// The flag is for this run: no variable excepts a host from it. The environment is for whatever
/// leaves this host.
#[test]
fn this_host_and_those_of_no_proxy_are_reached_without_the_environments_proxy() {
    let host = certified();
    let proxy = Proxy::start();
    let listen = host.listen("wss").args(shows("server"));
    let listener = listen.args(["--keep", "exec:cat"]).start_listening();
    let connect = |url: &str| {
        let connect = host.connect(url).args(shows("client")).input("echo");
        connect.env("https_proxy", proxy.addr().to_string())
    };
    connect(listener.url()).run().exits(0).printed("echo");
    let refused = connect(&named(&listener)).env("NO_PROXY", "x,.example");
    let refused = refused.run().exits(125);
    assert!(
        refused.stderr.contains("cannot be resolved"),
        "{}",
        refused.stderr
    );
    assert_eq!(proxy.asked(), [""; 0]);
    let flag = format!("--http-proxy=socks5://{}", proxy.addr());
    let connect = connect(listener.url()).env("NO_PROXY", "*").arg(flag);
    connect.run().exits(0).printed("echo");
    assert_eq!(proxy.asked(), [listener.addr().to_string()]);
}

/// Row N18, after the first link: whatever the proxy says, the session comes back when it can.
#[test]
fn n18_a_proxy_that_cuts_and_refuses_for_a_while_loses_nothing() {
    let host = certified();
    let proxy = Proxy::start();
    let listen = host.listen("wss").args(shows("server"));
    let listener = listen.arg("exec:cat").start_listening();
    let connect = host.connect(&named(&listener)).args(shows("client"));
    let connect = connect.arg(format!("--http-proxy=http://{}", proxy.addr()));
    let mut connect = connect.open_input().start();
    connect.write("one ");
    assert_eq!(connect.stdout_until(4), b"one ");
    let answers = [
        "HTTP/1.1 407 Login\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\n\r\n",
        "Welcome to the hotel!\r\n",
    ];
    for answer in answers {
        proxy.answer(Some(answer));
        let asked = proxy.asked().len();
        proxy.cut();
        // It was told once more than the first time.
        let shown = answer.trim_end().trim_start_matches("HTTP/1.1 ");
        let shown = shown.trim_end_matches(" Login").to_owned();
        let shown = if shown == "407" {
            "wants a user".to_owned()
        } else {
            shown
        };
        connect.stderr_until(|text| text.contains(&shown));
        assert!(proxy.asked().len() > asked);
        proxy.answer(None);
        let before = connect.stdout_until(4).len();
        connect.write("more");
        connect.stdout_until(before + 4);
    }
    connect.close_input();
    connect.end().exits(0).printed("one moremoremoremore");
    listener.end().exits(0);
}

/// Row N17: another network, another address. What matters is who it is, not where from.
#[test]
fn n17_a_session_goes_on_from_another_source_address() {
    at_once(["wss", "fps"], |scheme| {
        let host = certified();
        let proxy = Proxy::start();
        let listen = host.farpipe(["-v", "listen", &format!("{scheme}://127.0.0.1:0")]);
        let listener = listen
            .args(shows("server"))
            .arg("exec:cat")
            .start_listening();
        let connect = host.connect(&named(&listener)).args(shows("client"));
        let connect = connect.arg(format!("--http-proxy=socks5h://{}", proxy.addr()));
        let sent = random(2_000_000, 17);
        let addresses = [[127, 0, 0, 2], [127, 0, 0, 3], [127, 0, 0, 2]].map(Ipv4Addr::from);
        proxy.connect_from(addresses[0]);
        let mut connect = connect.open_input().start();
        let mut echoed = 0;
        for (part, next) in sent.chunks(sent.len() / 3 + 1).zip([1, 2, 2]) {
            connect.write(part);
            // In the middle of the part, and with what is on its way.
            connect.stdout_until(echoed + 1);
            proxy.connect_from(addresses[next]);
            proxy.cut();
            echoed += part.len();
            connect.stdout_until(echoed);
        }
        connect.close_input();
        assert_same(&connect.end().exits(0).stdout, &sent);
        let log = listener.end().exits(0).stderr;
        for address in &addresses[..2] {
            assert!(log.contains(&format!("{address}:")), "{log}");
        }
    });
}

/// Row N18, before the first link: it is told and final.
#[test]
fn n18_a_proxy_that_does_not_let_us_through_is_named_with_its_answer() {
    let host = certified();
    let (nobody, _port) = silent_port();
    let cases = [
        (
            foreign_server("HTTP/1.1 403 Forbidden\r\n\r\n"),
            "answers HTTP 403 Forbidden: it does not allow this host or port",
        ),
        (
            foreign_server("HTTP/1.1 502 Bad Gateway\r\n\r\n<html>"),
            "answers HTTP 502 Bad Gateway: what is behind it does not answer",
        ),
        (
            foreign_server("220 mail.example ESMTP\r\n"),
            "does not speak HTTP: it began with \"220 mail.example ESMTP\\r\\n\"",
        ),
        (
            nobody,
            "cannot be reached: Connection refused (os error 111)",
        ),
    ];
    at_once(cases, |(addr, words)| {
        let connect = host.connect("wss://listener.example:7000");
        let connect = connect.args(shows("client"));
        let connect = connect.arg(format!("--http-proxy=http://me@{addr}"));
        let refused = connect.run().exits(125).printed("");
        refused.says(&format!(
            "farpipe: wss://listener.example:7000: the proxy http://127.0.0.1:PORT {words}"
        ));
    });
    let (nobody, _port) = silent_port();
    let proxy = Proxy::start();
    for (kind, words) in [
        (
            "http",
            "answers HTTP 503 Service Unavailable: what is behind it does not answer",
        ),
        ("socks5", "answers: connection refused"),
    ] {
        let connect = host
            .connect(&format!("wss://{nobody}"))
            .args(shows("client"));
        let connect = connect.arg(format!("--http-proxy={kind}://{}", proxy.addr()));
        connect.run().exits(125).says(&format!(
            "farpipe: wss://127.0.0.1:PORT: the proxy {kind}://127.0.0.1:PORT {words}"
        ));
    }
}

#[test]
fn without_tls_proxy_and_listener_must_be_on_this_host() {
    for scheme in SCHEMES {
        let host = Host::new();
        let proxy = Proxy::start();
        let listen = host.listen(scheme).args(["--keep", "exec:cat"]);
        let listener = listen.start_listening();
        let flag = |at: &str| format!("--http-proxy=http://{at}");
        let ours = flag(&proxy.addr().to_string());
        let connect = host.connect(listener.url()).arg(&ours).input("echo");
        connect.run().exits(0).printed("echo");
        assert_eq!(proxy.asked().len(), 1);
        let connect = host.connect(listener.url()).arg(flag("192.0.2.1:3128"));
        connect.run().exits(125).says(&format!(
            "farpipe: {scheme}://127.0.0.1:PORT: the proxy http://192.0.2.1:3128 is not on this \
             host; without TLS only loopback is allowed"
        ));
        let connect = host
            .connect(&format!("{scheme}://192.0.2.1:7000"))
            .arg(&ours);
        connect.run().exits(125).says(&format!(
            "farpipe: {scheme}://192.0.2.1:7000: 192.0.2.1 is not on this host; without TLS only \
             loopback is allowed"
        ));
        assert_eq!(proxy.asked().len(), 1);
    }
}

#[test]
fn a_proxys_password_is_never_an_argument_and_never_shown() {
    let host = Host::new();
    for (proxy, words) in [
        (
            "http://me:secret@p:3128",
            "farpipe: --http-proxy: a password does not belong into an argument or a configuration file
             hint: put the URL into the environment, as HTTPS_PROXY",
        ),
        (
            "https://me:secret@p:3128",
            "farpipe: --http-proxy: a proxy behind TLS (https://) cannot be used
             hint: for example http://proxy.example:3128 or socks5h://127.0.0.1:PORT",
        ),
    ] {
        let connect = host.connect("wss://listener.example:1");
        let connect = connect.args(["--http-proxy", proxy]);
        connect.run().exits(2).says(words);
    }
    let connect = host.connect("wss://listener.example:1");
    let connect = connect.env("ALL_PROXY", "http://me:secret@p:x");
    connect.run().exits(2).says(
        "farpipe: ALL_PROXY: the port is no number from 0 to 65535
         hint: for example http://proxy.example:3128 or socks5h://127.0.0.1:PORT",
    );
}
