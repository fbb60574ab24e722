//! fastwebsockets: frames over borrowed memory, masked where they lie, written with writev.

use anyhow::Result;
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket};

use super::{MESSAGE_MAX, Subject, run};
use crate::link::Direction;
use crate::retain::Retained;

pub const SUBJECT: Subject = Subject {
    name: "fastwebsockets",
    retention: "the borrowed buffer that was written, masked with a mask we chose",
    send: |socket, link| {
        run(socket, async |socket| -> Result<()> {
            let role = match link.direction {
                Direction::ClientToServer => Role::Client,
                Direction::ServerToClient => Role::Server,
            };
            let mut ws = WebSocket::after_handshake(socket, role);
            let mut retained = Retained::new(link);
            let mut key = 0x2545_f491_u32;
            for (start, len) in link.messages() {
                let mut buffer = retained.take(start, len, || vec![0; link.message]);
                link.fill(start, &mut buffer[..len])?;
                key = key.wrapping_mul(0x9e37_79b1).wrapping_add(1);
                let mask = (role == Role::Client).then(|| key.to_ne_bytes());
                let payload = Payload::BorrowedMut(&mut buffer[..len]);
                ws.write_frame(Frame::new(true, OpCode::Binary, mask, payload))
                    .await?;
                retained.keep(start + len as u64, buffer);
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
            let mut ws = WebSocket::after_handshake(socket, role);
            ws.set_max_message_size(MESSAGE_MAX);
            while !incoming.done() {
                incoming.got(&ws.read_frame().await?.payload)?;
            }
            Ok(())
        })
    },
};
