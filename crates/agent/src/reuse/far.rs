//! One session to a far agent, which the commands of one way share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farpipe_net::{Dial, Linked, Opener, SessionEnd, SessionHandle, Stream};
use farpipe_proto::limits::REUSE_STREAMS_MAX;
use farpipe_proto::wire::control::{Open, Refuse};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::splice::{OpenedBy, Splice};
use crate::outcome::STATUS_FAILURE;

/// A command's end of the splices.
#[derive(Debug)]
pub(super) struct Near {
    /// Its session.
    pub(super) handle: SessionHandle,
    /// Takes streams that the far agent opens. As many as a session may have streams; what does not
    /// fit is refused.
    pub(super) adopt: mpsc::Sender<Splice>,
}

/// A session.
#[derive(Debug)]
pub(super) struct Far {
    handle: SessionHandle,
    dial: Box<dyn Dial>,
    taken: Mutex<Taken>,
}

#[derive(Debug)]
struct Taken {
    /// The streams of commands, by their numbers in the far session: whose, and their numbers there.
    places: BTreeMap<u32, (Arc<Near>, u32)>,
    idle_since: Instant,
}

/// A stream's place in the far session; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    far: Arc<Far>,
    number: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.far.lock();
        taken.places.remove(&self.number);
        taken.idle_since = Instant::now();
    }
}

/// The stream that another one belongs to, if it belongs to one: numbered by the session that it is in.
fn parent(open: &mut Open) -> Option<&mut u32> {
    let parents = [&mut open.stderr_of, &mut open.accepted_at];
    parents.into_iter().find(|number| **number != 0)
}

impl Far {
    pub(super) fn new(handle: SessionHandle, dial: Box<dyn Dial>) -> Arc<Self> {
        Arc::new(Self {
            handle,
            dial,
            taken: Mutex::new(Taken {
                places: BTreeMap::new(),
                idle_since: Instant::now(),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // A panic under it is a bug that ends its task; the others go on.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it leads, for people.
    pub(super) fn peer(&self) -> String {
        self.dial.peer()
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.handle.is_over()
    }

    /// Whether another command may use it. One whose link is lost may not: what would be refused at
    /// once without it should not wait here.
    pub(super) fn has_room(&self) -> bool {
        let is_up = !self.handle.is_over() && self.handle.linked() != Linked::Lost;
        is_up && self.handle.open_streams() < REUSE_STREAMS_MAX
    }

    /// Since when nobody uses it.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let taken = self.lock();
        taken.places.is_empty().then_some(taken.idle_since)
    }

    /// Ends it in order, if it can be reached; nobody uses it.
    pub(super) fn leave(&self) {
        match self.handle.linked() {
            Linked::Now => self.handle.finish_opening(),
            Linked::NotYet | Linked::Lost => self.handle.end(SessionEnd::Closed),
        }
    }

    /// Ends it at once.
    pub(super) fn end(&self) {
        self.handle.end(SessionEnd::Closed);
    }

    /// Keeps it linked, and takes the streams that the far agent opens, until it is over.
    ///
    /// # Errors
    /// [`SessionEnd`]
    ///
    /// # Cancellation
    /// As for [`Opener::run`].
    pub(super) async fn run(self: Arc<Self>, opener: Opener) -> Result<(), SessionEnd> {
        let adopting = async {
            while let Some((stream, open)) = self.handle.accept().await {
                self.adopt(stream, open);
            }
        };
        tokio::join!(opener.run(&*self.dial), adopting).0
    }

    /// Continues a command's stream; gives it back if that cannot be.
    pub(super) fn join(
        self: &Arc<Self>,
        near: &Arc<Near>,
        stream: Stream,
        mut open: Open,
    ) -> Result<Splice, Box<(Stream, Open)>> {
        if !self.has_room() {
            return Err(Box::new((stream, open)));
        }
        let own = open.clone();
        if let Some(number) = parent(&mut open) {
            match self.number_of(near, *number) {
                Some(parent) => *number = parent,
                None => return Err(Box::new((stream, own))),
            }
        }
        let Some(far) = self.handle.open_with(open) else {
            return Err(Box::new((stream, own)));
        };
        let number = far.id().0;
        let place = Place {
            far: Arc::clone(self),
            number,
        };
        let whose = (Arc::clone(near), stream.id().0);
        self.lock().places.insert(number, whose);
        let (session, way) = (near.handle.clone(), Arc::clone(self));
        let opened_by = OpenedBy::Near;
        Ok(Splice::new(
            stream,
            far,
            opened_by,
            session,
            way,
            Some(place),
        ))
    }

    /// The number here of a command's stream.
    fn number_of(&self, near: &Arc<Near>, number: u32) -> Option<u32> {
        let taken = self.lock();
        let mut places = taken.places.iter();
        let own = |(whose, there): &(Arc<Near>, u32)| Arc::ptr_eq(whose, near) && *there == number;
        places.find(|(_, place)| own(place)).map(|(here, _)| *here)
    }

    /// Takes the streams that the far agent has opened by now.
    pub(super) fn take_opened(self: &Arc<Self>) {
        while let Some((stream, open)) = self.handle.try_accept() {
            self.adopt(stream, open);
        }
    }

    /// Continues a stream of the far agent's to the command that it is for.
    fn adopt(self: &Arc<Self>, stream: Stream, mut open: Open) {
        let refuse = |stream: Stream, why: &str| {
            stream.refuse(Refuse {
                status: u32::from(STATUS_FAILURE),
                message: why.to_owned(),
            });
        };
        let Some(number) = parent(&mut open) else {
            return refuse(stream, "nobody asked for this stream");
        };
        let Some((near, there)) = self.lock().places.get(number).cloned() else {
            return refuse(stream, "who asked for this stream is gone");
        };
        *number = there;
        let Some(continued) = near.handle.open_with(open) else {
            return refuse(stream, "no room for another stream");
        };
        let (session, way) = (near.handle.clone(), Arc::clone(self));
        let splice = Splice::new(continued, stream, OpenedBy::Far, session, way, None);
        if near.adopt.try_send(splice).is_err() {
            // Dropped, it resets both.
            tracing::debug!("a stream came for a command that has ended");
        }
    }
}
