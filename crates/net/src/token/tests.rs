//! Rows A2 and A3 of tokens: what each wrong one is told, and what survives a crash or a race.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use farpipe_proto::identity::{Fingerprint, Identity};
use proptest::prelude::*;

use super::*;
use crate::clock::WallClock;
use crate::system_random;
use crate::tls::PeerIdentity;

const HOUR: Duration = Duration::from_secs(3600);

struct Scene {
    dir: tempfile::TempDir,
    later: Arc<AtomicI64>,
    store: TokenStore,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let later = Arc::new(AtomicI64::new(0));
        let clock = WallClock::Moved(Arc::clone(&later));
        let store = TokenStore::new(dir.path().join("tokens.yaml"), clock);
        Self { dir, later, store }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("tokens.yaml")
    }

    /// Another process with the same file.
    fn another(&self) -> TokenStore {
        TokenStore::new(self.path(), WallClock::System)
    }

    fn issue(&self, wanted: Wanted) -> Token {
        self.store.issue(wanted, system_random).expect("issued")
    }
}

fn alice() -> Identity {
    "farpipe://example.org/client/alice"
        .parse()
        .expect("an identity")
}

fn wanted(scopes: &[Scope]) -> Wanted {
    Wanted {
        identity: alice(),
        scopes: scopes.to_vec(),
        valid_for: HOUR,
        once: false,
        bound_to: None,
    }
}

const NONCES: [[u8; 32]; 2] = [[1; 32], [2; 32]];

/// Proves a token, and asks for something with it.
fn admit(
    store: &TokenStore,
    token: &Token,
    scope: &Scope,
    shown: Option<&PeerIdentity>,
) -> Result<Admitted, TokenRefusal> {
    let [dialling, accepting] = &NONCES;
    let proof = token.prove("label", dialling, accepting);
    store.verify(&token.id.0, "label", dialling, accepting, &proof)?;
    store.admit(token.id(), scope, &[], shown)
}

fn admits(store: &TokenStore, token: &Token, scope: &Scope) -> bool {
    admit(store, token, scope, None).is_ok()
}

fn certificate(identity: &str, fingerprint: Fingerprint) -> PeerIdentity {
    PeerIdentity {
        identity: identity.parse().ok(),
        subject: String::new(),
        fingerprint,
        vouched: Default::default(),
    }
}

#[test]
fn a_token_survives_copying_and_a_slip_is_noticed() {
    let token = Token::generate(system_random);
    let text = token.reveal();
    let read: Token = format!(" {}\n", *text).parse().expect("the same");
    assert_eq!((read.id(), read.digest()), (token.id(), token.digest()));
    assert_eq!(format!("{token:?}"), format!("Token({}, ..)", token.id()));
    for at in PREFIX.len()..text.len() {
        let mut slip = text.as_bytes().to_vec();
        slip[at] = if slip[at] == b'0' { b'1' } else { b'0' };
        let slip = String::from_utf8(slip).expect("ASCII");
        assert_eq!(slip.parse::<Token>().expect_err(&slip), TokenError::Damaged);
    }
    for cut in PREFIX.len()..text.len() {
        assert!(text[..cut].parse::<Token>().is_err(), "{cut}");
    }
    assert_eq!(
        "hello".parse::<Token>().expect_err("no"),
        TokenError::NoToken
    );
}

#[test]
fn a4_a_token_has_one_spelling_whatever_its_checksum_says() {
    let summed = |text: &str| format!("{text}.{:08x}", crc32fast::hash(text.as_bytes()));
    let token = Token::generate(system_random).reveal();
    let (inner, _) = token.rsplit_once('.').expect("a checksum");
    assert!(summed(inner).parse::<Token>().is_ok());
    for more in [".", ".x", ".attach", "=", "A"] {
        let text = summed(&format!("{inner}{more}"));
        assert!(text.parse::<Token>().is_err(), "{text}");
    }
}

#[test]
fn a2_a_good_token_lets_in_whom_it_stands_for() {
    let scene = Scene::new();
    let token = scene.issue(wanted(&[Scope::Attach, Scope::Publish("logs.".to_owned())]));
    let admitted = admit(&scene.store, &token, &Scope::Attach, None).expect("good");
    assert_eq!((admitted.id, admitted.identity), (token.id(), alice()));
    assert!(admits(
        &scene.another(),
        &token,
        &Scope::Publish("logs.app".to_owned())
    ));
    let file = std::fs::read_to_string(scene.path()).expect("written");
    let secret = token.reveal();
    let secret = secret.split('.').nth(1).expect("the secret");
    assert!(!file.contains(secret), "{file}");
    let mode = std::fs::metadata(scene.path())
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a2_each_wrong_token_is_refused_with_the_reason_for_the_log() {
    let scene = Scene::new();
    let good = scene.issue(wanted(&[Scope::Attach, Scope::Publish("logs.".to_owned())]));
    let other = scene.issue(wanted(&[Scope::Attach]));
    let revoked = scene.issue(wanted(&[Scope::Attach]));
    let bound = scene.issue(Wanted {
        bound_to: Some([1; 32]),
        ..wanted(&[Scope::Attach])
    });
    scene.store.revoke(revoked.id()).expect("it is there");
    scene.store.revoke(revoked.id()).expect("again");
    let mixed = Token {
        id: good.id,
        secret: other.secret.clone(),
    };
    let why = |token: &Token, scope: &Scope, shown: Option<&PeerIdentity>| {
        let refused = admit(&scene.store, token, scope, shown).expect_err("refused");
        let said = refused.to_string();
        let text = token.reveal();
        let secret = text.split('.').nth(1).expect("a secret");
        assert!(!said.contains(secret), "{said}");
        said
    };
    let attach = Scope::Attach;
    let mine = "farpipe://example.org/client/alice";
    let cases = [
        (
            why(&Token::generate(system_random), &attach, None),
            "no token has the id",
        ),
        (why(&mixed, &attach, None), "its secret was not proven"),
        (why(&revoked, &attach, None), "client/alice: revoked"),
        (why(&good, &Scope::Register, None), "not for register"),
        (why(&good, &Scope::Join, None), "not for join"),
        (
            why(&good, &Scope::Publish("log".to_owned()), None),
            "not for publish:log",
        ),
        (
            why(&good, &Scope::Subscribe("logs.a".to_owned()), None),
            "not for subscribe:logs.a",
        ),
        (why(&bound, &attach, None), "bound to another certificate"),
        (
            why(&bound, &attach, Some(&certificate(mine, [2; 32]))),
            "bound to another certificate",
        ),
        (
            why(
                &good,
                &attach,
                Some(&certificate("farpipe://example.org/client/bob", [1; 32])),
            ),
            "client/alice: the certificate is of farpipe://example.org/client/bob",
        ),
    ];
    for (said, expected) in cases {
        assert!(said.contains(expected), "{said}: {expected}");
    }
    for certificate in [certificate(mine, [1; 32]), certificate("", [1; 32])] {
        assert!(admit(&scene.store, &bound, &attach, Some(&certificate)).is_ok());
    }
    assert!(admits(&scene.store, &good, &attach));
    scene.later.store(3599, Ordering::Relaxed);
    assert!(admits(&scene.store, &good, &attach));
    scene.later.store(3601, Ordering::Relaxed);
    assert!(why(&good, &attach, None).contains("client/alice: expired"));
}

/// Row A3: neither the store nor a recorded proof is enough.
#[test]
fn a3_a_proof_is_good_in_its_own_handshake_alone_and_the_digest_is_no_secret() {
    let scene = Scene::new();
    let token = scene.issue(wanted(&[Scope::Attach]));
    let [dialling, accepting] = &NONCES;
    let proof = token.prove("label", dialling, accepting);
    let verify = |label, dialling, accepting, proof: &[u8]| {
        let verified = scene
            .store
            .verify(&token.id.0, label, dialling, accepting, proof);
        verified.is_ok()
    };
    assert!(verify("label", dialling, accepting, &proof));
    assert!(!verify("other", dialling, accepting, &proof));
    assert!(!verify("label", &[9; 32], accepting, &proof));
    assert!(!verify("label", dialling, &[9; 32], &proof));
    assert!(!verify("label", dialling, accepting, &proof[..31]));
    assert!(!verify(
        "label",
        dialling,
        accepting,
        &[&proof[..], &[0]].concat()
    ));
    assert!(!verify("label", dialling, accepting, &[]));
    // Who has the digest in the place of the secret.
    let thief = Token {
        id: token.id,
        secret: token.digest().into(),
    };
    let stolen = thief.prove("label", dialling, accepting);
    assert!(!verify("label", dialling, accepting, &stolen));
    let mask = scene.store.prove(&token.id.0, "label", dialling, accepting);
    assert!(!verify("label", dialling, accepting, &mask));
    let masked = Token::unmasked(&token.digest(), &mask);
    assert!(!verify("label", dialling, accepting, masked.as_slice()));
    // Each side knows the other: an unknown id gets a proof that is nobody's.
    assert!(token.verify("label", dialling, accepting, &mask));
    let stranger = Token::generate(system_random);
    let made_up = scene
        .store
        .prove(&stranger.id.0, "label", dialling, accepting);
    assert!(!stranger.verify("label", dialling, accepting, &made_up));
    let again = scene
        .store
        .prove(&stranger.id.0, "label", dialling, accepting);
    assert_eq!(
        made_up, again,
        "it cannot be told from a known one by asking twice"
    );
    assert_ne!(
        made_up,
        scene
            .another()
            .prove(&stranger.id.0, "label", dialling, accepting)
    );
}

/// A session that has lost its link comes again; nobody else does.
#[test]
fn a3_a_token_that_is_good_once_is_good_for_its_user_again() {
    let scene = Scene::new();
    let token = scene.issue(Wanted {
        once: true,
        ..wanted(&[Scope::Attach])
    });
    let comes = |store: &TokenStore, user: &[u8]| {
        store.admit(token.id(), &Scope::Attach, user, None).is_ok()
    };
    assert!(comes(&scene.store, b"session 1"));
    assert!(comes(&scene.store, b"session 1"));
    assert!(!comes(&scene.store, b"session 2"));
    assert!(!comes(&scene.store, b""));
    assert!(!comes(&scene.another(), b"session 1"));
    scene.store.revoke(token.id()).expect("it is there");
    assert!(!comes(&scene.store, b"session 1"));
}

#[test]
fn a2_what_stands_for_a_token_is_as_good_as_that() {
    let scene = Scene::new();
    let [token, once] = [false, true].map(|once| {
        scene.issue(Wanted {
            once,
            ..wanted(&[Scope::Attach])
        })
    });
    let stands = |token: &Token| scene.store.stands(token.id(), &Scope::Attach, None);
    for token in [&token, &once] {
        assert!(admits(&scene.store, token, &Scope::Attach));
        assert!(stands(token).is_ok());
    }
    assert!(
        !admits(&scene.another(), &once, &Scope::Attach),
        "it was used"
    );
    scene.another().revoke(token.id()).expect("it is there");
    let said = stands(&token).expect_err("revoked").to_string();
    assert!(said.contains("client/alice: revoked"), "{said}");
    scene.later.store(3601, Ordering::Relaxed);
    let said = stands(&once).expect_err("expired").to_string();
    assert!(said.contains("client/alice: expired"), "{said}");
}

#[test]
fn a2_a_revoked_token_is_refused_by_a_process_that_had_admitted_it() {
    let scene = Scene::new();
    let token = scene.issue(wanted(&[Scope::Attach]));
    assert!(admits(&scene.store, &token, &Scope::Attach));
    scene.another().revoke(token.id()).expect("it is there");
    assert!(!admits(&scene.store, &token, &Scope::Attach));
}

#[test]
fn a3_a_join_token_is_good_once_whoever_asks_and_however_often() {
    let scene = Scene::new();
    let token = scene.issue(Wanted {
        once: true,
        ..wanted(&[Scope::Join])
    });
    let wrong = admit(&scene.store, &token, &Scope::Attach, None);
    assert!(wrong.is_err(), "and that did not use it up");
    let admitted = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = scene.another();
                if admits(&store, &token, &Scope::Join) {
                    admitted.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(admitted.load(Ordering::Relaxed), 1);
    let again = admit(&scene.store, &token, &Scope::Join, None);
    let said = again.expect_err("used").to_string();
    assert!(said.contains("client/alice: used"), "{said}");
}

#[test]
fn a3_a_join_token_that_cannot_be_burnt_lets_nobody_in() {
    let scene = Scene::new();
    let token = scene.issue(Wanted {
        once: true,
        ..wanted(&[Scope::Join])
    });
    // A directory in the new file's place: the write fails whoever runs this.
    std::fs::create_dir(scene.dir.path().join("tokens.yaml.new")).expect("ours");
    let refused = admit(&scene.store, &token, &Scope::Join, None);
    assert!(
        matches!(refused, Err(TokenRefusal::Store(_))),
        "{refused:?}"
    );
    std::fs::remove_dir(scene.dir.path().join("tokens.yaml.new")).expect("ours");
    assert!(
        admits(&scene.store, &token, &Scope::Join),
        "it was not used"
    );
}

#[test]
fn two_at_once_lose_no_entry() {
    let scene = Scene::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let store = scene.another();
                for _ in 0..10 {
                    let token = store
                        .issue(wanted(&[Scope::Attach]), system_random)
                        .expect("issued");
                    assert!(admits(&store, &token, &Scope::Attach));
                }
            });
        }
    });
    assert_eq!(scene.store.list().expect("read").len(), 40);
}

#[test]
fn what_a_writer_left_that_died_is_in_nobodys_way() {
    let scene = Scene::new();
    scene.issue(wanted(&[Scope::Attach]));
    std::fs::write(scene.dir.path().join("tokens.yaml.new"), "tok").expect("ours");
    scene.issue(wanted(&[Scope::Attach]));
    assert_eq!(scene.store.list().expect("read").len(), 2);
}

#[test]
fn tokens_that_ended_long_ago_are_forgotten() {
    let scene = Scene::new();
    scene.issue(wanted(&[Scope::Attach]));
    scene.later.store(31 * 24 * 3600, Ordering::Relaxed);
    scene.issue(wanted(&[Scope::Attach]));
    assert_eq!(scene.store.list().expect("read").len(), 1);
}

#[test]
fn a6_a_store_that_is_open_to_others_or_damaged_lets_nobody_in() {
    let scene = Scene::new();
    let token = scene.issue(wanted(&[Scope::Attach]));
    assert!(admits(&scene.store, &token, &Scope::Attach));
    let set = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(scene.path(), permissions).expect("ours");
    };
    set(0o644);
    let said = admit(&scene.store, &token, &Scope::Attach, None).expect_err("open");
    assert!(
        said.to_string().contains("open to others (mode 0644)"),
        "{said}"
    );
    set(0o600);
    assert!(admits(&scene.store, &token, &Scope::Attach));
    let file = std::fs::read_to_string(scene.path()).expect("ours");
    std::fs::write(scene.path(), file.replace("once: false", "once: maybe")).expect("ours");
    let said = admit(&scene.store, &token, &Scope::Attach, None).expect_err("damaged");
    assert!(
        said.to_string()
            .contains("tokens.yaml:8:5: 'once' is true or false"),
        "{said}"
    );
    std::fs::remove_file(scene.path()).expect("ours");
    assert!(!admits(&scene.store, &token, &Scope::Attach));
}

fn scopes() -> impl Strategy<Value = Scope> {
    let topic = || "[a-z0-9._/-]{0,6}";
    prop_oneof![
        Just(Scope::Join),
        Just(Scope::Register),
        Just(Scope::Attach),
        topic().prop_map(Scope::Publish),
        topic().prop_map(Scope::Subscribe),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// What is written is read as it was, whatever it holds.
    #[test]
    fn entries_are_read_as_they_were_written(
        entries in prop::collection::vec(
            (any::<[u8; 8]>(), any::<[u8; 32]>(), "[a-z0-9]{1,8}", prop::collection::vec(scopes(), 0..4),
                any::<u32>(), any::<bool>(), any::<Option<[u8; 32]>>(), any::<[Option<u32>; 2]>()),
            0..4,
        )
    ) {
        let seconds = |n: u32| Duration::from_secs(n.into());
        let mut entries: Vec<TokenEntry> = entries
            .into_iter()
            .map(|(id, digest, name, scopes, expires, once, bound_to, [used, revoked])| TokenEntry {
                id: TokenId(id),
                digest,
                identity: format!("farpipe://{name}/agent/{name}").parse().expect("plain"),
                scopes,
                expires: seconds(expires),
                once,
                bound_to,
                used: used.map(seconds),
                revoked: revoked.map(seconds),
            })
            .collect();
        entries.sort_by_key(|entry| entry.id);
        entries.dedup_by_key(|entry| entry.id);
        let text = entry::write_all(&entries).into_bytes();
        let read = entry::read_all(std::path::Path::new("t"), text).expect("good");
        prop_assert_eq!(read, entries);
    }

    /// No text but a token is one, and none makes the parser panic.
    #[test]
    fn a4_a_text_is_a_token_in_one_spelling_or_none(
        text in prop_oneof![any::<String>(), "fpk1-[0-9a-fA-F.]{0,20}[.][A-Za-z0-9_.-]{0,50}[.][0-9a-f]{8}"],
        mangle in any::<(u8, char)>(),
    ) {
        if let Ok(token) = text.parse::<Token>() {
            prop_assert_eq!(&*token.reveal(), text.trim());
        }
        let mut mangled: Vec<char> = Token::generate(system_random).reveal().chars().collect();
        let at = usize::from(mangle.0) % mangled.len();
        let before = std::mem::replace(&mut mangled[at], mangle.1);
        let mangled: String = mangled.into_iter().collect();
        prop_assert!(before == mangle.1 || mangled.parse::<Token>().is_err());
    }
}
