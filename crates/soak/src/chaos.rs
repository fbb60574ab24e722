//! What goes wrong beside the short lives of connections: drawn from the seed, one thing after the other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use farpipe_faultproxy::Cut;
use tokio::time::Instant;

use crate::bytes::Draw;
use crate::world::{Lane, Role, World, a_while};

/// Until then; says what it does on stderr's log, in the soak's directory.
pub(crate) async fn run(world: Arc<World>, until: Instant, round: u64) -> Result<()> {
    let mut draw = Draw::new(world.seed, 0xc4a0_5000 + round);
    let mut journal = String::new();
    let begin = Instant::now();
    while Instant::now() < until {
        a_while(&mut draw, 500..3000).await;
        let lane = &world.lanes[draw.below(world.lanes.len() as u64) as usize];
        let what = act(&world, lane, &mut draw).await?;
        journal += &format!("{:>9.3} {what}\n", begin.elapsed().as_secs_f64());
        tokio::fs::write(world.place.log("chaos"), &journal).await?;
        watch(&world).await;
    }
    Ok(())
}

async fn act(world: &World, lane: &Lane, draw: &mut Draw) -> Result<String> {
    let (way, proxy) = &lane.ways[draw.below(lane.ways.len() as u64) as usize];
    let role = if draw.below(2) == 0 {
        &lane.relay
    } else {
        &lane.agent
    };
    let millis = 100 + draw.below(2500);
    let time = Duration::from_millis(millis);
    Ok(match draw.below(10) {
        0 | 1 => {
            proxy.cut_all(Cut::BlackHole);
            format!("silence on {way} to {}", lane.relay.name)
        }
        2 => {
            proxy.cut_all(Cut::Stall);
            format!("{way} to {} half open", lane.relay.name)
        }
        3 => {
            proxy.refuse(true).await?;
            tokio::time::sleep(time).await;
            proxy.refuse(false).await?;
            format!("{way} to {} refused for {millis} ms", lane.relay.name)
        }
        4 => {
            proxy.pause(true);
            tokio::time::sleep(time).await;
            proxy.pause(false);
            format!("{way} to {} paused for {millis} ms", lane.relay.name)
        }
        5 | 6 => {
            role.pause(time).await;
            format!("{} stopped for {millis} ms", role.name)
        }
        _ if lane.is_spared => "nothing".to_owned(),
        _ => again(world, role, draw).await?,
    })
}

/// kill -9, and started again, half of the times with another clock.
async fn again(world: &World, role: &Role, draw: &mut Draw) -> Result<String> {
    role.kill().await?;
    a_while(draw, 0..1500).await;
    let shift = (draw.below(2) == 0 && is_root()).then(|| draw.below(10 * 365 * 86_400));
    role.start(&world.place, shift).await?;
    Ok(format!(
        "{} killed and started again, clock {shift:?} s ahead",
        role.name
    ))
}

/// Time namespaces want it.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// None of the long-lived processes ends by itself.
async fn watch(world: &World) {
    for role in world
        .lanes
        .iter()
        .flat_map(|lane| [&lane.relay, &lane.agent])
    {
        if let Some(status) = role.ended().await {
            world.report.wrong(
                "roles",
                &format!("{} ended by itself with {status}", role.name),
            );
        }
    }
}
