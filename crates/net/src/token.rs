//! Tokens: a way in for joining and for small set-ups, where there is no certificate yet.
//!
//! `fpk1-ID.SECRET.CRC`: the id finds the entry, the secret of 256 random bits is compared by its
//! SHA-256 (a fast hash is right for what cannot be guessed), and the checksum tells a slip in copying
//! without asking anybody. What is kept (`store`) lets nobody in. A token stands for one identity, has
//! scopes and an end, may be good once, and may be bound to a certificate.
//!
//! It is proven, as SCRAM does (RFC 5802 section 3): the dialling side sends its secret masked with
//! what only who has the digest can make of the two nonces. The accepting side takes the mask off and
//! compares digests. So neither its store nor what passed once lets anybody in.

mod entry;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod gate;
mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farpipe_proto::link::{Prover, SecretId};
use hmac::Mac as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::secret::mac;

pub use self::entry::{Scope, ScopeError, TokenEntry, TokenState};
pub(crate) use self::gate::Gate;
pub use self::store::{Admitted, StoreError, TokenRefusal, TokenStore, Wanted};

/// What a token's text begins with.
pub(crate) const PREFIX: &str = "fpk1-";
const ID_LEN: usize = 8;
const SECRET_LEN: usize = 32;
/// Longest text that is looked at: more than a token has.
const TEXT_MAX: usize = 128;

/// The public half of a token: names it in lists and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; ID_LEN]);

/// A token. Its Debug form prints the id alone, and its memory is overwritten when it is dropped.
#[derive(Clone)]
pub struct Token {
    id: TokenId,
    secret: Zeroizing<[u8; SECRET_LEN]>,
}

/// Why a text is no token. It quotes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It looks like something else.
    #[error("not a token: one begins with {PREFIX}")]
    NoToken,
    /// A part is missing, or was changed.
    #[error("the token is damaged")]
    Damaged,
    /// The id is none.
    #[error("a token's id has 16 digits from 0 to f")]
    Id,
}

impl TokenError {
    /// What to do about it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::NoToken => "copy the one that `farpipe token issue` printed",
            Self::Damaged => "copy the whole of it again",
            Self::Id => "`farpipe token ls` lists them",
        }
    }
}

impl Token {
    /// A new one.
    pub(crate) fn generate(random: fn(&mut [u8])) -> Self {
        let mut id = [0; ID_LEN];
        random(&mut id);
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        random(secret.as_mut_slice());
        Self {
            id: TokenId(id),
            secret,
        }
    }

    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// The secret behind its mask, or what comes of another proof.
    pub(crate) fn unmasked(proof: &[u8], mask: &[u8; SECRET_LEN]) -> Zeroizing<[u8; SECRET_LEN]> {
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        for (byte, (a, b)) in secret.iter_mut().zip(proof.iter().zip(mask)) {
            *byte = a ^ b;
        }
        secret
    }

    /// What is kept in its place.
    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.secret.as_slice()).into()
    }

    /// The text that is passed on; as secret as a password.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        // Enough room at once: what grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(TEXT_MAX));
        text.push_str(PREFIX);
        text.push_str(&self.id.to_string());
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(self.secret.as_slice(), &mut text);
        let sum = crc32fast::hash(text.as_bytes());
        text.push_str(&format!(".{sum:08x}"));
        text
    }
}

impl Prover for Token {
    fn secret(&self) -> SecretId {
        SecretId::Token(self.id.0.to_vec())
    }

    fn prove(&self, label: &str, dialling: &[u8], accepting: &[u8]) -> [u8; 32] {
        let mask = mac(&self.digest(), label, dialling, accepting);
        let mask = mask.finalize().into_bytes().into();
        *Self::unmasked(self.secret.as_slice(), &mask)
    }

    fn verify(&self, label: &str, dialling: &[u8], accepting: &[u8], proof: &[u8]) -> bool {
        let mac = mac(&self.digest(), label, dialling, accepting);
        mac.verify_slice(proof).is_ok()
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let inner = text.strip_prefix(PREFIX).ok_or(TokenError::NoToken)?;
        if text.len() > TEXT_MAX {
            return Err(TokenError::Damaged);
        }
        let (summed, sum) = text.rsplit_once('.').ok_or(TokenError::Damaged)?;
        if sum != format!("{:08x}", crc32fast::hash(summed.as_bytes())) {
            return Err(TokenError::Damaged);
        }
        let (id, rest) = inner.split_once('.').ok_or(TokenError::Damaged)?;
        let encoded = rest.split('.').next().unwrap_or_default();
        let id = id.parse().map_err(|_| TokenError::Damaged)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded);
        let bytes = Zeroizing::new(bytes.map_err(|_| TokenError::Damaged)?);
        let secret = <[u8; SECRET_LEN]>::try_from(bytes.as_slice());
        let secret = Zeroizing::new(secret.map_err(|_| TokenError::Damaged)?);
        let token = Self { id, secret };
        // One way to write it: more dots, or capitals in the id, are none.
        if *token.reveal() != *text {
            return Err(TokenError::Damaged);
        }
        Ok(token)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, ..)", self.id)
    }
}

impl TokenId {
    /// Of its bytes.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl FromStr for TokenId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        parse_hex(text).map(Self).ok_or(TokenError::Id)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exactly `N` bytes in lower-case hexadecimal digits.
fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || pairs.len() != N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}
