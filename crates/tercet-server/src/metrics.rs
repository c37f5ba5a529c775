//! The node's metrics, in a registry of its own: several nodes in one process do not mix.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tercet_client::ApiError;
use tercet_raft::Event;
use tercet_replica::{Alarms, MemoryUse};

use crate::node::Submitted;

/// How many of the latest syncs the 99th percentile is taken of.
const SYNCS_KEPT: usize = 1024;

/// Where the time of a submit goes, in this order. The leader's own disk writes while it waits for
/// the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// From its arrival until the owner takes it.
    Queue,
    /// Into the log's memory and out to the followers.
    Append,
    /// From there until the owner hears that a majority has it on disk.
    Quorum,
    /// From there until it is visible and answered.
    Apply,
    /// From there until the client's connection has the answer.
    Answer,
}

impl Stage {
    /// By their numbers.
    const NAMES: [&'static str; 5] = ["queue", "append", "quorum", "apply", "answer"];
}

/// The label of the stages.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

/// The label of the counter of submits.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct ResultLabel {
    /// `ok`, or the reason of the error.
    result: String,
}

impl ResultLabel {
    fn of(result: &str) -> Self {
        Self { result: result.to_owned() }
    }
}

/// All metrics of one node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    submits: Family<ResultLabel, Counter>,
    /// The one of `submits` that counts nearly all: found once.
    submits_ok: Counter,
    records: Counter,
    /// Seconds from a write's begin to its sync's end.
    sync: Histogram,
    /// Seconds from a submit's arrival at this node to its answer.
    submit_seconds: Histogram,
    /// Of one submit in each batch, by [`Stage`].
    stage_seconds: [Histogram; Stage::NAMES.len()],
    term: Gauge<i64, AtomicI64>,
    is_leader: Gauge<i64, AtomicI64>,
    role_changes: Counter,
    last_index: Gauge<u64, AtomicU64>,
    durable_index: Gauge<u64, AtomicU64>,
    commit_index: Gauge<u64, AtomicU64>,
    next_seq: Gauge<u64, AtomicU64>,
    connections: Gauge<i64, AtomicI64>,
    inflight_bytes: Gauge<u64, AtomicU64>,
    slow_disk: Gauge<i64, AtomicI64>,
    full_disk: Gauge<i64, AtomicI64>,
    disk_stalls: Counter,
    /// Seconds since the write began that is under way; set when somebody looks.
    sync_running: Gauge<f64, AtomicU64>,
    damaged_entries: Gauge<u64, AtomicU64>,
    repaired_entries: Counter,
    quarantined: Gauge<i64, AtomicI64>,
    memory: Memory,
    latest_syncs: Mutex<Ring>,
    /// When the write began that is under way. The owner stands still while its disk does, so that
    /// whoever looks has to count.
    flush_began: Mutex<Option<Instant>>,
}

/// The latest syncs, in microseconds.
#[derive(Debug, Default)]
struct Ring {
    values: Vec<u32>,
    next: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tercet");
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_005, 2.0, 20));
        let submits = Family::<ResultLabel, Counter>::default();
        let stages = Family::new_with_constructor(seconds);
        let metrics = Self {
            submits_ok: submits.get_or_create_owned(&ResultLabel::of("ok")),
            submits,
            records: Counter::default(),
            sync: seconds(),
            submit_seconds: seconds(),
            stage_seconds: Stage::NAMES
                .map(|stage| stages.get_or_create_owned(&StageLabel { stage })),
            term: Gauge::default(),
            is_leader: Gauge::default(),
            role_changes: Counter::default(),
            last_index: Gauge::default(),
            durable_index: Gauge::default(),
            commit_index: Gauge::default(),
            next_seq: Gauge::default(),
            connections: Gauge::default(),
            inflight_bytes: Gauge::default(),
            slow_disk: Gauge::default(),
            full_disk: Gauge::default(),
            disk_stalls: Counter::default(),
            sync_running: Gauge::default(),
            damaged_entries: Gauge::default(),
            repaired_entries: Counter::default(),
            quarantined: Gauge::default(),
            memory: Memory::default(),
            latest_syncs: Mutex::new(Ring::default()),
            flush_began: Mutex::new(None),
            registry: Registry::default(),
        };
        registry.register(
            "submits",
            "Submits that this node answered as leader, by result",
            metrics.submits.clone(),
        );
        registry.register(
            "records",
            "Records that this node committed as leader",
            metrics.records.clone(),
        );
        registry.register_with_unit(
            "sync",
            "One write to the log with its sync",
            Unit::Seconds,
            metrics.sync.clone(),
        );
        registry.register_with_unit(
            "submit",
            "A submit from its arrival at this node to its answer",
            Unit::Seconds,
            metrics.submit_seconds.clone(),
        );
        registry.register_with_unit(
            "submit_stage",
            "Where the time of a submit goes, of one in each batch",
            Unit::Seconds,
            stages,
        );
        registry.register("term", "The current term", metrics.term.clone());
        registry.register("leader", "1 while this node leads", metrics.is_leader.clone());
        registry.register(
            "role_changes",
            "How often the role changed",
            metrics.role_changes.clone(),
        );
        registry.register("last_index", "The last index of the log", metrics.last_index.clone());
        registry.register(
            "durable_index",
            "Synced here up to this index",
            metrics.durable_index.clone(),
        );
        registry.register(
            "commit_index",
            "Committed up to this index",
            metrics.commit_index.clone(),
        );
        registry.register(
            "next_seq",
            "The sequence number of the next record",
            metrics.next_seq.clone(),
        );
        registry.register(
            "client_connections",
            "Client connections that are open",
            metrics.connections.clone(),
        );
        registry.register_with_unit(
            "inflight",
            "Bytes of submits under way",
            Unit::Bytes,
            metrics.inflight_bytes.clone(),
        );
        metrics.register_alarms(&mut registry);
        metrics.memory.register(&mut registry);
        Self { registry, ..metrics }
    }
}

/// The memory that grows with the work, and its budgets.
#[derive(Debug, Default)]
struct Memory {
    tail: Gauge<u64, AtomicU64>,
    tail_max: Gauge<u64, AtomicU64>,
    inflight: Gauge<u64, AtomicU64>,
    inflight_max: Gauge<u64, AtomicU64>,
    links: Gauge<u64, AtomicU64>,
    requests: Gauge<u64, AtomicU64>,
    requests_max: Gauge<u64, AtomicU64>,
}

impl Memory {
    fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            ("tail", "Latest entries kept in memory", &self.tail),
            (
                "tail_max",
                "The budget of the tail, besides what is on its way to disk",
                &self.tail_max,
            ),
            ("peers_inflight", "Entries on their way to peers", &self.inflight),
            ("peers_inflight_max", "The budget of what is on its way to peers", &self.inflight_max),
            ("links_queued", "What waits for the sockets of the links", &self.links),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
        registry.register("requests_known", "Request ids kept for retries", self.requests.clone());
        registry.register(
            "requests_known_max",
            "How many request ids are kept, besides those of entries that are not committed",
            self.requests_max.clone(),
        );
    }
}

/// A flag as a metric.
fn flag(is_set: bool) -> i64 {
    i64::from(is_set)
}

impl Metrics {
    fn register_alarms(&self, registry: &mut Registry) {
        registry.register(
            "disk_slow",
            "1 while a sync takes ten times what is usual",
            self.slow_disk.clone(),
        );
        registry.register(
            "disk_full",
            "1 while new records are refused because the disk is full",
            self.full_disk.clone(),
        );
        registry.register(
            "disk_stalls",
            "How often this node gave leadership up because its disk stood still",
            self.disk_stalls.clone(),
        );
        registry.register_with_unit(
            "sync_running",
            "How long the write to the log takes already that is under way; 0 if none is",
            Unit::Seconds,
            self.sync_running.clone(),
        );
        registry.register(
            "damaged_entries",
            "Entries that are damaged on this disk and not repaired yet",
            self.damaged_entries.clone(),
        );
        registry.register(
            "repaired_entries",
            "Entries that were damaged and are whole again",
            self.repaired_entries.clone(),
        );
        registry.register(
            "quarantined",
            "1 while this node has lost its memory and is not readmitted",
            self.quarantined.clone(),
        );
    }

    /// The metrics in Prometheus' text format.
    pub fn encode(&self) -> String {
        let began = *self.flush_began.lock().expect("nobody panics while holding it");
        self.sync_running.set(began.map_or(0.0, |began| began.elapsed().as_secs_f64()));
        let mut out = String::new();
        prometheus_client::encoding::text::encode(&mut out, &self.registry)
            .expect("a string takes everything");
        out
    }

    pub(crate) fn begin_flush(&self, began: Instant) {
        *self.flush_began.lock().expect("nobody panics while holding it") = Some(began);
    }

    pub(crate) fn observe_flush(&self, took: Duration) {
        *self.flush_began.lock().expect("nobody panics while holding it") = None;
        self.sync.observe(took.as_secs_f64());
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let mut ring = self.latest_syncs.lock().expect("nobody panics while holding it");
        if ring.values.len() < SYNCS_KEPT {
            ring.values.push(micros);
        } else {
            let at = ring.next;
            ring.values[at] = micros;
            ring.next = (at + 1) % SYNCS_KEPT;
        }
    }

    /// The 99th percentile of the latest syncs, in microseconds; 0 if there was none.
    pub fn sync_p99_us(&self) -> u64 {
        let mut values =
            self.latest_syncs.lock().expect("nobody panics while holding it").values.clone();
        if values.is_empty() {
            return 0;
        }
        let at = (values.len() - 1) * 99 / 100;
        u64::from(*values.select_nth_unstable(at).1)
    }

    pub(crate) fn count_submit(&self, result: &Result<Submitted, ApiError>) {
        match result {
            Ok(done) => {
                if !done.duplicate {
                    self.records.inc_by(done.last_seq + 1 - done.first_seq);
                }
                self.submits_ok.inc();
            }
            Err(error) => {
                self.submits.get_or_create(&ResultLabel::of(error.reason.as_str())).inc();
            }
        }
    }

    pub(crate) fn observe_submit(&self, took: Duration) {
        self.submit_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn observe_stage(&self, stage: Stage, took: Duration) {
        self.stage_seconds[stage as usize].observe(took.as_secs_f64());
    }

    pub(crate) fn note_role(&self, role: &str, term: u64) {
        self.role_changes.inc();
        self.is_leader.set(i64::from(role == "leader"));
        self.term.set(i64::try_from(term).unwrap_or(i64::MAX));
    }

    pub(crate) fn note_log(&self, term: u64, last: u64, durable: u64, commit: u64, next_seq: u64) {
        self.term.set(i64::try_from(term).unwrap_or(i64::MAX));
        self.last_index.set(last);
        self.durable_index.set(durable);
        self.commit_index.set(commit);
        self.next_seq.set(next_seq);
    }

    pub(crate) fn note_alarms(&self, alarms: Alarms) {
        let Alarms { slow_disk, disk_full, damaged_entries, quarantined } = alarms;
        self.slow_disk.set(flag(slow_disk));
        self.full_disk.set(flag(disk_full));
        self.damaged_entries.set(damaged_entries as u64);
        self.quarantined.set(flag(quarantined));
    }

    pub(crate) fn note_memory(&self, used: MemoryUse, links: usize) {
        self.memory.tail.set(used.tail_bytes as u64);
        self.memory.tail_max.set(used.tail_bytes_max as u64);
        self.memory.inflight.set(used.inflight_bytes);
        self.memory.inflight_max.set(used.inflight_bytes_max);
        self.memory.links.set(links as u64);
        self.memory.requests.set(used.requests as u64);
        self.memory.requests_max.set(used.requests_max as u64);
    }

    /// Counts what only an event tells.
    pub(crate) fn note_event(&self, event: &Event) {
        if matches!(event, Event::DiskStalled { .. }) {
            self.disk_stalls.inc();
        } else if matches!(event, Event::EntryRepaired { .. }) {
            self.repaired_entries.inc();
        }
    }

    pub(crate) fn note_connections(&self, change: i64) {
        self.connections.inc_by(change);
    }

    pub(crate) fn note_inflight(&self, bytes: u64) {
        self.inflight_bytes.set(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_hundredth_shows() {
        let metrics = Metrics::default();
        assert_eq!(metrics.sync_p99_us(), 0);
        for micros in 1..=2000 {
            metrics.observe_flush(Duration::from_micros(micros));
        }
        let p99 = metrics.sync_p99_us();
        assert!((1985..=1995).contains(&p99), "of 977 to 2000: {p99}");
        let text = metrics.encode();
        assert!(text.contains("tercet_sync_seconds_count 2000"), "{text}");
    }
    #[test]
    fn alarms_show_and_go_away() {
        use tercet_raft::{Index, LogPos, Term};
        let metrics = Metrics::default();
        let shows = |line: &str| metrics.encode().lines().any(|found| found == line);
        let quiet = [
            "tercet_disk_slow 0",
            "tercet_disk_full 0",
            "tercet_disk_stalls_total 0",
            "tercet_sync_running_seconds 0.0",
            "tercet_damaged_entries 0",
            "tercet_repaired_entries_total 0",
            "tercet_quarantined 0",
        ];
        assert!(quiet.into_iter().all(shows), "{}", metrics.encode());
        metrics.note_alarms(Alarms {
            slow_disk: true,
            disk_full: true,
            damaged_entries: 3,
            quarantined: true,
        });
        metrics.note_event(&Event::DiskStalled { term: Term(1) });
        let pos = LogPos { term: Term(1), index: Index(1) };
        metrics.note_event(&Event::EntryRepaired { pos });
        for line in [
            "tercet_disk_slow 1",
            "tercet_disk_full 1",
            "tercet_disk_stalls_total 1",
            "tercet_damaged_entries 3",
            "tercet_repaired_entries_total 1",
            "tercet_quarantined 1",
        ] {
            assert!(shows(line), "{line}: {}", metrics.encode());
        }
        metrics.begin_flush(Instant::now());
        assert!(!shows("tercet_sync_running_seconds 0.0"), "a write is under way");
        metrics.observe_flush(Duration::from_millis(1));
        metrics.note_alarms(Alarms::default());
        assert!(shows("tercet_sync_running_seconds 0.0") && shows("tercet_quarantined 0"));
    }
}
