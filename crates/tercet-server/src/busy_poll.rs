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

    /// Whether to look again at once, should there be nothing now.
    pub(crate) fn looks_again(&mut self, now: Instant) -> bool {
        let until = match self.looks {
            Looks::Rests => return false,
            Looks::Begins => now + self.time,
            Looks::Until(until) => until,
        };
        let again = now < until;
        self.looks = if again { Looks::Until(until) } else { Looks::Rests };
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    #[test]
    fn it_looks_for_a_while_after_an_arrival_and_then_sleeps() {
        let mut now = Instant::now();
        let mut busy_poll = BusyPoll::new(50 * MICRO);
        assert!(!busy_poll.looks_again(now), "nothing has come yet");
        busy_poll.note_arrival();
        // What was asked for takes its time: that does not count.
        now += 300 * MICRO;
        assert!(busy_poll.looks_again(now));
        now += 49 * MICRO;
        assert!(busy_poll.looks_again(now));
        now += MICRO;
        assert!(!busy_poll.looks_again(now));
        assert!(!busy_poll.looks_again(now), "once is over, over");
        busy_poll.note_arrival();
        assert!(busy_poll.looks_again(now), "until the next");
    }

    #[test]
    fn without_time_it_never_looks() {
        let mut busy_poll = BusyPoll::new(Duration::ZERO);
        busy_poll.note_arrival();
        assert!(!busy_poll.looks_again(Instant::now()));
    }
}
