//! Putting right a batch of which one bit has flipped. A CRC tells not only that, but where: what the sum is off by is different for
//! each bit of a batch, as far as 4 MiB reach (CRC32C has a Hamming distance of 4 there). Damage of more bits looks like that of
//! one in one of 2^32 cases for each bit that there is; so what was mended must be a batch in all else, too, and it is
//! tried only where somebody asks for it.

use bytes::Bytes;

use crate::batch::{SUMMED_FROM, body_off_by, count_of, headed};
use crate::{Batch, HEADER_LEN};

/// CRC32C's polynomial, its bits in the order in which the sum has them.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// A bit of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bit {
    /// Its byte.
    pub at: usize,
    /// It, in that byte.
    pub mask: u8,
}

/// What there is where a batch should begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mended {
    /// The batch as it was, and the bit that had flipped.
    Batch(Batch, Bit),
    /// A header that is whole, of a batch whose records are damaged beyond that.
    Records {
        /// Bytes of the batch.
        length: usize,
        /// Records of it.
        count: u32,
    },
    /// Nothing that is known.
    Unknown,
}

/// Looks for the one bit that makes a batch of what begins here.
#[must_use]
pub fn mended(bytes: &Bytes) -> Mended {
    if let Some(length) = headed(bytes, bytes.len()) {
        let bit = bit_of(body_off_by(&bytes[..length]), length - SUMMED_FROM);
        let bit = bit.map(|(at, mask)| Bit {
            at: SUMMED_FROM + at,
            mask,
        });
        return match bit.and_then(|bit| Some((flipped(&bytes[..length], bit)?, bit))) {
            Some((batch, bit)) => Mended::Batch(batch, bit),
            None => Mended::Records {
                length,
                count: count_of(bytes),
            },
        };
    }
    // One of the header's own, its sums among them.
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Mended::Unknown;
    };
    let bits = (0..HEADER_LEN).flat_map(|at| (0..8).map(move |bit| Bit { at, mask: 1 << bit }));
    for bit in bits {
        let mut header = *header;
        header[bit.at] ^= bit.mask;
        if let Some(length) = headed(&header, bytes.len())
            && let Some(batch) = flipped(&bytes[..length], bit)
        {
            return Mended::Batch(batch, bit);
        }
    }
    Mended::Unknown
}

/// What these bytes are with that bit flipped, if it is a batch in all that is known of one.
fn flipped(bytes: &[u8], bit: Bit) -> Option<Batch> {
    let mut bytes = bytes.to_vec();
    bytes[bit.at] ^= bit.mask;
    let batch = Batch::parse(&bytes.into()).ok()??;
    batch.check().is_ok().then_some(batch)
}

/// The byte and the bit of `length` bytes that change their CRC32C by `off_by`.
fn bit_of(off_by: u32, length: usize) -> Option<(usize, u8)> {
    // A sum that is off by this is that of one bit; each step is a bit further from the end.
    let mut one: u32 = 1;
    for distance in 1..=8 * length {
        one = (one >> 1) ^ (POLYNOMIAL & (one & 1).wrapping_neg());
        if one == off_by {
            let bit = (8 - distance % 8) % 8;
            return Some((length - (distance + bit) / 8, 1 << bit));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, ProducerId, Record};

    fn batch(records: u8, len: usize) -> Batch {
        let mut builder = BatchBuilder::default();
        for n in 0..records {
            let mut record = Record {
                value: vec![n; len].into(),
                ..Record::default()
            };
            builder.push(&mut record, 5).expect("room");
        }
        let mut sealed = builder.seal(ProducerId([7; 16]), 1, 30).expect("a batch");
        sealed.place(70, 9, 0);
        let batch = Batch::parse(&sealed.into_bytes());
        batch.expect("whole").expect("all")
    }

    #[test]
    fn any_one_bit_of_a_batch_is_found_and_put_right() {
        let whole = batch(3, 20);
        let behind = [1; 50];
        for at in 0..whole.bytes().len() {
            for mask in (0..8).map(|bit| 1 << bit) {
                let mut bytes = [&whole.bytes()[..], &behind].concat();
                bytes[at] ^= mask;
                let found = mended(&bytes.into());
                assert_eq!(found, Mended::Batch(whole.clone(), Bit { at, mask }));
            }
        }
    }

    #[test]
    fn one_bit_of_the_largest_batch_is_found() {
        let whole = batch(3, 1_000_000);
        let mut bytes = whole.bytes().to_vec();
        let (at, mask) = (HEADER_LEN + 17, 0x10);
        bytes[at] ^= mask;
        assert_eq!(
            mended(&bytes.into()),
            Mended::Batch(whole, Bit { at, mask })
        );
    }

    #[test]
    fn more_than_one_bit_is_not_put_right_and_the_length_of_what_is_lost_is_known() {
        let whole = batch(3, 20);
        let len = whole.bytes().len();
        for first in HEADER_LEN..len {
            for second in first + 1..len {
                let mut bytes = whole.bytes().to_vec();
                bytes[first] ^= 1;
                bytes[second] ^= 0x80;
                assert_eq!(
                    mended(&bytes.into()),
                    Mended::Records {
                        length: len,
                        count: 3
                    }
                );
            }
        }
        let mut bytes = whole.bytes().to_vec();
        (bytes[20], bytes[HEADER_LEN]) = (bytes[20] ^ 3, 0);
        assert_eq!(mended(&bytes.into()), Mended::Unknown);
        assert_eq!(mended(&Bytes::from_static(b"fpB1")), Mended::Unknown);
    }
}
