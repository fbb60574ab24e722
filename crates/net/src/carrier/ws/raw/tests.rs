//! A WebSocket against frames written by hand, in virtual time.

use std::future::poll_fn;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

impl Transport for DuplexStream {
    fn set_reset_at_close(&self, _on: bool) {}

    fn is_hung_up(&self) -> bool {
        false
    }
}

/// Which end is ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

/// One end, and the wire at the other.
fn socket(end: End, messages: Messages) -> (RawWebSocket, DuplexStream) {
    let (ours, wire) = tokio::io::duplex(1 << 20);
    let incoming = Incoming::new(end == End::Server, messages, None);
    let mut socket = RawWebSocket::new(Box::new(ours), incoming, messages, BytesMut::new());
    socket.keys = (end == End::Client).then(RandomKeys::default);
    (socket, wire)
}

/// A server's frame, or with a key of zeros a client's.
fn frame(first: u8, payload: &[u8], end: End) -> Vec<u8> {
    let len = u8::try_from(payload.len()).expect("a short one");
    match end {
        End::Server => [&[first, len][..], payload].concat(),
        End::Client => [&[first, len | 0x80, 0, 0, 0, 0][..], payload].concat(),
    }
}

async fn write(socket: &mut RawWebSocket, bytes: &[u8]) -> io::Result<usize> {
    poll_fn(|cx| socket.poll_write(cx, &[IoSlice::new(bytes)])).await
}

async fn read(socket: &mut RawWebSocket) -> io::Result<Vec<u8>> {
    let mut buf = BytesMut::new();
    poll_fn(|cx| socket.poll_read(cx, &mut buf, 1 << 20)).await?;
    Ok(buf.to_vec())
}

async fn close(socket: &mut RawWebSocket) -> io::Result<()> {
    poll_fn(|cx| socket.poll_close(cx)).await
}

async fn expect(wire: &mut DuplexStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    wire.read_exact(&mut read).await.expect("bytes come");
    assert_eq!(read, bytes);
}

/// The next frame of a client: its first byte and its payload without the mask.
async fn client_frame(wire: &mut DuplexStream) -> (u8, Vec<u8>) {
    let mut head = [0; 6];
    wire.read_exact(&mut head).await.expect("a header comes");
    assert_eq!(head[1] & 0x80, 0x80, "a client masks");
    let mut payload = vec![0; usize::from(head[1] & 0x7F)];
    wire.read_exact(&mut payload)
        .await
        .expect("a payload comes");
    apply_mask(&mut payload, [head[2], head[3], head[4], head[5]]);
    (head[0], payload)
}

fn error_of(error: &io::Error) -> RawError {
    let inner = error.get_ref().expect("an error of ours");
    inner
        .downcast_ref::<RawError>()
        .expect("a RawError")
        .clone()
}

#[tokio::test(start_paused = true)]
async fn a_listening_end_says_close_at_once_and_hears_what_is_still_said() {
    let (mut socket, mut wire) = socket(End::Server, Messages::Bytes);
    assert_eq!(write(&mut socket, b"all").await.expect("room"), 3);
    let other = async {
        expect(&mut wire, &frame(0x82, b"all", End::Server)).await;
        expect(&mut wire, &frame(0x88, &[3, 232], End::Server)).await;
        let rest = [
            frame(0x82, b"rest", End::Client),
            frame(0x88, &[3, 232], End::Client),
        ];
        wire.write_all(&rest.concat()).await.expect("it is read");
    };
    let begin = Instant::now();
    let (closed, ()) = tokio::join!(close(&mut socket), other);
    closed.expect("closed in order");
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(read(&mut socket).await.expect("bytes"), b"rest");
    assert_eq!(read(&mut socket).await.expect("the end"), b"");
}

/// `echo request | farpipe pipe - ws:URL`: the answer comes before the Close.
#[tokio::test(start_paused = true)]
async fn a_client_says_close_when_the_answer_has_paused() {
    let (mut socket, mut wire) = socket(End::Client, Messages::Lines);
    write(&mut socket, b"request").await.expect("room");
    let begin = Instant::now();
    let other = async {
        assert_eq!(client_frame(&mut wire).await, (0x81, b"request".to_vec()));
        for _ in 0..4 {
            tokio::time::sleep(RAW_ANSWER_PAUSE * 9 / 10).await; // sleep: virtual time
            let part = frame(0x81, b"part", End::Server);
            wire.write_all(&part).await.expect("it is read");
        }
        assert_eq!(client_frame(&mut wire).await, (0x88, vec![3, 232]));
        let answer = frame(0x88, &[3, 232], End::Server);
        wire.write_all(&answer).await.expect("it is read");
    };
    let reading = async {
        let mut all = Vec::new();
        poll_fn(|cx| {
            let mut buf = BytesMut::new();
            if let Poll::Ready(Ok(_)) = socket.poll_read(cx, &mut buf, 1 << 20) {
                all.extend_from_slice(&buf);
                cx.waker().wake_by_ref();
            }
            socket.poll_close(cx)
        })
        .await
        .expect("closed in order");
        all
    };
    let (all, ()) = tokio::join!(reading, other);
    assert_eq!(all, b"part\npart\npart\npart\n");
    let took = begin.elapsed();
    assert!(
        took > RAW_ANSWER_PAUSE * 4 && took < RAW_ANSWER_PAUSE * 5,
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_pauses_is_closed_in_the_end() {
    let (mut socket, wire) = socket(End::Client, Messages::Bytes);
    let begin = Instant::now();
    let (mut from, mut to) = tokio::io::split(wire);
    let talking = async {
        loop {
            tokio::time::sleep(RAW_ANSWER_PAUSE / 2).await; // sleep: virtual time
            let part = frame(0x82, b"more", End::Server);
            to.write_all(&part).await.expect("it is read");
        }
    };
    let closing = async {
        poll_fn(|cx| {
            let _ = socket.poll_read(cx, &mut BytesMut::new(), 1 << 20);
            socket.poll_close(cx)
        })
        .await
    };
    let told = async {
        loop {
            let mut head = [0; 6];
            from.read_exact(&mut head).await.expect("a header comes");
            let mut payload = vec![0; usize::from(head[1] & 0x7F)];
            from.read_exact(&mut payload).await.expect("a payload");
            if head[0] == 0x88 {
                return;
            }
        }
    };
    tokio::select! {
        () = talking => {}
        closed = closing => panic!("nobody has answered: {closed:?}"),
        () = told => {}
    }
    let took = begin.elapsed();
    assert!(
        took >= RAW_ANSWER_MAX && took <= RAW_ANSWER_MAX + RAW_ANSWER_PAUSE,
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_never_answered_is_a_failure() {
    let (mut socket, _wire) = socket(End::Server, Messages::Bytes);
    let begin = Instant::now();
    let error = close(&mut socket).await.expect_err("nobody answers");
    assert_eq!(error_of(&error), RawError::CloseUnanswered);
    assert_eq!(begin.elapsed().as_secs(), RAW_CLOSE_WAIT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn only_a_good_code_is_an_end() {
    for (payload, is_good) in [
        (&[][..], true),
        (&[3, 232][..], true),
        // A server that is going away has not said all.
        (&[3, 233][..], false),
        (&[3, 234][..], false),
        (b"\x03\xF3out of \x1b[31mcheese", false),
        (&[0x0F, 0xA0][..], false),
    ] {
        let (mut socket, mut wire) = socket(End::Client, Messages::Bytes);
        let said = [
            frame(0x82, b"x", End::Server),
            frame(0x88, payload, End::Server),
        ];
        wire.write_all(&said.concat()).await.expect("it is read");
        assert_eq!(read(&mut socket).await.expect("what was said"), b"x");
        let code = payload.get(..2).unwrap_or_default();
        assert_eq!(client_frame(&mut wire).await, (0x88, code.to_vec()));
        match read(&mut socket).await {
            Ok(end) => assert!(is_good && end.is_empty(), "{payload:?}"),
            Err(error) => {
                assert!(!is_good, "{payload:?}");
                assert!(!error.to_string().contains('\x1b'), "{error}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_without_a_close_is_a_failure_for_both_halves() {
    let (mut socket, mut wire) = socket(End::Server, Messages::Bytes);
    let said = frame(0x82, b"half", End::Client);
    wire.write_all(&said).await.expect("it is read");
    drop(wire);
    assert_eq!(read(&mut socket).await.expect("what was said"), b"half");
    for _ in 0..2 {
        let error = read(&mut socket).await.expect_err("it was cut");
        assert_eq!(error_of(&error), RawError::Cut);
    }
    let error = write(&mut socket, b"x").await.expect_err("it was cut");
    assert_eq!(error_of(&error), RawError::Cut);
}

#[tokio::test(start_paused = true)]
async fn a_reader_is_gone_when_its_end_has_been_read() {
    let (mut socket, mut wire) = socket(End::Server, Messages::Bytes);
    let said = [
        frame(0x82, b"x", End::Client),
        frame(0x88, &[3, 232], End::Client),
    ];
    wire.write_all(&said.concat()).await.expect("it is read");
    let gone = poll_fn(|cx| Poll::Ready(socket.poll_gone(cx).is_ready())).await;
    assert!(!gone, "there is something to be read first");
    assert_eq!(read(&mut socket).await.expect("bytes"), b"x");
    assert_eq!(read(&mut socket).await.expect("the end"), b"");
    let gone = poll_fn(|cx| socket.poll_gone(cx)).await;
    gone.expect("nothing was on its way");
    let error = write(&mut socket, b"y").await.expect_err("nobody reads it");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    close(&mut socket).await.expect("the end was said");
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_and_silence_is_asked_about_until_it_is_death() {
    let (mut socket, mut wire) = socket(End::Server, Messages::Bytes);
    let begin = Instant::now();
    let other = async {
        let ping = frame(0x89, b"you?", End::Client);
        wire.write_all(&ping).await.expect("it is read");
        expect(&mut wire, &frame(0x8A, b"you?", End::Server)).await;
        // Alive as long as it answers.
        for _ in 0..10 {
            expect(&mut wire, &frame(0x89, b"", End::Server)).await;
            let pong = frame(0x8A, b"", End::Client);
            wire.write_all(&pong).await.expect("it is read");
        }
        Instant::now()
    };
    let (error, last) = tokio::join!(read(&mut socket), other);
    let error = error.expect_err("it is dead");
    assert_eq!(error_of(&error), RawError::Silent);
    assert!(last - begin >= RAW_PING * 10);
    assert!(Instant::now() - last <= RAW_PING * (RAW_PINGS_MAX + 1));
    for _ in 0..RAW_PINGS_MAX - 1 {
        expect(&mut wire, &frame(0x89, b"", End::Server)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_breaks_the_rules_is_told_how() {
    for (said, code) in [
        (frame(0x82, b"unmasked", End::Server), 1002_u16),
        (frame(0x81, b"\xFF", End::Client), 1007),
        (
            vec![0x81, 0xFF, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0],
            1009,
        ),
    ] {
        let (mut socket, mut wire) = socket(End::Server, Messages::Bytes);
        wire.write_all(&said).await.expect("it is read");
        let error = read(&mut socket).await.expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        expect(&mut wire, &frame(0x88, &code.to_be_bytes(), End::Server)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lines_become_text_messages_and_must_be_text() {
    let (mut socket, mut wire) = socket(End::Server, Messages::Lines);
    for part in [&b"on"[..], b"e\n\ntw", b"o\r\nlast"] {
        write(&mut socket, part).await.expect("room");
    }
    let closing = async {
        let answer = frame(0x88, &[3, 232], End::Client);
        for line in [&b"one"[..], b"", b"two\r", b"last"] {
            expect(&mut wire, &frame(0x81, line, End::Server)).await;
        }
        wire.write_all(&answer).await.expect("it is read");
    };
    let (closed, ()) = tokio::join!(close(&mut socket), closing);
    closed.expect("closed in order");

    let (mut socket, _wire) = self::socket(End::Server, Messages::Lines);
    let error = write(&mut socket, b"\xFF\n").await.expect_err("no text");
    assert_eq!(error_of(&error), RawError::LineNotText);
    let (mut socket, _wire) = self::socket(End::Server, Messages::Lines);
    let error = write(&mut socket, &vec![b'a'; RAW_SENT_MAX]).await;
    error.expect("not too long yet");
    let mut last = Ok(0);
    for _ in 0..RAW_MESSAGE_MAX / RAW_SENT_MAX {
        last = write(&mut socket, &vec![b'a'; RAW_SENT_MAX]).await;
    }
    let error = last.expect_err("no end of the line");
    assert_eq!(error_of(&error), RawError::LineTooLong);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_holds_the_writer_and_who_is_not_read_is_held() {
    let (mut socket, mut wire) = socket(End::Server, Messages::Bytes);
    let data = vec![1; RAW_SENT_MAX];
    let mut taken = 0;
    loop {
        let poll = poll_fn(|cx| Poll::Ready(socket.poll_write(cx, &[IoSlice::new(&data)]))).await;
        let Poll::Ready(len) = poll else { break };
        taken += len.expect("room");
    }
    assert!(
        taken <= (1 << 20) + RAW_OUTBOX_MAX + RAW_SENT_MAX,
        "{taken}"
    );
    // 4 MiB come, nobody reads.
    let mut said = vec![0x82, 0xFF];
    said.extend((4_u64 << 20).to_be_bytes());
    said.extend([0; 4]);
    said.resize(said.len() + (4 << 20), 0);
    let writing = wire.write_all(&said);
    let stuck = tokio::time::timeout(Duration::from_secs(1), async {
        tokio::join!(writing, async {
            poll_fn(|cx| {
                let _ = socket.poll_gone(cx);
                Poll::<()>::Pending
            })
            .await;
        })
    });
    assert!(stuck.await.is_err(), "it is held");
    assert!(socket.inbox.len() + socket.raw.len() <= RAW_INBOX_MAX + 2 * READ_MAX);
}

async fn leave(socket: &mut RawWebSocket) {
    poll_fn(|cx| socket.poll_leave(cx, GOING_AWAY)).await;
}

/// Bytes that nobody has taken in would be answered by a reset, which overtakes the code.
#[tokio::test(start_paused = true)]
async fn who_leaves_says_why_and_takes_in_what_still_comes() {
    let more = frame(0x82, &[7; 100], End::Client).repeat(20_000);
    for (broken, code) in [(None, 1001_u16), (Some(b"\xFF"), 1007)] {
        let (mut socket, mut wire) = socket(End::Server, Messages::Bytes);
        if let Some(text) = broken {
            let said = frame(0x81, text, End::Client);
            wire.write_all(&said).await.expect("it is read");
            read(&mut socket).await.expect_err("refused");
        }
        write(&mut socket, b"last").await.map_or_else(drop, drop);
        let begin = Instant::now();
        let other = async {
            wire.write_all(&more).await.expect("it is taken in");
            if broken.is_none() {
                expect(&mut wire, &frame(0x82, b"last", End::Server)).await;
            }
            expect(&mut wire, &frame(0x88, &code.to_be_bytes(), End::Server)).await;
            assert_eq!(wire.read(&mut [0]).await.expect("the end"), 0);
            drop(wire);
        };
        let both = async { tokio::join!(leave(&mut socket), other) };
        let both = tokio::time::timeout(RAW_CLOSE_WAIT, both).await;
        both.expect("nobody waits");
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn leaving_waits_for_nobody_for_long_and_not_at_all_behind_an_end() {
    let (mut silent, _wire) = socket(End::Server, Messages::Bytes);
    let begin = Instant::now();
    leave(&mut silent).await;
    assert_eq!(begin.elapsed().as_millis(), RAW_DRAIN.as_millis());

    let (mut ended, mut wire) = socket(End::Server, Messages::Bytes);
    let close = frame(0x88, &[3, 232], End::Client);
    wire.write_all(&close).await.expect("it is read");
    assert_eq!(read(&mut ended).await.expect("the end"), b"");
    let (mut cut, wire) = socket(End::Server, Messages::Bytes);
    drop(wire);
    read(&mut cut).await.expect_err("it was cut");
    let begin = Instant::now();
    leave(&mut ended).await;
    leave(&mut cut).await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

/// Whichever half is looked at first.
#[tokio::test(start_paused = true)]
async fn a_failure_is_behind_what_came_before_it() {
    let (mut socket, mut wire) = socket(End::Server, Messages::Lines);
    let said = [
        frame(0x81, b"good", End::Client),
        frame(0x81, b"\xFF", End::Client),
    ];
    wire.write_all(&said.concat()).await.expect("it is read");
    let gone = poll_fn(|cx| Poll::Ready(socket.poll_gone(cx).is_ready())).await;
    assert!(!gone, "there is something to be read first");
    assert_eq!(read(&mut socket).await.expect("a line"), b"good\n");
    let gone = poll_fn(|cx| socket.poll_gone(cx)).await;
    gone.expect_err("it is broken");
}
