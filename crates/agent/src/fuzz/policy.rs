//! Policies: whole, cut off, and asked.

use std::ffi::OsString;
use std::path::Path;

use farpipe_net::HostPort;
use farpipe_proto::identity::{Asserting, Caller, LetInBy};

use crate::policy::{Decision, Policy, Request, Setting};

/// A policy's file, whose first two bytes say where it is cut off. What is refused says where; and half
/// of a policy allows nothing that the whole does not.
pub fn policy(data: &[u8]) {
    let Some((cut, text)) = data.split_first_chunk::<2>() else {
        return;
    };
    let path = Path::new("policy");
    let whole = match Policy::parse(path, text.to_vec()) {
        Ok(whole) => whole,
        Err(error) => {
            assert!(error.to_string().starts_with("policy"), "{error}");
            return;
        }
    };
    assert_eq!(whole.is_empty(), whole.grants() == 0);
    let cut = usize::from(u16::from_be_bytes(*cut)) % (text.len() + 1);
    let Ok(half) = Policy::parse(path, text[..cut].to_vec()) else {
        return;
    };
    for caller in callers() {
        asked(|request| {
            let allowed = |policy: &Policy| {
                matches!(policy.decide(&caller, &request), Decision::Allowed { .. })
            };
            let said = String::from_utf8_lossy(&text[..cut]);
            assert!(
                !allowed(&half) || allowed(&whole),
                "{caller} may {request} by half of it: {said:?}"
            );
        });
    }
}

fn callers() -> Vec<Caller> {
    let who = |name: &str| name.parse().expect("an identity");
    vec![
        Caller::ThisUser,
        Caller::EndToEnd {
            identity: who("farpipe://a/client/b"),
            fingerprint: [1; 32],
        },
        Caller::RelayAsserted {
            identity: who("farpipe://a/client/b"),
            relay: Asserting::Another,
        },
        Caller::Unnamed(LetInBy::Ticket),
    ]
}

/// Things that may be asked for, of the names that the seeds have.
fn asked(mut ask: impl FnMut(Request<'_>)) {
    for path in ["/", "/no", "/no/a", "/no/a/b", "/no/a b"] {
        let path = Path::new(path);
        ask(Request::Read(path));
        ask(Request::Write(path));
        ask(Request::ConnectUnix(path));
        ask(Request::ListenUnix(path));
        ask(Request::Shell(Setting {
            environment: &[],
            directory: Some(path),
        }));
    }
    for (host, port) in [("db", 80), ("db.a", 8080), ("10.0.0.1", 80), ("::1", 1)] {
        let there = HostPort {
            host: host.to_owned(),
            port,
        };
        ask(Request::Connect(&there));
        ask(Request::Listen(&there));
    }
    for topic in ["a", "a.b", "logs.x"] {
        ask(Request::Publish(topic));
        ask(Request::Subscribe(topic));
    }
    for name in ["LANG", "X_A", "LD_PRELOAD"] {
        let environment = [OsString::from(name)];
        ask(Request::Shell(Setting {
            environment: &environment,
            directory: None,
        }));
    }
}
