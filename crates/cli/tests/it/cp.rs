//! `farpipe cp`: files and trees between real processes. Rows F1 to F8.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use farpipe_faultproxy::{Cut, Dir, Plan, When};
use rustix::process::Signal;

use crate::support::process::until;
use crate::support::{Faults, Host, Invocation, Listener, Running, assert_same, random};

/// A host with an agent that may read and write beneath `there`.
struct Net {
    host: Host,
    agent: Listener,
}

impl Net {
    fn new() -> Self {
        Self::allowing(&["read", "write"])
    }

    fn allowing(what: &[&str]) -> Self {
        let host = Host::new();
        fs::create_dir(host.path("there")).expect("a directory");
        let there = host.path("there").display().to_string();
        let mut agent = host.strict_agent("ws").arg("-v");
        for what in what {
            agent = agent.args(["--allow", &format!("{what}:{there}")]);
        }
        let agent = agent.start_listening();
        Self { host, agent }
    }

    /// A path at the agent.
    fn there(&self, name: &str) -> String {
        self.by(self.agent.url(), name)
    }

    fn by(&self, url: &str, name: &str) -> String {
        format!("[{url}]:{}", self.host.path("there").join(name).display())
    }

    fn cp(&self, args: &[&str]) -> Invocation {
        self.host.farpipe(["cp"]).args(args)
    }

    fn content(&self, name: &str) -> Vec<u8> {
        self.host.content(name)
    }
}

fn tree(at: &Path) {
    fs::create_dir_all(at.join("d/e")).expect("directories");
    fs::create_dir(at.join("empty")).expect("a directory");
    fs::write(at.join("a"), "hello").expect("a file");
    fs::write(at.join("d/new\nline"), "x").expect("a file");
    fs::write(at.join("d/none"), "").expect("a file");
    fs::write(at.join("d/e/large"), random(6_000_000, 1)).expect("a file");
    symlink("../a", at.join("d/link")).expect("a link");
    symlink("/nowhere", at.join("d/dangling")).expect("a link");
    let mode = fs::Permissions::from_mode(0o750);
    fs::set_permissions(at.join("d"), mode).expect("its owner may");
}

/// What diff(1) finds, names and content.
fn assert_same_trees(host: &Host, one: &str, other: &str) {
    let compared = host.shell(&format!(
        "diff -r --no-dereference {one} {other} && \
         (cd {one} && find . -mindepth 1 -printf '%p %m %T@ %l\\n' | sort) > one.list && \
         (cd {other} && find . -mindepth 1 -printf '%p %m %T@ %l\\n' | sort) > other.list && \
         diff one.list other.list"
    ));
    compared.run().exits(0).printed("");
}

#[test]
fn a_tree_goes_there_and_comes_back_and_is_the_same() {
    let net = Net::new();
    tree(&net.host.path("src"));
    net.cp(&["src", &net.there("dst")])
        .run()
        .exits(0)
        .printed("")
        .says("");
    assert_same_trees(&net.host, "src", "there/dst");
    net.cp(&[&net.there("dst"), "back"]).run().exits(0).says("");
    assert_same_trees(&net.host, "src", "back");
    // From one place there to another, by way of here.
    net.cp(&[&net.there("dst"), &net.there("third")])
        .run()
        .exits(0)
        .says("");
    assert_same_trees(&net.host, "src", "there/third");
    // And here, without anybody.
    net.cp(&["src", "fourth"]).run().exits(0).says("");
    assert_same_trees(&net.host, "src", "fourth");
}

#[test]
fn what_is_the_same_already_is_not_copied_again() {
    let net = Net::new();
    tree(&net.host.path("src"));
    let copy = || net.cp(&["-v", "src/.", &net.there("dst")]).run();
    copy().exits(0);
    let before = net
        .host
        .path("there/dst/a")
        .metadata()
        .expect("it is there")
        .ino();
    let said = copy().exits(0).said();
    assert!(
        said.contains("0 files copied, 0 bytes; 6 were the same already"),
        "{said}"
    );
    net.host.file("src/a", "other");
    let said = copy().exits(0).said();
    assert!(said.contains("1 files copied, 5 bytes"), "{said}");
    assert_ne!(
        net.host
            .path("there/dst/a")
            .metadata()
            .expect("it is there")
            .ino(),
        before
    );
    assert_same_trees(&net.host, "src", "there/dst");
}

#[test]
fn things_go_where_cp_would_put_them() {
    let net = Net::new();
    net.host.file("a", "a");
    net.host.file("b", "b");
    // A new name; a directory that is there; several.
    net.cp(&["a", &net.there("new")]).run().exits(0);
    fs::create_dir(net.host.path("there/dir")).expect("a directory");
    net.cp(&["a", &net.there("dir")]).run().exits(0);
    net.cp(&["b", &net.there("new"), "./"]).run().exits(0);
    net.cp(&["a", "b", &net.there("dir/")]).run().exits(0);
    assert_eq!(net.content("there/new"), b"a");
    assert_eq!(net.content("there/dir/a"), b"a");
    assert_eq!(net.content("there/dir/b"), b"b");
    assert_eq!(net.content("new"), b"a");
    // Through a link, as the system does.
    symlink("dir", net.host.path("there/to-dir")).expect("a link");
    net.cp(&["new", &net.there("to-dir")]).run().exits(0);
    assert_eq!(net.content("there/dir/new"), b"a");
    let no = "farpipe: the far end refused: TMP/there/new: it is no directory, and several sources need one";
    net.cp(&["a", "b", &net.there("new")])
        .run()
        .exits(125)
        .says(no);
    net.cp(&["a", &net.there("nothing/")]).run().exits(1);
    assert!(!net.host.path("there/nothing").exists());
}

#[test]
fn what_could_not_be_copied_is_said_and_the_rest_is() {
    let net = Net::new();
    net.host.file("there/a", "a");
    net.host.fifo("there/fifo");
    fs::create_dir(net.host.path("here")).expect("a directory");
    net.cp(&[
        &net.there("none"),
        &net.there("fifo"),
        &net.there("a"),
        "here",
    ])
    .run()
    .exits(1)
    .says(
        "farpipe: ws://127.0.0.1:PORT:TMP/there/none: No such file or directory (os error 2)
         farpipe: ws://127.0.0.1:PORT:TMP/there/fifo: a FIFO is not copied
         farpipe: 2 entries could not be copied",
    );
    assert_eq!(net.content("here/a"), b"a");
}

/// Here a shell would have made names of it.
#[test]
fn a_pattern_at_another_host_is_told_as_what_it_is() {
    let net = Net::new();
    net.host.file("there/a.log", "a");
    net.host.file("there/b[1]", "b");
    fs::create_dir(net.host.path("here")).expect("a directory");
    net.cp(&[&net.there("*.log"), "here"]).run().exits(1).says(
        "farpipe: ws://127.0.0.1:PORT:TMP/there/*.log: No such file or directory (os error 2)
         hint: no patterns are expanded at another host; name the files, or copy the directory that they are in
         farpipe: 1 entry could not be copied",
    );
    // It may be a name.
    net.cp(&[&net.there("b[1]"), "here"])
        .run()
        .exits(0)
        .says("");
    assert_eq!(net.content("here/b[1]"), b"b");
}

#[test]
fn a_dry_run_prints_what_would_be_copied() {
    let net = Net::new();
    tree(&net.host.path("src"));
    let to = net.there("dst");
    let printed = net.cp(&["-n", "src/d", &to]).run().exits(0);
    let printed = String::from_utf8(printed.stdout.clone()).expect("names are escaped");
    let to = to.replace(['[', ']'], "");
    let mut lines: Vec<_> = printed.lines().collect();
    lines.sort_unstable();
    let under = |name: &str| format!("{to}/{name}");
    let (host, path) = to.rsplit_once(':').expect("HOST:PATH");
    let expected = [
        // As a shell would read it, and `$` comes before `/`.
        format!("{host}:$'{path}/new\\nline'"),
        to.clone(),
        under("dangling"),
        under("e"),
        under("e/large"),
        under("link"),
        under("none"),
    ];
    assert_eq!(lines, expected);
    assert!(!net.host.path("there/dst").exists());
}

const DENIED: &str =
    "farpipe: the far end refused: the policy of that host does not allow it; its log says why";

#[test]
fn a_copy_needs_the_policy_at_each_end() {
    let net = Net::allowing(&["read"]);
    net.host.file("there/a", "a");
    net.host.file("secret", "s");
    symlink("../secret", net.host.path("there/out")).expect("a link");
    net.cp(&[&net.there("a"), "b"]).run().exits(0);
    net.cp(&["b", &net.there("c")])
        .run()
        .exits(125)
        .says(DENIED);
    net.cp(&[&net.there("../secret"), "c"])
        .run()
        .exits(125)
        .says(DENIED);
    net.cp(&[&net.there("out"), "c"])
        .run()
        .exits(125)
        .says(DENIED);
    assert!(!net.host.path("c").exists() && !net.host.path("there/c").exists());
    // A link in a tree is a link in the copy.
    net.cp(&[&net.there("."), "all"]).run().exits(0);
    assert!(net.host.path("all/out").is_symlink());
    let net = Net::allowing(&["write"]);
    net.host.file("a", "a");
    net.cp(&["a", &net.there("c")]).run().exits(0);
    net.cp(&[&net.there("c"), "d"])
        .run()
        .exits(125)
        .says(DENIED);
}

/// The number of records in a sidecar.
fn records(host: &Host, name: &str) -> u64 {
    let len = host.path(name).metadata().map_or(0, |meta| meta.len());
    len.saturating_sub(96) / 48
}

/// Starts a copy whose connection stalls after 80 MiB, and waits until some of it is noted as received.
fn stalled(net: &Net, faults: &Faults, args: [&str; 2], sums: &str) -> Running {
    let cp = net.cp(&["--heartbeat", "1h"]).args(args).start();
    until("nothing is on disk", || records(&net.host, sums) > 0);
    until("nothing stalls", || faults.stats().cuts_stall > 0);
    cp
}

/// Rows F6 and F8, by kill -9: nothing appears under the name, and what was on disk is not sent again.
#[test]
fn f6_f8_a_killed_copy_goes_on_where_it_was() {
    let net = Net::new();
    let bytes = random(100 << 20, 3);
    net.host.file("there/large", &bytes);
    net.host.file("large", "before");
    let when = When::Byte {
        dir: Dir::Down,
        at: 80 << 20..=80 << 20,
    };
    let faults = Faults::between(&net.agent, Plan::of(when, Cut::Stall));
    let from = net.by(&faults.url(), "large");
    let mut cp = stalled(&net, &faults, [&from, "large"], ".large.farpipe-sums");
    assert!(cp.is_running());
    cp.kill();
    cp.end();
    assert_eq!(net.content("large"), b"before");
    let kept = records(&net.host, ".large.farpipe-sums") << 20;
    let said = net
        .cp(&["-v", &net.there("large"), "large"])
        .run()
        .exits(0)
        .said();
    let told = format!("large: received part kept, and not read again: {kept} bytes");
    assert!(kept > 0 && said.contains(&told), "{kept}: {said}");
    assert_same(&net.content("large"), &bytes);
    assert_eq!(unfinished(net.host.dir()), 0, "nothing is left over");
}

/// Row F6: what was kept is not what came any more. Once it was believed, and the file was wrong.
#[test]
fn f6_a_part_that_was_changed_after_a_kill_never_becomes_the_file() {
    use std::os::unix::fs::FileExt as _;

    let net = Net::new();
    let bytes = random(100 << 20, 3);
    net.host.file("there/large", &bytes);
    let when = When::Byte {
        dir: Dir::Down,
        at: 80 << 20..=80 << 20,
    };
    let faults = Faults::between(&net.agent, Plan::of(when, Cut::Stall));
    let from = net.by(&faults.url(), "large");
    let cp = stalled(&net, &faults, [&from, "large"], ".large.farpipe-sums");
    cp.kill();
    cp.end();
    let part = net.host.path(".large.farpipe-part");
    let file = fs::OpenOptions::new().write(true).open(&part);
    let file = file.expect("it is there");
    let before = file.metadata().expect("it is open");
    // A change within a tick of the file system's clock after the last write is not told from that write.
    until("the last write is not past", || {
        let since = before.modified().expect("a time").elapsed();
        since.is_ok_and(|since| since > Duration::from_millis(100))
    });
    file.write_all_at(b"not this", 1000).expect("room");
    file.set_modified(before.modified().expect("a time"))
        .expect("its owner may");
    let copy = net.cp(&["-v", &net.there("large"), "large"]);
    let said = copy.run().exits(0).said();
    assert!(
        said.contains("large: begins again: what is kept of it was changed since"),
        "{said}"
    );
    assert_same(&net.content("large"), &bytes);
    assert_eq!(unfinished(net.host.dir()), 0, "nothing is left over");
}

/// A log that is written to all the time is copied as it was; what stands in it then is whole lines or none.
#[test]
fn a_file_that_grows_is_copied_as_it_was() {
    use std::io::Write as _;

    let net = Net::new();
    let log = net.host.path("there/log");
    fs::write(&log, random(8 << 20, 8)).expect("a file");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writing = std::thread::spawn(move || {
        let mut log = fs::OpenOptions::new()
            .append(true)
            .open(log)
            .expect("it is there");
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            log.write_all(b"one more line\n").expect("room");
        }
    });
    net.cp(&[&net.there("log"), "log"]).run().exits(0).says("");
    stop.send(()).expect("it listens");
    writing.join().expect("no panic");
    let (copied, whole) = (net.content("log"), net.content("there/log"));
    assert!(copied.len() >= 8 << 20 && whole.len() > copied.len());
    assert!(whole.starts_with(&copied));
}

/// Names that a copy gives to what is not whole yet, in one directory.
fn unfinished(dir: &Path) -> usize {
    let Ok(names) = fs::read_dir(dir) else {
        return 0;
    };
    let names = names.filter_map(|entry| Some(entry.ok()?.file_name()));
    names
        .filter(|name| name.to_string_lossy().contains(".farpipe-"))
        .count()
}

/// Row F8, with many small files: each is whole or not there, and the next copy tidies up.
#[test]
fn f8_a_killed_copy_of_a_tree_leaves_whole_files_only() {
    let net = Net::new();
    fs::create_dir(net.host.path("src")).expect("a directory");
    let bytes = random(20_000, 9);
    for n in 0..2000 {
        net.host.file(&format!("src/{n}"), &bytes);
    }
    let dst = net.host.path("dst");
    let cp = net.cp(&["src", "dst"]).start();
    until("nothing comes", || unfinished(&dst) > 20);
    cp.kill();
    cp.end();
    assert!(unfinished(&dst) > 0, "it was killed in the middle");
    for entry in fs::read_dir(&dst).expect("a directory") {
        let entry = entry.expect("an entry");
        let is_whole = || fs::read(entry.path()).is_ok_and(|content| content == bytes);
        let name = entry.file_name();
        assert!(
            name.to_string_lossy().contains(".farpipe-part") || is_whole(),
            "{name:?}"
        );
    }
    net.cp(&["src/.", "dst"]).run().exits(0);
    assert_eq!(unfinished(&dst), 0);
    assert_same_trees(&net.host, "src", "dst");
}

#[test]
fn f6_a_copy_that_was_interrupted_keeps_what_came() {
    let net = Net::new();
    let bytes = random(12 << 20, 3);
    net.host.file("there/large", &bytes);
    let when = When::Byte {
        dir: Dir::Down,
        at: 10 << 20..=10 << 20,
    };
    let faults = Faults::between(&net.agent, Plan::of(when, Cut::Stall));
    let from = net.by(&faults.url(), "large");
    let cp = net.cp(&["--heartbeat", "1h", &from, "large"]).start();
    until("nothing comes", || {
        let part = net.host.path(".large.farpipe-part").metadata();
        part.is_ok_and(|meta| meta.len() > 4 << 20)
    });
    cp.signal(Signal::INT);
    cp.end().exits(130).says("");
    let kept = records(&net.host, ".large.farpipe-sums") << 20;
    let said = net
        .cp(&["-v", &net.there("large"), "large"])
        .run()
        .exits(0)
        .said();
    let told = format!("received part kept, and not read again: {kept} bytes");
    assert!(kept >= 4 << 20 && said.contains(&told), "{kept}: {said}");
    assert_same(&net.content("large"), &bytes);
}

/// A lost connection is no end: nothing is sent twice.
#[test]
fn a_cut_connection_is_resumed() {
    let net = Net::new();
    tree(&net.host.path("src"));
    for (dir, at) in [(Dir::Up, 2_000_000), (Dir::Up, 5_900_000), (Dir::Down, 200)] {
        let when = When::Byte { dir, at: at..=at };
        let plan = Plan {
            connections: 0..=0,
            ..Plan::of(when, Cut::Reset)
        };
        let faults = Faults::between(&net.agent, plan);
        let to = net.by(&faults.url(), &format!("dst{at}"));
        net.cp(&["src", &to]).run().exits(0);
        assert!(faults.stats().cuts_reset > 0, "{dir:?} {at}");
        assert_same_trees(&net.host, "src", &format!("there/dst{at}"));
    }
}

#[test]
fn two_hosts_behind_a_relay_are_joined_here() {
    let host = Host::new();
    let relay = host.relay("ws").start_listening();
    let dir = |name: &str| {
        fs::create_dir(host.path(name)).expect("a directory");
        host.path(name).display().to_string()
    };
    let (one, other) = (dir("one"), dir("other"));
    let agent = |name: &str, allow: String| {
        let agent = host.farpipe(["agent", relay.url(), "--name", name]);
        agent.args(["--allow", &allow]).start_registered(1)
    };
    let _agents = [
        agent("web1", format!("read:{one}")),
        agent("db1", format!("write:{other}")),
    ];
    tree(&host.path("one/src"));
    let cp = |args: &[&str]| {
        host.farpipe(["cp", "--relay", relay.url()])
            .args(args)
            .run()
    };
    cp(&[&format!("web1:{one}/src"), &format!("db1:{other}/dst")])
        .exits(0)
        .says("");
    assert_same_trees(&host, "one/src", "other/dst");
    // What is the matter is said with the name of whose it is.
    fs::remove_file(host.path("other/dst/a")).expect("a file");
    fs::create_dir(host.path("other/dst/a")).expect("a directory");
    cp(&[&format!("web1:{one}/src/."), &format!("db1:{other}/dst")])
        .exits(1)
        .says(
            "farpipe: db1:TMP/other/dst/a: a directory is in the way
         farpipe: 1 entry could not be copied",
        );
    cp(&[&format!("db1:{other}/dst"), "here"])
        .exits(125)
        .says(DENIED);
}

/// Row F5.
#[test]
fn f5_a_full_disk_is_said_and_leaves_the_target_as_it_was() {
    let net = Net::new();
    net.host.file("there/large", random(12 << 20, 5));
    let from = net.there("large");
    let script = format!(
        "echo before > large; \"$FARPIPE\" cp \"{from}\" large; echo \"status $?\"; cat large; ls -A"
    );
    let Some(ended) = net.host.with_disk("size=8m", &script) else {
        return;
    };
    let printed = String::from_utf8_lossy(&ended.stdout).into_owned();
    let said = ended.said();
    assert!(
        said.contains("/full/large: No space left on device"),
        "{said}"
    );
    let lines: Vec<_> = printed.lines().collect();
    // What was received can be gone on with.
    assert_eq!(
        lines,
        [
            "status 125",
            "before",
            ".large.farpipe-part",
            ".large.farpipe-sums",
            "large"
        ]
    );
    net.agent
        .stderr_until(|log| log.contains("the other end gave up"));
}

/// Row F5, where not the bytes are used up but the files.
#[test]
fn f5_no_room_for_one_more_file_is_said_and_those_before_are_whole() {
    let net = Net::new();
    fs::create_dir(net.host.path("there/src")).expect("a directory");
    for n in 0..100 {
        net.host.file(&format!("there/src/{n}"), "whole");
    }
    let from = net.there("src");
    let script = format!(
        "\"$FARPIPE\" cp \"{from}\" dst; echo \"status $?\"; \
         find dst -type f ! -name '.*' | xargs -r cat | sed 's/whole//g'"
    );
    let Some(ended) = net.host.with_disk("size=8m,nr_inodes=50", &script) else {
        return;
    };
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "status 125\n");
    let said = ended.said();
    assert!(said.contains("No space left on device"), "{said}");
}

/// Row F5, at the far end: what is the matter there is said here, and what was received goes on when there is room.
#[test]
fn f5_a_full_disk_at_the_far_end_is_said_here_and_goes_on_when_there_is_room() {
    let host = Host::new();
    host.file("large", random(12 << 20, 6));
    let script = "\"$FARPIPE\" agent --listen ws://127.0.0.1:0 --allow \"write:$PWD\" 2> ../log & agent=$!; \
         url=; while [ -z \"$url\" ]; do kill -0 $agent || exit 9; \
         url=$(sed -n 's/.*listening on \\(ws:[^ ,]*\\).*/\\1/p' ../log | head -1); done; \
         echo before > large; \
         \"$FARPIPE\" cp ../large \"[$url]:$PWD/large\"; echo \"status $?\"; cat large; \
         mount -o remount,size=40m .; \
         \"$FARPIPE\" cp -v ../large \"[$url]:$PWD/large\"; echo \"status $?\"; cmp large ../large; ls -A; \
         kill $agent; wait $agent";
    let Some(ended) = host.with_disk("size=8m", script) else {
        return;
    };
    let printed = String::from_utf8_lossy(&ended.stdout).into_owned();
    let said = ended.said();
    assert_eq!(printed, "status 125\nbefore\nstatus 0\nlarge\n", "{said}");
    assert!(said.contains("large: No space left on device"), "{said}");
    assert!(said.contains("received part kept"), "{said}");
}

#[test]
fn a_wrong_command_line_says_what_would_be_right() {
    let host = Host::new();
    host.file("a", "a");
    let cp = |args: &[&str]| host.farpipe(["cp"]).args(args).run();
    cp(&["a"]).exits(2);
    cp(&["a", "web1:x"]).exits(2).says(
        "farpipe: 'web1:x' names a host web1, and no relay was named that may know it
         hint: give --relay wss://HOST:PORT; for a file of that name write ./web1:x",
    );
    cp(&["a", "tcp:x"]).exits(2).says(
        "farpipe: 'tcp:x' begins with what is no host
         hint: for a file of that name write ./tcp:x; a URL stands in brackets: [wss://HOST:PORT]:PATH",
    );
    cp(&["a", "./tcp:x"]).exits(0);
    cp(&["a", "x/../a", "."]).exits(2).says(
        "farpipe: two sources are called 'a'
         hint: the second would replace the first; copy them into different directories",
    );
    fs::create_dir(host.path("d")).expect("a directory");
    cp(&["d", "d/e"]).exits(2).says(
        "farpipe: d cannot be copied into itself
         hint: copy it to a place outside, and move it",
    );
    let same = |args: &[&str], what: &str| {
        let said = format!(
            "farpipe: {what} are the same file
             hint: give another name, or another directory"
        );
        cp(args).exits(2).says(&said);
    };
    same(&["a", "./a"], "a and ./a");
    same(&["a", "."], "a and .");
    fs::hard_link(host.path("a"), host.path("b")).expect("a name");
    same(&["a", "b"], "a and b");
    same(&["d", "."], "d and .");
    let at = "[ws://127.0.0.1:9]:";
    let far = |path: &str| format!("{at}{path}");
    cp(&["a", "b", "."]).exits(0);
    same(&[&far("x/y"), &far("x/./y")], "x/y and x/./y");
    same(&[&far("x/y"), &far("x")], "x/y and x");
    fs::remove_file(host.path("b")).expect("it is there");
    cp(&["none", "b"]).exits(1);
    cp(&["a", "none/b"]).exits(125);
    // Asked for anyway.
    cp(&["-aRpf", "d", "e"]).exits(0);
    assert!(host.path("e").is_dir());
}
