//! The proxy: listens, gives each accepted connection its number and plan, and owns all tasks.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Duration, Instant, sleep};

use crate::connection::{self, Connection};
use crate::control::Switches;
use crate::plan::{Cut, Plan};
use crate::pump::at;
use crate::shape::Shape;
use crate::sockets;
use crate::stats::{Ledger, Stats};

/// Everything that makes a proxy; with the same configuration every connection gets the same faults
/// in every run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where connections are passed on to.
    pub upstream: SocketAddr,
    /// What all chance follows from.
    pub seed: u64,
    /// What goes wrong.
    pub plan: Plan,
    /// The shape of the way from client to upstream.
    pub up: Shape,
    /// The shape of the way from upstream to client.
    pub down: Shape,
}

impl Config {
    /// A proxy on a free loopback port that harms nothing.
    #[must_use]
    pub fn new(upstream: SocketAddr) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            upstream,
            seed: 0,
            plan: Plan::default(),
            up: Shape::default(),
            down: Shape::default(),
        }
    }
}

/// A running proxy. Dropping it ends its tasks without waiting for them and closes all connections,
/// with FIN or RST as the kernel sees fit; [`Proxy::stop`] resets them and waits.
#[derive(Debug)]
pub struct Proxy {
    config: Arc<Config>,
    addr: SocketAddr,
    ledger: Arc<Ledger>,
    switches: watch::Sender<Switches>,
    /// Up to which `refuse_asked` the accept loop has obeyed.
    obeyed: watch::Receiver<u64>,
    tasks: JoinSet<()>,
}

impl Proxy {
    /// Starts it.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// If the plan makes no sense ([`io::ErrorKind::InvalidInput`]) or the address cannot be
    /// listened on.
    pub fn start(config: Config) -> io::Result<Self> {
        config
            .plan
            .check()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let port = Port::bind(config.listen)?;
        let refuse = !config.plan.refuse_for.is_zero();
        let listener = match refuse {
            true => None,
            false => Some(port.listen(&config)?),
        };
        let (switches, watched) = watch::channel(Switches::new(config.upstream, refuse));
        let (obeys, obeyed) = watch::channel(0);
        let config = Arc::new(config);
        let ledger = Arc::new(Ledger::default());
        let addr = port.addr;
        let acceptor = Acceptor {
            config: Arc::clone(&config),
            ledger: Arc::clone(&ledger),
            switches: switches.clone(),
            watched,
            obeys,
            opens: refuse.then(|| Instant::now() + config.plan.refuse_for),
            port,
            listener,
            accepted: 0,
            connections: JoinSet::new(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(acceptor.run());
        Ok(Self {
            config,
            addr,
            ledger,
            switches,
            obeyed,
            tasks,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it was started with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.ledger.counters.snapshot()
    }

    /// The command line that starts the same proxy, then a line for each connection: what it was
    /// given, and what has happened to it when and after how many bytes. For printing when a test
    /// fails.
    #[must_use]
    pub fn account(&self) -> String {
        let mut text = format!("{}\n", self.config);
        self.ledger.journal.write(&mut text, |connection| {
            self.config.plan.derive(self.config.seed, connection)
        });
        text
    }

    /// Tears all connections that are open now, in this way. Returns before it has happened.
    pub fn cut_all(&self, cut: Cut) {
        self.switches.send_modify(|switches| {
            switches.cuts += 1;
            switches.cut = cut;
        });
    }

    /// Black-holes all connections and, while on, every new one, of which the upstream never hears.
    /// Switching it off is for new connections only: those that lost bytes in the hole stay there.
    pub fn black_hole(&self, on: bool) {
        self.switches
            .send_modify(|switches| switches.black_hole = on);
    }

    /// Stops moving bytes on all connections, or goes on. Nothing is lost, as on a link that is
    /// down for a while.
    pub fn pause(&self, on: bool) {
        self.switches.send_modify(|switches| switches.pause = on);
    }

    /// Passes new connections to another upstream.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.switches
            .send_modify(|switches| switches.upstream = upstream);
    }

    /// While on, nothing listens: connects are answered with ECONNREFUSED. Open connections go on.
    /// The port stays ours. When this returns it is in force; dropping the future leaves the
    /// request made. Should listening again fail, it is tried until it works.
    ///
    /// Fails only if the accept task has ended, by a panic.
    pub async fn refuse(&self, on: bool) -> io::Result<()> {
        let mut asked = 0;
        self.switches.send_modify(|switches| {
            switches.refuse = on;
            switches.refuse_asked += 1;
            asked = switches.refuse_asked;
        });
        match self
            .obeyed
            .clone()
            .wait_for(|&obeyed| obeyed >= asked)
            .await
        {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::other("the proxy's accept task has ended")),
        }
    }

    /// Resets all connections, ends all tasks and says what has been done.
    ///
    /// # Panics
    /// If one of its tasks has panicked.
    pub async fn stop(mut self) -> Stats {
        self.switches.send_modify(|switches| switches.stop = true);
        while let Some(ended) = self.tasks.join_next().await {
            pass_panic_on(ended);
        }
        self.stats()
    }
}

/// The accept loop and all it owns.
struct Acceptor {
    config: Arc<Config>,
    ledger: Arc<Ledger>,
    switches: watch::Sender<Switches>,
    watched: watch::Receiver<Switches>,
    obeys: watch::Sender<u64>,
    /// The end of `Plan::refuse_for`.
    opens: Option<Instant>,
    port: Port,
    listener: Option<TcpListener>,
    accepted: u64,
    connections: JoinSet<()>,
}

impl Acceptor {
    async fn run(mut self) {
        loop {
            self.ledger.counters.set_live(self.connections.len());
            let room = self.connections.len() < CONNECTIONS_MAX;
            tokio::select! {
                changed = self.watched.changed() => {
                    let now = *self.watched.borrow_and_update();
                    // The sender of this channel is in `self`, so it cannot be closed.
                    if changed.is_err() || now.stop {
                        break;
                    }
                    self.refuse(now.refuse, now.refuse_asked).await;
                }
                () = at(self.opens) => {
                    self.opens = None;
                    self.switches.send_modify(|switches| switches.refuse = false);
                }
                Some(ended) = self.connections.join_next() => pass_panic_on(ended),
                accepted = accept(self.listener.as_ref()), if room => match accepted {
                    Ok(client) => self.admit(client),
                    // Out of descriptors, or a client that has gone already; the next one may fare
                    // better.
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
            }
        }
        self.listener = None;
        while let Some(ended) = self.connections.join_next().await {
            pass_panic_on(ended);
        }
        self.ledger.counters.set_live(0);
    }

    fn admit(&mut self, client: TcpStream) {
        let accepted = Instant::now();
        let plan = self.config.plan.derive(self.config.seed, self.accepted);
        self.accepted += 1;
        self.connections.spawn(connection::serve(Connection {
            config: Arc::clone(&self.config),
            ledger: Arc::clone(&self.ledger),
            plan,
            client,
            accepted,
            switches: self.switches.subscribe(),
        }));
    }

    async fn refuse(&mut self, on: bool, asked: u64) {
        if on {
            self.listener = None;
        } else if self.listener.is_none() {
            match self.port.listen(&self.config) {
                Ok(listener) => self.listener = Some(listener),
                Err(_) => {
                    sleep(ACCEPT_PAUSE).await;
                    self.watched.mark_changed();
                    return;
                }
            }
        }
        self.obeys.send_replace(asked);
    }
}

/// Never, while nothing listens.
async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// A port that stays ours while nothing listens on it: a second socket, bound and never listening,
/// holds it.
#[derive(Debug)]
struct Port {
    addr: SocketAddr,
    reuse: bool,
    _holder: TcpSocket,
}

impl Port {
    fn bind(addr: SocketAddr) -> io::Result<Self> {
        // SO_REUSEADDR would let others bind the port while nothing listens; take it only if it is
        // what helps against an earlier program's connections in TIME_WAIT.
        let (holder, reuse) = match Self::socket(addr, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                (Self::socket(addr, true)?, true)
            }
            holder => (holder?, false),
        };
        let addr = holder.local_addr()?;
        Ok(Self {
            addr,
            reuse,
            _holder: holder,
        })
    }

    fn listen(&self, config: &Config) -> io::Result<TcpListener> {
        let socket = Self::socket(self.addr, self.reuse)?;
        sockets::set_buffers(&socket, config.up.socket_buffer, config.down.socket_buffer)?;
        socket.listen(BACKLOG)
    }

    fn socket(addr: SocketAddr, reuse: bool) -> io::Result<TcpSocket> {
        let socket = match addr {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(reuse)?;
        // What lets the holder and the listener share the port; for sockets of the same user only.
        socket.set_reuseport(true)?;
        socket.bind(addr)?;
        Ok(socket)
    }
}

fn pass_panic_on(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Above it connections wait in the backlog. Each holds at most two buffers of 256 KiB and its
/// delays'.
const CONNECTIONS_MAX: usize = 4096;
const BACKLOG: u32 = 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
