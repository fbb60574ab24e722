//! Asks a web server that only another host can reach: `get RELAY HOST ADDRESS [PATH]`, for example
//! `get ws://127.0.0.1:7000 web1 localhost:8080 /`. The agent there runs with `--allow connect:localhost:8080`.

use std::error::Error;
use std::io::Write as _;

use farpipe::Settings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(relay), Some(host), Some(address)) = (args.next(), args.next(), args.next()) else {
        return Err("get RELAY HOST ADDRESS [PATH]".into());
    };
    let path = args.next().unwrap_or_else(|| "/".to_owned());

    let host = Settings::new().relay(relay).connect(&host)?;
    let mut stream = host.open(format!("tcp:{address}")).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;

    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    // The server has read to our end, too.
    stream.shutdown().await?;
    host.close().await?;
    std::io::stdout().write_all(&answer)?;
    Ok(())
}
