//! `farpipe doctor` through proxies, and where something on the way changes HTTP: each step of the way
//! to the proxy and from there is told as what it is (row N18).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::doctor::{doctor, fails, steps};
use crate::support::net::{foreign_server, serve, silent_port};
use crate::support::pki::shows;
use crate::support::proxy::Proxy;
use crate::support::{Host, assert_text};

const PORTAL: &str = "a network that wants a login first answers so (a captive portal): open \
                      http://example.com/ in a browser, log in, and try again";

const REACHED: &str =
    "proxy-name ok 127.0.0.1 is an address\nproxy-tcp ok connected to 127.0.0.1:PORT\n";

fn through(kind: &str, at: SocketAddr) -> String {
    format!("--http-proxy={kind}://{at}")
}

#[test]
fn n18_the_way_through_a_proxy_is_told_step_by_step() {
    let host = Host::new();
    host.usual_certificates();
    let listen = host.listen("wss").args(shows("server")).arg("--keep");
    let listener = listen.arg("exec:cat").start_listening();
    let proxy = Proxy::start();
    for (kind, before, answer) in [
        ("http", "", "HTTP 200 Connected"),
        ("socks5h", "", "SOCKS 5: connected"),
        (
            "socks5",
            "name ok 127.0.0.1 is an address\n",
            "SOCKS 5: connected",
        ),
    ] {
        let doctor = doctor(&host, listener.url()).args(shows("client"));
        let ended = doctor.arg(through(kind, proxy.addr())).run().exits(0);
        let told = steps(&ended);
        let expected =
            format!("{before}{REACHED}proxy ok answers {answer} for 127.0.0.1:PORT\ntls ok ");
        assert!(told.starts_with(&expected), "{told}");
        assert!(told.contains("\nupgrade ok "), "{told}");
        assert!(told.contains("\nfarpipe ok "), "{told}");
    }
}

#[test]
fn n18_each_failure_of_a_proxy_is_told_at_its_step_with_what_to_do() {
    let host = Host::new();
    let url = "wss://listener.example:7000";
    let listener = "the proxy works and does not reach the listener: start `farpipe listen` there, \
                    and see that its host and port are right, as the proxy sees them";
    let cases = [
        (
            "HTTP/1.1 403 Forbidden\r\n\r\n",
            "answers HTTP 403 Forbidden: it does not allow this host or port",
            "ask whoever runs the proxy to allow it, or listen on port 443, which most allow",
        ),
        (
            "HTTP/1.1 407 Login\r\n\r\n",
            "wants a user and a password",
            "put them into the environment: HTTPS_PROXY=http://USER:PASSWORD@127.0.0.1:PORT",
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: https://login.hotel.example/\r\n\r\n",
            "answers HTTP 302 Found and says to go to https://login.hotel.example/",
            &format!("{PORTAL}; the page is https://login.hotel.example/"),
        ),
        (
            "HTTP/1.1 502 Bad Gateway\r\n\r\n",
            "answers HTTP 502 Bad Gateway: what is behind it does not answer",
            listener,
        ),
        (
            "",
            "ended the connection before it answered",
            "it may refuse this host or port without a word, or not be that kind of proxy: ask \
             whoever runs it; most allow port 443",
        ),
        (
            "SSH-2.0-OpenSSH_9.2\r\n",
            "does not speak HTTP: it began with \"SSH-2.0-OpenSSH_9.2\\r\\n\"",
            "another program listens on that port: give the one of a proxy, with the scheme that it \
             speaks: http://, socks5:// or socks5h://",
        ),
    ];
    for (answer, words, hint) in cases {
        fails(
            doctor(&host, url).arg(through("http", foreign_server(answer))),
            &format!("{REACHED}proxy failed"),
            &format!("farpipe: {url}: the proxy http://127.0.0.1:PORT {words}\nhint: {hint}"),
        );
    }
    fails(
        doctor(&host, url).arg(through("socks5h", foreign_server(b"\x05\x00\x05\x02"))),
        &format!("{REACHED}proxy failed"),
        &format!(
            "farpipe: {url}: the proxy socks5h://127.0.0.1:PORT answers: its rules do not allow this \
             connection
             hint: ask whoever runs the proxy to allow this host and port"
        ),
    );
    let (nobody, _guard) = silent_port();
    fails(
        doctor(&host, url).arg(through("http", nobody)),
        "proxy-name ok 127.0.0.1 is an address\nproxy-tcp failed",
        &format!(
            "farpipe: {url}: the proxy http://127.0.0.1:PORT cannot be reached: Connection refused \
             (os error 111)
             hint: nothing listens on the proxy's port: see that host and port are right; 1080 is \
             taken if none is given, and many have 3128 or 8080"
        ),
    );
    let unknown = doctor(&host, url).arg("--http-proxy=http://proxy.invalid:3128");
    let unknown = unknown.run().exits(125);
    assert_text(&steps(&unknown), "proxy-name failed");
    for words in [
        "the proxy http://proxy.invalid:3128 cannot be reached: its name cannot be resolved: ",
        "\nhint: see that the proxy's host is spelled as it is known",
    ] {
        assert!(unknown.stderr.contains(words), "{}", unknown.stderr);
    }
}

#[test]
fn n18_a_login_page_in_the_place_of_a_connection_is_called_one() {
    let host = Host::new();
    let page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>log in</html>";
    let url = "wss://listener.example:7000";
    fails(
        doctor(&host, url).arg(through("http", foreign_server(page))),
        &format!(
            "{REACHED}proxy ok answers HTTP 200 OK for listener.example:7000, and a web page\n\
             tls failed"
        ),
        &format!(
            "farpipe: {url}: the proxy http://127.0.0.1:PORT answers with a web page instead of a \
             connection\nhint: {PORTAL}"
        ),
    );
}

/// A proxy on the way that takes the headers away which are for the next hop only, as RFC 9110 has
/// it, and does not know that this is an upgrade.
#[test]
fn n18_an_upgrade_that_is_stripped_on_the_way_is_told() {
    let host = Host::new();
    let listener = host.listen("ws").args(["--keep", "exec:cat"]);
    let listener = listener.start_listening();
    let to = listener.addr();
    let proxy = serve(move |mut client| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && client.read_exact(&mut byte).is_ok() {
            head.extend(byte);
        }
        let head = String::from_utf8(head).expect("text");
        let kept = head.split_inclusive("\r\n");
        let kept: String = kept
            .filter(|line| !line.starts_with("Upgrade:") && !line.starts_with("Connection:"))
            .collect();
        let mut server = TcpStream::connect(to).expect("the listener");
        server
            .write_all(kept.as_bytes())
            .expect("the listener reads");
        let _ = std::io::copy(&mut server, &mut client);
    });
    fails(
        doctor(&host, &format!("ws://{proxy}")),
        "name ok 127.0.0.1 is an address\ntcp ok connected to 127.0.0.1:PORT\nupgrade failed",
        "farpipe: ws://127.0.0.1:PORT: the server answered HTTP 426 Upgrade Required instead of \
         upgrading to WebSocket: This is a farpipe endpoint: only WebSocket connections are served \
         here.
         hint: a proxy on the way strips the upgrade: let it pass the headers Upgrade and Connection \
         on, in HTTP/1.1",
    );
}
