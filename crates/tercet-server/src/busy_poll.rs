//! To look again for what comes next, for a while, before the thread goes to sleep: what makes the
//! next thing come is mostly under way already, and to be woken takes longer than to look.

use std::time::{Duration, Instant};

/// Whether to look again.
#[derive(Debug)]
pub(crate) struct BusyPoll {
    time: Duration,
    looks: Looks,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Looks {
    /// Nothing has come since the last sleep.
    Rests,
    /// Something has come; the time begins with the next look, when all that it asked for is done.
    Begins,
    Until(Instant),
}

impl BusyPoll {
    /// After whatever comes there are looks for so long; with zero there are none.
    pub(crate) const fn new(time: Duration) -> Self {
        Self { time, looks: Looks::Rests }
    }

    /// Something has come from elsewhere.
    pub(crate) const fn note_arrival(&mut self) {
        self.looks = Looks::Begins;
    }

    /// Something was due, and nobody waits for what follows.
    pub(crate) const fn rest(&mut self) {
        self.looks = Looks::Rests;
    }

    /// Whether to look again at once, should there be nothing now.
    pub(crate) fn looks_again(&mut self, now: impl Fn() -> Instant) -> bool {
        if self.looks == Looks::Begins {
            self.looks =
                if self.time.is_zero() { Looks::Rests } else { Looks::Until(now() + self.time) };
        }
        match self.looks {
            Looks::Until(until) if now() < until => true,
            Looks::Rests | Looks::Begins | Looks::Until(_) => {
                self.looks = Looks::Rests;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    #[test]
    fn it_looks_for_a_while_after_an_arrival_and_then_sleeps() {
        let at = Cell::new(Instant::now());
        let now = || at.get();
        let mut busy_poll = BusyPoll::new(50 * MICRO);
        assert!(!busy_poll.looks_again(now), "nothing has come yet");
        busy_poll.note_arrival();
        // What was asked for takes its time: that does not count.
        at.set(at.get() + 300 * MICRO);
        assert!(busy_poll.looks_again(now));
        at.set(at.get() + 49 * MICRO);
        assert!(busy_poll.looks_again(now));
        at.set(at.get() + MICRO);
        assert!(!busy_poll.looks_again(now));
        assert!(!busy_poll.looks_again(now), "once is over, over");
        busy_poll.note_arrival();
        assert!(busy_poll.looks_again(now), "until the next");
        busy_poll.rest();
        assert!(!busy_poll.looks_again(now));
    }

    #[test]
    fn without_time_it_never_looks() {
        let mut busy_poll = BusyPoll::new(Duration::ZERO);
        busy_poll.note_arrival();
        assert!(!busy_poll.looks_again(Instant::now));
    }
}
