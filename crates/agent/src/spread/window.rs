//! The newest bytes of a shared source, in a ring: each is found by its offset from the beginning of
//! all.

use bytes::BufMut;

/// Bytes from [`Window::begin`] up to [`Window::end`].
#[derive(Debug)]
pub(super) struct Window {
    ring: Vec<u8>,
    size: usize,
    begin: u64,
    end: u64,
}

impl Window {
    /// Holds `size` bytes, at least 1. The memory is had when it is used.
    pub(super) fn new(size: usize) -> Self {
        Self {
            ring: Vec::new(),
            size,
            begin: 0,
            end: 0,
        }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn begin(&self) -> u64 {
        self.begin
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    fn len(&self) -> usize {
        // Never more than the ring.
        usize::try_from(self.end - self.begin).unwrap_or(self.size)
    }

    /// Bytes that may be pushed.
    pub(super) fn room(&self) -> usize {
        self.size - self.len()
    }

    /// What lies below this offset is wanted no more.
    pub(super) fn forget_below(&mut self, offset: u64) {
        self.begin = self.begin.max(offset.min(self.end));
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// If there is no room for them.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "the window is full");
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = self.place(self.end);
            let (now, later) = rest.split_at(rest.len().min(self.size - at));
            let until = at + now.len();
            if self.ring.len() < until {
                self.ring.resize(until, 0);
            }
            self.ring[at..until].copy_from_slice(now);
            self.end += now.len() as u64;
            rest = later;
        }
    }

    /// Appends up to `max` bytes from `offset` on to `into`; how many.
    pub(super) fn copy(&self, offset: u64, max: usize, into: &mut impl BufMut) -> usize {
        let [first, second] = self.slices(offset);
        let first = &first[..first.len().min(max)];
        let second = &second[..second.len().min(max - first.len())];
        into.put_slice(first);
        into.put_slice(second);
        first.len() + second.len()
    }

    /// The offset behind the end of the line that `offset` is in, if that is there.
    pub(super) fn line_end(&self, offset: u64) -> Option<u64> {
        let mut at = offset.max(self.begin);
        for slice in self.slices(at) {
            match slice.iter().position(|byte| *byte == b'\n') {
                Some(found) => return Some(at + found as u64 + 1),
                None => at += slice.len() as u64,
            }
        }
        None
    }

    /// Ends of lines from `from` up to `to`.
    pub(super) fn lines(&self, from: u64, to: u64) -> u64 {
        let mut left = usize::try_from(to - from).unwrap_or(self.size);
        let mut lines = 0;
        for slice in self.slices(from) {
            let slice = &slice[..slice.len().min(left)];
            left -= slice.len();
            lines += slice.iter().filter(|byte| **byte == b'\n').count() as u64;
        }
        lines
    }

    /// What there is from `offset` on.
    fn slices(&self, offset: u64) -> [&[u8]; 2] {
        if offset < self.begin || offset >= self.end {
            return [&[], &[]];
        }
        let len = usize::try_from(self.end - offset).unwrap_or(self.size);
        let at = self.place(offset);
        match (at + len).checked_sub(self.size) {
            Some(over) => [&self.ring[at..], &self.ring[..over]],
            None => [&self.ring[at..at + len], &[]],
        }
    }

    fn place(&self, offset: u64) -> usize {
        // Less than the size.
        usize::try_from(offset % self.size as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(window: &Window, offset: u64, max: usize) -> String {
        let mut bytes = Vec::new();
        window.copy(offset, max, &mut bytes);
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn bytes_are_found_by_their_offset_also_across_the_seam() {
        let mut window = Window::new(8);
        window.push(b"abcdef");
        assert_eq!(
            (from(&window, 0, 3), from(&window, 4, 9)),
            ("abc".into(), "ef".into())
        );
        window.forget_below(4);
        assert_eq!(window.room(), 6);
        window.push(b"gh\nijk");
        assert_eq!(from(&window, 4, 99), "efgh\nijk");
        assert_eq!(from(&window, 7, 99), "h\nijk");
        assert_eq!((window.line_end(4), window.line_end(9)), (Some(9), None));
        assert_eq!(
            (from(&window, 3, 9), from(&window, 12, 9)),
            (String::new(), String::new())
        );
        assert_eq!((window.begin(), window.end(), window.room()), (4, 12, 0));
    }
}
