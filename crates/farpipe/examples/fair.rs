//! Many streams at once, for `cargo xtask bench-scale`: `fair RELAY STREAMS SECONDS` serves endless bytes
//! under the name `fair`, reads them by so many streams over several sessions, and prints how many
//! bytes each read in that time: the least, the median and the most, and all together; then the same
//! beside one stream more that nobody reads.

#![expect(clippy::print_stdout, reason = "a program that prints")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use farpipe::{Host, Reader, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

/// Streams in one session; what a session may have is 256.
const EACH: usize = 125;

/// What a stream does before anything is counted: windows grow to what they stay at.
const BEFORE: Duration = Duration::from_secs(2);

/// Between looks whether the relay knows it.
const AGAIN: Duration = Duration::from_millis(100);

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let (Some(relay), Some(streams), Some(seconds)) = (args.next(), args.next(), args.next())
    else {
        return Err("fair RELAY STREAMS SECONDS".into());
    };
    let (streams, seconds) = (streams.parse()?, Duration::from_secs(seconds.parse()?));
    let settings = Settings::new().relay(relay);
    let mut service = settings.serve("fair")?;
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut writing = JoinSet::new();
        while let Ok(incoming) = service.accept().await {
            let (_reader, mut writer) = incoming.accept().into_split();
            writing.spawn(async move {
                let zeros = vec![0; 64 * 1024];
                while writer.write_all(&zeros).await.is_ok() {}
            });
        }
    });
    // It is not registered at once.
    while settings
        .connect("fair")?
        .open_source("zeros")
        .await
        .is_err()
    {
        tokio::time::sleep(AGAIN).await;
    }
    let mut hosts: Vec<Host> = Vec::new();
    let mut readers = Vec::new();
    for number in 0..streams {
        if number % EACH == 0 {
            hosts.push(settings.connect("fair")?);
        }
        let host = hosts.last().ok_or("no session")?;
        readers.push(host.open_source("zeros").await?);
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

async fn read(mut reader: Reader, number: usize, counts: Arc<[AtomicU64]>) -> Result<(), Failure> {
    let mut buf = vec![0; 64 * 1024];
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
    println!("{what}: {least} {median} {most} of {all}");
}
