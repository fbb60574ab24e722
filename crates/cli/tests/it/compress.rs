//! `--compress`: fewer bytes on the wire, the same bytes at the end.

use std::num::NonZeroU64;

use farpipe_faultproxy::{Cut, Dir, Plan, When};
use farpipe_proto::wire::control::Open;
use farpipe_proto::wire::inner::InnerFrame;
use rustix::process::Signal;

use crate::support::peer::{Heard, Peer, STREAM};
use crate::support::{Faults, Host, SCHEMES, assert_same, random};

/// Lines as a service logs them.
fn log(lines: u32) -> Vec<u8> {
    let line = |n: u32| {
        let user = n.wrapping_mul(2_654_435_761) % 10_000;
        format!(
            "{{\"level\":\"info\",\"request\":{n},\"user\":\"user-{user}\",\"ms\":{}}}\n",
            n % 97
        )
    };
    (0..lines).map(line).collect::<String>().into_bytes()
}

/// Bytes on the wire, up and down, of `data` sent there and back over a link of so many bytes a
/// second.
fn carried(scheme: &str, rate: u64, how: &str, data: &[u8]) -> (u64, u64) {
    let host = Host::new();
    let listener = host.listen(scheme).arg("exec:cat").start_listening();
    let faults = Faults::shaped(&listener, |config| {
        let rate = NonZeroU64::new(rate);
        (config.up.throttle, config.down.throttle) = (rate, rate);
    });
    let connect = host.connect(&faults.url()).args(["--compress", how]);
    let connect = connect.input(data).run().exits(0);
    assert_same(&connect.stdout, data);
    listener.end().exits(0);
    let stats = faults.stop();
    (stats.bytes_up, stats.bytes_down)
}

/// Faster than any sender here.
const FAST: u64 = 10_000_000_000;

#[test]
fn both_directions_shrink_by_what_the_data_allows() {
    let (text, noise) = (log(60_000), random(3_000_000, 1));
    for scheme in SCHEMES {
        let plain = carried(scheme, FAST, "none", &text);
        assert!(plain.0 > text.len() as u64 && plain.1 > text.len() as u64);
        for how in ["zstd", "zstd:9"] {
            let (up, down) = carried(scheme, FAST, how, &text);
            let third = text.len() as u64 / 3;
            assert!(up < third && down < third, "{scheme} {how}: {up} {down}");
            let (up, down) = carried(scheme, FAST, how, &noise);
            let most = noise.len() as u64 * 101 / 100;
            assert!(up < most && down < most, "{scheme} {how}: {up} {down}");
        }
    }
}

/// Not one that its sender would slow down.
#[test]
fn a_slow_link_gets_what_was_compressed() {
    let text = log(240_000);
    for scheme in SCHEMES {
        let (up, down) = carried(scheme, 4_000_000, "auto", &text);
        let half = text.len() as u64 / 2;
        assert!(up < half && down < half, "{scheme}: {up} {down}");
    }
}

#[test]
fn what_is_compressed_resumes_byte_exactly() {
    let data = [log(40_000), random(500_000, 2), log(20_000)].concat();
    for scheme in SCHEMES {
        for at in [900, 20_000, 250_000, 600_000] {
            let host = Host::new();
            let listener = host.listen(scheme).arg("exec:cat").start_listening();
            let when = When::Byte {
                dir: Dir::Up,
                at: at..=at,
            };
            let plan = Plan {
                connections: 0..=0,
                ..Plan::of(when, Cut::Reset)
            };
            let faults = Faults::between(&listener, plan);
            let connect = host.connect(&faults.url()).args(["--compress", "zstd"]);
            let connect = connect.input(data.as_slice()).run().exits(0);
            assert_same(&connect.stdout, &data);
            listener.end().exits(0);
            assert_eq!(faults.stop().cuts_reset, 1, "{scheme} at {at}");
        }
    }
}

/// Each byte that a person types goes at once.
#[test]
fn a_dialogue_is_not_held_back() {
    let host = Host::new();
    let listener = host.listen("ws").arg("exec:cat").start_listening();
    let connect = host.connect(listener.url()).args(["--compress", "auto"]);
    let mut connect = connect.open_input().start();
    for n in 1..=20 {
        connect.write("x");
        connect.stdout_until(n);
    }
    connect.close_input();
    connect.end().exits(0);
    listener.end().exits(0);
}

#[test]
fn p13_blocks_that_are_none_fail_at_both_ends() {
    for (bytes, why) in [
        (&[9, 0, 0, 1, 7][..], "a block of an unknown form"),
        (
            &[1, 0, 0, 2, 7, 7],
            "a compressed block that cannot be read",
        ),
    ] {
        let host = Host::new();
        let listener = host.listen("fp").open_input().start_listening();
        let mut peer = Peer::attached(&host, listener.addr());
        let open = Open {
            blocks: true,
            ..Open::default()
        };
        peer.inner(STREAM, &InnerFrame::Open(open));
        peer.bytes(STREAM, bytes);
        // STOP and RESET say it.
        let mut heard = Vec::new();
        while !String::from_utf8_lossy(&heard).contains(why) {
            match peer.hear() {
                Heard::Data(.., bytes) => heard.extend(bytes),
                Heard::Frame(_) => {}
                Heard::Closed => panic!("the whole session ended"),
            }
        }
        listener.signal(Signal::TERM);
        let ended = listener.end().exits(125);
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    }
}

#[test]
fn levels_that_are_none_are_refused() {
    let host = Host::new();
    for (how, why) in [
        ("zstd:20", "the level is a number from 1 to 19"),
        ("zstd:", "the level is a number from 1 to 19"),
        ("gzip", "write auto, zstd, zstd:N or none"),
    ] {
        let connect = host.connect("ws://127.0.0.1:1").args(["--compress", how]);
        let ended = connect.run().exits(2);
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    }
}
