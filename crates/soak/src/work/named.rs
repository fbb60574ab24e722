//! `send` and `recv`: a pipe with a name at a relay that may be killed meanwhile.

use anyhow::Result;

use super::Run;
use crate::bytes::Content;
use crate::talk::{Bytes, Client};
use crate::world::BEAT;

const NAME: &str = "named";

pub(super) async fn run(mut run: Run) -> Result<()> {
    let what = (
        Content::new(run.world.seed, run.number * 2),
        run.draw.length(22),
    );
    let pipe = format!("p{}", run.number);
    let send = start(&run, NAME, "send", &pipe, "writer", Bytes::fed(what))?;
    let recv = start(&run, NAME, "recv", &pipe, NAME, Bytes::wanted(what))?;
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

/// One end of a pipe with a name, by `send` or `recv`, for a run of `work`.
pub(super) fn start(
    run: &Run,
    work: &str,
    verb: &str,
    pipe: &str,
    way: &str,
    bytes: Bytes,
) -> Result<Client> {
    let url = run.lane().url(way);
    let log = format!("{work}-{}-{verb}", run.number);
    let args = [
        verb,
        pipe,
        "--relay",
        &url,
        "--heartbeat",
        BEAT,
        "--wait",
        "60s",
    ];
    Client::start(&run.world.place, &log, &args, bytes)
}
