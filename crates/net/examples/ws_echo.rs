//! Echoes WebSocket messages as what they were, text or binary: the testee of `cargo xtask compliance`.
//!
//! ```text
//! ws_echo serve             listens on a free port of 127.0.0.1, and prints it
//! ws_echo drive HOST:PORT   is the client of a server of test cases, and asks for one after the other
//! ```

#![expect(clippy::print_stdout, reason = "a program that prints")]

use std::error::Error;
use std::future::poll_fn;
use std::io::{self, IoSlice, Write as _};

use bytes::BytesMut;
use farpipe_net::carrier::ws::raw::{self, Admitted, Messages, RawWebSocket, To};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Read at once.
const READ_MAX: usize = 64 << 10;
/// What the server of test cases calls us.
const NAME: &str = "farpipe";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve"] => serve().await,
        ["drive", server] => drive(server).await,
        _ => Err("ws_echo serve | ws_echo drive HOST:PORT".into()),
    }
}

async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    io::stdout().flush()?;
    let mut sockets = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                sockets.spawn(async move {
                    let any = Admitted { path: None, origins: Vec::new() };
                    let socket = raw::accept(stream, &any, Messages::Bytes).await?;
                    // How it ended, the one who tests judges.
                    let _ = echo(socket.keeping_bounds()).await;
                    Result::Ok(())
                });
            }
            Some(_) = sockets.join_next() => {}
        }
    }
}

async fn drive(server: &str) -> Result<()> {
    let mut count = dial(server, "/getCaseCount").await?;
    let mut said = BytesMut::new();
    poll_fn(|cx| count.poll_read(cx, &mut said, READ_MAX)).await?;
    leave(count).await;
    let cases: usize = std::str::from_utf8(&said)?.parse()?;
    for case in 1..=cases {
        let path = format!("/runCase?case={case}&agent={NAME}");
        let _ = echo(dial(server, &path).await?.keeping_bounds()).await;
    }
    leave(dial(server, &format!("/updateReports?agent={NAME}")).await?).await;
    Ok(())
}

async fn dial(server: &str, path: &str) -> Result<RawWebSocket> {
    let to = To {
        host: server.to_owned(),
        path: path.to_owned(),
    };
    let stream = TcpStream::connect(server).await?;
    Ok(raw::connect(stream, &to, Messages::Bytes).await?)
}

/// Until the other end says its end.
async fn echo(mut socket: RawWebSocket) -> io::Result<()> {
    let echoed = echo_all(&mut socket).await;
    leave(socket).await;
    echoed
}

async fn echo_all(socket: &mut RawWebSocket) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    while poll_fn(|cx| socket.poll_read(cx, &mut bytes, READ_MAX)).await? > 0 {
        while !bytes.is_empty() {
            let len = poll_fn(|cx| socket.poll_write(cx, &[IoSlice::new(&bytes)])).await?;
            let _ = bytes.split_to(len);
        }
    }
    poll_fn(|cx| socket.poll_close(cx)).await
}

async fn leave(mut socket: RawWebSocket) {
    poll_fn(|cx| socket.poll_leave(cx, 1000)).await;
}
