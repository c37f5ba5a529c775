//! A connection that writes once for all who speak at the same time.
//!
//! HTTP/2 flushes after each message, and the task that owns a connection is often run as soon as
//! the first of many others has given it something: then each small message takes a system call, a
//! packet, and a wake-up at the other end. Here a flush first lets those others run, if that was
//! worth it lately.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::{Channel, Endpoint};
use tower::{Service, service_fn};

/// How much of one answer may be on its way before it is read.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same of all answers of a connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// How long a piece of a message may be: each takes a system call, a packet and often a wake-up at
/// the other end, and long messages are cut into pieces of 16 KiB for those who ask for no others.
pub const FRAME_BYTES: u32 = 256 << 10;

/// How much is held until it is flushed.
const HELD_MAX: usize = 16 << 10;
/// What is at least as long is not copied.
const LONG: usize = 4 << 10;
/// So many flushes after the last one that was worth waiting for wait as well.
const CREDIT: u8 = 8;
/// Without credit one of so many flushes waits, to see whether it is worth it now.
const TRY_EACH: u8 = 32;

/// A channel to a node, connected when it is first used, whose requests go out together where many
/// tasks make them at the same time, and to which long answers come in long pieces.
///
/// # Panics
/// Outside of a Tokio runtime.
pub fn connect_lazy(endpoint: &Endpoint) -> Channel {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let endpoint = endpoint
        .clone()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES);
    endpoint.connect_with_connector_lazy(service_fn(move |address| {
        let connecting = tcp.call(address);
        async move { connecting.await.map(|stream| TokioIo::new(Gather::new(stream.into_inner()))) }
    }))
}

/// A stream of bytes whose short writes are held until it is flushed.
#[derive(Debug)]
pub struct Gather<S> {
    stream: S,
    held: Vec<u8>,
    /// How much of `held` is written.
    written: usize,
    /// How much was held when the flush under way began to wait.
    waiting_with: Option<usize>,
    credit: u8,
    since_try: u8,
}

impl<S> Gather<S> {
    /// Of a stream that sends at once what it is given.
    pub const fn new(stream: S) -> Self {
        Self { stream, held: Vec::new(), written: 0, waiting_with: None, credit: 0, since_try: 0 }
    }

    /// Whether a flush is to wait until the other tasks that are ready have run.
    const fn waits(&mut self) -> bool {
        if let Some(before) = self.waiting_with.take() {
            let is_worth_it = self.held.len() > before;
            self.credit = if is_worth_it { CREDIT } else { self.credit.saturating_sub(1) };
            return false;
        }
        if self.credit == 0 {
            self.since_try = (self.since_try + 1) % TRY_EACH;
            if self.since_try != 0 {
                return false;
            }
        }
        self.waiting_with = Some(self.held.len());
        true
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    fn poll_write_held(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.held.len() {
            let rest = &self.held[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(task, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
        }
        self.held.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.len() < LONG && self.held.len() + bytes.len() <= HELD_MAX {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let Self { stream, held, written, .. } = &mut *self;
        if held.is_empty() {
            return Pin::new(stream).poll_write(task, bytes);
        }
        // What is held and what is new, with one call where the stream takes both.
        let parts = [IoSlice::new(&held[*written..]), IoSlice::new(bytes)];
        let n = ready!(Pin::new(stream).poll_write_vectored(task, &parts))?;
        let of_held = n.min(held.len() - *written);
        *written += of_held;
        if n > of_held {
            held.clear();
            *written = 0;
            return Poll::Ready(Ok(n - of_held));
        }
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        ready!(self.poll_write_held(task))?;
        Pin::new(&mut self.stream).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            if self.written == 0 && self.waits() {
                // A task that wakes itself runs behind all that are ready.
                task.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(self.poll_write_held(task))?;
        }
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_held(task))?;
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(task, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A stream that takes what it is told to, and keeps it by the call.
    #[derive(Default)]
    struct Peer {
        calls: Vec<Vec<u8>>,
        /// How much each of the next calls takes, the last one first; `None`: not now. When there
        /// are no more, all.
        takes: Vec<Option<usize>>,
    }

    impl Peer {
        fn take<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>) -> Poll<io::Result<usize>> {
            let Some(most) = self.takes.pop().unwrap_or(Some(usize::MAX)) else {
                return Poll::Pending;
            };
            let bytes: Vec<u8> = parts.flatten().copied().take(most).collect();
            let n = bytes.len();
            self.calls.push(bytes);
            Poll::Ready(Ok(n))
        }
    }

    impl AsyncWrite for Peer {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.take([bytes].into_iter())
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.take(parts.iter().map(|part| &**part))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn task() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn write(gather: &mut Gather<Peer>, bytes: &[u8]) -> Poll<usize> {
        Pin::new(gather).poll_write(&mut task(), bytes).map(|taken| taken.expect("no error"))
    }

    fn flush(gather: &mut Gather<Peer>) -> bool {
        let flushed = Pin::new(gather).poll_flush(&mut task());
        flushed.map(|done| done.expect("no error")).is_ready()
    }

    #[test]
    fn whatever_is_taken_when_the_bytes_arrive_in_their_order() {
        for seed in 1..=20 {
            arrives_in_order(seed);
        }
    }

    fn arrives_in_order(seed: u64) {
        let mut state = seed;
        let mut below = move |end: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).expect("31 bits") % end
        };
        let mut gather = Gather::new(Peer::default());
        let mut sent = Vec::new();
        for _ in 0..1000 {
            let take = |n: usize| (!n.is_multiple_of(3)).then_some(n);
            gather.stream.takes = (0..below(4)).map(|_| take(1 + below(9000))).collect();
            if below(4) == 0 {
                flush(&mut gather);
            } else {
                let length = 1 + if below(5) == 0 { below(3 * LONG) } else { below(400) };
                let bytes: Vec<u8> =
                    (0..251_u8).cycle().skip(sent.len() % 251).take(length).collect();
                if let Poll::Ready(taken) = write(&mut gather, &bytes) {
                    assert!((1..=length).contains(&taken), "seed {seed}");
                    sent.extend_from_slice(&bytes[..taken]);
                }
            }
            assert!(gather.held.len() <= HELD_MAX, "seed {seed}");
        }
        gather.stream.takes.clear();
        while !flush(&mut gather) {}
        assert_eq!(gather.stream.calls.concat(), sent, "seed {seed}");
    }

    #[test]
    fn a_flush_waits_for_others_as_long_as_that_pays() {
        let mut gather = Gather::new(Peer::default());
        // Nobody adds anything: now and then it is tried.
        let mut waited = 0;
        for _ in 0..10 * u32::from(TRY_EACH) {
            let _ = write(&mut gather, b"one");
            if !flush(&mut gather) {
                waited += 1;
                assert!(flush(&mut gather), "it waits once");
            }
        }
        assert_eq!(waited, 10);
        // Others do: from the first time that it was tried on, all goes out together.
        gather.stream.calls.clear();
        for _ in 0..2 * TRY_EACH {
            let _ = write(&mut gather, b"one");
            if !flush(&mut gather) {
                let _ = write(&mut gather, b" and another");
                assert!(flush(&mut gather));
            }
        }
        let calls = &gather.stream.calls;
        let alone = calls.iter().take_while(|call| *call == b"one").count();
        assert!(alone < usize::from(TRY_EACH));
        assert!(calls[alone..].iter().all(|call| call == b"one and another"));
        // They stop: so does the waiting.
        let waits = (0..100).filter(|_| {
            let _ = write(&mut gather, b"one");
            let waits = !flush(&mut gather);
            waits && flush(&mut gather)
        });
        assert_eq!(waits.count(), usize::from(CREDIT) + 2);
    }

    #[test]
    fn nothing_is_held_at_the_end() {
        let mut gather = Gather::new(Peer::default());
        let _ = write(&mut gather, b"the last word");
        assert!(Pin::new(&mut gather).poll_shutdown(&mut task()).is_ready());
        assert_eq!(gather.stream.calls, [b"the last word"]);
    }
}
