//! Whole systems in virtual time: two relays, an agent at both, callers; processes that are killed,
//! and connections that break at any byte.

use std::time::Duration;

use farpipe_sim::net::Lane;
use farpipe_sim::net::cable::{Cut, Fault, Way};
use farpipe_sim::net::network::{Answer, Fortune};
use farpipe_sim::net::relayed::{Blow, Caller, Plan, Report, Theatre, seeds};

const KB: u64 = 1_000;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn played(plan: &Plan) -> (Report, Vec<String>) {
    match Theatre::new().play(plan) {
        Ok(played) => played,
        Err(failed) => panic!("{failed}"),
    }
}

fn count(lines: &[String], what: &str) -> usize {
    lines.iter().filter(|line| line.contains(what)).count()
}

/// One caller with little to say.
fn little() -> Plan {
    Plan {
        callers: vec![Caller::plain(vec![Lane::plain(KB, KB)])],
        ..Plan::default()
    }
}

/// One caller that moves a megabyte each way, in about a tenth of a second.
fn megabyte() -> Plan {
    Plan {
        callers: vec![Caller::plain(vec![Lane::plain(1_000 * KB, 1_000 * KB)])],
        ..Plan::default()
    }
}

fn cut(way: Way, at: u64, fault: Fault) -> Fortune {
    Fortune {
        answer: Answer::Connected,
        cuts: vec![Cut { way, at, fault }],
    }
}

#[test]
fn n1_n2_n3_n10_n13_n16_seeds_through_relays() {
    if let Err(failed) = seeds(&mut Theatre::new(), 0..300) {
        panic!("{failed}");
    }
}

#[test]
fn n13_a_relay_that_is_killed_mid_transfer_and_comes_back_resumes_every_byte() {
    let mut plan = megabyte();
    plan.blows = vec![
        (ms(1), Blow::KillRelay(1)),
        (ms(60), Blow::KillRelay(0)),
        (ms(5_000), Blow::StartRelay(0)),
    ];
    let (report, lines) = played(&plan);
    assert_eq!((report.succeeded, report.bytes), (1, 2_000 * KB));
    assert!(count(&lines, "caller 0 Resumed") >= 1, "{lines:#?}");
}

#[test]
fn n13_another_relay_takes_over_at_once() {
    let mut plan = megabyte();
    plan.blows = vec![(ms(60), Blow::KillRelay(0))];
    let (report, lines) = played(&plan);
    assert_eq!((report.succeeded, report.bytes), (1, 2_000 * KB));
    let resumed = lines.iter().find(|line| line.contains("caller 0 Resumed"));
    let at = resumed.and_then(|line| line.split(' ').next()?.parse::<u64>().ok());
    assert!(at.is_some_and(|at| at < 500), "{lines:#?}");
}

#[test]
fn n13_a_relay_that_is_told_to_end_hands_its_sessions_over() {
    let mut plan = megabyte();
    plan.blows = vec![(ms(60), Blow::DrainRelay(0))];
    let (report, lines) = played(&plan);
    assert_eq!((report.succeeded, report.bytes), (1, 2_000 * KB));
    assert!(count(&lines, "going away") >= 1, "{lines:#?}");
    assert!(count(&lines, "caller 0 Resumed") >= 1, "{lines:#?}");
}

#[test]
fn n14_a_relay_that_knows_the_agent_no_more_is_passed_over() {
    let mut plan = megabyte();
    // One that asks later, too.
    plan.callers.push(Caller {
        after: ms(500),
        ..Caller::plain(vec![Lane::plain(10 * KB, 10 * KB)])
    });
    plan.blows = vec![
        (ms(60), Blow::KillRelay(0)),
        (ms(60), Blow::StartStranger(0)),
    ];
    let (report, lines) = played(&plan);
    assert_eq!(
        (report.succeeded, report.bytes),
        (2, 2_020 * KB),
        "{lines:#?}"
    );
}

#[test]
fn n16_a_caller_that_is_killed_leaves_nothing_behind() {
    for at in [0, 5, 10, 12, 15, 20, 30, 60, 90] {
        let mut plan = megabyte();
        plan.blows = vec![(ms(at), Blow::KillCaller(0))];
        let (report, _) = played(&plan);
        assert_eq!((report.succeeded, report.failed), (0, 0));
    }
}

#[test]
fn an_agent_that_is_killed_is_never_a_success() {
    let mut plan = megabyte();
    plan.blows = vec![(ms(60), Blow::KillAgent), (ms(1_000), Blow::StartAgent)];
    let (report, lines) = played(&plan);
    assert_eq!((report.succeeded, report.failed), (0, 1));
    assert!(count(&lines, "is not known here") >= 1, "{lines:#?}");
}

#[test]
fn an_answer_that_is_lost_with_the_agent_leaves_the_outcome_unknown() {
    let mut unknown = 0;
    for at in 0..120 {
        let mut plan = little();
        plan.callers[0].links[0] = vec![cut(Way::Down, at, Fault::Reset)];
        plan.blows = vec![(ms(60), Blow::KillAgent), (ms(200), Blow::StartAgent)];
        let (_, lines) = played(&plan);
        unknown += count(&lines, "younger than the request").min(1);
    }
    assert!(unknown > 5, "{unknown}");
}

/// The agent hears of a caller and of its end in one breath.
#[test]
fn a_caller_that_left_before_the_agent_looked_leaves_no_session_for_ever() {
    for at in (60..300).step_by(5) {
        let mut plan = little();
        plan.agent_links[0] = vec![cut(Way::Down, at, Fault::Stall(ms(5_000)))];
        plan.blows = vec![(ms(1_000), Blow::KillCaller(0))];
        played(&plan);
    }
}

/// The link to the agent breaks when the request is on it: nobody said no.
#[test]
fn a_request_whose_answer_the_relay_could_not_get_is_asked_again() {
    let mut again = 0;
    for at in (60..400).step_by(5) {
        let mut plan = little();
        plan.agent_links[0] = vec![cut(Way::Down, at, Fault::Reset)];
        let (report, lines) = played(&plan);
        assert_eq!(report.succeeded, 1, "{lines:#?}");
        again += count(&lines, "caller 0 Lost").min(1);
    }
    assert!(again > 5, "{again}");
}
