//! A relay's gateway, and requests to it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::websocket::{Ws, address, ask, request};
use super::{DEADLINE, Host, Listener, Running};

/// A relay that says much.
pub(crate) fn relay(host: &Host) -> Listener {
    host.relay("ws").arg("-v").start_listening()
}

/// Where a pipe is for those who have no farpipe.
pub(crate) fn at(relay: &Listener, pipe: &str) -> String {
    format!("http://{}/p/{pipe}", address(relay))
}

/// Waits until somebody writes the pipe.
#[track_caller]
pub(crate) fn await_writer(relay: &Running, pipe: &str) {
    let registered = format!("pipe {pipe}: registered");
    relay.stderr_until(|text| text.contains(&registered));
}

/// Waits until so many readers were held.
#[track_caller]
pub(crate) fn await_held(relay: &Running, times: usize) {
    relay.stderr_until(|text| text.matches(": held: ").count() >= times);
}

/// Status, head and body of the answer to a request.
#[track_caller]
pub(crate) fn answer(relay: &Listener, request: &str) -> (u16, String, String) {
    let (head, mut stream) = ask(relay, request);
    let mut body = String::new();
    stream.read_to_string(&mut body).expect("text");
    (status(&head), head, body)
}

pub(crate) fn status(head: &str) -> u16 {
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
    status.unwrap_or_else(|| panic!("no status: {head}"))
}

/// A connection with a request that is not answered yet.
#[track_caller]
pub(crate) fn begin(relay: &Listener, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address(relay)).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("it reads");
    stream
}

/// A WebSocket at a pipe, which is answered at once.
#[track_caller]
pub(crate) fn socket(relay: &Listener, path: &str, more: &str) -> (Ws, String) {
    let (head, stream) = ask(relay, &request(path, more));
    assert_eq!(status(&head), 101, "{head}");
    let ws = Ws {
        stream,
        mask: Some([0x37, 0xFA, 0x21, 0x3D]),
    };
    (ws, head)
}
