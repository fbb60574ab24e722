//! The two ends of a proxied connection, and what tests do with them.

use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use farpipe_faultproxy::{Config, Proxy, Stats};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A proxy and one connection through it.
pub(crate) struct Link {
    pub(crate) proxy: Proxy,
    pub(crate) upstream: TcpListener,
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

impl Link {
    /// Starts a proxy with this configuration and connects through it.
    pub(crate) async fn new(configure: impl FnOnce(&mut Config)) -> Self {
        let (proxy, upstream) = proxy(configure).await;
        let (client, server) = connect(&proxy, &upstream).await;
        Self {
            proxy,
            upstream,
            client,
            server,
        }
    }
}

/// A proxy in front of a listener of ours.
pub(crate) async fn proxy(configure: impl FnOnce(&mut Config)) -> (Proxy, TcpListener) {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = Config::new(upstream.local_addr().unwrap());
    configure(&mut config);
    (Proxy::start(config).unwrap(), upstream)
}

/// Both ends of a new connection through the proxy.
pub(crate) async fn connect(proxy: &Proxy, upstream: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(proxy.addr()).await.unwrap();
    let (server, _) = upstream.accept().await.unwrap();
    (client, server)
}

/// How a direction ended for its reader.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Fin,
    Reset,
}

/// All bytes that arrive, and what came after them.
pub(crate) async fn read_all(stream: &mut TcpStream) -> (Vec<u8>, Ended) {
    let mut bytes = Vec::new();
    let ended = match stream.read_to_end(&mut bytes).await {
        Ok(_) => Ended::Fin,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ended::Reset,
        Err(error) => panic!("{error}"),
    };
    (bytes, ended)
}

/// So many bytes that arrive.
pub(crate) async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// Writes until the way is full and the write blocks. Returns how many bytes went in.
///
/// On a paused clock only: the ten seconds pass when no task can do anything.
pub(crate) async fn fill(stream: &mut TcpStream, at_most: usize) -> usize {
    let chunk = vec![b'f'; 64 << 10];
    let mut written = 0;
    while written < at_most {
        match tokio::time::timeout(Duration::from_secs(10), stream.write(&chunk)).await {
            Ok(length) => written += length.unwrap(),
            Err(_) => return written,
        }
    }
    written
}

/// Asserts that the stream has neither bytes nor an end to tell of. On a paused clock only.
pub(crate) async fn assert_silent(stream: &mut TcpStream) {
    let mut byte = [0];
    let result = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut byte)).await;
    assert!(result.is_err(), "expected silence, got {result:?}");
}

/// Bytes in which every place can be told from its neighbours.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

/// Waits until the counts say so.
pub(crate) async fn until(proxy: &Proxy, condition: impl Fn(&Stats) -> bool) -> Stats {
    loop {
        let stats = proxy.stats();
        if condition(&stats) {
            return stats;
        }
        tokio::task::yield_now().await;
    }
}

/// Fails a test that hangs. Real clock only: a paused one would jump to the limit.
pub(crate) async fn within<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), test)
        .await
        .expect("the test hangs")
}
