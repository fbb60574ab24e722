//! A WebSocket client and a server of the tests' own, frame by frame.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use super::net::serve;
use super::{DEADLINE, Listener};

/// RFC 6455 section 1.2: a key and what answers it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A frame that is whole; with a key of a client's.
fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(bit | len as u8),
        len @ 126..=65_535 => {
            frame.push(bit | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(bit | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    let key = mask.unwrap_or_default();
    frame.extend(mask.into_iter().flatten());
    let keys = key.iter().cycle();
    frame.extend(payload.iter().zip(keys).map(|(byte, key)| byte ^ key));
    frame
}

/// A connection after its upgrade.
pub(crate) struct Ws {
    pub(crate) stream: TcpStream,
    pub(crate) mask: Option<[u8; 4]>,
}

impl Ws {
    pub(crate) fn send(&mut self, first: u8, payload: &[u8]) {
        let frame = frame(first, payload, self.mask);
        self.stream.write_all(&frame).expect("it is read");
    }

    /// The first byte of the next frame, and its payload.
    pub(crate) fn next(&mut self) -> (u8, Vec<u8>) {
        self.try_next().expect("a frame comes")
    }

    pub(crate) fn try_next(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        let is_masked = head[1] & 0x80 != 0;
        assert_eq!(
            is_masked,
            self.mask.is_none(),
            "clients mask, servers do not"
        );
        let len = match head[1] & 0x7F {
            126 => {
                let mut len = [0; 2];
                self.stream.read_exact(&mut len)?;
                usize::from(u16::from_be_bytes(len))
            }
            127 => {
                let mut len = [0; 8];
                self.stream.read_exact(&mut len)?;
                u64::from_be_bytes(len) as usize
            }
            len => usize::from(len),
        };
        let mut key = [0; 4];
        if is_masked {
            self.stream.read_exact(&mut key)?;
        }
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload)?;
        let keys = key.iter().cycle();
        payload
            .iter_mut()
            .zip(keys)
            .for_each(|(byte, key)| *byte ^= key);
        Ok((head[0], payload))
    }

    /// All bytes of binary messages up to the close, which is answered.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, Vec<u8>) {
        let mut all = Vec::new();
        loop {
            match self.next() {
                (0x82, bytes) => {
                    assert!(bytes.len() <= 64 << 10, "{}", bytes.len());
                    all.extend(bytes);
                }
                (0x88, code) => {
                    self.send(0x88, &code);
                    return (all, code);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

/// Of the listener itself: a relay that was not told of its proxy serves nobody by HTTP through it.
pub(crate) fn address(listener: &Listener) -> String {
    let url = listener.own_url().strip_prefix("ws://").expect("a URL");
    url.split('/').next().expect("an address").to_owned()
}

/// Sends `head` and gives the answer's head and what follows it.
pub(crate) fn ask(listener: &Listener, head: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address(listener)).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    // A refusal may come before all of it is written.
    let _ = stream.write_all(head.as_bytes());
    (read_head(&mut stream), stream)
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("a head comes") > 0 {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("ASCII")
}

/// A request with these lines more.
pub(crate) fn request(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

pub(crate) fn dial(listener: &Listener, more: &str) -> Ws {
    let (head, stream) = ask(listener, &request("/", more));
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        head.contains(&format!("Sec-WebSocket-Accept: {ACCEPT}\r\n")),
        "{head}"
    );
    assert_eq!(
        head.contains("permessage-deflate"),
        more.contains("deflate"),
        "{head}"
    );
    Ws {
        stream,
        mask: Some([0x37, 0xFA, 0x21, 0x3D]),
    }
}

/// A server that upgrades whoever comes and does the same with each; its address, and the head of
/// the last request goes into its answer for `say`.
pub(crate) fn server(say: impl Fn(&str, Ws) + Send + 'static) -> String {
    let address = serve(move |mut stream| {
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let head = read_head(&mut stream);
        let (_, key) = head.split_once("Sec-WebSocket-Key: ").expect("a key");
        let key = key.split("\r\n").next().expect("its end");
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            accept_for(key)
        );
        stream.write_all(answer.as_bytes()).expect("it is read");
        say(&head, Ws { stream, mask: None });
    });
    address.to_string()
}

/// By another program's SHA-1.
fn accept_for(key: &str) -> String {
    let script = format!(
        "printf %s {key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11 | openssl dgst -sha1 -binary | \
         openssl base64"
    );
    let mut shell = Command::new("/bin/sh");
    let output = shell
        .args(["-c", &script])
        .stderr(Stdio::inherit())
        .output();
    let accept = String::from_utf8(output.expect("openssl").stdout).expect("base64");
    accept.trim().to_owned()
}
