//! Opening a node's directory, forming the cluster, and beginning to run Raft.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tercet_raft::{Config, EntryKind, Incarnation, Index, NodeId, NodeSet, Raft, Time};
use tercet_seeded::{Bug, has};
use tercet_wal::{Disk, Entry, Found, Recovered, Wal, WalError};

use super::repair::{Scrub, entries};
use super::{FILES_INTERVAL, Phase, Readmits, Replica, Running, Tail, read};
use crate::config::ReplicaConfig;
use crate::content::{KIND_READMIT, kind_of};
use crate::error::{OpenError, io};
use crate::forming::{FormStep, Forming};
use crate::health::DiskHealth;
use crate::identity::{Generation, Identity, IdentityError, IdentityState};
use crate::io::{Effect, PeerMessage};
use crate::values::ValuesFile;
use crate::window::{Request, Window, WindowLimits};

/// How many bytes of entries are read at a time.
const READ_BYTES: u64 = 4 << 20;
/// Where files go that a node which lost its memory had: a cache at best, kept for a person.
pub(super) const LOST_DIR: &str = "lost";

impl<D: Disk> Replica<D> {
    /// Opens a node's directory: new, as it was left, or with its memory lost.
    ///
    /// `lost` says why an earlier replica of this process had to stop ([`crate::Fatal::LostMemory`]);
    /// `random` gives numbers that nobody else gets.
    ///
    /// # Errors
    /// A directory that is not this node's, or that cannot be read. What is damaged is no error:
    /// the node has lost its memory then, and rejoins.
    pub fn open(
        mut disk: D,
        config: ReplicaConfig,
        lost: Option<String>,
        random: &mut dyn FnMut() -> u128,
        now: Time,
    ) -> Result<Self, OpenError> {
        let mut effects = VecDeque::new();
        let has_log = !disk.list("wal").map_err(io("list wal"))?.is_empty();
        let (found, mut lost) = match Identity::load(&mut disk) {
            Ok(found) => (found, lost),
            // Whoever has spoken once has a whole copy, and whoever is a member has a log. Without
            // either, the directory was still being made when a crash cut that short: it is a new
            // one. Were it mute, it could never help to form the cluster that would readmit it.
            Err(IdentityError::Damaged) if !has_log && lost.is_none() => {
                let text = "the identity was not written whole: this directory counts as new";
                effects.push_back(Effect::Notice(text.to_owned()));
                (None, None)
            }
            Err(error @ IdentityError::Damaged) => (None, Some(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        let (mut identity, mut identity_count) = match found {
            Some((identity, count)) => {
                check_identity(&identity, &config)?;
                (identity, count)
            }
            None => {
                if has_log {
                    lost.get_or_insert_with(|| "there is a log, but no identity".to_owned());
                }
                let identity = Identity {
                    node: config.node,
                    incarnation: Incarnation(random()),
                    cluster_name: config.cluster_name.clone(),
                    cluster_id: None,
                    generation: Generation::default(),
                    // With the remains of a log this node was a member once; without, it cannot
                    // know, and asks everyone.
                    state: if lost.is_some() {
                        IdentityState::Quarantined
                    } else {
                        IdentityState::Fresh
                    },
                    has_remains: false,
                    members: BTreeMap::new(),
                };
                (identity, 0)
            }
        };
        // An earlier start was cut short before it had given up what another incarnation left.
        if identity.has_remains && lost.is_none() {
            identity_count = settle(&mut disk, &mut identity, identity_count)?;
        }
        // Who has lost a memory is muted before anything else is done with the directory.
        let mut wal = None;
        let is_member = matches!(identity.state, IdentityState::Voter | IdentityState::Quarantined)
            && identity.cluster_id.is_some();
        if identity.state == IdentityState::Survivor {
            // It has no other: were it lost now, an operator would have to choose another survivor.
            Wal::open(&mut disk, config.wal.clone())?;
        }
        if is_member && lost.is_none() {
            match Wal::open(&mut disk, config.wal.clone()) {
                Ok(opened) => wal = Some(opened),
                Err(error) if is_memory_lost(&error) => lost = Some(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(why) = &lost {
            effects.push_back(Effect::Warning(format!(
                "this node has lost its memory ({why}): it is mute until the others have readmitted it"
            )));
            identity.incarnation = Incarnation(random());
            identity.state = IdentityState::Quarantined;
            identity.has_remains = true;
        }
        if lost.is_some() || identity_count == 0 {
            identity_count += 1;
            identity.store(&mut disk, identity_count)?;
        }
        if lost.is_some() {
            identity_count = settle(&mut disk, &mut identity, identity_count)?;
        }
        let mut replica = Self {
            phase: Phase::Forming(Box::new(Forming::new(
                Identity { state: identity.state, cluster_id: None, ..identity.clone() },
                Vec::new(),
                0,
                now,
            ))),
            config,
            disk,
            identity,
            identity_count,
            effects,
            connected: NodeSet::EMPTY,
        };
        if is_member {
            let wal = match wal {
                Some(opened) => opened,
                None => replica.fresh_log()?,
            };
            match replica.run(wal, now) {
                // A sealed segment is not read before something of it is wanted.
                Err(OpenError::Wal(error)) if is_memory_lost(&error) => {
                    let Self { disk, config, .. } = replica;
                    return Self::open(disk, config, Some(error.to_string()), random, now);
                }
                result => result?,
            }
        } else {
            let peers = replica.peers();
            let mut forming = Forming::new(replica.identity.clone(), peers, random(), now);
            let steps = forming.begin();
            replica.phase = Phase::Forming(Box::new(forming));
            replica.form(steps, now)?;
        }
        Ok(replica)
    }

    /// Does what the forming of the cluster asks for.
    pub(super) fn form(&mut self, steps: Vec<FormStep>, now: Time) -> Result<(), OpenError> {
        let mut wal = None;
        for step in steps {
            match step {
                FormStep::Send(to, message) => {
                    let incarnation = self.identity.incarnation;
                    let message = PeerMessage::Form { incarnation, message };
                    self.effects.push_back(Effect::Send { to, message });
                }
                FormStep::Store(identity) => {
                    let keeps_log = self.identity.state == IdentityState::Survivor;
                    if identity.state == IdentityState::Voter && !keeps_log {
                        // The log exists before the identity says that it does: a voter without one
                        // has lost its memory.
                        wal = Some(self.fresh_log()?);
                    }
                    self.identity_count += 1;
                    identity.store(&mut self.disk, self.identity_count)?;
                    self.identity = identity;
                }
                FormStep::Warn(text) => self.effects.push_back(Effect::Warning(text)),
                FormStep::Done => {
                    let text = match self.identity.state {
                        IdentityState::Voter => "the cluster is formed",
                        IdentityState::Quarantined
                        | IdentityState::Fresh
                        | IdentityState::Survivor => {
                            "the cluster exists already: this node is mute until it is readmitted"
                        }
                    };
                    self.effects.push_back(Effect::Notice(text.to_owned()));
                    let wal = match wal.take() {
                        Some(fresh) => fresh,
                        None if self.identity.state == IdentityState::Quarantined => {
                            self.fresh_log()?
                        }
                        None => Wal::open(&mut self.disk, self.config.wal.clone())?,
                    };
                    self.run(wal, now)?;
                }
            }
        }
        Ok(())
    }

    /// An empty log, whatever was there.
    pub(super) fn fresh_log(&mut self) -> Result<(Wal<D>, Recovered), OpenError> {
        set_aside(&mut self.disk).map_err(io("set the remains of an old log aside"))?;
        Ok((Wal::create(&mut self.disk, self.config.wal.clone())?, Recovered::default()))
    }

    /// Begins to run Raft with this log.
    pub(super) fn run(
        &mut self,
        (wal, recovered): (Wal<D>, Recovered),
        now: Time,
    ) -> Result<(), OpenError> {
        if let Some(torn) = &recovered.torn_tail {
            self.effects.push_back(Effect::Notice(format!(
                "the log ended in a write that was cut short and never acknowledged: {torn:?}"
            )));
        }
        let mut running = Running {
            cluster_id: self.identity.cluster_id.expect("Raft runs in a cluster that is known"),
            ending: None,
            raft: Raft::new(self.raft_config(), tercet_raft::Recovered::default(), now),
            wal,
            values: ValuesFile::open(&mut self.disk).map_err(io("open values.log"))?,
            values_error: None,
            window: Window::default(),
            window_limits: WindowLimits::default(),
            tail: Tail { next_seq: 1, time_ms: 0 },
            applied: 0,
            applied_next_seq: 1,
            staged: None,
            unsynced: None,
            pending: VecDeque::new(),
            waiting_all: BTreeMap::new(),
            unread: VecDeque::new(),
            reading: BTreeMap::new(),
            next_unread: 0,
            barriers: BTreeMap::new(),
            next_proposal: 1,
            arena: bytes::BytesMut::new(),
            head: Vec::new(),
            disk_full: false,
            repairs: Vec::new(),
            unknown_requests: BTreeSet::new(),
            known: read::Known::default(),
            suspect: Cell::new(None),
            scrub: Scrub::new(now),
            health: DiskHealth::default(),
            check_files_at: now.after(FILES_INTERVAL),
        };
        let readmits = running.recall(&self.disk, &recovered.marks)?;
        let faulty: BTreeSet<Index> = running.wal.faulty().map(|(index, _)| Index(index)).collect();
        if let Some(first) = faulty.first() {
            self.effects.push_back(Effect::Warning(format!(
                "{} of the log are damaged on this disk, the first is entry {first}: asking the \
                 others for them",
                entries(faulty.len())
            )));
        }
        let recovered = tercet_raft::Recovered {
            hard_state: tercet_raft::HardState {
                term: tercet_raft::Term(recovered.hard_state.term),
                vote: recovered.hard_state.vote.and_then(NodeId::new),
            },
            runs: recovered
                .runs
                .iter()
                .map(|(term, first)| tercet_raft::LogPos::new(*term, *first))
                .collect(),
            last: Index(recovered.last_index),
            readmits,
            faulty,
            commit: Index::ZERO,
        };
        running.raft = Raft::new(self.raft_config(), recovered, now);
        self.phase = Phase::Running(Box::new(running));
        Ok(())
    }

    pub(super) fn raft_config(&self) -> Config {
        let incarnation = self.identity.incarnation;
        let mut members = self.identity.members.clone();
        for node in &self.config.members {
            members.entry(*node).or_insert(Incarnation(0));
        }
        Config {
            node: self.config.node,
            incarnation,
            members,
            floor: self.identity.generation.floor(),
            quarantined: self.identity.state == IdentityState::Quarantined,
            profile: self.config.profile,
            rules: self.config.rules,
            heartbeat_interval: self.config.heartbeat_interval,
            election_timer_frozen: self.config.election_timer_frozen,
            election_timeout_min: self.config.election_timeout_min,
            election_timeout_max: self.config.election_timeout_max,
            #[allow(
                clippy::cast_possible_truncation,
                reason = "any 64 bits of a random number do"
            )]
            seed: self.config.seed.unwrap_or(incarnation.0 as u64),
            message_bytes_max: self.config.message_bytes_max,
            inflight_bytes_max: self.config.inflight_bytes_max,
            inflight_messages_max: self.config.inflight_messages_max,
            uncommitted_bytes_max: self.config.uncommitted_bytes_max,
        }
    }
}

impl<D: Disk> Running<D> {
    /// Reads what has to be known of the log at the start: the Readmit entries in it, and the
    /// request ids of its last entries. Of the others `marks` are those without records.
    fn recall(&mut self, disk: &D, marks: &[(u64, u8)]) -> Result<Readmits, OpenError> {
        let mut readmits = BTreeMap::new();
        let last = self.wal.last_index();
        // Older ids would be forgotten again at once.
        let window_from = last.saturating_sub(self.window_limits.count_max as u64);
        let is_readmit = |(index, kind): &(u64, u8)| *kind == KIND_READMIT && *index < window_from;
        for (index, _) in marks.iter().copied().filter(is_readmit) {
            for entry in self.read_around(disk, index, index)? {
                note_readmit(&entry, &mut readmits);
            }
        }
        let mut has_older = window_from > 0;
        let mut next = window_from.max(self.wal.first_index());
        while next <= last {
            let read = self.read_around(disk, next, last)?;
            if read.is_empty() {
                let header = self.wal.header(disk, next)?;
                self.note_damaged_entry(&header, next > window_from);
                next += 1;
            }
            for entry in read {
                next = entry.header.index + 1;
                note_readmit(&entry, &mut readmits);
                self.note_appended(&entry);
                if std::mem::take(&mut has_older) {
                    self.window.forget_before(entry.header.time_ms);
                }
                if entry.header.index > window_from
                    && !has(Bug::ForgetIdsOnStart)
                    && let Some(request) = Request::of(&entry)
                {
                    self.window.insert(request);
                }
            }
        }
        Ok(readmits)
    }

    /// Entries from `first` on; none if that one is damaged, which is known from here on.
    fn read_around(&mut self, disk: &D, first: u64, last: u64) -> Result<Vec<Entry>, WalError> {
        match self.wal.find(disk, first, last, READ_BYTES).and_then(Found::read_alone) {
            Err(WalError::Faulty { index, .. }) => {
                self.wal.note_faulty(index)?;
                Ok(Vec::new())
            }
            read => read,
        }
    }
}

const fn is_memory_lost(error: &WalError) -> bool {
    matches!(error, WalError::Missing { .. } | WalError::Corrupt { .. })
}

fn note_readmit(entry: &Entry, readmits: &mut Readmits) {
    if let EntryKind::Readmit { node, incarnation } = kind_of(entry) {
        readmits.insert(Index(entry.header.index), (node, incarnation));
    }
}

fn check_identity(identity: &Identity, config: &ReplicaConfig) -> Result<(), OpenError> {
    if identity.cluster_name != config.cluster_name {
        return Err(OpenError::OtherCluster {
            found: identity.cluster_name.clone(),
            expected: config.cluster_name.clone(),
        });
    }
    if identity.node != config.node {
        return Err(OpenError::OtherNode {
            found: identity.node.slot(),
            expected: config.node.slot(),
        });
    }
    let found: Vec<NodeId> = identity.members.keys().copied().collect();
    let mut expected = config.members.clone();
    expected.sort_unstable();
    if identity.cluster_id.is_some() && !found.is_empty() && found != expected {
        return Err(OpenError::OtherMembers {
            found: format!("{found:?}"),
            expected: format!("{expected:?}"),
        });
    }
    Ok(())
}

/// Gives up what an earlier incarnation left behind, and then says so in the identity. Counts its
/// stores on.
fn settle<D: Disk>(disk: &mut D, identity: &mut Identity, count: u64) -> Result<u64, OpenError> {
    set_aside(disk).map_err(io("set the remains of the old log aside"))?;
    identity.has_remains = false;
    identity.store(disk, count + 1)?;
    Ok(count + 1)
}

/// Moves what an earlier incarnation left behind out of the way. The newest remains are kept for a
/// person to look at; nothing reads them.
fn set_aside<D: Disk>(disk: &mut D) -> std::io::Result<()> {
    let segments = disk.list("wal")?;
    if segments.is_empty() {
        return Ok(());
    }
    for name in disk.list(LOST_DIR)? {
        disk.remove(&format!("{LOST_DIR}/{name}"))?;
    }
    for name in segments {
        disk.rename(&format!("wal/{name}"), &format!("{LOST_DIR}/{name}"))?;
    }
    disk.sync_dir("wal")?;
    disk.sync_dir(LOST_DIR)?;
    Ok(())
}
