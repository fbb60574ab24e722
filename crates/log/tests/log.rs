//! The log with its thread, on a real disk.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use farpipe_log::{
    Append, AppendError, Cursor, CursorKey, Log, OpenError, Options, Partition, Piece, Recovered,
    Settings,
};
use farpipe_record::{Batch, BatchBuilder, ProducerId, Record, Records};

fn now_ns() -> u64 {
    1_700_000_000_000_000_000
}

fn open(dir: &Path, segment_bytes: u64) -> Log {
    let (log, _) = Log::open(dir, Options { segment_bytes }, now_ns).expect("it opens");
    log
}

fn batch(sequence: u64, count: u32) -> Batch {
    let mut builder = BatchBuilder::default();
    for n in 0..count {
        let mut record = Record {
            value: Bytes::from(format!("record {}", sequence + u64::from(n))),
            ..Record::default()
        };
        assert!(builder.push(&mut record, now_ns()).expect("room"));
    }
    let sealed = builder
        .seal(ProducerId([9; 16]), 1, sequence)
        .expect("a batch");
    Batch::parse(&sealed.into_bytes())
        .expect("whole")
        .expect("all")
}

fn append(batch: Batch) -> Append {
    Append {
        topic: "t".to_owned(),
        partition: 0,
        batch,
    }
}

/// The values of all records from an offset on.
fn values(partition: &Partition, mut offset: u64) -> Vec<String> {
    let mut values = Vec::new();
    while offset < partition.end() {
        for piece in partition.read(offset, 100_000).expect("it is there") {
            let Piece::Batch(batch) = piece else {
                panic!("{piece:?}")
            };
            for record in Records::of(&batch).expect("records") {
                let (_, record) = record.expect("a record");
                values.push(String::from_utf8(record.value.to_vec()).expect("text"));
            }
            offset = batch.header().end_offset();
        }
    }
    values
}

#[tokio::test]
async fn what_is_appended_is_read_also_by_the_next_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(dir.path(), 100_000);
    let unknown = log
        .append(append(batch(0, 1)))
        .await
        .await
        .expect("an answer");
    assert!(matches!(unknown, Err(AppendError::Unknown { .. })));
    let topic = log.create("t", Settings::default()).await.expect("a topic");
    let mut end = topic.partitions[0].watch();
    let mut answers = Vec::new();
    for n in 0..500 {
        answers.push(log.append(append(batch(n * 10, 10))).await);
    }
    for (n, answer) in (1..).zip(answers) {
        let appended = answer.await.expect("an answer").expect("it is kept");
        assert_eq!(appended.end_offset, Some(n * 10));
    }
    end.wait_for(|end| *end == 5_000).await.expect("the log");
    let again = log
        .append(append(batch(4_990, 10)))
        .await
        .await
        .expect("an answer");
    assert!(again.expect("it is kept").is_repeated);
    let key = CursorKey {
        topic: "t".to_owned(),
        group: "g".to_owned(),
        partition: 0,
    };
    let cursor = Cursor {
        offset: 4_000,
        deliveries: 0,
    };
    log.commit(key.clone(), Some(cursor))
        .await
        .expect("an answer")
        .expect("it is durable");
    let taken = Log::open(dir.path(), Options::default(), now_ns).expect_err("it is taken");
    assert!(matches!(taken, OpenError::Disk { .. }), "{taken}");
    assert!(taken.to_string().contains("another process has this log"));
    drop((log, topic));

    let log = open(dir.path(), 100_000);
    let topic = log.topic("t").expect("it is there");
    let all: Vec<String> = (0..5_000).map(|n| format!("record {n}")).collect();
    assert_eq!(values(&topic.partitions[0], 0), all);
    assert_eq!(log.cursors("t"), [(key, cursor)]);
    log.remove("t").await.expect("it goes");
    assert!(log.topics("").is_empty() && log.cursors("t").is_empty());
}

/// Appends for ever, and says what was acknowledged: run by the next test in a process of its own.
#[test]
fn a_writer_for_the_next_test() {
    let Some(dir) = std::env::var_os("FARPIPE_LOG_WRITER") else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(async {
        let log = open(dir.as_ref(), 20_000);
        let topic = log.create("t", Settings::default()).await.expect("a topic");
        let (_, mut next) = topic.partitions[0].producer(ProducerId([9; 16]));
        loop {
            let mut answers = Vec::new();
            for _ in 0..8 {
                answers.push(log.append(append(batch(next, 7))).await);
                next += 7;
            }
            for answer in answers {
                let appended = answer.await.expect("an answer").expect("it is kept");
                let end = appended.end_offset.expect("it is new");
                let mut stdout = std::io::stdout().lock();
                writeln!(stdout, "acked {end}").expect("somebody reads");
            }
        }
    });
}

#[test]
fn l1_whoever_is_killed_while_it_appends_has_lost_nothing_that_it_was_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut acked = 0;
    for round in 0..20_u64 {
        let program = std::env::current_exe().expect("this program");
        let mut writer = Command::new(program)
            .args(["--exact", "a_writer_for_the_next_test", "--nocapture"])
            .env("FARPIPE_LOG_WRITER", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(writer.stdout.take().expect("a pipe")).lines();
        let mut seen = 0;
        for line in lines.by_ref() {
            let line = line.expect("text");
            if let Some(end) = line.strip_prefix("acked ") {
                acked = end.parse().expect("a number");
                seen += 1;
            }
            // In the middle of something, each time somewhere else.
            if seen > round * 13 {
                break;
            }
        }
        writer.kill().expect("it runs");
        writer.wait().expect("it ends");
        // What it had said before it died.
        for line in lines.map_while(Result::ok) {
            if let Some(end) = line.strip_prefix("acked ") {
                acked = end.parse().expect("a number");
            }
        }
        let log = open(dir.path(), 20_000);
        let topic = log.topic("t").expect("it is there");
        let partition = &topic.partitions[0];
        assert!(partition.end() >= acked, "{} of {acked}", partition.end());
        let all: Vec<String> = (0..partition.end())
            .map(|n| format!("record {n}"))
            .collect();
        assert!(values(partition, 0) == all, "round {round}");
    }
    assert!(acked > 7_000, "{acked}");
}

/// L6: what an older segment, or the end of the last one, has not any more is told, and its offsets are not given out again.
#[tokio::test]
async fn l6_records_that_are_gone_without_a_trace_are_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        segment_bytes: 1_000,
    };
    let open = || Log::open(dir.path(), options, now_ns).expect("it opens");
    let (log, _) = open();
    log.create("t", Settings::default()).await.expect("made");
    for number in 0..20 {
        let append = Append {
            topic: "t".to_owned(),
            partition: 0,
            batch: batch(number * 10, 10),
        };
        log.append(append)
            .await
            .await
            .expect("heard")
            .expect("kept");
    }
    drop(log);
    let partition = dir.path().join("topics/t/0");
    let mut segments: Vec<_> = std::fs::read_dir(&partition)
        .expect("listed")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "seg"))
        .collect();
    segments.sort();
    let base = |path: &std::path::PathBuf| -> u64 {
        let name = path.file_stem().and_then(|name| name.to_str());
        name.and_then(|name| name.parse().ok()).expect("an offset")
    };
    assert!(segments.len() > 2, "{segments:?}");
    let (second, third, last) = (
        base(&segments[1]),
        base(&segments[2]),
        base(&segments[segments.len() - 1]),
    );
    for lost in [&segments[1], &segments[segments.len() - 1]] {
        std::fs::write(lost, b"").expect("emptied");
    }
    let (log, recovered) = open();
    assert!(
        matches!(recovered[..], [Recovered::Damaged { .. }]),
        "{recovered:?}"
    );
    let topic = log.topic("t").expect("there");
    let partition = &topic.partitions[0];
    assert_eq!(partition.end(), 200, "no offset is given out twice");
    let (mut at, mut gone) = (0, Vec::new());
    while at < partition.end() {
        let pieces = partition.read(at, 1).expect("read");
        assert!(!pieces.is_empty(), "nothing at {at}");
        for piece in pieces {
            at = match piece {
                Piece::Batch(batch) => batch.header().end_offset(),
                Piece::Damaged { from, to } => {
                    gone.push((from, to));
                    to
                }
            };
        }
    }
    assert_eq!(gone, [(second, third), (last, 200)]);
}
