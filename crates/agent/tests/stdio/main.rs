//! `-` in real processes: `examples/stdio_copy.rs` with everything a shell can put on fd 0 and 1.
//!
//! The tests need the example: `cargo test -p farpipe-agent` builds it, `--test stdio` alone does
//! not.

#![cfg(target_os = "linux")]

mod process;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;

use process::*;

fn contents() -> [Vec<u8>; 4] {
    let every_byte: Vec<u8> = (0..=255).collect();
    let long = every_byte.iter().copied().cycle().take(3_000_001).collect();
    [Vec::new(), vec![0], every_byte, long]
}

fn is_nonblocking(fd: &OwnedFd) -> bool {
    rustix::fs::fcntl_getfl(fd)
        .expect("flags")
        .contains(OFlags::NONBLOCK)
}

macro_rules! copies {
    ($($name:ident: $input:ident => $output:ident;)*) => { $(
        #[test]
        fn $name() {
            for content in contents() {
                check_copy(input::$input(&content), output::$output(), &content);
            }
        }
    )* };
}

copies! {
    x1_pipe_to_pipe: pipe => pipe;
    x1_pipe_to_file: pipe => file;
    x1_pipe_to_fifo: pipe => fifo;
    x1_pipe_to_socket: pipe => socket;
    x1_pipe_to_terminal: pipe => terminal;
    x1_file_to_pipe: file => pipe;
    x1_file_to_file: file => file;
    x1_file_to_fifo: file => fifo;
    x1_file_to_socket: file => socket;
    x1_file_to_terminal: file => terminal;
    x1_fifo_to_pipe: fifo => pipe;
    x1_fifo_to_file: fifo => file;
    x1_fifo_to_fifo: fifo => fifo;
    x1_fifo_to_socket: fifo => socket;
    x1_fifo_to_terminal: fifo => terminal;
    x1_socket_to_pipe: socket => pipe;
    x1_socket_to_file: socket => file;
    x1_socket_to_fifo: socket => fifo;
    x1_socket_to_socket: socket => socket;
    x1_socket_to_terminal: socket => terminal;
}

fn check_copy(input: Side, output: Side, content: &[u8]) {
    let out_path = output.dir.path().join("out");
    let child = start(&[], input.theirs, output.theirs);
    let writing = feed(input.ours, content.to_vec());
    // Held by the tests of flags only: here it would keep the end from coming.
    drop((input.shared, output.shared));
    let is_file = output.ours.is_none();
    let reading = collect(output.ours);
    succeed(child);
    writing
        .join()
        .expect("the writing thread")
        .expect("a reader");
    let mut arrived = reading.join().expect("the reading thread");
    if is_file {
        arrived = std::fs::read(out_path).expect("the output");
    }
    assert!(
        arrived == content,
        "{} of {} bytes",
        arrived.len(),
        content.len()
    );
}

#[test]
fn a_terminals_input_comes_line_by_line_and_ends_with_ctrl_d() {
    let (theirs, ours) = terminal();
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let child = start(&[], theirs, writer);
    let mut ours = File::from(ours);
    ours.write_all(b"hello\n").expect("a terminal");
    let mut line = [0; 6];
    reader
        .read_exact(&mut line)
        .expect("the line, before the end");
    assert_eq!(&line, b"hello\n");
    ours.write_all(b"world\n\x04").expect("a terminal");
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).expect("the rest");
    assert_eq!(rest, b"world\n");
    succeed(child);
}

#[test]
fn dev_null_is_empty_and_takes_everything() {
    succeed(start(&[], Stdio::null(), Stdio::null()));
    let input = input::pipe(b"");
    drop(input.shared);
    let child = start(&[], input.theirs, Stdio::null());
    feed(input.ours, vec![1; 3_000_000])
        .join()
        .expect("a thread")
        .expect("a reader");
    succeed(child);
}

#[test]
fn closed_descriptors_are_like_dev_null() {
    for redirection in ["<&-", "<&- >&-", ">&-", "<&- >&- 2>&-"] {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("exec \"$0\" {redirection}"))
            .arg(helper());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        let mut output = Vec::new();
        let stdout = child.stdout.take();
        stdout
            .expect("a pipe")
            .read_to_end(&mut output)
            .expect("the output");
        assert_eq!(output, b"");
        succeed(child);
    }
}

#[test]
fn flags_that_others_share_are_left_alone() {
    type Kinds = (fn(&[u8]) -> Side, fn() -> Side);
    let kinds: [Kinds; 4] = [
        (input::pipe, output::pipe),
        (input::fifo, output::fifo),
        (input::socket, output::socket),
        (input::pipe, output::terminal),
    ];
    for (input, output) in kinds {
        let (input, mut output) = (input(b""), output());
        let shared = [input.shared, output.shared];
        let child = start(&[], input.theirs, output.theirs);
        let mut writer = input.ours.expect("an end");
        writer.write_all(b"x").expect("a reader");
        let reader = output.ours.as_mut().expect("an end");
        reader
            .read_exact(&mut [0])
            .expect("a byte, so it is all set up");
        assert!(
            !shared.iter().any(is_nonblocking),
            "O_NONBLOCK is set while it runs"
        );
        drop(writer);
        succeed(child);
        assert!(
            !shared.iter().any(is_nonblocking),
            "O_NONBLOCK was left behind"
        );
    }
}

#[test]
fn a_terminal_on_both_sides_is_left_as_it_was() {
    let (theirs, ours) = terminal();
    let shared = theirs.try_clone().expect("a duplicate");
    let child = start(&[], theirs.try_clone().expect("a duplicate"), theirs);
    let mut ours = File::from(ours);
    ours.write_all(b"hello\n").expect("a terminal");
    let mut echoed = [0; 7];
    ours.read_exact(&mut echoed).expect("the answer");
    assert_eq!(&echoed, b"hello\r\n");
    assert!(!is_nonblocking(&shared));
    ours.write_all(b"\x04").expect("a terminal");
    succeed(child);
    assert!(!is_nonblocking(&shared));
}

/// Someone else's O_NONBLOCK on what we share must not break us either.
#[test]
fn descriptors_that_came_nonblocking_work() {
    for input in [input::pipe, input::socket] {
        let content: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
        let (input, output) = (input(&content), output::terminal());
        for fd in [&input.shared, &output.shared] {
            rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK).expect("flags");
        }
        check_copy(input, output, &content);
    }
}

#[test]
fn a_dropped_source_breaks_its_writers_pipe_while_the_process_lives() {
    for input in [input::pipe, input::fifo, input::socket] {
        let input = input(b"");
        drop(input.shared);
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let child = start(&["--head", "3", "--linger"], input.theirs, writer);
        let mut writer = input.ours.expect("an end");
        writer.write_all(b"123").expect("a reader");
        let mut output = Vec::new();
        // Ends although the process lives: fd 1 is released as well.
        reader.read_to_end(&mut output).expect("the end");
        assert_eq!(output, b"123");
        // What reads it is closed at the same time, not before.
        let error = loop {
            match writer.write_all(b"4") {
                Ok(()) => std::thread::yield_now(),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        end(child);
    }
}

#[test]
fn a_closed_sink_is_its_readers_end_while_the_process_lives() {
    for output in [output::pipe, output::fifo, output::socket] {
        let output = output();
        drop(output.shared);
        let child = start(&["--linger"], Stdio::null(), output.theirs);
        let arrived = collect(output.ours).join().expect("the reading thread");
        assert_eq!(arrived, b"");
        end(child);
    }
}

#[test]
fn one_socket_for_both_directions_is_half_closed() {
    let (theirs, mut ours) = UnixStream::pair().expect("sockets");
    let shared = OwnedFd::from(theirs.try_clone().expect("a duplicate"));
    let stdin = OwnedFd::from(theirs.try_clone().expect("a duplicate"));
    let child = start(&["--linger"], stdin, OwnedFd::from(theirs));
    ours.write_all(b"hello").expect("a reader");
    ours.shutdown(Shutdown::Write).expect("a half-close");
    let mut output = Vec::new();
    // Ends although the process lives and we hold a duplicate.
    ours.read_to_end(&mut output).expect("the end");
    assert_eq!(output, b"hello");
    assert!(!is_nonblocking(&shared));
    end(child);
}

#[test]
fn x2_a_reader_that_goes_away_is_noticed_while_nothing_is_written() {
    for output in [output::pipe, output::fifo, output::socket] {
        let output = output();
        drop(output.shared);
        // The other end stays open and silent: there is nothing to read.
        let (reader, _silent) = io::pipe().expect("a pipe");
        let child = start(&[], reader, output.theirs);
        drop(output.ours);
        let (status, messages) = finish(child);
        assert_eq!(status.code(), Some(141), "{messages}");
    }
}

#[test]
fn x2_a_thread_that_waits_for_a_terminal_does_not_keep_the_process() {
    let (theirs, _ours) = terminal();
    let (reader, writer) = io::pipe().expect("a pipe");
    let child = start(&[], theirs, writer);
    drop(reader);
    let (status, messages) = finish(child);
    assert_eq!(status.code(), Some(141), "{messages}");
}

#[test]
fn x2_head_ends_the_whole_pipeline() {
    let mut yes = Command::new("yes")
        .stdout(Stdio::piped())
        .spawn()
        .expect("yes");
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let child = start(&[], yes.stdout.take().expect("a pipe"), writer);
    reader.read_exact(&mut [0; 2]).expect("a line");
    drop(reader);
    let (status, messages) = finish(child);
    assert_eq!(status.code(), Some(141), "{messages}");
    let killed_by = yes.wait().expect("a status").signal();
    assert_eq!(killed_by, Some(Signal::PIPE.as_raw()));
}

#[test]
fn a_stalled_reader_blocks_the_writer() {
    let (input, output) = (input::pipe(b""), output::pipe());
    drop((input.shared, output.shared));
    let child = start(&[], input.theirs, output.theirs);
    let mut writer = input.ours.expect("an end");
    rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).expect("flags");
    let mut written = 0_usize;
    let mut refused_since = Instant::now();
    // Two pipes of 1 MiB and a buffer fill up; then nothing moves any more.
    while refused_since.elapsed() < Duration::from_millis(300) {
        match writer.write(&[7; 65_536]) {
            Ok(len) => {
                written += len;
                refused_since = Instant::now();
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                std::thread::sleep(Duration::from_millis(1)); // sleep: polls another process, with a deadline
            }
        }
        assert!(written < 16 << 20, "nothing holds the writer back");
    }
    drop(writer);
    let arrived = collect(output.ours).join().expect("the reading thread");
    assert_eq!(arrived.len(), written);
    succeed(child);
}

#[test]
fn a_file_is_read_from_where_it_stands_and_appended_to_where_asked() {
    let dir = directory();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::write(&from, "0123456789").expect("a file");
    std::fs::write(&to, "before ").expect("a file");
    let mut input = File::open(&from).expect("a file");
    input.read_exact(&mut [0; 4]).expect("four bytes");
    let output = File::options().append(true).open(&to).expect("a file");
    succeed(start(&[], input, output));
    assert_eq!(std::fs::read(&to).expect("a file"), b"before 456789");
}

#[test]
fn a_full_disk_is_a_failure_with_a_name() {
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let input = input::file(b"data");
    let (status, messages) = finish(start(&[], input.theirs, full));
    assert_eq!(status.code(), Some(125));
    assert!(
        messages.contains("stdout") && messages.contains("No space left"),
        "{messages}"
    );
}

/// As after `sudo -u other`: the pipe's owner is someone else.
#[test]
fn pipes_that_may_not_be_reopened_work() {
    let dir = directory();
    let program = dir.path().join("stdio_copy");
    std::fs::copy(helper(), &program).expect("a copy");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), mode).expect("a mode");
    let content: Vec<u8> = (0..=255).cycle().take(2_000_000).collect();
    let (input, output) = (input::pipe(b""), output::pipe());
    for fd in [&input.shared, &output.shared] {
        rustix::fs::fchmod(fd, Mode::empty()).expect("a mode");
    }
    let mut command = Command::new(&program);
    if rustix::process::geteuid().is_root() {
        // The superuser may reopen anything.
        command.uid(65_534).gid(65_534);
    }
    command
        .stdin(input.theirs)
        .stdout(output.theirs)
        .stderr(Stdio::piped());
    let child = command.spawn().expect("stdio_copy");
    drop(command);
    let path = format!("/proc/{}/fd", child.id());
    let writing = feed(input.ours, content.clone());
    let mut reader = output.ours.expect("an end");
    let mut first = vec![0; 1000];
    reader.read_exact(&mut first).expect("the first bytes");
    assert!(Path::new(&path).exists());
    assert!(!is_nonblocking(&input.shared) && !is_nonblocking(&output.shared));
    drop((input.shared, output.shared));
    let rest = collect(Some(reader)).join().expect("the reading thread");
    assert!([first, rest].concat() == content);
    succeed(child);
    writing.join().expect("a thread").expect("a reader");
}

#[test]
fn x2_a_reader_of_a_pipe_that_may_not_be_reopened_is_missed() {
    // See above; here without the change of user where that is not possible anyway.
    let output = output::pipe();
    rustix::fs::fchmod(output.shared.as_fd(), Mode::empty()).expect("a mode");
    drop(output.shared);
    let (reader, _silent) = io::pipe().expect("a pipe");
    let child = start(&[], reader, output.theirs);
    drop(output.ours);
    let (status, messages) = finish(child);
    assert_eq!(status.code(), Some(141), "{messages}");
}

#[test]
fn a_command_inherits_the_half_that_is_not_ours() {
    let (input, output) = (input::pipe(b""), output::pipe());
    drop((input.shared, output.shared));
    // The first command reads our stdin itself, the second writes our stdout itself.
    let arguments = ["sh:tr a-z A-Z", "exec:rev"];
    let child = start(&arguments, input.theirs, output.theirs);
    let writing = feed(input.ours, b"hello\n".to_vec());
    let arrived = collect(output.ours).join().expect("the reading thread");
    assert_eq!(arrived, b"OLLEH\n");
    succeed(child);
    writing.join().expect("a thread").expect("a reader");
}
