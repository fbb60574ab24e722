//! Many idle agents in one process, for `cargo xtask bench-scale`: `agents RELAY N [DIR]` registers
//! `idle-00000` and so on at one relay, each over a link of its own, with the certificates
//! `NAME.pem` and `NAME-key.pem` of DIR and its `ca.pem` where the relay wants them. Whenever their number
//! changes it prints, ten times a second at most, how many are registered and the milliseconds since it
//! was started. It ends with its stdin.

#![expect(clippy::print_stdout, reason = "a program that prints")]

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farpipe_net::tls::{ClientTlsOptions, KeyFiles, TlsClient};
use farpipe_net::{
    Acceptor, AcceptorConfig, AgentLink, AgentLinkConfig, Greeting, LoopbackSecret, TcpDial, Url,
    system_random,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

const LOOK: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(count)) = (args.next(), args.next()) else {
        return Err("agents RELAY N [DIR]".into());
    };
    let url: Url = url.parse()?;
    let dir = args.next();
    let mut greeting = Greeting {
        software: "farpipe-agents".to_owned(),
        prover: None,
        keys: None,
        tokens: None,
        random: system_random,
    };
    if dir.is_none() {
        greeting.prover = Some(Arc::new(LoopbackSecret::load_or_create()?));
    }
    let (acceptor, _sessions) = Acceptor::new(AcceptorConfig::new(greeting.clone()));
    let acceptor = Arc::new(acceptor);
    let began = Instant::now();
    let mut links = JoinSet::new();
    let mut registered = Vec::new();
    for number in 0..count.parse()? {
        let name = format!("idle-{number:05}");
        let dial = dial(&url, &name, dir.as_deref().map(Path::new))?;
        let mut config = AgentLinkConfig::new(name, greeting.clone());
        let (told, is_registered) = watch::channel(false);
        config.registered = Some(told);
        registered.push(is_registered);
        let link = AgentLink::new(Arc::clone(&acceptor), config);
        links.spawn(async move {
            let Err(end) = link.run(&dial).await;
            end
        });
    }
    // Not as a task: whoever started it may be killed.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let mut last = 0;
    loop {
        tokio::select! {
            Some(ended) = links.join_next() => return Err(ended?.into()),
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = registered.iter().filter(|is| *is.borrow()).count();
        if now != last {
            println!("{now} {}", began.elapsed().as_millis());
            std::io::stdout().flush()?;
            last = now;
        }
    }
}

fn dial(url: &Url, name: &str, dir: Option<&Path>) -> Result<TcpDial, Box<dyn Error>> {
    let Some(dir) = dir else {
        return Ok(TcpDial::new(url.clone()));
    };
    let options = ClientTlsOptions {
        identity: Some(KeyFiles {
            cert: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}-key.pem")),
        }),
        ca: Some(dir.join("ca.pem")),
        ..ClientTlsOptions::default()
    };
    let tls = TlsClient::new(options, url.scheme.alpn())?;
    Ok(TcpDial::tls(url.clone(), Arc::new(tls)))
}
