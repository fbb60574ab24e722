//! `send` and `recv`: a pipe with a name at a relay that may be killed meanwhile.

use anyhow::Result;

use super::Run;
use crate::bytes::Content;
use crate::talk::{Bytes, Client};
use crate::world::BEAT;

const NAME: &str = "named";

pub(super) async fn run(mut run: Run) -> Result<()> {
    let world = &run.world;
    let what = (
        Content::new(world.seed, run.number * 2),
        run.draw.length(22),
    );
    let pipe = format!("p{}", run.number);
    let start = |verb: &str, way, bytes| {
        let url = run.lane().url(way);
        let log = format!("{NAME}-{}-{verb}", run.number);
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
        Client::start(&world.place, &log, &args, bytes)
    };
    let send = start(
        "send",
        "writer",
        Bytes {
            input: Some(what),
            ..Bytes::default()
        },
    )?;
    let recv = start(
        "recv",
        NAME,
        Bytes {
            output: Some(what),
            ..Bytes::default()
        },
    )?;
    let (send, recv) = tokio::join!(send.end(), recv.end());
    let (send, recv) = (send?, recv?);
    // Who waits for one that was refused waits in vain.
    let alone = send.is_refused() || recv.is_refused();
    let outcomes = [
        run.judge(NAME, &send, 0, alone),
        run.judge(NAME, &recv, 0, alone),
    ];
    run.count(NAME, &outcomes);
    Ok(())
}
