//! The command as scripts use it: as a child process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

/// A running command; killed when a test fails.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
    addr: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(flags: &[&str]) -> Running {
    let mut child = Command::new(env!("CARGO_BIN_EXE_farpipe-faultproxy"))
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let stderr = child.stderr.take().unwrap();
    let first = line(&mut stdout);
    let addr = first
        .strip_prefix("listening on ")
        .unwrap_or_else(|| panic!("{first:?}"))
        .parse()
        .unwrap();
    Running {
        child,
        stdout,
        stderr,
        addr,
    }
}

fn line(stdout: &mut impl BufRead) -> String {
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

impl Running {
    fn ask(&mut self, request: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{request}").unwrap();
        line(&mut self.stdout)
    }

    /// Waits for the end; the last line of stdout and all of stderr.
    fn end(mut self) -> (String, String) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let mut errors = String::new();
        self.stderr.read_to_string(&mut errors).unwrap();
        assert!(self.child.wait().unwrap().success());
        (rest.lines().last().unwrap_or_default().to_owned(), errors)
    }
}

fn upstream() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (listener, addr)
}

#[test]
fn passes_bytes_and_answers_control_lines_on_stdin() {
    let (listener, to) = upstream();
    let mut running = start(&[
        "--to",
        &to,
        "--seed",
        "5",
        "--control",
        "stdin",
        "-v",
        "--cut-byte",
        "up:5@half",
    ]);
    let mut client = TcpStream::connect(running.addr).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"hello, world").unwrap();
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"hello");
    let stats = running.ask("stats");
    assert!(
        stats.starts_with("{\"cuts\":1,\"connections\":1,") && stats.contains("\"bytes_up\":5,"),
        "{stats}"
    );
    assert!(
        running
            .ask("explode")
            .starts_with("error: `explode` is not cut [HOW]")
    );
    assert!(
        running
            .ask("upstream nowhere")
            .starts_with("error: cannot resolve `nowhere`")
    );
    assert_eq!(running.ask("refuse on"), "ok");
    assert!(TcpStream::connect(running.addr).is_err());
    assert_eq!(running.ask("refuse off"), "ok");
    let (_elsewhere, other) = upstream();
    assert_eq!(running.ask(&format!("upstream {other}")), "ok");
    assert_eq!(running.ask("pause on"), "ok");
    assert_eq!(running.ask("pause off"), "ok");
    assert_eq!(running.ask("blackhole off"), "ok");
    assert_eq!(running.ask("cut"), "ok");
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let addr = running.addr;
    let (last, errors) = running.end();
    assert!(
        last.contains("\"cuts_reset\":1,") && last.contains("\"cuts_half_close\":1,"),
        "{last}"
    );
    assert!(
        errors.starts_with(&format!(
            "replay with: farpipe-faultproxy --listen 127.0.0.1:0 --to {to} --seed 5 --fault byte:up:5@half\n"
        )),
        "{errors} {addr}"
    );
    let expected = "connection 0: at byte 5 up half; half-closed after ";
    assert!(
        errors.contains(expected) && errors.contains(" with 5 bytes up, 0 down; reset after "),
        "{errors}"
    );
}

#[test]
fn ends_in_order_on_a_signal_and_leaves_stdin_alone() {
    let (_listener, to) = upstream();
    let mut running = start(&["--to", &to]);
    drop(running.child.stdin.take());
    let client = TcpStream::connect(running.addr).unwrap();
    let pid = rustix::process::Pid::from_child(&running.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let (last, errors) = running.end();
    assert!(last.starts_with("{\"cuts\":"), "{last}");
    assert!(
        errors.contains(" --seed "),
        "a seed that was not given is printed: {errors}"
    );
    drop(client);
}

#[test]
fn answers_control_lines_on_a_socket_and_takes_the_place_of_a_dead_one() {
    let dir = std::env::temp_dir().join(format!("farpipe-faultproxy-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("control");
    // What a killed proxy leaves.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (_listener, to) = upstream();
    let running = start(&["--to", &to, "--control", path.to_str().unwrap()]);
    let mut socket = BufReader::new(UnixStream::connect(&path).unwrap());
    for (request, answer) in [
        ("pause on", "ok"),
        ("stats", "{\"cuts\":0,"),
        ("what", "error: `what`"),
        ("quit", "ok"),
    ] {
        writeln!(socket.get_mut(), "{request}").unwrap();
        let got = line(&mut socket);
        assert!(got.starts_with(answer), "{request}: {got}");
    }
    running.end();
    assert!(!path.exists());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn errors_are_clear_and_fail() {
    let (listener, to) = upstream();
    let taken = listener.local_addr().unwrap().to_string();
    for (flags, code, words) in [
        (
            vec!["--to", &to, "--lifetime", "2..9"],
            2,
            "`2` is not a time such as 250us, 2ms, 1.5s or 2m",
        ),
        (
            vec!["--to", &to, "--cut-byte", "up:9..5"],
            1,
            "a range ends before it starts",
        ),
        (
            vec!["--to", &to, "--listen", &taken],
            1,
            "cannot listen on 127.0.0.1:",
        ),
        (vec!["--to", "nowhere"], 1, "cannot resolve `nowhere`"),
        (
            vec!["--to", &to, "--control", "/nowhere/at/all"],
            1,
            "cannot make the control socket /nowhere/at/all: ",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_farpipe-faultproxy"))
            .args(&flags)
            .output()
            .unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{flags:?} {errors}");
        assert!(errors.contains(words), "{flags:?} {errors}");
        assert!(output.stdout.is_empty());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn short_lives_leave_no_descriptor() {
    let (listener, to) = upstream();
    let mut running = start(&[
        "--to",
        &to,
        "--lifetime",
        "2ms..9ms",
        "--control",
        "stdin",
        "--how",
        "reset,fin",
    ]);
    let descriptors = |running: &Running| {
        std::fs::read_dir(format!("/proc/{}/fd", running.child.id()))
            .unwrap()
            .count()
    };
    let before = descriptors(&running);
    let server = std::thread::spawn(move || {
        for _ in 0..500 {
            drop(listener.accept().unwrap());
        }
    });
    let (mut clients, mut connected) = (Vec::new(), 0);
    // The upstream hears of those that live long enough, nearly all.
    while !server.is_finished() {
        clients.extend(TcpStream::connect(running.addr));
        if clients.len() == 20 {
            connected += clients.len();
            clients.clear();
        }
    }
    connected += clients.len();
    drop(clients);
    server.join().unwrap();
    // Some may still be in the backlog, and are accepted although their client has gone; on a busy
    // machine not all.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let is_quiet = |running: &mut Running| {
        running.ask("stats").contains("\"live\":0,") && descriptors(running) == before
    };
    while !is_quiet(&mut running) {
        assert!(
            std::time::Instant::now() < until,
            "descriptors are left of {connected}"
        );
        std::thread::yield_now();
    }
    running.end();
}
