//! One end of a link that says what a test wants it to say, honest or not: an opener, an agent, a
//! relay.

use std::future::poll_fn;

use bytes::BytesMut;
use farpipe_net::carrier::{Carrier, CarrierError, fp};
use farpipe_net::{Pool, Segment};
use farpipe_proto::wire::control::{Attach, Hello, Register, Registered, Welcome};
use farpipe_proto::wire::hop::{HopDecoder, HopFrame, HopItem, data_header};
use farpipe_proto::wire::id::TunnelId;
use tokio::io::{AsyncRead, AsyncWrite};

/// The tunnel of a session on a link of its own.
const TUNNEL: TunnelId = TunnelId(1);

/// What a [`Raw`] hears.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Session bytes from this offset on: a DATA frame, or a part of one.
    Data(u64, Vec<u8>),
    /// Any other frame.
    Frame(HopFrame),
    /// The other side is gone; why.
    Gone(String),
}

/// Hop frames, by hand, on an `fp` connection.
#[derive(Debug)]
pub struct Raw {
    carrier: Box<dyn Carrier>,
    decoder: HopDecoder,
    pool: Pool,
    /// Whose the session bytes were that were heard last.
    pub tunnel: TunnelId,
}

impl Raw {
    /// Begins on a fresh connection.
    pub fn new<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug + 'static,
    {
        Self {
            carrier: Box::new(fp::start(stream)),
            decoder: HopDecoder::default(),
            pool: Pool::new(64 * 1024, 16),
            tunnel: TunnelId::LINK,
        }
    }

    /// Queues HELLO.
    pub fn hello(&mut self) {
        self.send(&HopFrame::Hello(Hello {
            version_min: 1,
            version_max: 1,
            nonce: vec![5; 32],
            software: "raw".to_owned(),
            ..Hello::default()
        }));
    }

    /// Queues HELLO and ATTACH.
    pub fn ask(&mut self, attach: Attach) {
        self.hello();
        self.send(&HopFrame::Attach(TUNNEL, attach));
    }

    /// Becomes an agent of that name at a relay.
    ///
    /// # Panics
    /// If the relay does not say yes.
    pub async fn register(&mut self, name: &str, instance: u8) {
        self.hello();
        self.send(&HopFrame::Register(Register {
            name: name.to_owned(),
            instance: vec![instance; 16],
            ..Register::default()
        }));
        let heard = [self.hear().await, self.hear().await];
        assert!(
            matches!(
                heard,
                [
                    Heard::Frame(HopFrame::Welcome(_)),
                    Heard::Frame(HopFrame::Registered(_)),
                ]
            ),
            "{heard:?}"
        );
    }

    /// Is the relay at which an agent registers.
    ///
    /// # Panics
    /// If it is asked for something else.
    pub async fn be_relay(&mut self, window: u64) {
        let heard = self.hear().await;
        assert!(
            matches!(heard, Heard::Frame(HopFrame::Hello(_))),
            "{heard:?}"
        );
        self.send(&HopFrame::Welcome(Welcome {
            version: 1,
            nonce: vec![6; 32],
            software: "raw".to_owned(),
            ..Welcome::default()
        }));
        let heard = self.hear().await;
        assert!(
            matches!(heard, Heard::Frame(HopFrame::Register(_))),
            "{heard:?}"
        );
        self.send(&HopFrame::Registered(Registered { window }));
    }

    /// Says HELLO and ATTACH and hears WELCOME; what comes next is the answer.
    ///
    /// # Panics
    /// If there is no WELCOME.
    pub async fn attach(&mut self, attach: Attach) {
        self.ask(attach);
        let heard = self.hear().await;
        assert!(
            matches!(heard, Heard::Frame(HopFrame::Welcome(_))),
            "{heard:?}"
        );
    }

    /// Queues a frame; it leaves with the next [`Raw::hear`].
    pub fn send(&mut self, frame: &HopFrame) {
        self.carrier.queue(&frame.encode());
    }

    /// Queues an acknowledgement.
    pub fn ack(&mut self, offset: u64) {
        self.send(&HopFrame::Ack(TUNNEL, offset));
    }

    /// Queues session bytes.
    pub fn data(&mut self, offset: u64, bytes: &[u8]) {
        self.data_of(TUNNEL, offset, bytes);
    }

    /// Queues session bytes of a tunnel.
    pub fn data_of(&mut self, tunnel: TunnelId, offset: u64, bytes: &[u8]) {
        let mut buf = BytesMut::zeroed(Segment::HEADROOM);
        buf.extend_from_slice(bytes);
        let mut segment = Segment::new(offset, buf, Segment::HEADROOM);
        let message = segment.frame(&data_header(tunnel, offset), [0; 4]);
        self.carrier.queue(message);
    }

    /// Lets what is queued leave, as far as it does within this time; nothing is read.
    pub async fn push(&mut self, span: std::time::Duration) {
        let carrier = &mut self.carrier;
        // Failing shows in what is received.
        let _ = tokio::time::timeout(span, poll_fn(|cx| carrier.poll_flush(cx))).await;
    }

    /// The next thing that is neither PING nor PONG; PINGs are answered.
    pub async fn hear(&mut self) -> Heard {
        loop {
            match self.next().await {
                Ok(Heard::Frame(HopFrame::Ping(number))) => self.send(&HopFrame::Pong(number)),
                Ok(Heard::Frame(HopFrame::Pong(_))) => {}
                Ok(heard) => return heard,
                Err(error) => return Heard::Gone(error.to_string()),
            }
        }
    }

    async fn next(&mut self) -> Result<Heard, CarrierError> {
        loop {
            let carrier = &mut self.carrier;
            let pool = &mut self.pool;
            let piece = poll_fn(|cx| {
                if carrier.queued() > 0 {
                    // Failing shows in what is received.
                    let _ = carrier.poll_flush(cx);
                }
                carrier.poll_recv(cx, pool)
            })
            .await?;
            match self.decoder.feed(piece.first, &piece.bytes, piece.last) {
                Ok(None) => {}
                Ok(Some(HopItem::Frame(frame))) => return Ok(Heard::Frame(frame)),
                Ok(Some(HopItem::Data {
                    offset,
                    skip,
                    tunnel,
                })) => {
                    self.tunnel = tunnel;
                    return Ok(Heard::Data(offset, piece.bytes[skip..].to_vec()));
                }
                Err(error) => return Ok(Heard::Gone(error.to_string())),
            }
        }
    }
}
