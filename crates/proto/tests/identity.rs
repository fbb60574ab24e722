//! Row A4: no text that could be read as two names, a path, a pattern or another name is an identity,
//! whether it is parsed or put together.

use farpipe_proto::identity::{Identity, IdentityError, Kind, PART_MAX};
use proptest::prelude::*;

#[test]
fn a4_an_identity_has_three_plain_parts() {
    let identity: Identity = "farpipe://example.org/client/alice-1"
        .parse()
        .expect("it is one");
    assert_eq!(identity.to_string(), "farpipe://example.org/client/alice-1");
    assert_eq!(
        (identity.domain(), identity.kind(), identity.name()),
        ("example.org", Kind::Client, "alice-1")
    );
    for wrong in [
        "",
        "farpipe://",
        "farpipe://example.org",
        "farpipe://example.org/client",
        "farpipe://example.org/client/",
        "farpipe://example.org/client/a/",
        "farpipe://example.org/client/a/b",
        "farpipe:///client/a",
        "FARPIPE://example.org/client/a",
        "farpipe:example.org/client/a",
        "pipe://example.org/client/a",
        "https://example.org/client/a",
        " farpipe://example.org/client/a",
        "farpipe://example.org/client/a ",
        "farpipe://user@example.org/client/a",
        "farpipe://example.org:1/client/a",
        "farpipe://example.org/client/a?b",
        "farpipe://example.org/client/a#b",
        "farpipe://example.org/Client/a",
        "farpipe://example.org/user/a",
        "farpipe://example.org//a",
    ] {
        assert!(wrong.parse::<Identity>().is_err(), "{wrong}");
    }
}

#[test]
fn a4_names_that_mislead_are_refused_at_issue_and_at_parse() {
    let long = "a".repeat(PART_MAX + 1);
    for wrong in [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a.",
        "-a",
        "a-",
        "_a",
        "a_",
        "a.-b",
        "a-.b",
        "a,b",
        "a/b",
        "a\\b",
        "a%2fb",
        "a\0",
        "a\nb",
        "a\r",
        "a\tb",
        "a b",
        "*",
        "a*",
        "a?",
        "a|b",
        "a;b",
        "a=b",
        "a:b",
        "a@b",
        "a\"",
        "a'",
        "a(b)",
        "[a]",
        "{a}",
        "a~",
        "a$b",
        "a+b",
        "a\u{1b}[31m",
        "a\u{7f}",
        // Another alphabet, another width, nothing to be seen, letters that fold to ASCII.
        "\u{430}lice",
        "аlісе",
        "\u{ff41}lice",
        "alice\u{200b}",
        "alice\u{202e}",
        "\u{feff}alice",
        "ali\u{301}ce",
        "\u{212a}",
        "\u{131}",
        "ſ",
        "１",
        // DNS does not tell these from another name.
        "Alice",
        "ALICE",
        "alicE",
        &long,
    ] {
        assert_eq!(
            Identity::new("example.org", Kind::Client, wrong),
            Err(IdentityError::Name),
            "{wrong:?}"
        );
        assert_eq!(
            Identity::new(wrong, Kind::Client, "alice"),
            Err(IdentityError::Name),
            "{wrong:?}"
        );
        for uri in [
            format!("farpipe://example.org/client/{wrong}"),
            format!("farpipe://{wrong}/client/alice"),
            format!("farpipe://example.org/{wrong}/alice"),
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri:?}");
        }
    }
    assert!(Identity::new("d", Kind::Agent, &"a".repeat(PART_MAX)).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4096) })]

    /// Whatever is accepted is the one way to write what it is, and of plain characters.
    #[test]
    fn a4_what_parses_is_written_in_one_way(
        text in prop_oneof![
            any::<String>(),
            "farpipe://[a-zA-Z0-9._*,/-]{0,8}/(client|agent|relay|ca|user|)/[ -~]{0,8}",
            "farpipe://[a-z0-9._-]{1,6}/(client|agent|relay)/[a-z0-9._-]{1,6}",
        ]
    ) {
        if let Ok(identity) = text.parse::<Identity>() {
            prop_assert_eq!(identity.to_string(), text);
            for part in [identity.domain(), identity.name()] {
                let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
                prop_assert!(part.bytes().all(plain));
                prop_assert!(!part.contains(".."));
            }
        }
    }

    /// Issuing and parsing draw the same line.
    #[test]
    fn a4_what_can_be_issued_can_be_parsed_and_nothing_else(
        domain in prop_oneof!["[a-z0-9.]{0,5}", any::<String>()],
        name in prop_oneof!["[a-z0-9._-]{0,5}", any::<String>()],
    ) {
        let issued = Identity::new(&domain, Kind::Agent, &name).ok();
        let parsed = format!("farpipe://{domain}/agent/{name}").parse::<Identity>().ok();
        prop_assert_eq!(issued, parsed);
    }
}
