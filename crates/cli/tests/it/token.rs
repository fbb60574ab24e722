//! `farpipe token`: printed once, kept as a hash, refused where others could see it.

use std::os::unix::fs::PermissionsExt as _;

use farpipe_net::WallClock;
use farpipe_net::tls::PeerIdentity;
use farpipe_net::token::{Admitted, Scope, TokenRefusal, TokenStore};

use sha2::Digest as _;

use crate::support::{Ended, Host, at_once};

fn issue(host: &Host, args: &[&str]) -> String {
    let ended = host
        .farpipe(["token", "issue", "--store", "t.yaml"])
        .args(args)
        .run()
        .exits(0);
    let text = String::from_utf8(ended.stdout.clone()).expect("text");
    let token = text.strip_suffix('\n').expect("one line").to_owned();
    hidden(&ended.stderr, &token);
    token
}

/// Neither the token nor its secret is in there.
#[track_caller]
fn hidden(text: &str, token: &str) {
    let secret = token.split('.').nth(1).expect("a secret");
    assert!(secret.len() == 43 && !text.contains(secret), "{text}");
}

fn id(token: &str) -> &str {
    let id = token.strip_prefix("fpk1-").expect("a token");
    id.split('.').next().expect("an id")
}

fn ls(host: &Host) -> String {
    let ended = host
        .farpipe(["token", "ls", "--store", "t.yaml"])
        .run()
        .exits(0);
    String::from_utf8(ended.stdout).expect("text")
}

/// What a token lets in whose secret was proven, with a certificate of that fingerprint.
fn admit(
    host: &Host,
    token: &str,
    scope: &Scope,
    shown: Option<[u8; 32]>,
) -> Result<Admitted, TokenRefusal> {
    let store = TokenStore::new(host.path("t.yaml"), WallClock::System);
    let shown = shown.map(|fingerprint| PeerIdentity {
        identity: None,
        subject: String::new(),
        fingerprint,
        vouched: Default::default(),
    });
    let id = id(token).parse().expect("an id");
    store.admit(id, scope, &[], shown.as_ref())
}

#[test]
fn a2_a_token_is_printed_once_listed_without_its_secret_and_revoked() {
    let host = Host::new();
    let token = issue(
        &host,
        &["alice", "--scope", "attach", "--scope", "publish:logs."],
    );
    let listed = ls(&host);
    hidden(&listed, &token);
    let line = format!(
        "{}  good     29d left   farpipe://local/client/alice  attach,publish:logs.\n",
        id(&token)
    );
    assert_eq!(listed, line);
    hidden(&String::from_utf8_lossy(&host.content("t.yaml")), &token);
    let mode = std::fs::metadata(host.path("t.yaml"))
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let admitted = admit(&host, &token, &Scope::Attach, None);
    assert_eq!(admitted.expect("good").identity.name(), "alice");
    let revoke = host.farpipe(["token", "revoke", "--store", "t.yaml", id(&token)]);
    revoke
        .run()
        .exits(0)
        .says(&format!("token {} is revoked\n", id(&token)));
    assert!(ls(&host).contains("  revoked  "));
    assert!(admit(&host, &token, &Scope::Attach, None).is_err());
    let unknown = host.farpipe(["token", "revoke", "--store", "t.yaml", "0123456789abcdef"]);
    unknown.run().exits(125).says(
        "farpipe: no token has the id 0123456789abcdef\nhint: `farpipe token ls` lists them\n",
    );
}

#[test]
fn a3_join_tokens_are_good_once() {
    let host = Host::new();
    let token = issue(
        &host,
        &[
            "farpipe://example.org/agent/db",
            "--scope",
            "join",
            "--expires",
            "1h",
        ],
    );
    assert!(ls(&host).contains("farpipe://example.org/agent/db  join once\n"));
    assert!(admit(&host, &token, &Scope::Join, None).is_ok());
    assert!(admit(&host, &token, &Scope::Join, None).is_err());
    assert!(ls(&host).contains("  used  "));
    let json = host
        .farpipe(["token", "ls", "--json", "--store", "t.yaml"])
        .run()
        .exits(0);
    assert!(String::from_utf8_lossy(&json.stdout).contains(r#""state":"used""#));
}

#[test]
fn a2_a_token_can_be_bound_to_a_certificate() {
    let host = Host::new();
    host.usual_certificates();
    let token = issue(&host, &["alice", "--bind", "client.pem"]);
    let admit = |shown| admit(&host, &token, &Scope::Attach, shown);
    assert!(admit(None).is_err());
    assert!(admit(Some([0; 32])).is_err());
    let pem = farpipe_net::tls::read_certificate(&host.path("client.pem")).expect("a certificate");
    let digest = sha2::Sha256::digest(&pem).into();
    assert!(admit(Some(digest)).is_ok());
}

#[test]
fn two_processes_at_once_lose_no_token() {
    let host = Host::new();
    at_once(0..16, |n| {
        issue(&host, &[&format!("user{n}")]);
    });
    assert_eq!(ls(&host).lines().count(), 16);
}

/// As it is used, and not where it would replace something.
#[test]
fn a_token_can_be_written_to_a_file_that_only_its_user_reads() {
    let host = Host::new();
    let args = ["token", "issue", "--store", "t.yaml", "alice"];
    let issue = host.farpipe(args).args(["--token-file", "alice.token"]);
    let said = issue.run().exits(0).printed("").said();
    let token = String::from_utf8(host.content("alice.token")).expect("text");
    hidden(&said, token.trim_end());
    let mode = std::fs::metadata(host.path("alice.token"))
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(admit(&host, token.trim_end(), &Scope::Attach, None).is_ok());
    let again = host.farpipe(args).args(["--token-file", "alice.token"]);
    let said = again.run().exits(125).said();
    assert!(said.contains("alice.token: File exists"), "{said}");
    assert_eq!(ls(&host).lines().count(), 1);
    let nowhere = ["token", "issue", "--store", "alice.token/t.yaml", "alice"];
    let nowhere = host.farpipe(nowhere).args(["--token-file", "bob.token"]);
    nowhere.run().exits(125);
    assert!(!host.path("bob.token").exists());
}

#[test]
fn tokens_are_revoked_by_whom_they_stand_for() {
    let host = Host::new();
    let tokens = ["alice", "bob", "alice"].map(|who| issue(&host, &[who]));
    let revoke = |who: &str| {
        let revoke = host.farpipe(["token", "revoke", "--store", "t.yaml", who]);
        revoke.run()
    };
    let ids = [&tokens[0], &tokens[2]].map(|token| format!("token {} is revoked\n", id(token)));
    revoke("alice").exits(0).says(&ids.concat());
    let good = |token: &String| admit(&host, token, &Scope::Attach, None).is_ok();
    assert_eq!(tokens.each_ref().map(good), [false, true, false]);
    for who in ["alice", "farpipe://local/agent/bob"] {
        let said = revoke(who).exits(125).said();
        assert!(said.contains("no token that is good stands for"), "{said}");
    }
    let said = revoke("Not a name").exits(2).said();
    assert!(said.contains("a token's id has 16 digits"), "{said}");
}

#[test]
fn a8_a_token_is_nothing_to_type_and_no_message_shows_it() {
    let host = Host::new();
    let token = issue(&host, &["alice"]);
    let shows_nothing = |ended: &Ended| {
        hidden(&ended.stderr, &token);
        hidden(&String::from_utf8_lossy(&ended.stdout), &token);
    };
    let revoke = host
        .farpipe(["token", "revoke", "--store", "t.yaml", &token])
        .run()
        .exits(2);
    assert!(
        revoke.stderr.contains("which others can now see in ps"),
        "{}",
        revoke.stderr
    );
    shows_nothing(&revoke);
    // Nor most of one, nor in a place for something else.
    let most = &token[..token.len() - 3];
    for args in [
        vec!["token", "revoke", "--store", "t.yaml", most],
        vec!["token", "issue", "--store", "t.yaml", &token],
        vec![
            "token", "issue", "--store", "t.yaml", "bob", "--scope", &token,
        ],
        vec!["policy", "test", "--as", &token, "shell"],
        vec!["connect", &token],
        vec![&token],
    ] {
        let ended = host.farpipe(&args).run();
        shows_nothing(&ended);
    }
    host.file("c.yaml", format!("token_file: {token}\n"));
    shows_nothing(&host.farpipe(["config", "check", "c.yaml"]).run().exits(2));
    // What a command is started with has no token in it.
    let pipe = host
        .farpipe(["pipe", "sh:env", "-"])
        .env("FARPIPE_TOKEN", &token)
        .run()
        .exits(0);
    shows_nothing(&pipe);
}

#[test]
fn a6_a_store_that_others_can_read_is_not_used() {
    let host = Host::new();
    issue(&host, &["alice"]);
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(host.path("t.yaml"), open).expect("ours");
    let ls = host.farpipe(["token", "ls", "--store", "t.yaml"]).run();
    ls.exits(125).printed("").says(
        "farpipe: t.yaml: this token store is open to others (mode 0644)\nhint: chmod 600 t.yaml\n",
    );
}
