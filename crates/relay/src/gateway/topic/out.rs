//! Where the records of a topic go: into a body, or into a WebSocket. Either takes what its client takes, and no more than a bound
//! waits for that.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};

use farpipe_net::carrier::ws::raw::{self, Kind, RawWebSocket, Transport};

use super::super::download::Download;
use super::super::ends::{Failed, Sink as _};
use super::ask::{Follow, Shown, Way};
use super::shown;
use crate::topics::follow::{Follower, Item, Read};

/// The end in order, where there is nothing to say of it.
const NORMAL: u16 = 1000;
/// Bytes that are put together before they are sent; a record on top of it.
const GATHER: usize = 64 * 1024;

/// How a client is told.
#[derive(Debug)]
pub(super) struct Out {
    to: To,
    way: Way,
    shown: Shown,
    /// Whether an event's id names its partition.
    has_many: bool,
    /// Put, and not sent.
    body: Vec<u8>,
    messages: VecDeque<Vec<u8>>,
    waits: usize,
}

#[derive(Debug)]
enum To {
    Body(Download),
    Socket(Box<RawWebSocket>),
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The client left.
    Left,
    /// The relay is going away.
    Going,
    /// It failed.
    Broken,
}

impl Out {
    /// Begins the answer; `more` are lines of its head.
    pub(super) fn body(
        io: Box<dyn Transport>,
        ask: &Follow,
        follower: &Follower,
        more: &[(&'static str, String)],
    ) -> Self {
        let kind = match (ask.way, ask.shown) {
            (Way::Events, _) => "text/event-stream",
            (_, Shown::Json) => "application/x-ndjson",
            (_, Shown::Value) => "text/plain",
        };
        let download = Download::new(io, kind, more);
        let mut out = Self::new(To::Body(download), ask, follower);
        if ask.way == Way::Events {
            // One who loses the connection before the first record asks again from here.
            let id = out.id(None, follower);
            shown::place(&id, &mut out.body);
        }
        out
    }

    pub(super) fn socket(mut socket: RawWebSocket, ask: &Follow, follower: &Follower) -> Self {
        socket.discard();
        Self::new(To::Socket(Box::new(socket)), ask, follower)
    }

    fn new(to: To, ask: &Follow, follower: &Follower) -> Self {
        Self {
            to,
            way: ask.way,
            shown: ask.shown,
            has_many: ask.span.partition.is_none() && follower.places().count() > 1,
            body: Vec::new(),
            messages: VecDeque::new(),
            waits: 0,
        }
    }

    /// Whether there is room for another record.
    pub(super) fn has_room(&self) -> bool {
        self.waits + self.body.len() < GATHER
    }

    /// Whether something is to be sent.
    pub(super) fn has_some(&self) -> bool {
        !self.body.is_empty() || !self.messages.is_empty()
    }

    /// Takes what was read.
    ///
    /// # Errors
    /// It is missing, and there is no way to say so but to end.
    pub(super) fn put(&mut self, item: &Item, follower: &Follower) -> Result<(), Failed> {
        match item {
            Item::Record(read) => self.put_record(read, follower),
            Item::Missing(missing) => match (self.way, self.shown) {
                (Way::Events, _) => {
                    let id = self.id(Some(missing.partition), follower);
                    shown::missing_event(&id, missing, &mut self.body);
                }
                (_, Shown::Json) => self.put_line(shown::missing(missing)),
                (_, Shown::Value) => return Err(Failed::Far(shown::words(missing))),
            },
        }
        Ok(())
    }

    fn put_record(&mut self, read: &Read, follower: &Follower) {
        match (self.way, self.shown) {
            (Way::Events, shown) => {
                let id = self.id(Some(read.partition), follower);
                match shown {
                    Shown::Value => shown::event(&id, &read.record.value, &mut self.body),
                    Shown::Json => {
                        shown::event(&id, shown::json(read).as_bytes(), &mut self.body);
                    }
                }
            }
            (_, Shown::Json) => self.put_line(shown::json(read)),
            (Way::Lines, Shown::Value) => {
                self.body.extend_from_slice(&read.record.value);
                self.body.push(b'\n');
            }
            (Way::Socket, Shown::Value) => {
                self.waits += read.record.value.len();
                self.messages.push_back(read.record.value.to_vec());
            }
        }
    }

    fn put_line(&mut self, line: String) {
        match self.way {
            Way::Socket => {
                self.waits += line.len();
                self.messages.push_back(line.into_bytes());
            }
            Way::Lines | Way::Events => {
                self.body.extend_from_slice(line.as_bytes());
                self.body.push(b'\n');
            }
        }
    }

    /// What one says who asks again: of the only partition the offset that was read last; of several `PARTITION:OFFSET` of each,
    /// first of the one that this is of.
    fn id(&self, partition: Option<u32>, follower: &Follower) -> String {
        let last = |next: u64| match next.checked_sub(1) {
            Some(last) => last.to_string(),
            None => "-1".to_owned(),
        };
        let mut places: Vec<(u32, u64)> = follower.places().collect();
        places.sort_by_key(|(number, _)| (Some(*number) != partition, *number));
        let mut parts = places.iter().map(|(number, next)| match self.has_many {
            true => format!("{number}:{}", last(*next)),
            false => last(*next),
        });
        let first = parts.next().unwrap_or_default();
        parts.fold(first, |id, part| id + "," + &part)
    }

    /// Says something, so that nobody takes the connection for dead. A WebSocket pings by itself.
    pub(super) fn beat(&mut self) {
        if self.way == Way::Events {
            self.body.extend_from_slice(b":\n\n");
        }
    }

    /// Sends what was put, as the client takes it.
    ///
    /// # Errors
    /// The client is gone.
    pub(super) async fn send(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Body(download) => {
                let mut rest = &self.body[..];
                while !rest.is_empty() {
                    let bufs = [IoSlice::new(rest)];
                    let len = poll_fn(|cx| download.poll_write(cx, &bufs)).await?;
                    rest = rest.get(len..).unwrap_or_default();
                }
                self.body.clear();
                poll_fn(|cx| download.poll_flush(cx)).await
            }
            To::Socket(socket) => {
                let kind = match self.shown {
                    Shown::Json => Kind::Text,
                    Shown::Value => Kind::Binary,
                };
                while let Some(message) = self.messages.front() {
                    poll_fn(|cx| socket.poll_send(cx, kind, message)).await?;
                    self.waits = self.waits.saturating_sub(message.len());
                    self.messages.pop_front();
                }
                Ok(())
            }
        }
    }

    /// Ready when the client has gone: with `Ok` if it said so. Cancel safe.
    pub(super) async fn gone(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Body(download) => poll_fn(|cx| download.poll_gone(cx)).await,
            To::Socket(socket) => poll_fn(|cx| socket.poll_gone(cx)).await,
        }
    }

    /// Says the end, behind all that was put, and waits for the client's.
    ///
    /// # Errors
    /// It has not got all.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        if self.way == Way::Events {
            shown::end(&mut self.body);
        }
        self.send().await?;
        match &mut self.to {
            To::Body(download) => poll_fn(|cx| download.poll_close(cx)).await,
            To::Socket(socket) => {
                let closed = poll_fn(|cx| socket.poll_close(cx)).await;
                poll_fn(|cx| socket.poll_leave(cx, NORMAL)).await;
                closed
            }
        }
    }

    /// Ends otherwise. What was put comes first; then a body is cut without its last chunk.
    pub(super) async fn cut(mut self, ending: Ending) {
        if ending != Ending::Left {
            // One who does not take it is cut by the relay's end, or goes away.
            let _ = tokio::time::timeout(farpipe_proto::limits::DRAIN, self.send()).await;
        }
        match self.to {
            To::Body(download) => download.cut().await,
            To::Socket(mut socket) => {
                let code = match ending {
                    Ending::Left => NORMAL,
                    Ending::Going => raw::GOING_AWAY,
                    Ending::Broken => raw::INTERNAL_ERROR,
                };
                poll_fn(|cx| socket.poll_leave(cx, code)).await;
            }
        }
    }
}
