//! The body of an entry that holds records: the request's id, the lengths, the values.
//!
//! ```text
//! ┌────────────┬──────────────┬──────────────┬───┬─────────┬─────────┬───┐
//! │ request id │ length 1 u32 │ length 2 u32 │ … │ value 1 │ value 2 │ … │   little-endian
//! │ 16 bytes   │              │              │   │         │         │   │
//! └────────────┴──────────────┴──────────────┴───┴─────────┴─────────┴───┘
//! ```
//! How many there are stands in the entry's header (`record_count`).

use bytes::Bytes;
use tercet_wal::Entry;

const ID_BYTES: usize = 16;

/// The records of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Records {
    /// The request that submitted them.
    pub request_id: u128,
    /// The values, in order; slices of the entry's bytes.
    pub values: Vec<Bytes>,
    /// Tells two requests with the same id apart: the checksum of lengths and values.
    pub digest: u32,
}

/// The body of an entry is not what its header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("entry {index}: its records do not add up to its body of {body_bytes} bytes")]
pub struct RecordsError {
    /// The entry.
    pub index: u64,
    /// How long its body is.
    pub body_bytes: usize,
}

/// The head of the body for these values, id and lengths, in place of what is in `head`. The values
/// follow it. Gives the digest.
pub(crate) fn records_head(request_id: u128, values: &[Bytes], head: &mut Vec<u8>) -> u32 {
    head.clear();
    head.extend_from_slice(&request_id.to_le_bytes());
    for value in values {
        let length = u32::try_from(value.len()).expect("a value is far below 4 GiB");
        head.extend_from_slice(&length.to_le_bytes());
    }
    let digest = crc32c::crc32c(&head[ID_BYTES..]);
    values.iter().fold(digest, |digest, value| crc32c::crc32c_append(digest, value))
}

/// How long the body for these values is.
pub(crate) fn records_bytes(values: &[Bytes]) -> usize {
    ID_BYTES + values.iter().map(|value| 4 + value.len()).sum::<usize>()
}

/// The pieces of the body for these values, and its digest.
pub fn records_body(request_id: u128, values: &[Bytes]) -> (Vec<Bytes>, u32) {
    let mut head = Vec::new();
    let digest = records_head(request_id, values, &mut head);
    (std::iter::once(Bytes::from(head)).chain(values.iter().cloned()).collect(), digest)
}

/// The lengths in the head of a body.
fn lengths(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let length = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("chunks of 4 bytes"));
    bytes.chunks_exact(4).map(move |bytes| length(bytes) as usize)
}

/// Whether the records of an entry of that kind add up to its body: where the values begin in it.
pub(crate) fn check_records(entry: &Entry) -> Result<usize, RecordsError> {
    let body = entry.body();
    let error = RecordsError { index: entry.header.index, body_bytes: body.len() };
    let count = entry.header.record_count as usize;
    let head_bytes = count.checked_mul(4).and_then(|n| n.checked_add(ID_BYTES)).ok_or(error)?;
    let head = body.get(ID_BYTES..head_bytes).ok_or(error)?;
    let total = lengths(head).try_fold(head_bytes, usize::checked_add).ok_or(error)?;
    if total == body.len() { Ok(head_bytes) } else { Err(error) }
}

/// Who submitted the records of an entry of that kind, and their digest: what a window of requests
/// needs of them.
pub(crate) fn request_of(entry: &Entry) -> Result<(u128, u32), RecordsError> {
    check_records(entry)?;
    let (id, rest) = entry.body().split_at(ID_BYTES);
    let id = id.try_into().expect("so many were split off");
    Ok((u128::from_le_bytes(id), crc32c::crc32c(rest)))
}

/// The values of an entry of that kind, where they stand.
pub(crate) fn values_of(entry: &Entry) -> Result<impl Iterator<Item = &[u8]>, RecordsError> {
    let head_bytes = check_records(entry)?;
    let body = entry.body();
    let mut at = head_bytes;
    Ok(lengths(&body[ID_BYTES..head_bytes]).map(move |length| {
        at += length;
        &body[at - length..at]
    }))
}

/// The records of an entry of that kind.
///
/// # Errors
/// The body is not what the header says: the entry was made by something else.
pub fn records_of(entry: &Entry) -> Result<Records, RecordsError> {
    let (request_id, digest) = request_of(entry)?;
    let values = values_of(entry)?.map(|value| entry.frame.slice_ref(value)).collect();
    Ok(Records { request_id, values, digest })
}
