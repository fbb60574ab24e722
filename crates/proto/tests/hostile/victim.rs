//! A session whose peer says what it likes.

use farpipe_proto::Instant;
use farpipe_proto::session::{Event, Session, SessionConfig, SessionError, Side};
use farpipe_proto::wire::control::{Abort, AbortCode, Open};
use farpipe_proto::wire::id::StreamId;
use farpipe_proto::wire::inner::{HEADER_LEN, InnerDecoder, InnerFrame, InnerItem, bytes_header};

/// A session whose peer is the test.
pub(crate) struct Victim {
    pub(crate) session: Session,
    pub(crate) now: Instant,
    /// Session offset of the peer's next byte.
    pub(crate) offset: u64,
    /// How much of the last bytes was a repeat.
    pub(crate) repeat: usize,
    /// Our frames that left, in order.
    pub(crate) said: Vec<(StreamId, InnerFrame)>,
}

impl Victim {
    pub(crate) fn new(side: Side) -> Self {
        Self::with(SessionConfig::new(side))
    }

    pub(crate) fn with(config: SessionConfig) -> Self {
        let mut session = Session::new(config);
        let now = Instant::default();
        session.handle_attached(now, 0).expect("a new session");
        Self {
            session,
            now,
            offset: 0,
            repeat: 0,
            said: Vec::new(),
        }
    }

    /// The peer says bytes of its session stream.
    pub(crate) fn hears_bytes(&mut self, bytes: &[u8]) -> Result<Vec<Event>, SessionError> {
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        let arrived = self.session.handle_arrived(self.now, offset, bytes.len());
        let result = match arrived {
            Ok(repeat) => {
                // Ranges are told of what is new.
                self.repeat = repeat;
                self.session.handle_frames(self.now, &bytes[repeat..])
            }
            Err(error) => Err(error),
        };
        self.session.assert_invariants();
        let events = std::iter::from_fn(|| self.session.poll_event()).collect();
        self.flush();
        result.map(|()| events)
    }

    pub(crate) fn hears(&mut self, id: u32, frame: InnerFrame) -> Result<Vec<Event>, SessionError> {
        self.hears_bytes(&frame.encode(StreamId(id)))
    }

    pub(crate) fn hears_open(&mut self, id: u32) -> Result<Vec<Event>, SessionError> {
        self.hears(id, InnerFrame::Open(Open::default()))
    }

    pub(crate) fn hears_payload(
        &mut self,
        id: u32,
        len: usize,
    ) -> Result<Vec<Event>, SessionError> {
        let mut frame = bytes_header(StreamId(id), len).to_vec();
        frame.resize(frame.len() + len, 7);
        self.hears_bytes(&frame)
    }

    /// Writes `len` bytes of the stream.
    pub(crate) fn write(&mut self, id: StreamId, len: usize) {
        self.session.write(id, len);
        self.session.handle_numbered(HEADER_LEN + len);
    }

    /// Numbers and sends what the session has to say; the peer acknowledges nothing by itself.
    pub(crate) fn flush(&mut self) {
        let mut decoder = InnerDecoder::default();
        while let Some(bytes) = self.session.poll_control() {
            self.session.handle_numbered(bytes.len());
            let (taken, item) = decoder.next(&bytes).expect("our own frames");
            assert_eq!(taken, bytes.len());
            let Some(InnerItem::Frame(id, frame)) = item else {
                panic!("{item:?} is no control frame");
            };
            self.said.push((id, frame));
        }
        self.session.handle_sent(self.session.numbered());
    }
}

pub(crate) fn abort(code: AbortCode) -> Abort {
    Abort::new(code, "")
}

pub(crate) fn is_protocol(result: &Result<Vec<Event>, SessionError>) -> bool {
    matches!(result, Err(error @ SessionError::Protocol(_)) if !error.is_transient())
}

pub(crate) fn is_flow(result: &Result<Vec<Event>, SessionError>) -> bool {
    matches!(result, Err(error @ SessionError::Flow(_)) if !error.is_transient())
}
