//! Relays and agents, and the relay's admin.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::{DEADLINE, Host, Listener, Running};

/// A relay that says much, with these arguments.
pub(crate) fn relay(host: &Host, args: &[&str]) -> Listener {
    host.relay("ws").arg("-v").args(args).start_listening()
}

/// An agent that says much and is registered at all of `relays`.
pub(crate) fn agent_at(host: &Host, relays: &str, name: &str, args: &[&str]) -> Running {
    let agent = host.agent_at(relays, name).arg("-v").args(args);
    agent.start_registered(relays.split(',').count())
}

/// The admin of a relay that was started with `--admin-listen 127.0.0.1:0`.
pub(crate) struct Admin(String);

impl Admin {
    #[track_caller]
    pub(crate) fn of(relay: &Running) -> Self {
        Self::called("admin on http://", relay)
    }

    /// What a relay that was started with `--probe-listen` says to a probe.
    #[track_caller]
    pub(crate) fn probes_of(relay: &Running) -> Self {
        Self::called("probes on http://", relay)
    }

    #[track_caller]
    fn called(line: &str, relay: &Running) -> Self {
        let is_there = |text: &str| text.contains(line) && text.ends_with('\n');
        let said = relay.stderr_until(is_there);
        let address = said.lines().find_map(|said| said.strip_prefix(line));
        Self(address.expect("waited for").to_owned())
    }

    /// Status and body of the answer.
    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str) -> (u16, String) {
        self.ask_with(method, path, &format!("Host: {}\r\n", self.0))
    }

    #[track_caller]
    pub(crate) fn ask_with(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.0).expect("the admin listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a span");
        let head = format!("{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        (status.expect("a status"), body.to_owned())
    }

    #[track_caller]
    pub(crate) fn json(&self, method: &str, path: &str) -> serde_json::Value {
        let (status, body) = self.ask(method, path);
        assert!(matches!(status, 200 | 202), "{status} {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// The value of a metric, by its whole name with labels.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let (status, text) = self.ask("GET", "/metrics");
        assert_eq!(status, 200, "{text}");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().expect("a number"))
    }
}
