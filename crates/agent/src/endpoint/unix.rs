//! `unix:PATH`: a connection to a program that listens on a Unix socket, made when the endpoint is
//! opened.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tokio::net::UnixStream;

use super::{Endpoint, OpenError, Use, connection};
use crate::beneath::Place;

pub(super) async fn open(path: &Path, wanted: Use) -> Result<Endpoint, OpenError> {
    open_at(&Place::Anywhere(path.to_owned()), wanted).await
}

pub(super) async fn open_at(place: &Place, wanted: Use) -> Result<Endpoint, OpenError> {
    let name = format!("unix:{place}");
    let connect = async {
        let (path, _held) = reach(place)?;
        let stream = connect(&path).await?;
        connection::endpoint(stream.into_std()?.into(), wanted, name.clone())
    };
    let failed = |source| OpenError::Connect {
        to: name.clone(),
        source,
    };
    connect.await.map_err(failed)
}

/// A path to connect to, good as long as what is beside it is held: the very socket that lies where it
/// must, whatever is put in its place.
#[cfg(target_os = "linux")]
fn reach(place: &Place) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    use std::os::fd::AsRawFd as _;
    match place {
        Place::Anywhere(path) => Ok((path.clone(), None)),
        Place::Beneath { .. } => {
            let socket = place.open(OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
            let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
            Ok((path.into(), Some(socket)))
        }
    }
}

/// No other system connects to a descriptor.
#[cfg(not(target_os = "linux"))]
fn reach(place: &Place) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    place.stat()?;
    Ok((place.path(), None))
}

/// Waits while the listener's queue is full, as a blocking connect(2) does.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(QUEUE_PAUSE).await;
            }
            connected => return connected,
        }
    }
}

/// A full queue is tried again after this: the system does not say when there is room.
const QUEUE_PAUSE: Duration = Duration::from_millis(10);
