//! One proxied connection, from its accept until both its sockets are closed.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::control::{Interrupt, Interrupts, Switches};
use crate::draw::{Draw, Purpose};
use crate::gate::Gate;
use crate::journal::Event;
use crate::line::Line;
use crate::plan::{Admit, ConnectionPlan, Cut, Dir, How, Trigger};
use crate::proxy::Config;
use crate::pump::{Over, Pump, Source};
use crate::shape::{DueTimes, Shape};
use crate::sockets;
use crate::stats::{Ledger, Traffic};

/// What a connection is given at its accept.
pub(crate) struct Connection {
    pub(crate) config: Arc<Config>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) plan: ConnectionPlan,
    pub(crate) client: TcpStream,
    pub(crate) accepted: Instant,
    pub(crate) switches: tokio::sync::watch::Receiver<Switches>,
}

/// Serves it to its end.
pub(crate) async fn serve(connection: Connection) {
    let Connection {
        config,
        ledger,
        plan,
        client,
        accepted,
        switches,
    } = connection;
    let traffic = Traffic::new(ledger, plan.connection, accepted);
    let mut interrupts = Interrupts::new(switches, life(&plan, accepted));
    traffic.count(Event::Accepted);
    if plan.admit == Admit::Refuse {
        traffic.count(Event::Refused);
        return sockets::reset(client);
    }
    let upstream = match connect(&config, &mut interrupts, &traffic, &client).await {
        Connected::Yes(upstream) => upstream,
        Connected::Torn(cut, upstream) => {
            return tear(cut, client, upstream, &mut interrupts, config.plan.hold).await;
        }
        Connected::No => return sockets::reset(client),
    };
    let tear = async |cut, client, upstream, interrupts: &mut Interrupts| {
        tear(cut, client, Some(upstream), interrupts, config.plan.hold).await;
    };
    if plan.admit == Admit::Reset {
        traffic.count(Event::ResetFirst);
        return tear(Cut::Reset, client, upstream, &mut interrupts).await;
    }
    // Fails only if the peer has torn the connection, and that shows soon enough.
    let _ = client.set_nodelay(true);
    let _ = upstream.set_nodelay(true);

    match relay(
        &config,
        &plan,
        &traffic,
        (&client, &upstream),
        &mut interrupts,
        accepted,
    )
    .await
    {
        End::Finished => traffic.count(Event::Finished),
        End::Stopped => tear(Cut::Reset, client, upstream, &mut interrupts).await,
        End::Broken => {
            traffic.count(Event::Broken);
            tear(Cut::Reset, client, upstream, &mut interrupts).await;
        }
        End::Cut(cut) => tear(cut, client, upstream, &mut interrupts).await,
    }
}

enum Connected {
    Yes(TcpStream),
    /// By a fault that came first. Nothing, if the upstream was not to hear of it.
    Torn(Cut, Option<TcpStream>),
    No,
}

async fn connect(
    config: &Config,
    interrupts: &mut Interrupts,
    traffic: &Traffic,
    client: &TcpStream,
) -> Connected {
    if interrupts.black_hole() {
        traffic.count(Event::Cut(Cut::BlackHole));
        return Connected::Torn(Cut::BlackHole, None);
    }
    let mut connecting = pin!(sockets::connect(
        interrupts.upstream(),
        config.down.socket_buffer,
        config.up.socket_buffer,
    ));
    let mut torn = None;
    loop {
        tokio::select! {
            biased;
            interrupt = interrupts.next() => match interrupt {
                Interrupt::Stop => return Connected::No,
                // The kernel's handshake goes on; no byte will.
                Interrupt::Pause => {}
                Interrupt::Cut(cut) => {
                    traffic.count_cut_with(Event::Cut(cut), sockets::has_unread(client));
                    torn = Some(cut);
                    // A reset takes the half-made connection along; for all else the upstream must
                    // have one.
                    if cut == Cut::Reset {
                        return Connected::Torn(cut, None);
                    }
                }
            },
            connected = &mut connecting => return match (connected, torn) {
                (Ok(upstream), None) => Connected::Yes(upstream),
                (Ok(upstream), Some(cut)) => Connected::Torn(cut, Some(upstream)),
                (Err(_), _) => {
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
    let up = direction(Dir::Up, client, upstream, Purpose::JitterUp)
        .run(config, plan, traffic, accepted);
    let down = direction(Dir::Down, upstream, client, Purpose::JitterDown)
        .run(config, plan, traffic, accepted);
    let mut moving = pin!(async { tokio::try_join!(up, down) });
    let mut idle = pin!(async {
        match config.plan.cut_idle {
            Some(time) => traffic.idle(time).await,
            None => std::future::pending().await,
        }
    });
    loop {
        // Known before the first byte moves: `next` is asked first.
        let paused = interrupts.paused();
        tokio::select! {
            biased;
            interrupt = interrupts.next() => match interrupt {
                Interrupt::Stop => return End::Stopped,
                Interrupt::Pause => {}
                Interrupt::Cut(cut) => {
                    let unread = sockets::has_unread(client) || sockets::has_unread(upstream);
                    traffic.count_cut_with(Event::Cut(cut), unread);
                    return End::Cut(cut);
                }
            },
            () = &mut idle => {
                traffic.count_cut(Event::Cut(Cut::Reset));
                return End::Cut(Cut::Reset);
            }
            ended = &mut moving, if !paused => {
                let gone = |dir| traffic.flow(dir).sink_gone.load(Ordering::Relaxed);
                return match ended {
                    Ok(_) if gone(Dir::Up) || gone(Dir::Down) => End::Broken,
                    Ok(_) => End::Finished,
                    Err(Over::Broken) => {
                        let sent = on_both(client, Some(upstream), sockets::sent);
                        let _ = timeout(SEND_WAIT, sent).await;
                        End::Broken
                    }
                    Err(Over::Cut(dir, cut)) => {
                        traffic.count_cut_with(Event::Cut(cut), true);
                        let sink = match dir {
                            Dir::Up => upstream,
                            Dir::Down => client,
                        };
                        // What passed before the place of the cut shall arrive, or the place would
                        // mean little.
                        if cut == Cut::Reset {
                            let _ = timeout(SEND_WAIT, sockets::sent(sink)).await;
                        }
                        End::Cut(cut)
                    }
                };
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
        let Self {
            dir,
            source,
            sink,
            draw,
            shape,
        } = self;
        let gate = Gate::new(
            plan.armed.iter().filter(|armed| armed.dir == dir),
            config.plan.framing,
        );
        let Some(delay) = &shape.delay else {
            let pump = Pump::new(dir, Source::Socket(source), sink, traffic, gate, shape);
            return pump.with_late(&plan.armed, accepted).run().await;
        };
        let line = Line::new(delay.buffer);
        let due_times = DueTimes::new(delay, draw, Instant::now());
        let pump = Pump::new(dir, Source::Line(&line), sink, traffic, gate, shape)
            .with_late(&plan.armed, accepted);
        let mut pump = pin!(pump.run());
        tokio::select! {
            over = &mut pump => over,
            () = line.fill(source, due_times) => pump.await,
        }
    }
}

/// Carries a cut out and stays until both sockets may be closed. A later `cut_all` takes the place
/// of the first.
async fn tear(
    mut cut: Cut,
    client: TcpStream,
    upstream: Option<TcpStream>,
    interrupts: &mut Interrupts,
    hold: Duration,
) {
    loop {
        let peers_gone = async {
            match cut {
                Cut::Reset => false,
                Cut::Fin => {
                    let fin = async |stream: &TcpStream| {
                        sockets::shut_down(stream);
                        sockets::swallow(stream).await;
                    };
                    timeout(hold.min(FIN_WAIT), on_both(&client, upstream.as_ref(), fin))
                        .await
                        .is_ok()
                }
                Cut::Stall => timeout(hold, on_both(&client, upstream.as_ref(), sockets::closed))
                    .await
                    .is_ok(),
                Cut::BlackHole => {
                    timeout(hold, on_both(&client, upstream.as_ref(), sockets::swallow))
                        .await
                        .is_ok()
                }
            }
        };
        let next = tokio::select! {
            gone = peers_gone => match gone {
                true => return,
                false => None,
            },
            next = interrupts.next_cut_all() => next,
        };
        match next {
            Some(next) => cut = next,
            // A reset was asked for, time is up, or the proxy stops.
            None => {
                sockets::reset(client);
                if let Some(upstream) = upstream {
                    sockets::reset(upstream);
                }
                return;
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
    let lives = plan
        .armed
        .iter()
        .filter_map(|armed| match (armed.trigger, armed.how) {
            (Trigger::After(life), How::Cut(cut)) => Some((accepted + life, cut)),
            _ => None,
        });
    lives.min_by_key(|&(end, _)| end)
}

/// How long a cut at a place waits for what passed before it to be sent. A peer that does not read
/// gets less.
const SEND_WAIT: Duration = Duration::from_millis(500);
/// How long after a FIN the peers have to close.
const FIN_WAIT: Duration = Duration::from_secs(5);
