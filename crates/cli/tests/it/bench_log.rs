//! `farpipe bench log`: what it prints has the promised shape, and nothing of it is left. No time is asserted.

use crate::support::Host;
use crate::support::figures::{assert_spread, json};

#[test]
fn log_says_how_many_records_the_disk_takes_and_leaves_nothing() {
    let host = Host::new();
    let flags = ["--seconds", "1", "--batch", "50"];
    let measured = host.farpipe(["bench", "log", "--json"]).args(flags).run();
    let figures = json(&measured.exits(0).says("measuring for about 2 s"));
    assert_eq!(figures["bench"], "log");
    let rows = figures["rows"].as_array().expect("rows");
    let sizes: Vec<_> = rows
        .iter()
        .map(|row| row["record_bytes"].as_u64())
        .collect();
    assert_eq!(sizes, [Some(128), Some(1024)]);
    for row in rows {
        let rate = row["durable_records_per_s"].as_f64().expect("a rate");
        assert!(rate > 50.0, "{row}");
        let batches = row["acknowledged"]["count"].as_u64().expect("a count");
        assert_spread(&row["acknowledged"], batches);
    }
    assert_eq!(
        figures["durable_records_per_s"],
        rows[0]["durable_records_per_s"]
    );
    let left = std::fs::read_dir(host.dir()).expect("a directory");
    let names: Vec<_> = left
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert!(
        !names
            .iter()
            .any(|name| name.to_string_lossy().contains("bench")),
        "{names:?}"
    );
    let too_much = ["--seconds", "1", "--batch", "100000"];
    let ended = host
        .farpipe(["-q", "bench", "log"])
        .args(too_much)
        .run()
        .exits(125);
    assert!(
        ended
            .stderr
            .contains("no batch has room for 100000 records"),
        "{}",
        ended.stderr
    );
}
