//! `--status-fd`: what happens, as one JSON object a line, for programs.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use farpipe_agent::Outcome;
use farpipe_net::LinkEvent;
use serde_json::{Value, json};

/// Where status lines go; a clone writes to the same place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status(Option<Arc<Mutex<File>>>);

impl Status {
    /// Opens descriptor `number`, if one is given. It is opened anew, so that its owner's flags
    /// and position stay as they are.
    pub(crate) fn open(number: Option<u32>) -> anyhow::Result<Self> {
        let Some(number) = number else {
            return Ok(Self(None));
        };
        let file = OpenOptions::new()
            .append(true)
            .open(format!("/dev/fd/{number}"))
            .map_err(|error| {
                crate::exit::WithStatus::usage(
                    format!("--status-fd {number}: cannot write to it: {error}"),
                    format!("open it in the shell: farpipe … --status-fd {number} {number}>FILE"),
                )
            })?;
        Ok(Self(Some(Arc::new(Mutex::new(file)))))
    }

    /// Writes one line. A reader that went away is no reason to fail.
    pub(crate) fn write(&self, event: &Value) {
        if let Some(file) = &self.0 {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = writeln!(file, "{event}");
        }
    }

    /// One link event.
    pub(crate) fn link(&self, event: &LinkEvent) {
        let value = match event {
            LinkEvent::Connected { session, peer } => {
                json!({"event": "connected", "session": session, "peer": peer})
            }
            LinkEvent::Lost {
                why,
                failures,
                retry_in,
            } => json!({
                "event": "lost",
                "why": why,
                "failures": failures,
                "retry_in_ms": retry_in.map(|d| d.as_millis() as u64),
            }),
            LinkEvent::Resumed { epoch, resent } => {
                json!({"event": "resumed", "epoch": epoch, "resent_bytes": resent})
            }
            LinkEvent::Alarm { failures, why } => {
                json!({"event": "alarm", "failures": failures, "why": why})
            }
            _ => return,
        };
        self.write(&value);
    }

    /// The end of a pipe.
    pub(crate) fn exit(&self, outcome: &Outcome, status: u8) {
        self.write(&json!({
            "event": "exit",
            "status": status,
            "sent_bytes": outcome.sent,
            "received_bytes": outcome.received,
            "error": outcome.error.as_ref().map(ToString::to_string),
        }));
    }
}
