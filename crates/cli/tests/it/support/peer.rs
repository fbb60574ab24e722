//! A peer on `fp` that is no farpipe: it says what a test tells it to, well formed or not.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use farpipe_net::LoopbackSecret;
use farpipe_proto::link::{Accepting, Dialling, Features, Step};
use farpipe_proto::wire::control::{Attach, Attached, Open};
use farpipe_proto::wire::hop::{DATA_HEADER_LEN, HopFrame, data_header};
use farpipe_proto::wire::id::{StreamId, TunnelId};
use farpipe_proto::wire::inner::{InnerFrame, bytes_header};

use super::{DEADLINE, Host};

/// The tunnel every session of farpipe's own has on a link.
pub(crate) const TUNNEL: TunnelId = TunnelId(1);
/// The first stream of a session's opener.
pub(crate) const STREAM: StreamId = StreamId(1);
/// The session key of a peer that dials.
pub(crate) const KEY: [u8; 32] = [7; 32];

const PREFACE: [u8; 8] = *b"farpipe\x01";
const DATA: u8 = 0x07;

/// An inner frame of a stream's bytes.
pub(crate) fn bytes_frame(stream: StreamId, bytes: &[u8]) -> Vec<u8> {
    [&bytes_header(stream, bytes.len()), bytes].concat()
}

/// What the other side sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Frame(HopFrame),
    /// Session bytes of a tunnel, and their place.
    Data(TunnelId, u64, Vec<u8>),
    /// It said that it closes the connection, or did so.
    Closed,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: TcpStream,
    /// Where our next session byte has its place.
    pub(crate) offset: u64,
}

impl Peer {
    /// Connects; nothing is sent but the preface.
    pub(crate) fn dial(addr: SocketAddr) -> Self {
        Self::begin(TcpStream::connect(addr).expect("somebody listens"))
    }

    /// The same connection, so that one thread hears and another speaks.
    pub(crate) fn twin(&self) -> Self {
        let stream = self.stream.try_clone().expect("another descriptor");
        let offset = self.offset;
        Self { stream, offset }
    }

    /// Waits for a connection.
    pub(crate) fn accept(listener: &TcpListener) -> Self {
        Self::begin(super::net::accept(listener))
    }

    /// On a connection that is made.
    pub(crate) fn begin(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut peer = Self { stream, offset: 0 };
        peer.raw(PREFACE);
        let mut preface = [0; 8];
        peer.stream.read_exact(&mut preface).expect("a preface");
        assert_eq!(preface, PREFACE);
        peer
    }

    /// Sends bytes as they are. The other side may have gone: then its last words tell why.
    pub(crate) fn raw(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Sends one message.
    pub(crate) fn message(&mut self, message: impl AsRef<[u8]>) {
        let message = message.as_ref();
        let len = u32::try_from(message.len()).expect("a short message");
        self.raw([&len.to_be_bytes(), message].concat());
    }

    pub(crate) fn send(&mut self, frame: &HopFrame) {
        self.message(frame.encode());
    }

    /// Sends session bytes with a place of their own choice.
    pub(crate) fn data_at(&mut self, offset: u64, bytes: impl AsRef<[u8]>) {
        self.message([&data_header(TUNNEL, offset), bytes.as_ref()].concat());
    }

    /// Sends session bytes where they belong.
    pub(crate) fn data(&mut self, bytes: impl AsRef<[u8]>) {
        self.data_at(self.offset, bytes.as_ref());
        self.offset += bytes.as_ref().len() as u64;
    }

    pub(crate) fn inner(&mut self, stream: StreamId, frame: &InnerFrame) {
        self.data(frame.encode(stream));
    }

    /// Opens the session's first stream.
    pub(crate) fn open(&mut self) {
        self.inner(STREAM, &InnerFrame::Open(Open::default()));
    }

    /// Sends bytes of a stream.
    pub(crate) fn bytes(&mut self, stream: StreamId, bytes: &[u8]) {
        self.data(bytes_frame(stream, bytes));
    }

    /// Closes in order.
    pub(crate) fn close(mut self) {
        self.raw([0xff, 0xff, 0xff, 0xff, 0x03, 0xe8, 0]);
        while self.hear() != Heard::Closed {}
    }

    /// Closes without a word.
    pub(crate) fn hang_up(self) {}

    /// Closes without a word, for a twin too.
    pub(crate) fn cut(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// The next thing the other side says.
    pub(crate) fn hear(&mut self) -> Heard {
        let mut len = [0; 4];
        if self.stream.read_exact(&mut len).is_err() || len == [0xff; 4] {
            return Heard::Closed;
        }
        let mut message = vec![0; u32::from_be_bytes(len) as usize];
        self.stream
            .read_exact(&mut message)
            .expect("a whole message");
        if message[0] == DATA {
            let (header, bytes) = message.split_at(DATA_HEADER_LEN);
            let tunnel = u32::from_be_bytes(header[1..5].try_into().expect("4 bytes"));
            let offset = u64::from_be_bytes(header[5..].try_into().expect("8 bytes"));
            return Heard::Data(TunnelId(tunnel), offset, bytes.to_vec());
        }
        let frame = HopFrame::decode(&message).expect("a valid frame");
        Heard::Frame(frame.expect("no optional frame is sent"))
    }

    /// The next frame that is neither data nor a sign of life.
    pub(crate) fn hear_frame(&mut self) -> Heard {
        loop {
            match self.hear() {
                Heard::Data(..)
                | Heard::Frame(HopFrame::Ping(_) | HopFrame::Pong(_) | HopFrame::Ack(..)) => {}
                heard => return heard,
            }
        }
    }

    /// Why the other side refused, in its words.
    #[track_caller]
    pub(crate) fn refusal(&mut self) -> String {
        match self.hear_frame() {
            Heard::Frame(HopFrame::Refused(_, refused)) => refused.message,
            other => panic!("no refusal but {other:?}"),
        }
    }

    /// HELLO to AUTH as the dialling side.
    pub(crate) fn introduce(&mut self, host: &Host) {
        let secret = host.secret();
        let hello = Dialling::new([1; 32], Features::default(), Some(&secret), "a test");
        self.send(&hello.hello());
        let Heard::Frame(welcome) = self.hear_frame() else {
            panic!("no WELCOME");
        };
        match hello.handle(&welcome).expect("a good WELCOME") {
            Some(auth) => self.send(&auth),
            None => panic!("no AUTH"),
        }
    }

    /// ATTACH as an opener that never was here, with changes.
    pub(crate) fn attach(&mut self, change: impl FnOnce(&mut Attach)) {
        let mut attach = Attach {
            key: KEY.to_vec(),
            epoch: 1,
            resume_for_ms: 1_000,
            caller: String::new(),
            ..Attach::default()
        };
        change(&mut attach);
        self.send(&HopFrame::Attach(TUNNEL, attach));
    }

    /// All of the dialling side's handshake, up to ATTACHED.
    pub(crate) fn attached(host: &Host, addr: SocketAddr) -> Self {
        let mut peer = Self::dial(addr);
        peer.introduce(host);
        peer.attach(|_| {});
        let heard = peer.hear_frame();
        assert!(
            matches!(heard, Heard::Frame(HopFrame::Attached(..))),
            "{heard:?}"
        );
        peer
    }

    /// HELLO to ATTACH as the accepting side.
    pub(crate) fn welcome(&mut self, host: &Host) -> Attach {
        match self.let_in(&host.secret()) {
            Heard::Frame(HopFrame::Attach(_, attach)) => attach,
            other => panic!("no ATTACH but {other:?}"),
        }
    }

    /// HELLO to AUTH as the accepting side, and what is wanted then.
    pub(crate) fn let_in(&mut self, secret: &LoopbackSecret) -> Heard {
        let mut accepting = Accepting::new([2; 32], Features::default(), Some(secret), "a test");
        loop {
            let heard = self.hear_frame();
            let Heard::Frame(frame) = &heard else {
                return heard;
            };
            if let HopFrame::Attach(..) | HopFrame::Register(_) = frame {
                return heard;
            }
            if let Step::Send(answer) = accepting.handle(frame).expect("a good handshake") {
                self.send(&answer);
            }
        }
    }

    /// All of the accepting side's handshake.
    pub(crate) fn attach_peer(&mut self, host: &Host, received: u64) -> Attach {
        let attach = self.welcome(host);
        self.send(&HopFrame::Attached(
            TUNNEL,
            Attached {
                received,
                kept_ms: 0,
            },
        ));
        attach
    }
}
