//! What one direction of a stream is to carry, who writes it and who checks it.
//!
//! The byte at each offset follows from the direction's tag, so the reader knows what must come
//! without anybody keeping it, and a byte lost, doubled or strayed shows at once.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use farpipe_net::{PAYLOAD_AT, RecvError, RecvStream, SendError, SendStream};
use farpipe_proto::wire::control::{Abort, AbortCode};
use tokio::time::sleep;

use super::chance::mix;

/// One direction of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flow {
    /// Bytes in all.
    pub len: u64,
    /// Most bytes the source gives at once; 0 counts as 1.
    pub chunk: usize,
    /// The source waits so long after each [`Flow::every`] chunks.
    pub source_delay: Duration,
    /// Most bytes the sink takes at once; 0 counts as 1.
    pub sip: usize,
    /// The sink waits so long after each [`Flow::every`] sips.
    pub sink_delay: Duration,
    /// See the delays; 0 counts as 1.
    pub every: u32,
    /// The source fails when it gave so many bytes.
    pub reset_at: Option<u64>,
    /// The sink has enough when it took so many bytes.
    pub stop_at: Option<u64>,
}

/// How a source or a sink ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// All was given, or all was taken and confirmed.
    Whole,
    /// This end broke off, as planned.
    Broke,
    /// The other end broke off.
    Broken,
    /// The session ended.
    Session(String),
    /// The byte at this offset is not the one that was given.
    Wrong(u64),
}

/// What became of one end of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Bytes given or taken.
    pub bytes: u64,
    /// How it ended.
    pub ended: Ended,
}

/// Writes the bytes of `tag` from offset `at` on.
fn fill(tag: u64, mut at: u64, out: &mut [u8]) {
    let mut rest = out;
    while !rest.is_empty() {
        let skip = (at % 8) as usize;
        let word = mix(tag ^ (at / 8)).to_le_bytes();
        let len = rest.len().min(8 - skip);
        let (now, later) = rest.split_at_mut(len);
        now.copy_from_slice(&word[skip..skip + len]);
        rest = later;
        at += len as u64;
    }
}

/// Checks the bytes of `tag` from offset `at` on; the offset of the first wrong one.
fn check(tag: u64, mut at: u64, mut bytes: &[u8]) -> Option<u64> {
    let mut wanted = [0; 4096];
    while !bytes.is_empty() {
        let len = bytes.len().min(wanted.len());
        fill(tag, at, &mut wanted[..len]);
        if let Some(wrong) = (0..len).find(|i| bytes[*i] != wanted[*i]) {
            return Some(at + wrong as u64);
        }
        bytes = &bytes[len..];
        at += len as u64;
    }
    None
}

/// Plays the source.
pub async fn give(flow: &Flow, tag: u64, send: &mut SendStream) -> Told {
    let mut bytes = 0;
    let end = flow.reset_at.unwrap_or(flow.len).min(flow.len);
    let mut chunks = 0;
    while bytes < end {
        let grant = match poll_fn(|cx| send.poll_grant(cx)).await {
            Ok(grant) => grant,
            Err(error) => {
                let ended = match error {
                    SendError::Session(end) => Ended::Session(end.to_string()),
                    _ => Ended::Broken,
                };
                return Told { bytes, ended };
            }
        };
        let mut buf = poll_fn(|cx| send.poll_buffer(cx, grant)).await;
        let room = buf.capacity() - PAYLOAD_AT;
        let left = usize::try_from(end - bytes).unwrap_or(usize::MAX);
        let len = grant.min(room).min(flow.chunk.max(1)).min(left);
        buf.resize(PAYLOAD_AT + len, 0);
        fill(tag, bytes, &mut buf[PAYLOAD_AT..]);
        send.commit(buf);
        bytes += len as u64;
        chunks += 1;
        pause(chunks, flow.every, flow.source_delay).await;
    }
    if flow.reset_at.is_some() {
        send.reset(abort("the source failed"));
        return Told {
            bytes,
            ended: Ended::Broke,
        };
    }
    send.finish();
    Told {
        bytes,
        ended: Ended::Whole,
    }
}

/// Plays the sink.
pub async fn take(flow: &Flow, tag: u64, recv: &mut RecvStream) -> Told {
    let mut bytes = 0;
    let mut chunks: VecDeque<BytesMut> = VecDeque::new();
    let mut sips = 0;
    loop {
        if flow.stop_at.is_some_and(|at| bytes >= at) {
            recv.stop(abort(""));
            return Told {
                bytes,
                ended: Ended::Broke,
            };
        }
        let Some(front) = chunks.front_mut() else {
            match poll_fn(|cx| recv.poll_chunks(cx, &mut chunks)).await {
                Ok(true) => continue,
                Ok(false) => {
                    pause(1, 1, flow.sink_delay).await;
                    recv.done();
                    let ended = Ended::Whole;
                    return Told { bytes, ended };
                }
                Err(error) => {
                    let ended = match error {
                        RecvError::Session(end) => Ended::Session(end.to_string()),
                        _ => Ended::Broken,
                    };
                    return Told { bytes, ended };
                }
            }
        };
        let len = front.len().min(flow.sip.max(1));
        if let Some(at) = check(tag, bytes, &front[..len]) {
            let ended = Ended::Wrong(at);
            return Told { bytes, ended };
        }
        front.advance(len);
        if front.is_empty() {
            chunks.pop_front();
        }
        bytes += len as u64;
        recv.consumed(len);
        sips += 1;
        pause(sips, flow.every, flow.sink_delay).await;
    }
}

async fn pause(count: u32, every: u32, delay: Duration) {
    if delay > Duration::ZERO && count.is_multiple_of(every.max(1)) {
        sleep(delay).await;
    }
}

fn abort(message: &str) -> Abort {
    Abort::new(AbortCode::ReaderGone, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stray_byte_shows_at_its_offset() {
        let mut bytes = vec![0; 1000];
        fill(7, 3, &mut bytes);
        assert_eq!(check(7, 3, &bytes), None);
        assert_eq!(check(7, 13, &bytes[10..]), None);
        assert!(check(7, 14, &bytes[10..]).is_some());
        assert!(check(8, 3, &bytes).is_some());
        bytes[500] ^= 1;
        assert_eq!(check(7, 3, &bytes), Some(503));
    }
}
