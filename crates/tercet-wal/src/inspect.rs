//! Reading a directory without opening it: for `tercet verify` and `tercet inspect`. Nothing is
//! locked, nothing is written, and a fault does not end the walk.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use crate::entry::Entry;
use crate::format::{HardState, HeaderError, SEAL_OFFSET, Seal, SegmentHeader};
use crate::recover::{Next, entries_of, may_be_unused, read_segment_file, scan_of};
use crate::wal::{WalError, io_error};

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
    /// A fault. Unless it is one of the segment's header, the rest of the segment cannot be read.
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
    // What the next segment's header should say.
    let (mut next_frame, mut log_id) = (1, 0);
    let (mut last_index, mut hard_state) = (0, HardState::default());
    // The last segment that is in use, if it is sealed.
    let mut sealed: Option<String> = None;
    // What is no frame in it, and where: harmless, if the log goes on behind what was read.
    let mut unclear: Option<(String, u64)> = None;
    for (position, name) in names.into_iter().enumerate() {
        let fault = |offset, what: String| Found::Fault { segment: name.clone(), offset, what };
        let number = u32::try_from(position + 1).unwrap_or(u32::MAX);
        if name != format!("{number:08}.seg") {
            found(fault(0, format!("segment {number} is missing before it")));
        }
        let (bytes, unreadable) = match read_segment(&dir.join("wal").join(&name), &name) {
            Ok(read) => read,
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
                let length = bytes.len() as u64;
                let first_frame = next_frame;
                let header = SegmentHeader {
                    log_id,
                    number,
                    bytes: length,
                    first_frame,
                    last_index,
                    hard_state,
                };
                match scan_of(&header, &bytes, &unreadable).look() {
                    Next::Frame(_) => {}
                    Next::End | Next::Torn { .. }
                        if may_be_unused(&bytes, number, sealed.is_some()) =>
                    {
                        found(Found::Unused { name });
                        continue;
                    }
                    Next::End | Next::Torn { .. } | Next::Corrupt { .. } => {
                        found(fault(0, "the segment's header is damaged".to_owned()));
                        continue;
                    }
                }
                let what = "the segment's header is damaged: it is written again from what else \
                            is known when the node runs";
                found(fault(0, what.to_owned()));
                header
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
        log_id = header.log_id;
        let is_sealed = Seal::found(&bytes).iter().any(|byte| *byte != 0);
        sealed = is_sealed.then(|| name.clone());
        let mut scan = scan_of(&header, &bytes, &unreadable);
        (last_index, hard_state) = (header.last_index, header.hard_state);
        let is_gap = header.first_frame != next_frame && position > 0;
        if let Some((segment, offset)) = unclear.take()
            && is_gap
        {
            let what = "a frame is damaged in mid-log".to_owned();
            found(Found::Fault { segment, offset, what });
        }
        if is_gap {
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
                    hard_state = frame.header.hard_state;
                    // Also if there are no entries.
                    last_index = frame.header.first_index.saturating_sub(1)
                        + u64::from(frame.header.entry_count);
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
                Next::Torn { .. } if has_other_length => {
                    found(fault(scan.end, "a frame is damaged in mid-log".to_owned()));
                    break;
                }
                Next::Torn { .. } if is_sealed => {
                    unclear = Some((name.clone(), scan.end));
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

/// Reads a file of a directory that is not ours; says which parts of it cannot be read.
fn read_segment(path: &Path, name: &str) -> Result<(Bytes, Vec<Range<u64>>), WalError> {
    let file = File::open(path).map_err(io_error("open", name))?;
    let mut bytes = Vec::new();
    let unreadable = read_segment_file(&file, name, &mut bytes)?;
    Ok((bytes.into(), unreadable))
}
