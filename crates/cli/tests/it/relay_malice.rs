//! A relay that lies: whatever it does to a session that is sealed end to end, nothing wrong comes
//! out, nothing ends in success, and no command runs twice.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use farpipe_proto::wire::control::{Attach, Exit};
use farpipe_proto::wire::inner::InnerFrame;

use crate::support::certs::{certified, shows};
use crate::support::false_relay::{Act, FalseRelay, Piece, Plan, Way};
use crate::support::peer::STREAM;
use crate::support::{Ended, Host, Invocation, Running, random};

/// What passes each way.
const LEN: usize = 400_000;
/// What the command ends with: 0 would be another's word.
const STATUS: i32 = 7;

/// An agent at a relay that lies.
struct Scene {
    relay: FalseRelay,
    agent: Running,
    input: Vec<u8>,
    // After what runs in it.
    host: Host,
}

impl Scene {
    fn new() -> Self {
        Self::on(certified(), &["--allow", "exec"])
    }

    fn on(host: Host, more: &[&str]) -> Self {
        let relay = FalseRelay::start(&host);
        let agent = host.farpipe(["agent", relay.url()]).args(shows("web1"));
        let agent = agent.args(more).start_registered(1);
        let input = random(LEN, 23);
        Self {
            relay,
            agent,
            input,
            host,
        }
    }

    /// A caller whose command says that it runs, gives back what it gets, and ends with [`STATUS`].
    fn exec(&self, who: &str, runs: &str) -> Invocation {
        let script = format!(
            "echo ran >>{}; cat; exit {STATUS}",
            self.host.path(runs).display()
        );
        let exec = self
            .host
            .farpipe(["exec", "--relay", self.relay.url(), "--resume-for", "20s"]);
        let exec = exec.args(shows(who));
        exec.args(["web1", "--", "sh", "-c", &script])
            .input(self.input.as_slice())
    }

    /// How often the command ran.
    fn ran(&self, runs: &str) -> usize {
        let path = self.host.path(runs);
        fs::read_to_string(path).map_or(0, |text| text.lines().count())
    }

    /// One session through a relay with this plan: what the caller is told, and the agent's log.
    #[track_caller]
    fn fails(&self, what: &str, plan: Plan, told: &str, logged: &str) {
        let before = self.agent.stderr_until(|_| true).matches(logged).count();
        self.relay.plan(plan);
        let runs = what.replace(' ', "-");
        let ended = self.exec("alice", &runs).run();
        self.assert_failed(what, &ended, told);
        assert!(self.ran(&runs) <= 1, "{what}: it ran again");
        self.agent
            .stderr_until(|text| text.matches(logged).count() > before);
    }

    #[track_caller]
    fn assert_failed(&self, what: &str, ended: &Ended, told: &str) {
        assert_eq!(
            ended.status.code(),
            Some(125),
            "{what}: {}\n{}",
            ended.status,
            ended.stderr
        );
        assert!(ended.stderr.contains(told), "{what}: {}", ended.stderr);
        assert!(self.input.starts_with(&ended.stdout), "{what}: wrong bytes");
    }
}

const INTEGRITY: &str = "E2E_INTEGRITY";

/// Changes the first piece that goes this way and ends behind `place`.
fn once(
    place: usize,
    way: Way,
    mut change: impl FnMut(&mut Vec<u8>, usize) + Send + 'static,
) -> Plan {
    let mut done = false;
    Plan::pieces(move |mut piece| {
        if piece.way == way && !done && piece.at + piece.bytes.len() > place + 64 {
            done = true;
            let from = place.saturating_sub(piece.at);
            change(&mut piece.bytes, from);
        }
        piece.pass()
    })
}

/// Whole records of what the agent says, and then `forged` in place of the rest.
fn in_place_of_the_rest(forged: impl Fn(usize) -> Vec<Act> + Send + 'static) -> Plan {
    /// The records of the handshake and of some data.
    const RECORDS: usize = 12;
    let mut rest = Vec::new();
    let mut records = 0;
    Plan::pieces(move |piece| {
        if piece.way == Way::There {
            return piece.pass();
        }
        rest.extend_from_slice(&piece.bytes);
        let mut whole = 0;
        while let Some(header) = rest[whole..].first_chunk::<5>()
            && records < RECORDS
        {
            let len = 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
            if rest.len() - whole < len {
                break;
            }
            whole += len;
            records += 1;
        }
        let mut acts = vec![Act::Pass(
            piece.session,
            Way::Back,
            rest.drain(..whole).collect(),
        )];
        if records == RECORDS {
            records += 1;
            acts.extend(forged(piece.session));
        }
        acts
    })
}

#[test]
fn an_honest_relay_and_one_that_names_others_pass_all() {
    let scene = Scene::new();
    let passes = |runs: &str| {
        let ended = scene.exec("alice", runs).run();
        ended.exits(STATUS).printed(&scene.input);
        assert_eq!(scene.ran(runs), 1);
    };
    passes("honest");
    for on_attach in [
        (|attach| attach.caller = "farpipe://local/client/root".to_owned()) as fn(&mut Attach),
        |attach| attach.caller = "nobody".to_owned(),
    ] {
        scene.relay.plan(Plan::attach(on_attach));
        passes(&format!("named-{}", on_attach as usize));
    }
}

#[test]
fn p17_bytes_that_a_relay_changes_drops_repeats_or_reorders_end_the_command() {
    let scene = Scene::new();
    type Change = fn(&mut Vec<u8>, usize);
    let changes: [(&str, Change); 4] = [
        ("flip", |bytes, at| bytes[at] ^= 0x10),
        ("drop", |bytes, at| drop(bytes.drain(at..at + 30))),
        ("repeat", |bytes, at| {
            let run = bytes[at..at + 40].to_vec();
            bytes.splice(at..at, run);
        }),
        ("reorder", |bytes, at| bytes[at..at + 60].rotate_left(20)),
    ];
    for (name, change) in changes {
        for way in [Way::There, Way::Back] {
            for place in [9_000, 250_001] {
                let what = format!("{name} {way:?} {place}");
                scene.fails(&what, once(place, way, change), INTEGRITY, INTEGRITY);
            }
        }
    }
}

#[test]
fn p17_ends_that_a_relay_forges_are_believed_by_nobody() {
    let scene = Scene::new();
    let exit = |code| {
        let exit = Exit {
            code: Some(code),
            ..Exit::default()
        };
        InnerFrame::Exit(exit).encode(STREAM)
    };
    let forged = [
        ("exit", exit(0)),
        (
            "fin exit",
            [InnerFrame::Fin(0).encode(STREAM), exit(0)].concat(),
        ),
        ("complete", InnerFrame::Complete.encode(STREAM)),
    ];
    for (what, bytes) in forged {
        let plan =
            in_place_of_the_rest(move |session| vec![Act::Pass(session, Way::Back, bytes.clone())]);
        scene.fails(what, plan, INTEGRITY, INTEGRITY);
    }
    let left = in_place_of_the_rest(|session| vec![Act::Detach(session)]);
    let parted = "left before everything was settled";
    scene.fails("detach", left, "is not known here (any more)", parted);
    let refused = in_place_of_the_rest(|session| vec![Act::Refuse(session, "closed today")]);
    scene.fails("refuse", refused, "ended the session: closed today", parted);
}

#[test]
fn p17_a_session_is_joined_to_no_other() {
    let scene = Scene::new();
    let mut said = [[0; 2]; 2];
    scene.relay.plan(Plan::pieces(move |piece| {
        let Piece {
            session,
            way,
            bytes,
            ..
        } = piece;
        said[session][way as usize] += bytes.len();
        // From some place on, when both have come so far.
        let is_later = said.iter().all(|ways| ways.iter().all(|len| *len > 20_000));
        let goes = if is_later { 1 - session } else { session };
        vec![Act::Pass(goes, way, bytes)]
    }));
    let both = ["swap-0", "swap-1"].map(|runs| scene.exec("alice", runs).start());
    for running in both {
        scene.assert_failed("swap", &running.end(), INTEGRITY);
    }
    for runs in ["swap-0", "swap-1"] {
        assert_eq!(scene.ran(runs), 1);
    }
    scene
        .agent
        .stderr_until(|text| text.matches(INTEGRITY).count() >= 2);
}

/// All that a caller said, once more: under the key of a session that is over, and under another.
#[test]
fn p17_x8_a_command_that_a_relay_records_runs_once() {
    let scene = Scene::new();
    scene
        .exec("alice", "runs")
        .run()
        .exits(STATUS)
        .printed(&scene.input);
    for key in [None, Some([9; 32])] {
        let refusal = scene.relay.replay(key);
        assert!(refusal.contains(INTEGRITY), "{refusal}");
    }
    scene
        .agent
        .stderr_until(|text| text.matches(INTEGRITY).count() >= 2);
    assert_eq!(scene.ran("runs"), 1);
}

#[test]
fn p17_a_relay_that_strips_or_sets_the_flag_has_nothing_of_it() {
    let scene = Scene::new();
    let strip = Plan::attach(|attach| attach.sealed = false);
    scene.fails("strip", strip, INTEGRITY, "speaks TLS in it");
    assert_eq!(scene.ran("strip"), 0);
    scene
        .relay
        .plan(Plan::attach(|attach| attach.sealed = true));
    let exec = scene
        .host
        .farpipe(["exec", "--no-e2e", "--relay", scene.relay.url()]);
    let exec = exec.args(shows("alice")).args(["web1", "--", "echo", "in"]);
    scene.assert_failed("set", &exec.run(), INTEGRITY);
    scene.agent.stderr_until(|text| text.contains("is not TLS"));
}

/// Not even with an agent that takes a relay's word for others.
#[test]
fn a5_p17_a_relay_cannot_say_who_asks() {
    let host = certified();
    let policy =
        "trust_relay: true\nrules:\n  - who: farpipe://local/client/alice\n    exec: any\n";
    let policy = host.file("policy.yaml", policy);
    fs::set_permissions(policy, fs::Permissions::from_mode(0o600)).expect("ours");
    let scene = Scene::on(host, &["--policy", "policy.yaml"]);
    scene.relay.plan(Plan::attach(|attach| {
        attach.caller = "farpipe://local/client/alice".to_owned();
    }));
    let ended = scene.exec("bob", "runs").run();
    ended.exits(125).printed("").says(
        "farpipe: the far end refused: the policy of that host does not allow it; its log says why",
    );
    assert_eq!(scene.ran("runs"), 0);
    scene
        .exec("alice", "runs")
        .run()
        .exits(STATUS)
        .printed(&scene.input);
}
