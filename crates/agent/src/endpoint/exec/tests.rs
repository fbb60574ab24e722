//! Tests of commands: real children, their ends, their output.

use std::io::IoSlice;
use std::path::PathBuf;

use rustix::fs::OFlags;

use tokio::time::Instant;

use super::*;
use crate::endpoint::EndpointSpec;

fn start(spec: &str, wanted: Use) -> Endpoint {
    try_start(spec, wanted).expect(spec)
}

fn try_start(spec: &str, wanted: Use) -> Result<Endpoint, OpenError> {
    match spec.parse().expect(spec) {
        EndpointSpec::Exec(words) => open_words(&words, wanted),
        EndpointSpec::Shell(line) => open_shell(&line, wanted),
        other => panic!("{other} is no command"),
    }
}

async fn read(source: &mut dyn Source) -> BytesMut {
    let mut buf = BytesMut::with_capacity(1 << 16);
    let read = poll_fn(|cx| source.poll_read(cx, &mut buf, 1 << 16)).await;
    read.expect("a read");
    buf
}

async fn read_all(source: &mut dyn Source) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let part = read(source).await;
        if part.is_empty() {
            return all;
        }
        all.extend_from_slice(&part);
    }
}

async fn read_line(source: &mut dyn Source) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let part = read(source).await;
        assert!(!part.is_empty(), "an end in the middle of a line");
        line.extend_from_slice(&part);
    }
    String::from_utf8(line).expect("text").trim().to_owned()
}

async fn output_and_exit(spec: &str) -> (String, Exit) {
    let mut endpoint = start(spec, Use::Source);
    let mut source = endpoint.source.take().expect("a source");
    let output = read_all(&mut *source).await;
    let mut child = endpoint.child.take().expect("a child");
    let exit = child.wait().await.expect("a status");
    assert_eq!(child.wait().await.expect("the same status"), exit);
    (String::from_utf8(output).expect("text"), exit)
}

/// Whether a process runs: neither gone nor a zombie that its new parent has not reaped.
fn is_running(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        !state.starts_with('Z') && !state.starts_with('X')
    })
}

/// Waits for something the kernel does soon.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(1)); // sleep: polls another process, with a deadline
    }
}

#[tokio::test]
async fn x1_binary_input_and_output_are_byte_exact_and_half_closed() {
    let mut endpoint = start("exec:cat", Use::Both);
    let (mut source, mut sink) = (endpoint.source.take(), endpoint.sink.take());
    let block: Vec<u8> = (0..=255).cycle().take(65_537).collect();
    let blocks = 512;
    let writing = async {
        let sink = sink.as_mut().expect("a sink");
        for _ in 0..blocks {
            let mut rest = block.as_slice();
            while !rest.is_empty() {
                let len = poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(rest)])).await;
                rest = &rest[len.expect("a write")..];
            }
        }
        // Nothing but this tells cat that there is no more.
        poll_fn(|cx| sink.poll_close(cx)).await.expect("the close");
    };
    let reading = read_all(&mut **source.as_mut().expect("a source"));
    let ((), output) = tokio::join!(writing, reading);
    assert_eq!(output.len(), block.len() * blocks);
    assert!(output.chunks(block.len()).all(|chunk| chunk == block));
    let mut child = endpoint.child.take().expect("a child");
    assert_eq!(child.wait().await.expect("a status"), Exit::Code(0));
}

#[tokio::test]
async fn x2_a_child_whose_reader_goes_away_gets_sigpipe() {
    let mut endpoint = start("exec:yes", Use::Source);
    let mut source = endpoint.source.take().expect("a source");
    assert!(read(&mut *source).await.starts_with(b"y\ny\n"));
    drop(source);
    let exit = endpoint.child.take().expect("a child").wait().await;
    let number = Signal::PIPE.as_raw();
    let core_dumped = false;
    assert_eq!(
        exit.expect("a status"),
        Exit::Signal {
            number,
            core_dumped
        }
    );
}

#[tokio::test]
async fn x2_a_child_that_reads_no_more_is_noticed() {
    let mut endpoint = start("sh:exec <&-; sleep 60", Use::Sink);
    let mut sink = endpoint.sink.take().expect("a sink");
    let _ = poll_fn(|cx| sink.poll_reader_gone(cx)).await;
}

#[tokio::test]
async fn x2_a_closed_or_dropped_sink_is_the_childs_end_of_input() {
    for by_close in [true, false] {
        let mut endpoint = start("sh:cat; echo end", Use::Both);
        let mut sink = endpoint.sink.take().expect("a sink");
        if by_close {
            poll_fn(|cx| sink.poll_close(cx)).await.expect("the close");
        } else {
            drop(sink);
        }
        let mut source = endpoint.source.take().expect("a source");
        assert_eq!(read_all(&mut *source).await, b"end\n");
    }
}

#[tokio::test(start_paused = true)]
async fn x3_a_child_that_ignores_sigterm_is_killed() {
    let line = "sh:trap '' TERM; echo ready; while :; do sleep 0.01; done";
    let mut endpoint = start(line, Use::Source);
    let mut source = endpoint.source.take().expect("a source");
    assert_eq!(read_line(&mut *source).await, "ready");
    let mut child = endpoint.child.take().expect("a child");
    let begin = Instant::now();
    let exit = child.terminate(TERMINATE_GRACE).await.expect("a status");
    assert!(begin.elapsed() >= TERMINATE_GRACE);
    let number = Signal::KILL.as_raw();
    let core_dumped = false;
    assert_eq!(
        exit,
        Exit::Signal {
            number,
            core_dumped
        }
    );
}

#[tokio::test]
async fn x3_a_child_that_heeds_sigterm_has_its_say() {
    let line = "sh:trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.01; done";
    let mut endpoint = start(line, Use::Source);
    let mut source = endpoint.source.take().expect("a source");
    assert_eq!(read_line(&mut *source).await, "ready");
    let mut child = endpoint.child.take().expect("a child");
    let exit = child.terminate(TERMINATE_GRACE).await.expect("a status");
    assert_eq!(exit, Exit::Code(9));
    assert_eq!(read_line(&mut *source).await, "bye");
}

#[tokio::test]
async fn x3_a_stopped_child_has_its_say_as_well() {
    let line = "sh:trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done";
    let mut endpoint = start(line, Use::Source);
    let mut source = endpoint.source.take().expect("a source");
    assert_eq!(read_line(&mut *source).await, "ready");
    let mut child = endpoint.child.take().expect("a child");
    child.signal(Signal::STOP).expect("a signal");
    let exit = child.terminate(TERMINATE_GRACE).await.expect("a status");
    assert_eq!(exit, Exit::Code(9));
}

#[tokio::test]
async fn x3_what_a_child_has_started_is_terminated_with_it() {
    let line = "sh:(trap '' TERM; while :; do sleep 1; done) & echo $!; wait";
    let mut endpoint = start(line, Use::Source);
    let mut source = endpoint.source.take().expect("a source");
    let grandchild = read_line(&mut *source).await;
    let mut child = endpoint.child.take().expect("a child");
    // On a terminal the child is in our own group, and only it is signalled.
    assert_eq!(child.leads_group, !has_terminal());
    assert!(is_running(&grandchild));
    child.terminate(TERMINATE_GRACE).await.expect("a status");
    if child.leads_group {
        until("the grandchild is dead", || !is_running(&grandchild)).await;
    } else {
        let pid = Pid::from_raw(grandchild.parse().expect("a number")).expect("not zero");
        rustix::process::kill_process(pid, Signal::KILL).expect("the grandchild");
    }
}

#[tokio::test(start_paused = true)]
async fn x3_output_held_open_by_a_grandchild_ends_after_two_silent_seconds() {
    let mut endpoint = start("sh:echo hello; sleep 30 & exit 4", Use::Source);
    let mut source = endpoint.source.take().expect("a source");
    let begin = Instant::now();
    assert_eq!(read_all(&mut *source).await, b"hello\n");
    let silent = begin.elapsed();
    assert!(
        silent >= SILENCE_MAX && silent < SILENCE_MAX * 2,
        "{silent:?}"
    );
    assert_eq!(read_all(&mut *source).await, b"", "the end is final");
    let mut child = endpoint.child.take().expect("a child");
    assert_eq!(child.wait().await.expect("a status"), Exit::Code(4));
}

/// One byte now and then, for ever.
#[derive(Debug)]
struct Dripping(Pin<Box<Sleep>>);

impl Source for Dripping {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll(cx).map(Ok)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        _max: usize,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_ready(cx))?;
        self.0 = Box::pin(sleep(SILENCE_MAX * 3 / 4)); // sleep: virtual time
        buf.extend_from_slice(b".");
        Poll::Ready(Ok(1))
    }
}

#[tokio::test(start_paused = true)]
async fn x3_output_that_goes_on_after_the_child_is_no_silence() {
    let mut process = Command::new("true").spawn().expect("true");
    let exited = Exited::watch(Pid::from_child(&process)).expect("a watch");
    process.wait().expect("a status");
    poll_fn(|cx| exited.poll(cx)).await.expect("the end");
    let dripping = Dripping(Box::pin(sleep(SILENCE_MAX * 3 / 4))); // sleep: virtual time
    let mut source = OutputSource::new(dripping, exited);
    for _ in 0..100 {
        assert_eq!(read(&mut source).await, b"."[..]);
    }
}

#[tokio::test]
async fn x3_late_output_of_a_grandchild_is_not_cut_off() {
    let line = "sh:(sleep 0.2; echo late; sleep 0.2; echo later) & echo early";
    let (output, exit) = output_and_exit(line).await;
    assert_eq!(output, "early\nlate\nlater\n");
    assert_eq!(exit, Exit::Code(0));
}

#[tokio::test]
async fn x4_a_dropped_child_is_hung_up_and_reaped() {
    let line = "sh:trap 'echo hung up; exit' HUP; echo ready; while :; do sleep 0.01; done";
    let mut endpoint = start(line, Use::Source);
    let mut source = endpoint.source.take().expect("a source");
    assert_eq!(read_line(&mut *source).await, "ready");
    let child = endpoint.child.take().expect("a child");
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    assert!(process.exists());
    drop(child);
    assert_eq!(read_line(&mut *source).await, "hung up");
    until("the child is reaped", || !process.exists()).await;
}

#[tokio::test]
async fn x4_a_child_that_ended_unwatched_is_reaped_when_dropped() {
    let mut endpoint = start("exec:true", Use::Source);
    let mut source = endpoint.source.take().expect("a source");
    read_all(&mut *source).await;
    let child = endpoint.child.take().expect("a child");
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    drop(child);
    until("the child is reaped", || !process.exists()).await;
}

#[tokio::test]
async fn x4_an_ended_child_gets_no_more_signals() {
    let mut endpoint = start("exec:true", Use::Source);
    let mut child = endpoint.child.take().expect("a child");
    child.wait().await.expect("a status");
    child.signal(Signal::KILL).expect("nothing to do");
    assert_eq!(
        child.terminate(TERMINATE_GRACE).await.expect("a status"),
        Exit::Code(0)
    );
}

#[tokio::test(start_paused = true)]
async fn x5_output_ends_with_the_child_and_not_only_with_the_silence() {
    let begin = Instant::now();
    assert_eq!(output_and_exit("exec:true").await.1, Exit::Code(0));
    assert!(begin.elapsed() < SILENCE_MAX, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn x5_each_end_has_its_own_status() {
    assert_eq!(output_and_exit("sh:exit 7").await.1, Exit::Code(7));
    assert_eq!(output_and_exit("sh:exit 255").await.1, Exit::Code(255));
    assert_eq!(
        output_and_exit("sh:no-such-command 2>&-").await.1,
        Exit::Code(127)
    );
    let number = Signal::KILL.as_raw();
    let core_dumped = false;
    let killed = output_and_exit("sh:kill -KILL $$").await.1;
    assert_eq!(
        killed,
        Exit::Signal {
            number,
            core_dumped
        }
    );
    // Whether a core file is written is up to the system.
    let aborted = output_and_exit("sh:kill -ABRT $$").await.1;
    let number = Signal::ABORT.as_raw();
    assert!(matches!(aborted, Exit::Signal { number: n, .. } if n == number));
}

#[tokio::test]
async fn x5_what_cannot_be_run_says_why() {
    let error = |spec: &str| try_start(spec, Use::Source).expect_err(spec);
    let missing = error("exec:no-such-command --flag");
    assert!(
        matches!(missing, OpenError::CommandNotFound { .. }),
        "{missing}"
    );
    assert!(missing.to_string().contains("no-such-command"), "{missing}");
    let missing = error("exec:/no/such/command");
    assert!(
        matches!(missing, OpenError::CommandNotFound { .. }),
        "{missing}"
    );
    let dir = tempfile::tempdir().expect("a temporary directory");
    let script = dir.path().join("script");
    std::fs::write(&script, "true\n").expect("a file");
    let plain = error(&format!("exec:{}", script.display()));
    assert!(
        matches!(plain, OpenError::CommandNotExecutable { .. }),
        "{plain}"
    );
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let no_interpreter = error(&format!("exec:{}", script.display()));
    assert!(
        matches!(no_interpreter, OpenError::CommandNotExecutable { .. }),
        "{no_interpreter}"
    );
}

/// Descriptors of this process that children inherit.
fn inheritable() -> Vec<String> {
    let is_inheritable = |name: &String| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{name}")).ok();
        let flags = info.and_then(|info| {
            let line = info.lines().find(|line| line.starts_with("flags:"))?;
            u32::from_str_radix(line.trim_start_matches("flags:").trim(), 8).ok()
        });
        flags.is_some_and(|flags| flags & OFlags::CLOEXEC.bits() == 0)
    };
    let entries = std::fs::read_dir("/proc/self/fd").expect("a directory");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(is_inheritable).collect()
}

#[tokio::test]
async fn a_child_inherits_its_three_descriptors_and_no_other() {
    // What this program itself was started with is not ours to judge.
    let before = inheritable();
    let mut other = start("exec:sleep 60", Use::Both);
    let sink = other.sink.as_mut().expect("a sink");
    let gone = poll_fn(|cx| Poll::Ready(sink.poll_reader_gone(cx).is_ready())).await;
    assert!(!gone);
    let (listed, exit) = output_and_exit("sh:ls /proc/$$/fd; :").await;
    assert_eq!(exit, Exit::Code(0));
    let mut leaked: Vec<&str> = listed.lines().collect();
    leaked.retain(|name| !["0", "1", "2"].contains(name));
    leaked.retain(|name| !before.iter().any(|known| known == name));
    assert!(leaked.is_empty(), "descriptors {leaked:?} leaked");
}

#[tokio::test]
async fn children_start_with_sigpipe_at_its_default() {
    let (status, _) = output_and_exit("exec:grep -E ^Sig(Ign|Blk) /proc/self/status").await;
    for line in status.lines() {
        let mask = line.split_whitespace().nth(1).expect("a mask");
        let mask = u64::from_str_radix(mask, 16).expect("a number");
        let pipe = 1_u64 << (Signal::PIPE.as_raw() - 1);
        assert_eq!(mask & pipe, 0, "{line}");
    }
    assert_eq!(status.lines().count(), 2);
}

#[tokio::test]
async fn without_a_pidfd_a_thread_notices_the_end() {
    let mut process = Command::new("sleep").arg("60").spawn().expect("sleep");
    let pid = Pid::from_child(&process);
    let fd = waiting_thread(pid).expect("a thread");
    let exited = Exited(fd::register(fd, Interest::READABLE).expect("a registration"));
    let first = poll_fn(|cx| Poll::Ready(exited.poll(cx).is_ready())).await;
    assert!(!first, "it runs");
    process.kill().expect("a signal");
    poll_fn(|cx| exited.poll(cx)).await.expect("the end");
    // Still there to be reaped.
    assert!(!process.wait().expect("a status").success());
}
