//! The workloads: each runs one thing after the other until the time is over, and knows what is right.

mod copy;
mod curl;
mod exec;
mod forward;
mod named;
mod pipe;
mod tail;

use std::future::Future;
use std::sync::Arc;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bytes::Draw;
use crate::report::Outcome;
use crate::talk::Ended;
use crate::world::{Lane, World};

/// One run of a workload.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) world: Arc<World>,
    pub(crate) number: u64,
    pub(crate) draw: Draw,
    lane: usize,
}

impl Run {
    pub(crate) fn lane(&self) -> &Lane {
        &self.world.lanes[self.lane]
    }

    /// Counts how a client ended, and judges it.
    fn judge(
        &self,
        work: &'static str,
        ended: &Ended,
        exit: i32,
        may_fail: bool,
    ) -> Option<Outcome> {
        self.world.report.exit(work, ended.exit);
        self.world.report.bytes(work, ended.right);
        match ended.judge(exit, may_fail) {
            Ok(outcome) => {
                // Logs of what went well are of no use.
                let _ = std::fs::remove_file(&ended.log);
                Some(outcome)
            }
            Err(what) => {
                self.world
                    .report
                    .wrong(work, &format!("run {}: {what}", self.number));
                None
            }
        }
    }

    fn count(&self, work: &'static str, outcomes: &[Option<Outcome>]) {
        let harmed = outcomes.contains(&Some(Outcome::Harmed));
        let outcome = if harmed {
            Outcome::Harmed
        } else {
            Outcome::Whole
        };
        self.world.report.run(work, outcome);
    }
}

/// Starts every workload on every lane; they end when their run at `until` is over.
pub(crate) fn start(
    world: &Arc<World>,
    until: Instant,
    pipes: usize,
    tasks: &mut JoinSet<Result<()>>,
) {
    for slot in 0..pipes {
        spawn(world, until, slot % 2, "pipe", pipe::run, tasks);
    }
    for lane in 0..world.lanes.len() {
        spawn(world, until, lane, "exec", exec::run, tasks);
        spawn(world, until, lane, "named", named::run, tasks);
        spawn(world, until, lane, "copy", copy::run, tasks);
        spawn(world, until, lane, "tail", tail::run, tasks);
        spawn(world, until, lane, "forward", forward::run, tasks);
        spawn(world, until, lane, "curl", curl::run, tasks);
    }
}

fn spawn<F>(
    world: &Arc<World>,
    until: Instant,
    lane: usize,
    work: &'static str,
    run: fn(Run) -> F,
    tasks: &mut JoinSet<Result<()>>,
) where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let world = Arc::clone(world);
    tasks.spawn(async move {
        while Instant::now() < until {
            let number = world.next_run();
            let draw = Draw::new(world.seed, number);
            let one = Run {
                world: Arc::clone(&world),
                number,
                draw,
                lane,
            };
            if let Err(error) = run(one).await {
                world
                    .report
                    .wrong(work, &format!("run {number}: {error:#}"));
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
        Ok(())
    });
}
