//! `tcp:HOST:PORT`: a connection to a program that listens, made when the endpoint is opened.

use farpipe_net::HostPort;

use super::{Endpoint, OpenError, Use, connection};

pub(super) async fn open(to: &HostPort, wanted: Use) -> Result<Endpoint, OpenError> {
    let name = format!("tcp:{to}");
    let connect = async {
        let stream = farpipe_net::connect(to).await?;
        connection::endpoint(stream.into_std()?.into(), wanted, name.clone())
    };
    let failed = |source| OpenError::Connect {
        to: name.clone(),
        source,
    };
    connect.await.map_err(failed)
}
