//! `listen` and `connect`, both ways at once, over connections of a few milliseconds.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Run;
use crate::bytes::Content;
use crate::talk::{Bytes, Client};
use crate::world::{BEAT, Lives, cutting};

const NAME: &str = "pipe";
/// A handshake is some 500 bytes.
const LIVES: Lives = Lives {
    bytes: 100..=50_000,
    millis: 3..=100,
};

pub(super) async fn run(mut run: Run) -> Result<()> {
    let world = &run.world;
    let number = run.number;
    let there = (Content::new(world.seed, number * 2), run.draw.length(23));
    let back = (
        Content::new(world.seed, number * 2 + 1),
        run.draw.length(23),
    );
    let kills = run.draw.below(40) == 0;
    let kill_after = kills.then(|| Duration::from_millis(run.draw.below(1500)));
    let scheme = ["ws", "fp"][run.draw.below(2) as usize];
    let listen = format!("{scheme}://127.0.0.1:0");
    let log = |side: &str| format!("{NAME}-{number}-{side}");
    let args = [
        "listen",
        &listen,
        "--heartbeat",
        BEAT,
        "--resume-for",
        "20s",
    ];
    let bytes = Bytes {
        input: Some(back),
        output: Some(there),
        kill_after: None,
    };
    let mut listener = Client::start(&world.place, &log("listen"), &args, bytes)?;
    let url = listener.says("listening on ").await?;
    let addr = url.split("//").nth(1).context("a URL has slashes")?;

    let proxy = cutting(addr.parse()?, world.seed ^ number, LIVES)?;
    let url = format!("{scheme}://{}", proxy.addr());
    let args = ["connect", &url, "--heartbeat", BEAT];
    let bytes = Bytes {
        input: Some(there),
        output: Some(back),
        kill_after,
    };
    let connect = Client::start(&world.place, &log("connect"), &args, bytes)?;
    let (connect, listener) = tokio::join!(connect.end(), listener.end());
    let (connect, listener) = (connect?, listener?);
    let stats = proxy.stop().await;
    world
        .report
        .cuts(NAME, stats.cuts(), stats.cuts_with_bytes_in_flight);
    // A listener whose other end was killed has a part at most, and may not call it a success.
    let outcomes = [
        run.judge(NAME, &connect, 0, false),
        run.judge(NAME, &listener, 0, connect.killed),
    ];
    run.count(NAME, &outcomes);
    Ok(())
}
