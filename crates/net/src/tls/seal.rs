//! TLS inside a session: what covers its byte stream from one end to the other, whatever carries it.
//!
//! Bytes in, bytes out, above resume: what is said here is numbered once, kept, and sent again as it
//! is; no link knows of it. The handshake is the first that either direction has. What always holds:
//! nothing of the session is said before both ends know each other, nothing is believed of a record
//! before its tag was, and after an error nothing more is opened or sealed. No close_notify ends it:
//! what ends a session in order is inside.

use std::fmt;
use std::mem;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use farpipe_proto::limits::SEAL_HANDSHAKE;

use super::buffer::Buffer;
use super::error::TlsError;
use super::identity::PeerIdentity;
use super::judge::Shown;
use super::machine::{Machine, Step};
use super::records::{HEADER, Records};
use super::server::Source;
use super::vouched::Vouched;
use crate::shared::SessionEnd;

/// Why a sealed session is over.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum SealError {
    /// A certificate was refused, here or there.
    #[error("end-to-end: {0}")]
    Refused(TlsError),
    /// What this end has for it cannot be used.
    #[error("end-to-end: TLS cannot be configured: {0}")]
    Unusable(String),
    /// What is said does not come.
    #[error(
        "end-to-end: no handshake in {} s of connection: the other end hangs, or what lies between \
         keeps bytes back",
        SEAL_HANDSHAKE.as_secs()
    )]
    Withheld,
    /// What came is not what was said.
    #[error("end-to-end: bytes were changed on the way (E2E_INTEGRITY): {0}")]
    Changed(String),
}

impl From<TlsError> for SealError {
    fn from(error: TlsError) -> Self {
        if error.is_final() {
            Self::Refused(error)
        } else {
            Self::Changed(error.inside())
        }
    }
}

/// One end of TLS inside a session.
pub(crate) struct Seal {
    phase: Phase,
    /// The beginning of a record, or data that came with the end of the handshake.
    rest: BytesMut,
    /// What TLS itself has to say and nobody has taken.
    said: BytesMut,
    /// Whom the certificate names that the peer showed, for the log.
    shown: Option<Shown>,
    /// What verifies the peer's, at the accepting end.
    source: Option<Arc<Source>>,
    /// Who is at the other end, once that is known.
    peer: Option<PeerIdentity>,
}

enum Phase {
    Shaking {
        machine: Machine,
        incoming: Buffer,
        outgoing: Buffer,
    },
    Open(Box<Records>),
    /// It failed.
    Over,
}

impl Seal {
    /// The opener's end, which speaks first.
    pub(super) fn opener(machine: Machine) -> Result<Self, SealError> {
        let mut seal = Self::new(machine, None);
        seal.shake(&mut BytesMut::new())?;
        Ok(seal)
    }

    /// The acceptor's end; `shown` hears whom the opener's certificate names.
    pub(super) fn acceptor(machine: Machine, shown: Shown, source: Arc<Source>) -> Self {
        Self {
            source: Some(source),
            ..Self::new(machine, Some(shown))
        }
    }

    fn new(machine: Machine, shown: Option<Shown>) -> Self {
        Self {
            phase: Phase::Shaking {
                machine,
                incoming: Buffer::default(),
                outgoing: Buffer::default(),
            },
            rest: BytesMut::new(),
            said: BytesMut::new(),
            shown,
            source: None,
            peer: None,
        }
    }

    /// Whether the ends know each other, so that frames may be sealed.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Who is at the other end, once the handshake has said so.
    pub(crate) fn peer(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }

    /// What TLS itself has to say, to be numbered now: before anything that is sealed later.
    pub(crate) fn take_said(&mut self) -> Option<BytesMut> {
        (!self.said.is_empty()).then(|| self.said.split())
    }

    /// Appends `frames`, sealed, to `output`.
    ///
    /// # Errors
    /// The cipher fails; the session is over.
    ///
    /// # Panics
    /// Unless it is open: an error of the caller.
    pub(crate) fn seal(&mut self, frames: &[u8], output: &mut BytesMut) -> Result<(), SealError> {
        let Phase::Open(records) = &mut self.phase else {
            unreachable!("frames are sealed once the handshake is over");
        };
        let sealed = records.seal_all(frames, output).map_err(SealError::from);
        if sealed.is_err() {
            self.phase = Phase::Over;
        }
        sealed
    }

    /// The next frames in what has arrived; what was used is taken from it. `None`: there is no more
    /// in it. They lie where they arrived, unless their record was cut.
    ///
    /// # Errors
    /// The session is over, for the peer too once it has what [`Seal::take_said`] then gives.
    pub(crate) fn open(&mut self, arrived: &mut BytesMut) -> Result<Option<BytesMut>, SealError> {
        let opened = match &self.phase {
            Phase::Shaking { .. } => self.shake(arrived),
            Phase::Open(_) => self.open_record(arrived),
            // Nothing is believed any more.
            Phase::Over => {
                arrived.clear();
                Ok(None)
            }
        };
        if opened.is_err() {
            self.phase = Phase::Over;
        }
        opened
    }

    /// Shakes hands as far as what has arrived goes. Gives the data that came with the end of it.
    fn shake(&mut self, arrived: &mut BytesMut) -> Result<Option<BytesMut>, SealError> {
        let Phase::Shaking {
            machine,
            incoming,
            outgoing,
        } = &mut self.phase
        else {
            return Ok(None);
        };
        incoming.reserve(arrived.len());
        incoming.room_mut()[..arrived.len()].copy_from_slice(arrived);
        incoming.commit(arrived.len());
        arrived.clear();
        let mut early = BytesMut::new();
        while !machine.is_done() {
            let step = machine.step(incoming, outgoing, &mut |data| {
                early.extend_from_slice(data);
            });
            self.said.extend_from_slice(outgoing.filled());
            outgoing.consume(outgoing.len());
            match step {
                Ok(Step::Control | Step::Data) => {}
                // The last step may have been the last of all.
                Ok(Step::Idle) if machine.is_done() => {}
                Ok(Step::Idle) => return Ok(None),
                Ok(Step::PeerClosed) => return Err(left()),
                Err(error) => {
                    let named = match self.shown.as_ref().and_then(Shown::name) {
                        Some(name) => error.naming(name),
                        None => error,
                    };
                    return Err(named.into());
                }
            }
        }
        // Records behind the handshake are for the keys that it made.
        arrived.extend_from_slice(incoming.filled());
        if let Phase::Shaking { machine, .. } = mem::replace(&mut self.phase, Phase::Over) {
            let (records, agreed) = machine.open()?;
            let vouched = match &self.source {
                Some(source) => Vouched::new(source, agreed.chain),
                None => Vouched::default(),
            };
            let peer = agreed.leaf.as_ref().and_then(PeerIdentity::of);
            self.peer = peer.map(|peer| peer.vouched_for(vouched));
            self.phase = Phase::Open(Box::new(records));
        }
        if early.is_empty() {
            return self.open_record(arrived);
        }
        Ok(Some(early))
    }

    /// Data of the next records.
    fn open_record(&mut self, arrived: &mut BytesMut) -> Result<Option<BytesMut>, SealError> {
        let Phase::Open(records) = &mut self.phase else {
            return Ok(None);
        };
        loop {
            let whole = match self.rest.is_empty() {
                true => records.record_len(arrived, &mut self.said)?,
                false => None,
            };
            let mut record = match whole {
                Some(len) if len <= arrived.len() => arrived.split_to(len),
                // It was cut: the header first, then what it announces.
                _ => {
                    let announced = records.record_len(&self.rest, &mut self.said)?;
                    let wanted = announced.unwrap_or(HEADER);
                    let more = (wanted - self.rest.len()).min(arrived.len());
                    self.rest.extend_from_slice(&arrived[..more]);
                    arrived.advance(more);
                    if self.rest.len() < wanted {
                        return Ok(None);
                    }
                    if announced.is_none() {
                        continue;
                    }
                    self.rest.split()
                }
            };
            let (step, data) = records.open(&mut record, &mut self.said)?;
            match step {
                Step::Data if !data.is_empty() => {
                    record.truncate(data.end);
                    record.advance(data.start);
                    return Ok(Some(record));
                }
                Step::Data | Step::Control => {}
                Step::Idle | Step::PeerClosed => return Err(left()),
            }
        }
    }
}

/// Whether a session begins with TLS: no inner frame has these types.
pub(crate) fn is_tls(bytes: &[u8]) -> bool {
    const ALERT: u8 = 0x15;
    const HANDSHAKE: u8 = 0x16;
    matches!(bytes, [ALERT | HANDSHAKE, 0x03, ..])
}

impl SealError {
    /// A session that is plain here, and sealed at the other end.
    pub(crate) fn not_agreed() -> Self {
        let words = "the session was announced as a plain one, and the other side speaks TLS in it";
        Self::Changed(words.to_owned())
    }

    /// How the session ends by it, with the peer `who`.
    pub(crate) fn end(&self, who: &str) -> SessionEnd {
        let words = format!("{who}: {self}");
        match self {
            Self::Refused(_) | Self::Unusable(_) => SessionEnd::Refused(words),
            Self::Withheld => SessionEnd::Lost(words),
            Self::Changed(_) => SessionEnd::Integrity(words),
        }
    }
}

/// An end of TLS that is none of the session's.
fn left() -> SealError {
    SealError::Changed("the other side ended TLS in the midst of the session".to_owned())
}

/// States and sizes, never keys or payload.
impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            Phase::Shaking { .. } => "shaking hands",
            Phase::Open(_) => "open",
            Phase::Over => "over",
        };
        f.debug_struct("Seal")
            .field("phase", &phase)
            .field("rest", &self.rest.len())
            .field("said", &self.said.len())
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
