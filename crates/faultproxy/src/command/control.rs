//! Control lines, from stdin or from a Unix socket.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::args::{DEFAULT_CUT, resolve};
use super::{CommandError, say};
use crate::plan::Cut;
use crate::proxy::Proxy;

/// Where control lines come from.
#[derive(Debug)]
pub(super) struct Control {
    lines: mpsc::Receiver<Line>,
    /// Keeps the queue open where lines cannot come to an end.
    _open: Option<mpsc::Sender<Line>>,
    _tasks: JoinSet<()>,
    socket: Option<PathBuf>,
}

/// A control line and who asked.
#[derive(Debug)]
pub(super) struct Line {
    text: String,
    /// Nobody: the answer goes to stdout.
    answer: Option<oneshot::Sender<String>>,
}

impl Control {
    pub(super) fn open(source: Option<&PathBuf>) -> Result<Self, CommandError> {
        // A full queue makes whoever asks wait.
        let (sender, lines) = mpsc::channel(QUEUE_MAX);
        let mut control = Self {
            lines,
            _open: None,
            _tasks: JoinSet::new(),
            socket: None,
        };
        match source {
            None => control._open = Some(sender),
            Some(source) if source == Path::new("stdin") => {
                // A thread, because a read of stdin cannot be cancelled; it ends with the process.
                std::thread::spawn(move || read_stdin(&sender));
            }
            Some(path) => {
                let listener = listen(path).map_err(|source| CommandError::Control {
                    path: path.clone(),
                    source,
                })?;
                control.socket = Some(path.clone());
                control._tasks.spawn(accept(listener, sender));
            }
        }
        Ok(control)
    }

    /// The next line; `None` at the end of stdin. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Line> {
        self.lines.recv().await
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(path) = &self.socket {
            // It may be gone; then somebody else has tidied up.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Line {
    /// Does what the line says and answers. False: the proxy shall end.
    pub(super) async fn serve(self, proxy: &Proxy) -> Result<bool, CommandError> {
        let request = self.text.parse();
        let quit = matches!(request, Ok(Request::Quit));
        let answer = match request {
            Err(error) => format!("error: {error}"),
            Ok(request) => request.serve(proxy).await,
        };
        match self.answer {
            None => say(&answer)?,
            // Who asked may have gone.
            Some(asked) => _ = asked.send(answer),
        }
        Ok(!quit)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Request {
    Cut(Cut),
    BlackHole(bool),
    Pause(bool),
    Refuse(bool),
    Upstream(String),
    Stats,
    Quit,
}

impl Request {
    async fn serve(self, proxy: &Proxy) -> String {
        match self {
            Self::Cut(cut) => proxy.cut_all(cut),
            Self::BlackHole(on) => proxy.black_hole(on),
            Self::Pause(on) => proxy.pause(on),
            Self::Refuse(on) => {
                if let Err(error) = proxy.refuse(on).await {
                    return format!("error: {error}");
                }
            }
            Self::Upstream(name) => match resolve(&name) {
                Ok(upstream) => proxy.set_upstream(upstream),
                Err(error) => return format!("error: {error}"),
            },
            Self::Stats => return proxy.stats().to_json(),
            Self::Quit => {}
        }
        "ok".to_owned()
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not cut [HOW], blackhole|pause|refuse on|off, upstream HOST:PORT, stats or quit")]
struct RequestError(String);

impl FromStr for Request {
    type Err = RequestError;

    fn from_str(line: &str) -> Result<Self, RequestError> {
        let error = || RequestError(line.trim().to_owned());
        let on = |word: &str| match word {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(error()),
        };
        match *line.split_whitespace().collect::<Vec<_>>() {
            ["cut"] => Ok(Self::Cut(DEFAULT_CUT)),
            ["cut", how] => how.parse().map(Self::Cut).map_err(|_| error()),
            ["blackhole", word] => on(word).map(Self::BlackHole),
            ["pause", word] => on(word).map(Self::Pause),
            ["refuse", word] => on(word).map(Self::Refuse),
            ["upstream", name] => Ok(Self::Upstream(name.to_owned())),
            ["stats"] => Ok(Self::Stats),
            ["quit"] => Ok(Self::Quit),
            _ => Err(error()),
        }
    }
}

fn read_stdin(lines: &mpsc::Sender<Line>) {
    for text in io::stdin().lock().lines() {
        let Ok(text) = text else { return };
        if lines.blocking_send(Line { text, answer: None }).is_err() {
            return;
        }
    }
}

/// Takes the place of a socket that nobody answers on any more.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match std::os::unix::net::UnixStream::connect(path) {
                Err(gone) if gone.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)?;
                    UnixListener::bind(path)
                }
                _ => Err(error),
            }
        }
        bound => bound,
    }
}

async fn accept(listener: UnixListener, lines: mpsc::Sender<Line>) {
    let mut callers = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if callers.len() < CALLERS_MAX => match accepted {
                Ok((caller, _)) => _ = callers.spawn(answer(caller, lines.clone())),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = callers.join_next() => {}
        }
    }
}

/// One caller's lines, one after the other, until it closes or asks something too long.
async fn answer(caller: UnixStream, lines: mpsc::Sender<Line>) {
    let (reader, mut writer) = caller.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut text = String::new();
        match (&mut reader).take(LINE_MAX).read_line(&mut text).await {
            Ok(length) if length > 0 && text.ends_with('\n') => {}
            _ => return,
        }
        let (sender, answered) = oneshot::channel();
        if lines
            .send(Line {
                text,
                answer: Some(sender),
            })
            .await
            .is_err()
        {
            return;
        }
        let Ok(answer) = answered.await else { return };
        if writer
            .write_all(format!("{answer}\n").as_bytes())
            .await
            .is_err()
        {
            return;
        }
    }
}

const QUEUE_MAX: usize = 16;
const CALLERS_MAX: usize = 16;
const LINE_MAX: u64 = 4096;
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        for (line, request) in [
            ("cut", Request::Cut(Cut::Reset)),
            ("cut stall", Request::Cut(Cut::Stall)),
            ("  blackhole   on \n", Request::BlackHole(true)),
            ("pause off", Request::Pause(false)),
            ("refuse on", Request::Refuse(true)),
            (
                "upstream 127.0.0.1:5",
                Request::Upstream("127.0.0.1:5".to_owned()),
            ),
            ("stats", Request::Stats),
            ("quit", Request::Quit),
        ] {
            assert_eq!(line.parse(), Ok(request));
        }
        for line in [
            "",
            "cut flip",
            "cut all now",
            "blackhole",
            "blackhole yes",
            "stat",
        ] {
            let error = line.parse::<Request>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{line}` is not cut")),
                "{error}"
            );
        }
    }
}
