//! What every half of an endpoint has around it: its name in errors, and what ends with it.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;

use super::error::{Half, IoContext};
use super::{Sink, Source};

/// What is let go of when a half is closed or dropped, behind the half itself.
pub(crate) type Held = Box<dyn fmt::Debug + Send>;

/// Adds the endpoint's name to its errors.
#[derive(Debug)]
pub(crate) struct Named<T: ?Sized> {
    inner: Box<T>,
    name: Arc<str>,
    /// Dropped last: fields are dropped in their order.
    held: Option<Held>,
}

impl Named<dyn Source> {
    pub(crate) fn source(inner: Box<dyn Source>, name: impl Into<Arc<str>>) -> Box<dyn Source> {
        Self::boxed(inner, name, None)
    }

    pub(crate) fn source_with(
        held: Held,
        inner: Box<dyn Source>,
        name: impl Into<Arc<str>>,
    ) -> Box<dyn Source> {
        Self::boxed(inner, name, Some(held))
    }
}

impl Named<dyn Sink> {
    pub(crate) fn sink(inner: Box<dyn Sink>, name: impl Into<Arc<str>>) -> Box<dyn Sink> {
        Self::boxed(inner, name, None)
    }

    pub(crate) fn sink_with(
        held: Held,
        inner: Box<dyn Sink>,
        name: impl Into<Arc<str>>,
    ) -> Box<dyn Sink> {
        Self::boxed(inner, name, Some(held))
    }
}

impl<T: ?Sized> Named<T> {
    fn boxed(inner: Box<T>, name: impl Into<Arc<str>>, held: Option<Held>) -> Box<Self> {
        let name = name.into();
        Box::new(Self { inner, name, held })
    }
}

impl Source for Named<dyn Source> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let named = |error| IoContext::wrap(Half::Source, &self.name, error);
        self.inner.poll_ready(cx).map_err(named)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let named = |error| IoContext::wrap(Half::Source, &self.name, error);
        self.inner.poll_read(cx, buf, max).map_err(named)
    }

    fn is_at_rest(&mut self) -> bool {
        self.inner.is_at_rest()
    }
}

impl Sink for Named<dyn Sink> {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let named = |error| IoContext::wrap(Half::Sink, &self.name, error);
        self.inner.poll_write(cx, bufs).map_err(named)
    }

    fn poll_reader_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let named = |error| IoContext::wrap(Half::Sink, &self.name, error);
        self.inner.poll_reader_gone(cx).map_err(named)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let named = |error| IoContext::wrap(Half::Sink, &self.name, error);
        self.inner.poll_flush(cx).map_err(named)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = ready!(self.inner.poll_close(cx));
        self.held = None;
        Poll::Ready(closed.map_err(|error| IoContext::wrap(Half::Sink, &self.name, error)))
    }
}
