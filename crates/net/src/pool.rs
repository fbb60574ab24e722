//! Recycled buffers for the hot path.
//!
//! A slot is one allocation from which segments (sending) or pieces (receiving) are cut as owned,
//! disjoint parts; it comes back by itself when the last part is dropped. The first free slot in
//! a fixed order is taken, so that as few slots as possible are in use and those stay in the CPU's
//! cache: a ring that walks through all of its memory costs 15–20 % (docs/decisions).

use bytes::BytesMut;

/// Bounded set of slots of one size.
///
/// Full-queue policy: [`Pool::take`] returns `None` when every slot is in use or out, and the
/// caller waits; memory never grows past `slots × size`.
#[derive(Debug)]
pub struct Pool {
    /// Each slot's unused rest. A rest that alone holds its allocation can reclaim all of it.
    slots: Vec<BytesMut>,
    /// Slots that were taken and neither put back nor given up.
    out: usize,
    slot_size: usize,
    slots_max: usize,
}

impl Pool {
    /// A pool of at most `slots_max` slots of `slot_size` bytes, none allocated yet.
    #[must_use]
    pub fn new(slot_size: usize, slots_max: usize) -> Self {
        Self {
            slots: Vec::new(),
            out: 0,
            slot_size,
            slots_max,
        }
    }

    /// Bytes in one slot.
    #[must_use]
    pub fn slot_size(&self) -> usize {
        self.slot_size
    }

    /// An empty buffer with room for at least `room` bytes (at most [`Pool::slot_size`]), or
    /// `None` when all slots are in use or out. Give the unused rest back with [`Pool::put_back`].
    pub fn take(&mut self, room: usize) -> Option<BytesMut> {
        let room = room.min(self.slot_size);
        let free = self
            .slots
            .iter_mut()
            .position(|rest| rest.capacity() >= room || rest.try_reclaim(self.slot_size));
        let slot = match free {
            Some(index) => self.slots.remove(index),
            None if self.slots.len() + self.out < self.slots_max => {
                BytesMut::with_capacity(self.slot_size)
            }
            None => return None,
        };
        self.out += 1;
        Some(slot)
    }

    /// Returns what is left of a buffer that [`Pool::take`] gave, after the used front was split
    /// off.
    pub fn put_back(&mut self, mut rest: BytesMut) {
        // What was not taken from here would be a slot too many.
        if self.out > 0 {
            self.out -= 1;
            rest.clear();
            self.slots.insert(0, rest);
        }
    }

    /// So many buffers that [`Pool::take`] gave were dropped and will not be put back.
    pub fn give_up(&mut self, slots: usize) {
        self.out = self.out.saturating_sub(slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_comes_back_when_its_last_part_is_dropped() {
        let mut pool = Pool::new(1024, 1);
        let mut slot = pool.take(1000).expect("the first slot");
        slot.extend_from_slice(&[1; 1000]);
        let part = slot.split();
        pool.put_back(slot);
        assert!(pool.take(100).is_none(), "the part still holds the slot");
        drop(part);
        assert_eq!(pool.take(1024).expect("free again").capacity(), 1024);
    }

    #[test]
    fn a_slot_that_is_out_counts_until_it_is_back_or_given_up() {
        let mut pool = Pool::new(1024, 2);
        let first = pool.take(1).expect("the first slot");
        let second = pool.take(1).expect("the second slot");
        assert!(pool.take(1).is_none(), "both are out");
        pool.put_back(first);
        assert!(pool.take(1).is_some());
        assert!(pool.take(1).is_none());
        drop(second);
        pool.give_up(1);
        assert!(pool.take(1).is_some());
        assert!(pool.take(1).is_none());
    }

    #[test]
    fn small_parts_share_a_slot() {
        let mut pool = Pool::new(1024, 1);
        let mut parts = Vec::new();
        for _ in 0..10 {
            let mut slot = pool.take(100).expect("room in the only slot");
            slot.extend_from_slice(&[1; 100]);
            parts.push(slot.split());
            pool.put_back(slot);
        }
        assert!(pool.take(100).is_none());
    }
}
