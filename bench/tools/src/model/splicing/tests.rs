//! What is kept can be sent again, wherever a connection was cut, and is bounded.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::*;
use crate::model::KEPT;

/// Bytes that tell where they are from.
fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 251 + at * 31) as u8).collect()
}

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    (near, listener.accept().expect("accepted").0)
}

/// Sends `data`, written `piece` bytes at a time, over connections that are cut after `cut` bytes each.
fn resumed(data: &[u8], piece: usize, cut: usize) -> Vec<u8> {
    let (source, write) = pipe().expect("a pipe");
    grow(&write);
    let mut keep = Keep::new().expect("pipes");
    let (mut got, mut sent, mut attempt) = (Vec::new(), 0, cut);
    let (mut near, mut far) = connection();
    thread::scope(|scope| {
        // Ends with this closure, and the writer with it, should anything here fail.
        let source = source;
        scope.spawn(move || {
            let mut write = File::from(write);
            for piece in data.chunks(piece) {
                write.write_all(piece).expect("written");
            }
        });
        loop {
            let kept = match keep.tee(&source, FRAME).expect("kept") {
                Kept::Bytes(n) => n,
                Kept::Full => {
                    keep.forget(got.len() as u64).expect("forgotten");
                    continue;
                }
                Kept::Ended => break,
            };
            // Cut in the middle: the rest is drained from the source, for it is kept.
            let before = kept.min(attempt);
            move_to(&source, &near, before).expect("moved");
            let mut bytes = vec![0; before];
            far.read_exact(&mut bytes).expect("read");
            got.extend_from_slice(&bytes);
            sent += kept;
            attempt -= before;
            if attempt > 0 {
                continue;
            }
            let source = File::from(source.try_clone().expect("a duplicate"));
            let mut rest = source.take((kept - before) as u64);
            std::io::copy(&mut rest, &mut std::io::sink()).expect("drained");
            (near, far) = connection();
            keep.forget(got.len() as u64).expect("forgotten");
            keep.again(|scratch, n| {
                thread::scope(|scope| {
                    scope.spawn(|| move_to(scratch, &near, n).expect("moved"));
                    let mut bytes = vec![0; n];
                    far.read_exact(&mut bytes)?;
                    got.extend_from_slice(&bytes);
                    Ok(())
                })
            })
            .expect("sent again");
            assert_eq!(got.len(), sent);
            attempt = cut;
        }
    });
    got
}

#[test]
fn what_is_kept_can_be_sent_again_after_a_cut_anywhere() {
    let data = numbered(3 << 20);
    for (piece, cut) in [
        (128 << 10, 1),
        (128 << 10, 100_003),
        (4096, 65_536),
        (4096, 65_537),
        (1000, 7919),
        (100, 50_021),
    ] {
        // Not assert_eq!, which would print both.
        assert!(
            resumed(&data, piece, cut) == data,
            "pieces of {piece} bytes, cut after {cut}"
        );
    }
}

#[test]
fn what_is_kept_is_bounded() {
    let (source, write) = pipe().expect("a pipe");
    grow(&write);
    let (mut write, mut kept) = (File::from(write), 0);
    let mut keep = Keep::new().expect("pipes");
    loop {
        write.write_all(&[7; FRAME]).expect("written");
        match keep.tee(&source, FRAME).expect("kept") {
            Kept::Bytes(n) => kept += n,
            Kept::Full => break,
            Kept::Ended => unreachable!("the writer is there"),
        }
        let mut drained = File::from(source.try_clone().expect("a duplicate"));
        drained.read_exact(&mut [0; FRAME]).expect("drained");
    }
    assert_eq!(kept as u64, KEPT);
    keep.forget(1).expect("forgotten");
    assert_eq!(keep.tee(&source, FRAME).expect("kept"), Kept::Full);
    keep.forget(KEPT).expect("forgotten");
    assert_eq!(keep.tee(&source, FRAME).expect("kept"), Kept::Bytes(FRAME));
}
