//! `--status-fd`: what happens, as one JSON object a line, for programs.
//!
//! A thread of its own writes, see [`crate::lines`]: a reader that does not keep up misses events
//! and learns how many by `missed_events` in the next one; the data does not wait for it.

use std::fs::{File, OpenOptions};
use std::io;

use farpipe_agent::Outcome;
use farpipe_net::LinkEvent;
use serde_json::{Value, json};

use crate::exit::WithStatus;
use crate::lines::{Lines, Room};

/// Where status lines go; a clone leads to the same place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status(Option<Lines>);

impl Status {
    /// Opens descriptor `number`, if one is given. It is opened anew, so that its owner's flags
    /// and position stay as they are. Refused where it would mix with data.
    pub(crate) fn open(number: Option<u32>, data_on_stdout: bool) -> anyhow::Result<Self> {
        let Some(number) = number else {
            return Ok(Self(None));
        };
        if number == 1 && data_on_stdout {
            return Err(WithStatus::usage(
                "--status-fd 1: stdout carries the data of the endpoint",
                "use another one: farpipe … --status-fd 3 3>FILE",
            ));
        }
        let failed = |error| {
            WithStatus::usage(
                format!("--status-fd {number}: cannot write to it: {error}"),
                format!("open it in the shell: farpipe … --status-fd {number} {number}>FILE"),
            )
        };
        let lines = match reopen(number).map_err(failed)? {
            Some(file) => Some(Lines::start("farpipe-status", file).map_err(failed)?),
            None => None,
        };
        Ok(Self(lines))
    }

    /// Writes one line, or drops it if too many wait.
    pub(crate) fn write(&self, event: Value) {
        self.push(Room::Usual, event);
    }

    fn push(&self, room: Room, mut event: Value) {
        if let Some(lines) = &self.0 {
            lines.push(room, |missed| {
                if missed > 0 {
                    event["missed_events"] = missed.into();
                }
                event.to_string()
            });
        }
    }

    /// Waits, not for ever, until the lines are written. For the end of a process.
    pub(crate) fn flush(&self) {
        if let Some(lines) = &self.0 {
            lines.flush();
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
        self.write(value);
    }

    /// The end of a pipe.
    pub(crate) fn exit(&self, outcome: &Outcome, status: u8) {
        let event = json!({
            "event": "exit",
            "status": status,
            "sent_bytes": outcome.sent,
            "received_bytes": outcome.received,
            "error": outcome.error.as_ref().map(ToString::to_string),
        });
        self.push(Room::LastWords, event);
    }
}

/// Opens the file behind a descriptor once more, for a thread that may wait in its writes. `None`
/// for a pipe whose reader has gone, which opening would wait for.
#[cfg(target_os = "linux")]
fn reopen(number: u32) -> io::Result<Option<File>> {
    use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};

    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    let path = format!("/dev/fd/{number}");
    let mut options = OpenOptions::new();
    options.append(true);
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = match options.open(&path) {
        Ok(file) => file,
        Err(error) => {
            let is_fifo = std::fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_fifo());
            let has_no_reader =
                error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error());
            return if is_fifo && has_no_reader {
                Ok(None)
            } else {
                Err(error)
            };
        }
    };
    // The description is ours alone: it was opened here.
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(Some(file))
}

/// Elsewhere `/dev/fd` only duplicates, and so neither waits nor has flags of its own.
#[cfg(not(target_os = "linux"))]
fn reopen(number: u32) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options
        .append(true)
        .open(format!("/dev/fd/{number}"))
        .map(Some)
}
