//! Hop frames: `type u8 | tunnel u32 BE | payload`, one carrier message each (docs/protocol.md
//! section 2).

use prost::Message as _;

use super::DecodeError;
use super::control::{
    Attach, Attached, Auth, GoAway, Hello, List, Listed, Refused, Register, Registered, Welcome,
};
use super::id::TunnelId;
use crate::limits::{HOP_CONTROL_MAX, HOP_FRAME_MAX};

/// Bytes of a hop frame's header.
pub const HEADER_LEN: usize = 5;
/// Bytes in front of the payload of a DATA frame: header and offset.
pub const DATA_HEADER_LEN: usize = HEADER_LEN + 8;

/// Type bytes. A number is never used again; types from 0x80 on are optional: whoever does not
/// know one skips it.
mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const WELCOME: u8 = 0x02;
    pub(super) const AUTH: u8 = 0x03;
    pub(super) const ATTACH: u8 = 0x04;
    pub(super) const ATTACHED: u8 = 0x05;
    pub(super) const REFUSED: u8 = 0x06;
    pub(super) const DATA: u8 = 0x07;
    pub(super) const ACK: u8 = 0x08;
    pub(super) const DETACH: u8 = 0x09;
    pub(super) const PING: u8 = 0x0a;
    pub(super) const PONG: u8 = 0x0b;
    pub(super) const HOP_CREDIT: u8 = 0x0c;
    pub(super) const GOAWAY: u8 = 0x0d;
    pub(super) const REGISTER: u8 = 0x0e;
    pub(super) const LIST: u8 = 0x0f;
    pub(super) const REGISTERED: u8 = 0x10;
    pub(super) const LISTED: u8 = 0x11;
    pub(super) const OPTIONAL: u8 = 0x80;
}

/// A hop frame other than DATA.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HopFrame {
    /// First frame of the dialling side.
    Hello(Hello),
    /// The accepting side's answer.
    Welcome(Welcome),
    /// The dialling side's credentials.
    Auth(Auth),
    /// Asks for a tunnel.
    Attach(TunnelId, Attach),
    /// Grants a tunnel.
    Attached(TunnelId, Attached),
    /// Refuses a tunnel, or the link (tunnel 0).
    Refused(TunnelId, Refused),
    /// The session bytes received up to this offset.
    Ack(TunnelId, u64),
    /// The tunnel ends; nothing is wrong.
    Detach(TunnelId),
    /// Asks for a PONG with the same number.
    Ping(u64),
    /// Answers a PING.
    Pong(u64),
    /// So many bytes of DATA payload, counted from the tunnel's start, may be sent on it.
    HopCredit(TunnelId, u64),
    /// The neighbour is going away: attach elsewhere.
    GoAway(GoAway),
    /// An agent asks to be known by a name.
    Register(Register),
    /// Asks who is registered.
    List(List),
    /// Answers REGISTER.
    Registered(Registered),
    /// Answers LIST.
    Listed(Listed),
}

impl HopFrame {
    /// The frame as one carrier message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        let (kind, tunnel) = match self {
            Self::Hello(_) => (kind::HELLO, TunnelId::LINK),
            Self::Welcome(_) => (kind::WELCOME, TunnelId::LINK),
            Self::Auth(_) => (kind::AUTH, TunnelId::LINK),
            Self::Attach(tunnel, _) => (kind::ATTACH, *tunnel),
            Self::Attached(tunnel, _) => (kind::ATTACHED, *tunnel),
            Self::Refused(tunnel, _) => (kind::REFUSED, *tunnel),
            Self::Ack(tunnel, _) => (kind::ACK, *tunnel),
            Self::Detach(tunnel) => (kind::DETACH, *tunnel),
            Self::Ping(_) => (kind::PING, TunnelId::LINK),
            Self::Pong(_) => (kind::PONG, TunnelId::LINK),
            Self::HopCredit(tunnel, _) => (kind::HOP_CREDIT, *tunnel),
            Self::GoAway(_) => (kind::GOAWAY, TunnelId::LINK),
            Self::Register(_) => (kind::REGISTER, TunnelId::LINK),
            Self::List(_) => (kind::LIST, TunnelId::LINK),
            Self::Registered(_) => (kind::REGISTERED, TunnelId::LINK),
            Self::Listed(_) => (kind::LISTED, TunnelId::LINK),
        };
        out.push(kind);
        out.extend_from_slice(&tunnel.0.to_be_bytes());
        match self {
            Self::Hello(m) => out.extend(m.encode_to_vec()),
            Self::Welcome(m) => out.extend(m.encode_to_vec()),
            Self::Auth(m) => out.extend(m.encode_to_vec()),
            Self::Attach(_, m) => out.extend(m.encode_to_vec()),
            Self::Attached(_, m) => out.extend(m.encode_to_vec()),
            Self::Refused(_, m) => out.extend(m.encode_to_vec()),
            Self::Ack(_, n) | Self::HopCredit(_, n) | Self::Ping(n) | Self::Pong(n) => {
                out.extend(n.to_be_bytes());
            }
            Self::GoAway(m) => out.extend(m.encode_to_vec()),
            Self::Register(m) => out.extend(m.encode_to_vec()),
            Self::List(m) => out.extend(m.encode_to_vec()),
            Self::Registered(m) => out.extend(m.encode_to_vec()),
            Self::Listed(m) => out.extend(m.encode_to_vec()),
            Self::Detach(_) => {}
        }
        out
    }

    /// The frame of a whole message that is not DATA; `None` for an optional type to skip.
    ///
    /// # Errors
    /// [`DecodeError`] when the peer broke the format.
    pub fn decode(message: &[u8]) -> Result<Option<Self>, DecodeError> {
        let Some((head, payload)) = message.split_first_chunk::<HEADER_LEN>() else {
            return Err(malformed("hop", "shorter than its header"));
        };
        let [kind, tunnel @ ..] = *head;
        let tunnel = TunnelId(u32::from_be_bytes(tunnel));
        let of_link = |what| {
            if tunnel == TunnelId::LINK {
                Ok(())
            } else {
                Err(malformed(what, "belongs to the link, not to a tunnel"))
            }
        };
        let of_tunnel = |what| {
            if tunnel == TunnelId::LINK {
                Err(malformed(what, "belongs to a tunnel, not to the link"))
            } else {
                Ok(())
            }
        };
        let frame = match kind {
            kind::HELLO => {
                of_link("HELLO")?;
                Self::Hello(message_of("HELLO", payload)?)
            }
            kind::WELCOME => {
                of_link("WELCOME")?;
                Self::Welcome(message_of("WELCOME", payload)?)
            }
            kind::AUTH => {
                of_link("AUTH")?;
                Self::Auth(message_of("AUTH", payload)?)
            }
            kind::ATTACH => {
                of_tunnel("ATTACH")?;
                Self::Attach(tunnel, message_of("ATTACH", payload)?)
            }
            kind::ATTACHED => {
                of_tunnel("ATTACHED")?;
                Self::Attached(tunnel, message_of("ATTACHED", payload)?)
            }
            kind::REFUSED => Self::Refused(tunnel, message_of("REFUSED", payload)?),
            kind::ACK => {
                of_tunnel("ACK")?;
                Self::Ack(tunnel, number("ACK", payload)?)
            }
            kind::DETACH => {
                of_tunnel("DETACH")?;
                Self::Detach(tunnel)
            }
            kind::PING => {
                of_link("PING")?;
                Self::Ping(number("PING", payload)?)
            }
            kind::PONG => {
                of_link("PONG")?;
                Self::Pong(number("PONG", payload)?)
            }
            kind::HOP_CREDIT => {
                of_tunnel("HOP-CREDIT")?;
                Self::HopCredit(tunnel, number("HOP-CREDIT", payload)?)
            }
            kind::GOAWAY => {
                of_link("GOAWAY")?;
                Self::GoAway(message_of("GOAWAY", payload)?)
            }
            kind::REGISTER => {
                of_link("REGISTER")?;
                Self::Register(message_of("REGISTER", payload)?)
            }
            kind::LIST => {
                of_link("LIST")?;
                Self::List(message_of("LIST", payload)?)
            }
            kind::REGISTERED => {
                of_link("REGISTERED")?;
                Self::Registered(message_of("REGISTERED", payload)?)
            }
            kind::LISTED => {
                of_link("LISTED")?;
                Self::Listed(message_of("LISTED", payload)?)
            }
            kind::OPTIONAL.. => return Ok(None),
            _ => return Err(DecodeError::UnknownType { layer: "hop", kind }),
        };
        Ok(Some(frame))
    }
}

/// The bytes in front of a DATA payload that starts at session offset `offset`.
#[must_use]
pub fn data_header(tunnel: TunnelId, offset: u64) -> [u8; DATA_HEADER_LEN] {
    let mut header = [0; DATA_HEADER_LEN];
    header[0] = kind::DATA;
    header[1..5].copy_from_slice(&tunnel.0.to_be_bytes());
    header[5..].copy_from_slice(&offset.to_be_bytes());
    header
}

/// What one piece of a message turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HopItem {
    /// The piece from byte `skip` on is session data of `tunnel` at `offset`; never empty.
    Data {
        /// Whose data.
        tunnel: TunnelId,
        /// Session offset of the first data byte in this piece.
        offset: u64,
        /// Header bytes at the front of the piece.
        skip: usize,
    },
    /// A control frame ended with this piece.
    Frame(HopFrame),
}

/// Finds hop frames in messages that arrive in pieces. Control frames are collected (they are
/// small), data passes through.
#[derive(Debug, Default)]
pub struct HopDecoder {
    /// Header bytes seen so far of a DATA frame, or all bytes so far of a control frame.
    held: Vec<u8>,
    /// Inside a DATA frame whose header is complete: whose, and the next offset.
    data: Option<(TunnelId, u64)>,
    /// Bytes of the current message still to come.
    remaining: usize,
    in_message: bool,
}

impl HopDecoder {
    /// Takes the next piece of a message: `first` is the message's whole length when the piece
    /// begins it, `last` whether it ends it.
    ///
    /// # Errors
    /// [`DecodeError`] when the peer broke the format; the decoder is of no more use then.
    pub fn feed(
        &mut self,
        first: Option<usize>,
        bytes: &[u8],
        last: bool,
    ) -> Result<Option<HopItem>, DecodeError> {
        if let Some(len) = first {
            if self.in_message {
                return Err(malformed("hop", "a message began inside another"));
            }
            if len > HOP_FRAME_MAX {
                return Err(DecodeError::TooLarge {
                    what: "hop",
                    len,
                    max: HOP_FRAME_MAX,
                });
            }
            self.held.clear();
            self.data = None;
            self.remaining = len;
            self.in_message = true;
        }
        if !self.in_message || bytes.len() > self.remaining {
            return Err(malformed("hop", "more bytes than the message has"));
        }
        self.remaining -= bytes.len();
        if last {
            if self.remaining != 0 {
                return Err(malformed("hop", "fewer bytes than the message has"));
            }
            self.in_message = false;
        }
        if let Some((tunnel, offset)) = self.data {
            return Ok(self.pass(tunnel, offset, 0, bytes.len()));
        }
        let kind = self.held.first().or_else(|| bytes.first()).copied();
        if kind == Some(kind::DATA) {
            let need = DATA_HEADER_LEN - self.held.len();
            let Some((head, _)) = bytes.split_at_checked(need) else {
                self.held.extend_from_slice(bytes);
                return if last {
                    Err(malformed("DATA", "shorter than its header"))
                } else {
                    Ok(None)
                };
            };
            self.held.extend_from_slice(head);
            let (tunnel, offset) = self.data_fields()?;
            return Ok(self.pass(tunnel, offset, need, bytes.len()));
        }
        // The message's length is checked before anything is kept.
        let message_len = self.held.len() + bytes.len() + self.remaining;
        if message_len > HOP_CONTROL_MAX {
            return Err(DecodeError::TooLarge {
                what: "hop control",
                len: message_len,
                max: HOP_CONTROL_MAX,
            });
        }
        self.held.extend_from_slice(bytes);
        if !last {
            return Ok(None);
        }
        Ok(HopFrame::decode(&self.held)?.map(HopItem::Frame))
    }

    fn data_fields(&self) -> Result<(TunnelId, u64), DecodeError> {
        let Some((head, offset)) = self.held.split_first_chunk::<HEADER_LEN>() else {
            return Err(malformed("DATA", "shorter than its header"));
        };
        let [_, tunnel @ ..] = *head;
        let tunnel = TunnelId(u32::from_be_bytes(tunnel));
        if tunnel == TunnelId::LINK {
            return Err(malformed("DATA", "belongs to a tunnel, not to the link"));
        }
        Ok((tunnel, number("DATA", offset)?))
    }

    fn pass(&mut self, tunnel: TunnelId, offset: u64, skip: usize, len: usize) -> Option<HopItem> {
        let data_len = len - skip;
        self.data = Some((tunnel, offset.saturating_add(data_len as u64)));
        (data_len > 0).then_some(HopItem::Data {
            tunnel,
            offset,
            skip,
        })
    }
}

fn malformed(what: &'static str, why: &'static str) -> DecodeError {
    DecodeError::Malformed { what, why }
}

pub(super) fn message_of<M: prost::Message + Default>(
    what: &'static str,
    payload: &[u8],
) -> Result<M, DecodeError> {
    M::decode(payload).map_err(|_| malformed(what, "its payload is no valid protobuf"))
}

pub(super) fn number(what: &'static str, payload: &[u8]) -> Result<u64, DecodeError> {
    let bytes = payload
        .try_into()
        .map_err(|_| malformed(what, "its payload is not 8 bytes"))?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests;
