//! Programs with sockets that are no farpipe: servers, and who asks them.

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use super::DEADLINE;

/// A program that listens and treats each connection as `serve` does, for as long as the test runs.
pub(crate) fn server(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream.expect("a connection")));
        }
    });
    address
}

/// Sends back what comes, as it comes, and ends as its peer ends.
pub(crate) fn echo(mut stream: TcpStream) {
    let mut reader = stream.try_clone().expect("a duplicate");
    let _ = std::io::copy(&mut reader, &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
}

/// Reads the answer to its end while `say` sends the question and its end.
fn ask(mut stream: impl Read, say: impl FnOnce() + Send) -> Vec<u8> {
    let mut answer = Vec::new();
    thread::scope(|scope| {
        scope.spawn(say);
        stream.read_to_end(&mut answer).expect("the answer's end");
    });
    answer
}

pub(crate) fn ask_tcp(stream: TcpStream, question: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().expect("a duplicate");
    ask(stream, move || {
        writer.write_all(question).expect("it is read");
        writer.shutdown(Shutdown::Write).expect("a half-close");
    })
}

pub(crate) fn ask_unix(stream: UnixStream, question: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut writer = stream.try_clone().expect("a duplicate");
    ask(stream, move || {
        writer.write_all(question).expect("it is read");
        writer.shutdown(Shutdown::Write).expect("a half-close");
    })
}

/// Sends back what comes to a Unix socket, and ends as its peer ends.
pub(crate) fn echo_at(path: &Path) {
    let server = UnixListener::bind(path).expect("a socket");
    thread::spawn(move || {
        for stream in server.incoming() {
            let mut writer = stream.expect("a connection");
            let mut reader = writer.try_clone().expect("a duplicate");
            thread::spawn(move || {
                let _ = std::io::copy(&mut reader, &mut writer);
                let _ = writer.shutdown(Shutdown::Write);
            });
        }
    });
}
