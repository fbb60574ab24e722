//! The switches that all tasks of a proxy watch, and what interrupts one connection.

use std::net::SocketAddr;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::plan::Cut;
use crate::pump::at;

/// The state of the switches. Sent as a whole: a reader that looks late sees the newest and misses
/// no cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Switches {
    pub(crate) stop: bool,
    pub(crate) refuse: bool,
    /// How often refusing has been asked for or ended.
    pub(crate) refuse_asked: u64,
    pub(crate) pause: bool,
    pub(crate) black_hole: bool,
    /// How often all connections have been cut; a connection is cut if the number has grown since
    /// its accept.
    pub(crate) cuts: u64,
    /// How the last time.
    pub(crate) cut: Cut,
    pub(crate) upstream: SocketAddr,
}

impl Switches {
    pub(crate) fn new(upstream: SocketAddr, refuse: bool) -> Self {
        Self {
            stop: false,
            refuse,
            refuse_asked: 0,
            pause: false,
            black_hole: false,
            cuts: 0,
            cut: Cut::Reset,
            upstream,
        }
    }
}

/// What one connection has to obey, whatever it is doing.
#[derive(Debug)]
pub(crate) struct Interrupts {
    switches: watch::Receiver<Switches>,
    cuts: u64,
    paused: bool,
    /// The end of the connection's life, and how it ends.
    life: Option<(Instant, Cut)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// The proxy stops.
    Stop,
    Cut(Cut),
    /// `Interrupts::paused` has changed.
    Pause,
}

impl Interrupts {
    /// From the accept on.
    pub(crate) fn new(
        mut switches: watch::Receiver<Switches>,
        life: Option<(Instant, Cut)>,
    ) -> Self {
        let cuts = switches.borrow_and_update().cuts;
        // Look at the switches once before waiting for a change of them.
        switches.mark_changed();
        Self {
            switches,
            cuts,
            paused: false,
            life,
        }
    }

    /// Whether bytes must not move now.
    pub(crate) fn paused(&self) -> bool {
        self.paused
    }

    pub(crate) fn upstream(&self) -> SocketAddr {
        self.switches.borrow().upstream
    }

    /// Whether new connections are to be black-holed.
    pub(crate) fn black_hole(&self) -> bool {
        self.switches.borrow().black_hole
    }

    /// The next one. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Interrupt {
        loop {
            let life = self.life;
            tokio::select! {
                biased;
                changed = self.switches.changed() => {
                    if changed.is_err() {
                        return Interrupt::Stop;
                    }
                }
                () = at(life.map(|(end, _)| end)) => {
                    self.life = None;
                    return Interrupt::Cut(life.map_or(Cut::Reset, |(_, cut)| cut));
                }
            }
            let now = *self.switches.borrow_and_update();
            if now.stop {
                return Interrupt::Stop;
            }
            if now.cuts != self.cuts {
                self.cuts = now.cuts;
                return Interrupt::Cut(now.cut);
            }
            if now.black_hole {
                return Interrupt::Cut(Cut::BlackHole);
            }
            if now.pause != self.paused {
                self.paused = now.pause;
                return Interrupt::Pause;
            }
        }
    }

    /// For a connection that is torn already: the next thing that tears it otherwise. `None`: the
    /// proxy stops.
    pub(crate) async fn next_cut_all(&mut self) -> Option<Cut> {
        loop {
            if self.switches.changed().await.is_err() {
                return None;
            }
            let now = *self.switches.borrow_and_update();
            if now.stop {
                return None;
            }
            if now.cuts != self.cuts {
                self.cuts = now.cuts;
                return Some(now.cut);
            }
        }
    }
}
