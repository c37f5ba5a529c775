//! Deadlines of many requests that nearly all are answered long before: to set a timer for each, and
//! to take it away again, would cost more than to look at the clock now and then.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How often the clock ticks: a deadline may be noticed so much too late.
const TICK: Duration = Duration::from_millis(50);
/// What is nearer than this has a timer of its own.
const NEAR: Duration = Duration::from_secs(1);

/// A clock that wakes all who wait for it, now and then.
#[derive(Debug, Default)]
pub(crate) struct CoarseClock {
    tick: Notify,
}

impl CoarseClock {
    /// Ticks as long as somebody else has the clock.
    pub(crate) async fn run(self: Arc<Self>) {
        while Arc::strong_count(&self) > 1 {
            tokio::time::sleep(TICK).await;
            self.tick.notify_waiters();
        }
    }

    /// What the future gives; `None` if it does not until the deadline.
    pub(crate) async fn timeout_at<F: Future>(
        &self,
        deadline: Instant,
        future: F,
    ) -> Option<F::Output> {
        let mut future = pin!(future);
        while deadline.saturating_duration_since(Instant::now()) > NEAR {
            tokio::select! {
                biased;
                output = &mut future => return Some(output),
                () = self.tick.notified() => {}
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
        for far in [Duration::ZERO, Duration::from_millis(10), NEAR + Duration::from_millis(20)] {
            let deadline = Instant::now() + far;
            let never = std::future::pending::<()>();
            assert_eq!(clock.timeout_at(deadline, never).await, None);
            assert!(Instant::now() >= deadline, "not before {far:?}");
        }
    }

    #[tokio::test]
    async fn what_comes_in_time_is_given() {
        let clock = CoarseClock::default();
        let soon = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            5
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        assert_eq!(clock.timeout_at(deadline, soon).await, Some(5));
        let there = std::future::ready(6);
        assert_eq!(clock.timeout_at(Instant::now(), there).await, Some(6));
    }
}
