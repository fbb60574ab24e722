//! tokio-tungstenite: tungstenite as a sink and stream.

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;
use tungstenite::protocol::Role;

use super::tungstenite::config;
use super::{Subject, run};
use crate::link::Direction;
use crate::retain::Retained;

pub const SUBJECT: Subject = Subject {
    name: "tokio-tungstenite",
    retention: "as tungstenite",
    send: |socket, link| {
        run(socket, async |socket| -> Result<()> {
            let role = match link.direction {
                Direction::ClientToServer => Role::Client,
                Direction::ServerToClient => Role::Server,
            };
            let mut ws = WebSocketStream::from_raw_socket(socket, role, Some(config())).await;
            let mut retained = Retained::new(link);
            for (start, len) in link.messages() {
                ws.feed(Message::Binary(retained.next(start, len)?)).await?;
            }
            ws.flush().await?;
            Ok(())
        })
    },
    receive: |socket, incoming| {
        run(socket, async |socket| {
            let role = match incoming.direction() {
                Direction::ClientToServer => Role::Server,
                Direction::ServerToClient => Role::Client,
            };
            let mut ws = WebSocketStream::from_raw_socket(socket, role, Some(config())).await;
            while !incoming.done() {
                let message = ws.next().await.context("cut short")??;
                incoming.got(&message.into_data())?;
            }
            Ok(())
        })
    },
};
