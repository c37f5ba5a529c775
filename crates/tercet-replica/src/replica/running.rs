//! What the core wants done: entries on disk, entries on their way, entries applied.

use std::collections::VecDeque;

use tercet_raft::{
    EntryKind, EntryMeta, Envelope, Index, Input, Message, NodeId, RoleKind, Time, Write,
};
use tercet_seeded::{Bug, has};
use tercet_wal::{Batch, Disk, Entry, EntryHeader, Found, HardState, WalError};

use super::{Incoming, Running, Unread, WasRead};
use crate::content::{KIND_NOOP, KIND_READMIT, meta_of};
use crate::error::{Fatal, fatal};
use crate::io::{Effect, PeerMessage, SubmitError};
use crate::window::Request;

impl<D: Disk> Running<D> {
    /// An entry is now the last of the log.
    pub(super) fn note_appended(&mut self, entry: &Entry) {
        self.tail.next_seq = entry.header.next_seq();
        self.tail.time_ms = self.tail.time_ms.max(entry.header.time_ms);
    }

    /// Stages a write of the core: pairs its metas with their bytes.
    pub(super) fn stage(
        &mut self,
        write: &Write,
        incoming: &mut Incoming,
        disk: &mut D,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fatal> {
        if let Some(from) = write.truncate_from {
            self.truncate(from.0, disk, effects)?;
        }
        let mut entries = Vec::with_capacity(write.entries.len());
        let mut requests = Vec::with_capacity(write.entries.len());
        for (meta, index) in write.entries.iter().zip(write.first.0..) {
            let received =
                incoming.entries.first().map(|first| first.header.index).and_then(|first| {
                    let at = usize::try_from(index.checked_sub(first)?).ok()?;
                    incoming.entries.get(at).cloned()
                });
            let is_accepted = incoming.accepted.front().is_some_and(|(at, _)| *at == index);
            let entry = match received {
                Some(entry) => {
                    if !has(Bug::ForgetIdsOnFollowers) {
                        requests.extend(Request::of(&entry));
                    }
                    entry
                }
                None if is_accepted => {
                    let (_, proposing) = incoming.accepted.pop_front().expect("looked at above");
                    let (entry, request) = self.make_records(*meta, index, proposing);
                    requests.push(request);
                    entry
                }
                None => self.make_own(*meta, index),
            };
            assert_eq!(
                (entry.header.index, entry.header.term),
                (index, meta.term.0),
                "the core and the bytes speak of the same entry"
            );
            self.note_appended(&entry);
            entries.push(entry);
        }
        // All at once: each writes to memory that was last used when a request of a quarter of a
        // million before was forgotten, and what counts references waits for such a write to end.
        requests.into_iter().for_each(|request| self.window.insert(request));
        let hard_state = write
            .hard_state
            .map(|state| HardState { term: state.term.0, vote: state.vote.map(NodeId::slot) });
        self.wal.stage(Batch {
            hard_state,
            truncate_from: write.truncate_from.map(|from| from.0),
            entries,
        });
        self.staged = Some(write.id);
        Ok(())
    }

    /// The log is about to lose its tail from `from` on.
    pub(super) fn truncate(
        &mut self,
        from: u64,
        disk: &mut D,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fatal> {
        assert!(from > self.applied, "what was applied is never cut: {from} ≤ {}", self.applied);
        self.window.truncate(from);
        self.unknown_requests.split_off(&from);
        // A leader never cuts its own log; one that has just stepped down may.
        let kept = self.pending.partition_point(|pending| pending.seen.index < from);
        for pending in self.pending.split_off(kept) {
            let result = Err(SubmitError::LeadershipLost);
            effects.push_back(Effect::Submitted { tag: pending.tag, result });
        }
        let last = from - 1;
        self.tail.next_seq =
            if last < self.wal.first_index() { 1 } else { self.header_of(disk, last)?.next_seq() };
        Ok(())
    }

    pub(super) fn header(
        &self,
        meta: EntryMeta,
        index: u64,
        kind: u8,
        record_count: u32,
    ) -> EntryHeader {
        EntryHeader {
            term: meta.term.0,
            index,
            first_seq: self.tail.next_seq,
            record_count,
            kind,
            flags: 0,
            log_id: 0,
            time_ms: self.tail.time_ms,
            body_bytes: 0,
            crc: 0,
        }
    }

    /// Makes an entry of a leader's own.
    pub(super) fn make_own(&self, meta: EntryMeta, index: u64) -> Entry {
        match meta.kind {
            EntryKind::Noop => Entry::new(&self.header(meta, index, KIND_NOOP, 0), &[]),
            EntryKind::Readmit { node, incarnation } => {
                let header = self.header(meta, index, KIND_READMIT, 0);
                Entry::new(&header, &[&[node.slot()], &incarnation.0.to_le_bytes()])
            }
            EntryKind::Payload => unreachable!("entry {index} has no bytes"),
        }
    }

    /// Sends the entries that the core asked for, as many as fit, and says how many that were; what
    /// is not in memory is read first, beside this thread.
    #[allow(clippy::too_many_arguments, reason = "the parts of one output and of the replica")]
    pub(super) fn send(
        &mut self,
        now: Time,
        envelope: Envelope,
        last: Index,
        bytes_max: u64,
        connected: bool,
        disk: &D,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fatal> {
        let to = envelope.to;
        let Message::Append { prev, .. } = &envelope.message else {
            unreachable!("entries travel in an Append");
        };
        let first = prev.index.next();
        if !connected {
            self.raft.step(now, Input::Sent { to, last: prev.index, bytes: 0 });
            return Ok(());
        }
        let found = match self.wal.find(disk, first.0, last.0, bytes_max) {
            Ok(Found::OnDisk(stretch)) => {
                let number = self.next_unread;
                self.next_unread += 1;
                self.unread.push_back(Unread { to, number, stretch });
                self.reading.insert(to, (number, envelope));
                return Ok(());
            }
            Ok(Found::InMemory(entries)) => Ok(entries),
            Err(error) => Err(error),
        };
        self.send_found(now, envelope, found, effects)
    }

    /// What was to be read for a peer was read, or could not be: sends it, if it is still wanted.
    pub(super) fn send_read(
        &mut self,
        now: Time,
        was_read: WasRead,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fatal> {
        let WasRead { to, number, entries } = was_read;
        // A link was lost since, and the core may have asked anew.
        if self.reading.get(&to).is_none_or(|(awaited, _)| *awaited != number) {
            return Ok(());
        }
        let (_, envelope) = self.reading.remove(&to).expect("looked at above");
        // Of an earlier leadership: what was read may have been cut off meanwhile.
        if self.raft.role() != RoleKind::Leader || self.raft.term() != envelope.term {
            return Ok(());
        }
        self.send_found(now, envelope, entries, effects)
    }

    fn send_found(
        &mut self,
        now: Time,
        mut envelope: Envelope,
        found: Result<Vec<Entry>, WalError>,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fatal> {
        let to = envelope.to;
        let Message::Append { prev, entries: metas, .. } = &mut envelope.message else {
            unreachable!("entries travel in an Append");
        };
        let entries = match found {
            Err(WalError::Faulty { index, .. }) => {
                self.note_damage(now, index)?;
                Vec::new()
            }
            found => found.map_err(fatal)?,
        };
        let last = Index(prev.index.0 + entries.len() as u64);
        let mut bytes = 0;
        for entry in &entries {
            metas.push(meta_of(entry));
            bytes += entry.frame.len() as u64;
        }
        if !entries.is_empty() {
            let cluster_id = self.cluster_id;
            let message = PeerMessage::Raft { cluster_id, envelope, entries };
            effects.push_back(Effect::Send { to, message });
        }
        self.raft.step(now, Input::Sent { to, last, bytes });
        Ok(())
    }

    /// Everything up to `last` is committed, and on the disk here: readers see it.
    pub(super) fn apply(
        &mut self,
        last: u64,
        disk: &D,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fatal> {
        if last <= self.applied {
            return Ok(());
        }
        let header = self.header_of(disk, last)?;
        self.applied = last;
        self.applied_next_seq = header.next_seq();
        self.window.forget(last, self.window_limits);
        let later = self.barriers.split_off(&(last + 1));
        for tag in std::mem::replace(&mut self.barriers, later).into_values().flatten() {
            effects.push_back(Effect::BarrierDone { tag, confirmed: true });
        }
        Ok(())
    }
}
