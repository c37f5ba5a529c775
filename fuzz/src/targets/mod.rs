//! The targets, a file for each kind of reader.

mod clients;
mod directory;
mod entries;
mod identity;
mod lab;
mod peers;
mod wal;

use crate::Target;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// All of them.
pub const TARGETS: &[Target] = &[
    clients::REQUESTS,
    clients::XML_RPC,
    peers::HANDSHAKE,
    peers::FRAMES,
    peers::MESSAGES,
    wal::SEGMENT,
    wal::IDENTIFIERS,
    entries::ENTRY,
    identity::FILE,
    directory::IMAGE,
    lab::SCRIPT,
];

/// For targets whose inputs have no words.
fn no_words() -> Vec<String> {
    Vec::new()
}
