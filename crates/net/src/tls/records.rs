//! The record layer of an open TLS 1.3 connection: bytes in, bytes out.
//!
//! rustls shakes hands and makes every key; from then on each record is encrypted from where the
//! data lies straight into the output, and decrypted where it arrived (RFC 8446 section 5). rustls'
//! own record layer copies each byte once more on either side (docs/decisions/0003-tls.md). The
//! cipher is aws-lc-rs', as rustls uses it.
//!
//! What always holds: a nonce is used once, because the number of a record is in it and keys change
//! long before numbers run out; keys change before the cipher's limit; nothing is believed of a
//! record before its tag was; after an error the alert that says so is in the output.

use std::io::IoSlice;
use std::ops::Range;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use bytes::BytesMut;
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets,
    HandshakeType, InvalidMessage, PeerMisbehaved,
};

use super::buffer::Buffer;
use super::error::{Peer, TlsError};
use super::machine::Step;

/// Most plaintext in one record (RFC 8446 section 5.1).
pub(super) const PLAIN_MAX: usize = 16 << 10;

/// Type, version and length in front of each record (RFC 8446 section 5.1).
pub(super) const HEADER: usize = 5;
/// The inner content type, and the tag of every cipher of TLS 1.3 (RFC 8446 section 5.2).
const TRAILER: usize = 1 + TAG;
/// What a record has beside its data.
const OVERHEAD: usize = HEADER + TRAILER;
const TAG: usize = 16;
/// Most ciphertext in one record (RFC 8446 section 5.2).
const CIPHER_MAX: usize = PLAIN_MAX + 256;

/// Room that is kept for what this side says by itself: a change of keys.
const RESERVE: usize = 1 << 10;

/// A message of TLS itself after the handshake: a session ticket, mostly. More is not kept.
const MESSAGE_MAX: usize = 64 << 10;

/// Changes of keys that a peer may make without sending any data in between.
const UPDATES_MAX: u32 = 32;

/// An open connection without its transport.
pub(super) struct Records {
    kernel: Kernel,
    read: Keys,
    write: Keys,
    /// Records under one key; the cipher's own limit, less in tests.
    limit: u64,
    /// The beginning of a message that is not complete.
    message: Vec<u8>,
    /// The peer's changes of keys since its last data.
    updates: u32,
    /// The peer asked for a change of this side's keys. It is made before the next data.
    owes_update: bool,
}

/// What rustls still does: new keys, and a client's session tickets.
pub(super) enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

/// The keys of one direction.
struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    /// The number of the next record.
    next: u64,
}

impl Records {
    pub(super) fn new(secrets: ExtractedSecrets, kernel: Kernel) -> Result<Self, Error> {
        let suite = match &kernel {
            Kernel::Client(kernel) => kernel.negotiated_cipher_suite(),
            Kernel::Server(kernel) => kernel.negotiated_cipher_suite(),
        };
        let limit = suite
            .tls13()
            .map_or(0, |suite| suite.common.confidentiality_limit);
        Ok(Self {
            kernel,
            read: Keys::new(secrets.rx)?,
            write: Keys::new(secrets.tx)?,
            limit,
            message: Vec::new(),
            updates: 0,
            owes_update: false,
        })
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> Peer {
        match &self.kernel {
            Kernel::Client(_) => Peer::Server,
            Kernel::Server(_) => Peer::Client,
        }
    }

    /// One record: takes it from the input and gives its data to `take`. After an error the alert
    /// that says so is in the output.
    pub(super) fn step(
        &mut self,
        input: &mut Buffer,
        output: &mut Buffer,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<Step, TlsError> {
        self.read_record(input, take).map_err(|error| {
            if let Some(alert) = alert_for(&error) {
                // Without it the peer learns less; there is nothing else to be done.
                let _ = self.say_alert(output, 2, alert);
            }
            TlsError::new(self.peer(), error)
        })
    }

    /// The same for a record that lies by itself, of the length that [`record_len`] said: decrypted
    /// where it is, and where its data is then; none for what TLS itself has to say. After an error
    /// the alert that says so is behind what is in `output`.
    pub(super) fn open(
        &mut self,
        record: &mut [u8],
        output: &mut BytesMut,
    ) -> Result<(Step, Range<usize>), TlsError> {
        self.open_record(record)
            .map_err(|error| self.refuse(error, output))
    }

    /// The length of the record that begins `input`, header included, of which not all need be there;
    /// `None`: not even the header is. Errors as [`Records::open`].
    pub(super) fn record_len(
        &mut self,
        input: &[u8],
        output: &mut BytesMut,
    ) -> Result<Option<usize>, TlsError> {
        record_len(input).map_err(|error| self.refuse(error, output))
    }

    fn refuse(&mut self, error: Error, output: &mut BytesMut) -> TlsError {
        if let Some(alert) = alert_for(&error) {
            let words = [2, u8::from(alert)];
            // Without it the peer learns less; there is nothing else to be done.
            let _ = self.write.append(ContentType::Alert, &words, output);
        }
        TlsError::new(self.peer(), error)
    }

    fn read_record(
        &mut self,
        input: &mut Buffer,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<Step, Error> {
        let Some(len) = record_len(input.filled())?.filter(|len| *len <= input.len()) else {
            return Ok(Step::Idle);
        };
        let record = input.front_mut(len);
        let (step, data) = self.open_record(record)?;
        if step == Step::Data {
            take(&record[data]);
        }
        input.consume(len);
        Ok(step)
    }

    fn open_record(&mut self, record: &mut [u8]) -> Result<(Step, Range<usize>), Error> {
        let Some((header, body)) = record.split_first_chunk_mut::<HEADER>() else {
            return Err(InvalidMessage::MessageTooShort.into());
        };
        let plain = self.read.open(header, body)?;
        // Zeroes behind the type are padding (RFC 8446 section 5.4).
        if plain.len() > PLAIN_MAX + 1 {
            return Err(Error::PeerSentOversizedRecord);
        }
        let Some(end) = plain.iter().rposition(|byte| *byte != 0) else {
            return Err(unexpected(ContentType::Unknown(0)));
        };
        let (data, kind) = (&plain[..end], ContentType::from(plain[end]));
        let step = match kind {
            // Nothing else comes between the parts of a message (RFC 8446 section 5.1).
            kind if !self.message.is_empty() && kind != ContentType::Handshake => {
                return Err(Error::InappropriateMessage {
                    expect_types: vec![ContentType::Handshake],
                    got_type: kind,
                });
            }
            ContentType::ApplicationData => {
                if !data.is_empty() {
                    self.updates = 0;
                }
                Step::Data
            }
            ContentType::Alert if !data.is_empty() => read_alert(data)?,
            ContentType::Handshake if !data.is_empty() => {
                self.message.extend_from_slice(data);
                self.read_messages()?;
                Step::Control
            }
            kind => return Err(unexpected(kind)),
        };
        Ok((step, HEADER..HEADER + end))
    }

    /// Handles the complete messages that have come (RFC 8446 section 4.6).
    fn read_messages(&mut self) -> Result<(), Error> {
        while let Some(&[kind, a, b, c]) = self.message.first_chunk::<4>() {
            let len = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
            if len > MESSAGE_MAX {
                return Err(InvalidMessage::HandshakePayloadTooLarge.into());
            }
            if self.message.len() < len {
                break;
            }
            let is_last = self.message.len() == len;
            let body = &self.message[4..len];
            match (HandshakeType::from(kind), &mut self.kernel) {
                (HandshakeType::NewSessionTicket, Kernel::Client(kernel)) => {
                    kernel.handle_new_session_ticket(body)?;
                }
                (HandshakeType::KeyUpdate, _) => {
                    let asks = match body {
                        [0] => false,
                        [1] => true,
                        _ => return Err(InvalidMessage::InvalidKeyUpdate.into()),
                    };
                    // What lies behind it in the record is under the old keys, but ought not to be.
                    if !is_last {
                        return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
                    }
                    self.updates += 1;
                    if self.updates > UPDATES_MAX {
                        return Err(PeerMisbehaved::TooManyKeyUpdateRequests.into());
                    }
                    self.owes_update |= asks;
                    self.read = Keys::new(self.kernel.update(Direction::Read)?)?;
                }
                (got_type, _) => {
                    return Err(Error::InappropriateHandshakeMessage {
                        expect_types: vec![HandshakeType::KeyUpdate],
                        got_type,
                    });
                }
            }
            self.message.drain(..len);
        }
        if self.message.is_empty() {
            self.message = Vec::new();
        }
        Ok(())
    }

    /// Encrypts as much of `data` as the output has room for, and says how much.
    pub(super) fn seal(
        &mut self,
        output: &mut Buffer,
        data: &[IoSlice<'_>],
    ) -> Result<usize, TlsError> {
        self.write_records(output, data)
            .map_err(|error| TlsError::new(self.peer(), error))
    }

    fn write_records(&mut self, output: &mut Buffer, data: &[IoSlice<'_>]) -> Result<usize, Error> {
        let total: usize = data.iter().map(|slice| slice.len()).sum();
        let mut pieces = Pieces { data, at: 0 };
        let mut sealed = 0;
        while sealed < total {
            let room = output.room_mut().len().saturating_sub(RESERVE);
            let len = room
                .saturating_sub(HEADER + TRAILER)
                .min(total - sealed)
                .min(PLAIN_MAX);
            if len == 0 {
                break;
            }
            if self.owes_update || self.write.next >= self.limit {
                self.change_keys(output, false)?;
            }
            let record = &mut output.room_mut()[..HEADER + len + TRAILER];
            let kind = ContentType::ApplicationData;
            match pieces.whole(len) {
                Some(plain) => self.write.seal(plain, kind, record)?,
                None => {
                    pieces.copy_to(&mut record[HEADER..HEADER + len]);
                    self.write.seal_in_place(kind, record)?;
                }
            }
            output.commit(HEADER + len + TRAILER);
            sealed += len;
        }
        Ok(sealed)
    }

    /// Appends records of all of `data`.
    pub(super) fn seal_all(&mut self, data: &[u8], output: &mut BytesMut) -> Result<(), TlsError> {
        let sealed = data.chunks(PLAIN_MAX).try_for_each(|plain| {
            if self.owes_update || self.write.next >= self.limit {
                let kind = ContentType::Handshake;
                self.write.append(kind, &key_update(false), output)?;
                self.renew_write()?;
            }
            let kind = ContentType::ApplicationData;
            self.write.append(kind, plain, output)
        });
        sealed.map_err(|error| TlsError::new(self.peer(), error))
    }

    /// Appends close_notify: this end sends no more.
    pub(super) fn close(&mut self, output: &mut Buffer) -> Result<(), TlsError> {
        self.say_alert(output, 1, AlertDescription::CloseNotify)
            .map_err(|error| TlsError::new(self.peer(), error))
    }

    /// Changes the keys of this end, and asks for the peer's to be changed if `asks`.
    pub(super) fn change_keys(&mut self, output: &mut Buffer, asks: bool) -> Result<(), Error> {
        self.say(output, ContentType::Handshake, &key_update(asks))?;
        self.renew_write()
    }

    fn renew_write(&mut self) -> Result<(), Error> {
        self.write = Keys::new(self.kernel.update(Direction::Write)?)?;
        self.owes_update = false;
        Ok(())
    }

    fn say_alert(
        &mut self,
        output: &mut Buffer,
        level: u8,
        alert: AlertDescription,
    ) -> Result<(), Error> {
        self.say(output, ContentType::Alert, &[level, u8::from(alert)])
    }

    /// Appends a record of TLS' own, for which the output grows: such records are few.
    fn say(&mut self, output: &mut Buffer, kind: ContentType, words: &[u8]) -> Result<(), Error> {
        let len = HEADER + words.len() + TRAILER;
        output.reserve(len);
        self.write
            .seal(words, kind, &mut output.room_mut()[..len])?;
        output.commit(len);
        Ok(())
    }

    /// As if the cipher allowed no more than `limit` records under one key.
    #[cfg(test)]
    pub(super) fn limit_records(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// A record of any kind, as a peer may make it.
    #[cfg(test)]
    pub(super) fn forge(&mut self, output: &mut Buffer, kind: u8, words: &[u8]) {
        self.say(output, kind.into(), words).expect("sealed");
    }

    /// The number of the next record that this end writes.
    #[cfg(test)]
    pub(super) fn next_written(&self) -> u64 {
        self.write.next
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

impl Kernel {
    fn update(&mut self, direction: Direction) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match (self, direction) {
            (Self::Client(kernel), Direction::Read) => kernel.update_rx_secret(),
            (Self::Client(kernel), Direction::Write) => kernel.update_tx_secret(),
            (Self::Server(kernel), Direction::Read) => kernel.update_rx_secret(),
            (Self::Server(kernel), Direction::Write) => kernel.update_tx_secret(),
        }
    }
}

impl Keys {
    fn new((next, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (cipher, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a cipher that is not known here".into())),
        };
        let key = UnboundKey::new(cipher, key.as_ref());
        let iv = iv.as_ref().try_into();
        match (key, iv) {
            (Ok(key), Ok(iv)) => Ok(Self {
                key: LessSafeKey::new(key),
                iv,
                next,
            }),
            _ => Err(Error::General("a key of the wrong length".into())),
        }
    }

    /// The next record's nonce (RFC 8446 section 5.3). No number is ever used twice.
    fn nonce(&mut self) -> Result<Nonce, Error> {
        let number = self.next;
        self.next = number.checked_add(1).ok_or(Error::EncryptError)?;
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Decrypts a record in place; gives content, type and padding.
    fn open<'a>(&mut self, header: &[u8; HEADER], body: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let nonce = self.nonce()?;
        self.key
            .open_in_place(nonce, Aad::from(header), body)
            .map(|plain| &*plain)
            .map_err(|_| Error::DecryptError)
    }

    /// Encrypts `plain` into `record`, which has exactly its length and [`HEADER`] and [`TRAILER`].
    fn seal(&mut self, plain: &[u8], kind: ContentType, record: &mut [u8]) -> Result<(), Error> {
        let (header, body, trailer) = parts(record);
        let nonce = self.nonce()?;
        let kind = [u8::from(kind)];
        self.key
            .seal_out_of_place_scatter(nonce, Aad::from(header), plain, body, &kind, trailer)
            .map_err(|_| Error::EncryptError)
    }

    /// Appends a record of `plain`.
    fn append(
        &mut self,
        kind: ContentType,
        plain: &[u8],
        output: &mut BytesMut,
    ) -> Result<(), Error> {
        let at = output.len();
        output.reserve(HEADER + plain.len() + TRAILER);
        output.extend_from_slice(&[0; HEADER]);
        output.extend_from_slice(plain);
        output.extend_from_slice(&[0; TRAILER]);
        self.seal_in_place(kind, &mut output[at..])
    }

    /// The same for what lies already where it is to be encrypted.
    fn seal_in_place(&mut self, kind: ContentType, record: &mut [u8]) -> Result<(), Error> {
        let (header, body, trailer) = parts(record);
        let nonce = self.nonce()?;
        let kind = [u8::from(kind)];
        self.key
            .seal_in_place_scatter(nonce, Aad::from(header), body, &kind, trailer)
            .map_err(|_| Error::EncryptError)
    }
}

/// Room for all that [`Records::seal_all`] makes of `len` bytes, a change of keys included.
pub(crate) const fn sealed_max(len: usize) -> usize {
    len + len.div_ceil(PLAIN_MAX) * OVERHEAD + 2 * OVERHEAD
}

/// The length of the record that begins `input`, once its header is there.
fn record_len(input: &[u8]) -> Result<Option<usize>, Error> {
    let Some(&[kind, _, _, high, low]) = input.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    // What is not encrypted is nobody's that shook hands. The version says nothing.
    if kind != u8::from(ContentType::ApplicationData) {
        return Err(unexpected(kind.into()));
    }
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > CIPHER_MAX {
        return Err(Error::PeerSentOversizedRecord);
    }
    Ok(Some(HEADER + len))
}

fn key_update(asks: bool) -> [u8; 5] {
    [u8::from(HandshakeType::KeyUpdate), 0, 0, 1, u8::from(asks)]
}

/// Writes the header of a record, and gives the places of the rest.
fn parts(record: &mut [u8]) -> ([u8; HEADER], &mut [u8], &mut [u8]) {
    let [high, low] = ((record.len() - HEADER) as u16).to_be_bytes();
    let header = [u8::from(ContentType::ApplicationData), 3, 3, high, low];
    record[..HEADER].copy_from_slice(&header);
    let len = record.len() - HEADER - TRAILER;
    let (body, trailer) = record[HEADER..].split_at_mut(len);
    (header, body, trailer)
}

/// What is still to be sent of several slices.
struct Pieces<'a, 'b> {
    data: &'a [IoSlice<'b>],
    /// Taken of the first slice.
    at: usize,
}

impl<'a> Pieces<'a, '_> {
    /// The next `len` bytes, if they lie in one slice.
    fn whole(&mut self, len: usize) -> Option<&'a [u8]> {
        let first = self.first();
        if first.len() < len {
            return None;
        }
        self.at += len;
        Some(&first[..len])
    }

    fn copy_to(&mut self, mut into: &mut [u8]) {
        while !into.is_empty() {
            let first = self.first();
            let len = first.len().min(into.len());
            if len == 0 {
                return;
            }
            let (part, rest) = into.split_at_mut(len);
            part.copy_from_slice(&first[..len]);
            into = rest;
            self.at += len;
        }
    }

    /// What is left of the first slice that has something left; empty at the end.
    fn first(&mut self) -> &'a [u8] {
        while let [first, rest @ ..] = self.data {
            if self.at < first.len() {
                return &first[self.at..];
            }
            (self.data, self.at) = (rest, 0);
        }
        &[]
    }
}

fn read_alert(alert: &[u8]) -> Result<Step, Error> {
    match alert {
        [_, alert] => match AlertDescription::from(*alert) {
            AlertDescription::CloseNotify => Ok(Step::PeerClosed),
            // Says that a close_notify will follow (RFC 8446 section 6.1).
            AlertDescription::UserCanceled => Ok(Step::Control),
            // Whatever its level (RFC 8446 section 6).
            alert => Err(Error::AlertReceived(alert)),
        },
        [_] => Err(InvalidMessage::MessageTooShort.into()),
        _ => Err(InvalidMessage::TrailingData("an alert").into()),
    }
}

fn unexpected(got_type: ContentType) -> Error {
    Error::InappropriateMessage {
        expect_types: vec![ContentType::ApplicationData],
        got_type,
    }
}

/// What the peer is told (RFC 8446 section 6.2); an alert is answered by none.
fn alert_for(error: &Error) -> Option<AlertDescription> {
    Some(match error {
        Error::AlertReceived(_) => return None,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_) => AlertDescription::UnexpectedMessage,
        _ => AlertDescription::InternalError,
    })
}
