//! No framing at all: what the sockets, the copies and the runtime allow.

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{READ_BUFFER, Subject, run};
use crate::retain::Retained;

pub const SUBJECT: Subject = Subject {
    name: "raw TCP",
    retention: "the buffer that was written",
    send: |socket, link| {
        run(socket, async |mut socket| {
            let mut retained = Retained::new(link);
            for (start, len) in link.messages() {
                let mut buffer = retained.take(start, len, || vec![0; link.message]);
                link.fill(start, &mut buffer[..len])?;
                socket.write_all(&buffer[..len]).await?;
                retained.keep(start + len as u64, buffer);
            }
            Ok(())
        })
    },
    receive: |socket, incoming| {
        run(socket, async |mut socket| -> Result<()> {
            let mut buffer = vec![0; READ_BUFFER];
            while !incoming.done() {
                let n = socket.read(&mut buffer).await?;
                ensure!(n > 0, "cut short");
                incoming.got(&buffer[..n])?;
            }
            Ok(())
        })
    },
};
