//! yawc: a sink and stream of frames of shared bytes, read without reassembly.

use anyhow::Result;
use futures_util::SinkExt;
use yawc::{Frame, Options, Role, WebSocket};

use super::{MESSAGE_MAX, READ_BUFFER, Subject, run};
use crate::link::Direction;
use crate::retain::Retained;

pub const SUBJECT: Subject = Subject {
    name: "yawc",
    retention: "a clone of the shared bytes; masks while copying into its write buffer",
    send: |socket, link| {
        run(socket, async |socket| -> Result<()> {
            let role = match link.direction {
                Direction::ClientToServer => Role::Client,
                Direction::ServerToClient => Role::Server,
            };
            let mut ws = WebSocket::from_stream(socket, role, options())?;
            let mut retained = Retained::new(link);
            for (start, len) in link.messages() {
                ws.feed(Frame::binary(retained.next(start, len)?)).await?;
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
            let mut ws = WebSocket::from_stream(socket, role, options())?.into_streaming();
            while !incoming.done() {
                incoming.got(ws.next_frame().await?.payload())?;
            }
            Ok(())
        })
    },
};

fn options() -> Options {
    Options::default()
        .with_limits(MESSAGE_MAX, 2 * MESSAGE_MAX)
        .with_read_buffer_capacity(READ_BUFFER)
        .with_write_buffer_capacity(READ_BUFFER)
}
