//! `farpipe cert`: an authority of one's own, and certificates for the two ends of a pipe.
//!
//! What it makes are ordinary PEM files; certificates of any other authority do as well. No key and no
//! certificate is ever overwritten: an authority's lost key cannot be made again.

mod revoke;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use farpipe_net::WallClock;
use farpipe_net::tls::{self, FileError, Pin, SelfSigned};
use farpipe_proto::identity::{Identity, Kind};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use sha2::{Digest as _, Sha256};

use crate::exit::WithStatus;
use crate::output;

/// How long an authority is good for.
const CA_DAYS: u32 = 3653;
/// Longest life of a certificate, beyond which some verifiers refuse it; also the default.
const DAYS_MAX: u32 = 825;
/// A certificate begins this long ago: clocks differ.
const SKEW: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// What an agent's own host name ends with; nothing is looked up by it.
const AGENTS: &str = ".agent.farpipe";

const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca-key.pem";

/// Make certificates for wss:// and fps://
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Init(InitArgs),
    Issue(IssueArgs),
    Revoke(revoke::Args),
}

/// Make an authority: a certificate and a key that issue others
#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Where its files go
    #[arg(long, value_name = "DIR", default_value = "farpipe-certs")]
    dir: PathBuf,
    /// Whose authority it is; part of every name that it issues
    #[arg(long, value_name = "DOMAIN", default_value = "local")]
    domain: String,
}

/// Issue a certificate and a key for one process, to dial and to listen with
#[derive(Debug, clap::Args)]
struct IssueArgs {
    /// Its name: lower-case letters, digits, dots, hyphens and underscores
    name: String,
    /// What it is for; an agent's is also good for NAME.agent.farpipe, which callers verify through a
    /// relay
    #[arg(long, value_name = "KIND", default_value = "client")]
    kind: Role,
    /// Where the authority's files are, and where these go
    #[arg(long, value_name = "DIR", default_value = "farpipe-certs")]
    dir: PathBuf,
    /// A host name or address under which it is dialled; repeatable
    #[arg(long, value_name = "DNS|IP")]
    san: Vec<String>,
    /// Days that it is good for
    #[arg(long, value_name = "N", default_value_t = DAYS_MAX,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(DAYS_MAX)))]
    days: u32,
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    /// Connect, listen, exec
    Client,
    /// An agent
    Agent,
    /// A relay; needs --san
    Relay,
}

impl Role {
    fn kind(self) -> Kind {
        match self {
            Self::Client => Kind::Client,
            Self::Agent => Kind::Agent,
            Self::Relay => Kind::Relay,
        }
    }

    /// The names that a certificate has beside those of --san.
    fn own_hosts(self, name: &str) -> anyhow::Result<Option<SanType>> {
        if self != Self::Agent {
            return Ok(None);
        }
        let own = host(&format!("{name}{AGENTS}")).map_err(|_| {
            let hint =
                "an agent's is part of a host name: at most 63 of a-z, 0-9, dots and hyphens";
            WithStatus::usage(
                format!("'{}' is no agent's name", name.escape_debug()),
                hint,
            )
        })?;
        Ok(Some(own))
    }
}

pub(crate) fn run(args: &Args, quiet: bool) -> anyhow::Result<u8> {
    match &args.what {
        What::Init(args) => init(args, teller(quiet)),
        What::Issue(args) => issue(args, teller(quiet)),
        What::Revoke(args) => revoke::run(args, teller(quiet)),
    }
}

/// Says what was done, unless nothing but errors is wanted.
fn teller(quiet: bool) -> impl Fn(&str) {
    move |text| {
        if !quiet {
            output::line(text);
        }
    }
}

fn init(args: &InitArgs, line: impl Fn(&str)) -> anyhow::Result<u8> {
    let identity = authority_name(&args.domain)?;
    match DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&args.dir)
    {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).context(format!("cannot make {}", args.dir.display()));
        }
        _ => {}
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = authority(&identity, &key)?.self_signed(&key)?;
    let made = Made {
        cert: args.dir.join(CA_FILE),
        key: args.dir.join(CA_KEY_FILE),
    };
    made.write(certificate.der(), &key)?;
    let dir = dir_flag(&args.dir);
    line(&format!(
        "made the authority {}, good for 10 years, and its key {}",
        made.cert.display(),
        made.key.display()
    ));
    line("\nIssue a certificate for each end; the listening one with the name it is dialled by:");
    line(&format!("  farpipe cert issue server{dir} --san HOST"));
    line(&format!("  farpipe cert issue alice{dir}"));
    line("\nKeep the authority's key here: whoever has it can issue any name.");
    Ok(0)
}

fn issue(args: &IssueArgs, line: impl Fn(&str)) -> anyhow::Result<u8> {
    let mut hosts: Vec<SanType> = args
        .san
        .iter()
        .map(|name| said_host(name))
        .collect::<Result<_, _>>()?;
    if args.kind == Role::Relay && hosts.is_empty() {
        return Err(WithStatus::usage(
            "a relay is dialled: its certificate has to name its host",
            "--san relay.example.org",
        ));
    }
    let ca = Authority::load(&args.dir)?;
    let (domain, kind) = (ca.identity.domain(), args.kind.kind());
    let identity = Identity::new(domain, kind, &args.name).map_err(|error| {
        let hint = "a name such as alice, build-7 or db.example.org";
        WithStatus::usage(format!("'{}': {error}", args.name.escape_debug()), hint)
    })?;
    hosts.extend(args.kind.own_hosts(&args.name)?);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = leaf(&identity, hosts, args.days)?.signed_by(&key, &ca.issuer)?;
    let made = Made {
        cert: args.dir.join(format!("{}.pem", args.name)),
        key: args.dir.join(format!("{}-key.pem", args.name)),
    };
    made.write(certificate.der(), &key)?;
    let pin = Pin::of(certificate.der()).context("a certificate has a key")?;
    line(&format!(
        "made {} and its key {}: {identity}, good for {} days",
        made.cert.display(),
        made.key.display(),
        args.days
    ));
    line(&format!("its key is {pin}"));
    let files = format!(
        "--cert {} --key {} --ca {}",
        made.cert.display(),
        made.key.display(),
        ca.file.display()
    );
    for text in next(args, &files) {
        line(&text);
    }
    Ok(0)
}

/// What to type with a new certificate.
fn next(args: &IssueArgs, files: &str) -> Vec<String> {
    let host = args.san.first().map(|host| match host.contains(':') {
        true => format!("[{host}]"),
        false => host.clone(),
    });
    match (args.kind, host) {
        (Role::Relay, host) => {
            let host = host.unwrap_or_else(|| "HOST".to_owned());
            vec![
                "\nLet hosts register and be asked for:".to_owned(),
                format!("  farpipe relay --listen wss://0.0.0.0:7000 {files}"),
                format!("\nThe others know it as wss://{host}:7000."),
            ]
        }
        (Role::Agent, host) => {
            let mut next = vec![
                "\nRegister that host at a relay of the same authority:".to_owned(),
                format!("  farpipe agent wss://RELAY:7000 {files} --allow exec"),
            ];
            if let Some(host) = host {
                next.push(format!("\nOr listen as {host}:"));
                next.push(format!(
                    "  farpipe agent --listen wss://{host}:7000 {files} --allow exec"
                ));
            }
            next
        }
        (Role::Client, Some(host)) => vec![
            format!("\nListen as {host}:"),
            format!("  farpipe listen wss://{host}:7000 {files}"),
            "\nDial a listener of the same authority:".to_owned(),
            format!("  farpipe connect wss://HOST:7000 {files}"),
        ],
        (Role::Client, None) => vec![
            "\nIt names no host, so it is for dialling; --san HOST makes one to listen with."
                .to_owned(),
            "\nDial a listener of the same authority:".to_owned(),
            format!("  farpipe connect wss://HOST:7000 {files}"),
            "\nAsk for a host by name:".to_owned(),
            format!("  farpipe exec --relay wss://RELAY:7000 NAME {files} -- CMD"),
        ],
    }
}

/// An authority that `init` made, to issue or to revoke with.
struct Authority {
    file: PathBuf,
    /// Its certificate, DER.
    certificate: Vec<u8>,
    identity: Identity,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn load(dir: &Path) -> anyhow::Result<Self> {
        let file = dir.join(CA_FILE);
        let certificate = tls::read_certificate(&file).map_err(no_authority)?;
        let key = tls::read_private_key(&dir.join(CA_KEY_FILE)).map_err(no_authority)?;
        let key = KeyPair::try_from(key).context("the authority's key cannot be used")?;
        let identity = tls::identity_in_certificate(&certificate)
            .filter(|root| root.kind() == Kind::Authority)
            .with_context(|| format!("{}: `farpipe cert init` did not make it", file.display()))?;
        let params = authority(&identity, &key)?;
        // Its name is made of its key: the two would not fit together.
        if Pin::of(&certificate) != Pin::of(params.self_signed(&key)?.der()) {
            anyhow::bail!("{CA_KEY_FILE} is not the key of {}", file.display());
        }
        Ok(Self {
            file,
            certificate,
            identity,
            issuer: Issuer::new(params, key),
        })
    }
}

/// A certificate in memory for a listener whose clients know it by its pin: it needs no name.
pub(crate) fn self_signed() -> anyhow::Result<SelfSigned> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("farpipe listen");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    valid_for(&mut params, DAYS_MAX);
    let certificate = params.self_signed(&key)?;
    let own = SelfSigned::new(certificate.der().to_vec(), key.serialize_der());
    own.context("a certificate has a key")
}

fn authority_name(domain: &str) -> anyhow::Result<Identity> {
    Identity::new(domain, Kind::Authority, "root").map_err(|error| {
        let hint = "a domain such as example.org";
        WithStatus::usage(
            format!("--domain '{}': {error}", domain.escape_debug()),
            hint,
        )
    })
}

/// An authority as its name and key define it, always the same. The name has something of the key
/// in it: two authorities of one name would be told apart by wrong signatures only.
fn authority(identity: &Identity, key: &KeyPair) -> anyhow::Result<CertificateParams> {
    let digest = Sha256::digest(key.public_key_raw());
    let mark: String = digest
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("farpipe CA {} {mark}", identity.domain()));
    params.subject_alt_names = vec![uri(identity)?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, CA_DAYS);
    Ok(params)
}

fn leaf(identity: &Identity, hosts: Vec<SanType>, days: u32) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(identity.name());
    params.subject_alt_names = hosts;
    params.subject_alt_names.push(uri(identity)?);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, days);
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn uri(identity: &Identity) -> anyhow::Result<SanType> {
    Ok(SanType::URI(Ia5String::try_from(identity.to_string())?))
}

fn valid_for(params: &mut CertificateParams, days: u32) {
    let now = WallClock::System.now();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(SKEW);
    params.not_after = epoch + now + DAY * days;
}

/// A host that was said. An agent's own name comes with its kind: whoever else had it could stand in
/// for the agent.
fn said_host(name: &str) -> anyhow::Result<SanType> {
    let lower = name.to_ascii_lowercase();
    if lower.ends_with(AGENTS) || lower == AGENTS[1..] {
        return Err(WithStatus::usage(
            format!("--san '{}' is an agent's name", name.escape_debug()),
            "farpipe cert issue NAME --kind agent",
        ));
    }
    host(name)
}

/// A host name or address; patterns and lists are none.
fn host(name: &str) -> anyhow::Result<SanType> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A mistyped address: no name's last label is a number (RFC 1123 section 2.1).
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|b| b.is_ascii_digit());
    if name.len() > 253 || is_number || !name.split('.').all(is_label) {
        return Err(WithStatus::usage(
            format!(
                "--san '{}' is no host name and no address",
                name.escape_debug()
            ),
            "for example --san files.example.org --san 192.0.2.7; patterns are not issued",
        ));
    }
    Ok(SanType::DnsName(Ia5String::try_from(name)?))
}

/// Two files that belong together.
struct Made {
    cert: PathBuf,
    key: PathBuf,
}

impl Made {
    /// Writes both, or neither.
    fn write(&self, cert: &[u8], key: &KeyPair) -> anyhow::Result<()> {
        write_new(
            &self.key,
            0o600,
            &tls::to_pem("PRIVATE KEY", key.serialized_der()),
        )?;
        let written = write_new(&self.cert, 0o644, &tls::to_pem("CERTIFICATE", cert));
        if written.is_err() {
            // Ours, and of no use without the other.
            let _ = fs::remove_file(&self.key);
        }
        written
    }
}

fn write_new(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(mode).open(path);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(WithStatus::failure(
                format!("{} exists and is not overwritten", path.display()),
                Some("choose another name or --dir, or move it away".to_owned()),
            ));
        }
        opened => opened.with_context(|| format!("cannot make {}", path.display()))?,
    };
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn no_authority(error: FileError) -> anyhow::Error {
    let hint = error
        .hint()
        .unwrap_or("`farpipe cert init` makes an authority")
        .to_owned();
    WithStatus::failure(error.to_string(), Some(hint))
}

fn dir_flag(dir: &Path) -> String {
    if dir == Path::new("farpipe-certs") {
        String::new()
    } else {
        format!(" --dir {}", dir.display())
    }
}
