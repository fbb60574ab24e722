//! Rows A4 to A7 as far as they concern a policy, and what its parts match.

mod properties;
mod reload;
mod table;

use std::ffi::OsString;
use std::path::Path;

use farpipe_net::HostPort;
use farpipe_proto::identity::{Asserting, Caller, Identity, LetInBy};

use super::*;

/// Whom most rules here are for.
const ALICE: &str = "farpipe://example.org/client/alice";

fn policy(text: &str) -> Policy {
    Policy::parse(Path::new("p.yaml"), text.as_bytes().to_vec()).unwrap_or_else(|e| panic!("{e}"))
}

/// A rule for Alice.
fn alices(keys: &str) -> Policy {
    policy(&format!("rules:\n  - who: {ALICE}\n    {keys}\n"))
}

#[track_caller]
fn malformed(text: &str) -> (String, String) {
    let error = Policy::parse(Path::new("p.yaml"), text.as_bytes().to_vec()).expect_err(text);
    (error.to_string(), error.hint)
}

fn identity(text: &str) -> Identity {
    text.parse().expect("an identity")
}

fn shown(text: &str) -> Caller {
    Caller::EndToEnd {
        identity: identity(text),
        fingerprint: [7; 32],
    }
}

fn direct(text: &str) -> Caller {
    Caller::Direct {
        identity: identity(text),
        fingerprint: [7; 32],
    }
}

fn asserted(text: &str, relay: Asserting) -> Caller {
    Caller::RelayAsserted {
        identity: identity(text),
        relay,
    }
}

fn flags(allow: Vec<Allow>) -> Flags {
    Flags {
        allow,
        ..Flags::default()
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[track_caller]
fn address(text: &str) -> HostPort {
    text.parse().expect("an address")
}

/// What is decided on running a program that is where its name says.
fn run(policy: &Policy, caller: &Caller, program: &str, arguments: &[&str]) -> Decision {
    let program = Program::made_up(program, program);
    let exec = Exec {
        program: &program,
        arguments: &words(arguments),
        setting: Setting::default(),
    };
    policy.decide(caller, &Request::Exec(exec))
}

fn is_allowed(decision: &Decision) -> bool {
    matches!(decision, Decision::Allowed { .. })
}

fn by(decision: &Decision) -> String {
    match decision {
        Decision::Allowed { rule, .. } => rule.to_string(),
        Decision::Denied(denied) => panic!("{denied}"),
    }
}

#[track_caller]
fn denied(decision: Decision) -> Denied {
    match decision {
        Decision::Denied(denied) => denied,
        Decision::Allowed { rule, .. } => panic!("allowed by {rule}"),
    }
}
