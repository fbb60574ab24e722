//! A command's process, and all that it started: they share a session, as what hangs on one
//! terminal does, whatever process groups they make in it.
//!
//! A process that leaves the session (setsid, as daemons do) means to stay.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::time::{Instant, sleep};

use crate::endpoint::exec::{Child, Exited};
use crate::endpoint::{Exit, TERMINATE_GRACE};

/// The leader of a session. Not reaped, and so its number not given to another, before
/// [`Process::reap`]; dropped before that, its session is killed.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    exited: Exited,
    is_reaped: bool,
}

impl Process {
    /// Of the process that leads the session.
    pub(crate) fn new(child: Child) -> io::Result<Self> {
        Ok(Self {
            exited: child.exited()?,
            child,
            is_reaped: false,
        })
    }

    /// What becomes ready when the leader has ended.
    pub(crate) fn exited(&self) -> io::Result<Exited> {
        self.child.exited()
    }

    /// Waits for the leader's end. For one task at a time; cancel safe.
    pub(crate) async fn ended(&self) {
        if poll_fn(|cx| self.exited.poll(cx)).await.is_err() {
            // The runtime is shutting down.
            std::future::pending::<()>().await;
        }
    }

    /// The leader's process group.
    pub(crate) fn group(&self) -> Pid {
        self.child.pid()
    }

    /// A signal to all.
    pub(crate) fn signal(&self, signal: Signal) {
        self.signal_all(signal);
    }

    /// Ends all as when a terminal is gone: [`Process::end`] with SIGHUP and [`TERMINATE_GRACE`].
    pub(crate) async fn hang_up(&self) {
        self.end(Signal::HUP, TERMINATE_GRACE).await;
    }

    /// Ends all: `signal`, and SIGKILL to what is left after `grace`.
    ///
    /// # Cancellation
    /// Dropping it leaves the session with its signal.
    pub(crate) async fn end(&self, signal: Signal, grace: Duration) {
        self.signal_all(signal);
        // A stopped process takes no signal but SIGKILL and this one.
        self.signal_all(Signal::CONT);
        let until = Instant::now() + grace;
        let mut pause = FIRST_LOOK;
        while self.is_alive() && Instant::now() < until {
            // Most are no children of ours: nobody tells about their end.
            sleep(pause.min(until - Instant::now())).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
        self.kill().await;
        self.ended().await;
    }

    /// SIGKILL to all of the session, until it is empty.
    pub(crate) async fn kill(&self) {
        // Each round reaches what was forked before it; who forks faster than that is dead sooner
        // or later, because a process that is killed forks no more.
        for _ in 0..KILL_ROUNDS {
            self.signal_all(Signal::KILL);
            if !self.is_alive() {
                return;
            }
            sleep(FIRST_LOOK).await;
        }
        tracing::warn!("processes of a command do not die; they may wait for a disk");
    }

    /// How the leader ended, once it has; it is not reaped.
    pub(crate) fn status(&self) -> io::Result<Exit> {
        self.child.status()
    }

    /// Waits until no process is left in the session, however long after its leader. Cancel safe.
    pub(crate) async fn emptied(&self) {
        while let Some(member) = members(self.group(), LOOK).pop() {
            // While it lives there is no need to look again.
            member.ended().await;
        }
    }

    /// Takes the status of a leader that has ended.
    pub(crate) async fn reap(mut self) -> io::Result<Exit> {
        let exit = self.child.wait().await;
        self.is_reaped = true;
        exit
    }

    fn is_alive(&self) -> bool {
        !members(self.group(), LOOK).is_empty()
    }

    fn signal_all(&self, signal: Signal) {
        // Who was forked a moment ago is to hear the first word as well; that of SIGKILL is repeated.
        let since = match signal {
            Signal::KILL => LOOK,
            _ => Duration::ZERO,
        };
        for member in members(self.group(), since) {
            // Gone meanwhile, or another user's by now: nothing more can be done.
            let _ = member.signal(signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.signal_all(Signal::KILL);
        }
    }
}

/// First and longest pause between two looks at what is left of a session.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_millis(200);
/// How old a look at all processes of the host may be that serves all commands which ask.
const LOOK: Duration = Duration::from_millis(50);
/// At [`FIRST_LOOK`] each, a second.
const KILL_ROUNDS: u32 = 100;

#[cfg(target_os = "linux")]
mod system {
    use std::future::poll_fn;
    use std::io;
    use std::os::fd::OwnedFd;
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    use tokio::time::{Instant, sleep};

    use super::{Exited, LAST_LOOK};

    /// A process that was in a session when it was looked at; the descriptor is of no other, even
    /// when its number is given away.
    #[derive(Debug)]
    pub(super) struct Member(OwnedFd);

    impl Member {
        pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
            Ok(pidfd_send_signal(&self.0, signal)?)
        }

        /// Waits for its end, and a moment if that cannot be watched. Cancel safe.
        pub(super) async fn ended(self) {
            match Exited::of(self.0) {
                Ok(exited) => {
                    let _ = poll_fn(|cx| exited.poll(cx)).await;
                }
                Err(_) => sleep(LAST_LOOK).await,
            }
        }
    }

    /// The last look. Many commands that are hung up at once would else
    /// read all of /proc each for itself, again and again.
    static LOOKED: Mutex<Option<Looked>> = Mutex::new(None);

    /// When, and each process with its session.
    type Looked = (Instant, Vec<(Pid, i32)>);

    /// The processes of a session that have not ended, as of a look at most `since` ago.
    pub(super) fn members(session: Pid, since: Duration) -> Vec<Member> {
        let mut looked = LOOKED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, processes)) = &*looked
            && at.elapsed() < since
        {
            let members = members_of(session, processes);
            // That there is none is only true of now.
            if !members.is_empty() {
                return members;
            }
        }
        let processes = processes();
        let members = members_of(session, &processes);
        *looked = Some((Instant::now(), processes));
        members
    }

    fn processes() -> Vec<(Pid, i32)> {
        let Ok(listed) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        let pids = listed.filter_map(|entry| {
            let number = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Pid::from_raw(number)
        });
        pids.filter_map(|pid| Some((pid, session_of(pid)?)))
            .collect()
    }

    fn members_of(session: Pid, processes: &[(Pid, i32)]) -> Vec<Member> {
        let number = session.as_raw_nonzero().get();
        let pids = processes.iter().filter(|(_, of)| *of == number);
        pids.filter_map(|(pid, _)| {
            let fd = pidfd_open(*pid, PidfdFlags::empty()).ok()?;
            // Now that the number cannot change its owner.
            (session_of(*pid) == Some(number)).then_some(Member(fd))
        })
        .collect()
    }

    /// The session of a process that has not ended.
    fn session_of(pid: Pid) -> Option<i32> {
        let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
        let stat = std::fs::read_to_string(path).ok()?;
        // Behind the name, which may have anything in it: state, parent, group, session.
        let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        if matches!(fields.next(), Some("Z" | "X") | None) {
            return None;
        }
        fields.nth(2)?.parse().ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::time::Duration;

    use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
    use tokio::time::sleep;

    use super::LAST_LOOK;

    /// The process group of the session's leader: all that can be found without /proc.
    #[derive(Debug)]
    pub(super) struct Member(Pid);

    impl Member {
        pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
            Ok(kill_process_group(self.0, signal)?)
        }

        /// Waits a moment: nothing tells about its end.
        pub(super) async fn ended(self) {
            sleep(LAST_LOOK).await;
        }
    }

    pub(super) fn members(session: Pid, _since: Duration) -> Vec<Member> {
        match test_kill_process_group(session) {
            Ok(()) => vec![Member(session)],
            Err(_) => Vec::new(),
        }
    }
}

use system::members;
