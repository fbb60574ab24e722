//! A topic: published while its relay is killed, and read later, by a group that goes on where it was.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context as _, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;

use super::code;
use super::hosts::{farpipe, start};
use crate::output::line;

/// Lines that are published, half of them before the relay is killed.
const LINES: u64 = 20_000;

/// Where the relay keeps topics; removed at the end.
struct Data(PathBuf);

impl Drop for Data {
    fn drop(&mut self) {
        // A directory that was never made is no concern of anybody's.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Shows it.
pub(super) async fn run(program: &Path) -> anyhow::Result<()> {
    line("\nRecords that are kept, for whoever reads them later.\n");
    let name = format!("farpipe-quickstart-topics-{}", std::process::id());
    let data = Data(std::env::temp_dir().join(name));
    let (mut relay, url) = relay(program, "ws://127.0.0.1:0", &data).await?;
    line(&format!(
        "relay        farpipe relay --listen {url} --data DIR"
    ));
    let mut publish = farpipe(program, &url, &["pub", "logs"])
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start farpipe pub")?;
    let mut stdin = publish.stdin.take().context("a pipe")?;
    stdin.write_all(lines(0..LINES / 2).as_bytes()).await?;
    let first = read(program, &url, "--count=5000").await?;
    relay.kill().await.context("cannot end the relay")?;
    let (mut relay, url) = self::relay(program, &url, &data).await?;
    stdin.write_all(lines(LINES / 2..LINES).as_bytes()).await?;
    drop(stdin);
    let status = publish.wait().await.context("waiting for farpipe pub")?;
    line(&format!(
        "publish      seq {LINES} | farpipe pub logs     exit status {}, the relay killed meanwhile",
        code(status)
    ));
    ensure!(
        status.success(),
        "not all was published; please report this"
    );
    let rest = read(program, &url, "--exit-at-end").await?;
    let is_all = [first, rest].concat() == lines(0..LINES).as_bytes();
    ensure!(is_all, "not each line was read once; please report this");
    line("             together each line once and in order");
    relay.kill().await.context("cannot end the relay")?;
    Ok(())
}

/// What a member of the group writes, which is nothing that another one has written.
async fn read(program: &Path, url: &str, until: &str) -> anyhow::Result<Vec<u8>> {
    let args = ["sub", "logs", "--group", "g", "--from", "earliest", until];
    let read = farpipe(program, url, &args).stdout(Stdio::piped()).output();
    let Output { status, stdout, .. } = read.await.context("cannot run farpipe sub")?;
    let count = stdout.iter().filter(|byte| **byte == b'\n').count();
    line(&format!(
        "read         farpipe sub logs --group g {until}     {count} lines, exit status {}",
        code(status)
    ));
    Ok(stdout)
}

fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|n| format!("{}\n", n + 1)).collect()
}

async fn relay(program: &Path, url: &str, data: &Data) -> anyhow::Result<(Child, String)> {
    let dir = data.0.to_string_lossy();
    let args = ["relay", "--listen", url, "--data", &dir];
    start(&mut farpipe(program, "", &args), "listening on ").await
}
