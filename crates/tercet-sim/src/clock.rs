//! A node's own clock: it may go too fast, too slowly, or not at all.

use tercet_raft::Time;

/// How fast a clock goes that is right.
const RIGHT: u64 = 1000;

/// A clock. It goes on from where it is whenever its rate changes: a monotonic clock never jumps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// What it said at `since`.
    said: u64,
    /// By the world's clock.
    since: u64,
    permille: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { said: 0, since: 0, permille: RIGHT }
    }
}

impl Clock {
    /// What it says at a moment of the world.
    pub(crate) const fn local(&self, now: Time) -> Time {
        Time(self.said + now.0.saturating_sub(self.since) * self.permille / RIGHT)
    }

    /// The moment of the world at which it will say this; `None`: never.
    pub(crate) const fn global(&self, local: Time) -> Option<Time> {
        let ahead = local.0.saturating_sub(self.said);
        if ahead == 0 {
            return Some(Time(self.since));
        }
        if self.permille == 0 {
            return None;
        }
        Some(Time(self.since + (ahead * RIGHT).div_ceil(self.permille)))
    }

    pub(crate) fn set_rate(&mut self, now: Time, permille: u64) {
        *self = Self { said: self.local(now).0, since: now.0, permille };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_goes_on_from_where_it_is() {
        let mut clock = Clock::default();
        assert_eq!((clock.local(Time(500)), clock.global(Time(900))), (Time(500), Some(Time(900))));
        clock.set_rate(Time(1_000), 2_000);
        assert_eq!(clock.local(Time(1_500)), Time(2_000));
        assert_eq!(clock.global(Time(2_001)), Some(Time(1_501)), "not before it says so");
        clock.set_rate(Time(1_500), 0);
        assert_eq!((clock.local(Time(9_000)), clock.global(Time(2_001))), (Time(2_000), None));
        assert_eq!(clock.global(Time(2_000)), Some(Time(1_500)), "it says so already");
        clock.set_rate(Time(9_000), 500);
        assert_eq!(clock.global(Time(2_001)), Some(Time(9_002)));
        assert_eq!(clock.local(Time(9_002)), Time(2_001));
    }
}
