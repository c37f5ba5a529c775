//! Deadlines of many requests that nearly all are answered long before: to set a timer for each, and
//! to take it away again, would cost more than to look at the clock now and then.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// How often the clock ticks: a deadline may be noticed so much too late.
const TICK: Duration = Duration::from_millis(50);
/// What is nearer than this has a timer of its own.
const NEAR: Duration = Duration::from_secs(1);

/// A clock that wakes all who wait for it, now and then.
#[derive(Debug)]
pub(crate) struct CoarseClock {
    tick: Arc<Notify>,
    started: Instant,
    /// When it ticked last, in microseconds since it started.
    ticked: AtomicU64,
}

/// Who wakes a request for a look at the clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WokenBy {
    /// The clock, each request.
    Clock,
    /// Whoever polls it: it waits for [`CoarseClock::next_tick`] once for many.
    Caller,
}

impl Default for CoarseClock {
    fn default() -> Self {
        Self { tick: Arc::default(), started: Instant::now(), ticked: AtomicU64::new(0) }
    }
}

impl CoarseClock {
    /// Ends when the clock ticks next.
    pub(crate) fn next_tick(&self) -> OwnedNotified {
        Arc::clone(&self.tick).notified_owned()
    }

    /// Whether a deadline needs no timer of its own yet.
    fn is_far(&self, deadline: Instant) -> bool {
        let ticked = self.started + Duration::from_micros(self.ticked.load(Ordering::Relaxed));
        deadline.saturating_duration_since(ticked) > NEAR
    }

    /// Ticks as long as somebody else has the clock.
    pub(crate) async fn run(self: Arc<Self>) {
        while Arc::strong_count(&self) > 1 {
            tokio::time::sleep(TICK).await;
            let now = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.ticked.store(now, Ordering::Relaxed);
            self.tick.notify_waiters();
        }
    }

    /// What the future gives; `None` if it does not until the deadline.
    pub(crate) async fn timeout_at<F: Future>(
        &self,
        deadline: Instant,
        woken_by: WokenBy,
        future: F,
    ) -> Option<F::Output> {
        let mut future = pin!(future);
        while self.is_far(deadline) {
            match woken_by {
                WokenBy::Clock => tokio::select! {
                    biased;
                    output = &mut future => return Some(output),
                    () = self.tick.notified() => {}
                },
                WokenBy::Caller => {
                    let output = poll_fn(|context| match future.as_mut().poll(context) {
                        Poll::Ready(output) => Poll::Ready(Some(output)),
                        Poll::Pending if self.is_far(deadline) => Poll::Pending,
                        Poll::Pending => Poll::Ready(None),
                    });
                    if let Some(output) = output.await {
                        return Some(output);
                    }
                }
            }
        }
        tokio::time::timeout_at(deadline.into(), future).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_is_kept_near_and_far() {
        let clock = Arc::new(CoarseClock::default());
        tokio::spawn(Arc::clone(&clock).run());
        for far in [Duration::ZERO, Duration::from_millis(10), NEAR + Duration::from_millis(200)] {
            let deadline = Instant::now() + far;
            let never = std::future::pending::<()>();
            assert_eq!(clock.timeout_at(deadline, WokenBy::Clock, never).await, None);
            assert!(Instant::now() >= deadline, "not before {far:?}");
        }
    }

    #[tokio::test]
    async fn one_tick_is_enough_for_many() {
        let clock = Arc::new(CoarseClock::default());
        tokio::spawn(Arc::clone(&clock).run());
        let deadline = Instant::now() + NEAR + Duration::from_millis(200);
        let never = || Box::pin(std::future::pending::<()>());
        let mut all: Vec<_> = (0..3)
            .map(|_| Box::pin(clock.timeout_at(deadline, WokenBy::Caller, never())))
            .collect();
        let mut ended = 0;
        let mut tick = Box::pin(clock.next_tick());
        poll_fn(|context| {
            loop {
                all.retain_mut(|one| match one.as_mut().poll(context) {
                    Poll::Ready(output) => {
                        assert_eq!((output, Instant::now() >= deadline), (None, true));
                        ended += 1;
                        false
                    }
                    Poll::Pending => true,
                });
                if all.is_empty() {
                    return Poll::Ready(());
                }
                match tick.as_mut().poll(context) {
                    Poll::Ready(()) => tick.set(clock.next_tick()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        assert_eq!(ended, 3);
    }

    #[tokio::test]
    async fn what_comes_in_time_is_given() {
        let clock = CoarseClock::default();
        let soon = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            5
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        assert_eq!(clock.timeout_at(deadline, WokenBy::Clock, soon).await, Some(5));
        let there = std::future::ready(6);
        assert_eq!(clock.timeout_at(Instant::now(), WokenBy::Caller, there).await, Some(6));
    }
}
