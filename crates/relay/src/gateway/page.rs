//! The page that shows a pipe, and the tickets that pages ask for.
//!
//! The page is one file without anything from elsewhere, and may do nothing but talk to this relay
//! (its Content-Security-Policy). What comes out of the pipe is text to it, never markup.

use farpipe_net::carrier::ws::raw::Foreign;
use farpipe_net::system_random;
use serde_json::json;

use super::answer::Answer;
use super::ticket::good_for;

const PAGE: &str = include_str!("page.html");

/// A ticket for a page, as JSON.
pub(super) fn ticket(protocol: &str) -> Answer {
    let told = json!({"protocol": protocol, "expires_in": good_for()});
    let mut answer = Answer::line(200, told.to_string());
    answer.kind = "application/json";
    answer
}

/// The page of a pipe, with a ticket for its first WebSocket.
pub(super) fn view(foreign: &Foreign, name: &str, ticket: &str) -> Answer {
    let mut random = [0; 16];
    system_random(&mut random);
    let nonce: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    // Not every browser takes 'self' for WebSockets. The host was checked.
    let host = foreign.request.only("Host").unwrap_or_default();
    let scheme = match foreign.is_secure {
        true => "wss",
        false => "ws",
    };
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self' {scheme}://{host}; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    // A name has nothing that would have to be escaped, nor has a ticket; all the same.
    let body = PAGE
        .replace("{{nonce}}", &nonce)
        .replace("{{ticket}}", &escaped(ticket))
        .replace("{{name}}", &escaped(name));
    Answer {
        status: 200,
        kind: "text/html; charset=utf-8",
        lines: Vec::new(),
        body,
    }
    .with("Content-Security-Policy", policy)
    .with("Referrer-Policy", "no-referrer")
    .with("Cross-Origin-Opener-Policy", "same-origin")
    .with("Cross-Origin-Resource-Policy", "same-origin")
    .with("X-Frame-Options", "DENY")
}

/// Text as it stands in HTML.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_text_and_the_page_loads_nothing() {
        assert_eq!(
            escaped("<a b='c'>&\""),
            "&lt;a b=&#39;c&#39;&gt;&amp;&quot;"
        );
        for elsewhere in [
            "http://",
            "https://",
            "src=",
            "href=",
            "@import",
            "url(",
            "innerHTML",
        ] {
            assert!(!PAGE.contains(elsewhere), "{elsewhere}");
        }
        for place in ["{{nonce}}", "{{ticket}}", "{{name}}"] {
            assert!(PAGE.contains(place), "{place}");
        }
    }
}
