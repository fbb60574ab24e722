//! Counting: what the proxy has done so far, and what moves on one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::journal::{Entry, Event, Journal};
use crate::plan::{Cut, Dir};

/// What a proxy has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Accepted connections, the refused and reset ones included.
    pub connections: u64,
    /// Connections open now, the stalled and black-holed ones included.
    pub live: u64,
    /// Connections both of whose directions ended as the peers wished.
    pub finished: u64,
    /// Connections torn by a peer; the proxy passed the reset on.
    pub broken: u64,
    /// Connections reset at once by `Plan::refuse_first`.
    pub refused: u64,
    /// Connections reset before the first byte by `Plan::reset_first`.
    pub reset_first: u64,
    /// Connections reset because the upstream could not be reached.
    pub upstream_failed: u64,
    /// Connections torn by RST.
    pub cuts_reset: u64,
    /// Connections ended by FIN on both sides.
    pub cuts_fin: u64,
    /// Connections stalled.
    pub cuts_stall: u64,
    /// Connections black-holed.
    pub cuts_black_hole: u64,
    /// Directions ended by FIN.
    pub cuts_half_close: u64,
    /// Directions black-holed.
    pub cuts_mute: u64,
    /// Of all these cuts, those that hit a transfer: bytes had passed since the accept, and at the
    /// cut either some were held (by the proxy, or unread in its sockets) or some had moved within
    /// the last 2 ms. Counts too few rather than too many when the machine is busy.
    pub cuts_with_bytes_in_flight: u64,
    /// Bits inverted.
    pub flipped: u64,
    /// Replays made.
    pub replayed: u64,
    /// Pieces left out.
    pub dropped: u64,
    /// Directions with a fault at a frame whose bytes turned out to have no frames the proxy can
    /// see (TLS).
    pub blind: u64,
    /// Bytes passed to the upstream.
    pub bytes_up: u64,
    /// Bytes passed to the client.
    pub bytes_down: u64,
}

impl Stats {
    /// All cuts.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.cuts_reset
            + self.cuts_fin
            + self.cuts_stall
            + self.cuts_black_hole
            + self.cuts_half_close
            + self.cuts_mute
    }

    /// One line of JSON, with the names of the fields and `cuts`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let fields = self
            .fields()
            .map(|(name, value)| format!("\"{name}\":{value}"));
        format!("{{\"cuts\":{},{}}}", self.cuts(), fields.join(","))
    }
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// The same as `Stats`, written by many connections.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $($name: AtomicU64),* }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }

        impl Stats {
            fn fields(&self) -> [(&'static str, u64); [$(stringify!($name)),*].len()] {
                [$((stringify!($name), self.$name)),*]
            }
        }
    };
}

counters! {
    connections, live, finished, broken, refused, reset_first, upstream_failed,
    cuts_reset, cuts_fin, cuts_stall, cuts_black_hole, cuts_half_close, cuts_mute,
    cuts_with_bytes_in_flight,
    flipped, replayed, dropped, blind, bytes_up, bytes_down,
}

impl Counters {
    pub(crate) fn count(&self, event: Event) {
        let counter = match event {
            Event::Accepted => &self.connections,
            Event::Finished => &self.finished,
            Event::Broken => &self.broken,
            Event::Refused => &self.refused,
            Event::ResetFirst => &self.reset_first,
            Event::UpstreamFailed => &self.upstream_failed,
            Event::Cut(Cut::Reset) => &self.cuts_reset,
            Event::Cut(Cut::Fin) => &self.cuts_fin,
            Event::Cut(Cut::Stall) => &self.cuts_stall,
            Event::Cut(Cut::BlackHole) => &self.cuts_black_hole,
            Event::HalfClosed => &self.cuts_half_close,
            Event::Muted => &self.cuts_mute,
            Event::Flipped => &self.flipped,
            Event::Replayed => &self.replayed,
            Event::Dropped => &self.dropped,
            Event::Blind => &self.blind,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_live(&self, live: usize) {
        self.live.store(live as u64, Ordering::Relaxed);
    }
}

/// What all connections write into.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) counters: Counters,
    pub(crate) journal: Journal,
}

/// What moves on one connection.
#[derive(Debug)]
pub(crate) struct Traffic {
    ledger: Arc<Ledger>,
    connection: u64,
    start: Instant,
    up: Flow,
    down: Flow,
    /// When bytes last moved, in microseconds since `start`.
    moved_at: AtomicU64,
}

/// One direction's part of it.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    pub(crate) passed: AtomicU64,
    /// Read and not yet passed on.
    pub(crate) held: AtomicU64,
    /// Whether the sink's peer has torn the connection.
    pub(crate) sink_gone: AtomicBool,
}

impl Traffic {
    pub(crate) fn new(ledger: Arc<Ledger>, connection: u64, start: Instant) -> Self {
        Self {
            ledger,
            connection,
            start,
            up: Flow::default(),
            down: Flow::default(),
            moved_at: AtomicU64::new(0),
        }
    }

    pub(crate) fn flow(&self, dir: Dir) -> &Flow {
        match dir {
            Dir::Up => &self.up,
            Dir::Down => &self.down,
        }
    }

    pub(crate) fn passed(&self, dir: Dir, bytes: usize) {
        let total = match dir {
            Dir::Up => &self.ledger.counters.bytes_up,
            Dir::Down => &self.ledger.counters.bytes_down,
        };
        total.fetch_add(bytes as u64, Ordering::Relaxed);
        self.flow(dir)
            .passed
            .fetch_add(bytes as u64, Ordering::Relaxed);
        self.moved();
    }

    pub(crate) fn moved(&self) {
        self.moved_at.store(self.micros(), Ordering::Relaxed);
    }

    pub(crate) fn count(&self, event: Event) {
        self.ledger.counters.count(event);
        let passed = |dir| self.flow(dir).passed.load(Ordering::Relaxed);
        let entry = Entry {
            event,
            age: self.start.elapsed(),
            up: passed(Dir::Up),
            down: passed(Dir::Down),
        };
        self.ledger.journal.note(self.connection, entry);
    }

    /// Counts a cut, and whether it hit a transfer as far as this connection's own counts tell.
    pub(crate) fn count_cut(&self, event: Event) {
        self.count_cut_with(event, false);
    }

    /// The same, where the sockets may hold unread bytes.
    pub(crate) fn count_cut_with(&self, event: Event, unread: bool) {
        self.count(event);
        let sum = |part: fn(&Flow) -> &AtomicU64| {
            part(&self.up).load(Ordering::Relaxed) + part(&self.down).load(Ordering::Relaxed)
        };
        let since_moved = self.micros() - self.moved_at.load(Ordering::Relaxed);
        let busy =
            unread || sum(|flow| &flow.held) > 0 || since_moved <= STILL_MOVING.as_micros() as u64;
        if sum(|flow| &flow.passed) > 0 && busy {
            self.ledger
                .counters
                .cuts_with_bytes_in_flight
                .fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until no byte has moved for so long.
    pub(crate) async fn idle(&self, time: Duration) {
        loop {
            let moved = Duration::from_micros(self.moved_at.load(Ordering::Relaxed));
            let until = self.start + moved + time;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// A transfer on loopback pauses for less than this between two reads.
const STILL_MOVING: Duration = Duration::from_millis(2);
