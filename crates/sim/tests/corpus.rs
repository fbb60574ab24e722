//! Replays the seeds of the fuzz targets (fuzz/seeds) on the stable compiler, and what was found by them
//! (docs/fuzzing.md).

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// A target: its name is that of its program and of its folder of seeds.
macro_rules! targets {
    ($($name:ident: $target:expr),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name), $target);
            }
        )*

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    accepted_link: farpipe_net::fuzz::accepted_link,
    batch: farpipe_record::fuzz::batch,
    blocks: farpipe_agent::fuzz::blocks,
    certificate: farpipe_net::fuzz::certificate,
    copy_frames: farpipe_agent::fuzz::copy_frames,
    copy_name: farpipe_agent::fuzz::copy_name,
    copy_sidecar: farpipe_agent::fuzz::copy_sidecar,
    dialled_link: farpipe_net::fuzz::dialled_link,
    endpoint_spec: farpipe_agent::fuzz::endpoint_spec,
    foreign_frames: farpipe_net::fuzz::foreign_frames,
    foreign_upgrade: farpipe_net::fuzz::foreign_upgrade,
    fp_frames: farpipe_net::fuzz::fp_frames,
    gateway_body: farpipe_relay::fuzz::gateway_body,
    gateway_request: farpipe_relay::fuzz::gateway_request,
    handshake: farpipe_sim::messages::handshake,
    hop_frame: farpipe_sim::codec::hop,
    identity: farpipe_sim::messages::identity,
    inflate: farpipe_net::fuzz::inflate,
    inner_frame: farpipe_sim::codec::inner,
    local_way: farpipe_sim::messages::local_way,
    log_segment: farpipe_log::fuzz::segment,
    messages: farpipe_sim::messages::messages,
    path_pattern: farpipe_agent::fuzz::path_pattern,
    policy: farpipe_agent::fuzz::policy,
    proxy_http: farpipe_net::fuzz::proxy_http,
    proxy_socks: farpipe_net::fuzz::proxy_socks,
    socks_server: farpipe_agent::fuzz::socks_server,
    tail_events: farpipe_sim::messages::tail_events,
    ticket: farpipe_net::fuzz::ticket,
    token: farpipe_net::fuzz::token,
    token_store: farpipe_net::fuzz::token_store,
    two_peers: farpipe_sim::model::two_peers,
    upgrade_answer: farpipe_net::fuzz::upgrade_answer,
    upgrade_request: farpipe_net::fuzz::upgrade_request,
    urls: farpipe_net::fuzz::urls,
    ws_frames: farpipe_net::fuzz::ws_frames,
    yaml: farpipe_sim::messages::yaml,
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let path = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("it can be read").path();
    entries.map(path).collect()
}

/// Runs every seed of a target; a failure names the file.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = fuzz().join("seeds").join(target);
    let seeds = entries(&folder);
    for path in &seeds {
        let bytes = std::fs::read(path).expect("a file that can be read");
        let played = catch_unwind(|| run(&bytes));
        assert!(played.is_ok(), "{}", path.display());
    }
    assert!(!seeds.is_empty(), "no seeds in {}", folder.display());
}

#[test]
fn each_target_has_a_program_seeds_and_a_row() {
    let names = |folder: &str| -> BTreeSet<String> {
        let stem = |path: PathBuf| {
            let stem = path.file_stem().expect("a name");
            stem.to_string_lossy().into_owned()
        };
        let entries = entries(&fuzz().join(folder));
        entries.into_iter().map(stem).collect()
    };
    let here: BTreeSet<String> = NAMES.iter().map(ToString::to_string).collect();
    assert_eq!(names("src/bin"), here);
    assert_eq!(names("seeds"), here);
    let page = fuzz().join("../docs/fuzzing.md");
    let page = std::fs::read_to_string(page).expect("a page");
    let row = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    let rows: BTreeSet<String> = page.lines().filter_map(row).collect();
    assert_eq!(rows, here, "the rows of docs/fuzzing.md");
}
