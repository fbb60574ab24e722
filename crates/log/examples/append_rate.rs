//! How fast a disk takes batches, each acknowledged when it is synced: `append_rate DIR [SECONDS [RECORDS [BYTES]]]`.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farpipe_log::{Append, Log, Options, Settings};
use farpipe_record::{Batch, BatchBuilder, ProducerId, Record};

/// Batches that are not acknowledged yet.
const WINDOW: usize = 8;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: u64| {
        args.get(at)
            .map_or(or, |arg| arg.parse().expect("a number"))
    };
    let dir = args.first().expect("a directory");
    let (seconds, records, bytes) = (number(1, 5), number(2, 1_000), number(3, 128));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let measured = measure(dir.as_ref(), seconds, records, bytes as usize);
    runtime.expect("a runtime").block_on(measured);
}

async fn measure(dir: &Path, seconds: u64, records: u64, bytes: usize) {
    let (log, _) = Log::open(dir, Options::default(), || 1).expect("a log");
    log.create("rate", Settings::default())
        .await
        .expect("a topic");
    let (begin, mut sequence) = (Instant::now(), 0);
    let mut waiting = VecDeque::new();
    let mut times = Vec::new();
    while begin.elapsed() < Duration::from_secs(seconds) {
        if waiting.len() == WINDOW
            && let Some((at, answer)) = waiting.pop_front()
        {
            take(at, answer, &mut times).await;
        }
        let batch = batch(sequence, records, bytes);
        sequence += records;
        let append = Append {
            topic: "rate".to_owned(),
            partition: 0,
            batch,
        };
        waiting.push_back((Instant::now(), log.append(append).await));
    }
    for (at, answer) in waiting {
        take(at, answer, &mut times).await;
    }
    let rate = sequence as f64 / begin.elapsed().as_secs_f64();
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let line = format!(
        "{rate:.0} records/s of {bytes} bytes in batches of {records}; acknowledged after {:.2} ms p50, {:.2} ms p99\n",
        at(50),
        at(99)
    );
    std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).expect("stdout");
}

async fn take(
    at: Instant,
    answer: tokio::sync::oneshot::Receiver<Result<farpipe_log::Appended, farpipe_log::AppendError>>,
    times: &mut Vec<Duration>,
) {
    answer.await.expect("an answer").expect("it is kept");
    times.push(at.elapsed());
}

fn batch(sequence: u64, records: u64, bytes: usize) -> Batch {
    let mut builder = BatchBuilder::default();
    let value = Bytes::from(vec![b'x'; bytes]);
    for _ in 0..records {
        let mut record = Record {
            value: value.clone(),
            ..Record::default()
        };
        builder.push(&mut record, 1).expect("room");
    }
    let sealed = builder
        .seal(ProducerId([1; 16]), 1, sequence)
        .expect("a batch");
    Batch::parse(&sealed.into_bytes())
        .expect("whole")
        .expect("all")
}
