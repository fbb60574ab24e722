//! The process that starts commands. One thread: the launchers hang up with the thread that started them.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use farpipe_proto::wire::control;
use prost::Message as _;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::super::environment::Resolved;
use super::super::launch::{self, LaunchError, own_binary};
use super::super::may::may_somebody;
use super::super::request::Request;
use super::{ANSWER_MAX, REQUEST_MAX, exit_bytes, receive, said, send};
use crate::endpoint::fd;
use crate::policy::LivePolicy;

/// Starts what the agent at stdin asks for, as far as the policy lets anybody have it, until that is gone. What runs then is
/// hung up by the end of this process.
#[must_use]
pub fn serve(policy: LivePolicy) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let served = runtime.and_then(|runtime| runtime.block_on(serve_until_gone(Arc::new(policy))));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("commands cannot be started any more: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve_until_gone(policy: Arc<LivePolicy>) -> io::Result<()> {
    // A service manager's, for all at once: the agent ends what runs, and this ends with the agent.
    let _caught = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    let binary: Arc<Path> = own_binary()?.into();
    let agent = fd::register(fd::dup(rustix::stdio::stdin())?, Interest::READABLE)?;
    let mut running = JoinSet::new();
    loop {
        let (request, mut fds) = tokio::select! {
            asked = next(&agent, REQUEST_MAX) => asked?,
            Some(_) = running.join_next() => continue,
        };
        if request.is_empty() {
            return Ok(());
        }
        // A leash, and what becomes the command's descriptors.
        if fds.is_empty() {
            continue;
        }
        let leash = fd::register(fds.remove(0), Interest::READABLE)?;
        let (policy, binary) = (Arc::clone(&policy), Arc::clone(&binary));
        running.spawn(async move {
            if let Err(error) = one(&policy, &binary, &request, fds, &leash).await {
                let why = match error {
                    LaunchError::Launcher(error) => error.to_string(),
                    error => error.to_string(),
                };
                let mut answer = vec![said::FAILED];
                answer.extend_from_slice(why.as_bytes());
                answer.truncate(ANSWER_MAX);
                // Nobody waits for it any more.
                let _ = send(leash.get_ref().as_fd(), &answer, &[]);
            }
        });
    }
}

/// The next message. Cancel safe.
async fn next(socket: &AsyncFd<OwnedFd>, max: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    loop {
        let mut ready = socket.readable().await?;
        match receive(socket.get_ref().as_fd(), max) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok((Vec::new(), Vec::new()));
            }
            received => return received,
        }
    }
}

/// Starts one command, and is ready when it has ended and the agent knows how.
///
/// # Errors
/// It was not started.
async fn one(
    policy: &Arc<LivePolicy>,
    binary: &Path,
    request: &[u8],
    ends: Vec<OwnedFd>,
    leash: &AsyncFd<OwnedFd>,
) -> Result<(), LaunchError> {
    let resolved = permitted(policy, request)
        .await
        .map_err(LaunchError::Launcher)?;
    let all: Vec<BorrowedFd<'_>> = ends.iter().map(OwnedFd::as_fd).collect();
    let (mut child, report) = launch::begin(binary, &resolved, &all).await?;
    // Here nobody would see that they are closed at the other end.
    drop(ends);
    let mut answer = vec![said::STARTED];
    answer.extend_from_slice(&child.id().to_be_bytes());
    let told = send(leash.get_ref().as_fd(), &answer, &[report.as_fd()]);
    // The launcher's end is seen by the agent.
    drop(report);
    told.map_err(LaunchError::Launcher)?;
    let exited = child.exited().map_err(LaunchError::Launcher)?;
    let ended = std::future::poll_fn(|cx| exited.poll(cx));
    // An agent that lets go before that has ended the command, or is gone.
    if ended.await.is_ok()
        && let Ok(exit) = child.status()
    {
        let _ = send(leash.get_ref().as_fd(), &exit_bytes(exit), &[]);
        let _closed = next(leash, 1).await;
    }
    let _reaped = child.wait().await;
    Ok(())
}

/// What it comes to here, if the policy lets anybody have it.
async fn permitted(policy: &Arc<LivePolicy>, request: &[u8]) -> io::Result<Resolved> {
    let asked = control::Command::decode(request).map_err(io::Error::other)?;
    let request = Request::parse(asked).map_err(io::Error::other)?;
    let policy = Arc::clone(policy);
    let asked = tokio::task::spawn_blocking(move || {
        may_somebody(&policy.current(), &request).map_err(|why| io::Error::other(why.to_string()))
    });
    asked.await.map_err(io::Error::other)?
}
