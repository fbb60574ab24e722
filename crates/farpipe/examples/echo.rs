//! A service of its own under a name: `echo RELAY NAME` sends back what comes, in capitals. Try it with
//! `farpipe pipe - NAME:unix:/shout --relay RELAY`.

#![expect(clippy::print_stderr, reason = "a program that prints")]

use std::error::Error;

use farpipe::{Settings, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(relay), Some(name)) = (args.next(), args.next()) else {
        return Err("echo RELAY NAME".into());
    };
    let mut service = Settings::new().relay(relay).serve(&name)?;
    let mut running = tokio::task::JoinSet::new();
    loop {
        let incoming = service.accept().await?;
        let who = incoming.caller().unwrap_or("somebody").to_owned();
        if incoming.endpoint() != b"unix:/shout" {
            incoming.refuse("only unix:/shout is here");
            continue;
        }
        eprintln!("{who} shouts");
        running.spawn(async move {
            if let Err(error) = shout(incoming.accept()).await {
                eprintln!("{who}: {error}");
            }
        });
    }
}

async fn shout(stream: Stream) -> std::io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let mut buf = vec![0; 64 * 1024];
    loop {
        let len = reader.read(&mut buf).await?;
        if len == 0 {
            // Ready when the other side has all of it.
            return writer.shutdown().await;
        }
        buf[..len].make_ascii_uppercase();
        writer.write_all(&buf[..len]).await?;
    }
}
