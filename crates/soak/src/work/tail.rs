//! `tail` of a file that is written to and rotated meanwhile: every line once and in order.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::Run;
use crate::bytes::{Draw, mix};
use crate::process;
use crate::report::Outcome;
use crate::talk::{PATIENCE, is_refusal};
use crate::world::{AGENT, BEAT, a_while};

const NAME: &str = "tail";

pub(super) async fn run(mut run: Run) -> Result<()> {
    let lines = 200 + run.draw.below(20_000);
    let key = mix(run.world.seed ^ run.number);
    let dir = run.world.place.data(&format!("tail-{}", run.number));
    tokio::fs::create_dir_all(&dir).await?;
    let path = dir.join("log");

    let agents = run.lane().agent.kills();
    let log = format!("{NAME}-{}", run.number);
    let mut command = run.world.place.command(&run.world.place.farpipe, &log)?;
    command.args([
        "tail",
        "--relay",
        &run.lane().url(NAME),
        "--heartbeat",
        BEAT,
    ]);
    command.args([
        "--from-start",
        "--names",
        "none",
        &format!("{AGENT}:{}", path.display()),
    ]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a tail")?;
    let mut output = BufReader::new(child.stdout.take().context("stdout is piped")?);
    let mut wrong = None;
    let mut next = 0;
    let is_followed = AtomicBool::new(false);
    let reading = async {
        let mut text = String::new();
        while next < lines {
            text.clear();
            if output.read_line(&mut text).await.unwrap_or(0) == 0 {
                break;
            }
            if text != line(key, next) {
                let found: Option<u64> = text
                    .split(' ')
                    .next()
                    .and_then(|number| number.parse().ok());
                wrong = Some(format!("line {next} is {found:?}: {}", text.trim_end()));
                break;
            }
            next += 1;
            is_followed.store(true, Ordering::Relaxed);
        }
    };
    let writing = write(path.clone(), key, lines, run.draw.clone(), &is_followed);
    let both = async { tokio::join!(writing, reading).0 };
    let stuck = match tokio::time::timeout(PATIENCE, both).await {
        Ok(written) => {
            written?;
            false
        }
        Err(_) => true,
    };
    process::signal(&child, Signal::TERM);
    let exit = match tokio::time::timeout(PATIENCE, child.wait()).await {
        Ok(status) => process::status(status?),
        Err(_) => -1,
    };
    run.world.report.exit(NAME, exit);
    run.world
        .report
        .bytes(NAME, next * line(key, 0).len() as u64);
    let said = tokio::fs::read_to_string(run.world.place.log(&log)).await?;
    // An agent that is killed before it has answered ends a tail; one that is killed later does not.
    let unplaced =
        next == 0 && exit == 125 && (is_refusal(&said) || run.lane().agent.kills() != agents);
    let whole = next == lines && wrong.is_none() && exit == 128 + 15;
    if !whole && !unplaced {
        let end = if stuck { "stuck" } else { "over" };
        let what = wrong.unwrap_or_else(|| format!("{end} at line {next} of {lines}, exit {exit}"));
        run.world.report.wrong(
            NAME,
            &format!(
                "run {}: {what} ({})",
                run.number,
                run.world.place.log(&log).display()
            ),
        );
        return Ok(());
    }
    let _ = tokio::fs::remove_file(run.world.place.log(&log)).await;
    tokio::fs::remove_dir_all(&dir).await?;
    run.count(
        NAME,
        &[Some(if whole {
            Outcome::Whole
        } else {
            Outcome::Harmed
        })],
    );
    Ok(())
}

/// All lines of a run are of one length.
fn line(key: u64, number: u64) -> String {
    format!("{number:012} {:016x}\n", mix(key ^ number))
}

/// In bursts, and sometimes into a new file; old ones stay, so nothing may be missing. What was
/// rotated before the first look is not of the file that was asked for.
async fn write(
    path: PathBuf,
    key: u64,
    lines: u64,
    mut draw: Draw,
    is_followed: &AtomicBool,
) -> Result<()> {
    let mut number = 0;
    let mut rotations = 0;
    while number < lines {
        let burst = (1 + draw.below(1000)).min(lines - number);
        let text: String = (number..number + burst)
            .map(|number| line(key, number))
            .collect();
        append(&path, &text).await?;
        number += burst;
        a_while(&mut draw, 1..150).await;
        if draw.below(8) == 0 && is_followed.load(Ordering::Relaxed) {
            rotations += 1;
            tokio::fs::rename(&path, path.with_extension(rotations.to_string())).await?;
        }
    }
    Ok(())
}

async fn append(path: &Path, text: &str) -> Result<()> {
    let mut file = tokio::fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .await?;
    file.write_all(text.as_bytes()).await?;
    file.flush().await?;
    Ok(())
}
