//! The terminal of a command: our side of it, where its output is read and its keys are typed.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, unlockpt};
use rustix::termios::{LocalModes, SpecialCodeIndex, Winsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::request::Size;
use crate::endpoint::{Sink, Source, fd};

/// Bytes read at once: what a terminal has to say fits, and the copy costs nothing beside the
/// terminal itself.
const READ_MAX: usize = 16 * 1024;

/// Our side. `O_NONBLOCK` on it concerns nobody else: the command has the other one.
#[derive(Debug)]
pub(crate) struct Pty(Arc<OwnedFd>);

impl Pty {
    /// A new terminal, and the command's side of it.
    pub(crate) fn open(size: Size) -> io::Result<(Self, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = rustix::pty::ptsname(&ours, Vec::new())?;
        let flags =
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let theirs = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty())?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let pty = Self(Arc::new(ours));
        pty.resize(size)?;
        Ok((pty, theirs))
    }

    /// Says how large it is; its foreground gets SIGWINCH if that is news.
    pub(crate) fn resize(&self, size: Size) -> io::Result<()> {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(rustix::termios::tcsetwinsize(&*self.0, size)?)
    }

    /// The process group in front of it.
    pub(crate) fn foreground(&self) -> Option<Pid> {
        rustix::termios::tcgetpgrp(&*self.0).ok()
    }

    fn registered(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        fd::register(fd::dup(self.0.as_fd())?, interest)
    }

    /// What the command shows.
    pub(crate) fn source(&self) -> io::Result<PtySource> {
        Ok(PtySource(self.registered()?))
    }

    /// What is typed.
    pub(crate) fn sink(&self) -> io::Result<PtySink> {
        Ok(PtySink {
            fd: self.registered()?,
            ends_line: true,
        })
    }
}

/// The output of a command on a terminal.
#[derive(Debug)]
pub(crate) struct PtySource(AsyncFd<OwnedFd>);

impl Source for PtySource {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_read_ready(cx))?.retain_ready();
        Poll::Ready(Ok(()))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let mut read = [0; READ_MAX];
        let room = max.min(READ_MAX);
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            match rustix::io::read(guard.get_inner(), &mut read[..room]) {
                Ok(len) => {
                    buf.extend_from_slice(&read[..len]);
                    return Poll::Ready(Ok(len));
                }
                // The last one that had it open has gone.
                Err(Errno::IO) => return Poll::Ready(Ok(0)),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

/// The keyboard of a command on a terminal.
#[derive(Debug)]
pub(crate) struct PtySink {
    fd: AsyncFd<OwnedFd>,
    /// What was typed last ended a line.
    ends_line: bool,
}

impl PtySink {
    fn poll_type(&mut self, cx: &mut Context<'_>, keys: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            match rustix::io::write(guard.get_inner(), keys) {
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(Errno::IO) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// What is typed to say that there is no more: nothing, if the command reads single keys.
    fn end_key(&self) -> Option<u8> {
        let modes = rustix::termios::tcgetattr(self.fd.get_ref()).ok()?;
        let reads_lines = modes.local_modes.contains(LocalModes::ICANON);
        reads_lines.then(|| modes.special_codes[SpecialCodeIndex::VEOF])
    }
}

impl Sink for PtySink {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(keys) = bufs.iter().find(|keys| !keys.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let len = ready!(self.poll_type(cx, keys))?;
        self.ends_line = keys[..len].last() == Some(&b'\n');
        Poll::Ready(Ok(len))
    }

    /// A terminal tells nobody whether somebody reads.
    fn poll_reader_gone(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    /// A terminal has no end; the key for it stands for one. In the midst of a line the first only
    /// hands the line over.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(key) = self.end_key() {
            ready!(self.poll_type(cx, &[key]))?;
            if std::mem::replace(&mut self.ends_line, true) {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
