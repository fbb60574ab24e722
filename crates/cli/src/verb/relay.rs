//! `farpipe relay`: the meeting point of agents and those who ask for them.

use std::sync::Arc;

use farpipe_net::{Admission, Listener, Url};
use farpipe_relay::{Relay, RelayConfig};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::secure::ListenTls;
use super::session::{conclude, heartbeat, listening, url};
use crate::exit::WithStatus;
use crate::output;
use crate::signals::Signals;
use crate::status::Status;

/// Join those who ask for a host by name to its agent
///
/// Agents register here under the name in their certificate; `farpipe exec NAME` and the like ask for
/// them. The relay sees tunnels: which agent, how many bytes, when. It keeps nothing of what they
/// carry: when it is killed, sessions go on over the next one, or over the same one started again.
///
/// Beyond loopback it wants certificates: those of agents and clients are of the authority of --ca. On
/// loopback it lets in this user's own processes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen: wss://HOST:PORT or fps://HOST:PORT with certificates; ws:// or fp:// on loopback
    /// only; repeatable
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:7000")]
    listen: Vec<String>,
    #[command(flatten)]
    tls: ListenTls,
    /// The beat of the signs of life; a link silent for three beats is dead
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = heartbeat)]
    heartbeat: std::time::Duration,
    /// Write events to this descriptor, as lines of JSON
    #[arg(long, value_name = "FD")]
    status_fd: Option<u32>,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let status = Status::open(args.status_fd, false)?;
    let (signals, cancel) = Signals::catch()?;
    let config = RelayConfig {
        heartbeat: args.heartbeat,
        ..RelayConfig::default()
    };
    let (relay, running) = Relay::new(config);
    let relay = Arc::new(relay);
    let mut doors = JoinSet::new();
    let opened = open(&args, &relay, &mut doors, quiet, &status).await;
    drop(relay);
    if let Err(error) = opened {
        return conclude(Err(error), None, &status);
    }
    let told = stopped(cancel, doors);
    // A signal is how a relay ends: in order.
    signals.run(running.run(told)).await;
    status.flush();
    Ok(0)
}

/// Opens all doors, or none.
async fn open(
    args: &Args,
    relay: &Arc<Relay>,
    doors: &mut JoinSet<()>,
    quiet: bool,
    status: &Status,
) -> anyhow::Result<()> {
    let urls: Vec<Url> = args
        .listen
        .iter()
        .map(|text| url(text))
        .collect::<Result<_, _>>()?;
    let tokens = args.tls.tokens()?;
    let mut listeners = Vec::new();
    for url in urls {
        let guarded = args.tls.server(&url, quiet)?;
        let tls = guarded
            .map(|guarded| guarded.without_tickets())
            .transpose()?;
        let takes_tokens = tokens.is_some();
        let admission = Admission::wanted(url.scheme, tls.as_ref(), takes_tokens)
            .map_err(|error| WithStatus::usage(error.to_string(), error.hint()))?;
        let door = relay.door(listening(admission, None, tokens.clone())?);
        listeners.push((Listener::bind_with(url, tls, takes_tokens).await?, door));
    }
    for (listener, door) in listeners {
        let url = listener.url().to_string();
        if !quiet {
            output::line(&format!("listening on {url}"));
        }
        status.write(serde_json::json!({"event": "listening", "url": url}));
        doors.spawn(listener.serve(Arc::new(door)));
    }
    Ok(())
}

/// Ready when the relay is told to end; then its doors are closed.
async fn stopped(mut cancel: watch::Receiver<bool>, mut doors: JoinSet<()>) {
    let _ = cancel.wait_for(|told| *told).await;
    doors.shutdown().await;
}
