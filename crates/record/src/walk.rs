//! Whether the records of a batch can be read, without making them: a relay looks at each batch before it keeps it, so that no
//! producer leaves a topic that its readers cannot get past. What passes here, [`Records`](crate::Records) reads.

use crate::RecordError;

/// What is being walked over.
struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for (at, byte) in self.0.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                // The tenth has room for one bit.
                if at == 9 && *byte > 1 {
                    return None;
                }
                self.0 = &self.0[at + 1..];
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A field that this version does not know.
    fn skip(&mut self, wire: u64) -> Option<()> {
        match wire {
            0 => drop(self.varint()?),
            1 => self.0 = self.0.get(8..)?,
            2 => drop(self.bytes()?),
            5 => self.0 = self.0.get(4..)?,
            _ => return None,
        }
        Some(())
    }

    /// The next field's number and wire type.
    fn field(&mut self) -> Option<(u64, u64)> {
        let tag = self.varint()?;
        // Numbers of 29 bits, of which 0 is none.
        (tag >> 3 != 0 && u32::try_from(tag).is_ok()).then_some((tag >> 3, tag & 7))
    }
}

fn record(bytes: &[u8]) -> Option<()> {
    let mut walk = Walk(bytes);
    while !walk.0.is_empty() {
        match walk.field()? {
            (1 | 2, 2) => drop(walk.bytes()?),
            (3, 2) => header(walk.bytes()?)?,
            (4, 0) => drop(walk.varint()?),
            (1..=4, _) => return None,
            (_, wire) => walk.skip(wire)?,
        }
    }
    Some(())
}

fn header(bytes: &[u8]) -> Option<()> {
    let mut walk = Walk(bytes);
    while !walk.0.is_empty() {
        match walk.field()? {
            (1, 2) => drop(std::str::from_utf8(walk.bytes()?).ok()?),
            (2, 2) => drop(walk.bytes()?),
            (1..=2, _) => return None,
            (_, wire) => walk.skip(wire)?,
        }
    }
    Some(())
}

/// Whether `body` is a list of `count` records.
pub(crate) fn check(body: &[u8], count: u32) -> Result<(), RecordError> {
    let mut walk = Walk(body);
    let mut left = count;
    while !walk.0.is_empty() {
        let is_record = walk.field() == Some((1, 2));
        let bytes = is_record.then(|| walk.bytes()).flatten();
        let Some(bytes) = bytes else {
            return Err(RecordError::Malformed("no list of records"));
        };
        if bytes.len() > crate::RECORD_MAX {
            return Err(RecordError::TooLong(bytes.len()));
        }
        record(bytes).ok_or(RecordError::Malformed("a record"))?;
        left = left
            .checked_sub(1)
            .ok_or(RecordError::Malformed("more than it says"))?;
    }
    match left {
        0 => Ok(()),
        _ => Err(RecordError::Malformed("fewer than it says")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::{Batch, BatchBuilder, HEADER_LEN, Header, Record, RecordHeader, Records, Sealed};

    fn batch(body: &[u8], count: u32) -> Option<Batch> {
        let header = Header {
            count,
            plain_len: u32::try_from(body.len()).ok()?,
            ..Header::default()
        };
        let sealed = Sealed::new(&header, [&[0; HEADER_LEN], body].concat()).ok()?;
        Batch::parse(&sealed.into_bytes()).ok()?
    }

    fn of(values: &[Vec<u8>]) -> Vec<u8> {
        let mut builder = BatchBuilder::default();
        for value in values {
            let name = format!("n{}", value.len());
            let mut record = Record {
                value: value.clone().into(),
                key: (value.len() % 2 == 0).then(|| value.clone().into()),
                headers: vec![RecordHeader {
                    name,
                    value: value.clone().into(),
                }],
                ..Record::default()
            };
            builder.push(&mut record, 7).expect("room");
        }
        let sealed = builder
            .seal(crate::ProducerId::NONE, 0, 0)
            .expect("a batch");
        sealed.bytes()[HEADER_LEN..].to_vec()
    }

    #[test]
    fn what_no_reader_could_read_is_refused() {
        for (body, count) in [
            (&b"\x0a\x05abc"[..], 1),
            (b"\x12\x00", 1),
            (b"\x0a\x02\x0a\x05", 1),
            (b"\x0a\x00\x0a\x00", 1),
            (b"\x0a\x00", 2),
            (b"\x0a\x02\x08\x01", 1),
            (b"\x0a\x05\x1a\x03\x0a\x01\xff", 1),
        ] {
            let batch = batch(body, count).expect("its sums are right");
            assert!(batch.check().is_err(), "{body:?}");
        }
        let deep = [&b"\x0a\x04\x1a\x02\x1a\x00"[..]].concat();
        assert!(
            batch(&deep, 1).expect("a batch").check().is_ok(),
            "unknown fields are passed over"
        );
    }

    proptest! {
        #[test]
        fn what_passes_is_read_and_what_is_written_passes(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..9),
            flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut body = of(&values);
            let count = u32::try_from(values.len()).expect("few");
            prop_assert!(batch(&body, count).expect("a batch").check().is_ok());
            for (at, byte) in flips {
                let at = at.index(body.len());
                body[at] = byte;
            }
            let batch = batch(&body, count).expect("a batch");
            let reads = Records::of(&batch).expect("plain").all(|record| record.is_ok());
            // What is read may be refused: fields of a kind that is long gone.
            prop_assert!(reads || batch.check().is_err());
        }
    }
}
