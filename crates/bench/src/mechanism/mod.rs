//! The ways to move bytes that are compared, one file each; adding one costs a file, its `mod`
//! line and one of [`ALL`].

mod blocking;
mod epoll;
mod ring;
mod splice;
mod vmsplice;

use std::io;

use crate::run::{Check, Job, Source};

/// Sends all of the source, and then closes its end.
pub(crate) type Send = Box<dyn FnOnce(Source) -> io::Result<()> + std::marker::Send>;
/// Receives until the end, and tells the check of all that came.
pub(crate) type Receive = Box<dyn FnOnce(&mut Check) -> io::Result<()> + std::marker::Send>;

/// Both sides, with everything they need made and touched before the clock runs.
pub(crate) struct Ends {
    pub(crate) send: Send,
    pub(crate) receive: Receive,
}

/// A way to move bytes.
pub(crate) trait Mechanism: Sync {
    /// As the tables call it.
    fn name(&self) -> &'static str;

    /// Makes what one run needs. Either side that ends, well or not, must let the other one end.
    fn open(&self, job: &Job) -> io::Result<Ends>;
}

/// What the others are compared with, and what batch sizes are measured with.
pub(crate) const BASE: &dyn Mechanism = &blocking::Blocking;
/// Told apart by the lessons.
pub(crate) const LEVEL: &dyn Mechanism = &epoll::Epoll(epoll::Trigger::Level);
pub(crate) const EDGE: &dyn Mechanism = &epoll::Epoll(epoll::Trigger::Edge);
pub(crate) const VMSPLICE: &dyn Mechanism = &vmsplice::Vmsplice;
pub(crate) const SPLICE: &dyn Mechanism = &splice::Splice;
pub(crate) const RING: &dyn Mechanism = &ring::Ring;

/// Every mechanism, in the order of the table.
pub(crate) const ALL: &[&dyn Mechanism] = &[BASE, LEVEL, EDGE, VMSPLICE, SPLICE, RING];

/// A buffer whose pages are there.
fn touched(len: usize) -> Vec<u8> {
    // Zeroes would be pages not there yet.
    vec![0x5a; len]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Capacity, Channel, Kind};
    use crate::cores::Placement;
    use crate::run::{Content, run};

    #[test]
    fn every_mechanism_moves_exactly_the_bytes_sent_in_batches_of_any_size() {
        for mechanism in ALL {
            for capacity in [Capacity::Default, Capacity::Large] {
                for (batch, size) in [
                    (512, 1),
                    (512, 100_001),
                    (4096, 4096),
                    (65_536, (3 << 20) + 17),
                    (1 << 20, (3 << 20) + 17),
                ] {
                    for content in [Content::Pattern, Content::Any] {
                        let job = Job {
                            channel: Channel {
                                kind: Kind::Pipe,
                                capacity,
                            },
                            batch,
                            size,
                            content,
                            placement: Placement::Free,
                        };
                        if let Err(error) = run(*mechanism, &job) {
                            panic!("{}, {job:?}: {error}", mechanism.name());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_receiver_that_goes_away_ends_the_sender() {
        for mechanism in ALL {
            let job = Job {
                channel: Channel {
                    kind: Kind::Pipe,
                    capacity: Capacity::Default,
                },
                batch: 4096,
                size: 8 << 20,
                content: Content::Any,
                placement: Placement::Free,
            };
            let ends = mechanism.open(&job).expect("both ends");
            drop(ends.receive);
            let error = (ends.send)(Source::new(&job)).expect_err("nobody receives");
            let name = mechanism.name();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{name}: {error}");
        }
    }

    #[test]
    fn names_are_different() {
        let mut names: Vec<_> = ALL.iter().map(|mechanism| mechanism.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
