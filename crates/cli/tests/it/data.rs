//! What comes out is what went in, for any content and any size, on both carriers.

use crate::support::{Host, SCHEMES, assert_same, random};

/// Sends `data` from connect to listen and back from listen to connect at the same time.
#[track_caller]
fn both_ways(scheme: &str, there: &[u8], back: &[u8]) {
    let host = Host::new();
    let listener = host.listen(scheme).input(back).start_listening();
    let connected = host.connect(listener.url()).input(there).run().exits(0);
    let listened = listener.end().exits(0);
    assert_same(&listened.stdout, there);
    assert_same(&connected.stdout, back);
    assert_eq!(
        connected.stderr, "",
        "nothing to say about a pipe that worked"
    );
}

#[test]
fn nothing_at_all_arrives_as_nothing() {
    for scheme in SCHEMES {
        both_ways(scheme, b"", b"");
    }
}

#[test]
fn a_single_byte_arrives() {
    for scheme in SCHEMES {
        both_ways(scheme, b"x", b"");
        both_ways(scheme, b"", b"\0");
    }
}

#[test]
fn x1_all_byte_values_pass_unchanged() {
    let all: Vec<u8> = (0..=255).collect();
    let reversed: Vec<u8> = (0..=255).rev().collect();
    for scheme in SCHEMES {
        both_ways(scheme, &all, &reversed);
    }
}

#[test]
fn sizes_around_the_limits_of_frames_and_windows_arrive() {
    const EDGES: [usize; 5] = [4 << 10, 64 << 10, 256 << 10, 512 << 10, 1 << 20];
    for scheme in SCHEMES {
        for edge in EDGES {
            let data = random(edge + 1, edge as u64);
            both_ways(scheme, &data[..edge - 1], &data[..edge]);
            both_ways(scheme, &data, &data[..1]);
        }
    }
}

#[test]
fn eight_mebibytes_pass_both_ways_at_once() {
    for scheme in SCHEMES {
        both_ways(scheme, &random(8 << 20, 1), &random(8 << 20, 2));
    }
}

#[test]
fn sixty_four_mebibytes_pass_over_ws() {
    both_ways("ws", &random(64 << 20, 3), b"");
}

#[test]
fn sixty_four_mebibytes_pass_over_fp() {
    both_ways("fp", b"", &random(64 << 20, 4));
}

#[test]
fn many_small_writes_arrive_in_order() {
    for scheme in SCHEMES {
        let host = Host::new();
        let listener = host.listen(scheme).start_listening();
        let mut connect = host.connect(listener.url()).open_input().start();
        let mut expected = Vec::new();
        for number in 0..5_000u32 {
            let line = format!("line {number}\n");
            connect.write(&line);
            expected.extend_from_slice(line.as_bytes());
        }
        connect.close_input();
        connect.end().exits(0);
        listener.end().exits(0).printed(expected);
    }
}

#[test]
fn a_byte_arrives_while_the_writer_stays_open() {
    for scheme in SCHEMES {
        let host = Host::new();
        let mut listener = host.listen(scheme).open_input().start_listening();
        let mut connect = host.connect(listener.url()).open_input().start();
        for turn in 1..=20 {
            connect.write("?");
            listener.stdout_until(turn);
            listener.write("!");
            connect.stdout_until(turn);
        }
        connect.close_input();
        listener.close_input();
        connect.end().exits(0);
        listener.end().exits(0);
    }
}
