//! `--status-fd`: what happens, as one JSON object a line, for programs.
//!
//! A thread of its own writes, see [`crate::lines`]: a reader that does not keep up misses events
//! and learns how many by `missed_events` in the next one; the data does not wait for it.

use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::{self, Write};
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;

use farpipe_agent::Outcome;
use farpipe_net::{LinkEvent, redacted};
use serde_json::{Value, json};

use crate::exit::WithStatus;
use crate::lines::{Lines, Room};

/// Where status lines go; a clone leads to the same place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status(Option<Lines>);

fn unwritable(number: u32, error: &io::Error) -> anyhow::Error {
    WithStatus::usage(
        format!("--status-fd {number}: cannot write to it: {error}"),
        format!("open it in the shell: farpipe … --status-fd {number} {number}>FILE"),
    )
}

impl Status {
    /// Opens descriptor `number`, if one is given, and starts the thread. It is opened anew, so that its
    /// owner's flags and position stay as they are. Refused where it would mix with data.
    pub(crate) fn open(number: Option<u32>, data_on_stdout: bool) -> anyhow::Result<Self> {
        let status = Self::open_held(number, data_on_stdout)?;
        status.begin()?;
        Ok(status)
    }

    /// The same without the thread: lines wait for [`Status::begin`].
    pub(crate) fn open_held(number: Option<u32>, data_on_stdout: bool) -> anyhow::Result<Self> {
        let Some(number) = number else {
            return Ok(Self(None));
        };
        if data_on_stdout && is_stdout(number) {
            return Err(WithStatus::usage(
                format!("--status-fd {number}: stdout carries the data of the endpoint"),
                "use another one: farpipe … --status-fd 3 3>FILE",
            ));
        }
        let writer = reopen(number).map_err(|error| unwritable(number, &error))?;
        Ok(Self(
            writer.map(|writer| Lines::held("farpipe-status", writer)),
        ))
    }

    /// Starts the thread, unless it runs.
    pub(crate) fn begin(&self) -> anyhow::Result<()> {
        let begun = self.0.as_ref().map_or(Ok(()), Lines::begin);
        begun.map_err(|error| WithStatus::failure(format!("cannot start: {error}"), None))
    }

    /// Writes one line, or drops it if too many wait.
    pub(crate) fn write(&self, event: Value) {
        self.push(Room::Usual, event);
    }

    fn push(&self, room: Room, mut event: Value) {
        if let Some(lines) = &self.0 {
            hide_secrets(&mut event);
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

    /// The end of a pipe; of several, that of the `session` it belongs to.
    pub(crate) fn exit(&self, session: Option<&str>, outcome: &Outcome, status: u8) {
        let mut event = json!({
            "event": "exit",
            "status": status,
            "sent_bytes": outcome.sent,
            "received_bytes": outcome.received,
            "error": outcome.error.as_ref().map(ToString::to_string),
        });
        if let Some(session) = session {
            event["session"] = session.into();
        }
        self.push(Room::LastWords, event);
    }
}

/// No text of an event shows what is secret in a URL: programs write such lines to their logs.
fn hide_secrets(event: &mut Value) {
    match event {
        Value::String(text) => {
            if let Cow::Owned(hidden) = redacted(text) {
                *text = hidden;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_secrets),
        Value::Object(fields) => fields.values_mut().for_each(hide_secrets),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Whether descriptor `number` leads where stdout does. A terminal may show both.
fn is_stdout(number: u32) -> bool {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

    let meta = |number: u32| std::fs::metadata(format!("/dev/fd/{number}"));
    number == 1
        || match (meta(number), meta(1)) {
            (Ok(status), Ok(stdout)) => {
                (status.dev(), status.ino()) == (stdout.dev(), stdout.ino())
                    && !status.file_type().is_char_device()
            }
            (Ok(_) | Err(_), _) => false,
        }
}

/// Opens the file behind a descriptor once more, for a thread that may wait in its writes. `None`
/// for a pipe whose reader has gone, which opening would wait for.
#[cfg(target_os = "linux")]
fn reopen(number: u32) -> io::Result<Option<Box<dyn Write + Send>>> {
    use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};

    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    let path = format!("/dev/fd/{number}");
    if !is_writable(number)? {
        return Err(io::Error::other("it is open for reading only"));
    }
    if std::fs::metadata(&path)?.file_type().is_socket() {
        return Ok(Some(Box::new(Socket(duplicate(number)?))));
    }
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
    Ok(Some(Box::new(file)))
}

/// Whether its owner opened it for writing: opening it anew would not ask.
#[cfg(target_os = "linux")]
fn is_writable(number: u32) -> io::Result<bool> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    let access = flags.map(|flags| flags & rustix::fs::OFlags::ACCMODE.bits());
    Ok(access != Some(rustix::fs::OFlags::RDONLY.bits()))
}

/// A descriptor of our own for a socket, which cannot be opened. Without unsafe code it can only be
/// had from this process's own entry in /proc.
#[cfg(target_os = "linux")]
fn duplicate(number: u32) -> io::Result<OwnedFd> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

    let number = i32::try_from(number).map_err(io::Error::other)?;
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this, number, PidfdGetfdFlags::empty())?)
}

/// A socket whose owner may have made it non-blocking.
#[cfg(target_os = "linux")]
struct Socket(OwnedFd);

#[cfg(target_os = "linux")]
impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use rustix::event::{PollFd, PollFlags, poll};
        use rustix::io::Errno;

        loop {
            match rustix::net::send(&self.0, bytes, rustix::net::SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                }
                sent => return Ok(sent?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Elsewhere `/dev/fd` only duplicates, and so neither waits nor has flags of its own.
#[cfg(not(target_os = "linux"))]
fn reopen(number: u32) -> io::Result<Option<Box<dyn Write + Send>>> {
    let mut options = OpenOptions::new();
    let file = options.append(true).open(format!("/dev/fd/{number}"))?;
    Ok(Some(Box::new(file)))
}
