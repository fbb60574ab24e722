//! On which processors the two sides run.
//!
//! It decides the figures more than anything else. Left alone, the kernel likes to wake a reader
//! on its writer's core: the bytes are then still in that core's cache, and the two take turns. Two
//! programs that have work of their own run on two cores, where the bytes go through a cache that
//! both share and each wake-up has to reach another core. Which of the two a run gets changes from
//! second to second, so a run that is to be compared with another says what it wants.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// What the user may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// Each side on a core of its own, like two programs that both have work.
    Apart,
    /// Both on one, like two programs on a machine that is busy.
    Together,
    /// Wherever the kernel puts them.
    Free,
}

/// The processors themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    Fixed { sender: usize, receiver: usize },
    Free,
}

/// One side's thread.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Sender,
    Receiver,
}

impl Placement {
    /// From the processors that this process may use.
    pub(crate) fn choose(cores: Cores) -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let allowed: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|&cpu| allowed.is_set(cpu))
            .collect();
        Ok(Self::among(&allowed, cores, &siblings))
    }

    fn among(allowed: &[usize], cores: Cores, siblings: &dyn Fn(usize) -> Vec<usize>) -> Self {
        let Some(&first) = allowed.first() else {
            return Self::Free;
        };
        let receiver = match cores {
            Cores::Free => return Self::Free,
            Cores::Together => first,
            Cores::Apart => {
                // Two hyper-threads are no two cores; still they are better than one.
                let same = siblings(first);
                let others = || allowed.iter().filter(|&&cpu| cpu != first);
                let other = others()
                    .find(|cpu| !same.contains(cpu))
                    .or_else(|| others().next());
                *other.unwrap_or(&first)
            }
        };
        Self::Fixed {
            sender: first,
            receiver,
        }
    }

    /// Moves the calling thread to where this side is to run.
    pub(crate) fn move_here(self, side: Side) -> io::Result<()> {
        let cpu = match (self, side) {
            (Self::Free, _) => return Ok(()),
            (Self::Fixed { sender, .. }, Side::Sender) => sender,
            (Self::Fixed { receiver, .. }, Side::Receiver) => receiver,
        };
        let mut set = CpuSet::new();
        set.set(cpu);
        Ok(sched_setaffinity(None, &set)?)
    }
}

impl std::fmt::Display for Placement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Free => write!(f, "wherever the kernel puts them"),
            Self::Fixed { sender, receiver } if sender == receiver => {
                write!(f, "both on CPU {sender}")
            }
            Self::Fixed { sender, receiver } => write!(f, "on CPUs {sender} and {receiver}"),
        }
    }
}

/// The processors that are hyper-threads of one core with `cpu`, itself included; none if unknown.
fn siblings(cpu: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    std::fs::read_to_string(path).map_or_else(|_| Vec::new(), |text| parse_list(&text))
}

/// Reads `0,64` and `0-3,8`.
fn parse_list(text: &str) -> Vec<usize> {
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apart_means_two_cores_where_there_are_two() {
        let apart = |allowed: &[usize], siblings: &'static str| {
            Placement::among(allowed, Cores::Apart, &|_| parse_list(siblings))
        };
        let fixed = |sender, receiver| Placement::Fixed { sender, receiver };
        assert_eq!(apart(&[0, 1, 2, 3], "0-1\n"), fixed(0, 2));
        assert_eq!(apart(&[0, 1, 2, 3], "0,2\n"), fixed(0, 1));
        assert_eq!(apart(&[2, 3], "2-3\n"), fixed(2, 3), "threads of one core");
        assert_eq!(apart(&[5], ""), fixed(5, 5), "there is no other");
        assert_eq!(apart(&[0, 1], ""), fixed(0, 1), "nothing is known");
    }

    #[test]
    fn a_thread_moves_to_its_side() {
        let moved = |cores, side| {
            let placement = Placement::choose(cores).expect("a process runs somewhere");
            let thread = std::thread::spawn(move || {
                placement.move_here(side)?;
                io::Result::Ok(rustix::thread::sched_getcpu())
            });
            (
                placement,
                thread.join().expect("no panic").expect("it may run there"),
            )
        };
        for cores in [Cores::Apart, Cores::Together] {
            for side in [Side::Sender, Side::Receiver] {
                let (placement, cpu) = moved(cores, side);
                let Placement::Fixed { sender, receiver } = placement else {
                    panic!("{placement:?}");
                };
                let expected = match side {
                    Side::Sender => sender,
                    Side::Receiver => receiver,
                };
                assert_eq!(cpu, expected, "{cores:?} {side:?}");
            }
        }
    }
}
