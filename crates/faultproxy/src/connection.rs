//! One proxied connection, from its accept until both its sockets are closed.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::control::{Interrupt, Interrupts, Switches};
use crate::draw::{Draw, Purpose};
use crate::gate::Gate;
use crate::line::Line;
use crate::plan::{Admit, ConnectionPlan, Cut, Dir, How, Trigger};
use crate::proxy::Config;
use crate::pump::{Over, Pump, Source};
use crate::shape::{DueTimes, Shape};
use crate::sockets;
use crate::stats::{Counters, Event, Traffic};

/// What a connection is given at its accept.
pub(crate) struct Connection {
    pub(crate) config: Arc<Config>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) plan: ConnectionPlan,
    pub(crate) client: TcpStream,
    pub(crate) accepted: Instant,
    pub(crate) switches: tokio::sync::watch::Receiver<Switches>,
}

/// Serves it to its end.
pub(crate) async fn serve(connection: Connection) {
    let Connection { config, counters, plan, client, accepted, switches } = connection;
    let traffic = Traffic::new(counters, accepted);
    let mut interrupts = Interrupts::new(switches, life(&plan, accepted));
    traffic.count(Event::Accepted);
    if plan.admit == Admit::Refuse {
        traffic.count(Event::Refused);
        return sockets::reset(client);
    }
    let upstream = match connect(&mut interrupts, &traffic, &client).await {
        Connected::Yes(upstream) => upstream,
        Connected::Torn(cut) => return tear(cut, client, None, &mut interrupts).await,
        Connected::No => return sockets::reset(client),
    };
    if plan.admit == Admit::Reset {
        traffic.count(Event::ResetFirst);
        return tear(Cut::Reset, client, Some(upstream), &mut interrupts).await;
    }
    prepare(&client, &config.up, &config.down);
    prepare(&upstream, &config.down, &config.up);

    match relay(&config, &plan, &traffic, (&client, &upstream), &mut interrupts, accepted).await {
        End::Finished => traffic.count(Event::Finished),
        End::Stopped => tear(Cut::Reset, client, Some(upstream), &mut interrupts).await,
        End::Broken => {
            traffic.count(Event::Broken);
            tear(Cut::Reset, client, Some(upstream), &mut interrupts).await;
        }
        End::Cut(cut) => tear(cut, client, Some(upstream), &mut interrupts).await,
    }
}

enum Connected {
    Yes(TcpStream),
    /// By a fault that came first.
    Torn(Cut),
    No,
}

async fn connect(interrupts: &mut Interrupts, traffic: &Traffic, client: &TcpStream) -> Connected {
    // Never tell the upstream of a connection that arrives in a black hole.
    let black_hole = interrupts.black_hole();
    let address = interrupts.upstream();
    let mut connecting = pin!(async {
        match black_hole {
            true => std::future::pending().await,
            false => TcpStream::connect(address).await,
        }
    });
    loop {
        tokio::select! {
            biased;
            interrupt = interrupts.next() => match interrupt {
                Interrupt::Stop => return Connected::No,
                // A paused link lets no handshake through either, but that one is the kernel's.
                Interrupt::Pause(_) => {}
                Interrupt::Cut(cut) => {
                    traffic.count_cut_with(Event::Cut(cut), sockets::has_unread(client));
                    return Connected::Torn(cut);
                }
            },
            connected = &mut connecting => return match connected {
                Ok(upstream) => Connected::Yes(upstream),
                Err(_) => {
                    traffic.count(Event::UpstreamFailed);
                    Connected::No
                }
            },
        }
    }
}

/// How the moving of bytes ended.
enum End {
    Finished,
    Broken,
    Stopped,
    Cut(Cut),
}

/// Moves bytes both ways until both directions have ended or the connection is to be torn.
async fn relay(
    config: &Config,
    plan: &ConnectionPlan,
    traffic: &Traffic,
    (client, upstream): (&TcpStream, &TcpStream),
    interrupts: &mut Interrupts,
    accepted: Instant,
) -> End {
    let direction = |dir, source, sink, purpose| Direction {
        dir,
        source,
        sink,
        draw: Draw::new(config.seed, plan.connection, purpose),
        shape: match dir {
            Dir::Up => &config.up,
            Dir::Down => &config.down,
        },
    };
    let up = direction(Dir::Up, client, upstream, Purpose::JitterUp).run(config, plan, traffic, accepted);
    let down = direction(Dir::Down, upstream, client, Purpose::JitterDown).run(config, plan, traffic, accepted);
    let mut moving = pin!(async { tokio::try_join!(up, down) });
    let mut paused = false;
    loop {
        tokio::select! {
            biased;
            interrupt = interrupts.next() => match interrupt {
                Interrupt::Stop => return End::Stopped,
                Interrupt::Pause(on) => paused = on,
                Interrupt::Cut(cut) => {
                    let unread = sockets::has_unread(client) || sockets::has_unread(upstream);
                    traffic.count_cut_with(Event::Cut(cut), unread);
                    return End::Cut(cut);
                }
            },
            ended = &mut moving, if !paused => {
                let end = match ended {
                    Ok(_) => return End::Finished,
                    Err(Over::Broken) => End::Broken,
                    Err(Over::Cut(cut)) => {
                        traffic.count_cut_with(Event::Cut(cut), true);
                        End::Cut(cut)
                    }
                };
                if matches!(end, End::Broken | End::Cut(Cut::Reset)) {
                    // What passed before the place of the cut shall arrive, or the place would mean little.
                    let both = async { tokio::join!(sockets::sent(client), sockets::sent(upstream)) };
                    let _ = timeout(SEND_WAIT, both).await;
                }
                return end;
            }
        }
    }
}

struct Direction<'a> {
    dir: Dir,
    source: &'a TcpStream,
    sink: &'a TcpStream,
    draw: Draw,
    shape: &'a Shape,
}

impl Direction<'_> {
    async fn run(
        self,
        config: &Config,
        plan: &ConnectionPlan,
        traffic: &Traffic,
        accepted: Instant,
    ) -> Result<(), Over> {
        let Self { dir, source, sink, draw, shape } = self;
        let gate = Gate::new(plan.armed.iter().filter(|armed| armed.dir == dir), config.plan.framing);
        let Some(delay) = &shape.delay else {
            let pump = Pump::new(dir, Source::Socket(source), sink, traffic, gate, shape);
            return pump.with_late(&plan.armed, accepted).run().await;
        };
        let line = Line::new(delay.buffer);
        let due_times = DueTimes::new(delay, draw, Instant::now());
        let pump = Pump::new(dir, Source::Line(&line), sink, traffic, gate, shape).with_late(&plan.armed, accepted);
        let mut pump = pin!(pump.run());
        tokio::select! {
            over = &mut pump => over,
            () = line.fill(source, due_times) => pump.await,
        }
    }
}

/// Carries a cut out and stays until both sockets may be closed. A later `cut_all` takes the place of the first.
async fn tear(mut cut: Cut, client: TcpStream, upstream: Option<TcpStream>, interrupts: &mut Interrupts) {
    loop {
        let both = |one: TcpStream, other: Option<TcpStream>| {
            sockets::reset(one);
            other.map(sockets::reset);
        };
        let over = async {
            match cut {
                Cut::Reset => {}
                Cut::Fin => {
                    let fin = async |stream: &TcpStream| {
                        sockets::shut_down(stream);
                        sockets::swallow(stream).await;
                    };
                    let _ = timeout(FIN_WAIT, on_both(&client, upstream.as_ref(), fin)).await;
                }
                Cut::Stall => on_both(&client, upstream.as_ref(), sockets::closed).await,
                Cut::BlackHole => on_both(&client, upstream.as_ref(), sockets::swallow).await,
            }
        };
        tokio::select! {
            () = over => {
                if cut == Cut::Reset {
                    both(client, upstream);
                }
                return;
            }
            next = interrupts.next_cut_all() => match next {
                Some(next) => cut = next,
                None => return both(client, upstream),
            }
        }
    }
}

async fn on_both(client: &TcpStream, upstream: Option<&TcpStream>, act: impl AsyncFn(&TcpStream)) {
    match upstream {
        Some(upstream) => _ = tokio::join!(act(client), act(upstream)),
        None => act(client).await,
    }
}

/// The first of the lifetimes that tear the whole connection.
fn life(plan: &ConnectionPlan, accepted: Instant) -> Option<(Instant, Cut)> {
    let lives = plan.armed.iter().filter_map(|armed| match (armed.trigger, armed.how) {
        (Trigger::After(life), How::Cut(cut)) => Some((accepted + life, cut)),
        _ => None,
    });
    lives.min_by_key(|&(end, _)| end)
}

/// Options of a socket whose peer is the source of one direction and the sink of the other.
fn prepare(stream: &TcpStream, reads: &Shape, writes: &Shape) {
    // Every one of these only shapes; a socket torn by its peer refuses them, and that shows soon enough.
    let _ = stream.set_nodelay(true);
    let socket = socket2::SockRef::from(stream);
    if let Some(size) = reads.socket_buffer {
        let _ = socket.set_recv_buffer_size(size.get());
    }
    if let Some(size) = writes.socket_buffer {
        let _ = socket.set_send_buffer_size(size.get());
    }
}

/// How long a cut at a place waits for what passed before it to be sent. A peer that does not read gets less.
const SEND_WAIT: Duration = Duration::from_millis(500);
/// How long after a FIN the peers have to close.
const FIN_WAIT: Duration = Duration::from_secs(5);
