//! `farpipe cp` goes on by itself when an agent is killed and started again in the middle, and a copy of a
//! directory that was cut goes on in it when it is asked for again.

use std::fs;
use std::num::NonZeroU64;

use crate::support::process::until;
use crate::support::{Faults, Host, Invocation, Listener, Running, assert_same, random};

/// So slow that a copy is still under way when something of it is on disk.
fn slow(url: &str) -> Faults {
    Faults::before(url, |config| {
        let rate = NonZeroU64::new(6 << 20);
        (config.up.throttle, config.down.throttle) = (rate, rate);
    })
}

const LARGE: usize = 20 << 20;

/// A host that has a directory for an agent.
fn host() -> Host {
    let host = Host::new();
    fs::create_dir(host.path("there")).expect("a directory");
    host
}

fn agent(host: &Host, url: &str) -> Invocation {
    let there = host.path("there").display().to_string();
    let agent = host.farpipe(["agent", "--listen", url]);
    let agent = agent.args(["--allow", &format!("read:{there}")]);
    agent.args(["--allow", &format!("write:{there}")])
}

fn kill(running: Running) {
    running.kill();
    running.end();
}

/// Waits until something of a large file is noted as being on disk.
fn noted(host: &Host, sums: &str) {
    until("nothing is on disk", || {
        host.path(sums).metadata().is_ok_and(|meta| meta.len() > 96)
    });
}

/// It has gone on by itself; what it said.
#[track_caller]
fn went_on(cp: Running) -> String {
    let said = cp.end().exits(0).said();
    assert!(said.contains("the copy is asked for anew in"), "{said}");
    said
}

/// Names that a copy gives to what is not whole.
fn unfinished(host: &Host, dir: &str) -> usize {
    let names = fs::read_dir(host.path(dir)).expect("a directory");
    let names = names.map(|entry| entry.expect("an entry").file_name());
    let ours = names.filter(|name| name.to_string_lossy().contains(".farpipe-"));
    ours.count()
}

#[test]
fn a_copy_outlives_the_agent_that_receives_it() {
    let host = host();
    let first = agent(&host, "ws://127.0.0.1:0").start_listening();
    let url = first.url().to_owned();
    let bytes = random(LARGE, 1);
    fs::create_dir(host.path("src")).expect("a directory");
    host.file("src/a", "a");
    host.file("src/large", &bytes);
    let faults = slow(&url);
    let to = format!("[{}]:{}", faults.url(), host.path("there/new").display());
    let cp = host.farpipe(["cp", "-v", "src", &to]).start();
    noted(&host, "there/new/.large.farpipe-sums");
    kill(first.into_running());
    let second = agent(&host, &url).arg("-v").start_listening();
    went_on(cp);
    second.stderr_until(|log| log.contains("bytes kept"));
    assert_same(&host.content("there/new/large"), &bytes);
    assert_same(&host.content("there/new/a"), b"a");
    assert_eq!(unfinished(&host, "there/new"), 0);
}

#[test]
fn a_copy_outlives_the_agent_that_sends_it() {
    let host = host();
    let first = agent(&host, "ws://127.0.0.1:0").start_listening();
    let url = first.url().to_owned();
    let bytes = random(LARGE, 2);
    host.file("there/large", &bytes);
    let faults = slow(&url);
    let from = format!("[{}]:{}", faults.url(), host.path("there/large").display());
    let cp = host.farpipe(["cp", "-v", &from, "large"]).start();
    noted(&host, ".large.farpipe-sums");
    kill(first.into_running());
    let _second = agent(&host, &url).start_listening();
    let said = went_on(cp);
    let kept = "received part kept, and not read again";
    assert!(said.contains(kept), "{said}");
    assert_same(&host.content("large"), &bytes);
    assert_eq!(unfinished(&host, "."), 0);
}

/// A source that is another one behind the restart is never mixed with what was kept.
#[test]
fn a_source_that_is_another_one_then_is_copied_from_its_beginning() {
    let host = host();
    let first = agent(&host, "ws://127.0.0.1:0").start_listening();
    let url = first.url().to_owned();
    host.file("there/large", random(LARGE, 2));
    let faults = slow(&url);
    let from = format!("[{}]:{}", faults.url(), host.path("there/large").display());
    let cp = host.farpipe(["cp", "-v", &from, "large"]).start();
    noted(&host, ".large.farpipe-sums");
    kill(first.into_running());
    let bytes = random(LARGE, 3);
    host.file("there/large", &bytes);
    let _second = agent(&host, &url).start_listening();
    let said = cp.end().exits(0).said();
    assert!(said.contains("begins again"), "{said}");
    assert_same(&host.content("large"), &bytes);
}

/// Two agents behind a relay, and which of them is killed.
fn between(killed: usize) {
    let host = host();
    fs::create_dir(host.path("other")).expect("a directory");
    let relay: Listener = host.relay("ws").start_listening();
    let agent = |index: usize| {
        let (name, allow) = [("web1", "read"), ("db1", "write")][index];
        let dir = host.path(["there", "other"][index]).display().to_string();
        let agent = host.farpipe(["agent", "-v", relay.url(), "--name", name]);
        let agent = agent.args(["--allow", &format!("{allow}:{dir}")]);
        agent.start_registered(1)
    };
    let mut agents = vec![agent(0), agent(1)];
    let bytes = random(LARGE, 4);
    host.file("there/large", &bytes);
    let faults = slow(relay.url());
    let at = |name: &str, path: &str| format!("{name}:{}", host.path(path).display());
    let cp = host.farpipe(["cp", "-v", "--relay", &faults.url()]);
    let cp = cp.args([at("web1", "there/large"), at("db1", "other/large")]);
    let cp = cp.start();
    noted(&host, "other/.large.farpipe-sums");
    kill(agents.remove(killed));
    agents.insert(killed, agent(killed));
    went_on(cp);
    agents[1].stderr_until(|log| log.contains("bytes kept"));
    assert_same(&host.content("other/large"), &bytes);
    assert_eq!(unfinished(&host, "other"), 0);
}

#[test]
fn a_copy_between_two_hosts_outlives_the_agent_of_its_source() {
    between(0);
}

#[test]
fn a_copy_between_two_hosts_outlives_the_agent_of_its_target() {
    between(1);
}

#[test]
fn a_directory_that_is_not_whole_is_gone_on_with_and_one_that_is_copied_into() {
    let host = host();
    let agent = agent(&host, "ws://127.0.0.1:0").start_listening();
    let bytes = random(LARGE, 5);
    fs::create_dir_all(host.path("src/d")).expect("directories");
    host.file("src/a", "a");
    host.file("src/d/large", &bytes);
    let to = |url: &str| format!("[{url}]:{}", host.path("there/new").display());
    let copy = |url: &str| host.farpipe(["cp", "src", &to(url)]);
    let faults = slow(agent.url());
    let cp = copy(&faults.url()).start();
    until("nothing comes", || {
        host.path("there/new/d/.large.farpipe-part").exists()
    });
    kill(cp);
    assert_eq!(host.content("there/new/.farpipe-part"), b"src");
    // Another one is put into what is there, as ever.
    fs::create_dir(host.path("more")).expect("a directory");
    host.farpipe(["cp", "more", &to(agent.url())])
        .run()
        .exits(0);
    assert!(host.path("there/new/more").is_dir());
    copy(agent.url()).run().exits(0);
    assert!(!host.path("there/new/src").exists());
    assert_same(&host.content("there/new/d/large"), &bytes);
    let modified = |name: &str| host.path(name).metadata().expect("there").modified().ok();
    assert_eq!(modified("there/new"), modified("src"));
    assert_eq!(unfinished(&host, "there/new"), 0);
    copy(agent.url()).run().exits(0);
    assert!(host.path("there/new/src").is_dir());
}
