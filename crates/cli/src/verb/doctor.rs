//! `farpipe doctor`: dials a URL as `connect` would, and says how far that leads, and what to do
//! where it ends; for the name of an agent so to each relay, and through it to the agent.
//!
//! Each step is a line on stdout; what is wrong and what helps goes to stderr, as everywhere. At a
//! URL it ends before ATTACH: a one-shot listener, or a ticket, is as good afterwards as before.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farpipe_net::carrier::CarrierError;
use farpipe_net::carrier::ws::upgrade::{StatusAnswer, UpgradeError};
use farpipe_net::tls::{CertificateFacts, Handshaken, Pin, TlsError};
use farpipe_net::{
    Admission, Blame, CheckupError, Granted, HandshakeError, HostPort, PORTAL, Proxy, ProxyError,
    Seen, Url, WallClock, Watch, Welcomed, checkup, hosts,
};
use farpipe_proto::link::{LinkError, SecretId};
use farpipe_proto::wire::control::Host;

use super::ping;
use super::route::{Leg, RouteArgs, check_name};
use super::session::{rough, url};
use crate::exit::{self, WithStatus};
use crate::output;

/// Explain step by step whether a URL or an agent can be reached, and what to do if not
///
/// Looks the name up, connects, shakes hands: TLS, WebSocket, farpipe; with a proxy, whose name and
/// port come first, the connection is what it answers to CONNECT or in SOCKS 5. At a URL it stops before
/// it asks for a session, so nothing is used up at the listener; that a one-shot listener serves
/// another session already shows only to `connect`.
///
/// For an agent's name it goes so to each relay of the list, asks whether the relay knows the
/// agent, and whether the agent answers. Exit status 0 only if all steps work.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the listener or relay is, as for `farpipe connect`; or the name of an agent
    url: String,
    #[command(flatten)]
    route: RouteArgs,
}

/// How long an agent may take for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// A step of the way; those that a URL has come in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Name,
    ProxyName,
    ProxyTcp,
    /// The proxy has been asked for a connection to the listener.
    Proxy,
    Tcp,
    Tls,
    /// The server has judged this side's certificate, which in TLS 1.3 shows afterwards.
    Certificate,
    Upgrade,
    Farpipe,
    /// The relay knows the agent.
    Relay,
    /// The agent answers.
    Agent,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::ProxyName => "proxy-name",
            Self::ProxyTcp => "proxy-tcp",
            Self::Proxy => "proxy",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Certificate => "certificate",
            Self::Upgrade => "upgrade",
            Self::Farpipe => "farpipe",
            Self::Relay => "relay",
            Self::Agent => "agent",
        }
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<u8> {
    if args.url.contains("://") {
        let leg = args.route.listener(&args.url)?;
        let report = look_at(&args.url, leg).await?;
        return report.conclude(Ok(()));
    }
    let host = &args.url;
    check_name(host)?;
    let relays = args.route.relays(&format!("which relay knows {host}?"))?;
    let mut status = 0;
    for (number, relay) in relays.iter().enumerate() {
        if relays.len() > 1 {
            let line = format!("{}{relay}\n", if number > 0 { "\n" } else { "" });
            if let Err(error) = output::data(line.as_bytes()) {
                return exit::printed(Err(error));
            }
        }
        let leg = args.route.relay(relay)?;
        let looked = match look_at(relay, leg).await {
            Ok(report) => {
                let asked = args.ask_for(host, relay, &report).await;
                report.conclude(asked)
            }
            Err(error) => Err(error),
        };
        match looked {
            Ok(0) => {}
            Ok(other) => return Ok(other),
            // The others may do better, and are looked at, too.
            Err(error) => {
                exit::failure(&error);
                status = exit::status_of(&error);
            }
        }
    }
    Ok(status)
}

/// The way to a URL, up to WELCOME.
async fn look_at(text: &str, leg: Leg) -> anyhow::Result<Report> {
    let url = url(text)?;
    let report = Report::new(&url, leg.proxy.as_ref());
    let told = report.clone();
    let watch = Watch::new(move |seen| told.see(seen));
    let greeting = leg.greeting()?;
    match checkup(&leg.dial.watched(watch), &greeting).await {
        Ok(welcomed) => {
            report.passed(Step::Farpipe, &welcome(&welcomed, leg.admission));
            Ok(report)
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

impl Args {
    /// From a relay on to an agent.
    async fn ask_for(&self, host: &str, relay: &str, report: &Report) -> anyhow::Result<()> {
        report.begin(Step::Relay);
        let leg = self.route.relay(relay)?;
        let greeting = leg.greeting()?;
        let way = self.route.by_name(host, &[relay.to_owned()])?;
        let known = match hosts(&leg.dial, &greeting).await {
            Ok(known) => known,
            Err(error) => {
                report.failed();
                let why = format!("{relay} does not say which agents it knows: {error}");
                return Err(WithStatus::failure(why, Some(NO_RELAY.to_owned())));
            }
        };
        let Some(found) = known.iter().find(|known| known.name == host) else {
            report.failed();
            let others = known.len();
            // Who asks for it hears what the relay remembers of it.
            let why = match ping::once(way, ANSWER).await {
                Err(end) => format!("{end}; {others} others are"),
                Ok(_) => format!("{relay} did not know {host} a moment ago"),
            };
            return Err(WithStatus::failure(
                why,
                Some(format!(
                    "see that `farpipe agent {relay} --name {host}` runs there, and what it says"
                )),
            ));
        };
        report.passed(Step::Relay, &described(found));
        report.begin(Step::Agent);
        match ping::once(way, ANSWER).await {
            Ok(Some(took)) => {
                report.passed(
                    Step::Agent,
                    &format!("{host} answers within {}", shown(took)),
                );
                Ok(())
            }
            Ok(None) => {
                report.failed();
                let why = format!("{host} does not answer, though {relay} has a link to it");
                let hint = "is the agent stopped, or its host overloaded? See there";
                Err(WithStatus::failure(why, Some(hint.to_owned())))
            }
            Err(end) => {
                report.failed();
                let hint = "see what the agent says: farpipe agent -v";
                Err(WithStatus::failure(end.to_string(), Some(hint.to_owned())))
            }
        }
    }
}

fn described(host: &Host) -> String {
    let tags = match host.tags.as_slice() {
        [] => String::new(),
        tags => format!("; tags {}", tags.join(", ")),
    };
    let Host {
        name,
        up_ms,
        sessions,
        ..
    } = host;
    format!(
        "knows {name}: up {}, {sessions} sessions{tags}",
        rough(*up_ms)
    )
}

fn welcome(welcomed: &Welcomed, admission: Admission) -> String {
    let by = match admission {
        Admission::LoopbackSecret => "it knows this user's loopback secret",
        Admission::ClientCertificate => "it lets this side in by its certificate",
        Admission::Ticket => "it knows the ticket, which is still to be used",
        Admission::Token => {
            "it knows the token; whether that is still good is seen when it is used"
        }
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
    port: u16,
    /// The step that is being taken.
    step: Step,
    since: Instant,
    has_proxy: bool,
    has_tls: bool,
    has_upgrade: bool,
    /// What helps, told by the step that failed.
    advice: Option<String>,
    /// Why not all of it could be written.
    unwritten: Option<io::Error>,
}

impl Report {
    fn new(url: &Url, proxy: Option<&Proxy>) -> Self {
        let resolves = proxy.is_some_and(|proxy| proxy.resolves(url));
        Self(Arc::new(Mutex::new(State {
            host: url.host.clone(),
            port: url.port,
            step: if resolves {
                Step::ProxyName
            } else {
                Step::Name
            },
            has_proxy: proxy.is_some(),
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
            Seen::ProxyResolved { host, addresses } => {
                self.passed(Step::ProxyName, &resolved(host, addresses));
            }
            Seen::ProxyConnected(address) => {
                // One address of the listener after the other; the first time tells it.
                let is_news = self.lock().step == Step::ProxyTcp;
                if is_news {
                    self.passed(Step::ProxyTcp, &format!("connected to {address}"));
                }
            }
            Seen::ProxyGranted(granted) => self.passed(Step::Proxy, &granted_words(granted)),
            Seen::NoProxy(error) => self.lock().no_proxy(error),
            Seen::Connected(address) => self.passed(Step::Tcp, &format!("connected to {address}")),
            Seen::Secured(told) => self.passed(Step::Tls, &secured(told)),
            Seen::Upgraded => self.passed(Step::Upgrade, "a WebSocket server that speaks farpipe"),
            Seen::NoTls(error) => self.lock().no_tls(error),
            Seen::NoUpgrade(error) => self.lock().no_upgrade(error),
        }
    }

    fn passed(&self, step: Step, facts: &str) {
        let mut state = self.lock();
        state.step = step;
        state.line("ok", facts);
        state.step = state.after(step);
    }

    /// A step behind those of the connection.
    fn begin(&self, step: Step) {
        let mut state = self.lock();
        state.step = step;
        state.since = Instant::now();
    }

    fn failed(&self) {
        self.lock().line("failed", "");
    }

    /// The status, unless a step failed.
    fn conclude(&self, ended: anyhow::Result<()>) -> anyhow::Result<u8> {
        ended?;
        let unwritten = self.lock().unwritten.take();
        unwritten.map_or_else(|| Ok(0), |error| exit::printed(Err(error)))
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
            Step::Name if self.has_proxy => Step::ProxyName,
            Step::Name => Step::Tcp,
            Step::ProxyName => Step::ProxyTcp,
            Step::ProxyTcp => Step::Proxy,
            Step::Proxy | Step::Tcp if self.has_tls => Step::Tls,
            Step::Proxy | Step::Tcp | Step::Tls | Step::Certificate if self.has_upgrade => {
                Step::Upgrade
            }
            Step::Proxy
            | Step::Tcp
            | Step::Tls
            | Step::Certificate
            | Step::Upgrade
            | Step::Farpipe => Step::Farpipe,
            Step::Relay | Step::Agent => Step::Agent,
        }
    }

    fn no_tls(&mut self, error: &io::Error) {
        if self.step > Step::Tls {
            self.step = Step::Certificate;
        }
        let advice = TlsError::of(error).and_then(TlsError::advice);
        self.advice = advice.map(str::to_owned);
    }

    fn no_proxy(&mut self, error: &ProxyError) {
        self.advice = error.usual_advice();
    }

    fn no_upgrade(&mut self, error: &UpgradeError) {
        self.advice = Some(match error {
            UpgradeError::Status(answer) => self.status_advice(answer),
            UpgradeError::Io(_) | UpgradeError::Cut | UpgradeError::Silent => BETWEEN.to_owned(),
            UpgradeError::NotHttp { .. } => ANOTHER.to_owned(),
            UpgradeError::NotFarpipe { .. } => ELSEWHERE.to_owned(),
            UpgradeError::NotWebSocket(_) => format!("{STRIPPED}; or {ELSEWHERE}"),
            _ => SAME.to_owned(),
        });
    }

    fn status_advice(&self, answer: &StatusAnswer) -> String {
        let from_farpipe = |text: &String| text.starts_with("This is a farpipe endpoint");
        let advice = match (answer.code, &answer.location) {
            // What stands for a while says "found" or "temporary"; a server that has moved says so.
            (302 | 303 | 307, Some(location)) => {
                return format!("{PORTAL}; if {location} is where farpipe is, give that");
            }
            // Some login pages say that they are for good.
            (_, Some(location)) if !self.is_here(location) => {
                return format!(
                    "if farpipe has moved to {location}, give that, with wss:// in the place of \
                     https://; if it is a login page: {PORTAL}"
                );
            }
            (_, Some(_)) => "give the URL that it names, with wss:// in the place of https://",
            (511, _) => PORTAL,
            (407, _) => "the proxy on the way wants a login",
            (401 | 403, _) => "it wants a login, or refuses the path: ask whoever runs it",
            (404, _) => "see that the path is right, and that the proxy there knows it",
            // The request said Upgrade when it left.
            (426, _) => STRIPPED,
            (400, _) if answer.text.as_ref().is_some_and(from_farpipe) => STRIPPED,
            (500.., _) if answer.from_proxy => {
                "the proxy is there and what is behind it is not: start `farpipe listen` there, and \
                 see where the proxy sends this path"
            }
            (500.., _) => "the server is in trouble: see its log",
            (200..300, _) if answer.is_page => {
                return format!("{PORTAL}; if it is a web server of your own, {WEB}");
            }
            _ => return format!("a web server answers, not farpipe: {WEB}"),
        };
        advice.to_owned()
    }

    /// Whether a URL leads to the host and port that were dialled.
    fn is_here(&self, location: &str) -> bool {
        let Some((scheme, rest)) = location.split_once("://") else {
            return true;
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let usual = match scheme {
            "https" | "wss" => 443,
            _ => 80,
        };
        let there = authority
            .parse()
            .or_else(|_| format!("{authority}:{usual}").parse::<HostPort>());
        there.is_ok_and(|there| there.host == self.host && there.port == self.port)
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
            Step::Name | Step::ProxyName => {
                "see that the host is spelled as it is known: `getent hosts HOST`"
            }
            Step::Proxy | Step::ProxyTcp | Step::Tcp => {
                "see that the host is up and the port right; a firewall that drops what it does not \
                 know looks like this, too"
            }
            Step::Tls => "something else listens there, or something between cuts TLS",
            Step::Certificate => return None,
            Step::Upgrade => BETWEEN,
            Step::Farpipe => SAME,
            // They say it themselves.
            Step::Relay | Step::Agent => return None,
        };
        Some(advice.to_owned())
    }
}

const NO_RELAY: &str =
    "is it a relay? `farpipe relay` is one, `farpipe listen` and `farpipe agent` are not";
const BETWEEN: &str = "something between may not let WebSocket pass: a proxy, or a firewall; wss:// on \
                       port 443 passes most";
const SAME: &str = "is it a farpipe, and the same one? `farpipe --version` tells at both ends";

const ANOTHER: &str = "another program listens on that port: give the one of `farpipe listen`; one on \
                       fp:// or fps:// is dialled so";
const ELSEWHERE: &str = "another server answers there: see that host, port and path are right";
const STRIPPED: &str = "a proxy on the way strips the upgrade: let it pass the headers Upgrade and \
                        Connection on, in HTTP/1.1";
const WEB: &str = "see that host, port and path are right, and that a proxy there passes the upgrade \
                   on (headers Upgrade and Connection)";

fn granted_words(granted: &Granted) -> String {
    let Granted {
        answer,
        to,
        is_page,
    } = granted;
    let page = if *is_page { ", and a web page" } else { "" };
    format!("answers {answer} for {to}{page}")
}

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

fn handshake_advice(error: &HandshakeError) -> &'static str {
    match error {
        HandshakeError::Link(LinkError::PeerUnproven(SecretId::Loopback)) => {
            "run both as the same user of this host; between users or hosts use wss://"
        }
        HandshakeError::Link(LinkError::PeerUnproven(SecretId::Ticket(_))) => {
            "copy the newest ticket that `farpipe listen` made"
        }
        HandshakeError::Link(LinkError::PeerUnproven(SecretId::Token(_))) => {
            "ask whoever issued the token for another"
        }
        HandshakeError::Link(LinkError::Refused(_)) | HandshakeError::Refused(_) => {
            "give the listener's newest ticket, a token, or a certificate of the authority that it names with \
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
