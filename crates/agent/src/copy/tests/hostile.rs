//! Ends whose other end says what it must not.

use std::fs;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::super::message::{Entry, Hole, Meta, Number, Root, Start, Want};
use super::super::wire::{Decoder, Frame};
use super::super::{CopyError, Receiver, Sender, Summary, Top, pair};
use super::{all, base, dir, journal, source};

const ROOT: Frame = Frame::Root(Root {
    source: 0,
    contents: false,
});

fn entry(name: &[u8], size: u64) -> Entry {
    Entry {
        name: name.to_vec(),
        mode: 0o644,
        size,
        ..Entry::default()
    }
}

fn start(number: u64, size: u64) -> Frame {
    let meta = Meta {
        mode: 0o644,
        size,
        ..Meta::default()
    };
    Frame::Start(Start {
        number,
        from: 0,
        meta,
    })
}

fn data(bytes: &'static [u8]) -> Frame {
    Frame::Data(Bytes::from_static(bytes))
}

/// A receiving end that is sent these frames, and nothing more.
async fn receive(to: &Path, top: Top, frames: &[Frame]) -> Result<Summary, CopyError> {
    let ((send, input), (output, mut heard)) = (pair(), pair());
    let mut bytes = BytesMut::new();
    for frame in frames {
        frame.encode(&mut bytes);
    }
    let receiver = Receiver::new(base(to), top, false);
    let (journal, _) = journal();
    let running = receiver.run(input, output, journal);
    let saying = async {
        send.send(bytes.freeze()).await.expect("it listens");
        drop(send);
        while heard.recv().await.is_some() {}
    };
    tokio::join!(running, saying).0
}

fn asked() -> Top {
    Top::Given(vec![Some(b"asked".to_vec())])
}

/// Rows F1 and F4: what may not come is refused, nothing of it stays, and what was there is as it was.
#[tokio::test]
async fn f1_f4_a_hostile_sending_end_makes_nothing() {
    let evil = |name: &'static [u8]| {
        vec![
            ROOT,
            Frame::Enter(entry(b"", 0)),
            Frame::Offer(entry(name, 1)),
        ]
    };
    let offered = |frames: Vec<Frame>| {
        let mut all = vec![ROOT, Frame::Offer(entry(b"what it likes", 5))];
        all.extend(frames);
        all
    };
    let deep = || {
        let mut frames = vec![ROOT];
        frames.extend((0..200).map(|_| Frame::Enter(entry(b"d", 0))));
        frames
    };
    let cases = [
        (evil(b"../out"), "is no name"),
        (evil(b".."), "is no name of a file"),
        (evil(b""), "is no name of a file"),
        (evil(b"/etc/x"), "is no name"),
        (evil(b"a\0b"), "zero byte"),
        (evil(&[b'x'; 256]), "255 is the limit"),
        (evil(b".asked.farpipe-part"), "unfinished files"),
        (deep(), "deeper than"),
        (
            vec![Frame::Offer(entry(b"unasked", 1))],
            "belongs to no source",
        ),
        (vec![ROOT, ROOT], "source 0, which was not asked for"),
        (
            vec![Frame::Root(Root {
                source: 1,
                contents: false,
            })],
            "source 1, which was not asked for",
        ),
        (vec![start(0, 5)], "file 0, which was not asked for"),
        (
            offered(vec![start(1, 5)]),
            "file 1, which was not asked for",
        ),
        (vec![data(b"x")], "bytes that belong to no file"),
        (
            offered(vec![start(0, 5), data(b"123456")]),
            "a file of 5 bytes came with 6",
        ),
        (
            offered(vec![start(0, 5), Frame::Hole(Hole { len: u64::MAX })]),
            "a file of 5 bytes came with",
        ),
        (
            offered(vec![
                start(0, 5),
                data(b"1234"),
                Frame::End(Number { number: 0 }),
            ]),
            "a file of 5 bytes came with 4",
        ),
        (
            offered(vec![start(0, 5), data(b"12"), Frame::Over]),
            "before its end",
        ),
        (vec![Frame::Leave], "did not enter"),
        (
            vec![Frame::Skip(Number { number: 0 })],
            "what a receiving end says",
        ),
    ];
    for (frames, why) in cases {
        let (_dir, at) = dir();
        fs::create_dir(at.join("to")).expect("a directory");
        fs::write(at.join("to/asked"), "before").expect("a file");
        // Where a directory is to be made, nothing may be in the way.
        if frames.iter().any(|frame| matches!(frame, Frame::Enter(_))) {
            fs::remove_file(at.join("to/asked")).expect("a file");
            fs::create_dir(at.join("to/asked")).expect("a directory");
        }
        let error = receive(&at.join("to"), asked(), &frames).await;
        let error = error.expect_err(why).to_string();
        assert!(error.contains(why), "{error} instead of {why}");
        let files = all(&at);
        let files: Vec<_> = files
            .iter()
            .filter(|(.., bytes)| !bytes.is_empty())
            .collect();
        assert!(
            files
                .iter()
                .all(|(name, .., bytes)| name == Path::new("to/asked") && bytes == b"before"),
            "{why}: {files:?}"
        );
        assert!(all(&at).iter().all(|(name, ..)| name.starts_with("to")));
    }
}

#[tokio::test]
async fn f4_a_source_gets_the_name_that_was_asked_for() {
    let (_dir, at) = dir();
    let frames = [
        ROOT,
        Frame::Offer(entry(b".bashrc", 2)),
        start(0, 2),
        data(b"ok"),
        Frame::End(Number { number: 0 }),
        Frame::Over,
    ];
    receive(&at, asked(), &frames).await.expect("a copy");
    let names: Vec<_> = all(&at).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, [Path::new("asked")]);
    // An end that takes what it is told takes the other name.
    receive(&at, Top::Told, &frames).await.expect("a copy");
    assert_eq!(fs::read(at.join(".bashrc")).expect("a file"), b"ok");
}

#[tokio::test]
async fn a_sending_end_believes_no_answer_that_fits_no_offer() {
    let want = |number| {
        Frame::Want(Want {
            number,
            ..Want::default()
        })
    };
    let kept = Frame::Want(Want {
        kept: 1 << 40,
        ..Want::default()
    });
    let cases = [
        (vec![want(7)], "file 7, which was not asked for"),
        (vec![kept], "keeps more of a file than there is"),
        (
            vec![Frame::Done(Default::default())],
            "all is done, and it is not",
        ),
        (vec![Frame::Over], "what a sending end says"),
    ];
    for (frames, why) in cases {
        let (_dir, at) = dir();
        fs::write(at.join("a"), "x").expect("a file");
        let ((answer, input), (output, mut heard)) = (pair(), pair());
        let sender = Sender::new(vec![source(&at.join("a"))]);
        let (journal, _) = journal();
        let answering = async {
            let _ = heard.recv().await;
            let mut bytes = BytesMut::new();
            for frame in &frames {
                frame.encode(&mut bytes);
            }
            answer.send(bytes.freeze()).await.expect("it listens");
            rest(&mut heard).await
        };
        let (sent, frames) = tokio::join!(sender.run(input, output, journal), answering);
        let error = sent.expect_err(why).to_string();
        assert!(error.contains(why), "{error} instead of {why}");
        let told = |frame: &Frame| matches!(frame, Frame::Trouble(trouble) if trouble.ends);
        assert!(frames.last().is_some_and(told), "it says why");
    }
}

/// A file that changes while it is sent is not sent as if it had not.
#[tokio::test]
async fn f6_a_source_that_changes_while_it_is_read_fails() {
    for grows in [true, false] {
        let (_dir, at) = dir();
        let path = at.join("a");
        fs::write(&path, vec![1; 8 << 20]).expect("a file");
        let ((answer, input), (output, mut heard)) = (pair(), pair());
        let sender = Sender::new(vec![source(&path)]);
        let (journal, events) = journal();
        let changing = async {
            let _ = heard.recv().await;
            let mut bytes = BytesMut::new();
            Frame::Want(Want::default()).encode(&mut bytes);
            answer.send(bytes.freeze()).await.expect("it listens");
            // It has begun, and its way is full.
            let _ = heard.recv().await;
            match grows {
                true => fs::write(&path, vec![2; 9 << 20]).expect("a file"),
                false => fs::write(&path, "short").expect("a file"),
            }
            while let Some(piece) = heard.recv().await {
                let mut decoder = Decoder::default();
                decoder.feed(piece);
                if answer.is_closed() {
                    break;
                }
                // Nothing more is asked for: its end is said when it has said all.
                if heard.is_empty() && events.lock().expect("no panic").len() == 1 {
                    break;
                }
            }
            let said = events.lock().expect("no panic");
            let super::Event::Trouble { message, .. } = &said[0] else {
                panic!("{said:?}");
            };
            assert!(
                message.starts_with("it changed while it was read"),
                "{message}"
            );
            drop(answer);
        };
        let (_, ()) = tokio::join!(sender.run(input, output, journal), changing);
    }
}

/// All that an end says until it ends.
async fn rest(heard: &mut mpsc::Receiver<Bytes>) -> Vec<Frame> {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    while let Some(piece) = heard.recv().await {
        decoder.feed(piece);
        while let Some(frame) = decoder.next_frame().expect("frames") {
            frames.push(frame);
        }
    }
    frames
}
