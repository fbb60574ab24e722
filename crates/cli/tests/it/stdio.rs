//! stdin and stdout may be anything a shell can put there, and belong to the shell afterwards.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;

use rustix::fs::OFlags;

use crate::support::{Host, Terminal, assert_same, random};

/// More than any pipe holds.
const SIZE: usize = 3 << 20;

/// What a `connect` with this stdin sends.
fn sent(host: &Host, stdin: impl Into<Stdio>) -> Vec<u8> {
    let listener = host.listen("ws").start_listening();
    host.connect(listener.url()).stdin(stdin).run().exits(0);
    listener.end().exits(0).stdout
}

/// Sends `data` to a `connect` with this stdout.
fn receive(host: &Host, data: &[u8], stdout: impl Into<Stdio>) {
    let listener = host.listen("ws").input(data).start_listening();
    host.connect(listener.url()).stdout(stdout).run().exits(0);
    listener.end().exits(0);
}

fn is_nonblocking(fd: impl AsFd) -> bool {
    let flags = rustix::fs::fcntl_getfl(fd).expect("flags of an open descriptor");
    flags.contains(OFlags::NONBLOCK)
}

#[test]
fn stdin_from_a_pipe() {
    let host = Host::new();
    let data = random(SIZE, 1);
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let kept = reader.try_clone().expect("a second descriptor");
    let input = data.clone();
    let feeding = thread::spawn(move || writer.write_all(&input));
    assert_same(&sent(&host, reader), &data);
    feeding.join().expect("no panic").expect("all was read");
    assert!(
        !is_nonblocking(&kept),
        "the shell's pipe was left non-blocking"
    );
}

#[test]
fn stdin_from_a_file_starts_at_its_position_and_leaves_it_at_the_end() {
    let host = Host::new();
    let data = random(SIZE, 2);
    let mut file = File::open(host.file("data", &data)).expect("the file");
    let mut skipped = [0; 1000];
    file.read_exact(&mut skipped).expect("the beginning");
    let shared = file.try_clone().expect("a second descriptor");
    assert_same(&sent(&host, shared), &data[1000..]);
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).expect("reading on");
    assert_eq!(rest.len(), 0, "the position is the shell's too");
}

#[test]
fn stdin_from_a_fifo() {
    let host = Host::new();
    let data = random(SIZE, 3);
    let fifo = host.fifo("fifo");
    let input = data.clone();
    let feeding = thread::spawn(move || {
        let mut fifo = OpenOptions::new().write(true).open(fifo)?;
        fifo.write_all(&input)
    });
    let reader = File::open(host.path("fifo")).expect("the FIFO");
    assert_same(&sent(&host, reader), &data);
    feeding.join().expect("no panic").expect("all was read");
}

#[test]
fn one_socket_as_stdin_and_stdout() {
    let host = Host::new();
    let (there, back) = (random(SIZE, 4), random(SIZE, 5));
    let (mut ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let stdin = OwnedFd::from(theirs.try_clone().expect("a second descriptor"));
    let kept = theirs.try_clone().expect("a third descriptor");
    let listener = host.listen("ws").input(back.as_slice()).start_listening();
    let connect = host
        .connect(listener.url())
        .stdin(stdin)
        .stdout(OwnedFd::from(theirs))
        .start();
    let mut writer = ours.try_clone().expect("a second descriptor");
    let input = there.clone();
    let feeding = thread::spawn(move || {
        writer.write_all(&input)?;
        writer.shutdown(std::net::Shutdown::Write)
    });
    let mut got = vec![0; back.len()];
    ours.read_exact(&mut got).expect("the answer");
    feeding.join().expect("no panic").expect("all was read");
    connect.end().exits(0);
    listener.end().exits(0).printed(&there);
    assert_same(&got, &back);
    assert!(
        !is_nonblocking(&kept),
        "the shell's socket was left non-blocking"
    );
    // The end came through, though this test holds a descriptor of the other end.
    assert_eq!(
        ours.read(&mut [0]).expect("the end"),
        0,
        "stdout was not shut down"
    );
}

#[test]
fn stdin_from_dev_null_or_closed_is_empty() {
    let host = Host::new();
    assert_eq!(sent(&host, Stdio::null()), b"");
    let listener = host.listen("ws").start_listening();
    let script = format!("exec \"$FARPIPE\" connect {} <&-", listener.url());
    host.shell(&script).run().exits(0);
    listener.end().exits(0).printed("");
}

#[test]
fn stdout_to_a_file_keeps_what_was_there() {
    let host = Host::new();
    let data = random(SIZE, 6);
    for append in [false, true] {
        host.file("out", "kept ");
        let mut options = OpenOptions::new();
        let mut file = options
            .append(append)
            .write(true)
            .open(host.path("out"))
            .expect("out");
        if !append {
            std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).expect("its end");
        }
        receive(&host, &data, file.try_clone().expect("a second descriptor"));
        file.write_all(b" and after").expect("the shell writes on");
        let expected = [b"kept ", data.as_slice(), b" and after"].concat();
        assert_same(&host.content("out"), &expected);
    }
}

#[test]
fn stdout_to_a_fifo() {
    let host = Host::new();
    let data = random(SIZE, 7);
    let fifo = host.fifo("fifo");
    let reading = thread::spawn(move || std::fs::read(fifo));
    let writer = OpenOptions::new()
        .write(true)
        .open(host.path("fifo"))
        .expect("the FIFO");
    receive(
        &host,
        &data,
        writer.try_clone().expect("a second descriptor"),
    );
    assert!(
        !is_nonblocking(&writer),
        "the shell's FIFO was left non-blocking"
    );
    drop(writer);
    assert_same(&reading.join().expect("no panic").expect("the FIFO"), &data);
}

#[test]
fn stdout_to_a_pipe_is_left_blocking() {
    let host = Host::new();
    let data = random(SIZE, 8);
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let kept = writer.try_clone().expect("a second descriptor");
    let reading = thread::spawn(move || {
        let mut got = Vec::new();
        reader.read_to_end(&mut got).map(|_| got)
    });
    receive(&host, &data, writer);
    assert!(
        !is_nonblocking(&kept),
        "the shell's pipe was left non-blocking"
    );
    drop(kept);
    assert_same(&reading.join().expect("no panic").expect("the pipe"), &data);
}

#[test]
fn stdout_to_dev_null_takes_everything() {
    let host = Host::new();
    receive(&host, &random(SIZE, 9), Stdio::null());
}

/// As `cat >&-`: there is nobody to write to, and that is said.
#[test]
fn stdout_closed_fails_at_the_first_byte() {
    let host = Host::new();
    let listener = host.listen("ws").input("lost").start_listening();
    let script = format!("exec \"$FARPIPE\" connect {} >&-", listener.url());
    let said = "farpipe: writing stdout failed: Bad file descriptor (os error 9)";
    host.shell(&script).run().exits(125).says(said);
    let listened = listener.end().exits(125);
    assert!(
        listened.stderr.contains("the far end failed"),
        "{}",
        listened.stderr
    );
    host.file("data", "lost");
    let script = "exec \"$FARPIPE\" pipe data - >&-";
    host.shell(script).run().exits(125).says(said);
    // The command's own stdout is as closed as ours.
    let script = "exec \"$FARPIPE\" pipe data exec:cat >&-";
    let ended = host.shell(script).run().exits(1);
    assert!(
        ended.stderr.contains("Bad file descriptor"),
        "{}",
        ended.stderr
    );
}

#[test]
fn stdout_closed_without_a_byte_is_no_failure() {
    let host = Host::new();
    let listener = host.listen("ws").start_listening();
    let script = format!("echo sent | \"$FARPIPE\" connect {} >&-", listener.url());
    host.shell(&script).run().exits(0);
    listener.end().exits(0).printed("sent\n");
}

#[test]
fn a_full_disk_is_125_at_both_ends() {
    for (name, data) in [("much", random(SIZE, 10)), ("little", b"x".to_vec())] {
        let host = Host::new();
        let full = OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("/dev/full");
        let listener = host.listen("ws").input(data).start_listening();
        let connect = host.connect(listener.url()).stdout(full).run().exits(125);
        assert!(
            connect.stderr.contains("stdout") && connect.stderr.contains("No space left"),
            "{name}: {}",
            connect.stderr
        );
        let listened = listener.end().exits(125);
        assert!(
            listened.stderr.contains("the far end failed"),
            "{name}: {}",
            listened.stderr
        );
        assert!(
            listened.stderr.contains("No space left"),
            "{name}: {}",
            listened.stderr
        );
    }
}

#[test]
fn files_and_fifos_by_name_are_read_and_written() {
    let data = random(SIZE, 11);
    let host = Host::new();
    host.file("source", &data);
    let listener = host.listen("ws").args(["--recv", "sink"]).start_listening();
    host.connect(listener.url())
        .args(["--send", "source"])
        .run()
        .exits(0)
        .printed("");
    listener.end().exits(0).printed("");
    assert_same(&host.content("sink"), &data);

    let fifo = host.fifo("fifo");
    let input = data.clone();
    let feeding = thread::spawn(move || {
        let mut fifo = OpenOptions::new().write(true).open(fifo)?;
        fifo.write_all(&input)
    });
    let listener = host.listen("fp").start_listening();
    host.connect(listener.url())
        .args(["--send", "fifo", "--once"])
        .run()
        .exits(0);
    listener.end().exits(0).printed(&data);
    feeding.join().expect("no panic").expect("all was read");
}

#[test]
fn a_file_to_write_is_not_touched_before_somebody_connects() {
    let host = Host::new();
    host.file("sink", "precious");
    let listener = host.listen("ws").args(["--recv", "sink"]).start_listening();
    assert_eq!(host.content("sink"), b"precious");
    host.connect(listener.url()).input("new").run().exits(0);
    listener.end().exits(0);
    assert_eq!(host.content("sink"), b"new");
}

#[test]
fn with_send_or_recv_the_other_direction_is_not_used() {
    let host = Host::new();
    let listener = host
        .listen("ws")
        .arg("--recv")
        .input("unread")
        .start_listening();
    host.connect(listener.url())
        .arg("--send")
        .input("sent")
        .run()
        .exits(0)
        .printed("");
    listener.end().exits(0).printed("sent");
}

#[test]
fn a_source_that_fails_is_125_at_both_ends() {
    // Its first page is mapped by nobody: reading it is an I/O error.
    for broken in ["connect", "listen"] {
        let host = Host::new();
        let send = ["--send", "/proc/self/mem"];
        let listen = host.listen("ws");
        let listen = if broken == "listen" {
            listen.args(send)
        } else {
            listen
        };
        let listener = listen.start_listening();
        let connect = host.connect(listener.url());
        let connect = if broken == "connect" {
            connect.args(send)
        } else {
            connect
        };
        let connected = connect.open_input().run().exits(125).said();
        let listened = listener.end().exits(125).said();
        let (here, there) = match broken {
            "connect" => (connected, listened),
            _ => (listened, connected),
        };
        const WHY: &str = "reading /proc/self/mem failed: Input/output error (os error 5)\n";
        assert!(here.ends_with(&format!("farpipe: {WHY}")), "{here}");
        assert!(
            there.ends_with(&format!("farpipe: the far end failed: {WHY}")),
            "{there}"
        );
    }
}

/// Nobody can type the end of a terminal's input for a program that has nothing to read it.
#[test]
fn a_terminals_stdin_does_not_hold_the_pipe() {
    let terminal = Terminal::new();
    let host = Host::new();
    let listener = host.listen("ws").input("an answer").start_listening();
    let connect = host.connect(listener.url()).stdin(terminal.open());
    connect.run().exits(0).printed("an answer");
    listener.end().exits(0).printed("");
}

/// A message socket loses what does not fit into a read, and an end is no end.
#[test]
fn sockets_of_messages_are_refused() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let host = Host::new();
    let refused = |stdin: OwnedFd, why: &str| {
        let pipe = host.farpipe(["pipe", "-", "copy"]).stdin(stdin);
        pipe.run()
            .exits(125)
            .says(&format!("farpipe: cannot use stdin: {why}"));
    };
    for kind in [SocketType::SEQPACKET, SocketType::DGRAM] {
        let pair = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.expect("a pair of sockets");
        refused(ours, "it is a socket of messages, not of a stream");
        drop(theirs);
    }
}
