//! Many requests of one stream under way, their answers in the order of the requests.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::futures::OwnedNotified;
use tokio_stream::Stream;

use crate::coarse_clock::CoarseClock;

/// A request, and its answer once it is there.
enum UnderWay<F: Future> {
    Asked(Pin<Box<F>>),
    Answered(F::Output),
}

/// The answers to a stream of requests: each is begun as soon as it comes, at most so many are under
/// way. The first error is the last answer.
///
/// It runs where its answers are sent, in no task of its own: an answer passes from the request's
/// end to the connection without waking anybody.
pub(super) struct InOrder<S, B, F: Future> {
    requests: Option<S>,
    begin: B,
    under_way: VecDeque<UnderWay<F>>,
    window: usize,
    /// The requests look at the clock when they are polled: at each tick the first of them is.
    clock: Arc<CoarseClock>,
    tick: Pin<Box<OwnedNotified>>,
}

impl<S, B, F: Future> InOrder<S, B, F> {
    pub(super) fn new(requests: S, window: usize, clock: Arc<CoarseClock>, begin: B) -> Self {
        let tick = Box::pin(clock.next_tick());
        Self { requests: Some(requests), begin, under_way: VecDeque::new(), window, clock, tick }
    }
}

// Nothing in it is pinned but what is pinned in a box of its own.
impl<S, B, F: Future> Unpin for InOrder<S, B, F> {}

impl<S, B, F, T, E> Stream for InOrder<S, B, F>
where
    S: Stream + Unpin,
    B: FnMut(S::Item) -> F,
    F: Future<Output = Result<T, E>>,
{
    type Item = Result<T, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while this.under_way.len() < this.window
            && let Some(requests) = &mut this.requests
        {
            match Pin::new(requests).poll_next(context) {
                Poll::Ready(Some(request)) => {
                    let mut asked = Box::pin((this.begin)(request));
                    this.under_way.push_back(match asked.as_mut().poll(context) {
                        Poll::Ready(answer) => UnderWay::Answered(answer),
                        Poll::Pending => UnderWay::Asked(asked),
                    });
                }
                Poll::Ready(None) => this.requests = None,
                Poll::Pending => break,
            }
        }
        // The others wake this task, too; they are asked when their turn comes.
        if let Some(UnderWay::Asked(asked)) = this.under_way.front_mut() {
            let answer = loop {
                if let Poll::Ready(answer) = asked.as_mut().poll(context) {
                    break answer;
                }
                match this.tick.as_mut().poll(context) {
                    Poll::Ready(()) => this.tick.set(this.clock.next_tick()),
                    Poll::Pending => return Poll::Pending,
                }
            };
            this.under_way[0] = UnderWay::Answered(answer);
        }
        match this.under_way.pop_front() {
            Some(UnderWay::Answered(answer)) => {
                if answer.is_err() {
                    this.requests = None;
                    this.under_way.clear();
                }
                Poll::Ready(Some(answer))
            }
            Some(UnderWay::Asked(_)) => unreachable!("its answer was put in its place"),
            None if this.requests.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails out loud")]
mod tests {
    use std::time::{Duration, Instant};

    use futures_util::{FutureExt as _, StreamExt as _};
    use tokio::sync::{mpsc, oneshot};
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::coarse_clock::WokenBy;

    type Asked = (u32, oneshot::Sender<Result<u32, String>>);

    /// Requests, answers, and what of the requests was begun, with where to answer it.
    fn stream(
        window: usize,
    ) -> (
        mpsc::Sender<u32>,
        impl Stream<Item = Result<u32, String>> + Unpin,
        mpsc::UnboundedReceiver<Asked>,
    ) {
        let (requests, incoming) = mpsc::channel(16);
        let (begun, asked) = mpsc::unbounded_channel();
        let clock = Arc::new(CoarseClock::default());
        let answers = InOrder::new(ReceiverStream::new(incoming), window, clock, move |request| {
            let (reply, answer) = oneshot::channel();
            begun.send((request, reply)).unwrap();
            async move { answer.await.unwrap() }
        });
        (requests, answers, asked)
    }

    #[tokio::test]
    async fn answers_come_in_order_whichever_is_ready_first() {
        let (requests, mut answers, mut asked) = stream(8);
        for request in 1..=3 {
            requests.send(request).await.unwrap();
        }
        drop(requests);
        assert!(answers.next().now_or_never().is_none());
        let replies: Vec<Asked> =
            [asked.recv().await, asked.recv().await, asked.recv().await].map(Option::unwrap).into();
        for (request, reply) in replies.into_iter().rev() {
            assert!(answers.next().now_or_never().is_none(), "{request} is not the first");
            reply.send(Ok(request * 10)).unwrap();
        }
        let all: Vec<_> = answers.collect().await;
        assert_eq!(all, [Ok(10), Ok(20), Ok(30)]);
    }

    #[tokio::test]
    async fn no_more_are_under_way_than_the_window_allows() {
        let (requests, mut answers, mut asked) = stream(2);
        for request in 1..=3 {
            requests.send(request).await.unwrap();
        }
        assert!(answers.next().now_or_never().is_none());
        let (first, second) = (asked.try_recv().unwrap(), asked.try_recv().unwrap());
        assert_eq!((first.0, second.0, asked.try_recv().is_err()), (1, 2, true));
        first.1.send(Ok(1)).unwrap();
        assert_eq!(answers.next().await, Some(Ok(1)));
        let _ = answers.next().now_or_never();
        assert_eq!(asked.try_recv().unwrap().0, 3, "there is a place again");
    }

    /// Nobody wakes a request that waits for nothing but its deadline: the stream does, at a tick.
    #[tokio::test]
    async fn a_deadline_ends_a_request_that_nobody_answers() {
        let clock = Arc::new(CoarseClock::default());
        tokio::spawn(Arc::clone(&clock).run());
        let deadline = Instant::now() + Duration::from_millis(1200);
        let begin = |request: u32| {
            let clock = Arc::clone(&clock);
            async move {
                let never = std::future::pending::<()>();
                let answer = clock.timeout_at(deadline, WokenBy::Caller, never).await;
                answer.ok_or(request)
            }
        };
        let requests = tokio_stream::iter([1, 2]).chain(tokio_stream::pending());
        let mut answers = InOrder::new(requests, 8, Arc::clone(&clock), begin);
        let patience = Duration::from_secs(30);
        let answer = tokio::time::timeout(patience, answers.next()).await;
        assert_eq!(answer.ok(), Some(Some(Err(1))));
        let late = Instant::now().checked_duration_since(deadline).expect("not before");
        assert!(late < patience / 2, "the end of patience woke it, after {late:?}");
    }

    #[tokio::test]
    async fn the_first_error_is_the_last_answer() {
        let (requests, mut answers, mut asked) = stream(8);
        for request in 1..=3 {
            requests.send(request).await.unwrap();
        }
        assert!(answers.next().now_or_never().is_none());
        for result in [Ok(1), Err("no".to_owned()), Ok(3)] {
            asked.recv().await.unwrap().1.send(result).unwrap();
        }
        assert_eq!(answers.next().await, Some(Ok(1)));
        assert_eq!(answers.next().await, Some(Err("no".to_owned())));
        assert_eq!(answers.next().await, None);
    }
}
