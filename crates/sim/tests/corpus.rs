//! Replays the seeds of the fuzz targets (fuzz/seeds) on the stable compiler.

use std::panic::{RefUnwindSafe, catch_unwind};
use std::path::Path;

use farpipe_sim::draw::Draw;
use farpipe_sim::{codec, model};

/// Runs every seed of a target; a failure names the file.
fn replay(target: &str, run: impl Fn(&[u8]) + RefUnwindSafe) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(target);
    let entries = std::fs::read_dir(&folder).expect("a folder of seeds");
    let mut seeds = 0;
    for entry in entries {
        let path = entry.expect("a folder that can be read").path();
        let bytes = std::fs::read(&path).expect("a file that can be read");
        let played = catch_unwind(|| run(&bytes));
        assert!(played.is_ok(), "{}", path.display());
        seeds += 1;
    }
    assert!(seeds >= 10, "{seeds} seeds in {}", folder.display());
}

#[test]
fn seeds_of_two_peers() {
    replay("two_peers", |bytes| {
        model::run(&mut Draw::from_bytes(bytes));
    });
}

#[test]
fn seeds_of_hop_frame() {
    replay("hop_frame", codec::hop);
}

#[test]
fn seeds_of_inner_frame() {
    replay("inner_frame", codec::inner);
}
