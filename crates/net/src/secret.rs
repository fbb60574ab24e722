//! The loopback secret: one per user, kept in the runtime directory, proven and never sent
//! (docs/protocol.md section 4.3).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use farpipe_proto::link::{Prover, Shared};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bytes of the secret.
pub(crate) const SECRET_LEN: usize = 32;

/// Why the secret cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("the loopback secret {}: {what}", path.display())]
pub struct SecretError {
    path: PathBuf,
    what: String,
}

/// The user's loopback secret, or one of the same kind. Its Debug form prints nothing of it, and its
/// memory is overwritten when it is dropped.
#[derive(Clone)]
pub struct LoopbackSecret(Zeroizing<[u8; SECRET_LEN]>);

impl std::fmt::Debug for LoopbackSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LoopbackSecret(..)")
    }
}

impl LoopbackSecret {
    /// A secret from given bytes, for tests and simulations.
    #[must_use]
    pub fn new(bytes: [u8; SECRET_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A new one.
    pub(crate) fn generate(random: fn(&mut [u8])) -> Self {
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        random(secret.as_mut_slice());
        Self(secret)
    }

    /// What it is. As secret as that.
    pub(crate) fn bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// Reads the user's secret, making it on first use: `$XDG_RUNTIME_DIR/farpipe/secret`, or
    /// `/run/user/UID/farpipe/secret`, or `/tmp/farpipe-UID/secret`. Blocks on the disk for a
    /// moment.
    ///
    /// # Errors
    /// [`SecretError`] when the directory or the file belongs to someone else, is open to others,
    /// or cannot be read or made.
    pub fn load_or_create() -> Result<Self, SecretError> {
        let uid = rustix::process::geteuid().as_raw();
        let dir = directory(uid);
        let path = dir.join("secret");
        let error = |what: String| SecretError {
            path: path.clone(),
            what,
        };
        make_directory(&dir, uid).map_err(&error)?;
        loop {
            match read(&path, uid) {
                Ok(secret) => return Ok(secret),
                Err(ReadError::Missing) => {}
                Err(ReadError::Bad(what)) => return Err(error(what)),
            }
            create(&dir, &path).map_err(|e| error(format!("cannot be made: {e}")))?;
        }
    }

    fn mac(&self, label: &str, dialling: &[u8], accepting: &[u8]) -> Hmac<Sha256> {
        mac(&self.0, label, dialling, accepting)
    }
}

/// What is known to who has `key`, and nobody else, in this one handshake.
pub(crate) fn mac(
    key: &[u8; SECRET_LEN],
    label: &str,
    dialling: &[u8],
    accepting: &[u8],
) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key length");
    mac.update(label.as_bytes());
    mac.update(&[0]);
    mac.update(dialling);
    mac.update(accepting);
    mac
}

impl Shared for LoopbackSecret {}

impl Prover for LoopbackSecret {
    fn prove(&self, label: &str, dialling: &[u8], accepting: &[u8]) -> [u8; 32] {
        self.mac(label, dialling, accepting)
            .finalize()
            .into_bytes()
            .into()
    }

    fn verify(&self, label: &str, dialling: &[u8], accepting: &[u8], proof: &[u8]) -> bool {
        self.mac(label, dialling, accepting)
            .verify_slice(proof)
            .is_ok()
    }
}

/// Where what belongs to this user's running processes is: the loopback secret, the local agent's socket.
#[must_use]
pub fn runtime_dir() -> PathBuf {
    directory(rustix::process::geteuid().as_raw())
}

/// Where what belongs to a user's running processes is.
pub(crate) fn directory(uid: u32) -> PathBuf {
    if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()) {
        return PathBuf::from(dir).join("farpipe");
    }
    let run = PathBuf::from(format!("/run/user/{uid}"));
    if run.is_dir() {
        return run.join("farpipe");
    }
    PathBuf::from(format!("/tmp/farpipe-{uid}"))
}

/// Makes the directory 0700, or checks that an existing one is ours alone: /tmp is everybody's.
pub(crate) fn make_directory(dir: &Path, uid: u32) -> Result<(), String> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => check_directory(dir, uid),
        Err(e) => Err(format!(
            "its directory cannot be made: {e}; set XDG_RUNTIME_DIR to a directory of yours"
        )),
    }
}

/// Checks that a directory is ours alone.
pub(crate) fn check_directory(dir: &Path, uid: u32) -> Result<(), String> {
    let meta = std::fs::symlink_metadata(dir).map_err(|e| format!("cannot be read: {e}"))?;
    if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o077 != 0 {
        return Err("its directory must be a real directory of yours with mode 0700".to_owned());
    }
    Ok(())
}

enum ReadError {
    Missing,
    Bad(String),
}

fn read(path: &Path, uid: u32) -> Result<LoopbackSecret, ReadError> {
    let bad = |e: io::Error| ReadError::Bad(format!("cannot be read: {e}"));
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(ReadError::Missing),
        Err(e) => return Err(bad(e)),
    };
    let meta = file.metadata().map_err(bad)?;
    if meta.uid() != uid || meta.mode() & 0o077 != 0 {
        return Err(ReadError::Bad(
            "must be yours with mode 0600; remove it and a new one is made".to_owned(),
        ));
    }
    let mut secret = Zeroizing::new([0; SECRET_LEN]);
    file.read_exact(secret.as_mut_slice()).map_err(|_| {
        ReadError::Bad("is damaged (too short); remove it and a new one is made".to_owned())
    })?;
    Ok(LoopbackSecret(secret))
}

/// Writes a new secret under a private name and links it into place: whoever is second finds the
/// first one's, and nobody reads half of one.
fn create(dir: &Path, path: &Path) -> io::Result<()> {
    let mut random = Zeroizing::new([0; SECRET_LEN + 8]);
    getrandom::fill(random.as_mut_slice()).map_err(io::Error::other)?;
    let (secret, name) = random.split_at(SECRET_LEN);
    let name: String = name.iter().map(|b| format!("{b:02x}")).collect();
    let temporary = dir.join(format!(".secret-{name}"));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(secret)?;
    let linked = std::fs::hard_link(&temporary, path);
    std::fs::remove_file(&temporary)?;
    match linked {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_needs_the_same_secret_label_and_nonces() {
        let secret = LoopbackSecret::new([1; 32]);
        let proof = secret.prove("a", &[2; 32], &[3; 32]);
        assert!(secret.verify("a", &[2; 32], &[3; 32], &proof));
        assert!(!secret.verify("b", &[2; 32], &[3; 32], &proof));
        assert!(!secret.verify("a", &[9; 32], &[3; 32], &proof));
        assert!(!secret.verify("a", &[2; 32], &[9; 32], &proof));
        assert!(!LoopbackSecret::new([2; 32]).verify("a", &[2; 32], &[3; 32], &proof));
        assert!(!secret.verify("a", &[2; 32], &[3; 32], &proof[..16]));
    }

    #[test]
    fn the_secret_never_shows_in_debug() {
        assert_eq!(
            format!("{:?}", LoopbackSecret::new([0x41; 32])),
            "LoopbackSecret(..)"
        );
    }
}
