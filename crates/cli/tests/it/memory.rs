//! A reader that stops holds the writer back, and nothing piles up in between.
#![cfg(target_os = "linux")]

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use farpipe_proto::wire::hop::HopFrame;
use rustix::process::Signal;

use crate::support::peer::{Peer, STREAM};
use crate::support::{Host, Running, SCHEMES, assert_same, random};

/// What waits to be sent.
const SIZE: usize = 64 << 20;
/// What may be under way of it while nobody reads: windows of 256 KiB, pipes of 1 MiB and the
/// kernel's socket buffers.
const UNDER_WAY_MAX: usize = 24 << 20;
const MEMORY_MAX: u64 = 64 << 20;

/// Writes `data` to the stdin of `process` as fast as it is taken.
fn feed(process: &mut Running, data: &Arc<Vec<u8>>) -> (Arc<AtomicUsize>, thread::JoinHandle<()>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let (count, data) = (Arc::clone(&taken), Arc::clone(data));
    let mut stdin = process.take_stdin();
    let feeding = thread::spawn(move || {
        for piece in data.chunks(64 << 10) {
            stdin.write_all(piece).expect("it is read in the end");
            count.fetch_add(piece.len(), Ordering::Relaxed);
        }
    });
    (taken, feeding)
}

/// Waits until nothing more is taken. If the bytes never stop moving, all of them are taken in the
/// end, which the caller will see.
fn standstill(taken: &AtomicUsize) -> usize {
    let mut before = 0;
    loop {
        thread::sleep(Duration::from_millis(300)); // sleep: watches that nothing moves any more
        let now = taken.load(Ordering::Relaxed);
        if now > 0 && now == before || now >= SIZE {
            return now;
        }
        before = now;
    }
}

#[test]
fn n7_a_stopped_reader_holds_the_writer_back_and_memory_is_bounded() {
    for scheme in SCHEMES {
        let data = Arc::new(random(SIZE, 1));
        let host = Host::new();
        let (listen, output) = host.listen(scheme).unread_stdout();
        let listener = listen.start_listening();
        let mut connect = host.connect(listener.url()).open_input().start();
        let (taken, feeding) = feed(&mut connect, &data);
        let stopped_at = standstill(&taken);
        assert!(stopped_at < UNDER_WAY_MAX, "{stopped_at} bytes were taken");
        for process in [&connect, &*listener] {
            let peak = process.memory_peak();
            assert!(peak < MEMORY_MAX, "{peak} bytes of memory");
        }
        output.read_on();
        feeding.join().expect("all is taken");
        connect.end().exits(0);
        listener.end().exits(0);
        assert_same(&output.until_end().expect("the end"), &data);
    }
}

#[test]
fn n9_a_stopped_listener_holds_the_writer_back_and_memory_is_bounded() {
    let data = Arc::new(random(SIZE, 2));
    let host = Host::new();
    let listener = host.listen("ws").start_listening();
    let mut connect = host.connect(listener.url()).open_input().start();
    // The session is there before its other end stops.
    let head = Arc::new(data[..64 << 10].to_vec());
    let mut stdin = connect.take_stdin();
    stdin.write_all(&head).expect("it is read");
    listener.stdout_until(head.len());
    listener.signal(Signal::STOP);
    let taken = Arc::new(AtomicUsize::new(0));
    let (count, rest) = (Arc::clone(&taken), Arc::clone(&data));
    let feeding = thread::spawn(move || {
        for piece in rest[64 << 10..].chunks(64 << 10) {
            stdin.write_all(piece).expect("it is read in the end");
            count.fetch_add(piece.len(), Ordering::Relaxed);
        }
    });
    let stopped_at = standstill(&taken);
    assert!(stopped_at < UNDER_WAY_MAX, "{stopped_at} bytes were taken");
    let peak = connect.memory_peak();
    assert!(peak < MEMORY_MAX, "{peak} bytes of memory");
    listener.signal(Signal::CONT);
    feeding.join().expect("all is taken");
    connect.end().exits(0);
    assert_same(&listener.end().exits(0).stdout, &data);
}

/// Somebody asks for signs of life without end and reads none of the answers.
#[test]
fn n8_a_flood_of_pings_whose_answers_nobody_reads_is_bounded() {
    let host = Host::new();
    let listener = host.listen("fp").open_input().start_listening();
    let mut peer = Peer::attached(&host, listener.addr());
    let mut ping = HopFrame::Ping(1).encode();
    ping.splice(..0, u32::try_from(ping.len()).expect("short").to_be_bytes());
    // 32 MiB of questions: more than every buffer between here and there holds of answers.
    let many = ping.repeat((1 << 20) / ping.len());
    for _ in 0..32 {
        peer.raw(&many);
    }
    peer.open();
    peer.bytes(STREAM, b"still served");
    listener.stdout_until(12);
    let peak = listener.memory_peak();
    assert!(peak < MEMORY_MAX / 2, "{peak} bytes of memory");
}
