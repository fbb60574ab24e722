//! `farpipe bench push`: the same messages pushed over a WebSocket and fetched over HTTP.
//!
//! All ways run at once, fed by one clock, so that each is given the very same moments. Everything
//! is in this process, on loopback, each way through a relay that counts its bytes: what is compared
//! is how long a message waits and what is said beside it, not how fast a network is.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use farpipe_faultproxy::{Config, Proxy};
use farpipe_net::{Acceptor, AcceptorConfig, Admission, Listener, Opener, OpenerConfig};
use farpipe_net::{TcpDial, Url};
use farpipe_proto::wire::control::Accept;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::pattern;
use super::spread::{Spread, shown};
use super::stream::{self, Arriving};
use crate::verb::secure::Proves;
use crate::verb::session::{dialling, listening};
use crate::{exit, output};

/// Compare WebSocket push with HTTP polling, on this host
///
/// Messages come at random moments; each goes to a reader that has a farpipe session over ws://, to
/// one that keeps a request waiting (long polling), and to two that ask a real HTTP/1.1 server every
/// 100 ms and every second, on one connection that is kept. Said are the times from a message's
/// birth to its reader, and the bytes both ways above TCP, with every handshake and without TLS.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many messages
    #[arg(long, value_name = "N", default_value = "300")]
    messages: NonZeroU32,
    /// How many of them come in a second, on average
    #[arg(long, value_name = "N", default_value = "10")]
    rate: NonZeroU32,
    /// How long a message is, in bytes
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = clap::value_parser!(u16).range(1..=32768))]
    size: u16,
    /// Print every figure as one JSON object instead
    #[arg(long)]
    json: bool,
}

/// How long the pollers sleep.
const INTERVALS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// The messages, as far as they have come.
#[derive(Debug)]
struct Feed {
    born: Mutex<Vec<Instant>>,
    count: watch::Sender<usize>,
    total: usize,
    size: usize,
}

impl Feed {
    /// Lets all messages come, in their time.
    async fn run(&self, rate: f64) {
        let mut at = tokio::time::Instant::now();
        for byte in pattern(self.total * 2).as_chunks::<2>().0 {
            // Exponential gaps: a rhythm of its own could fall in with a poller's.
            let chance = (f64::from(u16::from_le_bytes(*byte)) + 1.0) / 65_536.0;
            at += Duration::from_secs_f64(-chance.ln() / rate);
            tokio::time::sleep_until(at).await;
            let mut born = self.born.lock().unwrap_or_else(PoisonError::into_inner);
            born.push(Instant::now());
            self.count.send_replace(born.len());
        }
    }

    /// Waits until more than `known` have come, and says how many.
    async fn more_than(&self, known: usize) -> anyhow::Result<usize> {
        let mut count = self.count.subscribe();
        let now = count.wait_for(|count| *count > known).await;
        Ok(*now.context("the feed is gone")?)
    }

    /// The messages from one number on to another.
    fn bytes(&self, from: usize, to: usize) -> Vec<u8> {
        pattern(self.size).repeat(to.saturating_sub(from))
    }
}

/// What one reader has.
#[derive(Debug, Default)]
struct Taken {
    /// Bytes of a message that is not whole.
    begun: usize,
    times: Vec<Duration>,
}

impl Taken {
    fn take(&mut self, feed: &Feed, len: usize) {
        self.begun += len;
        let born = feed.born.lock().unwrap_or_else(PoisonError::into_inner);
        while self.begun >= feed.size && self.times.len() < feed.total {
            self.begun -= feed.size;
            self.times.push(born[self.times.len()].elapsed());
        }
    }

    fn is_all(&self, feed: &Feed) -> bool {
        self.times.len() == feed.total
    }
}

/// What one way did.
#[derive(Debug)]
struct Row {
    name: String,
    times: Spread,
    requests: Option<usize>,
    wire: u64,
}

pub(super) async fn run(args: &Args, quiet: bool) -> anyhow::Result<u8> {
    let total = usize::try_from(args.messages.get())?;
    let feed = Arc::new(Feed {
        born: Mutex::default(),
        count: watch::Sender::new(0),
        total,
        size: args.size.into(),
    });
    if !quiet {
        let secs = args.messages.get().div_ceil(args.rate.get());
        output::line(&format!("measuring for about {secs} s"));
    }
    let http = TcpListener::bind("127.0.0.1:0").await?;
    let http_addr = http.local_addr()?;
    let loopback: Url = "ws://127.0.0.1:0".parse()?;
    let ws = Listener::bind(loopback.clone()).await?;
    let ws_addr = SocketAddr::from(([127, 0, 0, 1], ws.url().port));
    let ways = async {
        let (_, pushed, waited, polled, slow) = tokio::try_join!(
            async {
                feed.run(args.rate.get().into()).await;
                Ok(())
            },
            counted("WebSocket push", ws_addr, async |at: SocketAddr| {
                let url = loopback.clone().with_port(at.port());
                subscribe(&feed, url).await
            }),
            counted("HTTP long polling", http_addr, async |at| {
                poll(&feed, at, Duration::ZERO).await
            }),
            counted("HTTP polling, 100 ms", http_addr, async |at| {
                poll(&feed, at, INTERVALS[0]).await
            }),
            counted("HTTP polling, 1 s", http_addr, async |at| {
                poll(&feed, at, INTERVALS[1]).await
            }),
        )?;
        anyhow::Ok([pushed, waited, polled, slow])
    };
    let rows = tokio::select! {
        rows = ways => rows?,
        ended = push(&feed, ws) => return Err(ended.context("the listener ended")),
        ended = serve(&feed, http) => return Err(ended.context("the HTTP server ended")),
    };
    let text = if args.json {
        format!("{:#}\n", to_json(args, &rows))
    } else {
        to_table(args, &rows)
    };
    exit::printed(output::data(text.as_bytes()))
}

/// Lets `reader` read through a relay to `server` that counts its bytes.
async fn counted(
    name: &str,
    server: SocketAddr,
    reader: impl AsyncFnOnce(SocketAddr) -> anyhow::Result<(Taken, Option<usize>)>,
) -> anyhow::Result<Row> {
    let relay = Proxy::start(Config::new(server)).context("cannot start a relay")?;
    let (taken, requests) = reader(relay.addr()).await?;
    let stats = relay.stop().await;
    Ok(Row {
        name: name.to_owned(),
        times: Spread::of(taken.times),
        requests,
        wire: stats.bytes_up + stats.bytes_down,
    })
}

/// The listener: pushes each message into the one stream of each session, when it comes.
/// Ends with an error only.
async fn push(feed: &Feed, listener: Listener) -> anyhow::Error {
    let greeting = match listening(Admission::LoopbackSecret, None, None) {
        Ok(greeting) => greeting,
        Err(error) => return error,
    };
    let config = AcceptorConfig::new(greeting);
    let (acceptor, mut sessions) = Acceptor::new(config);
    let accepting = listener.serve(Arc::new(acceptor));
    let pushing = async {
        let session = sessions.next().await.context("no session")?;
        let handle = session.handle();
        let work = async {
            let (stream, _) = handle.accept().await.context("no stream")?;
            stream.accept(Accept { has_command: false });
            let mut send = stream.send;
            let mut recv = Arriving::new(stream.recv);
            let mut known = 0;
            while known < feed.total {
                let now = feed.more_than(known).await?;
                stream::send(&mut send, &feed.bytes(known, now)).await?;
                known = now;
            }
            send.finish();
            while recv.next().await?.is_some() {}
            recv.done();
            anyhow::Ok(())
        };
        let (ended, worked) = tokio::join!(session.run(), work);
        ended?;
        worked?;
        // The readers end all.
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        () = accepting => anyhow::anyhow!("it listens no more"),
        Err(error) = pushing => error,
    }
}

/// The reader of a session.
async fn subscribe(feed: &Feed, url: Url) -> anyhow::Result<(Taken, Option<usize>)> {
    let opener = Opener::new(OpenerConfig::new(dialling(
        Admission::LoopbackSecret,
        Proves::Usual,
    )?));
    let handle = opener.handle();
    let stream = handle.open("").context("no stream can be opened")?;
    let (mut send, mut recv) = (stream.send, Arriving::new(stream.recv));
    let dial = TcpDial::new(url);
    let reading = async {
        let mut taken = Taken::default();
        send.finish();
        while let Some(piece) = recv.next().await? {
            taken.take(feed, piece.len());
        }
        recv.done();
        handle.finish_opening();
        anyhow::Ok(taken)
    };
    let (ended, taken) = tokio::join!(opener.run(&dial), reading);
    ended?;
    Ok((taken?, None))
}

/// The HTTP server: `GET /messages?after=N` has all from number N on, at once or, with `&wait=1`,
/// when there are any. Ends with an error only.
async fn serve(feed: &Arc<Feed>, listener: TcpListener) -> anyhow::Error {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let feed = Arc::clone(feed);
                    connections.spawn(async move { answer(&feed, stream).await });
                }
                Err(error) => return error.into(),
            },
            Some(ended) = connections.join_next() => match ended {
                Ok(Ok(())) => {}
                // A relay that is stopped resets it; a reader that misses something says so itself.
                Ok(Err(error)) => tracing::debug!("a connection ended: {error}"),
                Err(error) => return error.into(),
            },
        }
    }
}

/// Answers the requests of one connection.
async fn answer(feed: &Feed, stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(lines) = head(&mut stream).await? {
        let path = lines[0].split(' ').nth(1).unwrap_or_default();
        let query = path.strip_prefix("/messages?after=").unwrap_or_default();
        let (after, waits) = match query.strip_suffix("&wait=1") {
            Some(after) => (after, true),
            None => (query, false),
        };
        let after: usize = after.parse().context("a request that is none of ours")?;
        let now = match waits {
            true => feed.more_than(after).await?,
            false => *feed.count.borrow(),
        };
        let body = feed.bytes(after, now);
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        answer.extend(body);
        stream.write_all(&answer).await?;
    }
    Ok(())
}

/// The lines of a head; `None` at the end of the connection.
async fn head(stream: &mut BufReader<TcpStream>) -> anyhow::Result<Option<Vec<String>>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" if lines.is_empty() => bail!("a head without a line"),
            "" => return Ok(Some(lines)),
            line => lines.push(line.to_owned()),
        }
    }
}

/// A reader that asks every `interval`; with none it lets the server wait.
async fn poll(
    feed: &Feed,
    server: SocketAddr,
    interval: Duration,
) -> anyhow::Result<(Taken, Option<usize>)> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut taken = Taken::default();
    let mut requests = 0;
    let wait = if interval.is_zero() { "&wait=1" } else { "" };
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !taken.is_all(feed) {
        if !interval.is_zero() {
            ticks.tick().await;
        }
        let after = taken.times.len();
        let request =
            format!("GET /messages?after={after}{wait} HTTP/1.1\r\nHost: {server}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        requests += 1;
        let lines = head(&mut stream).await?.context("no answer")?;
        let len = lines
            .iter()
            .find_map(|line| line.strip_prefix("Content-Length: "));
        let mut body = vec![0; len.context("no length")?.parse()?];
        stream.read_exact(&mut body).await?;
        taken.take(feed, body.len());
    }
    Ok((taken, Some(requests)))
}

fn to_table(args: &Args, rows: &[Row]) -> String {
    let Args {
        messages,
        rate,
        size,
        ..
    } = args;
    let mut out = format!(
        "{messages} messages of {size} B, {rate} a second on average, at random moments\n\n\
         {:22}{:>10}{:>10}{:>10}{:>10}{:>12}{:>11}\n",
        "", "mean", "p99", "max", "requests", "wire, B", "B/message"
    );
    for row in rows {
        let [mean, p99, max] =
            [row.times.mean(), row.times.per_mille(990), row.times.max()].map(shown);
        let requests = row
            .requests
            .map_or_else(|| "-".to_owned(), |n| n.to_string());
        let each = row.wire / u64::from(messages.get());
        let (name, wire) = (&row.name, row.wire);
        let _ = writeln!(
            out,
            "{name:22}{mean:>10}{p99:>10}{max:>10}{requests:>10}{wire:>12}{each:>11}"
        );
    }
    out
}

fn to_json(args: &Args, rows: &[Row]) -> Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "way": row.name,
                "latency": row.times.to_json(),
                "requests": row.requests,
                "wire_bytes": row.wire,
            })
        })
        .collect();
    json!({
        "bench": "push",
        "messages": args.messages,
        "rate_per_s": args.rate,
        "message_bytes": args.size,
        "ways": rows,
    })
}
