//! `farpipe cert revoke`: takes certificates back before their time, in a list that both ends go by.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use farpipe_net::WallClock;
use farpipe_net::tls::{self, FileError, RevocationList, Revoked};
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber, date_time_ymd,
};

use super::{Authority, CA_DAYS, DAY, SKEW};
use crate::exit::WithStatus;

const CRL_FILE: &str = "crl.pem";

/// Take certificates back before they expire: write them into the authority's revocation list
///
/// The list is crl.pem beside the authority; it is made, or replaced at once by one that has these as
/// well. Without CERT it only gets a new date. Listeners and dialling sides that are given the list
/// with --crl go by it from then on: listeners, relays and agents also end, within seconds, what these
/// certificates have begun.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Certificates that the authority issued, PEM files
    #[arg(value_name = "CERT")]
    certs: Vec<PathBuf>,
    /// Where the authority's files are, and where the list goes
    #[arg(long, value_name = "DIR", default_value = "farpipe-certs")]
    dir: PathBuf,
    /// Days after which those who go by the list want a newer one, and believe nobody until they have
    /// it
    #[arg(long, value_name = "N", default_value_t = CA_DAYS,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(CA_DAYS)))]
    days: u32,
}

pub(super) fn run(args: &Args, line: impl Fn(&str)) -> anyhow::Result<u8> {
    let ca = Authority::load(&args.dir)?;
    let path = args.dir.join(CRL_FILE);
    let mut list = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => RevocationList::default(),
        _ => RevocationList::read(&path, &ca.certificate).map_err(unreadable)?,
    };
    let now = WallClock::System.now();
    let mut told = Vec::new();
    for cert in &args.certs {
        let der = tls::read_certificate(cert).map_err(unreadable)?;
        let serial = serial(&ca, cert, &der)?;
        let done = if list.revoked.iter().any(|known| known.serial == serial) {
            "was revoked already"
        } else {
            list.revoked.push(Revoked {
                serial,
                at: now.as_secs(),
            });
            "is revoked"
        };
        told.push(format!("{} {done}", cert.display()));
    }
    list.number += 1;
    let der = sign(&ca, &list, now, args.days)?;
    replace(&path, &tls::to_pem("X509 CRL", &der))
        .with_context(|| format!("cannot write {}", path.display()))?;
    told.iter().for_each(|told| line(told));
    line(&format!(
        "the list {} names {} certificate{}, and is good for {} days",
        path.display(),
        list.revoked.len(),
        if list.revoked.len() == 1 { "" } else { "s" },
        args.days
    ));
    line("\nGive it to both ends beside --ca, and copy it to the other hosts whenever it changes:");
    line(&format!("  --crl {}", path.display()));
    Ok(0)
}

fn serial(ca: &Authority, cert: &Path, der: &[u8]) -> anyhow::Result<Vec<u8>> {
    let cert = cert.display();
    if der == ca.certificate {
        return Err(WithStatus::failure(
            format!("{cert} is the authority itself, which no list of its own can take back"),
            Some(
                "make another one with `farpipe cert init --dir DIR`, and name that with --ca"
                    .to_owned(),
            ),
        ));
    }
    tls::serial_under(&ca.certificate, der).ok_or_else(|| {
        WithStatus::failure(
            format!("{cert} was not issued by {}", ca.file.display()),
            Some("--dir names the directory of the authority that issued it".to_owned()),
        )
    })
}

fn sign(
    ca: &Authority,
    list: &RevocationList,
    now: Duration,
    days: u32,
) -> anyhow::Result<Vec<u8>> {
    let epoch = date_time_ymd(1970, 1, 1);
    let revoked = |revoked: &Revoked| RevokedCertParams {
        serial_number: SerialNumber::from_slice(&revoked.serial),
        revocation_time: epoch + Duration::from_secs(revoked.at),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: epoch + now.saturating_sub(SKEW),
        next_update: epoch + now + DAY * days,
        crl_number: SerialNumber::from(list.number),
        issuing_distribution_point: None,
        revoked_certs: list.revoked.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(&ca.issuer)?.der().to_vec())
}

/// A reader sees the old list or the new one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("pem.new");
    // Left over from one that was killed.
    let _ = fs::remove_file(&new);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&new)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn unreadable(error: FileError) -> anyhow::Error {
    let hint = error.hint().map(str::to_owned);
    WithStatus::failure(error.to_string(), hint)
}
