//! What those who follow the log are sent: read once and encoded once for all of them.
//!
//! ```text
//!   progress ─► feed: reads what is new ─► pages ─► each follower takes the bytes from its place on
//!                 ▲                          │
//!                 └──── pause, by their number, while more comes
//! ```
//! The last pages are kept, within a budget. A follower that falls behind them reads by itself until
//! it is back, and holds up nobody. Where nobody follows nothing is read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tercet_client::v1;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::grpc::page_range;
use crate::node::{NodeHandle, Page, Record};

/// How many bytes of pages are kept for those who follow; one page at least.
const KEPT_BYTES: usize = 2 << 20;
/// So many new bytes are told of at the latest.
const ROUND_BYTES: usize = 1 << 20;
/// How long a round of followers is put off for each of them. To wake one and to write to its
/// socket takes a tenth of that: with more of them, each gets more at a time, and who submits is
/// served in between.
const PAUSE_EACH: Duration = Duration::from_micros(200);
/// The longest that a round is put off.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Up to where there is something for those who follow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Head {
    /// The sequence number after the last record that was told of.
    pub(super) next_seq: u64,
    /// Whether the node shuts down.
    pub(super) stopping: bool,
}

/// Consecutive records as the message in which they are sent.
#[derive(Debug)]
struct Encoded {
    from_seq: u64,
    /// Where each record begins.
    offsets: Vec<u32>,
    message: Bytes,
}

impl Encoded {
    /// Fields of a message may stand next to each other in any number of pieces: each record is
    /// one, and the page may begin with any of them.
    fn new(page: Page) -> Option<Self> {
        let Page { records, next_seq } = page;
        let from_seq = records.first()?.seq;
        let mut message = BytesMut::new();
        let mut offsets = Vec::with_capacity(records.len());
        for Record { seq, value } in records {
            offsets.push(u32::try_from(message.len()).expect("a page has few bytes"));
            let record = vec![v1::Record { seq, value }];
            v1::ReadResponse::new(record, 0).encode(&mut message).expect("the buffer grows");
        }
        let end = v1::ReadResponse::new(Vec::new(), next_seq);
        end.encode(&mut message).expect("the buffer grows");
        Some(Self { from_seq, offsets, message: message.freeze() })
    }

    fn next_seq(&self) -> u64 {
        self.from_seq + self.offsets.len() as u64
    }

    /// The message from this record on, if it is one of these.
    fn from(&self, seq: u64) -> Option<Bytes> {
        let at = usize::try_from(seq.checked_sub(self.from_seq)?).ok()?;
        let offset = usize::try_from(*self.offsets.get(at)?).ok()?;
        Some(self.message.slice(offset..))
    }
}

/// The last pages, without a gap between them.
#[derive(Debug, Default)]
struct Kept {
    pages: VecDeque<Encoded>,
    bytes: usize,
}

impl Kept {
    fn push(&mut self, page: Encoded) {
        self.bytes += page.message.len();
        self.pages.push_back(page);
        while self.bytes > KEPT_BYTES && self.pages.len() > 1 {
            let oldest = self.pages.pop_front().expect("there are two");
            self.bytes -= oldest.message.len();
        }
    }

    /// What there is from this record on: the message, and the record after it.
    fn from(&self, seq: u64) -> Option<(Bytes, u64)> {
        self.pages.iter().rev().find_map(|page| Some((page.from(seq)?, page.next_seq())))
    }
}

/// One for all who follow on this node.
#[derive(Debug)]
pub(super) struct Feed {
    kept: Mutex<Kept>,
    head: watch::Sender<Head>,
    joined: Notify,
}

impl Feed {
    /// Runs until the node stops.
    pub(super) fn start(node: NodeHandle, runtime: &Handle) -> Arc<Self> {
        let feed = Arc::new(Self {
            kept: Mutex::default(),
            head: watch::Sender::new(Head::default()),
            joined: Notify::new(),
        });
        runtime.spawn(Arc::clone(&feed).run(node));
        feed
    }

    /// Follows from now on: the receiver tells of what is new.
    pub(super) fn join(&self) -> watch::Receiver<Head> {
        let head = self.head.subscribe();
        self.joined.notify_one();
        head
    }

    /// What is kept from this record on: the message, and the record after it.
    pub(super) fn page(&self, seq: u64) -> Option<(Bytes, u64)> {
        self.kept().from(seq)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>, node: NodeHandle) {
        let mut progress = node.progress();
        let mut next_seq = 0;
        loop {
            if self.head.receiver_count() == 0 {
                *self.kept() = Kept::default();
                next_seq = 0;
                tokio::select! {
                    () = self.joined.notified() => {}
                    _ = progress.wait_for(|progress| progress.stopping) => {}
                }
            }
            let now = *progress.borrow_and_update();
            if now.stopping {
                self.head.send_replace(Head { next_seq, stopping: true });
                return;
            }
            if next_seq != 0 && next_seq < now.next_seq {
                next_seq = match self.read(&node, next_seq, now.next_seq).await {
                    Some(next_seq) => next_seq,
                    // Each finds out by itself, and is told.
                    None => now.next_seq,
                };
                self.tell(next_seq);
                self.pause().await;
            } else if next_seq == 0 {
                // Those who are here already have the rest to read by themselves.
                next_seq = now.next_seq;
                self.tell(next_seq);
            }
            if next_seq >= now.next_seq && progress.changed().await.is_err() {
                self.head.send_replace(Head { next_seq, stopping: true });
                return;
            }
        }
    }

    /// Reads what is new, some of it if that is much; says up to where. `None` if it cannot be read:
    /// then nothing is kept.
    async fn read(&self, node: &NodeHandle, mut from: u64, end: u64) -> Option<u64> {
        let mut bytes = 0;
        while from < end && bytes < ROUND_BYTES {
            let page = node.read_local(page_range(from, u64::MAX, 0)).await.ok();
            let Some(page) = page.and_then(Encoded::new) else {
                *self.kept() = Kept::default();
                return None;
            };
            bytes += page.message.len();
            from = page.next_seq();
            self.kept().push(page);
        }
        Some(from)
    }

    fn tell(&self, next_seq: u64) {
        self.head.send_replace(Head { next_seq, stopping: false });
    }

    /// While this round is served more comes for the next.
    async fn pause(&self) {
        let followers = u32::try_from(self.head.receiver_count()).unwrap_or(u32::MAX);
        let pause = PAUSE_EACH.saturating_mul(followers).min(PAUSE_MAX);
        // Timers know milliseconds: a few followers are not worth one.
        if pause >= Duration::from_millis(1) {
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use tercet_client::v1::log_server::Log as _;
    use tercet_client::{ApiError, Reason};
    use tokio::sync::mpsc;
    use tokio_stream::StreamExt as _;
    use tonic::{Request, Status};

    use super::*;
    use crate::api::{Context, grpc::LogService};
    use crate::config::Limits;
    use crate::node::{Command, Progress, Range};

    /// What each record has.
    const VALUE_BYTES: usize = 1000;

    /// A node whose log is as long as it is told.
    struct Log {
        service: LogService,
        progress: watch::Sender<Progress>,
        owner: Arc<Owner>,
    }

    /// The pretended owner of the node.
    #[derive(Default)]
    struct Owner {
        /// How many records it read from its log, for all who asked.
        read: AtomicU64,
        is_damaged: AtomicBool,
    }

    fn value(seq: u64) -> Vec<u8> {
        format!("{seq:0VALUE_BYTES$}").into_bytes()
    }

    impl Owner {
        fn read(&self, range: Range, next_seq: u64) -> Result<Page, ApiError> {
            if self.is_damaged.load(Ordering::Relaxed) {
                return Err(ApiError::new(Reason::Overloaded, "an entry is damaged"));
            }
            let count = (range.bytes_max.div_ceil(VALUE_BYTES as u64)).min(range.limit);
            let end = range.from_seq.saturating_add(count).min(next_seq);
            let record = |seq| Record { seq, value: value(seq).into() };
            let records: Vec<Record> = (range.from_seq..end).map(record).collect();
            self.read.fetch_add(records.len() as u64, Ordering::Relaxed);
            Ok(Page { records, next_seq })
        }
    }

    impl Log {
        /// With no record yet.
        fn new() -> Self {
            let (commands, mut inbox) = mpsc::unbounded_channel();
            let progress = watch::Sender::new(Progress { next_seq: 1, ..Progress::default() });
            let node = NodeHandle::of_stand_in(commands, progress.subscribe());
            let metrics = Arc::clone(&node.metrics);
            let (owner, seen) = (Arc::<Owner>::default(), progress.subscribe());
            let reads = Arc::clone(&owner);
            tokio::spawn(async move {
                while let Some(command) = inbox.recv().await {
                    let Command::Read { range, reply, .. } = command else {
                        panic!("{command:?} is no read");
                    };
                    let _ = reply.send(reads.read(range, seen.borrow().next_seq));
                }
            });
            let context = Context::new(node, Limits::default(), metrics, &Handle::current());
            Self { service: LogService::new(context), progress, owner }
        }

        fn append(&self, count: u64) {
            self.progress.send_modify(|progress| progress.next_seq += count);
        }

        async fn follow(&self, from_seq: u64, limit: u64) -> Follower {
            let request = v1::ReadRequest {
                from_seq,
                limit,
                follow: true,
                consistency: v1::Consistency::Local.into(),
                ..v1::ReadRequest::default()
            };
            let answers = self.service.read(Request::new(request)).await.expect("a stream");
            Follower { answers: answers.into_inner(), next_seq: from_seq }
        }
    }

    struct Follower {
        answers: <LogService as v1::log_server::Log>::ReadStream,
        next_seq: u64,
    }

    impl Follower {
        /// The next message as a client sees it: no record is left out or comes twice.
        async fn next(&mut self) -> Option<Result<(), Status>> {
            let message = match self.answers.next().await? {
                Ok(answer) => answer.encode_to_vec(),
                Err(status) => return Some(Err(status)),
            };
            let answer = v1::ReadResponse::decode(&message[..]).expect("it is one");
            assert!(!answer.records.is_empty(), "a follower is told nothing of none");
            for record in answer.records {
                assert_eq!((record.seq, record.value), (self.next_seq, value(record.seq).into()));
                self.next_seq += 1;
            }
            assert!(answer.next_seq >= self.next_seq);
            Some(Ok(()))
        }

        async fn until(&mut self, next_seq: u64) {
            while self.next_seq < next_seq {
                self.next().await.expect("more is to come").expect("no error");
            }
        }
    }

    #[tokio::test]
    async fn all_who_follow_are_served_by_one_read() {
        let log = Log::new();
        log.append(10);
        // Some begin where the log ends, some before, and one at a record that is yet to come.
        let mut followers = Vec::new();
        for from in [11, 11, 11, 11, 5, 5, 14] {
            followers.push(log.follow(from, 0).await);
        }
        for follower in &mut followers[4..6] {
            follower.until(11).await;
        }
        let before = log.owner.read.load(Ordering::Relaxed);
        log.append(6);
        for follower in &mut followers {
            follower.until(17).await;
        }
        log.append(1000);
        for follower in &mut followers {
            follower.until(1017).await;
        }
        assert_eq!(log.owner.read.load(Ordering::Relaxed) - before, 1006);
        // Who wants only some has them, and no more.
        let mut some = log.follow(1016, 3).await;
        log.append(5);
        while some.next().await.is_some() {}
        assert_eq!(some.next_seq, 1019);
    }

    #[tokio::test]
    async fn nothing_is_read_where_nobody_follows() {
        let log = Log::new();
        let mut follower = log.follow(1, 0).await;
        log.append(3);
        follower.until(4).await;
        drop(follower);
        // The feed may have been waiting for these; then it sees that nobody is there.
        log.append(3);
        for _ in 0..100 {
            log.append(1);
            tokio::task::yield_now().await;
        }
        assert!(log.owner.read.load(Ordering::Relaxed) <= 3);
        let mut another = log.follow(4, 0).await;
        another.until(107).await;
    }

    #[tokio::test]
    async fn who_does_not_read_holds_up_nobody_and_costs_nothing() {
        const COUNT: u64 = 20_000;
        let log = Log::new();
        let (mut quick, mut slow) = (log.follow(1, 0).await, log.follow(1, 0).await);
        log.append(1);
        quick.until(2).await;
        slow.until(2).await;
        for next_seq in (0..COUNT).step_by(100).skip(1) {
            log.append(100);
            quick.until(next_seq + 2).await;
        }
        let feed = &log.service.context().feed;
        let (bytes, pages) = {
            let kept = feed.kept();
            let sum = kept.pages.iter().map(|page| page.message.len()).sum::<usize>();
            assert_eq!(kept.bytes, sum);
            (kept.bytes, kept.pages.len())
        };
        assert!(bytes <= KEPT_BYTES && pages > 1, "{bytes} bytes in {pages} pages");
        assert!(feed.page(2).is_none(), "what the slow one needs is not kept");
        // It reads by itself, until it is back with the others.
        let end = quick.next_seq;
        slow.until(end).await;
        let before = log.owner.read.load(Ordering::Relaxed);
        log.append(10);
        quick.until(end + 10).await;
        slow.until(end + 10).await;
        assert_eq!(log.owner.read.load(Ordering::Relaxed) - before, 10);
    }

    #[tokio::test]
    async fn an_error_is_told_to_all() {
        let log = Log::new();
        let mut followers = [log.follow(1, 0).await, log.follow(1, 0).await];
        log.append(1);
        for follower in &mut followers {
            follower.until(2).await;
        }
        log.owner.is_damaged.store(true, Ordering::Relaxed);
        log.append(1);
        for follower in &mut followers {
            let error = follower.next().await.expect("an answer").expect_err("an error");
            assert!(error.message().contains("damaged"), "{error}");
            assert!(follower.next().await.is_none(), "the error is the last");
        }
        // It is repaired: who comes again goes on.
        log.owner.is_damaged.store(false, Ordering::Relaxed);
        let mut again = log.follow(2, 0).await;
        log.append(1);
        again.until(4).await;
    }

    #[tokio::test]
    async fn all_end_when_the_node_stops() {
        let log = Log::new();
        let mut followers = [log.follow(1, 0).await, log.follow(1, 0).await];
        log.append(1);
        for follower in &mut followers {
            follower.until(2).await;
        }
        log.progress.send_modify(|progress| progress.stopping = true);
        for follower in &mut followers {
            assert!(follower.next().await.is_none());
        }
        // And who comes later finds it so.
        assert!(log.follow(2, 0).await.next().await.is_none());
    }
}
