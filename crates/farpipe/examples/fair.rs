//! Many streams at once, for `cargo xtask bench-scale`: `fair RELAY SECONDS STREAMS SESSIONS AGENTS` serves
//! endless bytes under so many names, reads them by so many streams, and prints how many bytes each
//! read in that time: the least, the median and the most, and all together; then the same beside one stream
//! more that nobody reads. The streams are spread evenly over the sessions, and those over the agents.

#![expect(clippy::print_stdout, reason = "a program that prints")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use farpipe::{Host, Reader, Service, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

/// What a stream does before anything is counted: windows grow to what they stay at.
const BEFORE: Duration = Duration::from_secs(2);

/// Between looks whether the relay knows it.
const AGAIN: Duration = Duration::from_millis(100);

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [relay, seconds, streams, sessions, agents] = args.as_slice() else {
        return Err("fair RELAY SECONDS STREAMS SESSIONS AGENTS".into());
    };
    let (streams, sessions): (usize, usize) = (streams.parse()?, sessions.parse()?);
    let (agents, seconds): (usize, _) = (agents.parse()?, Duration::from_secs(seconds.parse()?));
    let settings = Settings::new().relay(relay.clone());
    let mut serving = JoinSet::new();
    for agent in 0..agents {
        serving.spawn(serve(settings.serve(&name(agent))?));
        // It is not registered at once.
        while settings
            .connect(&name(agent))?
            .open_source("zeros")
            .await
            .is_err()
        {
            tokio::time::sleep(AGAIN).await;
        }
    }
    let hosts: Vec<Host> = (0..sessions)
        .map(|number| settings.connect(&name(number % agents)))
        .collect::<Result<_, _>>()?;
    let mut readers = Vec::new();
    for number in 0..streams {
        readers.push(hosts[number % sessions].open_source("zeros").await?);
    }
    let counts: Arc<[AtomicU64]> = (0..streams).map(|_| AtomicU64::new(0)).collect();
    let mut reading = JoinSet::new();
    for (number, reader) in readers.into_iter().enumerate() {
        reading.spawn(read(reader, number, Arc::clone(&counts)));
    }
    tell("all read", &counts, seconds).await;
    let host = hosts.first().ok_or("no session")?;
    // Held and not read.
    let _stalled = host.open_source("zeros").await?;
    tell("one more stalls", &counts, seconds).await;
    Ok(())
}

fn name(agent: usize) -> String {
    format!("fair-{agent}")
}

async fn serve(mut service: Service) {
    let mut writing = JoinSet::new();
    while let Ok(incoming) = service.accept().await {
        let (_reader, mut writer) = incoming.accept().into_split();
        writing.spawn(async move {
            let zeros = vec![0; 64 * 1024];
            while writer.write_all(&zeros).await.is_ok() {}
        });
    }
}

async fn read(mut reader: Reader, number: usize, counts: Arc<[AtomicU64]>) -> Result<(), Failure> {
    let mut buf = vec![0; 16 * 1024];
    loop {
        let len = reader.read(&mut buf).await?;
        counts[number].fetch_add(len as u64, Ordering::Relaxed);
    }
}

async fn tell(what: &str, counts: &[AtomicU64], time: Duration) {
    tokio::time::sleep(BEFORE).await;
    let now = || counts.iter().map(|count| count.load(Ordering::Relaxed));
    let before: Vec<u64> = now().collect();
    tokio::time::sleep(time).await;
    let mut each: Vec<u64> = now()
        .zip(before)
        .map(|(now, before)| now - before)
        .collect();
    each.sort_unstable();
    let (least, most) = (each.first().copied(), each.last().copied());
    let (least, most) = (least.unwrap_or(0), most.unwrap_or(0));
    let (median, all) = (each[each.len() / 2], each.iter().sum::<u64>());
    let squares: f64 = each.iter().map(|count| (*count as f64).powi(2)).sum();
    // 1 if all have the same, 1/n if one has all.
    let jain = (all as f64).powi(2) / (squares * each.len() as f64);
    println!(
        "{what}: {least} {median} {most} of {all}: {:.1} to {:+.1} % of the mean, Jain {jain:.4}",
        percent(least, all, each.len()),
        percent(most, all, each.len())
    );
}

/// By how much of the mean `count` is away from it.
fn percent(count: u64, all: u64, streams: usize) -> f64 {
    let mean = all as f64 / streams as f64;
    100.0 * (count as f64 - mean) / mean
}
