//! An end of a copy at an agent (docs/protocol.md section 6.12): sends files of this host, or takes some, as
//! far as the policy lets the caller read or write there.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use bytes::Bytes;
use farpipe_net::Stream;
use farpipe_proto::limits::{COPIES_EACH_MAX, COPIES_MAX};
use farpipe_proto::wire::control::{self, Accept};
use tokio::sync::mpsc;

use super::permission::Wants;
use super::quota::{Quota, whose};
use super::{Counted, Refusal, Serving};
use crate::copy::{self, Base, CopyError, Event, Journal, Receiver, Sender, Source, Summary, Top};
use crate::pipe::{self, cancelled};
use crate::shown::shown;

/// Copies of this process that are under way: each has threads of its own.
static COPIES: Quota = Quota::new(COPIES_MAX, COPIES_EACH_MAX);

/// An end that can run.
enum End {
    Sending(Sender),
    Receiving(Receiver),
}

impl End {
    async fn run(
        self,
        input: mpsc::Receiver<Bytes>,
        output: mpsc::Sender<Bytes>,
        journal: Journal,
    ) -> Result<Summary, CopyError> {
        match self {
            Self::Sending(end) => end.run(input, output, journal).await,
            Self::Receiving(end) => end.run(input, output, journal).await,
        }
    }
}

impl Serving {
    /// Serves a stream that asks for a copy.
    pub(crate) async fn copy(&self, stream: Stream, asked: control::Copy) {
        let mut stream = stream;
        let _under_way = match COPIES.take(&whose(self.caller.as_ref())) {
            Ok(taken) => taken,
            Err(full) => return self.refuse(stream, &Refusal::Full("copies", full)).await,
        };
        let opening = self.end(asked);
        let opened = pipe::unless_over(&mut stream.watch, self.cancel.clone(), opening).await;
        let end = match opened {
            Ok(Ok(end)) => end,
            Ok(Err(refusal)) => return self.refuse(stream, &refusal).await,
            Err(over) => return self.refuse(stream, &Refusal::Over(over)).await,
        };
        let _counted = Counted::new(&self.running);
        stream.accept(Accept::default());
        let ((to_end, input), (output, from_end)) = (copy::pair(), copy::pair());
        let link = async {
            tokio::select! {
                (joined, _watch) = copy::join(stream, from_end, to_end) => Some(joined),
                // Dropped, the stream is reset, and the end here ends in order.
                () = cancelled(self.cancel.clone()) => None,
            }
        };
        let (joined, ended) = tokio::join!(link, end.run(input, output, self.journal()));
        match (joined, ended) {
            (_, Ok(summary)) => {
                let (files, bytes) = (summary.counts.files, summary.counts.bytes);
                let failed = summary.troubles;
                self.ends(&format!(
                    "{files} files copied, {bytes} bytes; {failed} failed"
                ));
            }
            (None, Err(_)) => self.ends("ended"),
            (Some(Err(why)), Err(CopyError::Left)) => self.ends(&why.to_string()),
            (Some(_), Err(error)) => self.ends(&error.to_string()),
        }
    }

    /// What happens goes to this host's log as well.
    fn journal(&self) -> Journal {
        let name = self.name.clone();
        Journal::new(move |event| match event {
            Event::Trouble { path, message, .. } => tracing::info!("{name}: {path}: {message}"),
            Event::Kept {
                path,
                kept,
                is_reread,
            } => match is_reread {
                false => tracing::info!("{name}: {path}: {kept} bytes kept"),
                true => tracing::info!(
                    "{name}: {path}: {kept} bytes kept, and read again, as it was changed since"
                ),
            },
            Event::Restarted { path, why } => {
                tracing::info!("{name}: {path}: begins again: {why}");
            }
            Event::Would(_) => {}
        })
    }

    /// The end that is asked for, if the caller may have it.
    async fn end(&self, asked: control::Copy) -> Result<End, Refusal> {
        let control::Copy {
            sources,
            target,
            names,
            several,
            dry_run,
        } = asked;
        match target {
            None => Ok(End::Sending(self.sources(sources).await?)),
            Some(target) if sources.is_empty() => {
                // A name that is empty stands for a source that has none.
                let given = |name: Vec<u8>| (!name.is_empty()).then_some(name);
                let names: Vec<_> = names.into_iter().map(given).collect();
                let target = OsString::from_vec(target);
                let base = self.base(target, several, names.clone()).await?;
                let top = match names.is_empty() {
                    true => Top::Told,
                    false => Top::Given(names),
                };
                let receiver = Receiver::new(base, top, dry_run);
                Ok(End::Receiving(receiver.among(self.claims())))
            }
            Some(_) => Err(Refusal::Copy("it asks for files, and for room for others")),
        }
    }

    async fn sources(&self, paths: Vec<Vec<u8>>) -> Result<Sender, Refusal> {
        let mut sources = Vec::with_capacity(paths.len());
        for path in paths {
            sources.push(self.source(OsString::from_vec(path)).await?);
        }
        Ok(Sender::new(sources))
    }

    async fn source(&self, path: OsString) -> Result<Source, Refusal> {
        let place = match self.permitted_path(Wants::Read, path.as_ref()).await {
            Ok(place) => place,
            // The others can be copied.
            Err(Refusal::Path { error, .. }) => return Ok(Source::missing(&path, error)),
            Err(refusal) => return Err(refusal),
        };
        let opened = tokio::task::spawn_blocking(move || {
            Source::open(place, &path).unwrap_or_else(|error| Source::missing(&path, error))
        });
        opened.await.map_err(|_| Refusal::Denied)
    }

    async fn base(
        &self,
        target: OsString,
        several: bool,
        names: Vec<Option<Vec<u8>>>,
    ) -> Result<Base, Refusal> {
        let place = self
            .permitted_path(Wants::Write, Path::new(&target))
            .await?;
        let shown = shown(target.as_bytes());
        let open = move || Base::open(&place, &target, several, &names);
        let opened = tokio::task::spawn_blocking(open).await;
        let opened = opened.map_err(|_| Refusal::Denied)?;
        opened.map_err(|error| Refusal::Target { path: shown, error })
    }
}
