//! What sessions leave behind: nothing. Alone in its binary, because it looks at the process.

use farpipe_sim::net::cable::{Cut, Fault, Way};
use farpipe_sim::net::network::{Fortune, Kind};
use farpipe_sim::net::{Lane, Scenario, Stage};

/// Resident memory in bytes; `None` where the system does not say.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

#[test]
fn a_thousand_sessions_leave_no_task_no_connection_and_no_memory() {
    let stage = &mut Stage::new();
    let mut play = |sessions: u64| {
        for seed in 0..sessions {
            let cut = |way, at, fault| Fortune {
                cuts: vec![Cut { way, at, fault }],
                ..Fortune::good()
            };
            // A stage fails a run that leaves tasks, connections, openers or acceptors behind.
            let played = stage.play(&Scenario {
                seed,
                kind: if seed % 2 == 0 { Kind::Ws } else { Kind::Fp },
                proven: true,
                fortunes: vec![
                    cut(Way::Up, 1_000 + seed, Fault::Reset),
                    cut(Way::Down, 2_000 + seed, Fault::BlackHole),
                ],
                lanes: vec![Lane::plain(20_000, 20_000); 3],
                ..Scenario::default()
            });
            if let Err(failure) = played {
                panic!("{failure}");
            }
        }
    };
    play(100);
    let before = resident();
    play(1_000);
    if let (Some(before), Some(after)) = (before, resident()) {
        // One session's buffers alone, kept a thousand times, would be more than 60 MB.
        let grown = after.saturating_sub(before);
        assert!(grown < 8_000_000, "{grown} bytes");
    }
}
