//! curl at the gateway, which cannot resume: it breaks with its relay, and never ends well too early.

use anyhow::Result;

use super::{Run, named};
use crate::bytes::Content;
use crate::talk::{Bytes, Client};

const NAME: &str = "curl";

pub(super) async fn run(mut run: Run) -> Result<()> {
    let is_read_here = run.draw.below(2) == 0;
    let length = run.draw.length(22);
    let world = &run.world;
    let what = (Content::new(world.seed, run.number * 2), length);
    let pipe = format!("c{}", run.number);
    let page = format!("http://{}/p/{pipe}", run.lane().relay_addr);
    let relays = run.lane().relay.kills();
    let log = format!("{NAME}-{}-curl", run.number);
    let curl = |args: &[&str], bytes| {
        let command = world.place.command("curl", &log)?;
        let args: Vec<&str> = ["-sS", "-f", "--max-time", "200"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        Client::start_command(&world.place, &log, command, &args, bytes)
    };
    let (foreign, ours) = if is_read_here {
        (
            curl(&["-T", "-", &page], Bytes::fed(what))?,
            named::start(&run, NAME, "recv", &pipe, "named", Bytes::wanted(what))?,
        )
    } else {
        let sends = named::start(&run, NAME, "send", &pipe, "writer", Bytes::fed(what))?;
        (curl(&["-N", &page], Bytes::wanted(what))?, sends)
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
