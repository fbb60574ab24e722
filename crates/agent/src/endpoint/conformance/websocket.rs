//! WebSockets for the suite: the other end is a thread that speaks in frames.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use super::super::{EndpointSpec, Sink, Source, Use};
use super::kinds::{Late, LateStream, feed, listening};
use super::*;

endpoint_conformance!(ws_is_a_source, source: ws_source);
endpoint_conformance!(ws_listen_is_a_source, source: ws_listen_source);

endpoint_conformance!(ws_is_a_sink, sink: ws_sink, reader: websocket);
endpoint_conformance!(ws_listen_is_a_sink, sink: ws_listen_sink, reader: websocket);

fn ws_source(content: Vec<u8>, chunk: usize) -> (Box<dyn Source>, Keep) {
    let (spec, peer) = server();
    (
        Box::new(Late::open(spec, Use::Both)),
        feed(peer, content, chunk),
    )
}

fn ws_sink() -> (Box<dyn Sink>, Reader) {
    let (spec, peer) = server();
    let reader = Reader::Stream(Box::new(peer), Box::new(()));
    (Box::new(Late::open(spec, Use::Sink)), reader)
}

fn ws_listen_source(content: Vec<u8>, chunk: usize) -> (Box<dyn Source>, Keep) {
    let (sink, peer) = client(Use::Both);
    (Box::new(sink), feed(peer, content, chunk))
}

fn ws_listen_sink() -> (Box<dyn Sink>, Reader) {
    let (sink, peer) = client(Use::Sink);
    (Box::new(sink), Reader::Stream(Box::new(peer), Box::new(())))
}

/// The other end of a WebSocket, upgraded by a thread: the first read or write waits for that.
type Peer = LateStream<Frames>;

fn peer(upgrade: impl FnOnce() -> io::Result<Frames> + Send + 'static) -> Peer {
    let (done, upgraded) = mpsc::channel();
    thread::spawn(move || done.send(upgrade()));
    Peer::new(move || upgraded.recv().map_err(io::Error::other)?)
}

fn server() -> (EndpointSpec, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let spec = format!("ws:ws://{}/", listener.local_addr().expect("bound"));
    let peer = peer(move || {
        let (mut stream, _) = listener.accept()?;
        let head = read_head(&mut stream)?;
        let (_, key) = head.split_once("Sec-WebSocket-Key: ").expect("a key");
        let key = key.split("\r\n").next().unwrap_or_default();
        let script = format!(
            "printf %s {key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11 | openssl dgst -sha1 -binary | \
             openssl base64"
        );
        let accept = Command::new("/bin/sh").args(["-c", &script]).output()?;
        let accept = String::from_utf8_lossy(&accept.stdout);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            accept.trim()
        );
        stream.write_all(answer.as_bytes())?;
        Ok(Frames::new(stream, false))
    });
    (spec.parse().expect("a spec"), peer)
}

fn client(wanted: Use) -> (Late, Peer) {
    let listening = listening(&"ws-listen:0".parse().expect("a spec"));
    let url = listening.address();
    let place = url
        .strip_prefix("ws://")
        .expect("a URL")
        .trim_end_matches('/');
    let place = place.to_owned();
    let peer = peer(move || {
        let mut stream = TcpStream::connect(place)?;
        let request = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\n\r\n";
        stream.write_all(request.as_bytes())?;
        read_head(&mut stream)?;
        Ok(Frames::new(stream, true))
    });
    (Late::accept(listening, wanted), peer)
}

fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

/// A write is a binary message, a read gives of one; dropped after a write it says its end.
struct Frames {
    stream: TcpStream,
    is_client: bool,
    /// Of the message that is being read.
    left: usize,
    key: [u8; 4],
    has_written: bool,
    has_closed: bool,
}

impl Frames {
    fn new(stream: TcpStream, is_client: bool) -> Self {
        Self {
            stream,
            is_client,
            left: 0,
            key: [0; 4],
            has_written: false,
            has_closed: false,
        }
    }

    /// With a mask of zeros, if it is a client's.
    fn send(&mut self, first: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![first, 127 | u8::from(self.is_client) << 7];
        frame.extend((payload.len() as u64).to_be_bytes());
        if payload.len() < 126 {
            frame.truncate(2);
            frame[1] = payload.len() as u8 | u8::from(self.is_client) << 7;
        } else if payload.len() < 1 << 16 {
            frame.drain(2..8);
            frame[1] -= 1;
        }
        if self.is_client {
            frame.extend([0; 4]);
        }
        frame.extend(payload);
        self.stream.write_all(&frame)
    }

    fn close(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.has_closed, true) {
            return Ok(());
        }
        self.send(0x88, &[3, 232])
    }

    /// Reads a header; `false` if it is a Close, which is answered.
    fn begin(&mut self) -> io::Result<bool> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        let mut len = [0; 8];
        match head[1] & 0x7F {
            126 => self.stream.read_exact(&mut len[6..])?,
            127 => self.stream.read_exact(&mut len)?,
            short => len[7] = short,
        }
        self.key = [0; 4];
        if !self.is_client {
            self.stream.read_exact(&mut self.key)?;
        }
        self.left = u64::from_be_bytes(len) as usize;
        if head[0] == 0x88 {
            self.close()?;
            return Ok(false);
        }
        Ok(true)
    }
}

impl Read for Frames {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            self.close()?;
            return Ok(0);
        }
        while self.left == 0 {
            if !self.begin()? {
                return Ok(0);
            }
        }
        let len = buf.len().min(self.left);
        let len = self.stream.read(&mut buf[..len])?;
        for byte in &mut buf[..len] {
            *byte ^= self.key[0];
            self.key.rotate_left(1);
        }
        self.left -= len;
        Ok(len)
    }
}

impl Write for Frames {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.has_written = true;
        self.send(0x82, buf)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.has_written = true;
        Ok(())
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        if self.has_written {
            // Nobody is left to be told.
            let _ = self.close();
        }
    }
}
