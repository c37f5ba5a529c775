//! What becomes of a submit, from the leader's first look at it to its answer.

use std::collections::VecDeque;

use tercet_raft::{EntryMeta, Index, RoleKind};
use tercet_wal::{Disk, ENTRY_HEADER_BYTES, Entry};

use super::{Pending, Proposing, Running};
use crate::content::KIND_RECORDS;
use crate::io::{Effect, Submit, SubmitError, Submitted};
use crate::record::{records_bytes, records_head};
use crate::window::{Request, Seen};

/// How much memory is taken at a time for entries that are made here.
const ARENA_BYTES: usize = 64 << 10;

/// What becomes of a submit on a leader.
pub(super) enum Considered {
    Answer(Result<Submitted, SubmitError>),
    Attach(Pending),
    Propose,
}

impl<D: Disk> Running<D> {
    /// What becomes of a submit: only a leader appends, and only what its log does not hold.
    pub(super) fn consider(&self, submit: &Submit, digest: u32, next_seq: u64) -> Considered {
        match self.raft.role() {
            RoleKind::Leader => {}
            RoleKind::Quarantined => return Considered::Answer(Err(SubmitError::Quarantined)),
            RoleKind::Follower | RoleKind::PreCandidate | RoleKind::Candidate => {
                return Considered::Answer(Err(SubmitError::NotLeader));
            }
        }
        if let Some(seen) = self.window.find(submit.request_id) {
            if seen.digest != digest || seen.record_count as usize != submit.records.len() {
                return Considered::Answer(Err(SubmitError::KeyReused));
            }
            let term = self.raft.term_at(Index(seen.index)).map_or(0, |term| term.0);
            let pending =
                Pending { tag: submit.tag, term, seen, duplicate: true, wait_all: submit.wait_all };
            if seen.index <= self.raft.commit().0 && !submit.wait_all {
                return Considered::Answer(Ok(self.submitted(&pending)));
            }
            return Considered::Attach(pending);
        }
        if made_at_ms(submit.request_id).is_some_and(|made| made < self.window.horizon_ms()) {
            return Considered::Answer(Err(SubmitError::KeyExpired));
        }
        if !self.unknown_requests.is_empty() {
            return Considered::Answer(Err(SubmitError::Repairing));
        }
        if self.disk_full {
            return Considered::Answer(Err(SubmitError::DiskFull));
        }
        if submit.expect_next.is_some_and(|expected| expected != next_seq) {
            return Considered::Answer(Err(SubmitError::Conflict { next_seq }));
        }
        Considered::Propose
    }

    /// Another one waits for an entry that is in the log already.
    pub(super) fn attach(&mut self, pending: Pending) {
        let at = self.pending.partition_point(|other| other.seen.index <= pending.seen.index);
        self.pending.insert(at, pending);
    }

    pub(super) fn submitted(&self, pending: &Pending) -> Submitted {
        let Seen { index, first_seq, record_count, .. } = pending.seen;
        Submitted {
            first_seq,
            last_seq: first_seq + u64::from(record_count) - 1,
            term: pending.term,
            index,
            duplicate: pending.duplicate,
            durable_on: self.raft.durable_on(Index(index)),
        }
    }

    /// Makes the bytes of an accepted submit, once for all disks and links.
    pub(super) fn make_records(
        &mut self,
        meta: EntryMeta,
        index: u64,
        proposing: Proposing,
    ) -> (Entry, Request) {
        let Proposing { submit, digest } = proposing;
        let record_count = u32::try_from(submit.records.len()).expect("far below 4 billion");
        let header = self.header(meta, index, KIND_RECORDS, record_count);
        let bytes = ENTRY_HEADER_BYTES + records_bytes(&submit.records);
        if self.arena.capacity() < bytes {
            self.arena.reserve(bytes.max(ARENA_BYTES));
        }
        records_head(submit.request_id, &submit.records, &mut self.head);
        let values = submit.records.iter().map(|value| &value[..]);
        let body = std::iter::once(&self.head[..]).chain(values);
        let entry = Entry::new_in(&mut self.arena, &header, body);
        let request = Request::new(submit.request_id, digest, &header);
        let pending = Pending {
            tag: submit.tag,
            term: meta.term.0,
            seen: request.seen,
            duplicate: false,
            wait_all: submit.wait_all,
        };
        self.pending.push_back(pending);
        (entry, request)
    }

    /// Answers those whose records are on the disks of a majority. This node's disk need not be one
    /// of them: what is committed is kept, whoever holds it.
    pub(super) fn answer_committed(&mut self, effects: &mut VecDeque<Effect>) {
        let commit = self.raft.commit().0;
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.seen.index <= commit)
        {
            let index = pending.seen.index;
            let holds = self.raft.term_at(Index(index)).map(|term| term.0) == Some(pending.term);
            assert!(holds, "entry {index} of a leader is the one that was submitted");
            if pending.wait_all {
                self.waiting_all.entry(index).or_default().push(pending);
            } else {
                let result = Ok(self.submitted(&pending));
                effects.push_back(Effect::Submitted { tag: pending.tag, result });
            }
        }
    }

    /// Answers those who wait for every member.
    pub(super) fn answer_waiting_all(&mut self, effects: &mut VecDeque<Effect>) {
        while let Some(entry) = self.waiting_all.first_entry() {
            let index = *entry.key();
            let on_all = self.raft.durable_on(Index(index)).len() == self.raft.member_count();
            if !on_all || self.raft.role() != RoleKind::Leader {
                return;
            }
            for pending in entry.remove() {
                let result = Ok(self.submitted(&pending));
                effects.push_back(Effect::Submitted { tag: pending.tag, result });
            }
        }
    }

    /// Whoever waits on a node that no longer leads gets an answer: nobody can know.
    pub(super) fn lose_leadership(&mut self, effects: &mut VecDeque<Effect>) {
        if self.raft.role() == RoleKind::Leader
            || (self.pending.is_empty() && self.waiting_all.is_empty())
        {
            return;
        }
        let waiting = std::mem::take(&mut self.pending).into_iter();
        let waiting_all = std::mem::take(&mut self.waiting_all).into_values();
        for pending in waiting.chain(waiting_all.flatten()) {
            let result = Err(SubmitError::LeadershipLost);
            effects.push_back(Effect::Submitted { tag: pending.tag, result });
        }
    }
}

/// When a request id was made, if it is a UUID of version 7 from this program's lifetime: only
/// those tell.
fn made_at_ms(id: u128) -> Option<u64> {
    const YEAR_2024_MS: u64 = 1_704_067_200_000;
    let version = (id >> 76) & 0xf;
    let variant = (id >> 62) & 0b11;
    let made = u64::try_from(id >> 80).ok()?;
    (version == 7 && variant == 0b10 && made >= YEAR_2024_MS).then_some(made)
}
