//! Answers in plain HTTP. Each is the last of its connection: one request, one answer.

use std::fmt::Write as _;
use std::time::Duration;

use farpipe_net::carrier::ws::raw::Transport;
use farpipe_proto::limits::{DRAIN, HANDSHAKE_STEP};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// Most bytes of a refused client's that are thrown away while it reads why.
const DRAIN_MAX: usize = 256 << 10;

/// An answer, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    /// Lines of the head beyond the usual ones.
    pub(super) lines: Vec<(&'static str, String)>,
    pub(super) body: String,
}

impl Answer {
    /// A line of text.
    pub(super) fn line(status: u16, text: impl Into<String>) -> Self {
        let mut body = text.into();
        body.push('\n');
        Self {
            status,
            kind: "text/plain; charset=utf-8",
            lines: Vec::new(),
            body,
        }
    }

    /// What it says, for the log.
    pub(super) fn words(&self) -> String {
        self.body.trim_end().to_owned()
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.lines.push((name, value.into()));
        self
    }

    fn head(&self, ends: Ends) -> String {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nConnection: close\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nContent-Type: {}\r\n",
            self.status,
            phrase(self.status),
            self.kind
        );
        for (name, value) in &self.lines {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        match ends {
            Ends::Whole => {
                let _ = write!(head, "Content-Length: {}\r\n\r\n", self.body.len());
            }
            Ends::Broken => head.push_str("Transfer-Encoding: chunked\r\n\r\n"),
        }
        head
    }

    /// Answers and ends the connection. Failing is no news: the client is gone.
    pub(super) async fn send(self, io: &mut dyn Transport) {
        let whole = self.head(Ends::Whole) + &self.body;
        io.set_reset_at_close(false);
        say(io, whole.as_bytes()).await;
    }

    /// Answers with a body that has no end: whatever the client makes of the status, it has not
    /// succeeded.
    pub(super) async fn send_broken(self, io: &mut dyn Transport) {
        let mut text = self.head(Ends::Broken);
        let _ = write!(text, "{:x}\r\n{}\r\n", self.body.len(), self.body);
        io.set_reset_at_close(false);
        say(io, text.as_bytes()).await;
    }
}

/// How an answer's body ends.
#[derive(Debug, Clone, Copy)]
enum Ends {
    Whole,
    Broken,
}

/// Writes, shuts down writing and reads on for a moment, so that what was written arrives.
async fn say(io: &mut dyn Transport, text: &[u8]) {
    let said = async {
        io.write_all(text).await?;
        io.flush().await?;
        io.shutdown().await
    };
    if !matches!(timeout(HANDSHAKE_STEP, said).await, Ok(Ok(()))) {
        return;
    }
    drain(io, DRAIN).await;
}

async fn drain(io: &mut dyn Transport, within: Duration) {
    let drained = async {
        let mut waste = [0; 4 << 10];
        let mut left = DRAIN_MAX;
        while left > 0 {
            match io.read(&mut waste).await {
                Ok(0) | Err(_) => break,
                Ok(len) => left = left.saturating_sub(len),
            }
        }
    };
    let _ = timeout(within, drained).await;
}

/// What stands behind a status.
fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_answer_has_no_last_chunk_and_a_whole_one_its_length() {
        let answer = Answer::line(502, "no").with("Allow", "GET");
        let whole = answer.head(Ends::Whole);
        assert!(whole.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{whole}");
        assert!(whole.contains("\r\nAllow: GET\r\n"), "{whole}");
        assert!(whole.ends_with("\r\nContent-Length: 3\r\n\r\n"), "{whole}");
        let broken = answer.head(Ends::Broken);
        assert!(
            broken.ends_with("\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "{broken}"
        );
    }
}
