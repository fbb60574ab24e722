//! Links that die, lie, crawl and stall, and what both ends make of them.

use std::time::Duration;

use farpipe_sim::net::cable::{Cut, Fault, Quality, Way};
use farpipe_sim::net::flow::Flow;
use farpipe_sim::net::network::{Fortune, Kind};
use farpipe_sim::net::{Lane, Report, Scenario, Stage};

const MB: u64 = 1_000_000;

/// Plays it and returns what happened as well.
fn played(scenario: &Scenario) -> (Report, Vec<String>) {
    match Stage::new().play_traced(scenario) {
        Ok(played) => played,
        Err(failure) => panic!("{failure}"),
    }
}

/// The first time, in milliseconds, of a line that contains `what`.
fn at(lines: &[String], what: &str) -> Option<u64> {
    let line = lines.iter().find(|line| line.contains(what))?;
    line.split(' ').next()?.parse().ok()
}

fn when(lines: &[String], what: &str) -> u64 {
    at(lines, what).unwrap_or_else(|| panic!("no {what} in {lines:#?}"))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A link of 10 MB/s and 20 ms there and back.
fn quality() -> Quality {
    Quality {
        latency: ms(10),
        rate: Some(10 * MB),
        ..Quality::default()
    }
}

fn cut(way: Way, at: u64, fault: Fault) -> Vec<Fortune> {
    vec![Fortune {
        cuts: vec![Cut { way, at, fault }],
        ..Fortune::good()
    }]
}

#[test]
fn n3_a_black_hole_is_noticed_after_three_beats_by_both_ends_and_survived() {
    for (kind, way) in [(Kind::Ws, Way::Up), (Kind::Fp, Way::Down)] {
        for beat in [1_000, 10_000] {
            let (_, lines) = played(&Scenario {
                kind,
                quality: quality(),
                heartbeat: ms(beat),
                fortunes: cut(way, 100_000, Fault::BlackHole),
                lanes: vec![Lane::plain(MB, MB)],
                ..Scenario::default()
            });
            for who in ["opener Lost", "acceptor Lost"] {
                let noticed = when(&lines, who);
                let begin = 3 * beat;
                assert!((begin..begin + beat).contains(&noticed), "{lines:#?}");
            }
            assert!(at(&lines, "opener Resumed").is_some());
        }
    }
}

#[test]
fn n3_an_idle_link_that_dies_silently_is_noticed_too() {
    // Says one word, then nothing for five minutes; the link dies in between.
    let mut lane = Lane::plain(20, 0);
    lane.up.chunk = 10;
    lane.up.source_delay = ms(300_000);
    let (_, lines) = played(&Scenario {
        quality: quality(),
        fortunes: cut(Way::Up, 600, Fault::BlackHole),
        lanes: vec![lane],
        ..Scenario::default()
    });
    let noticed = when(&lines, "opener Lost");
    let resumed = when(&lines, "opener Resumed");
    assert!(noticed < 300_000 && resumed < noticed + 1_000, "{lines:#?}");
}

/// A session that says a word, nothing for half a day, another word, and ends half a day later, through a proxy that resets a connection
/// after so long without a byte.
fn idle_day(kind: Kind, cutter: Duration) -> (Report, Vec<String>) {
    let mut lane = Lane::plain(20, 20);
    for flow in [&mut lane.up, &mut lane.down] {
        // Half a day after each word.
        flow.chunk = 10;
        flow.source_delay = DAY / 2;
    }
    played(&Scenario {
        kind,
        quality: Quality {
            idle_max: Some(cutter),
            ..quality()
        },
        lanes: vec![lane],
        ..Scenario::default()
    })
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

#[test]
fn n3_heartbeats_keep_an_idle_day_from_a_proxy_that_cuts_after_a_minute() {
    for kind in [Kind::Ws, Kind::Fp] {
        let (report, lines) = idle_day(kind, ms(60_000));
        assert_eq!(at(&lines, "Lost"), None, "{lines:#?}");
        assert!(report.elapsed >= DAY);
        let bytes: u64 = report.carried.iter().sum();
        assert!(bytes < 300_000, "{bytes} bytes in an idle day");
    }
}

/// Less than the longest beat (25 s), and less than the shortest life that counts as progress (10 s): then
/// the session is resumed each time, and bytes that come after a day arrive.
#[test]
fn n3_an_idle_day_is_survived_where_a_proxy_cuts_before_a_heartbeat_comes() {
    for (cutter, cuts_min) in [(20_000, 100), (8_000, 1_000)] {
        let (report, lines) = idle_day(Kind::Ws, ms(cutter));
        let resumed = lines.iter().filter(|line| line.contains("opener Resumed"));
        let resumed = resumed.count();
        assert!(resumed > cuts_min, "{resumed} of a cutter of {cutter} ms");
        assert!(report.elapsed >= DAY && report.bytes == 40);
    }
}

#[test]
fn n3_a_stall_shorter_than_three_beats_is_no_loss() {
    let (report, lines) = played(&Scenario {
        quality: quality(),
        fortunes: cut(Way::Up, 100_000, Fault::Stall(ms(29_000))),
        lanes: vec![Lane::plain(MB, MB)],
        ..Scenario::default()
    });
    assert_eq!(at(&lines, "Lost"), None, "{lines:#?}");
    assert!(report.elapsed >= ms(29_000));
}

#[test]
fn n10_a_newer_link_fences_one_that_still_looks_alive() {
    for kind in [Kind::Ws, Kind::Fp] {
        // The opener is reset; what it had sent reaches the acceptor seconds later.
        let (_, lines) = played(&Scenario {
            kind,
            quality: quality(),
            fortunes: cut(Way::Up, 100_000, Fault::Ghost(ms(5_000))),
            lanes: vec![Lane::plain(MB, MB)],
            ..Scenario::default()
        });
        assert!(when(&lines, "acceptor Resumed") < 1_000, "{lines:#?}");
        // It was fenced, not lost: nobody waited for a heartbeat.
        assert_eq!(at(&lines, "acceptor Lost"), None, "{lines:#?}");
    }
}

#[test]
fn n10_an_opener_that_sees_nothing_redials_after_three_beats() {
    let (_, lines) = played(&Scenario {
        quality: quality(),
        fortunes: cut(Way::Down, 100_000, Fault::Ghost(ms(5_000))),
        lanes: vec![Lane::plain(MB, MB)],
        ..Scenario::default()
    });
    assert!(when(&lines, "acceptor Lost") < 1_000, "{lines:#?}");
    // The late bytes count as life: three beats from then.
    let noticed = when(&lines, "opener Lost");
    assert!((30_000..46_000).contains(&noticed), "{lines:#?}");
}

#[test]
fn n5_one_byte_at_a_time_is_as_good_as_all_at_once() {
    for (kind, [read_max, write_max]) in [
        (Kind::Ws, [1, 1]),
        (Kind::Ws, [1, usize::MAX]),
        (Kind::Fp, [usize::MAX, 1]),
        (Kind::Fp, [1, 1]),
    ] {
        let (report, _) = played(&Scenario {
            kind,
            quality: Quality {
                read_max,
                write_max,
                ..Quality::default()
            },
            proven: true,
            lanes: vec![Lane::plain(20_000, 20_000)],
            ..Scenario::default()
        });
        assert_eq!((report.bytes, report.disconnects), (40_000, 0));
    }
}

#[test]
fn n6_a_crawling_link_is_no_dead_one() {
    let (report, lines) = played(&Scenario {
        quality: Quality {
            rate: Some(1_000),
            ..quality()
        },
        lanes: vec![Lane::plain(200_000, 3_000)],
        ..Scenario::default()
    });
    assert_eq!(at(&lines, "Lost"), None, "{lines:#?}");
    assert!(report.elapsed >= Duration::from_secs(200));
}

#[test]
fn n7_a_reader_that_stops_holds_up_its_own_stream_only() {
    let mut slow = Lane::plain(MB, 0);
    slow.up.sip = 100_000;
    slow.up.sink_delay = Duration::from_secs(60);
    let (_, lines) = played(&Scenario {
        quality: quality(),
        lanes: vec![slow, Lane::plain(MB, MB)],
        ..Scenario::default()
    });
    let until = |what: &str| {
        let line = lines.iter().find(|line| line.contains(what));
        let (_, rest) = line.and_then(|line| line.split_once("until ")).expect(what);
        let (time, _) = rest.split_once(':').expect("a time");
        time.parse::<u64>().expect("milliseconds")
    };
    assert!(until("took 1000000 bytes Up of 1 ") < 1_000, "{lines:#?}");
    assert!(until("took 1000000 bytes Down of 1 ") < 1_000, "{lines:#?}");
    assert!(until("took 1000000 bytes Up of 0 ") > 600_000, "{lines:#?}");
    // Nor does it use up the link's life.
    assert_eq!(at(&lines, "Lost"), None, "{lines:#?}");
}

#[test]
fn n9_a_carrier_that_takes_no_bytes_is_waited_for_without_spinning() {
    // Small writes both ways, faster than the link: the queue is full, and acknowledgements and
    // heartbeats are due all the time. The stage ends a run whose tasks spin.
    let mut lane = Lane::plain(200_000, 200_000);
    for flow in [&mut lane.up, &mut lane.down] {
        *flow = Flow {
            chunk: 500,
            sip: 500,
            ..flow.clone()
        };
    }
    for kind in [Kind::Ws, Kind::Fp] {
        let (report, _) = played(&Scenario {
            kind,
            quality: Quality {
                rate: Some(5_000),
                capacity: 1_000,
                ..quality()
            },
            lanes: vec![lane.clone()],
            ..Scenario::default()
        });
        assert_eq!((report.bytes, report.disconnects), (400_000, 0));
    }
}

#[test]
fn n2_a_link_that_dies_again_and_again_gets_every_byte_there_once() {
    // Each link lives for some thousand bytes; a resend that began too late or too early shows.
    for kind in [Kind::Ws, Kind::Fp] {
        let fortunes = (0..200).map(|n| Fortune {
            cuts: [Way::Up, Way::Down]
                .map(|way| Cut {
                    way,
                    at: 3_000 + n * 37,
                    fault: Fault::Reset,
                })
                .to_vec(),
            ..Fortune::good()
        });
        let (report, _) = played(&Scenario {
            kind,
            quality: quality(),
            fortunes: fortunes.collect(),
            lanes: vec![Lane::plain(500_000, 500_000)],
            ..Scenario::default()
        });
        assert!(report.disconnects > 100);
        assert_eq!(report.bytes, MB);
    }
}
