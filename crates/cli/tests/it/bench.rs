//! `farpipe bench pipe`: what it prints has the promised shape. What it measures is this machine's
//! business: no time is asserted.

#![cfg(target_os = "linux")]

use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Host, assert_text};

const BATCHES: [u64; 7] = [512, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576];
const MECHANISMS: [&str; 6] = [
    "write, read",
    "epoll, level-triggered",
    "epoll, edge-triggered",
    "vmsplice, read",
    "splice, to /dev/null",
    "shared memory, eventfd",
];

fn rows<'a>(json: &'a Value, table: &str) -> &'a Vec<Value> {
    json[table]
        .as_array()
        .unwrap_or_else(|| panic!("no {table} in {json}"))
}

#[test]
fn json_has_every_figure_of_every_round() {
    let host = Host::new();
    let ended = host
        .farpipe(["bench", "pipe", "--size", "1MiB", "--rounds", "2", "--json"])
        .run()
        .exits(0)
        .says("");
    let json: Value = serde_json::from_slice(&ended.stdout).expect("one JSON object");
    assert_eq!(json["bench"], "pipe");
    assert_eq!(json["rounds"], 2);
    assert_eq!(json["size_bytes"], 1 << 20);

    let batches = rows(&json, "batches").iter().map(|row| {
        let channel = row["channel"].as_str().expect("a name");
        (channel, row["batch_bytes"].as_u64().expect("a number"))
    });
    let expected = ["pipe, default", "pipe, 1 MiB", "FIFO, default"]
        .into_iter()
        .flat_map(|channel| BATCHES.map(|batch| (channel, batch)));
    assert!(batches.eq(expected), "{json:#}");

    let mechanisms = rows(&json, "mechanisms").iter().map(|row| {
        let channel = row["channel"].as_str().expect("a name");
        (channel, row["mechanism"].as_str().expect("a name"))
    });
    let expected = ["pipe, default", "pipe, 1 MiB"]
        .into_iter()
        .flat_map(|channel| MECHANISMS.map(|mechanism| (channel, mechanism)));
    assert!(mechanisms.eq(expected), "{json:#}");

    for row in rows(&json, "batches")
        .iter()
        .chain(rows(&json, "mechanisms"))
    {
        assert_eq!(row["failure"], Value::Null, "{row}");
        let rounds = row["gb_per_s_rounds"].as_array().expect("the rounds");
        assert_eq!(rounds.len(), 2, "{row}");
        for figure in rounds
            .iter()
            .chain([&row["gb_per_s"], &row["cpu_s_per_gib"]])
        {
            let figure = figure.as_f64().expect("a figure");
            assert!(figure.is_finite() && figure > 0.0, "{row}");
        }
    }
    let lessons = &json["lessons"];
    assert_eq!(lessons["batching"].as_array().map(Vec::len), Some(3));
    for lesson in [
        &lessons["large_over_default_pipe"],
        &lessons["large_over_default_pipe_at_256_kib"],
        &lessons["fifo_over_pipe"],
        &lessons["mechanisms"]["pipe, 1 MiB"]["edge_over_level"],
        &lessons["mechanisms"]["pipe, 1 MiB"]["vmsplice_over_write"],
    ] {
        assert!(lesson["gain_percent"].is_f64(), "{lessons:#}");
        assert!(lesson["clear"].is_boolean(), "{lessons:#}");
    }
}

#[test]
fn people_get_two_tables_and_a_paragraph() {
    let host = Host::new();
    let ended = host
        .farpipe([
            "bench", "pipe", "--size", "1MiB", "--rounds", "1", "--cores", "together",
        ])
        .run()
        .exits(0)
        .says("");
    let text = String::from_utf8(ended.stdout).expect("text");
    for begin in [
        "512 B ", "1 KiB ", "4 KiB ", "16 KiB ", "64 KiB ", "256 KiB ", "1 MiB ",
    ]
    .iter()
    .chain(&MECHANISMS)
    {
        let count = text
            .lines()
            .filter(|line| line.trim_start().starts_with(begin))
            .count();
        assert_eq!(count, 1, "{begin} in:\n{text}");
    }
    for said in [
        "both on CPU",
        "The default pipe does best with calls of",
        "zero copy",
    ] {
        let unwrapped = text.replace('\n', " ");
        assert!(unwrapped.contains(said), "{said} is not in:\n{text}");
    }
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
}

#[test]
fn command_lines_that_cannot_work() {
    let host = Host::new();
    for (args, what) in [
        (["--rounds", "0"], "number would be zero"),
        (["--rounds", "x"], "invalid digit"),
        (["--size", "1"], "at least 1MiB; the default is 128MiB"),
        (["--size", "0"], "at least 1MiB; the default is 128MiB"),
        (
            ["--size", "1023KiB"],
            "at least 1MiB; the default is 128MiB",
        ),
        (["--size", "1TiB"], "the unit is KiB, MiB or GiB"),
        (["--size", "MiB"], "write a number and a unit: 64MiB, 1GiB"),
        (["--size", "99999999999GiB"], "out of range"),
        (["--cores", "3"], "[possible values: apart, together, free]"),
    ] {
        let ended = host
            .farpipe(["bench", "pipe"])
            .args(args)
            .run()
            .exits(2)
            .printed("");
        assert!(ended.stderr.contains(what), "{args:?}: {}", ended.stderr);
    }
    let ended = host
        .farpipe(["bench", "nothing"])
        .run()
        .exits(2)
        .printed("");
    assert!(
        ended.stderr.contains("unrecognized subcommand 'nothing'"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_signal_ends_it_at_once_and_nothing_is_left_behind() {
    let host = Host::new();
    let mut bench = host
        .farpipe(["bench", "pipe", "--size", "1GiB", "--rounds", "1000"])
        .env("TMPDIR", host.dir())
        .start();
    // It measures once it has a sender and a receiver beside the first thread.
    let tasks = format!("/proc/{}/task", bench.id());
    while std::fs::read_dir(&tasks).map_or(0, Iterator::count) < 3 {
        assert!(bench.is_running());
        std::thread::yield_now();
    }
    bench.signal(Signal::INT);
    let ended = bench.end();
    assert_eq!(ended.status.signal(), Some(Signal::INT.as_raw()));
    assert_text(&ended.stderr, "");
    assert_eq!(ended.stdout, b"");
    let left = std::fs::read_dir(host.dir())
        .expect("our own directory")
        .count();
    assert_eq!(left, 0);
}
