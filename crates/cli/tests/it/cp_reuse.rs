//! `farpipe cp` through a local agent: a host that is not there is told as without one, and a copy outlives the local agent.

use std::fs;
use std::num::NonZeroU64;

use farpipe_faultproxy::Cut;

use crate::support::process::until;
use crate::support::relay::{agent_at, relay};
use crate::support::{Faults, Host, Invocation, Running, assert_same, random};

fn local_agent(host: &Host) -> Running {
    let local = host.farpipe(["agent", "--client-only", "-v"]).start();
    local.stderr_until(|text| text.contains("taking this user's commands at"));
    local
}

fn reusing(invocation: Invocation) -> Invocation {
    invocation.env("FARPIPE_NO_REUSE", "0")
}

/// Row by row what is said without a local agent, and the same with one: at once, for it is patient.
#[test]
fn a_host_that_is_not_there_is_told_as_without_a_local_agent() {
    let host = Host::new();
    let relay = relay(&host, &[]);
    let dir = host.dir().display().to_string();
    let allow = ["--no-reuse", "--allow", &format!("read:{dir}")];
    let _far = agent_at(&host, relay.url(), "web1", &allow);
    host.file("a", "a");
    let cp = |at: &str, args: &[&str]| host.farpipe(["cp", "--relay", at]).args(args);
    let absent = Faults::before(relay.url(), |_| {});
    let absent_url = absent.url();
    drop(absent);
    let there = format!("web1:{dir}/a");
    let rows: [(&str, &[&str]); 5] = [
        (relay.url(), &["a", "nobody:b"]),
        (relay.url(), &["-n", "a", "nobody:b"]),
        (relay.url(), &["nobody:b", "b"]),
        (relay.url(), &[&there, "nobody:b"]),
        (&absent_url, &["a", "nobody:b"]),
    ];
    for (at, args) in rows {
        let without = cp(at, args).arg("--no-reuse").run().exits(125);
        let local = local_agent(&host);
        let with = reusing(cp(at, args)).run().exits(125);
        assert_eq!(with.stderr, without.stderr, "{args:?}");
        assert!(!with.stderr.contains("anew"), "{}", with.stderr);
        local.signal(rustix::process::Signal::TERM);
        local.end();
    }
}

/// The way of a copy is killed in the middle; whatever is there then is the next.
fn goes_on(comes_back: bool, ends: impl FnOnce(Running)) {
    let host = Host::new();
    fs::create_dir(host.path("there")).expect("a directory");
    let there = host.path("there").display().to_string();
    let far = host.farpipe(["agent", "--no-reuse", "--listen", "ws://127.0.0.1:0"]);
    let far = far.args(["--allow", &format!("write:{there}")]);
    let far = far.start_listening();
    let faults = Faults::before(far.url(), |config| {
        config.up.throttle = NonZeroU64::new(6 << 20);
    });
    let local = local_agent(&host);
    let bytes = random(20 << 20, 4);
    host.file("large", &bytes);
    let to = format!("[{}]:{there}/large", faults.url());
    let cp = reusing(host.farpipe(["cp", "-v", "large", &to])).start();
    until("nothing is on disk", || {
        let sums = host.path("there/.large.farpipe-sums").metadata();
        sums.is_ok_and(|meta| meta.len() > 96)
    });
    ends(local);
    let again = comes_back.then(|| local_agent(&host));
    let said = cp.end().exits(0).said();
    assert!(said.contains("the copy is asked for anew in"), "{said}");
    assert_same(&host.content("there/large"), &bytes);
    let left = fs::read_dir(host.path("there")).expect("a directory");
    assert_eq!(left.count(), 1, "nothing is left over");
    drop((again, faults));
}

#[test]
fn a_copy_outlives_the_local_agent_that_it_goes_through() {
    goes_on(false, |local| {
        local.kill();
        local.end();
    });
}

#[test]
fn a_copy_outlives_a_local_agent_that_is_started_anew() {
    goes_on(true, |local| {
        local.signal(rustix::process::Signal::TERM);
        local.end().exits(143);
    });
}

/// What the local agent gives up is not sought for as long again.
#[test]
fn a_far_agent_that_is_gone_for_good_ends_a_copy_through_a_local_agent() {
    let host = Host::new();
    fs::create_dir(host.path("there")).expect("a directory");
    let there = host.path("there").display().to_string();
    let far = host.farpipe(["agent", "--no-reuse", "--listen", "ws://127.0.0.1:0"]);
    let far = far.args(["--allow", &format!("write:{there}")]);
    let far = far.start_listening();
    let mut faults = Faults::before(far.url(), |config| {
        config.up.throttle = NonZeroU64::new(6 << 20);
    });
    let _local = local_agent(&host);
    host.file("large", random(20 << 20, 4));
    let to = format!("[{}]:{there}/large", faults.url());
    let cp = host.farpipe(["cp", "--resume-for", "300ms", "large", &to]);
    let cp = reusing(cp).start();
    until("nothing comes", || {
        let part = host.path("there/.large.farpipe-part").metadata();
        part.is_ok_and(|meta| meta.len() > 0)
    });
    faults.refuse(true);
    faults.cut_all(Cut::Reset);
    let said = cp.end().exits(125).said();
    assert!(
        said.contains("no link to") && !said.contains("anew"),
        "{said}"
    );
}
