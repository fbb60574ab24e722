//! Who is who: what each end says of certificates that are not right.

use std::sync::Arc;

use super::super::pki::Pki;
use super::{PKI, Play, acceptor, alice, opener, options, play, web1};
use crate::SessionEnd;
use crate::clock::WallClock;
use crate::tls::{OpenerSeal, SealOptions};

/// What each end says when certificates are not right.
#[tokio::test(start_paused = true)]
async fn certificates_that_are_refused_are_refused_in_words_at_both_ends() {
    let other = Pki::new();
    other.issue_to("client", "alice", "alice.example");
    other.issue_to("agent", "web1", "web1.agent.farpipe");
    let later = || {
        let by = std::sync::atomic::AtomicI64::new(30 * 86_400);
        WallClock::Moved(Arc::new(by))
    };
    let moved = |who: &str| SealOptions {
        clock: later(),
        ..options(&PKI, who)
    };
    let cases = [
        (
            "an agent's certificate of another authority",
            alice(),
            Some(acceptor(SealOptions {
                ca: PKI.path("ca.pem"),
                ..options(&other, "agent-web1")
            })),
            "the server was refused: unknown certificate authority",
            "the client refused this certificate: unknown certificate authority",
        ),
        (
            "an expired agent",
            Some(opener(moved("client-alice"))),
            web1(),
            "the server was refused: certificate expired",
            "the client refused this certificate: certificate expired",
        ),
        (
            "another agent",
            alice(),
            Some(acceptor(options(&PKI, "agent-web2"))),
            "certificate is not for web1.agent.farpipe",
            "the client refused this certificate",
        ),
        (
            "a client's certificate with the agent's name",
            alice(),
            Some(acceptor(options(&PKI, "client-web1"))),
            "its certificate is that of farpipe://test/client/web1, not of the agent web1",
            "the client refused this certificate: certificate not acceptable",
        ),
        (
            "an opener of another authority",
            Some(opener(SealOptions {
                ca: PKI.path("ca.pem"),
                ..options(&other, "client-alice")
            })),
            web1(),
            "the server refused this certificate: unknown certificate authority",
            "the client was refused: unknown certificate authority",
        ),
        (
            "an expired opener",
            alice(),
            Some(acceptor(moved("agent-web1"))),
            "the server refused this certificate: certificate expired",
            "the client was refused: certificate expired",
        ),
        (
            "a relay as the opener",
            Some(opener(options(&PKI, "relay-hub"))),
            web1(),
            "the server refused this certificate: certificate not acceptable",
            "its certificate is that of farpipe://test/relay/hub, and neither a client's nor an \
             agent's",
        ),
    ];
    for (what, opener, acceptor, opened_words, accepted_words) in cases {
        let outcome = play(Play {
            opener,
            acceptor,
            len: 1_000,
            ..Play::default()
        })
        .await;
        let (opened, accepted) = outcome.words();
        assert!(opened.contains(opened_words), "{what}: {opened}");
        assert!(accepted.contains(accepted_words), "{what}: {accepted}");
        assert!(
            matches!(outcome.opened, Some(Err(SessionEnd::Refused(_)))),
            "{what}"
        );
        assert!(
            outcome.got_there.is_empty() && outcome.got_back.is_empty(),
            "{what}"
        );
        assert_eq!(outcome.peer, None, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_a_certificate_says_so() {
    let outcome = play(Play {
        acceptor: None,
        ..Play::default()
    })
    .await;
    let Some(Err(SessionEnd::Refused(why))) = outcome.opened else {
        panic!("{:?}", outcome.words());
    };
    assert!(why.contains("this agent has no certificate"), "{why}");
}

#[test]
fn an_agent_has_a_name_that_is_one() {
    for wrong in ["", "Web1", "web1/../x", "web 1", "*"] {
        let error = OpenerSeal::new(options(&PKI, "client-alice"), wrong).expect_err("no name");
        assert!(error.to_string().contains("no name of an agent"), "{error}");
    }
}
