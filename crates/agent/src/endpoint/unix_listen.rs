//! `unix-listen:PATH`: connections from programs of this user.
//!
//! The socket's file has mode 0600 before anybody can connect, and goes with the listener. One that
//! a dead listener left behind is replaced: connecting to it is refused. Everything else that is
//! there stays.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

use super::listening::{Accept, Arrival, Listening};
use super::{OpenError, connection};
use crate::beneath::Place;

pub(super) async fn listen(path: &Path) -> Result<Listening, OpenError> {
    listen_at(&Place::Anywhere(path.to_owned())).await
}

pub(super) async fn listen_at(place: &Place) -> Result<Listening, OpenError> {
    let address = || format!("unix {place}");
    let reached = Reached::of(place).map_err(|source| OpenError::Listen {
        address: address(),
        source,
    })?;
    let bound = match bind(&reached) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if !is_left_over(&reached.path).await {
                return Err(OpenError::AddressInUse {
                    address: address(),
                    hint: "another program listens there, or it is no socket; choose another path",
                });
            }
            fs::remove_file(&reached.path).and_then(|()| bind(&reached))
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

fn bind(reached: &Reached) -> io::Result<UnixAccept> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(&reached.path)?;
    let file = SocketFile::new(reached)?;
    fs::set_permissions(&reached.path, Permissions::from_mode(0o600))?;
    Ok(UnixAccept {
        listener: socket.listen(QUEUE)?,
        file,
    })
}

/// A path to the place of a socket, good as long as it is held: no link leads elsewhere meanwhile.
#[derive(Debug, Clone)]
struct Reached {
    path: PathBuf,
    /// For people.
    name: String,
    _dir: Option<Arc<OwnedFd>>,
}

impl Reached {
    fn of(place: &Place) -> io::Result<Self> {
        let (path, dir) = match place {
            Place::Anywhere(path) => (path.clone(), None),
            Place::Beneath { .. } => beneath(place)?,
        };
        Ok(Self {
            path,
            name: place.to_string(),
            _dir: dir.map(Arc::new),
        })
    }
}

#[cfg(target_os = "linux")]
fn beneath(place: &Place) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    use std::os::fd::AsRawFd as _;
    let (dir, name) = place.parent()?;
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    Ok((Path::new(&path).join(name), Some(dir)))
}

/// No other system makes a socket beside a descriptor.
#[cfg(not(target_os = "linux"))]
fn beneath(place: &Place) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    let (dir, _) = place.parent()?;
    Ok((place.path(), Some(dir)))
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
        let name = format!("a connection to {}", self.file.reached.name);
        Poll::Ready(Ok((connection::arrival(fd), name)))
    }
}

/// The file of a socket, removed when dropped unless another has taken its place.
#[derive(Debug)]
struct SocketFile {
    reached: Reached,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn new(reached: &Reached) -> io::Result<Self> {
        Ok(Self {
            reached: reached.clone(),
            identity: identity(&reached.path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let path = &self.reached.path;
        if identity(path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Connections that wait to be accepted.
const QUEUE: u32 = 1024;
