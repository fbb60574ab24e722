//! Somebody between opener and acceptor, as a relay is: sees and changes hop frames.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::BytesMut;
use farpipe_proto::limits::DRAIN;
use farpipe_proto::wire::hop::data_header;
use tokio::task::JoinSet;

use crate::carrier::{Carrier, CarrierError, Close, mem};
use crate::link::TUNNEL;
use crate::pool::Pool;
use crate::shared::SLOT_SIZE;
use crate::{Acceptor, Dial, Dialled};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the opener to the acceptor.
    There,
    Back,
}

/// What is in the middle: sees the session's bytes of one way as they come, with their offset there,
/// and says what goes on in their place.
pub(super) type Tamper = Box<dyn FnMut(Way, u64, Vec<u8>) -> Vec<u8> + Send>;

/// What it does to ATTACH: its protobuf payload.
pub(super) type OnAttach = fn(&mut Vec<u8>);

/// The way to an acceptor, with somebody on it.
pub(super) struct Middle {
    acceptor: Arc<Acceptor>,
    tamper: Arc<Mutex<Tamper>>,
    on_attach: OnAttach,
    /// The bytes of the session, of both ways, after which each link is cut, one after the other;
    /// the links after those are not.
    cuts: Mutex<VecDeque<usize>>,
    tasks: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Middle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Middle").finish_non_exhaustive()
    }
}

impl Middle {
    pub(super) fn new(acceptor: Acceptor, tamper: Tamper) -> Self {
        Self {
            acceptor: Arc::new(acceptor),
            tamper: Arc::new(Mutex::new(tamper)),
            on_attach: |_| {},
            cuts: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    pub(super) fn on_attach(self, on_attach: OnAttach) -> Self {
        Self { on_attach, ..self }
    }

    pub(super) fn cut_after(self, cuts: impl IntoIterator<Item = usize>) -> Self {
        let cuts = Mutex::new(cuts.into_iter().collect());
        Self { cuts, ..self }
    }
}

impl Dial for Middle {
    fn dial(&self) -> Dialled<'_> {
        let (near, left) = mem::pair(1 << 16);
        let (right, far) = mem::pair(1 << 16);
        let cut = self.cuts.lock().expect("no panic").pop_front();
        let link = Link {
            ends: [left, right].map(End::new),
            tamper: Arc::clone(&self.tamper),
            on_attach: self.on_attach,
            until_cut: cut.unwrap_or(usize::MAX),
            offsets: [None, None],
        };
        let acceptor = Arc::clone(&self.acceptor);
        let mut tasks = self.tasks.lock().expect("no panic");
        tasks.spawn(link.run());
        tasks.spawn(async move {
            let far: Box<dyn Carrier> = Box::new(far);
            let _ = acceptor.serve(async { Ok(far) }, "opener".to_owned()).await;
        });
        Box::pin(async move { Ok(Box::new(near) as Box<dyn Carrier>) })
    }

    fn peer(&self) -> String {
        "agent".to_owned()
    }
}

/// One link through the middle.
struct Link {
    ends: [End; 2],
    tamper: Arc<Mutex<Tamper>>,
    on_attach: OnAttach,
    until_cut: usize,
    /// Offsets of each way, as it came and as it goes on.
    offsets: [Option<(u64, u64)>; 2],
}

struct End {
    carrier: mem::MemCarrier,
    pool: Pool,
    message: Vec<u8>,
}

impl End {
    fn new(carrier: mem::MemCarrier) -> Self {
        Self {
            carrier,
            pool: Pool::new(SLOT_SIZE, 8),
            message: Vec::new(),
        }
    }

    /// The next whole message.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<u8>, CarrierError>> {
        loop {
            let piece = std::task::ready!(self.carrier.poll_recv(cx, &mut self.pool))?;
            self.message.extend_from_slice(&piece.bytes);
            if piece.last {
                return Poll::Ready(Ok(std::mem::take(&mut self.message)));
            }
        }
    }
}

/// Of a DATA frame that is passed on; what is queued is small.
const PART: usize = 16 << 10;
const LEFT: Close = Close {
    code: 1000,
    reason: "",
};
const ATTACH: u8 = 0x04;
const DATA: u8 = 0x07;
const ACK: u8 = 0x08;
const HEADER: usize = 5;

impl Link {
    async fn run(mut self) {
        let passed = poll_fn(|cx| self.poll_pass(cx)).await;
        for End { carrier, .. } in &mut self.ends {
            // Whoever left has said why, and that has to arrive; dropping the carriers is a cut.
            let leaving = poll_fn(|cx| match passed {
                Ok(()) => carrier.poll_flush(cx),
                Err(_) => carrier.poll_close(cx, LEFT),
            });
            let _ = tokio::time::timeout(DRAIN, leaving).await;
        }
    }

    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        loop {
            let mut idle = true;
            for (from, way) in [(0, Way::There), (1, Way::Back)] {
                // What a slow end has not taken stops the other.
                if let Poll::Ready(flushed) = self.ends[1 - from].carrier.poll_flush(cx) {
                    flushed?;
                    if let Poll::Ready(message) = self.ends[from].poll_message(cx) {
                        idle = false;
                        if !self.pass(from, way, message?) {
                            return Poll::Ready(Ok(()));
                        }
                    }
                }
            }
            if idle {
                return Poll::Pending;
            }
        }
    }

    /// Passes a message on; `false`: the link is cut.
    fn pass(&mut self, from: usize, way: Way, mut message: Vec<u8>) -> bool {
        let to = &mut self.ends[1 - from].carrier;
        let offset = |message: &[u8]| {
            let bytes = message[HEADER..].first_chunk().expect("an offset");
            u64::from_be_bytes(*bytes)
        };
        match message[0] {
            ATTACH => {
                let mut payload = message.split_off(HEADER);
                (self.on_attach)(&mut payload);
                message.extend(payload);
                to.queue(&message);
            }
            ACK => {
                // Nobody hears that more arrived than was sent: that would give it away.
                let came = self.offsets[1 - from].map_or(u64::MAX, |(came, _)| came);
                let acked = offset(&message).min(came);
                message.splice(HEADER.., acked.to_be_bytes());
                to.queue(&message);
            }
            DATA => {
                let at = offset(&message);
                let mut bytes = message.split_off(HEADER + 8);
                let is_cut = bytes.len() >= self.until_cut;
                bytes.truncate(self.until_cut);
                self.until_cut -= bytes.len();
                let (came, goes) = self.offsets[from].get_or_insert((at, at));
                assert_eq!(*came, at, "an honest sender");
                *came += bytes.len() as u64;
                let mut tamper = self.tamper.lock().expect("no panic");
                for part in tamper(way, at, bytes).chunks(PART) {
                    let mut data = BytesMut::from(&data_header(TUNNEL, *goes)[..]);
                    data.extend_from_slice(part);
                    to.queue(&data);
                    *goes += part.len() as u64;
                }
                return !is_cut;
            }
            _ => to.queue(&message),
        }
        true
    }
}
