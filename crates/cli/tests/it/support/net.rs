//! What stands between two ends: the fault proxy, and servers that are no farpipe.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use farpipe_faultproxy::{Config, Plan, Proxy, Stats};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::runtime::Runtime;

use super::{DEADLINE, Listener};

/// A fault proxy in front of a listener.
#[derive(Debug)]
pub(crate) struct Faults {
    // Before the runtime: its tasks end first.
    proxy: Proxy,
    runtime: Runtime,
    scheme: String,
}

impl Faults {
    /// In front of `listener`, with these faults.
    pub(crate) fn between(listener: &Listener, plan: Plan) -> Self {
        Self::shaped(listener, |config| config.plan = plan)
    }

    /// In front of `listener`, as `shape` says.
    pub(crate) fn shaped(listener: &Listener, shape: impl FnOnce(&mut Config)) -> Self {
        Self::before(listener.url(), shape)
    }

    /// In front of whoever listens there.
    pub(crate) fn before(url: &str, shape: impl FnOnce(&mut Config)) -> Self {
        let (scheme, authority) = url.split_once("://").expect("a URL");
        let addr = authority.parse().expect("an address and a port");
        let mut config = Config::new(addr);
        shape(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let entered = runtime.enter();
        let proxy = Proxy::start(config).expect("a proxy on a free port");
        drop(entered);
        Self {
            proxy,
            runtime,
            scheme: scheme.to_owned(),
        }
    }

    /// What to give to `connect`.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.proxy.addr())
    }

    /// While on, nothing listens on its port. In force when this returns.
    pub(crate) fn refuse(&mut self, on: bool) {
        self.runtime
            .block_on(self.proxy.refuse(on))
            .expect("the proxy runs");
    }

    /// Ends all and says what was done.
    pub(crate) fn stop(self) -> Stats {
        self.runtime.block_on(self.proxy.stop())
    }
}

impl std::ops::Deref for Faults {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        &self.proxy
    }
}

/// A server that is no farpipe: it reads what comes first, answers always the same, and ends the
/// connection, as often as someone comes.
pub(crate) fn foreign_server(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = answer.into();
    serve(move |mut stream| {
        let mut buf = [0; 4096];
        let _ = stream.read(&mut buf);
        let _ = stream.write_all(&answer);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        // Unread bytes would turn the end into a reset.
        while stream.read(&mut buf).is_ok_and(|read| read > 0) {}
    })
}

/// Serves each connection with `serve`, one after the other; ends with the test process.
pub(crate) fn serve(serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("its address");
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            serve(stream);
        }
    });
    addr
}

/// The next connection of a listener of our own.
#[track_caller]
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    let mut waiting = [PollFd::new(listener, PollFlags::IN)];
    let deadline = Timespec::try_from(DEADLINE).expect("not that long");
    let ready = rustix::event::poll(&mut waiting, Some(&deadline)).expect("a socket");
    assert!(ready > 0, "nobody connects");
    listener.accept().expect("a connection").0
}

/// A port nobody listens on: ours as long as the guard lives.
pub(crate) fn silent_port() -> (SocketAddr, impl Sized) {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    rustix::net::bind(&socket, &any).expect("a free port");
    let addr = rustix::net::getsockname(&socket).expect("its address");
    (addr.try_into().expect("IPv4"), socket)
}
