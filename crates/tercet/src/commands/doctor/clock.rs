//! The clocks: the monotonic one, on which all timers are, and the time of day, which stands in the
//! records.

use std::time::{Duration, Instant, SystemTime};

/// What was seen of them.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    /// What the system makes its time of, where it says so.
    pub(super) source: Option<String>,
    /// The smallest step of the monotonic clock.
    pub(super) step: Duration,
    /// What it costs to read it.
    pub(super) cost: Duration,
    /// The most by which the time of day went otherwise than the monotonic clock between two looks.
    pub(super) wall_jump: Duration,
}

/// Looks at both clocks from time to time.
#[derive(Debug)]
pub(super) struct Watch {
    last: (Instant, SystemTime),
    wall_jump: Duration,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self { last: both(), wall_jump: Duration::ZERO }
    }

    pub(super) fn look(&mut self) {
        let now = both();
        self.wall_jump = self.wall_jump.max(apart(self.last, now));
        self.last = now;
    }

    pub(super) fn end(mut self) -> Clock {
        self.look();
        let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        let source = std::fs::read_to_string(source).ok().map(|name| name.trim().to_owned());
        Clock { source, step: step(), cost: cost(), wall_jump: self.wall_jump }
    }
}

/// Both clocks at one moment: of some tries that between whose two reads the least time passed.
fn both() -> (Instant, SystemTime) {
    let try_it = || {
        let before = Instant::now();
        let wall = SystemTime::now();
        (before.elapsed(), (before, wall))
    };
    let tries = (0..3).map(|_| try_it());
    tries.min_by_key(|(between, _)| *between).map(|(_, both)| both).expect("three tries")
}

/// How much further, or less far, the time of day went than the monotonic clock.
fn apart(before: (Instant, SystemTime), now: (Instant, SystemTime)) -> Duration {
    let passed = now.0 - before.0;
    match now.1.duration_since(before.1) {
        Ok(wall) => wall.abs_diff(passed),
        Err(back) => back.duration() + passed,
    }
}

/// The smallest step that can be seen.
fn step() -> Duration {
    let steps = (0..1000).map(|_| {
        let begun = Instant::now();
        loop {
            let step = begun.elapsed();
            if !step.is_zero() {
                return step;
            }
        }
    });
    steps.min().unwrap_or_default()
}

fn cost() -> Duration {
    const READS: u32 = 10_000;
    let begun = Instant::now();
    for _ in 0..READS {
        std::hint::black_box(Instant::now());
    }
    begun.elapsed() / READS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_clocks_are_apart() {
        let (mono, wall) = both();
        let ms = Duration::from_millis;
        let before = (mono, wall);
        for (mono_ms, wall_ms, apart_ms) in [(10, 10, 0), (10, 3000, 2990), (10, 4, 6)] {
            let now = (mono + ms(mono_ms), wall + ms(wall_ms));
            assert_eq!(apart(before, now), ms(apart_ms));
        }
        assert_eq!(apart(before, (mono + ms(10), wall - ms(5))), ms(15), "it went back");
    }
}
