//! One source for several readers: what each gets, and what is kept for it.

use super::*;

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// What a reader gets now, at most `max` bytes; `None`: it has to wait.
fn take(cursor: &mut Cursor, max: usize) -> Option<String> {
    let mut buf = BytesMut::with_capacity(max);
    match cursor.poll_read(&mut cx(), &mut buf, max) {
        Poll::Ready(Ok(len)) => {
            assert_eq!(len, buf.len());
            Some(String::from_utf8(buf.to_vec()).expect("text"))
        }
        Poll::Ready(Err(error)) => Some(format!("failed: {error}")),
        Poll::Pending => None,
    }
}

fn room(spread: &Spread) -> Option<usize> {
    match spread.lock().poll_room(&mut cx(), spread.slow) {
        Poll::Ready(Room::Free(room)) => Some(room),
        Poll::Ready(Room::Unwanted) => Some(0),
        Poll::Ready(Room::Spool { .. }) | Poll::Pending => None,
    }
}

fn two(slow: Slow, window: usize) -> (Arc<Spread>, Cursor, Cursor) {
    let spread = Spread::with_window(2, slow, window).expect("a spread");
    let [first, second] = [spread.reader(), spread.reader()].map(|reader| reader.expect("one"));
    assert!(spread.reader().is_none(), "there are two");
    (spread, first, second)
}

#[test]
fn the_slowest_reader_holds_the_source_back_until_it_leaves() {
    let (spread, mut fast, mut slow) = two(Slow::Block, 8);
    assert_eq!(room(&spread), Some(8));
    spread.lock().push(b"abcdefgh", Slow::Block);
    assert_eq!(take(&mut fast, 99).as_deref(), Some("abcdefgh"));
    assert_eq!(take(&mut fast, 99), None);
    assert_eq!(room(&spread), None);
    assert_eq!(take(&mut slow, 3).as_deref(), Some("abc"));
    assert_eq!(room(&spread), Some(3));
    spread.lock().push(b"ijk", Slow::Block);
    assert_eq!(room(&spread), None);
    drop(slow);
    assert_eq!(room(&spread), Some(5));
    assert_eq!(take(&mut fast, 99).as_deref(), Some("ijk"));
    spread.end(Ok(()));
    assert_eq!(take(&mut fast, 99).as_deref(), Some(""));
    drop(fast);
    assert_eq!(room(&spread), Some(0), "nobody wants it");
}

#[test]
fn a_source_that_failed_is_a_failure_behind_what_came_of_it() {
    let (spread, mut first, _second) = two(Slow::Block, 8);
    spread.lock().push(b"abc", Slow::Block);
    spread.end(Err("the disk is gone".to_owned()));
    spread.end(Ok(()));
    assert_eq!(take(&mut first, 99).as_deref(), Some("abc"));
    assert_eq!(
        take(&mut first, 99).as_deref(),
        Some("failed: the disk is gone")
    );
}

#[test]
fn a_reader_that_is_behind_loses_whole_lines_and_is_told_where() {
    let (spread, mut fast, mut slow) = two(Slow::Drop, 16);
    let push = |text: &str| spread.lock().push(text.as_bytes(), Slow::Drop);
    push("one\ntwo\nthree\n");
    assert_eq!(take(&mut slow, 2).as_deref(), Some("on"));
    assert_eq!(take(&mut fast, 99).as_deref(), Some("one\ntwo\nthree\n"));
    push("four\nfive\n");
    assert_eq!(take(&mut fast, 99).as_deref(), Some("four\nfive\n"));
    // The line that it has the beginning of keeps its end.
    assert_eq!(take(&mut slow, 99).as_deref(), Some("e\n"));
    assert_eq!(
        take(&mut slow, 99).as_deref(),
        Some("farpipe: 4 bytes were dropped here\n")
    );
    assert_eq!(take(&mut slow, 99).as_deref(), Some("three\nfour\nfive\n"));
    push("6\n");
    assert_eq!(take(&mut slow, 99).as_deref(), Some("6\n"));
    assert_eq!(spread.lost(1), Lost { bytes: 4, lines: 1 });
    assert_eq!(spread.lost(0), Lost::default());
}

#[test]
fn a_line_longer_than_all_that_is_kept_is_lost_as_a_whole() {
    let (spread, mut fast, mut slow) = two(Slow::Drop, 8);
    let push = |text: &str| spread.lock().push(text.as_bytes(), Slow::Drop);
    let lost = |bytes, lines| Lost { bytes, lines };
    push("abcdefgh");
    assert_eq!(take(&mut slow, 1).as_deref(), Some("a"));
    assert_eq!(take(&mut fast, 99).as_deref(), Some("abcdefgh"));
    push("ijkl");
    assert_eq!(take(&mut fast, 99).as_deref(), Some("ijkl"));
    // It has the beginning: that is cut off from what follows.
    assert_eq!(take(&mut slow, 99).as_deref(), Some("\n"));
    assert_eq!(take(&mut slow, 99), None, "the line goes on");
    push("mn\nop\n");
    assert_eq!(take(&mut fast, 99).as_deref(), Some("mn\nop\n"));
    assert_eq!(
        take(&mut slow, 99).as_deref(),
        Some("farpipe: 14 bytes were dropped here\n")
    );
    assert_eq!(take(&mut slow, 99).as_deref(), Some("op\n"));
    assert_eq!(spread.lost(1), lost(14, 1));
    // Of one that it has nothing of there is nothing left, and the end of all tells so.
    push("12345678");
    push("9");
    spread.end(Ok(()));
    assert_eq!(
        take(&mut slow, 99).as_deref(),
        Some("farpipe: 9 bytes were dropped here\n")
    );
    assert_eq!(take(&mut slow, 99).as_deref(), Some(""));
    assert_eq!(spread.lost(1), lost(23, 1));
}

#[test]
fn what_is_kept_beside_the_window_for_all_readers_is_little() {
    let size = 4 * usize::try_from(LINE_REST_MAX).expect("small");
    let (spread, _fast, mut slow) = two(Slow::Drop, size);
    let long = "x".repeat(size / 2);
    spread.lock().push(long.as_bytes(), Slow::Drop);
    assert_eq!(take(&mut slow, 1).as_deref(), Some("x"));
    for text in ["\n", &long, &long] {
        spread.lock().push(text.as_bytes(), Slow::Drop);
    }
    assert_eq!(spread.lock().readers[1].tail, "\n");
}

/// A source of numbered lines that is never waited for.
#[derive(Debug)]
struct Numbers(u64, u64);

impl Source for Numbers {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let before = buf.len();
        while self.0 < self.1 && buf.len() - before + 20 <= max {
            buf.extend_from_slice(format!("{}\n", self.0).as_bytes());
            self.0 += 1;
        }
        if self.0 < self.1 && buf.len() == before {
            // Less than a line is wanted: one byte of nothing in particular.
            buf.extend_from_slice(b"\n");
        }
        Poll::Ready(Ok(buf.len() - before))
    }
}

async fn all(mut cursor: Cursor, max: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let mut buf = BytesMut::with_capacity(max);
        let read = poll_fn(|cx| cursor.poll_read(cx, &mut buf, max)).await;
        match read.expect("it does not fail") {
            0 => return bytes,
            _ => bytes.extend_from_slice(&buf),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_a_slow_reader_lacks_is_spooled_and_the_others_go_on() {
    let size = 3000;
    let (spread, fast, slow) = two(Slow::Spool(1 << 20), size);
    let mut source = Numbers(0, 20_000);
    let filling = async {
        let filled = spread.fill(&mut source, |_| {}).await;
        filled.expect("it does not fail");
        spread.end(Ok(()));
    };
    // It reads nothing before the fast one has all.
    let ((), fast) = tokio::join!(filling, all(fast, 1000));
    assert!(fast.len() > 100_000, "{}", fast.len());
    assert!(fast == all(slow, 700).await, "both the same");
}

#[tokio::test]
async fn a_full_spool_makes_the_source_wait_and_the_seams_are_none() {
    for (window, spool) in [(1000, 1500), (700, 1), (1000, 999)] {
        let (spread, fast, slow) = two(Slow::Spool(spool), window);
        let mut source = Numbers(0, 5_000);
        let filling = async {
            let filled = spread.fill(&mut source, |_| {}).await;
            filled.expect("it does not fail");
            spread.end(Ok(()));
        };
        let ((), fast, slow) = tokio::join!(filling, all(fast, 640), all(slow, 77));
        assert!(fast.len() > 20_000, "{}", fast.len());
        assert!(fast == slow, "both the same, with {window} and {spool}");
    }
}

#[tokio::test]
async fn a_source_that_nobody_wants_is_read_no_further() {
    let (spread, first, second) = two(Slow::Block, 1000);
    let mut source = Numbers(0, u64::MAX);
    let leaving = async {
        tokio::task::yield_now().await;
        drop((first, second));
    };
    let (filled, ()) = tokio::join!(spread.fill(&mut source, |_| {}), leaving);
    filled.expect("it does not fail");
    assert!(source.0 > 0, "it was read");
}
