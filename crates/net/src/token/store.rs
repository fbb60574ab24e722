//! The tokens of a relay or a host, in one file that several processes may use at once.
//!
//! Every change is made under a lock, from what the file says then, and is on the disk before anybody
//! acts on it: a new file is written, synced, put in the old one's place, and the directory synced.
//! Checking a token reads the file only when it has changed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farpipe_proto::identity::{Fingerprint, Identity};
use farpipe_yaml::{ConfigError, Place};
use hmac::Mac as _;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::entry::{Scope, TokenEntry, TokenState, read_all, write_all};
use super::{Token, TokenError, TokenId};
use crate::clock::WallClock;
use crate::link::system_random;
use crate::secret::mac;
use crate::stamp::FileStamp;
use crate::tls::PeerIdentity;

/// Tokens in one store. Policy when full: none is issued until expired ones are forgotten.
const TOKENS_MAX: usize = 4096;
/// How long a token that is over is kept, so that the log can say what became of it.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is wrong, or cannot be read.
    #[error(transparent)]
    File(ConfigError),
    /// It cannot be locked or written.
    #[error("{}: cannot be {what}: {source}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no room for another token.
    #[error("{}: {TOKENS_MAX} tokens are in it, which is the most", .0.display())]
    Full(PathBuf),
    /// No token has that id.
    #[error("no token has the id {0}")]
    Unknown(TokenId),
}

impl StoreError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Self::File(error) => &error.hint,
            Self::Write { .. } => "see that the directory belongs to this user and has room",
            Self::Full(_) => "tokens are forgotten 30 days after their end: issue shorter ones",
            Self::Unknown(_) => "`farpipe token ls` lists them",
        }
    }
}

/// What a new token is to be.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Whom it stands for.
    pub identity: Identity,
    /// What it lets do.
    pub scopes: Vec<Scope>,
    /// How long.
    pub valid_for: Duration,
    /// Whether it is good once.
    pub once: bool,
    /// The certificate that must be shown with it.
    pub bound_to: Option<Fingerprint>,
}

/// Who a token let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// By which token.
    pub id: TokenId,
    /// Whom it stands for: the one name for routes and permissions.
    pub identity: Identity,
    /// What it lets do.
    pub scopes: Vec<Scope>,
}

impl Admitted {
    /// Whether it lets do that.
    #[must_use]
    pub fn may(&self, wanted: &Scope) -> bool {
        self.scopes.iter().any(|has| has.covers(wanted))
    }
}

/// Why a token lets nobody in: for the log. Whoever showed it is told [`TokenRefusal::TOLD`] alone.
#[derive(Debug, thiserror::Error)]
pub enum TokenRefusal {
    /// The id is none.
    #[error(transparent)]
    NoToken(TokenError),
    /// No entry has its id.
    #[error("no token has the id {0}")]
    Unknown(TokenId),
    /// The id is there, and the other side has another secret.
    #[error("token {0}: its secret was not proven")]
    WrongSecret(TokenId),
    /// It was good.
    #[error("token {id} of {identity}: {}", .state.as_str())]
    Over {
        /// Which token.
        id: TokenId,
        /// Whom it stood for.
        identity: Identity,
        /// What became of it.
        state: TokenState,
    },
    /// It is for something else.
    #[error("token {id} of {identity}: not for {wanted}")]
    Scope {
        /// Which token.
        id: TokenId,
        /// Whom it stands for.
        identity: Identity,
        /// What was wanted.
        wanted: Scope,
    },
    /// It is bound to a certificate, and another or none was shown.
    #[error("token {id} of {identity}: bound to another certificate than was shown")]
    Bound {
        /// Which token.
        id: TokenId,
        /// Whom it stands for.
        identity: Identity,
    },
    /// The certificate that was shown says another name.
    #[error("token {id} of {identity}: the certificate is of {certificate}")]
    Another {
        /// Which token.
        id: TokenId,
        /// Whom it stands for.
        identity: Identity,
        /// Who showed it.
        certificate: Identity,
    },
    /// An agent asks for a name that is not its own.
    #[error("token {id} of {identity}: not good for the name '{}'", name.escape_debug())]
    Name {
        /// Which token.
        id: TokenId,
        /// Whom it stands for.
        identity: Identity,
        /// The name.
        name: String,
    },
    /// Nobody can say. Nobody is let in.
    #[error("tokens cannot be checked: {0}")]
    Store(#[from] StoreError),
}

impl TokenRefusal {
    /// What whoever showed the token is told, whatever was wrong with it.
    pub const TOLD: &str = "the token is not good here; its log says why";
}

/// The tokens of one file.
#[derive(Debug)]
pub struct TokenStore {
    path: PathBuf,
    clock: WallClock,
    read: Mutex<Option<(FileStamp, Arc<Vec<TokenEntry>>)>>,
    /// What unknown ids are compared with comes of this.
    dummy: [u8; 32],
    /// Who has used which token that is good once: it may come again, as a session does that lost its
    /// link. As many as there are tokens.
    users: Mutex<Vec<(TokenId, Vec<u8>)>>,
}

/// Held while the file is changed. Ends with the process that holds it, however that ends.
#[derive(Debug)]
struct Lock(#[expect(dead_code, reason = "the lock lasts as long as it is open")] File);

impl TokenStore {
    /// The store in a file, which is made with the first token.
    #[must_use]
    pub fn new(path: PathBuf, clock: WallClock) -> Self {
        let mut dummy = [0; 32];
        system_random(&mut dummy);
        Self {
            path,
            clock,
            read: Mutex::default(),
            dummy,
            users: Mutex::default(),
        }
    }

    /// Where tokens are kept unless something else is said: `tokens.yaml` in
    /// [`crate::settings_dir()`].
    #[must_use]
    pub fn default_path() -> PathBuf {
        crate::settings_dir().join("tokens.yaml")
    }

    /// Makes a token and returns when its entry is on the disk. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn issue(&self, wanted: Wanted, random: fn(&mut [u8])) -> Result<Token, StoreError> {
        let _lock = self.lock()?;
        let now = self.clock.now();
        let mut entries = self.load()?;
        entries.retain(|entry| now < entry.expires.saturating_add(KEPT));
        if entries.len() >= TOKENS_MAX {
            return Err(StoreError::Full(self.path.clone()));
        }
        let mut token = Token::generate(random);
        while entries.iter().any(|entry| entry.id == token.id()) {
            token = Token::generate(random);
        }
        let expires = now.saturating_add(wanted.valid_for);
        entries.push(TokenEntry {
            id: token.id(),
            digest: token.digest(),
            identity: wanted.identity,
            scopes: wanted.scopes,
            expires: Duration::from_secs(expires.as_secs()),
            once: wanted.once,
            bound_to: wanted.bound_to,
            used: None,
            revoked: None,
        });
        self.save(&entries)?;
        Ok(token)
    }

    /// Takes a token back, and returns when that is on the disk. One that was revoked stays so. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn revoke(&self, id: TokenId) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let mut entries = self.load()?;
        let entry = entries.iter_mut().find(|entry| entry.id == id);
        let entry = entry.ok_or(StoreError::Unknown(id))?;
        if entry.revoked.is_none() {
            entry.revoked = Some(self.clock.now());
            self.save(&entries)?;
        }
        Ok(())
    }

    /// All entries, the oldest first. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn list(&self) -> Result<Vec<TokenEntry>, StoreError> {
        self.load()
    }

    /// This side's proof that it knows a token; of an unknown one, something that looks alike. Blocks
    /// on the disk for a moment.
    pub(super) fn prove(
        &self,
        id: &[u8],
        label: &str,
        dialling: &[u8],
        accepting: &[u8],
    ) -> [u8; 32] {
        // That the store cannot be read is said when the other side has proven something.
        let entries = self.current().unwrap_or_default();
        let digest = self.digest(&entries, id);
        let mac = mac(&digest, label, dialling, accepting);
        mac.finalize().into_bytes().into()
    }

    /// Whether the other side has the token's secret. The same is done for an unknown id. Blocks on
    /// the disk for a moment.
    ///
    /// # Errors
    /// [`TokenRefusal`], for the log.
    pub(super) fn verify(
        &self,
        id: &[u8],
        label: &str,
        dialling: &[u8],
        accepting: &[u8],
        proof: &[u8],
    ) -> Result<(), TokenRefusal> {
        let entries = self.current()?;
        let digest = self.digest(&entries, id);
        let mask = mac(&digest, label, dialling, accepting);
        let mask = mask.finalize().into_bytes().into();
        let secret = Token::unmasked(proof, &mask);
        let shown: [u8; 32] = Sha256::digest(secret.as_slice()).into();
        let is_same = bool::from(digest.ct_eq(&shown)) & (proof.len() == secret.len());
        if !is_same {
            return Err(self.unproven(id));
        }
        Ok(())
    }

    /// What is wrong with a token whose secret was not proven.
    pub(super) fn unproven(&self, id: &[u8]) -> TokenRefusal {
        let Some(id) = TokenId::of(id) else {
            return TokenRefusal::NoToken(TokenError::Id);
        };
        match self.current() {
            Err(error) => error.into(),
            Ok(entries) if entries.iter().any(|entry| entry.id == id) => {
                TokenRefusal::WrongSecret(id)
            }
            Ok(_) => TokenRefusal::Unknown(id),
        }
    }

    fn digest(&self, entries: &[TokenEntry], id: &[u8]) -> [u8; 32] {
        let found = entries.iter().find(|entry| entry.id.0 == id);
        let dummy = || Sha256::new().chain_update(self.dummy).chain_update(id);
        found.map_or_else(|| dummy().finalize().into(), |entry| entry.digest)
    }

    /// Whom a token whose secret was proven lets in, to do what `scope` says, on a connection whose
    /// certificate is `shown`. One that is good once is used up on the disk before this returns, and is
    /// good again for the same `user` alone, as long as this process lives. Blocks on the disk.
    ///
    /// # Errors
    /// [`TokenRefusal`], for the log.
    pub fn admit(
        &self,
        id: TokenId,
        scope: &Scope,
        user: &[u8],
        shown: Option<&PeerIdentity>,
    ) -> Result<Admitted, TokenRefusal> {
        let entries = self.current()?;
        let entry = self.check(&entries, id, scope, user, shown)?;
        if entry.once && entry.used.is_none() {
            // Again, under the lock: somebody else may be doing the same.
            let _lock = self.lock()?;
            let mut entries = self.load()?;
            self.check(&entries, id, scope, user, shown)?;
            let now = self.clock.now();
            for entry in entries.iter_mut().filter(|entry| entry.id == id) {
                entry.used.get_or_insert(now);
            }
            self.save(&entries)?;
            let mut users = self.users();
            users.retain(|(id, _)| entries.iter().any(|entry| entry.id == *id));
            if !user.is_empty() {
                users.push((id, user.to_vec()));
            }
        }
        Ok(Admitted {
            id: entry.id,
            identity: entry.identity.clone(),
            scopes: entry.scopes.clone(),
        })
    }

    /// As [`TokenStore::admit`], for a token that was not proven but shown, by somebody who has verified
    /// over TLS whom it is shown to. Its secret is compared in constant time. Blocks on the disk.
    ///
    /// # Errors
    /// [`TokenRefusal`], for the log.
    pub fn admit_shown(
        &self,
        token: &Token,
        scope: &Scope,
        shown: Option<&PeerIdentity>,
    ) -> Result<Admitted, TokenRefusal> {
        let entries = self.current()?;
        let id = token.id();
        if !bool::from(self.digest(&entries, &id.0).ct_eq(&token.digest())) {
            return Err(self.unproven(&id.0));
        }
        self.admit(id, scope, &[], shown)
    }

    /// Whether a token that has let somebody in by [`TokenStore::admit`] is good still, for what stands for
    /// it. One that is good once was used up by that, and is good for it nevertheless. Blocks on the disk
    /// for a moment.
    ///
    /// # Errors
    /// [`TokenRefusal`], for the log: it was revoked, it has expired, or it is not for this connection.
    pub fn stands(
        &self,
        id: TokenId,
        scope: &Scope,
        shown: Option<&PeerIdentity>,
    ) -> Result<(), TokenRefusal> {
        let entries = self.current()?;
        let unused = |entry: &TokenEntry| TokenEntry {
            used: None,
            ..entry.clone()
        };
        let found = entries.iter().find(|entry| entry.id == id).map(unused);
        self.check(found.as_slice(), id, scope, &[], shown)?;
        Ok(())
    }

    fn users(&self) -> MutexGuard<'_, Vec<(TokenId, Vec<u8>)>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check<'a>(
        &self,
        entries: &'a [TokenEntry],
        id: TokenId,
        scope: &Scope,
        user: &[u8],
        shown: Option<&PeerIdentity>,
    ) -> Result<&'a TokenEntry, TokenRefusal> {
        let found = entries.iter().find(|entry| entry.id == id);
        let entry = found.ok_or(TokenRefusal::Unknown(id))?;
        let identity = entry.identity.clone();
        let is_by = |(used, by): &(TokenId, Vec<u8>)| *used == id && by == user;
        match entry.state(self.clock.now()) {
            TokenState::Good => {}
            TokenState::Used if self.users().iter().any(is_by) => {}
            state @ (TokenState::Expired | TokenState::Used | TokenState::Revoked) => {
                return Err(TokenRefusal::Over {
                    id,
                    identity,
                    state,
                });
            }
        }
        if !entry.scopes.iter().any(|has| has.covers(scope)) {
            return Err(TokenRefusal::Scope {
                id,
                identity,
                wanted: scope.clone(),
            });
        }
        let fingerprint = shown.map(|shown| shown.fingerprint);
        if entry.bound_to.is_some() && entry.bound_to != fingerprint {
            return Err(TokenRefusal::Bound { id, identity });
        }
        match shown.and_then(|shown| shown.identity.clone()) {
            Some(certificate) if certificate != identity => Err(TokenRefusal::Another {
                id,
                identity,
                certificate,
            }),
            _ => Ok(entry),
        }
    }

    /// What the file says, read again if it has changed.
    fn current(&self) -> Result<Arc<Vec<TokenEntry>>, StoreError> {
        let stamp = FileStamp::of(&self.path);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, entries)) = read.as_ref()
            && *before == stamp
        {
            return Ok(Arc::clone(entries));
        }
        // What is wrong now is told each time; nothing from before is good any more.
        *read = None;
        let entries = Arc::new(self.load()?);
        *read = Some((stamp, Arc::clone(&entries)));
        Ok(entries)
    }

    fn load(&self) -> Result<Vec<TokenEntry>, StoreError> {
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            _ => {}
        }
        let bytes = crate::tls::read_private(&self.path, "token store").map_err(|error| {
            let what = error.to_string();
            let what = what
                .strip_prefix(&format!("{}: ", self.path.display()))
                .unwrap_or(&what);
            let hint = error.hint().unwrap_or("see that the path is right");
            StoreError::File(Place::file(&self.path).error(what, hint))
        })?;
        read_all(&self.path, bytes.to_vec()).map_err(StoreError::File)
    }

    fn lock(&self) -> Result<Lock, StoreError> {
        let path = beside(&self.path, "lock");
        let failed = |source| StoreError::Write {
            path: path.clone(),
            what: "locked",
            source,
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(failed)?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Lock(file)),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    /// Under the lock only. All of it is on the disk when this returns.
    fn save(&self, entries: &[TokenEntry]) -> Result<(), StoreError> {
        let write = || {
            let new = beside(&self.path, "new");
            // What a process left that died here.
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(write_all(entries).as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty());
            File::open(dir.unwrap_or_else(|| Path::new(".")))?.sync_all()
        };
        write().map_err(|source| StoreError::Write {
            path: self.path.clone(),
            what: "written",
            source,
        })
    }
}

/// `tokens.yaml.lock` beside `tokens.yaml`.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}
