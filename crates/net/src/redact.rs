//! What people type into URLs and must not be shown again: users, passwords, tokens, tickets.
//!
//! Types that show a URL show it so, and whatever is printed goes through [`redacted`] once more:
//! messages of other crates quote what was typed. It hides too much rather than too little.

use std::borrow::Cow;

use crate::{ticket, token};

/// What stands in the place of a secret.
const HIDDEN: &str = "***";
/// What advice writes where they go.
const PLACEHOLDER: &str = "USER:PASSWORD";
/// A parameter of a query with one of these in its name is a secret.
const SECRET_NAMES: &[&str] = &[
    "token", "ticket", "secret", "pass", "pwd", "key", "auth", "sig", "cred", "session", "jwt",
    "code",
];
/// What tickets and tokens begin with.
const PREFIXES: [&str; 2] = [ticket::PREFIX, token::PREFIX];
/// Shorter runs behind a ticket's beginning are no ticket, nor most of one.
const TICKET_LEN_MIN: usize = 16;

/// `text` without what is secret in the URLs in it: all before the `@` of an authority, the values of
/// parameters that are called like a secret, tickets.
#[must_use]
pub fn redacted(text: &str) -> Cow<'_, str> {
    let may_hide = text.contains(['@', '?']) || PREFIXES.iter().any(|prefix| text.contains(prefix));
    if !may_hide {
        return Cow::Borrowed(text);
    }
    let words = text.split_inclusive(char::is_whitespace);
    Cow::Owned(words.map(word).collect())
}

/// The same for a text that is one URL, or was meant to be: spaces end nothing, and a scheme may be
/// missing.
#[must_use]
pub fn redacted_url(url: &str) -> String {
    let hidden = word(url);
    let begin = hidden.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = hidden.split_at(begin);
    match rest.rfind('@') {
        Some(at) if begin == 0 || !has_plain_authority(rest) => {
            format!("{scheme}{HIDDEN}{}", &rest[at..])
        }
        _ => hidden,
    }
}

fn word(word: &str) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some((scheme, behind)) = rest.split_once("://") {
        out.extend([scheme, "://"]);
        rest = behind;
        let authority = authority(rest);
        let user = if has_plain_authority(rest) {
            None
        } else {
            // A password may have a slash in it that should be %-escaped.
            authority.rfind('@').or_else(|| rest.rfind('@'))
        };
        if let Some(at) = user.filter(|at| rest[..*at] != *PLACEHOLDER) {
            out.push_str(HIDDEN);
            rest = &rest[at..];
        }
    }
    out.push_str(rest);
    let plain = parameters(&without_scheme(&out));
    PREFIXES
        .iter()
        .fold(plain, |text, prefix| hidden_behind(prefix, &text))
}

fn authority(rest: &str) -> &str {
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Whether what follows `://` begins with `HOST`, `HOST:PORT` or the like, and no user.
fn has_plain_authority(rest: &str) -> bool {
    let authority = authority(rest);
    let port = match authority.rsplit_once(']') {
        Some((_, port)) => port.strip_prefix(':').unwrap_or(port),
        None => authority.split_once(':').map_or("", |(_, port)| port),
    };
    // What a message puts behind a URL.
    let port = port.trim_end_matches(['\'', '"', '`', ':', ',', ';', ')', '.']);
    !authority.contains('@') && port.bytes().all(|b| b.is_ascii_digit())
}

/// `USER:PASSWORD@HOST`, as a proxy may be written.
fn without_scheme(word: &str) -> String {
    // A scheme may stand further behind, in a query.
    let (word, behind) = word.split_at(word.find("://").unwrap_or(word.len()));
    let begin = word.len() - word.trim_start_matches(['\'', '"', '`', '(']).len();
    let (open, rest) = word.split_at(begin);
    match rest.rsplit_once('@') {
        Some((login, host)) if login.contains(':') => format!("{open}{HIDDEN}@{host}{behind}"),
        _ => format!("{word}{behind}"),
    }
}

fn parameters(word: &str) -> String {
    let Some((before, query)) = word.split_once('?') else {
        return word.to_owned();
    };
    let mut out = format!("{before}?");
    for part in query.split_inclusive(['&', '?', '#']) {
        match part.split_once('=') {
            Some((name, value)) if is_secret(name) => {
                let end = ['&', '?', '#', '\'', '"', '`', ':', ',', ';', ')', '.'];
                let value_end =
                    value.trim_end_matches(|c: char| c.is_whitespace() || end.contains(&c));
                out.extend([name, "=", HIDDEN, &value[value_end.len()..]]);
            }
            _ => out.push_str(part),
        }
    }
    out
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

/// Hides what stands behind `prefix`, as far as it can be a ticket or a token.
fn hidden_behind(prefix: &str, word: &str) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some((before, behind)) = rest.split_once(prefix) {
        let is_in = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let len = behind.bytes().take_while(|b| is_in(*b)).count();
        let (run, after) = behind.split_at(len);
        let run = if len < TICKET_LEN_MIN { run } else { HIDDEN };
        out.extend([before, prefix, run]);
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_passwords_and_tokens_are_hidden_and_the_rest_is_not() {
        for (text, shown) in [
            ("nothing to hide", "nothing to hide"),
            ("ws://u:pw@h:1/a", "ws://***@h:1/a"),
            ("'ws:ws://u:p@w@h': no", "'ws:ws://***@h': no"),
            ("http://u:p/w@h:3128: no", "http://***@h:3128: no"),
            ("http://u:p://w@h", "http://***@h"),
            (
                "a http://u:p@h, b ws://v:q@i",
                "a http://***@h, b ws://***@i",
            ),
            ("http://u:p@h,http://v:q@i", "http://***@h,http://***@i"),
            ("'u:pw@proxy:3128'", "'***@proxy:3128'"),
            ("wss://h:1/@scope/x: no", "wss://h:1/@scope/x: no"),
            ("wss://[::1]:1/@x", "wss://[::1]:1/@x"),
            ("u:pw@h/?x=http://y", "***@h/?x=http://y"),
            ("mail bob@example", "mail bob@example"),
            ("ws://h/?token=abc&x=1: no", "ws://h/?token=***&x=1: no"),
            (
                "'ws://h/p?x=1&access_token=abc'",
                "'ws://h/p?x=1&access_token=***'",
            ),
            ("ws://h/?API-Key=a=b lines", "ws://h/?API-Key=*** lines"),
            ("ws://h/?x=1&lines", "ws://h/?x=1&lines"),
            ("http://USER:PASSWORD@h:1", "http://USER:PASSWORD@h:1"),
            ("did you mean 'u'?", "did you mean 'u'?"),
            (
                "is it a farpipe? see it@home",
                "is it a farpipe? see it@home",
            ),
        ] {
            assert_eq!(redacted(text), shown);
            assert_eq!(redacted(shown), shown, "once is enough");
        }
    }

    #[test]
    fn a8_tokens_are_hidden_wherever_they_stand() {
        let token = crate::token::Token::generate(|bytes| bytes.fill(0xa7)).reveal();
        for (before, after) in [
            ("", ""),
            ("FARPIPE_TOKEN=", ": no"),
            ("'", "'"),
            ("a ", ", b"),
        ] {
            let shown = redacted(&format!("{before}{}{after}", *token)).into_owned();
            assert_eq!(shown, format!("{before}fpk1-***{after}"));
        }
        assert_eq!(redacted("one begins with fpk1-"), "one begins with fpk1-");
    }

    #[test]
    fn tickets_are_hidden_wherever_they_stand() {
        let ticket = format!("{}{}", ticket::PREFIX, "Ab_-9".repeat(20));
        let text = format!("FARPIPE_TICKET={ticket}: no");
        assert_eq!(
            redacted(&text),
            format!("FARPIPE_TICKET={}***: no", ticket::PREFIX)
        );
    }

    #[test]
    fn what_was_meant_as_a_url_is_one_word() {
        for (text, shown) in [
            ("u:pw@h:1", "***@h:1"),
            ("pw@h", "***@h"),
            ("ws://u:p w@h/", "ws://***@h/"),
            ("u:p w@h", "***@h"),
            ("ws://h:1/@x", "ws://h:1/@x"),
            ("ws://h:1/?token=a b", "ws://h:1/?token=***"),
        ] {
            assert_eq!(redacted_url(text), shown);
        }
    }
}
