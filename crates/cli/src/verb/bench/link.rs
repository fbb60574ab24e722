//! `farpipe bench link`: what the way to a listener costs, measured through its echo.
//!
//! The streams are used directly, without the pipes around them: what is measured is the link.

use std::cell::Cell;
use std::fmt::Write as _;
use std::num::{NonZeroU32, NonZeroU64};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use farpipe_net::{
    Admission, Dial, LinkEvent, Opener, OpenerConfig, SendStream, SessionEnd, TcpDial,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::far::{OK, Way, request};
use super::spread::{Spread, shown};
use super::stream::{self, Arriving};
use super::{count, pattern, size};
use crate::exit::{self, WithStatus};
use crate::output;
use crate::verb::proxy::ProxyArgs;
use crate::verb::secure::{ConnectCertificates, Proves};
use crate::verb::session::{dialling, url};
use crate::verb::ticket;

/// Bytes of one echo.
const ECHO: usize = 64;
/// Echoes that are not counted.
const WARM_UP: u32 = 200;
/// How long the first echo may take: something else may stand at the other end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measure the way to a `farpipe listen --keep URL 'exec:farpipe bench far'`
///
/// Start that at the other end first; it sends back what comes, as exec:cat does, which will do for
/// all but the directions alone. Measured are the time until
/// a session is there, and until its first byte is back (which starts a `cat`), anew each time and
/// with a TLS session that is resumed; round trips of 64 bytes, one after the other; and the bytes a
/// second that go there and come back at once, and in each direction alone. A link that is lost ends it: it would be measured.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the listener is: wss://HOST:PORT[/PATH] or fps://HOST:PORT; on this host also ws:// or
    /// fp://
    url: String,
    /// How many sessions are set up for a figure
    #[arg(long, value_name = "N", value_parser = count, default_value = "20")]
    setups: NonZeroU32,
    /// How many round trips are measured
    #[arg(long, value_name = "N", value_parser = count, default_value = "5000")]
    echoes: NonZeroU32,
    /// How much goes there and comes back, at least 1MiB
    #[arg(long, value_name = "BYTES", value_parser = size, default_value = "128MiB")]
    size: NonZeroU64,
    /// Print every figure as one JSON object instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tls: ConnectCertificates,
    #[command(flatten)]
    proxy: ProxyArgs,
}

/// Times from the start of a dial.
#[derive(Debug, Default)]
struct SetUps {
    /// Until the session is there.
    session: Vec<Duration>,
    /// Until its first byte is back.
    byte: Vec<Duration>,
}

/// All figures.
#[derive(Debug)]
struct Figures {
    url: String,
    cold: [Spread; 2],
    /// With TLS only.
    resumed: Option<[Spread; 2]>,
    echo: Spread,
    size: u64,
    /// Both directions at once.
    took: Duration,
    /// There alone and back alone, if the other end knows how.
    alone: Option<[Duration; 2]>,
}

pub(super) async fn run(args: &Args) -> anyhow::Result<u8> {
    let url = url(&args.url)?;
    let proxy = args.proxy.resolve(&url)?;
    if std::env::var_os(ticket::VARIABLE).is_some_and(|text| !text.is_empty()) {
        return Err(WithStatus::usage(
            "a ticket is good for one session, and this makes many",
            "give both sides certificates: --cert, --key and --ca; `farpipe cert` makes them",
        ));
    }
    let admission = Admission::shown(url.scheme, None, None);
    // What TLS remembers lives in what dials: a fresh one knows nothing.
    let fresh = || anyhow::Ok(args.tls.dial(url.clone(), None)?.through(proxy.clone()));
    let mut cold = SetUps::default();
    for _ in 0..args.setups.get() {
        let dial = fresh()?;
        session(&dial, admission, async |near| near.set_up(&mut cold).await).await?;
    }
    let dial = fresh()?;
    let mut warm = SetUps::default();
    let rounds = if url.scheme.is_tls() {
        args.setups.get()
    } else {
        0
    };
    // The first has nothing to resume.
    for _ in 0..rounds + 1 {
        session(&dial, admission, async |near| near.set_up(&mut warm).await).await?;
    }
    let measured = session(&dial, admission, async |near| {
        let echo = near.echoes(args.echoes.get()).await?;
        let took = near.bulk(args.size.get()).await?;
        Ok((echo, took))
    });
    let (echo, took) = measured.await?;
    let alone = async |way| {
        session(&dial, admission, async |near| {
            near.alone(way, args.size.get()).await
        })
        .await
    };
    let alone = match alone(Way::Up).await? {
        Some(up) => alone(Way::Down).await?.map(|down| [up, down]),
        None => None,
    };
    let resumed = (rounds > 0).then(|| {
        warm.session.remove(0);
        warm.byte.remove(0);
        [Spread::of(warm.session), Spread::of(warm.byte)]
    });
    let figures = Figures {
        url: url.to_string(),
        cold: [Spread::of(cold.session), Spread::of(cold.byte)],
        resumed,
        echo,
        size: args.size.get(),
        took,
        alone,
    };
    let text = if args.json {
        format!("{:#}\n", figures.to_json())
    } else {
        figures.to_table()
    };
    exit::printed(output::data(text.as_bytes()))
}

/// The near end of a session whose far end is a `cat`.
struct Near {
    send: SendStream,
    recv: Arriving,
    /// Bytes that came together with the answer to a request.
    ahead: usize,
    began: Instant,
    /// When the session was there.
    connected: Rc<Cell<Option<Instant>>>,
}

/// Runs `work` on a session of its own, and ends it in order.
async fn session<T>(
    dial: &TcpDial,
    admission: Admission,
    work: impl AsyncFnOnce(&mut Near) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut config = OpenerConfig::new(dialling(admission, Proves::Usual)?);
    config.resume_for = Duration::ZERO;
    let (sender, mut events) = mpsc::channel(4);
    config.events = Some(sender);
    let opener = Opener::new(config);
    let handle = opener.handle();
    let stream = handle.open("").context("no stream can be opened")?;
    let mut near = Near {
        send: stream.send,
        recv: Arriving::new(stream.recv),
        ahead: 0,
        began: Instant::now(),
        connected: Rc::default(),
    };
    let connected = Rc::clone(&near.connected);
    let lost = async {
        loop {
            match events.recv().await {
                Some(LinkEvent::Connected { .. }) => connected.set(Some(Instant::now())),
                Some(LinkEvent::Lost { why, .. }) => break why,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    };
    let working = async {
        let worked = match work(&mut near).await {
            Ok(worked) => near.finish().await.map(|()| worked),
            Err(error) => Err(error),
        };
        match &worked {
            Ok(_) => handle.finish_opening(),
            Err(_) => handle.end(SessionEnd::Closed),
        }
        worked
    };
    let both = async { tokio::join!(opener.run(dial), working) };
    let url = dial.peer();
    tokio::select! {
        // Looks first: the time that it notes is measured.
        biased;
        why = lost => bail!("{url}: the link was lost: {why}"),
        ended = both => match ended {
            // The session's own end says more than what it did to the work.
            (Err(end), _) if end != SessionEnd::Closed => {
                let hint = format!("at the other end: farpipe listen --keep {url} 'exec:farpipe bench far'");
                Err(WithStatus::failure(end.to_string(), Some(hint)))
            }
            (_, worked) => worked,
        },
    }
}

impl Near {
    /// Waits for the session and for its first byte to come back.
    async fn set_up(&mut self, times: &mut SetUps) -> anyhow::Result<()> {
        stream::send(&mut self.send, b"x").await?;
        self.first(b"x").await?;
        let byte = self.began.elapsed();
        let connected = self.connected.get().context("no session")?;
        times.session.push(connected - self.began);
        times.byte.push(byte);
        Ok(())
    }

    /// Waits for the first echo, which must be this.
    async fn first(&mut self, sent: &[u8]) -> anyhow::Result<()> {
        let coming = tokio::time::timeout(PATIENCE, self.expect(sent)).await;
        coming.unwrap_or_else(|_| bail!("no echo within 10 s: the other end must be exec:cat"))
    }

    /// Waits until exactly this has come back.
    async fn expect(&mut self, mut sent: &[u8]) -> anyhow::Result<()> {
        while !sent.is_empty() {
            let came = self.recv.next().await?;
            let came = came.context("the other end sent nothing back: it must be exec:cat")?;
            sent = sent
                .strip_prefix(&came[..])
                .context("what came back is not what was sent: the other end must be exec:cat")?;
        }
        Ok(())
    }

    async fn echoes(&mut self, count: u32) -> anyhow::Result<Spread> {
        let sent = pattern(ECHO);
        stream::send(&mut self.send, &sent).await?;
        self.first(&sent).await?;
        let mut times = Vec::new();
        for turn in 0..WARM_UP + count {
            let began = Instant::now();
            stream::send(&mut self.send, &sent).await?;
            self.expect(&sent).await?;
            if turn >= WARM_UP {
                times.push(began.elapsed());
            }
        }
        Ok(Spread::of(times))
    }

    /// Sends `size` bytes and takes them back meanwhile.
    async fn bulk(&mut self, size: u64) -> anyhow::Result<Duration> {
        let block = pattern(BLOCK);
        let began = Instant::now();
        let there = push(&mut self.send, &block, size);
        let back = pull(&mut self.recv, size);
        tokio::try_join!(there, back)?;
        Ok(began.elapsed())
    }

    /// Moves `size` bytes in one direction; `None` if the other end is a mere echo.
    async fn alone(&mut self, way: Way, size: u64) -> anyhow::Result<Option<Duration>> {
        let block = pattern(BLOCK);
        let asked = request(way, size);
        stream::send(&mut self.send, asked.as_bytes()).await?;
        let coming = tokio::time::timeout(PATIENCE, self.is_granted(asked.as_bytes())).await;
        if !coming.context("no answer within 10 s")?? {
            return Ok(None);
        }
        let began = Instant::now();
        match way {
            Way::Up => {
                push(&mut self.send, &block, size).await?;
                self.expect(OK).await?;
            }
            Way::Down => {
                let ahead = self.ahead as u64;
                pull(&mut self.recv, size.saturating_sub(ahead)).await?;
            }
        }
        Ok(Some(began.elapsed()))
    }

    /// Whether a request is answered, not sent back.
    async fn is_granted(&mut self, asked: &[u8]) -> anyhow::Result<bool> {
        let mut came = Vec::new();
        loop {
            let piece = self.recv.next().await?;
            came.extend_from_slice(&piece.context("the other end sent nothing back")?);
            if let Some(more) = came.strip_prefix(OK) {
                self.ahead = more.len();
                return Ok(true);
            }
            if came == asked {
                return Ok(false);
            }
            if !OK.starts_with(&came) && !asked.starts_with(&came) {
                bail!("what came back is neither an answer nor an echo");
            }
        }
    }

    /// Ends the stream both ways.
    async fn finish(&mut self) -> anyhow::Result<()> {
        self.send.finish();
        if self.recv.next().await?.is_some() {
            bail!("more came back than was sent");
        }
        self.recv.done();
        Ok(())
    }
}

/// Bytes that are given to a stream at once.
const BLOCK: usize = 1 << 20;

/// Sends `size` bytes, `block` after `block`.
async fn push(send: &mut SendStream, block: &[u8], size: u64) -> anyhow::Result<()> {
    let mut left = size;
    while left > 0 {
        let len = left.min(block.len() as u64);
        let part = &block[..usize::try_from(len).unwrap_or(block.len())];
        stream::send(send, part).await?;
        left -= len;
    }
    Ok(())
}

/// Takes exactly `size` bytes.
async fn pull(recv: &mut Arriving, size: u64) -> anyhow::Result<()> {
    let mut left = size;
    while left > 0 {
        let came = recv.next().await?.context("the other end ended early")?;
        let Some(rest) = left.checked_sub(came.len() as u64) else {
            bail!("more came back than was asked for");
        };
        left = rest;
    }
    Ok(())
}

impl Figures {
    fn megabytes_per_second(&self) -> f64 {
        self.rate(self.took)
    }

    fn rate(&self, took: Duration) -> f64 {
        self.size as f64 / 1e6 / took.as_secs_f64()
    }

    fn set_ups(&self) -> impl Iterator<Item = (&'static str, &'static str, &Spread)> {
        let all = [
            ("cold", Some(&self.cold)),
            ("TLS resumed", self.resumed.as_ref()),
        ];
        all.into_iter().flat_map(|(how, both)| {
            let both = both.into_iter().flatten();
            both.zip(["session", "first byte back"])
                .map(move |(spread, what)| (what, how, spread))
        })
    }

    fn to_table(&self) -> String {
        let mut out = format!(
            "{}\n\n{:32}{:>10}{:>10}{:>10}{:>10}\n",
            self.url, "", "p50", "p99", "p99.9", "max"
        );
        let mut row = |name: String, spread: &Spread| {
            let parts = [500, 990, 999, 1000].map(|part| shown(spread.per_mille(part)));
            let [p50, p99, p999, max] = parts;
            let _ = writeln!(out, "{name:32}{p50:>10}{p99:>10}{p999:>10}{max:>10}");
        };
        for (what, how, spread) in self.set_ups() {
            row(format!("{what}, {how}"), spread);
        }
        row(format!("round trip of {ECHO} B"), &self.echo);
        let rate = self.megabytes_per_second();
        let mib = self.size >> 20;
        let _ = writeln!(
            out,
            "\n{mib} MiB there and back at once: {rate:.0} MB/s each way, {:.0} MB/s together",
            2.0 * rate
        );
        let _ = match self.alone.map(|both| both.map(|took| self.rate(took))) {
            Some([up, down]) => writeln!(
                out,
                "{mib} MiB one way alone: {up:.0} MB/s there, {down:.0} MB/s back"
            ),
            None => writeln!(
                out,
                "one way alone: not measured; for that the other end is 'exec:farpipe bench far'"
            ),
        };
        out
    }

    fn to_json(&self) -> Value {
        let set_up = |both: &[Spread; 2]| json!({ "session": both[0].to_json(), "first_byte": both[1].to_json() });
        json!({
            "bench": "link",
            "url": self.url,
            "set_up": {
                "cold": set_up(&self.cold),
                "tls_resumed": self.resumed.as_ref().map(set_up),
            },
            "round_trip_bytes": ECHO,
            "round_trip": self.echo.to_json(),
            "echoed_bytes": self.size,
            "echoed_s": self.took.as_secs_f64(),
            "mb_per_s_each_way": self.megabytes_per_second(),
            "mb_per_s_there_alone": self.alone.map(|[up, _]| self.rate(up)),
            "mb_per_s_back_alone": self.alone.map(|[_, down]| self.rate(down)),
        })
    }
}
