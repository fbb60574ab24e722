//! Bodies that are cut in every way, and those that are wrong.

use std::future::poll_fn;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;

/// Gives what it has in pieces of one size, then ends.
#[derive(Debug)]
struct Pieces(Vec<u8>, usize);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let len = self.0.len().min(self.1).min(buf.remaining());
        let rest = self.0.split_off(len);
        buf.put_slice(&self.0);
        self.0 = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Transport for Pieces {
    fn set_reset_at_close(&self, _: bool) {}

    fn is_hung_up(&self) -> bool {
        false
    }
}

/// All of a body, of which `wire` comes in pieces of `size` bytes.
async fn all(framing: Framing, wire: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let (first, rest) = wire.split_at(wire.len().min(size));
    let io = Box::new(Pieces(rest.to_vec(), size));
    let mut body = Body::new(io, first.into(), framing);
    let mut all = BytesMut::new();
    loop {
        let before = all.len();
        let read = poll_fn(|cx| body.poll_read(cx, &mut all, 7)).await?;
        assert_eq!(all.len(), before + read, "what it says is what it gives");
        if read == 0 {
            return Ok(all.to_vec());
        }
    }
}

#[tokio::test]
async fn a_body_is_the_same_however_it_is_cut() {
    let chunked = b"5\r\nhello\r\n00B;x=\"y\"\r\n, the world\r\n0\r\nTrailer: x\r\n\r\n";
    for size in 1..=chunked.len() {
        let whole = all(Framing::Chunked, chunked, size)
            .await
            .expect("well-formed");
        assert_eq!(whole, b"hello, the world");
        let whole = all(Framing::Length(5), b"hello and more", size).await;
        assert_eq!(whole.expect("well-formed"), b"hello");
    }
    let none = all(Framing::Length(0), b"", 1).await.expect("nothing");
    assert!(none.is_empty());
}

#[tokio::test]
async fn what_is_cut_or_wrong_is_no_end() {
    let chunked = b"5\r\nhello\r\n0\r\n\r\n";
    for cut in 0..chunked.len() {
        let error = all(Framing::Chunked, &chunked[..cut], 3).await;
        let error = error.expect_err("cut");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut}");
    }
    let short = all(Framing::Length(6), b"hello", 3).await;
    assert_eq!(
        short.expect_err("short").kind(),
        io::ErrorKind::UnexpectedEof
    );
    let long = [b"1;".to_vec(), vec![b'x'; 300]].concat();
    for wrong in [
        &b"\r\nhello\r\n"[..],
        b"5\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"11111111111111111\r\n",
        &long,
    ] {
        let error = all(Framing::Chunked, wrong, 4).await.expect_err("wrong");
        assert_eq!(
            error.kind(),
            io::ErrorKind::InvalidData,
            "{}",
            wrong.escape_ascii()
        );
    }
}

#[test]
fn a_request_says_in_one_way_how_its_body_ends() {
    let framing = |lines: &str| {
        let head = format!("PUT /p/a HTTP/1.1\r\n{lines}\r\n");
        let request = ForeignRequest::parse(head.as_bytes()).expect("a head");
        Framing::of(&request).map_err(|answer| answer.status)
    };
    let (length, coded) = ("Content-Length: 7\r\n", "Transfer-Encoding: chunked\r\n");
    assert_eq!(framing(length), Ok(Framing::Length(7)));
    assert_eq!(framing(coded), Ok(Framing::Chunked));
    assert_eq!(framing(""), Err(411));
    for lines in [
        format!("{length}{coded}"),
        format!("{length}{length}"),
        format!("{coded}{coded}"),
        "Content-Length: +7\r\n".to_owned(),
        "Content-Length: 7, 7\r\n".to_owned(),
        "Content-Length:\r\n".to_owned(),
        "Transfer-Encoding: gzip, chunked\r\n".to_owned(),
        "Transfer-Encoding: identity\r\n".to_owned(),
    ] {
        assert_eq!(framing(&lines), Err(400), "{lines}");
    }
}
