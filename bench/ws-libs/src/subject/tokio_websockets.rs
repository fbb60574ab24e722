//! tokio-websockets: a sink and stream of messages of shared bytes.

use anyhow::{Result, ensure};
use futures_util::{SinkExt, StreamExt};
use tokio_websockets::{ClientBuilder, Limits, Message, ServerBuilder};

use super::{MESSAGE_MAX, Subject, run};
use crate::link::Direction;
use crate::retain::Retained;

pub const SUBJECT: Subject = Subject {
    name: "tokio-websockets",
    retention: "a clone of the shared bytes; a client then copies them to mask the copy",
    send: |socket, link| {
        run(socket, async |socket| -> Result<()> {
            let mut ws = match link.direction {
                Direction::ClientToServer => ClientBuilder::new().take_over(socket),
                Direction::ServerToClient => ServerBuilder::new().serve(socket),
            };
            let mut retained = Retained::new(link);
            for (start, len) in link.messages() {
                ws.feed(Message::binary(retained.next(start, len)?)).await?;
            }
            ws.flush().await?;
            Ok(())
        })
    },
    receive: |socket, incoming| {
        run(socket, async |socket| {
            let limits = Limits::default().max_payload_len(Some(MESSAGE_MAX));
            let mut ws = match incoming.direction() {
                Direction::ClientToServer => ServerBuilder::new().limits(limits).serve(socket),
                Direction::ServerToClient => ClientBuilder::new().limits(limits).take_over(socket),
            };
            while !incoming.done() {
                let message = ws.next().await.transpose()?;
                ensure!(message.is_some(), "cut short");
                incoming.got(message.expect("checked").as_payload())?;
            }
            Ok(())
        })
    },
};
