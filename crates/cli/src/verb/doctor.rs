//! `farpipe doctor`: dials a URL as `connect` would, and says how far that leads, and what to do
//! where it ends.
//!
//! Each step is a line on stdout; what is wrong and what helps goes to stderr, as everywhere. It
//! ends before ATTACH: a one-shot listener, or a ticket, is as good afterwards as before.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farpipe_net::carrier::CarrierError;
use farpipe_net::carrier::ws::upgrade::{StatusAnswer, UpgradeError};
use farpipe_net::tls::{CertificateFacts, Handshaken, Pin, TlsError};
use farpipe_net::{
    Admission, Blame, CheckupError, HandshakeError, Seen, Url, WallClock, Watch, Welcomed, checkup,
};
use farpipe_proto::link::LinkError;

use super::proxy::ProxyArgs;
use super::secure::ConnectTls;
use super::session::{dialling, url};
use crate::exit::{self, WithStatus};
use crate::output;

/// Explain step by step whether a `farpipe connect` to a URL would work, and what to do if not
///
/// Looks the name up, connects, shakes hands: TLS, WebSocket, farpipe. It stops before it asks for a
/// session, so nothing is used up at the listener; that a one-shot listener serves another session
/// already shows only to `connect`. Exit status 0 only if all steps work.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the listener is, as for `farpipe connect`
    url: String,
    #[command(flatten)]
    tls: ConnectTls,
    #[command(flatten)]
    proxy: ProxyArgs,
}

/// A step of the way; those that a URL has come in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Name,
    Tcp,
    Tls,
    /// The server has judged this side's certificate, which in TLS 1.3 shows afterwards.
    Certificate,
    Upgrade,
    Farpipe,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Certificate => "certificate",
            Self::Upgrade => "upgrade",
            Self::Farpipe => "farpipe",
        }
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<u8> {
    let url = url(&args.url)?;
    let ticket = args.tls.ticket(&url)?;
    let admission = Admission::shown(url.scheme, ticket.as_deref());
    let report = Report::new(&url);
    let told = report.clone();
    let watch = Watch::new(move |seen| told.see(seen));
    let dial = args
        .tls
        .dial(url.clone(), ticket.as_deref())?
        .through(args.proxy.resolve(&url)?)
        .watched(watch);
    let greeting = dialling(admission, ticket)?;
    match checkup(&dial, &greeting).await {
        Ok(welcomed) => {
            report.passed(Step::Farpipe, &welcome(&welcomed, admission));
            report
                .written()
                .map_or_else(|| Ok(0), |error| exit::printed(Err(error)))
        }
        Err(error) => {
            let message = match &error {
                CheckupError::Dial(error) => error.message.clone(),
                // fps: nothing is read before that could say so.
                CheckupError::Handshake(HandshakeError::Carrier(CarrierError::Io(error)))
                    if TlsError::of(error).is_some() =>
                {
                    report.see(Seen::NoTls(error));
                    format!("{url}: {error}")
                }
                CheckupError::Handshake(error) => format!("{url}: {error}"),
            };
            report.failed();
            Err(WithStatus::failure(message, report.advice(error)))
        }
    }
}

fn welcome(welcomed: &Welcomed, admission: Admission) -> String {
    let by = match admission {
        Admission::LoopbackSecret => "it knows this user's loopback secret",
        Admission::ClientCertificate => "it lets this side in by its certificate",
        Admission::Ticket => "it knows the ticket, which is still to be used",
    };
    let Welcomed { software, version } = welcomed;
    format!("{software}, protocol {version}; {by}")
}

/// What was met so far.
#[derive(Debug, Clone)]
struct Report(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    host: String,
    /// The step that is being taken.
    step: Step,
    since: Instant,
    has_tls: bool,
    has_upgrade: bool,
    /// What helps, told by the step that failed.
    advice: Option<String>,
    /// Why not all of it could be written.
    unwritten: Option<io::Error>,
}

impl Report {
    fn new(url: &Url) -> Self {
        Self(Arc::new(Mutex::new(State {
            host: url.host.clone(),
            step: Step::Name,
            since: Instant::now(),
            has_tls: url.scheme.is_tls(),
            has_upgrade: url.scheme.is_web_socket(),
            advice: None,
            unwritten: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self, seen: Seen<'_>) {
        match seen {
            Seen::Resolved(addresses) => {
                let found = resolved(&self.lock().host, addresses);
                self.passed(Step::Name, &found);
            }
            Seen::Connected(address) => self.passed(Step::Tcp, &format!("connected to {address}")),
            Seen::Secured(told) => self.passed(Step::Tls, &secured(told)),
            Seen::Upgraded => self.passed(Step::Upgrade, "a WebSocket server that speaks farpipe"),
            Seen::NoTls(error) => self.lock().no_tls(error),
            Seen::NoUpgrade(error) => {
                self.lock().advice = Some(upgrade_advice(error));
            }
        }
    }

    fn passed(&self, step: Step, facts: &str) {
        let mut state = self.lock();
        state.step = step;
        state.line("ok", facts);
        state.step = state.after(step);
    }

    fn failed(&self) {
        self.lock().line("failed", "");
    }

    fn written(&self) -> Option<io::Error> {
        self.lock().unwritten.take()
    }

    /// What to do about the step that failed.
    fn advice(&self, error: CheckupError) -> Option<String> {
        let mut state = self.lock();
        if let Some(advice) = state.advice.take() {
            return Some(advice);
        }
        match error {
            CheckupError::Dial(error) => error.advice.or_else(|| state.usual_advice(error.blame)),
            CheckupError::Handshake(error) => Some(handshake_advice(&error).to_owned()),
        }
    }
}

impl State {
    fn after(&self, step: Step) -> Step {
        match step {
            Step::Name => Step::Tcp,
            Step::Tcp if self.has_tls => Step::Tls,
            Step::Tcp | Step::Tls | Step::Certificate if self.has_upgrade => Step::Upgrade,
            Step::Tcp | Step::Tls | Step::Certificate | Step::Upgrade | Step::Farpipe => {
                Step::Farpipe
            }
        }
    }

    fn no_tls(&mut self, error: &io::Error) {
        if self.step > Step::Tls {
            self.step = Step::Certificate;
        }
        let advice = TlsError::of(error).and_then(TlsError::advice);
        self.advice = advice.map(str::to_owned);
    }

    fn line(&mut self, verdict: &str, facts: &str) {
        let took = shown(self.since.elapsed());
        let line = format!("{:<12}{verdict:<7}{took:>9}  {facts}", self.step.name());
        if let Err(error) = output::data(format!("{}\n", line.trim_end()).as_bytes()) {
            self.unwritten.get_or_insert(error);
        }
        self.since = Instant::now();
    }

    /// What helps where nothing is known but the step.
    fn usual_advice(&self, blame: Blame) -> Option<String> {
        let advice = match self.step {
            Step::Name if blame == Blame::Final => "write wss:// or fps://",
            Step::Name => "see that the host is spelled as it is known: `getent hosts HOST`",
            Step::Tcp => {
                "see that the host is up and the port right; a firewall that drops what it does not \
                 know looks like this, too"
            }
            Step::Tls => "something else listens there, or something between cuts TLS",
            Step::Certificate => return None,
            Step::Upgrade => BETWEEN,
            Step::Farpipe => SAME,
        };
        Some(advice.to_owned())
    }
}

const BETWEEN: &str = "something between may not let WebSocket pass: a proxy, or a firewall; wss:// on \
                       port 443 passes most";
const SAME: &str = "is it a farpipe, and the same one? `farpipe --version` tells at both ends";

fn resolved(host: &str, addresses: &[SocketAddr]) -> String {
    let found: Vec<_> = addresses.iter().map(|a| a.ip().to_string()).collect();
    if found == [host] {
        return format!("{host} is an address");
    }
    format!("{host} is {}", found.join(", "))
}

fn secured(told: &Handshaken) -> String {
    let der = told.certificate.as_deref().unwrap_or_default();
    let (Some(facts), Some(pin)) = (
        CertificateFacts::read(der, &WallClock::System),
        Pin::of(der),
    ) else {
        return "TLS 1.3".to_owned();
    };
    let CertificateFacts {
        subject,
        issuer,
        days_left,
    } = facts;
    format!("TLS 1.3 with {subject}, issued by {issuer}, good for {days_left} d; its key is {pin}")
}

fn upgrade_advice(error: &UpgradeError) -> String {
    let advice = match error {
        UpgradeError::Status(answer) => return status_advice(answer),
        UpgradeError::Io(_) | UpgradeError::Cut | UpgradeError::Silent => BETWEEN,
        UpgradeError::NotHttp { .. } => {
            "another program listens on that port: give the one of `farpipe listen`; one on fp:// or \
             fps:// is dialled so"
        }
        UpgradeError::NotFarpipe { .. } | UpgradeError::NotWebSocket(_) => {
            "another server answers there: see that host, port and path are right"
        }
        _ => SAME,
    };
    advice.to_owned()
}

fn status_advice(answer: &StatusAnswer) -> String {
    let advice = match (answer.code, &answer.location) {
        // What stands for a while says "found" or "temporary"; a server that has moved says so.
        (302 | 303 | 307, Some(location)) => {
            return format!(
                "a network that wants a login first answers so (a captive portal): open \
                 http://example.com/ in a browser, log in, and try again; if {location} is where \
                 farpipe is, give that"
            );
        }
        (511, _) => {
            "the network wants a login first (a captive portal): open http://example.com/ in a \
             browser, log in, and try again"
        }
        (_, Some(_)) => "give the URL that it names, with wss:// in the place of https://",
        (407, _) => "the proxy on the way wants a login",
        (401 | 403, _) => "it wants a login, or refuses the path: ask whoever runs it",
        (404, _) => "see that the path is right, and that the proxy there knows it",
        (500.., _) if answer.from_proxy => {
            "the proxy is there and what is behind it is not: start `farpipe listen` there, and see \
             where the proxy sends this path"
        }
        (500.., _) => "the server is in trouble: see its log",
        _ => {
            "a web server answers, not farpipe: see that host, port and path are right, and that a \
             proxy there passes the upgrade on (headers Upgrade and Connection)"
        }
    };
    advice.to_owned()
}

fn handshake_advice(error: &HandshakeError) -> &'static str {
    match error {
        HandshakeError::Link(LinkError::PeerUnproven { is_ticket: false }) => {
            "run both as the same user of this host; between users or hosts use wss://"
        }
        HandshakeError::Link(LinkError::PeerUnproven { is_ticket: true }) => {
            "copy the newest ticket that `farpipe listen` made"
        }
        HandshakeError::Link(LinkError::Refused(_)) | HandshakeError::Refused(_) => {
            "give the listener's newest ticket, or a certificate of the authority that it names with \
             --ca"
        }
        HandshakeError::Tls(_)
        | HandshakeError::TlsCut(_)
        | HandshakeError::Endless
        | HandshakeError::TimedOut
        | HandshakeError::Upgrade(_) => {
            "something else may listen there, or the network is very slow"
        }
        _ => SAME,
    }
}

fn shown(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1e3)
}
