//! tungstenite on blocking sockets: its fastest form for one direction on a thread of its own.

use anyhow::Result;
use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

use super::{MESSAGE_MAX, READ_BUFFER, Subject};
use crate::link::Direction;
use crate::retain::Retained;

pub const SUBJECT: Subject = Subject {
    name: "tungstenite, blocking",
    retention: "a clone of the shared bytes; copied into its write buffer and masked there",
    send: |socket, link| -> Result<()> {
        let role = match link.direction {
            Direction::ClientToServer => Role::Client,
            Direction::ServerToClient => Role::Server,
        };
        let mut ws = WebSocket::from_raw_socket(socket, role, Some(config()));
        let mut retained = Retained::new(link);
        for (start, len) in link.messages() {
            ws.write(Message::Binary(retained.next(start, len)?))?;
        }
        ws.flush()?;
        Ok(())
    },
    receive: |socket, incoming| {
        let role = match incoming.direction() {
            Direction::ClientToServer => Role::Server,
            Direction::ServerToClient => Role::Client,
        };
        let mut ws = WebSocket::from_raw_socket(socket, role, Some(config()));
        while !incoming.done() {
            incoming.got(&ws.read()?.into_data())?;
        }
        Ok(())
    },
};

/// Written out at once when a message is queued: what is left waits and is moved up in the buffer.
pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MESSAGE_MAX)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
}
