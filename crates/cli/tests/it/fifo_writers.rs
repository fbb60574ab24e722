//! A FIFO has many writers, one after the other: the pipe goes on between them, unless the first
//! was enough.

use rustix::process::Signal;

use crate::support::{Host, Running, assert_same, random};

/// Writes to the FIFO until it has been read, as a command of its own.
#[track_caller]
fn write(host: &Host, text: &str) {
    host.shell(&format!("printf %s {text} >fifo"))
        .run()
        .exits(0);
}

/// Each writer has left before the next one comes.
#[track_caller]
fn writers_in_turn(host: &Host, reader: &Running) {
    let mut expected = String::new();
    for number in 0..20 {
        let text = format!("writer-{number}.");
        write(host, &text);
        expected += &text;
        assert_eq!(reader.stdout_until(expected.len()), expected.as_bytes());
    }
}

#[test]
fn writers_in_turn_all_arrive_on_one_host() {
    let host = Host::new();
    host.fifo("fifo");
    let mut pipe = host.farpipe(["pipe", "fifo", "-"]).start();
    writers_in_turn(&host, &pipe);
    assert!(pipe.is_running());
    pipe.signal(Signal::TERM);
    pipe.end().exits(143);
}

#[test]
fn writers_in_turn_all_arrive_between_hosts() {
    let host = Host::new();
    host.fifo("fifo");
    let listener = host.listen("ws").start_listening();
    let connect = host
        .connect(listener.url())
        .args(["--send", "fifo"])
        .start();
    writers_in_turn(&host, &listener);
    // Between two writers: all is there, and the far end knows it.
    connect.signal(Signal::TERM);
    connect.end().exits(143);
    listener.end().exits(0);

    let listener = host.listen("fp").args(["--send", "fifo"]).start_listening();
    let mut connect = host.connect(listener.url()).start();
    writers_in_turn(&host, &connect);
    assert!(connect.is_running());
    listener.signal(Signal::TERM);
    listener.end().exits(143);
    connect.end().exits(0);
}

/// What a writer has not finished may be half of anything.
#[test]
fn a_signal_in_the_midst_of_a_writer_is_a_failure_at_the_far_end() {
    let host = Host::new();
    let fifo = host.fifo("fifo");
    for is_before_any in [false, true] {
        // With stdin open: the far end waits for nothing of its own.
        let listener = host.listen("ws").open_input().start_listening();
        let connect = host.connect(listener.url());
        let connect = connect.args(["--send", "fifo", "--status-fd", "2"]).start();
        connect.stderr_until(|text| text.contains("connected"));
        let mut writer = None;
        if !is_before_any {
            write(&host, "whole.");
            let mut options = std::fs::File::options();
            let mut half = options.write(true).open(&fifo).expect("the FIFO");
            std::io::Write::write_all(&mut half, b"half").expect("room");
            assert_eq!(listener.stdout_until(10), b"whole.half");
            writer = Some(half);
        }
        connect.signal(Signal::TERM);
        connect.end().exits(143);
        let listener = listener.end().exits(125);
        let why = "farpipe: the far end failed: interrupted";
        assert!(listener.stderr.contains(why), "{}", listener.stderr);
        drop(writer);
    }
}

#[test]
fn a_signal_between_writers_needs_no_end_of_the_far_stdin() {
    for compress in ["none", "zstd"] {
        let host = Host::new();
        host.fifo("fifo");
        let listener = host.listen("ws").open_input().start_listening();
        let connect = host.connect(listener.url());
        let connect = connect
            .args(["--send", "fifo", "--compress", compress])
            .start();
        write(&host, "whole.");
        assert_eq!(listener.stdout_until(6), b"whole.");
        connect.signal(Signal::TERM);
        connect.end().exits(143);
        listener.end().exits(0).printed("whole.");
    }
}

#[test]
fn with_once_the_end_of_the_first_writer_is_the_end() {
    let data = random(3 << 20, 1);
    let host = Host::new();
    host.fifo("fifo");
    host.file("data", &data);
    let pipe = host.farpipe(["pipe", "--once", "fifo", "-"]).start();
    host.shell("cat data >fifo").run().exits(0);
    assert_same(&pipe.end().exits(0).stdout, &data);

    let listener = host.listen("ws").start_listening();
    let connect = host.connect(listener.url());
    let connect = connect.args(["--send", "fifo", "--once"]).start();
    host.shell("cat data >fifo").run().exits(0);
    connect.end().exits(0);
    assert_same(&listener.end().exits(0).stdout, &data);
}

/// No writer has been there, or none is there any more: the end of the reader is heard all the same.
#[test]
fn a_reader_that_goes_away_ends_a_pipe_that_waits_for_the_next_writer() {
    let host = Host::new();
    host.fifo("fifo");
    let script = "{ \"$FARPIPE\" pipe fifo -; echo $? >status; } | head -c 3";
    let pipe = host.shell(script).start();
    write(&host, "one");
    pipe.end().exits(0).printed("one");
    assert_eq!(host.content("status"), b"141\n");

    let listener = host.listen("ws").arg("exec:true").start_listening();
    host.connect(listener.url())
        .args(["--send", "fifo"])
        .run()
        .exits(0);
    listener.end().exits(0);
}

#[test]
fn the_reader_of_a_fifo_that_leaves_ends_the_pipe() {
    let host = Host::new();
    host.fifo("fifo");
    let mut pipe = host.farpipe(["pipe", "-", "fifo"]).open_input().start();
    pipe.write("abcdef");
    host.shell("head -c 3 fifo").run().exits(0).printed("abc");
    pipe.end().exits(141);
}

/// Waiting for the next writer costs no processor time.
#[test]
#[cfg(target_os = "linux")]
fn a_pipe_between_two_writers_sleeps() {
    let host = Host::new();
    host.fifo("fifo");
    let pipe = host.farpipe(["pipe", "fifo", "-"]).start();
    write(&host, "one");
    pipe.stdout_until(3);
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pipe.id()));
        let stat = stat.expect("a running process");
        let fields: Vec<_> = stat
            .rsplit(')')
            .next()
            .expect("fields")
            .split(' ')
            .collect();
        let time = |at: usize| fields[at].parse::<u64>().expect("a number");
        time(12) + time(13)
    };
    let before = ticks();
    std::thread::sleep(std::time::Duration::from_millis(500)); // sleep: the time in which nothing must happen
    let spent = ticks() - before;
    assert!(spent <= 2, "{spent} ticks of 10 ms");
    pipe.signal(Signal::TERM);
    pipe.end().exits(143);
}

#[test]
fn once_is_for_what_comes_more_than_once() {
    let host = Host::new();
    for args in [
        ["pipe", "--once", "-", "x"],
        ["pipe", "--once", "exec:true", "x"],
    ] {
        let ended = host.farpipe(args).run().exits(2);
        assert!(
            ended.stderr.contains("ends by itself: --once is for"),
            "{}",
            ended.stderr
        );
    }
}
