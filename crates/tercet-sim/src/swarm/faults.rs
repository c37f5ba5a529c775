//! What goes wrong, how, and how it becomes good again.
//!
//! A fault that lasts is an episode: while it stands, links, clocks and disks are what all standing
//! episodes together make of them. At most a minority is without its memory at any time; what breaks
//! the promises that the cluster rests on ([`Fault::BREAKING`]) comes only where it is asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use tercet_raft::{Incarnation, NodeId, RoleKind, Time};
use tercet_replica::LabInput;
use tercet_replica::prepare::{Forget, forget};
use tercet_wal::{Disk, DiskFile, MemDisk, Survive};

use super::options::{Options, Planned};
use super::watch::{Watch, identity};
use crate::network::Link;
use crate::random::Random;
use crate::world::World;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "Fault::about says what each is")]
pub enum Fault {
    Loss,
    Duplicate,
    Replay,
    Delay,
    Reorder,
    Clog,
    Cut,
    OneWay,
    Isolate,
    Split,
    Ring,
    Bridge,
    SlowLink,
    Reset,
    Damage,
    Crash,
    CrashLeader,
    CrashInWrite,
    CrashAll,
    Storm,
    Pause,
    Transfer,
    Campaign,
    SyncError,
    Full,
    ReadOnly,
    Stall,
    SlowDisk,
    Wipe,
    Shorten,
    Lengthen,
    Unlink,
    Rename,
    BitFlip,
    Zeroed,
    ReadError,
    LostWrite,
    Misdirected,
    EditValues,
    Jump,
    Freeze,
    Rate,
    LyingSync,
    OldCopy,
}

impl Fault {
    /// What a cluster must bear.
    pub const USUAL: &[Self] = &[
        Self::Loss,
        Self::Duplicate,
        Self::Replay,
        Self::Delay,
        Self::Reorder,
        Self::Clog,
        Self::Cut,
        Self::OneWay,
        Self::Isolate,
        Self::Split,
        Self::Ring,
        Self::Bridge,
        Self::SlowLink,
        Self::Reset,
        Self::Damage,
        Self::Crash,
        Self::CrashLeader,
        Self::CrashInWrite,
        Self::CrashAll,
        Self::Storm,
        Self::Pause,
        Self::Transfer,
        Self::Campaign,
        Self::SyncError,
        Self::Full,
        Self::ReadOnly,
        Self::Stall,
        Self::SlowDisk,
        Self::Wipe,
        Self::Shorten,
        Self::Lengthen,
        Self::Unlink,
        Self::Rename,
        Self::BitFlip,
        Self::Zeroed,
        Self::ReadError,
        Self::LostWrite,
        Self::Misdirected,
        Self::EditValues,
        Self::Jump,
        Self::Freeze,
        Self::Rate,
    ];
    /// What breaks a promise that everything rests on: the swarm must notice.
    pub const BREAKING: &[Self] = &[Self::LyingSync, Self::OldCopy];

    /// All kinds.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::USUAL.iter().chain(Self::BREAKING).copied()
    }

    /// Its name, for `--faults`.
    pub const fn name(self) -> &'static str {
        self.words().0
    }

    /// What it is, in words.
    pub const fn about(self) -> &'static str {
        self.words().1
    }

    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Loss => ("loss", "up to 30 % of the messages between some nodes are lost"),
            Self::Duplicate => ("duplicate", "up to 50 % of the messages come twice"),
            Self::Replay => {
                ("replay", "messages come again minutes later, also from and to lost disks")
            }
            Self::Delay => ("delay", "up to 100 ms in the mean, with tails of up to 5 s"),
            Self::Reorder => ("reorder", "messages overtake each other"),
            Self::Clog => ("clog", "messages to a node wait, then all come at once"),
            Self::Cut => ("cut", "two nodes do not hear each other"),
            Self::OneWay => ("one-way", "one node does not hear another"),
            Self::Isolate => ("isolate", "a node, the leader more often, is cut off"),
            Self::Split => ("split", "the cluster falls into two parts"),
            Self::Ring => ("ring", "each node hears only its two neighbours"),
            Self::Bridge => ("bridge", "two parts hear each other only through one node"),
            Self::SlowLink => ("slow-link", "one link is slow"),
            Self::Reset => ("reset", "a connection breaks, with what is on it"),
            Self::Damage => {
                ("damage", "up to 10 % of the frames between some nodes come with a damaged byte")
            }
            Self::Crash => {
                ("crash", "a node crashes; what was not synced survives, or not, page by page")
            }
            Self::CrashLeader => ("crash-leader", "the leader crashes"),
            Self::CrashInWrite => ("crash-in-write", "a machine dies between two writes or syncs"),
            Self::CrashAll => ("crash-all", "all nodes crash at once"),
            Self::Storm => ("storm", "a node is restarted again and again"),
            Self::Pause => ("pause", "a process stands still, for up to a minute"),
            Self::Transfer => {
                ("transfer", "leadership is handed over, and a node may crash meanwhile")
            }
            Self::Campaign => ("campaign", "a node campaigns, whoever leads"),
            Self::SyncError => ("sync-error", "a sync fails"),
            Self::Full => ("full", "a disk is full"),
            Self::ReadOnly => ("read-only", "a disk takes no writes any more"),
            Self::Stall => ("stall", "a disk stalls for up to a minute"),
            Self::SlowDisk => ("slow-disk", "a disk takes up to 200 ms for a sync"),
            Self::Wipe => ("wipe", "the log, the identity or all of a directory is gone"),
            Self::Shorten => ("shorten", "a file of the log is cut short"),
            Self::Lengthen => ("lengthen", "a file of the log grows by itself"),
            Self::Unlink => ("unlink", "a file of the log is unlinked, perhaps while it is open"),
            Self::Rename => ("rename", "a file of the log gets another name"),
            Self::BitFlip => ("bit-flip", "a bit of a log flips on the platter"),
            Self::Zeroed => ("zeroed", "a block of a log is zeros"),
            Self::ReadError => ("read-error", "a block of a log cannot be read"),
            Self::LostWrite => {
                ("lost-write", "a disk confirms a write to a log and does not do it")
            }
            Self::Misdirected => ("misdirected", "a disk does a write to a log in another place"),
            Self::EditValues => ("edit-values", "values.log is deleted, cut or written to"),
            Self::Jump => ("jump", "a wall clock jumps by up to an hour"),
            Self::Freeze => ("freeze", "a clock stands still"),
            Self::Rate => ("rate", "a clock runs at half to double speed"),
            Self::LyingSync => {
                ("lying-sync", "a disk forgets in a power cut what it had said to be synced")
            }
            Self::OldCopy => ("old-copy", "a directory is replaced by an old copy of itself"),
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|fault| fault.name() == name)
    }

    /// How often it comes, beside others that are on.
    #[allow(clippy::wildcard_enum_match_arm, reason = "a new kind comes as often as most")]
    pub(crate) const fn weight(self) -> u64 {
        match self {
            Self::CrashAll | Self::Stall | Self::ReadOnly | Self::Storm | Self::Freeze => 1,
            Self::Crash | Self::CrashLeader | Self::Wipe | Self::Isolate | Self::Pause => 4,
            _ => 2,
        }
    }
}

/// What is taken away from a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Directory,
    Log,
    Identity,
}

/// What stands, and what becomes of it when it ends.
#[derive(Clone, Debug)]
enum State {
    /// These links fare so.
    Links(Vec<(NodeId, NodeId, Link)>),
    Down(NodeId),
    /// Down again and again, so many times.
    Storm(NodeId, u64),
    Paused(NodeId),
    SlowSync(NodeId, Duration),
    Full(NodeId),
    /// The disk does not write.
    DeadDisk(NodeId),
    ClockRate(NodeId),
    /// The disk comes back as it was.
    Rollback(NodeId, MemDisk),
}

#[derive(Clone, Debug)]
struct Episode {
    until: Time,
    state: State,
}

/// All that stands.
#[derive(Debug)]
pub(crate) struct Faults {
    begun: Time,
    plan: Vec<Planned>,
    next: usize,
    episodes: Vec<Episode>,
    /// For what is not planned: when a node that stopped is started again.
    random: Random,
    usual_sync: Duration,
    wipes: u64,
    /// Who was wiped last, with the rule switched off that mutes it.
    forgetful: Option<NodeId>,
    /// How messages fare without any episode.
    weather: Link,
}

fn up_to(random: &mut Random, most: Duration) -> Duration {
    Duration::from_micros(random.below(u64::try_from(most.as_micros()).unwrap_or(0) + 1))
}

fn merged(one: Link, other: Link) -> Link {
    Link {
        cut: one.cut || other.cut,
        loss_percent: one.loss_percent.max(other.loss_percent),
        damage_percent: one.damage_percent.max(other.damage_percent),
        duplicate_percent: one.duplicate_percent.max(other.duplicate_percent),
        delay: one.delay.max(other.delay),
        tail: one.tail.max(other.tail),
        reorder: one.reorder || other.reorder,
        clogged_until: one.clogged_until.max(other.clogged_until),
    }
}

/// Nothing passes.
pub(super) const CUT: Link = Link {
    cut: true,
    loss_percent: 0,
    damage_percent: 0,
    duplicate_percent: 0,
    delay: Duration::ZERO,
    tail: Duration::ZERO,
    reorder: false,
    clogged_until: Time(0),
};

/// Who leads, by the highest term.
pub(crate) fn leader(world: &World) -> Option<NodeId> {
    let raft = |id: &NodeId| world.replica(*id).and_then(|replica| replica.raft());
    let leads = |id: &NodeId| {
        !world.is_paused(*id) && raft(id).is_some_and(|raft| raft.role() == RoleKind::Leader)
    };
    world.node_ids().into_iter().filter(leads).max_by_key(|id| raft(id).map(|raft| raft.term()))
}

/// Takes files away, behind the back of a node that may run. What is gone is durably gone.
fn take_away(disk: &mut MemDisk, part: Part) {
    // A disk that dies meanwhile would keep the half of what is taken away.
    disk.crash_after(None);
    let mut gone = Vec::new();
    let list = |disk: &mut MemDisk, folder: &str| disk.list(folder).unwrap_or_default();
    if part != Part::Identity {
        gone.extend(list(disk, "wal").into_iter().map(|name| format!("wal/{name}")));
    }
    if part == Part::Directory {
        gone.extend(list(disk, "lost").into_iter().map(|name| format!("lost/{name}")));
        gone.extend(list(disk, ""));
    } else if part == Part::Identity {
        gone.push("identity".to_owned());
    }
    for name in gone {
        // Its identity may not have been written yet.
        let _ = disk.remove(&name);
    }
    let synced = disk.sync_dir("");
    assert!(synced.is_ok(), "a disk that works does this");
}

impl Faults {
    pub(crate) fn new(options: &Options, begun: Time) -> Self {
        Self {
            begun,
            plan: options.plan.clone(),
            next: 0,
            episodes: Vec::new(),
            random: Random::new(options.seed ^ 0x6661_756c),
            usual_sync: options.world.sync,
            wipes: 0,
            forgetful: None,
            weather: options.weather,
        }
    }

    /// Messages fare from now on as they will without any fault.
    pub(crate) fn begin_weather(&self, world: &mut World) {
        if self.weather != Link::default() {
            self.apply(world);
        }
    }

    /// When something begins or ends next.
    pub(crate) fn next_at(&self) -> Option<Time> {
        let begins = self.plan.get(self.next).map(|planned| self.begun.after(planned.at));
        self.episodes.iter().map(|episode| episode.until).chain(begins).min()
    }

    /// Ends one episode that is over, or begins what is due: what nodes do of it can be looked at
    /// before more happens. What began is told.
    pub(crate) fn act(
        &mut self,
        world: &mut World,
        watch: &mut Watch,
        tell: &mut dyn FnMut(Time, String),
    ) {
        let now = world.now();
        if let Some(over) = self.episodes.iter().position(|episode| episode.until <= now) {
            let episode = self.episodes.remove(over);
            self.apply(world);
            self.end(episode.state, world, watch, tell);
            return;
        }
        while let Some(planned) = self.plan.get(self.next).copied() {
            if self.begun.after(planned.at) > now {
                break;
            }
            self.next += 1;
            self.begin(planned, world, watch, tell);
        }
    }

    /// A node stopped by itself: somebody starts it again.
    pub(crate) fn note_stopped(&mut self, world: &World, id: NodeId) {
        let later = Duration::from_millis(20) + up_to(&mut self.random, Duration::from_secs(3));
        self.stand(world.now(), later, State::Down(id));
    }

    /// All of it is over: everybody is up, connected, with a disk that works and a clock that is
    /// right.
    pub(crate) fn heal(&mut self, world: &mut World, watch: &mut Watch) {
        self.next = self.plan.len();
        self.weather = Link::default();
        let over = std::mem::take(&mut self.episodes);
        self.apply(world);
        for episode in over {
            if let State::Rollback(id, copy) = episode.state {
                self.roll_back(id, copy, world, watch);
            }
        }
        for id in world.node_ids() {
            let disk = world.disk(id);
            disk.crash_after(None);
            disk.fail_sync(u64::MAX);
            world.set_clock_rate(id, 1000);
            world.resume(id);
            if world.is_up(id) {
                watch.expect_no_stop(id);
            }
            self.start(id, world, watch);
        }
    }

    fn stand(&mut self, now: Time, lasts: Duration, state: State) {
        self.episodes.push(Episode { until: now.after(lasts), state });
    }

    /// Links, disks and clocks become what the standing episodes make of them.
    fn apply(&self, world: &mut World) {
        let ids = world.node_ids();
        let mut links: BTreeMap<(NodeId, NodeId), Link> = BTreeMap::new();
        for episode in &self.episodes {
            let State::Links(faulty) = &episode.state else { continue };
            for (from, to, link) in faulty {
                let known = links.entry((*from, *to)).or_default();
                *known = merged(*known, *link);
            }
        }
        for from in &ids {
            for to in ids.iter().filter(|to| *to != from) {
                let known = links.get(&(*from, *to));
                let link = known.map_or(self.weather, |link| merged(self.weather, *link));
                world.set_link(*from, *to, link);
                if link == Link::default() && world.is_clogged(*from, *to) {
                    // Whoever waited for so long connects anew.
                    world.reset_link(*from, *to, Duration::from_millis(5));
                }
            }
            let (mut sync, mut is_full) = (self.usual_sync, false);
            for episode in &self.episodes {
                if let State::SlowSync(id, slow) = &episode.state
                    && id == from
                {
                    sync = sync.max(*slow);
                }
                is_full |= matches!(&episode.state, State::Full(id) if id == from);
            }
            world.set_sync(*from, sync);
            world.disk(*from).set_free_bytes(if is_full { 0 } else { 1 << 40 });
        }
    }

    fn end(
        &mut self,
        state: State,
        world: &mut World,
        watch: &mut Watch,
        tell: &mut dyn FnMut(Time, String),
    ) {
        let now = world.now();
        match state {
            State::Links(_) | State::SlowSync(..) | State::Full(_) => {}
            State::Down(id) => {
                if !world.is_up(id) {
                    tell(now, format!("start {id}"));
                    self.start(id, world, watch);
                }
            }
            State::Storm(id, left) => {
                if world.is_up(id) && left > 0 {
                    let survive = survive(&mut self.random, watch);
                    self.crash(id, survive, world, watch);
                } else {
                    self.start(id, world, watch);
                }
                if left > 0 {
                    let later = up_to(&mut self.random, Duration::from_millis(400));
                    self.stand(now, later, State::Storm(id, left - 1));
                } else if !world.is_up(id) {
                    self.stand(now, Duration::from_millis(100), State::Down(id));
                }
            }
            State::Paused(id) => {
                let leads = |id| {
                    let raft = world.replica(id).and_then(|replica| replica.raft());
                    raft.is_some_and(|raft| raft.role() == RoleKind::Leader)
                };
                if world.is_paused(id) && leads(id) && leader(world).is_some() {
                    watch.count("a leader that stood still came back to find another");
                }
                world.resume(id);
            }
            State::DeadDisk(id) => world.disk(id).crash_after(None),
            State::ClockRate(id) => world.set_clock_rate(id, 1000),
            State::Rollback(id, copy) => {
                tell(now, format!("{id} loses power, and its disk is as it was"));
                self.roll_back(id, copy, world, watch);
                self.start(id, world, watch);
            }
        }
    }

    fn roll_back(&mut self, id: NodeId, copy: MemDisk, world: &mut World, watch: &mut Watch) {
        self.crash(id, Survive::None, world, watch);
        *world.disk(id) = copy;
        world.disk(id).set_free_bytes(1 << 40);
    }

    /// Starts a node; if its disk fails it meanwhile, somebody tries again later.
    fn start(&mut self, id: NodeId, world: &mut World, watch: &mut Watch) {
        if world.is_up(id) {
            return;
        }
        if world.start(id).is_ok() {
            watch.note_start(world, id);
            return;
        }
        watch.count("a start cut short");
        world.crash(id, Survive::Random(self.random.next()));
        watch.expect_no_stop(id);
        let later = Duration::from_millis(50) + up_to(&mut self.random, Duration::from_secs(2));
        self.stand(world.now(), later, State::Down(id));
    }

    fn crash(&mut self, id: NodeId, survive: Survive, world: &mut World, watch: &mut Watch) {
        if !world.is_up(id) {
            return;
        }
        watch.note_crash(id);
        let survive = watch.may_survive(world, id, survive);
        let raft = world.replica(id).and_then(|replica| replica.raft());
        if raft.is_some_and(|raft| raft.durable() < raft.last().index) {
            watch.count("a crash with an unsynced tail");
            if leader(world) == Some(id) {
                watch.count("a leader crashed with an unsynced tail");
            }
        }
        world.crash(id, survive);
        // What was to fail it is a thing of the past.
        watch.expect_no_stop(id);
    }

    fn begin(
        &mut self,
        planned: Planned,
        world: &mut World,
        watch: &mut Watch,
        tell: &mut dyn FnMut(Time, String),
    ) {
        let Planned { number, fault, lasts, seed, .. } = planned;
        let mut strike = Strike { faults: self, random: Random::new(seed), lasts, world, watch };
        let Some(what) = strike.strike(fault) else { return };
        watch.count(fault.name());
        tell(world.now(), format!("#{number} {}: {what}", fault.name()));
        self.apply(world);
    }

    /// More nodes lose their memory at once than a cluster can bear.
    pub(crate) fn wipe_many(&mut self, count: u8, world: &mut World, watch: &mut Watch) -> String {
        let mut ids = world.node_ids();
        let mut wiped = Vec::new();
        for _ in 0..count {
            let at = self.random.below(ids.len() as u64);
            let id = ids.remove(usize::try_from(at).expect("few nodes"));
            let part = any_part(&mut self.random);
            self.crash(id, Survive::None, world, watch);
            let had = identity(world, id);
            watch.mute(id, had.as_ref());
            take_away(world.disk(id), part);
            wiped.push(id);
        }
        for id in &wiped {
            self.start(*id, world, watch);
        }
        format!("{wiped:?} lose their memory at once")
    }
}

fn any_part(random: &mut Random) -> Part {
    match random.below(3) {
        0 => Part::Directory,
        1 => Part::Log,
        _ => Part::Identity,
    }
}

fn survive(random: &mut Random, watch: &mut Watch) -> Survive {
    match random.below(5) {
        0 => Survive::All,
        1 | 2 => Survive::None,
        _ => {
            watch.count("a crash with part of what was not synced kept");
            Survive::Random(random.next())
        }
    }
}

/// A fault as it begins.
struct Strike<'a> {
    faults: &'a mut Faults,
    random: Random,
    lasts: Duration,
    world: &'a mut World,
    watch: &'a mut Watch,
}

impl Strike<'_> {
    fn any(&mut self) -> NodeId {
        let nodes = self.world.node_ids();
        nodes[usize::try_from(self.random.below(nodes.len() as u64)).expect("few nodes")]
    }

    fn two(&mut self) -> (NodeId, NodeId) {
        let one = self.any();
        loop {
            let other = self.any();
            if other != one || self.world.config().nodes == 1 {
                return (one, other);
            }
        }
    }

    /// The leader, more often than not.
    fn any_or_leader(&mut self) -> NodeId {
        let is_leader = self.random.chance(60);
        leader(self.world).filter(|_| is_leader).unwrap_or_else(|| self.any())
    }

    fn stand(&mut self, state: State) {
        self.faults.stand(self.world.now(), self.lasts, state);
    }

    fn links(&mut self, links: Vec<(NodeId, NodeId, Link)>) {
        self.stand(State::Links(links));
    }

    /// One link, all from a node, all to it, or all there are.
    fn some_links(&mut self, link: Link) -> String {
        let (one, other) = self.two();
        let which = self.random.below(4);
        let nodes = self.world.node_ids();
        let pairs = nodes.iter().flat_map(|a| nodes.iter().map(move |b| (*a, *b)));
        let chosen = pairs.filter(|(a, b)| match which {
            0 => (*a, *b) == (one, other),
            1 => *a == one,
            2 => *b == one,
            _ => true,
        });
        let links = chosen.map(|(a, b)| (a, b, link)).collect();
        let which = match which {
            0 => format!("{one} to {other}"),
            1 => format!("from {one}"),
            2 => format!("to {one}"),
            _ => "everywhere".to_owned(),
        };
        self.links(links);
        which
    }

    /// Cuts every pair that does not hear each other, both ways.
    fn partition(&mut self, hears: impl Fn(usize, usize) -> bool) {
        let nodes = self.world.node_ids();
        let mut links = Vec::new();
        for (a, from) in nodes.iter().enumerate() {
            for (b, to) in nodes.iter().enumerate() {
                if a != b && !hears(a, b) {
                    links.push((*from, *to, CUT));
                }
            }
        }
        self.links(links);
    }

    /// A shuffled place for each node.
    fn places(&mut self) -> Vec<usize> {
        let count = usize::from(self.world.config().nodes);
        let mut places: Vec<usize> = (0..count).collect();
        for at in (1..count).rev() {
            let other = usize::try_from(self.random.below(at as u64 + 1)).expect("few nodes");
            places.swap(at, other);
        }
        places
    }

    fn crash(&mut self, id: NodeId) {
        let survive = survive(&mut self.random, self.watch);
        self.faults.crash(id, survive, self.world, self.watch);
        self.stand(State::Down(id));
    }

    /// What survives of a write that fails.
    fn survive_in_write(&mut self, id: NodeId) -> Survive {
        let survive = match self.random.below(3) {
            0 => Survive::All,
            1 => Survive::None,
            _ => Survive::Random(self.random.next()),
        };
        let survive = self.watch.may_survive(self.world, id, survive);
        self.watch.expect_stop(id);
        survive
    }

    /// Begins a fault; says what it hits, or nothing if it hits nothing now.
    fn strike(&mut self, fault: Fault) -> Option<String> {
        Some(match fault {
            Fault::Loss => {
                let loss_percent = 1 + self.random.below(30);
                let which = self.some_links(Link { loss_percent, ..Link::default() });
                format!("{loss_percent} % {which}")
            }
            Fault::Duplicate => {
                let duplicate_percent = 1 + self.random.below(50);
                let which = self.some_links(Link { duplicate_percent, ..Link::default() });
                format!("{duplicate_percent} % {which}")
            }
            Fault::Replay => {
                let times = 1 + self.random.below(20);
                let done = (0..times).filter(|_| self.world.replay()).count();
                if done == 0 {
                    return None;
                }
                format!("{done} messages")
            }
            Fault::Delay => {
                let delay = up_to(&mut self.random, Duration::from_millis(100));
                let tail = up_to(&mut self.random, Duration::from_secs(5));
                let which = self.some_links(Link { delay, tail, ..Link::default() });
                format!("{delay:?}, up to {tail:?}, {which}")
            }
            Fault::Reorder => {
                let delay = up_to(&mut self.random, Duration::from_millis(40));
                let which = self.some_links(Link { delay, reorder: true, ..Link::default() });
                format!("by up to {delay:?} {which}")
            }
            Fault::Clog => {
                let clogged_until = self.world.now().after(self.lasts);
                self.some_links(Link { clogged_until, ..Link::default() })
            }
            Fault::Cut => {
                let (one, other) = self.two();
                self.links(vec![(one, other, CUT), (other, one, CUT)]);
                format!("{one} and {other}")
            }
            Fault::OneWay => {
                let (one, other) = self.two();
                self.links(vec![(one, other, CUT)]);
                format!("{other} does not hear {one}")
            }
            Fault::Isolate => {
                let id = self.any_or_leader();
                let at = usize::from(id.slot()) - 1;
                self.partition(|a, b| a != at && b != at);
                format!("{id}")
            }
            Fault::Split => {
                let places = self.places();
                let most = places.len().checked_sub(1).filter(|most| *most > 0)?;
                let part = 1 + usize::try_from(self.random.below(most as u64)).expect("few");
                self.partition(|a, b| (places[a] < part) == (places[b] < part));
                format!("{part} of {}", places.len())
            }
            Fault::Ring => {
                let places = self.places();
                let count = places.len();
                // Three nodes in a ring all hear each other.
                (count > 3).then_some(())?;
                self.partition(|a, b| {
                    let apart = places[a].abs_diff(places[b]);
                    apart == 1 || apart == count - 1
                });
                format!("{places:?}")
            }
            Fault::Bridge => {
                let places = self.places();
                let middle = places.len() / 2;
                let hears = |a: usize, b: usize| {
                    let (a, b) = (places[a], places[b]);
                    a == middle || b == middle || (a < middle) == (b < middle)
                };
                self.partition(hears);
                format!("{places:?}")
            }
            Fault::SlowLink => {
                let (one, other) = self.two();
                let delay = up_to(&mut self.random, Duration::from_millis(300));
                let link = Link { delay, ..Link::default() };
                self.links(vec![(one, other, link), (other, one, link)]);
                format!("{one} and {other}, {delay:?}")
            }
            Fault::Reset => {
                let (one, other) = self.two();
                let later = up_to(&mut self.random, Duration::from_millis(300));
                self.world.reset_link(one, other, later);
                format!("{one} and {other}")
            }
            Fault::Damage => {
                let damage_percent = 1 + self.random.below(10);
                let which = self.some_links(Link { damage_percent, ..Link::default() });
                format!("{damage_percent} % {which}")
            }
            Fault::Crash => {
                let id = self.any();
                self.crash(id);
                format!("{id}")
            }
            Fault::CrashLeader => {
                let id = leader(self.world)?;
                self.crash(id);
                format!("{id}")
            }
            Fault::CrashInWrite => {
                let id = self.any();
                let (steps, survive) = (self.random.below(8), self.survive_in_write(id));
                self.world.crash_in_write(id, steps, survive);
                format!("{id}, after {steps} more steps")
            }
            Fault::CrashAll => {
                for id in self.world.node_ids() {
                    self.lasts = self.lasts.min(Duration::from_secs(3));
                    self.crash(id);
                }
                "all".to_owned()
            }
            Fault::Storm => {
                let id = self.any_or_leader();
                let times = 4 + self.random.below(16);
                self.faults.stand(self.world.now(), Duration::ZERO, State::Storm(id, times));
                format!("{id}, {times} times")
            }
            Fault::Pause => {
                let id = self.any_or_leader();
                self.world.is_up(id).then_some(())?;
                self.world.pause(id);
                self.stand(State::Paused(id));
                format!("{id} for {:?}", self.lasts)
            }
            Fault::Transfer => {
                let id = leader(self.world)?;
                let other = self.any();
                let to = (other != id).then_some(other);
                self.world.transfer(id, to);
                let target = self.world.status(id).and_then(|raft| raft.transferring_to);
                self.watch.note_transfer(id, target);
                if self.random.chance(30) {
                    let dies = if self.random.chance(50) { id } else { target.unwrap_or(other) };
                    self.crash(dies);
                }
                match target {
                    Some(target) => format!("{id} to {target}"),
                    None => format!("{id} to {other}, who cannot take it over"),
                }
            }
            Fault::Campaign => {
                let id = self.any();
                (self.world.is_up(id) && !self.world.is_paused(id)).then_some(())?;
                self.world.interfere(id, LabInput::Campaign);
                format!("{id}")
            }
            Fault::SyncError => {
                let id = self.any();
                let (n, survive) = (1 + self.random.below(4), self.survive_in_write(id));
                self.world.fail_sync(id, n, survive);
                format!("{id}, the {n}. from now")
            }
            Fault::Full => {
                let id = self.any_or_leader();
                self.stand(State::Full(id));
                format!("{id}")
            }
            Fault::ReadOnly => {
                let id = self.any();
                self.watch.expect_stop(id);
                self.world.crash_in_write(id, 0, Survive::None);
                self.stand(State::DeadDisk(id));
                format!("{id}")
            }
            Fault::Stall => {
                let id = self.any_or_leader();
                let long =
                    Duration::from_millis(300) + up_to(&mut self.random, Duration::from_secs(60));
                self.stand(State::SlowSync(id, long));
                format!("{id}, {long:?}")
            }
            Fault::SlowDisk => {
                let id = self.any_or_leader();
                let slow = up_to(&mut self.random, Duration::from_millis(200));
                self.stand(State::SlowSync(id, slow));
                format!("{id}, {slow:?}")
            }
            Fault::Wipe => self.wipe()?,
            Fault::Shorten
            | Fault::Lengthen
            | Fault::Unlink
            | Fault::Rename
            | Fault::BitFlip
            | Fault::Zeroed
            | Fault::ReadError => self.damage(fault)?,
            Fault::LostWrite | Fault::Misdirected => self.lose_write(fault)?,
            Fault::EditValues => self.edit_values()?,
            Fault::Jump => {
                let (id, hour) = (self.any(), 3_600_000);
                let by_ms = i64::try_from(self.random.below(2 * hour)).expect("an hour or two");
                let by_ms = by_ms - 3_600_000;
                self.world.jump_clock(id, by_ms);
                format!("{id}, {by_ms} ms")
            }
            Fault::Freeze => {
                let id = self.any_or_leader();
                self.world.set_clock_rate(id, 0);
                self.stand(State::ClockRate(id));
                format!("{id}")
            }
            Fault::Rate => {
                let id = self.any();
                let permille = 500 + self.random.below(1_500);
                self.world.set_clock_rate(id, permille);
                self.stand(State::ClockRate(id));
                format!("{id}, {permille} ‰")
            }
            Fault::LyingSync | Fault::OldCopy => {
                let id = self.any();
                let is_lie = fault == Fault::LyingSync;
                let kept = if is_lie { Survive::None } else { Survive::All };
                let copy = self.world.disk(id).after_crash(kept);
                self.stand(State::Rollback(id, copy));
                format!("{id}")
            }
        })
    }

    fn wipe(&mut self) -> Option<String> {
        let id = self.any();
        if self.world.config().rules.trust_wiped {
            return self.forget(id);
        }
        self.watch.may_lose(self.world, id).then_some(())?;
        let part = any_part(&mut self.random);
        // A node that runs reads its identity only when it starts.
        if part == Part::Identity || self.random.chance(50) {
            self.crash(id);
        }
        let had = identity(self.world, id);
        self.watch.mute(id, had.as_ref());
        take_away(self.world.disk(id), part);
        self.watch.count(match part {
            Part::Directory => "all of a directory wiped",
            Part::Log => "a log alone wiped",
            Part::Identity => "an identity alone wiped",
        });
        Some(format!("{part:?} of {id}"))
    }

    /// The same with the rule switched off that mutes a wiped node. One after the other: whoever was
    /// wiped before has all that is committed again.
    fn forget(&mut self, id: NodeId) -> Option<String> {
        let world = &mut *self.world;
        let commit = |id: NodeId| world.status(id).map_or(0, |raft| raft.commit.0);
        let highest = world.node_ids().into_iter().map(commit).max();
        let is_whole = |id: NodeId| Some(commit(id)) == highest && commit(id) > 0;
        if self.faults.forgetful.is_some_and(|before| !is_whole(before)) {
            return None;
        }
        self.faults.forgetful = Some(id);
        self.faults.wipes += 1;
        let incarnation = Incarnation(u128::from(self.faults.wipes) << 64 | u128::from(id.slot()));
        self.faults.crash(id, Survive::None, world, self.watch);
        let disk = world.disk(id);
        disk.crash_after(None);
        disk.fail_sync(u64::MAX);
        disk.set_free_bytes(1 << 40);
        let options = world.config().wal();
        let forgot = forget(world.disk(id), Forget::All, incarnation, options);
        assert!(forgot.is_ok(), "a disk that works forgets: {forgot:?}");
        self.faults.start(id, world, self.watch);
        Some(format!("{id}, and it is trusted"))
    }

    /// Something happens to a file of a node's log.
    fn damage(&mut self, fault: Fault) -> Option<String> {
        let id = self.any();
        let trusted = self.world.config().rules.trust_wiped;
        (!trusted && self.watch.may_lose(self.world, id)).then_some(())?;
        if self.random.chance(50) {
            self.crash(id);
        }
        let had = identity(self.world, id);
        let disk = self.world.disk(id);
        disk.crash_after(None);
        let names = disk.list("wal").unwrap_or_default();
        let at = usize::try_from(self.random.below(names.len() as u64)).expect("few files");
        let name = format!("wal/{}", names.get(at)?);
        let file = disk.open(&name).ok().flatten()?;
        let length = file.len().ok()?;
        if matches!(fault, Fault::Shorten | Fault::Lengthen) && self.watch.is_failing(id) {
            return None;
        }
        let done = if fault == Fault::Unlink {
            disk.remove(&name).and_then(|()| disk.sync_dir("wal"))
        } else if fault == Fault::Rename {
            disk.rename(&name, &format!("{name}.old")).and_then(|()| disk.sync_dir("wal"))
        } else if fault == Fault::Lengthen {
            file.set_len(length + 1 + self.random.below(8_192)).and_then(|()| file.sync())
        } else if fault == Fault::Shorten {
            file.set_len(self.random.below(length)).and_then(|()| file.sync())
        } else {
            self.spoil(fault, id, &name)?;
            Ok(())
        };
        assert!(done.is_ok(), "a disk that works does this: {done:?}");
        self.watch.suspect(id, had.as_ref());
        Some(format!("{name} of {id}"))
    }

    /// A disk is about to break its word for one page. That page has a second copy elsewhere
    /// ([`MemDisk::lose_write`]); until the node has looked at its log again nobody knows.
    fn lose_write(&mut self, fault: Fault) -> Option<String> {
        let id = self.any_or_leader();
        let trusted = self.world.config().rules.trust_wiped;
        (!trusted && self.world.is_up(id) && self.watch.may_lose(self.world, id)).then_some(())?;
        let had = identity(self.world, id);
        let seed = self.random.next();
        self.world.disk(id).lose_write("wal", seed, fault == Fault::Misdirected);
        self.watch.suspect(id, had.as_ref());
        Some(format!("{id}"))
    }

    /// Bytes of a file become others, or cannot be read: where there are some, more often than not.
    #[allow(clippy::wildcard_enum_match_arm, reason = "the caller has looked at the kind")]
    fn spoil(&mut self, fault: Fault, id: NodeId, name: &str) -> Option<()> {
        let disk = self.world.disk(id);
        let bytes = disk.contents(name)?;
        let random = &mut self.random;
        let mut any = || usize::try_from(random.below(bytes.len() as u64)).expect("it fits");
        let at = (0..30).map(|_| any()).find(|at| bytes[*at] != 0)?;
        match fault {
            Fault::BitFlip => disk.damage(name, at, &[1 << random.below(8)]),
            Fault::Zeroed => {
                let start = at - at % 512;
                let end = (start + 512).min(bytes.len());
                disk.damage(name, start, &bytes[start..end]);
            }
            _ => disk.fail_reads(name, at as u64..at as u64 + 1),
        }
        Some(())
    }

    fn edit_values(&mut self) -> Option<String> {
        let id = self.any();
        let disk = self.world.disk(id);
        let file = disk.open("values.log").ok().flatten()?;
        let length = file.len().unwrap_or(0);
        // A disk that is dead takes no edits, either.
        let _ = match self.random.below(3) {
            0 => disk.remove("values.log"),
            1 => file.set_len(length / 2),
            _ => file.write_at(b"write nobody\n", length),
        };
        Some(format!("{id}"))
    }
}
