//! Damaged entries: finding them, asking for them, and putting their bytes back.

use std::collections::VecDeque;
use std::time::Duration;

use tercet_raft::{Envelope, FetchOutcome, Index, Input, LogPos, Message, Time};
use tercet_wal::{Disk, EntryHeader, WalError};

use super::{FILES_INTERVAL, Incoming, Phase, Replica, Running};
use crate::content::{kind_of, meta_of};
use crate::error::{Fatal, fatal};
use crate::io::{Effect, PeerMessage};
use crate::window::Request;

/// A scrub of the whole log does not begin sooner than this after the last one began.
const SCRUB_PASS_MIN: Duration = Duration::from_secs(60);

/// Where the scrubber is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scrub {
    next: u64,
    again_at: Time,
}

impl Scrub {
    pub(super) const fn new(now: Time) -> Self {
        Self { next: 1, again_at: now }
    }
}

impl<D: Disk> Replica<D> {
    /// Looks at the entry that a read complained about, and at a stretch of the log that nobody
    /// has read for long.
    pub(super) fn look_for_damage(&mut self, now: Time) -> Result<(), Fatal> {
        let per_second = self.config.scrub_bytes_per_second;
        let Phase::Running(running) = &mut self.phase else {
            return Ok(());
        };
        let mut damaged: Vec<u64> = running.suspect.take().into_iter().collect();
        if per_second > 0 && running.scrub.again_at <= now {
            let slices = Duration::from_secs(1).as_millis() / FILES_INTERVAL.as_millis();
            let budget = (per_second / u64::try_from(slices).unwrap_or(1)).max(1);
            let (next, found) = running.wal.scrub(running.scrub.next, budget).map_err(fatal)?;
            running.scrub.next = next;
            if next == 1 {
                running.scrub.again_at = now.after(SCRUB_PASS_MIN);
            }
            damaged.extend(found);
        }
        for index in damaged {
            self.found_damage(now, index)?;
        }
        Ok(())
    }

    fn found_damage(&mut self, now: Time, index: u64) -> Result<(), Fatal> {
        let Phase::Running(running) = &mut self.phase else {
            return Ok(());
        };
        running.wal.note_faulty(index).map_err(fatal)?;
        if !running.raft.is_faulty(Index(index)) {
            let text = format!("entry {index} is damaged on this disk: asking the others for it");
            self.effects.push_back(Effect::Warning(text));
        }
        self.step(now, Input::Faulty { index: Index(index) }, Incoming::default())
    }

    /// Puts the bytes that arrived back where they stood, and tells the core.
    pub(super) fn write_repairs(&mut self, now: Time) -> Result<(), Fatal> {
        let Phase::Running(running) = &mut self.phase else {
            return Ok(());
        };
        if running.repairs.is_empty() {
            return Ok(());
        }
        let arrived = std::mem::take(&mut running.repairs);
        let repaired = running.wal.repair(&arrived).map_err(fatal)?;
        for entry in arrived.iter().filter(|entry| repaired.contains(&entry.header.index)) {
            let EntryHeader { index, time_ms, .. } = entry.header;
            let Phase::Running(running) = &mut self.phase else {
                return Ok(());
            };
            running.tail.time_ms = running.tail.time_ms.max(time_ms);
            if running.unknown_requests.remove(&index)
                && let Some(request) = Request::of(entry)
            {
                running.window.insert_between(request);
            }
            let input = Input::Repaired { index: Index(index), kind: kind_of(entry) };
            self.step(now, input, Incoming::default())?;
        }
        let text =
            format!("{} of the log were repaired with the others' help", entries(repaired.len()));
        if !repaired.is_empty() {
            self.effects.push_back(Effect::Notice(text));
        }
        Ok(())
    }
}

impl<D: Disk> Running<D> {
    /// An entry is damaged: from now on it is known by its identifier, and the core knows.
    pub(super) fn note_damage(&mut self, now: Time, index: u64) -> Result<(), Fatal> {
        self.wal.note_faulty(index).map_err(fatal)?;
        self.raft.step(now, Input::Faulty { index: Index(index) });
        Ok(())
    }

    /// The header of an entry, or what is known of it.
    pub(super) fn header_of(&mut self, disk: &D, index: u64) -> Result<EntryHeader, Fatal> {
        match self.wal.header(disk, index) {
            Err(WalError::Faulty { .. }) => {
                self.wal.note_faulty(index).map_err(fatal)?;
                self.suspect.set(Some(index));
                self.wal.header(disk, index).map_err(fatal)
            }
            header => header.map_err(fatal),
        }
    }

    /// An entry without its bytes is the next of the log, at the start.
    pub(super) fn note_damaged_entry(&mut self, header: &EntryHeader, remember: bool) {
        self.tail.next_seq = header.first_seq + u64::from(header.record_count);
        if header.record_count > 0 && remember {
            self.unknown_requests.insert(header.index);
        }
    }

    /// Sends an entry to a peer whose copy is damaged.
    pub(super) fn send_fetched(
        &mut self,
        now: Time,
        mut envelope: Envelope,
        pos: LogPos,
        disk: &D,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fatal> {
        let entries = match self.wal.read(disk, pos.index.0, pos.index.0, u64::MAX) {
            Err(WalError::Faulty { index, .. }) => {
                self.note_damage(now, index)?;
                return Ok(());
            }
            read => read.map_err(fatal)?,
        };
        let meta = meta_of(&entries[0]);
        envelope.message = Message::FetchReply { pos, outcome: FetchOutcome::Whole(meta) };
        let to = envelope.to;
        let cluster_id = self.cluster_id;
        let message = PeerMessage::Raft { cluster_id, envelope, entries };
        effects.push_back(Effect::Send { to, message });
        Ok(())
    }
}

/// "one entry", "7 entries".
pub(super) fn entries(count: usize) -> String {
    if count == 1 { "one entry".to_owned() } else { format!("{count} entries") }
}
