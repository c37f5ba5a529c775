//! The message `ReadResponse` of the schema, by hand: who sends the same records to many encodes
//! them once, and gives each the same bytes.

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

use crate::v1::Record;

/// Tags of the fields, as the schema has them.
const RECORDS: u32 = 1;
const NEXT_SEQ: u32 = 2;

/// Records of a read; see the schema.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ReadResponse {
    /// Records in order; may be empty at the end of a read that found none.
    pub records: Vec<Record>,
    /// The sequence number after the last committed record of this node.
    pub next_seq: u64,
    /// All of the message, if it was encoded before. What is decoded has none.
    encoded: Bytes,
}

impl ReadResponse {
    /// A message with these fields.
    pub const fn new(records: Vec<Record>, next_seq: u64) -> Self {
        Self { records, next_seq, encoded: Bytes::new() }
    }

    /// A message that is encoded already: it goes out as these bytes, its fields are not filled in.
    pub const fn from_encoded(encoded: Bytes) -> Self {
        Self { records: Vec::new(), next_seq: 0, encoded }
    }
}

impl Message for ReadResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.encoded);
        for record in &self.records {
            encoding::message::encode(RECORDS, record, buf);
        }
        if self.next_seq != 0 {
            encoding::uint64::encode(NEXT_SEQ, &self.next_seq, buf);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            RECORDS => {
                encoding::message::merge_repeated(wire_type, &mut self.records, buf, context)
            }
            NEXT_SEQ => encoding::uint64::merge(wire_type, &mut self.next_seq, buf, context),
            _ => encoding::skip_field(wire_type, tag, buf, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let next_seq = match self.next_seq {
            0 => 0,
            some => encoding::uint64::encoded_len(NEXT_SEQ, &some),
        };
        self.encoded.len()
            + encoding::message::encoded_len_repeated(RECORDS, &self.records)
            + next_seq
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same message as a generated one.
    #[derive(Clone, PartialEq, Message)]
    struct Generated {
        #[prost(message, repeated, tag = "1")]
        records: Vec<Record>,
        #[prost(uint64, tag = "2")]
        next_seq: u64,
    }

    #[test]
    fn it_is_the_message_of_the_schema() {
        let record = |seq, value: &'static [u8]| Record { seq, value: Bytes::from_static(value) };
        for (records, next_seq) in [
            (vec![], 0),
            (vec![], 7),
            (vec![record(1, b"")], 2),
            (vec![record(299, b"one"), record(300, &[0xff; 300])], u64::MAX),
        ] {
            let generated = Generated { records: records.clone(), next_seq }.encode_to_vec();
            let ours = ReadResponse::new(records, next_seq);
            assert_eq!(ours.encode_to_vec(), generated);
            assert_eq!(ours.encoded_len(), generated.len());
            assert_eq!(ReadResponse::decode(&generated[..]).unwrap(), ours);
            let again = ReadResponse::from_encoded(generated.clone().into());
            assert_eq!(again.encode_to_vec(), generated);
            assert_eq!(again.encoded_len(), generated.len());
        }
        // Fields of later versions are passed over, and damage is told.
        let later = [0x18, 0x01, 0x10, 0x05];
        assert_eq!(ReadResponse::decode(&later[..]).unwrap(), ReadResponse::new(Vec::new(), 5));
        assert!(ReadResponse::decode(&[0x0a, 0x05, 0x08][..]).is_err());
    }
}
