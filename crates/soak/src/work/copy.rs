//! `cp` to the agent's host and back; now and then it is killed and asked for again, or the disk is full.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Run;
use crate::bytes::{Check, Content};
use crate::report::Outcome;
use crate::talk::{Bytes, Client};
use crate::world::{AGENT, BEAT};

const NAME: &str = "copy";

pub(super) async fn run(mut run: Run) -> Result<()> {
    let content = Content::new(run.world.seed, run.number * 2);
    let length = run.draw.length(22);
    let dir = run.world.place.data(&format!("copy-{}", run.number));
    tokio::fs::create_dir_all(&dir).await?;
    let [from, there, back] = ["from", "there", "back"].map(|name| dir.join(name));
    write(&from, content, length).await?;
    let mut outcomes = vec![full(&mut run, &from, length).await?];
    let far = |path: &Path| format!("{AGENT}:{}", path.display());
    for (source, target, made) in [
        (from.display().to_string(), far(&there), &there),
        (far(&there), back.display().to_string(), &back),
    ] {
        let kill_after =
            (run.draw.below(4) == 0).then(|| Duration::from_millis(run.draw.below(1000)));
        if kill_after.is_some() {
            let outcome = copy(&mut run, &source, &target, kill_after).await?;
            if made.exists() {
                compare(&run, made, content, length).await?;
            }
            outcomes.push(outcome);
        }
        loop {
            let outcome = copy(&mut run, &source, &target, None).await?;
            outcomes.push(outcome);
            // Refused is asked again; wrong is told already.
            if outcome.is_some() || made.exists() {
                break;
            }
        }
        compare(&run, made, content, length).await?;
    }
    for entry in std::fs::read_dir(&dir)? {
        let name = entry?.file_name();
        if !["from", "there", "back"].iter().any(|known| name == *known) {
            run.world.report.wrong(
                NAME,
                &format!("run {}: left {}", run.number, name.display()),
            );
        }
    }
    tokio::fs::remove_dir_all(&dir).await?;
    run.count(NAME, &outcomes);
    Ok(())
}

/// A copy goes on over everything that is done to relays and agents.
async fn copy(
    run: &mut Run,
    source: &str,
    target: &str,
    kill_after: Option<Duration>,
) -> Result<Option<Outcome>> {
    let url = run.lane().url(NAME);
    let log = format!("{NAME}-{}-{}", run.number, run.draw.below(1 << 32));
    let args = ["cp", "--relay", &url, "--heartbeat", BEAT, source, target];
    let bytes = Bytes {
        kill_after,
        ..Bytes::default()
    };
    let ended = Client::start(&run.world.place, &log, &args, bytes)?
        .end()
        .await?;
    let refused = ended.is_refused();
    let outcome = run.judge(NAME, &ended, 0, false);
    if refused {
        tokio::time::sleep(Duration::from_millis(500)).await;
        return Ok(None);
    }
    Ok(outcome)
}

/// A disk without room is an error that says so, and nothing appears under the file's name.
async fn full(run: &mut Run, from: &Path, length: u64) -> Result<Option<Outcome>> {
    let disk: PathBuf = run.world.place.dir.join("full");
    if !disk.exists() || length < 1 << 20 || run.draw.below(3) > 0 {
        return Ok(None);
    }
    let (target, url) = (disk.join(format!("f{}", run.number)), run.lane().url(NAME));
    let log = format!("{NAME}-{}-full", run.number);
    let far = format!("{AGENT}:{}", target.display());
    let args = [
        "cp",
        "--relay",
        &url,
        "--heartbeat",
        BEAT,
        &from.display().to_string(),
        &far,
    ];
    let ended = Client::start(&run.world.place, &log, &args, Bytes::default())?
        .end()
        .await?;
    for entry in std::fs::read_dir(&disk)?.flatten() {
        let name = entry.file_name();
        let parts = format!(".f{}.", run.number);
        if name.as_encoded_bytes().starts_with(parts.as_bytes()) {
            std::fs::remove_file(entry.path())?;
        } else if *name == *target.file_name().context("a file has a name")? {
            run.world
                .report
                .wrong(NAME, &format!("run {}: a file on a full disk", run.number));
        }
    }
    if ended.exit == 0 {
        run.world
            .report
            .wrong(NAME, &format!("run {}: success on a full disk", run.number));
    }
    Ok(run.judge(NAME, &ended, 1, true).map(|_| Outcome::Whole))
}

async fn write(path: &Path, content: Content, length: u64) -> Result<()> {
    let mut file = tokio::fs::File::create(path).await?;
    let mut buffer = vec![0; 1 << 16];
    let mut offset = 0;
    while offset < length {
        let part = (length - offset).min(buffer.len() as u64) as usize;
        content.fill(offset, &mut buffer[..part]);
        file.write_all(&buffer[..part]).await?;
        offset += part as u64;
    }
    file.flush().await?;
    Ok(())
}

async fn compare(run: &Run, path: &Path, content: Content, length: u64) -> Result<()> {
    let wrong = |what: &str| {
        let what = format!("run {}: {what} in {}", run.number, path.display());
        run.world.report.wrong(NAME, &what);
    };
    let Ok(mut file) = tokio::fs::File::open(path).await else {
        wrong("no file");
        return Ok(());
    };
    let (mut check, mut buffer) = (Check::new(content), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).await? {
            0 => break,
            part => check.take(&buffer[..part]),
        }
    }
    run.world.report.bytes(NAME, check.right());
    match check.wrong() {
        Some(what) => wrong(&what),
        None if check.right() != length => wrong(&format!("{} of {length} bytes", check.right())),
        None => {}
    }
    Ok(())
}
