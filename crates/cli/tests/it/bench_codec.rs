//! `farpipe bench codec`: what it prints has the promised shape, and sizes are what they are. No time is asserted.

use crate::support::Host;
use crate::support::figures::json;

#[test]
fn codec_says_how_large_messages_are_by_size_of_content() {
    let host = Host::new();
    let measured = host.farpipe(["bench", "codec", "--json"]).run();
    let figures = json(&measured.exits(0).says("measuring for a few seconds"));
    assert_eq!(figures["bench"], "codec");
    let rows = figures["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 7);
    // {"sender":"user0","content":"xxxxxxxx","timestamp":1795817087123} and the same as protoc writes it; "user10" has one more.
    let first = &rows[0]["bytes"];
    assert_eq!(
        (first["json"].as_f64(), first["protobuf"].as_f64()),
        (Some(65.8), Some(24.8))
    );
    for row in rows {
        for what in [
            "bytes",
            "batched_bytes",
            "batched_zstd_bytes",
            "write_ns",
            "read_ns",
        ] {
            for kind in ["json", "protobuf"] {
                let number = row[what][kind].as_f64().expect("a number");
                assert!(number > 0.0, "{row}");
            }
        }
        let folded = row["batched_zstd_bytes"]["protobuf"].as_f64();
        assert!(folded < row["batched_bytes"]["protobuf"].as_f64(), "{row}");
    }
    let table = host.farpipe(["-q", "bench", "codec"]).run().exits(0);
    let table = String::from_utf8(table.stdout).expect("text");
    assert!(
        table.contains("\n8 bytes   ") && table.contains("\nlog lines, "),
        "{table}"
    );
    host.file("none", "");
    let none = host
        .farpipe(["-q", "bench", "codec", "--lines", "none"])
        .run();
    none.exits(125).says("farpipe: there is no line to measure");
}
