//! What the workloads run in: lanes of a relay and an agent, with a fault proxy on every way.
//!
//! On the first lane both are killed and started again, on the same port. On the second they are
//! spared, so that what a process loses in hours can be seen; it is cut and paused as the first.

use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use farpipe_faultproxy::{Arm, Config, Cut, Dir, Fault, How, Plan, Proxy, When};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::sync::Mutex;

use crate::bytes::Draw;
use crate::process::{self, Held, Place};
use crate::report::Report;

/// The name of every agent: each has a relay of its own.
pub(crate) const AGENT: &str = "soak";
/// The beat of all processes: silence is noticed after three.
pub(crate) const BEAT: &str = "1s";
/// How long sessions whose other end was killed are kept.
pub(crate) const KEPT: &str = "1m";
/// Descriptors that a long-lived process may have: a leak ends in errors.
const DESCRIPTORS_MAX: &str = "512";

/// A relay or an agent, over its lives.
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) name: String,
    args: Vec<String>,
    child: Mutex<Option<Child>>,
    kills: AtomicU64,
}

impl Role {
    fn new(name: String, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self {
            name,
            args,
            child: Mutex::default(),
            kills: AtomicU64::new(0),
        }
    }

    /// Starts it; where the kernel and the user's rights allow it, with a monotonic clock that is
    /// `shift` ahead, as after a reboot of its host: nothing of it may be told to another host.
    pub(crate) async fn start(&self, place: &Place, shift: Option<u64>) -> Result<()> {
        let mut command = place.command("prlimit", &format!("{}.log", self.name))?;
        command.arg(format!("--nofile={DESCRIPTORS_MAX}"));
        if let Some(seconds) = shift {
            command.args(["unshare", "--time", "--fork", "--kill-child"]);
            command.args([
                format!("--monotonic={seconds}"),
                format!("--boottime={seconds}"),
            ]);
        }
        command.arg(&place.farpipe).args(&self.args);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        *self.child.lock().await = Some(child);
        Ok(())
    }

    /// How often it was killed: who was served meanwhile may have failed.
    pub(crate) fn kills(&self) -> u64 {
        self.kills.load(Ordering::SeqCst)
    }

    /// kill -9, and its end awaited.
    pub(crate) async fn kill(&self) -> Result<()> {
        self.kills.fetch_add(1, Ordering::SeqCst);
        let mut child = self.child.lock().await;
        if let Some(mut child) = child.take() {
            // With `unshare` in between the end of that one is the end of its child.
            process::signal(&child, Signal::KILL);
            child.wait().await?;
        }
        Ok(())
    }

    /// Stopped for so long; with another clock it is `unshare` that stands still, and it does not.
    pub(crate) async fn pause(&self, time: Duration) {
        let child = self.child.lock().await;
        if let Some(child) = child.as_ref().filter(|child| child.id().is_some()) {
            process::signal(child, Signal::STOP);
            tokio::time::sleep(time).await;
            process::signal(child, Signal::CONT);
        }
    }

    /// Whether it has ended by itself, which none should.
    pub(crate) async fn ended(&self) -> Option<i32> {
        let mut child = self.child.lock().await;
        child.as_mut()?.try_wait().ok()?.map(process::status)
    }

    pub(crate) async fn held(&self) -> Option<Held> {
        Held::of(self.child.lock().await.as_ref()?.id()?)
    }
}

/// A relay, an agent, and the ways to the relay: one for each workload, one for the agent.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) relay: Role,
    pub(crate) agent: Role,
    pub(crate) relay_addr: SocketAddr,
    pub(crate) is_spared: bool,
    pub(crate) ways: Vec<(&'static str, Proxy)>,
}

impl Lane {
    /// The relay's URL as this workload reaches it.
    pub(crate) fn url(&self, work: &str) -> String {
        let way = self.ways.iter().find(|(name, _)| *name == work);
        let addr = way.map_or(self.relay_addr, |(_, proxy)| proxy.addr());
        format!("ws://{addr}")
    }
}

/// All of it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) seed: u64,
    pub(crate) report: Report,
    pub(crate) lanes: Vec<Lane>,
    runs: AtomicU64,
}

/// Through a relay: long enough for three handshakes on a busy machine, else all that is seen is waits
/// between attempts, which double as long as nothing moves.
const CLIENT_LIVES: Lives = Lives {
    bytes: 8_000..=400_000,
    millis: 60..=600,
};
/// An agent that is away is refused to new callers, so it is there most of the time. So is a pipe's writer:
/// if neither end's link lived for long, both would wait half a minute between attempts and never meet.
const AGENT_LIVES: Lives = Lives {
    bytes: 1_000_000..=8_000_000,
    millis: 2_000..=15_000,
};

impl World {
    pub(crate) async fn start(place: Place, seed: u64) -> Result<Arc<Self>> {
        let mut lanes = Vec::new();
        for (number, is_spared) in [false, true].into_iter().enumerate() {
            lanes.push(Lane::start(&place, seed, number, is_spared).await?);
        }
        Ok(Arc::new(Self {
            place,
            seed,
            report: Report::default(),
            lanes,
            runs: AtomicU64::new(0),
        }))
    }

    /// A number no other run of this soak has.
    pub(crate) fn next_run(&self) -> u64 {
        self.runs.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Cuts with bytes in flight of the proxies that live as long as the soak.
    pub(crate) fn in_flight(&self) -> u64 {
        let ways = self.lanes.iter().flat_map(|lane| &lane.ways);
        ways.map(|(_, proxy)| proxy.stats().cuts_with_bytes_in_flight)
            .sum()
    }

    /// Kills all roles, stops all proxies and counts what they did.
    pub(crate) async fn stop(self) -> Result<Report> {
        for lane in self.lanes {
            lane.agent.kill().await?;
            lane.relay.kill().await?;
            for (work, proxy) in lane.ways {
                let stats = proxy.stop().await;
                self.report
                    .cuts(work, stats.cuts(), stats.cuts_with_bytes_in_flight);
            }
        }
        Ok(self.report)
    }
}

impl Lane {
    async fn start(place: &Place, seed: u64, number: usize, is_spared: bool) -> Result<Self> {
        let relay_addr = free_port()?;
        let mut ways = Vec::new();
        for (way, work) in [
            "exec", "named", "copy", "tail", "forward", "agent", "writer",
        ]
        .into_iter()
        .enumerate()
        {
            let lives = if matches!(work, "agent" | "writer") {
                AGENT_LIVES
            } else {
                CLIENT_LIVES
            };
            let seed = seed.wrapping_add((number * 100 + way) as u64);
            ways.push((work, cutting(relay_addr, seed, lives)?));
        }
        let listen = format!("ws://{relay_addr}");
        let relay = ["relay", "--listen", &listen, "--heartbeat", BEAT];
        let mut lane = Self {
            relay: Role::new(format!("relay{number}"), &relay),
            agent: Role::new(String::new(), &[]),
            relay_addr,
            is_spared,
            ways,
        };
        let url = lane.url("agent");
        let agent = [
            "agent",
            "--name",
            AGENT,
            "--allow",
            "all",
            "--no-reuse",
            "--heartbeat",
            BEAT,
            "--resume-for",
            KEPT,
            &url,
        ];
        lane.agent = Role::new(format!("agent{number}"), &agent);
        lane.relay.start(place, None).await?;
        for _ in 0..1000 {
            if TcpStream::connect(relay_addr).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        lane.agent.start(place, None).await?;
        Ok(lane)
    }
}

/// A port that nobody has: it stays the relay's over all its lives.
pub(crate) fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    listener
        .local_addr()
        .context("a listener without an address")
}

/// A way whose connections are cut when so many bytes have passed in one direction, or so many
/// milliseconds: whichever comes first. Bytes do not depend on how busy the
/// machine is, and a cut there is one with bytes in flight.
pub(crate) fn cutting(to: SocketAddr, seed: u64, lives: Lives) -> Result<Proxy> {
    // Half-open ways and silence cost three beats each: they are chaos's, not every connection's.
    let how = || [Cut::Reset, Cut::Reset, Cut::Fin].map(How::Cut).to_vec();
    let fault = |when| Fault { when, how: how() };
    let at = |dir| {
        fault(When::Byte {
            dir,
            at: lives.bytes.clone(),
        })
    };
    let (from, to_millis) = lives.millis.into_inner();
    let mut config = Config::new(to);
    config.seed = seed;
    config.plan = Plan {
        faults: vec![
            at(Dir::Up),
            at(Dir::Down),
            fault(When::Lifetime(
                Duration::from_millis(from)..=Duration::from_millis(to_millis),
            )),
        ],
        // All of them: the first one cuts.
        arm: Arm::All,
        ..Plan::default()
    };
    Proxy::start(config).context("cannot start a proxy")
}

/// How long connections live.
#[derive(Debug, Clone)]
pub(crate) struct Lives {
    pub(crate) bytes: RangeInclusive<u64>,
    pub(crate) millis: RangeInclusive<u64>,
}

/// A pause between two things that are tried again.
pub(crate) async fn a_while(draw: &mut Draw, millis: std::ops::Range<u64>) {
    let time = millis.start + draw.below(millis.end - millis.start);
    tokio::time::sleep(Duration::from_millis(time)).await;
}
