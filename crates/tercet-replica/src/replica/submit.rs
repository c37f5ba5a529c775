//! What becomes of a submit, from the leader's first look at it to its answer.

use std::collections::VecDeque;

use tercet_raft::{EntryMeta, Index, NodeSet, RoleKind};
use tercet_wal::{Disk, Entry};

use super::{Pending, Proposing, Running};
use crate::content::{KIND_RECORDS, make_entry};
use crate::io::{Effect, Submit, SubmitError, Submitted};
use crate::window::Seen;

/// What becomes of a submit on a leader.
pub(super) enum Considered {
    Answer(Result<Submitted, SubmitError>),
    Attach { index: u64, pending: Pending },
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
            if seen.index <= self.applied && !submit.wait_all {
                return Considered::Answer(Ok(self.submitted(&pending)));
            }
            return Considered::Attach { index: seen.index, pending };
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

    pub(super) fn submitted(&self, pending: &Pending) -> Submitted {
        let Seen { index, first_seq, record_count, .. } = pending.seen;
        let status = self.raft.status();
        let mut durable_on: NodeSet = status
            .peers
            .iter()
            .filter(|peer| peer.matched.0 >= index)
            .map(|peer| peer.node)
            .collect();
        if self.raft.durable().0 >= index {
            durable_on.insert(self.raft.node());
        }
        Submitted {
            first_seq,
            last_seq: first_seq + u64::from(record_count) - 1,
            term: pending.term,
            index,
            duplicate: pending.duplicate,
            durable_on,
        }
    }

    /// Makes the bytes of an accepted submit, once for all disks and links.
    pub(super) fn make_records(
        &mut self,
        meta: EntryMeta,
        index: u64,
        proposing: Proposing,
    ) -> Entry {
        let Proposing { submit, pieces, digest } = proposing;
        let record_count = u32::try_from(submit.records.len()).expect("far below 4 billion");
        let header = self.header(meta, index, KIND_RECORDS, record_count);
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| &piece[..]).collect();
        let entry = make_entry(&header, &pieces);
        let seen = Seen { index, first_seq: header.first_seq, record_count, digest };
        let pending = Pending {
            tag: submit.tag,
            term: meta.term.0,
            seen,
            duplicate: false,
            wait_all: submit.wait_all,
        };
        self.pending.entry(index).or_default().push(pending);
        entry
    }

    /// Answers those who wait for every member.
    pub(super) fn answer_waiting_all(&mut self, effects: &mut VecDeque<Effect>) {
        while let Some(entry) = self.waiting_all.first_entry() {
            let index = *entry.key();
            let on_all = self.raft.status().peers.iter().all(|peer| peer.matched.0 >= index);
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
        let waiting = std::mem::take(&mut self.pending).into_values();
        let waiting_all = std::mem::take(&mut self.waiting_all).into_values();
        for pending in waiting.chain(waiting_all).flatten() {
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
