//! `unix-listen:PATH`: connections from programs of this user.
//!
//! The socket's file has mode 0600 before anybody can connect, and goes with the listener. One that
//! a dead listener left behind is replaced: connecting to it is refused. Everything else that is
//! there stays.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

use super::listening::{Accept, Arrival, Listening};
use super::{OpenError, connection};

pub(super) async fn listen(path: &Path) -> Result<Listening, OpenError> {
    let address = || format!("unix {}", path.display());
    let bound = match bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if !is_left_over(path).await {
                return Err(OpenError::AddressInUse {
                    address: address(),
                    hint: "another program listens there, or it is no socket; choose another path",
                });
            }
            fs::remove_file(path).and_then(|()| bind(path))
        }
        bound => bound,
    };
    match bound {
        Ok(socket) => Ok(Listening::new(socket, address())),
        Err(source) => Err(OpenError::Listen {
            address: address(),
            source,
        }),
    }
}

fn bind(path: &Path) -> io::Result<UnixAccept> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let file = SocketFile::new(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(UnixAccept {
        listener: socket.listen(QUEUE)?,
        file,
    })
}

/// Whether a socket is there and nobody listens on it.
async fn is_left_over(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    is_socket
        && UnixStream::connect(path)
            .await
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[derive(Debug)]
struct UnixAccept {
    listener: UnixListener,
    file: SocketFile,
}

impl Accept for UnixAccept {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Arrival, String)>> {
        let (stream, _) = ready!(self.listener.poll_accept(cx))?;
        let fd = stream.into_std()?.into();
        let name = format!("a connection to {}", self.file.path.display());
        Poll::Ready(Ok((connection::arrival(fd), name)))
    }
}

/// The file of a socket, removed when dropped unless another has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Connections that wait to be accepted.
const QUEUE: u32 = 1024;
