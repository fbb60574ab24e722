//! Hosts by name: a relay, an agent, a command, a named pipe, and the page of one.

use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::code;
use crate::output::line;
use crate::signals::Signals;

/// The agent's name.
const HOST: &str = "demo";
/// A command that says something and does not end with 0.
const COMMAND: &str = "echo \"$(uname -s) at your service\"; exit 7";
/// What goes through the named pipe, and how many lines that are.
const NUMBERS: (&str, usize) = ("seq 1 100000", 100_000);
/// What is live on the page.
const TICKER: &str = "sh:while :; do date; sleep 1; done";

/// Shows it; with `stay` until a signal comes.
pub(super) async fn run(program: &Path, stay: bool) -> anyhow::Result<()> {
    line("Hosts by name, through a relay.\n");
    let relay = ["relay", "--listen", "ws://127.0.0.1:0"];
    let (mut relay, url) = start(&mut farpipe(program, "", &relay), "listening on ").await?;
    line(&format!("relay        farpipe relay --listen {url}"));
    line(&format!("             export FARPIPE_RELAY={url}"));
    // It is gone in a moment: what this user runs meanwhile is not to depend on it.
    let agent = ["agent", "--name", HOST, "--allow", "exec", "--no-reuse"];
    let (mut agent, _) = start(&mut farpipe(program, &url, &agent), "registered as ").await?;
    line(&format!(
        "agent        farpipe agent --name {HOST} --allow exec"
    ));
    command(program, &url).await?;
    pipe(program, &url).await?;
    let mut live = page(program, &url).await?;
    if stay {
        line("\nAll of it stays up: try things out in another terminal, ^C ends it.");
        let (signals, cancel) = Signals::catch()?;
        signals.run(farpipe_agent::pipe::cancelled(cancel)).await;
    }
    for process in [&mut live, &mut agent, &mut relay] {
        end(process).await?;
    }
    Ok(())
}

/// Runs a command by the agent's name.
async fn command(program: &Path, url: &str) -> anyhow::Result<()> {
    let args = ["exec", HOST, "--", "sh", "-c", COMMAND];
    let Output { status, stdout, .. } = farpipe(program, url, &args)
        .output()
        .await
        .context("cannot run farpipe exec")?;
    line(&format!(
        "\ncommand      farpipe exec {HOST} -- sh -c '{COMMAND}'"
    ));
    let said = String::from_utf8_lossy(&stdout);
    line(&format!("             {}", said.trim_end()));
    line(&format!(
        "             exit status {}, as it is there",
        code(status)
    ));
    ensure!(
        status.code() == Some(7),
        "the status is another one; please report this"
    );
    Ok(())
}

/// Sends through a named pipe. Its reader comes first.
async fn pipe(program: &Path, url: &str) -> anyhow::Result<()> {
    let mut reader = farpipe(program, url, &["recv", "numbers"]);
    let reader = reader.stdout(Stdio::piped()).spawn();
    let reader = reader.context("cannot start farpipe recv")?;
    let source = format!("sh:{}", NUMBERS.0);
    let writer = farpipe(program, url, &["send", "numbers", &source]).status();
    let (sent, received) = tokio::join!(writer, reader.wait_with_output());
    let sent = sent.context("cannot run farpipe send")?;
    let received = received.context("waiting for farpipe recv")?;
    let lines = received
        .stdout
        .iter()
        .filter(|byte| **byte == b'\n')
        .count();
    line(&format!(
        "\nnamed pipe   farpipe recv numbers | wc -l      {lines}, exit status {}",
        code(received.status)
    ));
    line(&format!(
        "             {} | farpipe send numbers     exit status {}",
        NUMBERS.0,
        code(sent)
    ));
    let is_whole = |status: ExitStatus| status.success();
    if lines != NUMBERS.1 || !is_whole(sent) || !is_whole(received.status) {
        bail!("not all lines came through; please report this");
    }
    Ok(())
}

/// Shows a pipe on a page; what feeds it.
async fn page(program: &Path, url: &str) -> anyhow::Result<Child> {
    let writer = farpipe(program, url, &["send", "live", TICKER]).spawn();
    let writer = writer.context("cannot start farpipe send")?;
    let authority = url.strip_prefix("ws://").context("the relay's address")?;
    let status = get(authority, "/p/live?view").await?;
    line(&format!("\npage         farpipe send live '{TICKER}'"));
    line(&format!(
        "             http://{authority}/p/live?view shows it, and writes"
    ));
    line(&format!(
        "             curl -N http://{authority}/p/live reads it, curl -T - writes"
    ));
    ensure!(
        status == "200",
        "the page answers {status}; please report this"
    );
    Ok(writer)
}

/// The status of an answer.
async fn get(authority: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(authority).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).unwrap_or("nothing");
    Ok(status.to_owned())
}

/// Tells it to end, so that what it has started ends as well.
async fn end(process: &mut Child) -> anyhow::Result<()> {
    let pid = process.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        kill_process(pid, Signal::TERM).context("cannot end a process")?;
    }
    process.wait().await.context("cannot wait for a process")?;
    Ok(())
}

/// This very program; its relays are these, and no local agent of the user has a part in it.
pub(super) fn farpipe(program: &Path, relays: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .env("FARPIPE_RELAY", relays)
        .env("FARPIPE_NO_REUSE", "1")
        .env_remove("FARPIPE_CONFIG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Starts a server; the word behind `ready` in what it says.
pub(super) async fn start(command: &mut Command, ready: &str) -> anyhow::Result<(Child, String)> {
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let stderr = child.stderr.take().context("a server's stderr")?;
    let mut lines = BufReader::new(stderr).lines();
    while let Some(text) = lines.next_line().await? {
        let Some((_, word)) = text.split_once(ready) else {
            line(&text);
            continue;
        };
        let word = word.split(' ').next().unwrap_or_default().to_owned();
        // What it says from now on nobody reads; its pipe must stay open for that.
        child.stderr = Some(lines.into_inner().into_inner());
        return Ok((child, word));
    }
    bail!("a server did not start")
}
