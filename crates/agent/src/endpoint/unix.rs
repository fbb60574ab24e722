//! `unix:PATH`: a connection to a program that listens on a Unix socket, made when the endpoint is
//! opened.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;

use super::{Endpoint, OpenError, Use, connection};

pub(super) async fn open(path: &Path, wanted: Use) -> Result<Endpoint, OpenError> {
    let name = format!("unix:{}", path.display());
    let connect = async {
        let stream = connect(path).await?;
        connection::endpoint(stream.into_std()?.into(), wanted, name.clone())
    };
    let failed = |source| OpenError::Connect {
        to: name.clone(),
        source,
    };
    connect.await.map_err(failed)
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
