//! `farpipe pipe`: two endpoints of one host.

use rustix::process::Signal;

use crate::support::{Host, assert_same, random};

#[test]
fn a_file_into_a_file() {
    let host = Host::new();
    let data = random(3 << 20, 1);
    host.file("source", &data);
    host.farpipe(["pipe", "source", "sink"])
        .run()
        .exits(0)
        .printed("")
        .says("");
    assert_same(&host.content("sink"), &data);
}

/// Under whatever name, and whoever of this host writes: it would be empty before it is read.
#[test]
fn a_file_into_itself_is_refused_and_kept() {
    let host = Host::new();
    host.file("data", "precious");
    std::os::unix::fs::symlink("data", host.path("symlink")).expect("a symbolic link");
    std::fs::hard_link(host.path("data"), host.path("link")).expect("a link");
    for sink in ["data", "symlink", "link"] {
        let said = format!(
            "farpipe: cannot open '{sink}' for writing: it is being read or written by another end
             hint: write to another file and rename it; if it is a session that lost its connection, \
             see `listen --resume-for`"
        );
        let pipe = host.farpipe(["pipe", "data", sink]);
        pipe.run().exits(125).says(&said);
        let script = format!("exec \"$FARPIPE\" pipe - {sink} <data");
        host.shell(&script).run().exits(125).says(&said);
    }
    let script = "exec \"$FARPIPE\" pipe data - >>data";
    let said = "farpipe: the file that is read is the one that is written: that would never end";
    host.shell(script).run().exits(125).says(said);
    assert_same(&host.content("data"), b"precious");
}

#[test]
fn a_file_sent_to_itself_is_refused_and_kept() {
    let host = Host::new();
    host.file("data", "precious");
    let listener = host.listen("ws").args(["data", "--recv"]).start_listening();
    let connect = host.connect(listener.url()).args(["data", "--send"]);
    let refused = "the far end refused: cannot open 'data' for writing: it is being read";
    let connect = connect.run().exits(125);
    assert!(connect.stderr.contains(refused), "{}", connect.stderr);
    listener.end().exits(125);
    assert_same(&host.content("data"), b"precious");
}

/// As with curl: what is there goes when something comes in its place.
#[test]
fn a_file_keeps_its_content_until_something_comes() {
    let host = Host::new();
    host.file("data", "precious");
    host.farpipe(["connect", "ws://127.0.0.1:1", "data", "--recv"])
        .run()
        .exits(125);
    assert_same(&host.content("data"), b"precious");
    host.farpipe(["pipe", "exec:true", "data"]).run().exits(0);
    assert_same(&host.content("data"), b"");
}

/// What was read may still be on its way.
#[test]
fn a_file_that_is_sent_stays_locked_until_the_other_side_has_it() {
    let host = Host::new();
    // More than the pipe at the far end takes, less than it and the credit.
    host.file("data", random(1_200_000, 5));
    let listen = host.listen("ws").args(["data", "--send"]);
    let listener = listen.args(["--progress", "json"]).start_listening();
    let (connect, stdout) = host.connect(listener.url()).unread_stdout();
    let connect = connect.start();
    listener.stderr_until(|said| said.contains("\"sent_bytes\":1200000"));
    let other = host.farpipe(["pipe", "exec:true", "data"]);
    let other = other.run().exits(125);
    assert!(other.stderr.contains("by another end"), "{}", other.stderr);
    stdout.read_on();
    connect.end().exits(0);
    listener.end().exits(0);
    assert_eq!(host.content("data").len(), 1_200_000);
}

#[test]
fn a_file_into_a_command_and_a_command_into_a_file() {
    let host = Host::new();
    let data = random(3 << 20, 2);
    host.file("source", &data);
    host.farpipe(["pipe", "source", "sh:cat >copy"])
        .run()
        .exits(0);
    assert_same(&host.content("copy"), &data);
    host.farpipe(["pipe", "exec:cat copy", "again"])
        .run()
        .exits(0);
    assert_same(&host.content("again"), &data);
}

#[test]
fn stdin_through_a_command_to_stdout() {
    let host = Host::new();
    let data = random(3 << 20, 3);
    host.farpipe(["pipe", "-", "exec:cat"])
        .input(data.as_slice())
        .run()
        .exits(0)
        .printed(&data);
    host.farpipe(["pipe", "exec:cat", "-"])
        .input(data.as_slice())
        .run()
        .exits(0)
        .printed(&data);
}

#[test]
fn two_commands_talk_to_each_other() {
    let host = Host::new();
    let script = "sh:echo hello; exec >&-; cat >answer";
    host.farpipe(["pipe", script, "exec:tr a-z A-Z"])
        .run()
        .exits(0);
    assert_eq!(host.content("answer"), b"HELLO\n");
}

#[test]
fn stdin_into_a_file_and_a_file_to_stdout() {
    let host = Host::new();
    host.farpipe(["pipe", "-", "sink"])
        .input("written")
        .run()
        .exits(0);
    assert_eq!(host.content("sink"), b"written");
    host.farpipe(["pipe", "sink", "-"])
        .run()
        .exits(0)
        .printed("written");
}

#[test]
fn statuses_of_commands_pass_through() {
    let host = Host::new();
    for (source, sink, status) in [
        ("sh:exit 3", "exec:cat", 3),
        ("exec:true", "sh:cat; exit 4", 4),
        ("sh:kill -KILL $$", "exec:cat", 137),
        ("exec:no-such-command", "exec:cat", 127),
        ("exec:cat", "exec:no-such-command", 127),
        ("exec:true", "exec:false", 1),
        ("exec:true", "exec:true", 0),
    ] {
        host.farpipe(["pipe", source, sink]).run().exits(status);
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_writer() {
    let host = Host::new();
    let script = "{ \"$FARPIPE\" pipe exec:yes -; echo $? >status; } | head -1";
    host.shell(script).run().exits(0).printed("y\n");
    assert_eq!(host.content("status"), b"141\n");
    // A command that reads only the beginning has not failed, nor has who wrote to it.
    host.farpipe(["pipe", "-", "exec:head -c 3"])
        .input("abcdef")
        .run()
        .exits(0)
        .printed("abc");
}

#[test]
fn failures_of_files_are_125() {
    let host = Host::new();
    host.file("source", "data");
    host.farpipe(["pipe", "missing", "sink"])
        .run()
        .exits(125)
        .says("farpipe: cannot open 'missing' for reading: no such file or directory");
    let full = host
        .farpipe(["pipe", "source", "/dev/full"])
        .run()
        .exits(125);
    assert!(
        full.stderr.contains("No space left on device"),
        "{}",
        full.stderr
    );
    host.farpipe(["pipe", "-", "-"]).run().exits(2).says(
        "farpipe: SRC and DST are both `-`: that is cat
         hint: name a command or a file as one of them",
    );
}

#[test]
fn a_signal_ends_both_commands() {
    let host = Host::new();
    let mut pipe = host
        .farpipe(["pipe", "-", "sh:echo $$ >pid; echo up; exec cat"])
        .open_input()
        .start();
    pipe.stdout_until(3);
    assert!(pipe.is_running());
    pipe.signal(Signal::TERM);
    pipe.end().exits(143);
    let pid = String::from_utf8(host.content("pid")).expect("a number");
    let alive = std::path::Path::new("/proc").join(pid.trim()).exists();
    assert!(!alive, "the command is an orphan");
}
