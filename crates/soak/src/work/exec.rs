//! `exec` of a command that gives back what it gets, and ends with a status of its own.

use std::time::Duration;

use anyhow::Result;

use super::Run;
use crate::bytes::Content;
use crate::talk::{Bytes, Client};
use crate::world::{AGENT, BEAT};

const NAME: &str = "exec";

pub(super) async fn run(mut run: Run) -> Result<()> {
    let world = &run.world;
    let what = (
        Content::new(world.seed, run.number * 2),
        run.draw.length(21),
    );
    let exit = [0, 3, 42, 99][run.draw.below(4) as usize];
    let script = format!("cat; exit {exit}");
    let url = run.lane().url(NAME);
    let kills = run.draw.below(20) == 0;
    let kill_after = kills.then(|| Duration::from_millis(run.draw.below(1500)));
    let agents = run.lane().agent.kills();

    let args = [
        "exec",
        "--relay",
        &url,
        "--heartbeat",
        BEAT,
        AGENT,
        "--",
        "sh",
        "-c",
        &script,
    ];
    let bytes = Bytes {
        input: Some(what),
        output: Some(what),
        kill_after,
    };
    let ended = Client::start(
        &world.place,
        &format!("{NAME}-{}", run.number),
        &args,
        bytes,
    )?
    .end()
    .await?;
    // A command dies with its agent.
    let lost_agent = run.lane().agent.kills() != agents;

    let refused = ended.is_refused();
    let outcome = run.judge(NAME, &ended, exit, lost_agent);
    if refused {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    run.count(NAME, &[outcome]);
    Ok(())
}
