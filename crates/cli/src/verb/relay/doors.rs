//! The doors of a relay: opened and closed while it runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use farpipe_net::{Admission, Greeting, Listener, Url};
use farpipe_relay::{GatewayConfig, Relay};
use tokio::task::{AbortHandle, JoinSet};

use super::Args;
use crate::exit::WithStatus;
use crate::output;
use crate::status::Status;
use crate::verb::session::listening;

/// What is open, by the URL as it was written: port 0 is one door.
pub(super) struct Doors {
    relay: Arc<Relay>,
    open: BTreeMap<String, Open>,
    tasks: JoinSet<()>,
    quiet: bool,
    status: Status,
}

struct Open {
    /// With the port that it got.
    url: Url,
    task: AbortHandle,
}

impl Doors {
    pub(super) fn new(relay: Arc<Relay>, quiet: bool, status: Status) -> Self {
        Self {
            relay,
            open: BTreeMap::new(),
            tasks: JoinSet::new(),
            quiet,
            status,
        }
    }

    /// Opens what is wanted and not open, and closes what is not wanted any more; nothing of that if
    /// one cannot be opened. Sessions that came by a door which is closed go on. What was done.
    pub(super) async fn set(&mut self, args: &Args) -> anyhow::Result<Vec<String>> {
        let tokens = args.tls.tokens()?;
        let takes_tokens = tokens.is_some();
        let before = args.behind.proxy(&args.listen)?;
        let mut new: Vec<(String, Listener, Greeting, Option<GatewayConfig>)> = Vec::new();
        for url in &args.listen {
            let written = url.to_string();
            if self.open.contains_key(&written) || new.iter().any(|(other, ..)| *other == written) {
                continue;
            }
            // The certificates may be another door's.
            let is_plain =
                !url.scheme.is_tls() && args.listen.iter().any(|url| url.scheme.is_tls());
            let guarded = match is_plain {
                true => None,
                false => args.tls.server(url, self.quiet)?,
            };
            let tls = guarded
                .map(|guarded| guarded.without_tickets())
                .transpose()?;
            let admission =
                Admission::wanted(url.scheme, tls.as_ref(), takes_tokens, before.as_ref())
                    .map_err(|error| WithStatus::usage(error.to_string(), error.hint()))?;
            let greeting = listening(admission, None, tokens.clone())?;
            let gateway = args.gateway.config(url, &args.tls)?;
            let listener =
                Listener::bind_with(url.clone(), tls, takes_tokens, before.clone()).await?;
            new.push((written, listener, greeting, gateway));
        }
        let mut changes = Vec::new();
        let wanted: Vec<String> = args.listen.iter().map(ToString::to_string).collect();
        let gone: Vec<String> = self
            .open
            .keys()
            .filter(|written| !wanted.contains(written))
            .cloned()
            .collect();
        for written in gone {
            if let Some(Open { url, task }) = self.open.remove(&written) {
                task.abort();
                let url = url.to_string();
                self.status
                    .write(serde_json::json!({"event": "closed", "url": url}));
                changes.push(format!("closed {url}"));
            }
        }
        for (written, listener, greeting, gateway) in new {
            let url = listener.url().clone();
            if !self.quiet {
                output::line(&format!("listening on {url}"));
            }
            let event = serde_json::json!({"event": "listening", "url": url.to_string()});
            self.status.write(event);
            changes.push(format!("opened {url}"));
            let mut door = self.relay.door(greeting);
            if let Some(gateway) = gateway {
                door = door.with_gateway(gateway);
            }
            let door = Arc::new(door);
            let task = self.tasks.spawn(listener.serve(door));
            self.open.insert(written, Open { url, task });
        }
        // Those that were closed are let go.
        while self.tasks.try_join_next().is_some() {}
        Ok(changes)
    }

    /// Takes no more connections.
    pub(super) async fn close_all(&mut self) {
        self.open.clear();
        self.tasks.shutdown().await;
    }
}
