//! The plain sentences of a lab class (`node1 is now the leader.`), for who reads along on standard
//! output: what the core's events say in them, and a line for each record that is applied.
//!
//! The lines go to whoever prints them over a channel of bounded length, so that a terminal that
//! stands still holds up no node. Events that find it full are lost, and that is said; records wait.

use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use tercet_raft::{Event, NodeId};
use tercet_replica::{LoggedContent, LoggedEntry, escape_value};

/// How many entries are told in one turn of the owner: more wait for the next.
pub(crate) const ENTRIES_MAX: usize = 128;
/// How long records wait for room.
const PAUSE: Duration = Duration::from_millis(10);

/// What of the classic lines a node's owner has.
#[derive(Debug)]
pub(crate) struct Classic {
    lines: SyncSender<String>,
    /// Events that were lost since the last line.
    lost: u64,
    /// Up to this index what was applied is told; never beyond what is applied.
    told: u64,
    /// So many records of the entry behind it are told, too.
    records: usize,
    is_full: bool,
}

impl Classic {
    pub(crate) const fn new(lines: SyncSender<String>) -> Self {
        Self { lines, lost: 0, told: 0, records: 0, is_full: false }
    }

    pub(crate) fn event(&mut self, node: NodeId, event: &Event) {
        if let Some(line) = event.classic(node)
            && !self.send(line)
        {
            self.lost += 1;
        }
    }

    /// The first index whose entry is not told yet.
    pub(crate) const fn next(&self) -> u64 {
        self.told + 1
    }

    /// When there is more to tell, if up to `applied` is applied.
    pub(crate) fn due(&self, applied: u64) -> Option<Instant> {
        let pause = if self.is_full { PAUSE } else { Duration::ZERO };
        (self.told < applied).then(|| Instant::now() + pause)
    }

    /// Tells of these entries, which are applied and go on at [`Self::next`], as far as there is
    /// room.
    pub(crate) fn applied(&mut self, node: NodeId, entries: &[LoggedEntry]) {
        for entry in entries {
            assert_eq!(entry.index, self.next(), "entries are told in order");
            for line in lines_of(node, entry).skip(self.records) {
                if !self.send(line) {
                    return;
                }
                self.records += 1;
            }
            self.told = entry.index;
            self.records = 0;
        }
    }

    /// Whether the line is on its way. If nobody reads any more, it counts as told.
    fn send(&mut self, line: String) -> bool {
        if self.lost > 0 {
            let note = format!("({} lines were lost: they were read too slowly)", self.lost);
            if !self.pass(note) {
                return false;
            }
            self.lost = 0;
        }
        self.pass(line)
    }

    fn pass(&mut self, line: String) -> bool {
        self.is_full = matches!(self.lines.try_send(line), Err(TrySendError::Full(_)));
        !self.is_full
    }
}

/// A line for each record of an entry; what the cluster itself writes has none.
fn lines_of(node: NodeId, entry: &LoggedEntry) -> impl Iterator<Item = String> {
    let LoggedEntry { index, term, content } = entry;
    let values = match content {
        LoggedContent::Records { values, .. } => values.as_slice(),
        LoggedContent::Noop | LoggedContent::Readmit(_) | LoggedContent::Damaged => &[],
    };
    values.iter().map(move |value| {
        let mut text = Vec::new();
        escape_value(value, &mut text);
        let text = String::from_utf8_lossy(&text);
        format!("node{} applying entry {index} (term {term}): {text}", node.slot())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use bytes::Bytes;
    use tercet_raft::Term;

    use super::*;

    fn records(index: u64, values: &[&'static [u8]]) -> LoggedEntry {
        let values = values.iter().map(|value| Bytes::from_static(value)).collect();
        LoggedEntry { index, term: 2, content: LoggedContent::Records { request_id: 1, values } }
    }

    #[test]
    fn each_record_has_a_line_and_waits_for_room() {
        let node = NodeId::new(1).unwrap();
        let (lines, read) = sync_channel(2);
        let mut classic = Classic::new(lines);
        let noop = LoggedEntry { index: 1, term: 2, content: LoggedContent::Noop };
        let log = [noop, records(2, &[b"55"]), records(3, &[b"a\nb", b"\xff"])];
        classic.applied(node, &log);
        assert_eq!(classic.next(), 3, "the third entry found no room for its second line");
        assert!(classic.due(3).is_some_and(|due| due > Instant::now()));
        let told: Vec<String> = read.try_iter().collect();
        assert_eq!(told[0], "node1 applying entry 2 (term 2): 55");
        assert_eq!(told[1], "node1 applying entry 3 (term 2): a\\nb");
        classic.applied(node, &log[2..]);
        assert_eq!(classic.next(), 4);
        assert!(classic.due(3).is_none() && classic.due(4).is_some());

        // No room: events are lost, and the next line says so.
        let timeout = Event::ElectionTimeout { term: Term(1) };
        for _ in 0..3 {
            classic.event(node, &timeout);
        }
        let told: Vec<String> = read.try_iter().collect();
        assert_eq!(told, ["node1 applying entry 3 (term 2): \\xff", &told[1]]);
        classic.event(node, &timeout);
        let told: Vec<String> = read.try_iter().collect();
        assert_eq!(
            told,
            ["(2 lines were lost: they were read too slowly)", "node1 timeout, starting election."]
        );

        // Nobody reads: nothing waits for that.
        drop(read);
        classic.applied(node, &[records(4, &[b"x"])]);
        assert_eq!(classic.next(), 5);
    }
}
