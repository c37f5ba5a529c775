//! Reading a directory without opening it: for `tercet verify` and `tercet inspect`. Nothing is
//! locked, nothing is written, and a fault does not end the walk.

use std::path::Path;

use crate::entry::Entry;
use crate::format::{
    HardState, HeaderError, SEAL_OFFSET, SEGMENT_HEADER_BYTES, Seal, SegmentHeader,
};
use crate::recover::{Next, Scan, entries_of, may_be_unused, read_whole};

/// What is found on the way, in order.
#[derive(Debug)]
pub enum Found {
    /// A segment that is in use.
    Segment {
        /// Its file name.
        name: String,
        /// Its length.
        bytes: u64,
        /// The index of the last entry before it.
        last_index: u64,
        /// The hard state when it was begun.
        hard_state: HardState,
    },
    /// A frame, whole or with entries that have to be repaired.
    Frame {
        /// Where it stands.
        offset: u64,
        /// Its number.
        seq: u64,
        /// The hard state from here on.
        hard_state: HardState,
        /// The log was cut from here on.
        truncate_from: Option<u64>,
        /// Its entries, verified.
        entries: Vec<Entry>,
        /// Entries whose bytes are damaged, as (index, term): a peer has them.
        faulty: Vec<(u64, u64)>,
        /// Whether its identifiers are all there.
        has_ids: bool,
    },
    /// A segment that was prepared and not used yet.
    Unused {
        /// Its file name.
        name: String,
    },
    /// A write that a crash cut short. No fault: it was never acknowledged.
    TornTail {
        /// Where.
        segment: String,
        /// Where.
        offset: u64,
    },
    /// A fault; the rest of the segment cannot be read.
    Fault {
        /// Where.
        segment: String,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: String,
    },
}

/// Walks the log in the directory of a node.
///
/// # Errors
/// The file system's, for the list of segments; everything else is [`Found::Fault`].
pub fn walk(dir: &Path, mut found: impl FnMut(Found)) -> std::io::Result<()> {
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(dir.join("wal"))? {
        if let Ok(name) = entry?.file_name().into_string()
            && name.ends_with(".seg")
        {
            names.push(name);
        }
    }
    names.sort();
    let mut next_frame = 1;
    // The last segment that is in use, if it is sealed.
    let mut sealed: Option<String> = None;
    for (position, name) in names.into_iter().enumerate() {
        let fault = |offset, what: String| Found::Fault { segment: name.clone(), offset, what };
        let number = u32::try_from(position + 1).unwrap_or(u32::MAX);
        if name != format!("{number:08}.seg") {
            found(fault(0, format!("segment {number} is missing before it")));
        }
        let bytes = match read_whole(&dir.join("wal").join(&name)) {
            Ok(bytes) => bytes,
            Err(error) => {
                found(fault(0, error.to_string()));
                continue;
            }
        };
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) => header,
            Err(HeaderError::Newer(version)) => {
                found(fault(0, format!("format {version} is newer than this program's")));
                continue;
            }
            Err(HeaderError::NotOne) => {
                if may_be_unused(&bytes, number, sealed.is_some()) {
                    found(Found::Unused { name });
                } else {
                    found(fault(0, "the segment's header is damaged".to_owned()));
                }
                continue;
            }
        };
        found(Found::Segment {
            name: name.clone(),
            bytes: bytes.len() as u64,
            last_index: header.last_index,
            hard_state: header.hard_state,
        });
        if header.number != number {
            found(fault(0, format!("it is segment {}, not {number}", header.number)));
        }
        let has_other_length = header.bytes != bytes.len() as u64;
        if has_other_length {
            found(fault(0, format!("the file has {} bytes, not {}", bytes.len(), header.bytes)));
        }
        let is_sealed = Seal::found(&bytes).iter().any(|byte| *byte != 0);
        sealed = is_sealed.then(|| name.clone());
        let mut scan = Scan {
            bytes: &bytes,
            unreadable: &[],
            number: header.number,
            end: SEGMENT_HEADER_BYTES,
            ids: bytes.len() as u64,
            next_frame: header.first_frame,
            log_id: header.log_id,
        };
        if header.first_frame != next_frame && position > 0 {
            found(fault(
                0,
                format!("it begins with frame {}, not {next_frame}", header.first_frame),
            ));
        }
        loop {
            match scan.look() {
                Next::Frame(frame) => {
                    let entries = entries_of(&frame, &bytes);
                    let bad = frame.entries.iter().filter(|entry| !entry.is_whole);
                    let faulty = bad.map(|entry| (entry.header.index, entry.header.term)).collect();
                    scan.pass(&frame);
                    found(Found::Frame {
                        offset: frame.offset,
                        seq: frame.header.seq,
                        hard_state: frame.header.hard_state,
                        truncate_from: frame.header.truncate_from,
                        entries,
                        faulty,
                        has_ids: frame.has_ids,
                    });
                }
                Next::End => break,
                Next::Torn { .. } if is_sealed || has_other_length => {
                    found(fault(scan.end, "a frame is damaged in mid-log".to_owned()));
                    break;
                }
                Next::Torn { .. } => {
                    found(Found::TornTail { segment: name.clone(), offset: scan.end });
                    break;
                }
                Next::Corrupt { offset, what } => {
                    found(fault(offset, what));
                    break;
                }
            }
        }
        next_frame = scan.next_frame;
    }
    if let Some(segment) = sealed {
        let what = "the log goes on in a segment that is not there".to_owned();
        found(Found::Fault { segment, offset: SEAL_OFFSET, what });
    }
    Ok(())
}
