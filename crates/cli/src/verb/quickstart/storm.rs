//! A file through a network that keeps failing, with hashes at both ends.

use std::io::{IsTerminal as _, Read as _};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use farpipe_faultproxy::{Config, Cut, Plan, Proxy, Shape, When};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::code;
use crate::exit::WithStatus;
use crate::output::{self, line};

/// How long a connection lives.
const LIFETIME: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(200)..=Duration::from_millis(500);
/// How long the transfer should take, so that there is something to see.
const AIM: Duration = Duration::from_secs(3);
/// Slowest network, in bytes a second.
const RATE_MIN: u64 = 256 * 1024;
/// The file is copied beside the system's temporary files; larger ones fill them.
const FILE_MAX: u64 = 4 << 30;

/// Sends `file` and compares the hashes at both ends.
pub(super) async fn run(program: &Path, file: &Path) -> anyhow::Result<()> {
    let len = length(file)?;
    let copy = Copy::new();

    line("A pipe between two processes, over a network that fails on purpose.\n");
    let (mut listener, address) = listen(program, &copy.path).await?;
    line(&format!(
        "listener     farpipe listen ws://{address} COPY --recv"
    ));

    let rate = NonZeroU64::new((len / AIM.as_secs()).max(RATE_MIN)).context("a rate")?;
    let proxy = proxy(address, rate).context("cannot start the fault proxy")?;
    line(&format!(
        "fault proxy  {} to {address}: resets every connection within {} to {} ms; {:.1} MB/s",
        proxy.addr(),
        LIFETIME.start().as_millis(),
        LIFETIME.end().as_millis(),
        rate.get() as f64 / 1e6
    ));
    line(&format!(
        "sender       farpipe connect ws://{} {} --send\n",
        proxy.addr(),
        file.display()
    ));

    let began = Instant::now();
    let sent = send(program, file, proxy.addr()).await;
    let sent = match sent {
        Ok(status) => status,
        Err(error) => {
            // Nobody will come any more.
            let _ = listener.start_kill();
            return Err(error);
        }
    };
    let received = listener
        .wait_with_output()
        .await
        .context("waiting for the listener")?;
    for text in String::from_utf8_lossy(&received.stderr).lines() {
        line(text);
    }
    let received = received.status;
    let took = began.elapsed();
    let stats = proxy.stop().await;

    line(&format!(
        "\n{len} bytes in {:.1} s; {} connections, {} of them reset, {} with bytes under way",
        took.as_secs_f64(),
        stats.connections,
        stats.cuts(),
        stats.cuts_with_bytes_in_flight
    ));
    line(&format!(
        "exit status  {} at the sender, {} at the listener",
        code(sent),
        code(received)
    ));
    let (here, there) = (hash(file)?, hash(&copy.path)?);
    line(&format!("sha-256      {here}  at the sender"));
    line(&format!("             {there}  at the listener"));
    if here != there || !sent.success() || !received.success() {
        bail!("the copy is not what was sent; please report this");
    }
    line("             equal: nothing lost, doubled or cut short\n");
    Ok(())
}

/// The file's length, if it can be sent at all.
fn length(file: &Path) -> anyhow::Result<u64> {
    let meta =
        std::fs::metadata(file).with_context(|| format!("cannot read '{}'", file.display()))?;
    if !meta.is_file() {
        return Err(WithStatus::usage(
            format!("'{}' is no regular file", file.display()),
            "quickstart compares hashes of a file; give it one",
        ));
    }
    if meta.len() > FILE_MAX {
        return Err(WithStatus::usage(
            format!("'{}' is larger than 4 GiB", file.display()),
            "quickstart copies it to the temporary directory; choose a smaller one",
        ));
    }
    Ok(meta.len())
}

/// Where the listener writes; removed at the end.
struct Copy {
    path: PathBuf,
}

impl Copy {
    fn new() -> Self {
        let name = format!("farpipe-quickstart-{}", std::process::id());
        Self {
            path: std::env::temp_dir().join(name),
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Starts the listener and reads from its stderr where it listens.
async fn listen(program: &Path, copy: &Path) -> anyhow::Result<(Child, SocketAddr)> {
    let mut child = Command::new(program)
        .args(["listen", "ws://127.0.0.1:0"])
        .arg(copy)
        .arg("--recv")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the listener")?;
    let stderr = child.stderr.take().context("the listener's stderr")?;
    let mut lines = BufReader::new(stderr).lines();
    while let Some(text) = lines.next_line().await? {
        let Some(url) = text.strip_prefix("listening on ws://") else {
            line(&text);
            continue;
        };
        let address = url.parse().context("the listener's address")?;
        // It says nothing more unless it fails; its pipe must stay open for that.
        child.stderr = Some(lines.into_inner().into_inner());
        return Ok((child, address));
    }
    bail!("the listener did not start")
}

fn proxy(upstream: SocketAddr, rate: NonZeroU64) -> std::io::Result<Proxy> {
    let mut config = Config::new(upstream);
    config.plan = Plan::of(When::Lifetime(LIFETIME), Cut::Reset);
    config.up = Shape {
        throttle: Some(rate),
        ..Shape::default()
    };
    Proxy::start(config)
}

/// Runs the sender to its end, its progress bar on our terminal.
async fn send(
    program: &Path,
    file: &Path,
    to: SocketAddr,
) -> anyhow::Result<std::process::ExitStatus> {
    let progress = if std::io::stderr().is_terminal() {
        "auto"
    } else {
        "none"
    };
    // The sender writes to the same terminal.
    output::flush();
    Command::new(program)
        .args(["connect", &format!("ws://{to}")])
        .arg(file)
        .args(["--send", "--progress", progress])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .context("cannot start the sender")
}

fn hash(path: &Path) -> anyhow::Result<String> {
    let mut file =
        std::fs::File::open(path).with_context(|| format!("cannot read '{}'", path.display()))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        digest.update(&buffer[..n]);
    }
    Ok(digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
