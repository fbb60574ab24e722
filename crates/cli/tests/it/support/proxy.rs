//! A real proxy: HTTP's CONNECT and SOCKS 5 on one port, each connection in a thread of its own.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::net;

/// What the proxy does with the next requests, and what it was asked.
#[derive(Debug, Default)]
struct State {
    /// Answers all with this, if set, and lets nobody through.
    answer: Option<Vec<u8>>,
    /// The address it connects from, if not any.
    from: Option<Ipv4Addr>,
    /// Where it was asked to connect.
    asked: Vec<String>,
    /// What it holds open.
    open: Vec<TcpStream>,
}

/// A proxy that takes every name for this host: it resolves names, nobody else could.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    addr: SocketAddr,
    /// `USER:PASSWORD` that it wants, for HTTP in base64.
    login: Option<(&'static str, &'static str)>,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// Wants this user and password: plain, and in base64.
    pub(crate) fn start_with(login: Option<(&'static str, &'static str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("its address");
        let state = Arc::default();
        let proxy = Self { addr, login, state };
        let serving = proxy.clone();
        // Ends with the test process.
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let proxy = serving.clone();
                thread::spawn(move || proxy.serve(stream));
            }
        });
        proxy
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on every request gets this answer; none again with `None`.
    pub(crate) fn answer(&self, answer: Option<&str>) {
        self.state().answer = answer.map(|answer| answer.as_bytes().to_vec());
    }

    /// From now on it connects from this address of the host, as if the network had changed.
    pub(crate) fn connect_from(&self, from: Ipv4Addr) {
        self.state().from = Some(from);
    }

    fn dial(&self, port: u16) -> io::Result<TcpStream> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let Some(from) = self.state().from else {
            return TcpStream::connect(to);
        };
        let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None)?;
        net::bind(&socket, &SocketAddr::from((from, 0)))?;
        net::connect(&socket, &to)?;
        Ok(socket.into())
    }

    /// Where it was asked to connect so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    /// Breaks all that goes through it.
    pub(crate) fn cut(&self) {
        for stream in self.state().open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn serve(&self, mut client: TcpStream) {
        let mut first = [0];
        if client.peek(&mut first).is_err() {
            return;
        }
        let begun = match first {
            [5] => self.socks(&mut client),
            _ => self.connect(&mut client),
        };
        let Some(server) = begun else {
            // Unread bytes would turn the end into a reset.
            let _ = client.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut client, &mut std::io::sink());
            return;
        };
        let pass = |mut from: TcpStream, mut to: TcpStream| {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        };
        let clone = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
        self.state().open.extend([clone(&client), clone(&server)]);
        let (there, back) = (clone(&client), clone(&server));
        thread::spawn(move || pass(there, back));
        pass(server, client);
    }

    /// Reads a request to CONNECT; the connection it made, after its answer.
    fn connect(&self, client: &mut TcpStream) -> Option<TcpStream> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).ok()?;
            head.extend(byte);
        }
        let head = String::from_utf8(head).ok()?;
        let to = head.strip_prefix("CONNECT ")?.split(' ').next()?;
        self.state().asked.push(to.to_owned());
        let proof = |base64| format!("\r\nProxy-Authorization: Basic {base64}\r\n");
        let refuse = match self.login {
            Some((_, base64)) if !head.contains(&proof(base64)) => Some(
                b"HTTP/1.1 407 Login\r\nProxy-Authenticate: Basic realm=\"tests\"\r\n\r\n".to_vec(),
            ),
            _ => self.state().answer.clone(),
        };
        if let Some(refuse) = refuse {
            client.write_all(&refuse).ok()?;
            return None;
        }
        let port = to.rsplit_once(':')?.1.parse().ok()?;
        let Ok(server) = self.dial(port) else {
            let answer = b"HTTP/1.1 503 Service Unavailable\r\n\r\n";
            client.write_all(answer).ok()?;
            return None;
        };
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").ok()?;
        Some(server)
    }

    /// The same in SOCKS 5.
    fn socks(&self, client: &mut TcpStream) -> Option<TcpStream> {
        let read = |len: usize, client: &mut TcpStream| {
            let mut bytes = vec![0; len];
            client.read_exact(&mut bytes).ok().map(|()| bytes)
        };
        let ways = read(2, client)?[1];
        let ways = read(ways.into(), client)?;
        if let Some((login, _)) = self.login {
            if !ways.contains(&2) {
                client.write_all(&[5, 0xff]).ok()?;
                return None;
            }
            client.write_all(&[5, 2]).ok()?;
            let user = read(2, client)?[1];
            let user = read(user.into(), client)?;
            let password = read(1, client)?[0];
            let password = read(password.into(), client)?;
            let is_right = [user, password].join(&b':') == login.as_bytes();
            client.write_all(&[1, u8::from(!is_right)]).ok()?;
            if !is_right {
                return None;
            }
        } else {
            client.write_all(&[5, 0]).ok()?;
        }
        let request = read(4, client)?;
        let host = match request[3] {
            1 => {
                let four: [u8; 4] = read(4, client)?.try_into().ok()?;
                std::net::Ipv4Addr::from(four).to_string()
            }
            _ => {
                let len = read(1, client)?[0];
                String::from_utf8(read(len.into(), client)?).ok()?
            }
        };
        let port = u16::from_be_bytes(read(2, client)?.try_into().ok()?);
        self.state().asked.push(format!("{host}:{port}"));
        let server = self.dial(port);
        let reply = if server.is_ok() { 0 } else { 5 };
        client.write_all(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
        server.ok()
    }
}
