//! `forward -L`: connections to a port here reach a program there that gives back what it gets.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Run;
use crate::bytes::{Check, Content};
use crate::report::Outcome;
use crate::talk::{Bytes, Client, PATIENCE};
use crate::world::{AGENT, BEAT, free_port};

const NAME: &str = "forward";
/// At the same time over one forward.
const CONNECTIONS: u64 = 4;

pub(super) async fn run(mut run: Run) -> Result<()> {
    let server = TcpListener::bind("127.0.0.1:0").await?;
    let (here, to) = (free_port()?, server.local_addr()?);
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(server));
    let agents = run.lane().agent.kills();

    let (url, map) = (run.lane().url(NAME), format!("{here}:{to}"));
    let args = [
        "forward",
        "-L",
        &map,
        "--relay",
        &url,
        "--heartbeat",
        BEAT,
        AGENT,
    ];
    let log = format!("{NAME}-{}", run.number);
    let client = Client::start(&run.world.place, &log, &args, Bytes::default())?;
    let mut outcomes = Vec::new();
    let mut talks = JoinSet::new();
    for number in 0..CONNECTIONS {
        let content = Content::new(run.world.seed, run.number * 16 + number);
        talks.spawn(talk(here, content, run.draw.length(20)));
    }
    let mut ends = Vec::new();
    while let Some(end) = talks.join_next().await {
        ends.push(end?);
    }
    client.signal(Signal::TERM);
    let ended = client.end().await?;
    // A forward's connections die with the agent that made them.
    let may_fail = run.lane().agent.kills() != agents || ended.is_refused();
    for (right, end) in ends {
        run.world.report.bytes(NAME, right);
        outcomes.push(match end {
            Ok(()) => Some(Outcome::Whole),
            Err(Fault::Broken(_)) if may_fail => Some(Outcome::Harmed),
            Err(Fault::Broken(what) | Fault::Wrong(what)) => {
                let log = run.world.place.log(&log);
                run.world.report.wrong(
                    NAME,
                    &format!("run {}: {what} ({})", run.number, log.display()),
                );
                None
            }
        });
    }
    outcomes.push(run.judge(NAME, &ended, 128 + 15, may_fail));
    run.count(NAME, &outcomes);
    Ok(())
}

/// What can go wrong with one connection.
#[derive(Debug)]
enum Fault {
    /// It broke, and said so.
    Broken(String),
    /// Bytes are not what they should be.
    Wrong(String),
}

async fn talk(here: SocketAddr, content: Content, length: u64) -> (u64, Result<(), Fault>) {
    let mut check = Check::new(content);
    let talked = tokio::time::timeout(PATIENCE, converse(here, content, length, &mut check)).await;
    let end = match (talked, check.wrong()) {
        (_, Some(wrong)) => Err(Fault::Wrong(wrong)),
        (Err(_), None) => Err(Fault::Wrong(format!(
            "stuck at {} of {length}",
            check.right()
        ))),
        (Ok(Err(error)), None) => Err(Fault::Broken(format!(
            "{error} at {} of {length}",
            check.right()
        ))),
        (Ok(Ok(())), None) if check.right() == length => Ok(()),
        (Ok(Ok(())), None) => Err(Fault::Wrong(format!(
            "an end in order at {} of {length}",
            check.right()
        ))),
    };
    (check.right(), end)
}

async fn converse(
    here: SocketAddr,
    content: Content,
    length: u64,
    check: &mut Check,
) -> std::io::Result<()> {
    let mut tries = 0;
    let stream = loop {
        match TcpStream::connect(here).await {
            Ok(stream) => break stream,
            // It listens once its session is there.
            Err(error) if tries > 300 => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        tries += 1;
    };
    let (mut reader, mut writer) = stream.into_split();
    let writing = async {
        let mut buffer = vec![0; 1 << 15];
        let mut offset = 0;
        while offset < length {
            let part = (length - offset).min(buffer.len() as u64) as usize;
            content.fill(offset, &mut buffer[..part]);
            writer.write_all(&buffer[..part]).await?;
            offset += part as u64;
        }
        writer.shutdown().await
    };
    let reading = async {
        let mut buffer = vec![0; 1 << 15];
        loop {
            match reader.read(&mut buffer).await? {
                0 => return Ok(()),
                part => check.take(&buffer[..part]),
            }
        }
    };
    tokio::try_join!(writing, reading).map(|_| ())
}

/// Gives back what it gets, and ends when its peer does.
async fn serve(server: TcpListener) {
    let mut tasks = JoinSet::new();
    while let Ok((mut stream, _)) = server.accept().await {
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let (mut reader, mut writer) = stream.split();
            // A connection that breaks is its client's to judge; a copy that ends so ends in a reset.
            if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
                let _ = writer.shutdown().await;
            }
        });
    }
}
