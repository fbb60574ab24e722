//! curl at the gateway, which cannot resume: it breaks with its relay, and never ends well too early.

use anyhow::Result;

use super::Run;
use crate::bytes::Content;
use crate::talk::{Bytes, Client};
use crate::world::BEAT;

const NAME: &str = "curl";

pub(super) async fn run(mut run: Run) -> Result<()> {
    let is_read_here = run.draw.below(2) == 0;
    let length = run.draw.length(22);
    let world = &run.world;
    let what = (Content::new(world.seed, run.number * 2), length);
    let pipe = format!("c{}", run.number);
    let page = format!("http://{}/p/{pipe}", run.lane().relay_addr);
    let relays = run.lane().relay.kills();
    let log = |side: &str| format!("{NAME}-{}-{side}", run.number);
    let curl = |args: &[&str], bytes| {
        let command = world.place.command("curl", &log("curl"))?;
        let args: Vec<&str> = ["-sS", "-f", "--max-time", "200"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        Client::start_command(&world.place, &log("curl"), command, &args, bytes)
    };
    let farpipe = |verb: &str, way, bytes| {
        let url = run.lane().url(way);
        let args = [
            verb,
            &pipe,
            "--relay",
            &url,
            "--heartbeat",
            BEAT,
            "--wait",
            "60s",
        ];
        Client::start(&world.place, &log(verb), &args, bytes)
    };
    let input = Bytes {
        input: Some(what),
        ..Bytes::default()
    };
    let output = Bytes {
        output: Some(what),
        ..Bytes::default()
    };
    let (foreign, ours) = if is_read_here {
        (
            curl(&["-T", "-", &page], input)?,
            farpipe("recv", "named", output)?,
        )
    } else {
        let sends = farpipe("send", "writer", input)?;
        (curl(&["-N", &page], output)?, sends)
    };
    let (foreign, ours) = tokio::join!(foreign.end(), ours.end());
    let (foreign, ours) = (foreign?, ours?);
    let may_fail = run.lane().relay.kills() != relays || ours.is_refused();
    let outcomes = [
        run.judge(NAME, &foreign, 0, may_fail),
        run.judge(NAME, &ours, 0, may_fail),
    ];
    run.count(NAME, &outcomes);
    Ok(())
}
