//! sockudo-ws: a sink and stream of messages of shared bytes.

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use sockudo_ws::{Config, Message, Role, WebSocketStream};

use super::{MESSAGE_MAX, READ_BUFFER, Subject, run};
use crate::link::Direction;
use crate::retain::Retained;

pub const SUBJECT: Subject = Subject {
    name: "sockudo-ws",
    retention: "a clone of the shared bytes; a client masks while copying, a server does not copy",
    send: |socket, link| {
        run(socket, async |socket| -> Result<()> {
            let role = match link.direction {
                Direction::ClientToServer => Role::Client,
                Direction::ServerToClient => Role::Server,
            };
            let mut ws = WebSocketStream::from_raw(socket, role, config());
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
            let mut ws = WebSocketStream::from_raw(socket, role, config());
            while !incoming.done() {
                let message = ws.next().await.context("cut short")??;
                incoming.got(message.as_bytes())?;
            }
            Ok(())
        })
    },
};

fn config() -> Config {
    Config::builder()
        .max_message_size(MESSAGE_MAX)
        .max_frame_size(MESSAGE_MAX)
        .write_buffer_size(READ_BUFFER)
        .build()
}
