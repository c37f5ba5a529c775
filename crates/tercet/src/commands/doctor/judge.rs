//! What the figures mean for a node on this machine, in words.

use std::time::Duration;

use tercet_server::Timing;

use super::clock::Clock;
use super::disk::{Rate, Syncs};
use super::{Measured, micros};

/// Better first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Verdict {
    /// Nothing to do.
    Good,
    /// It works, but look.
    Slow,
    /// Not as it is.
    Unfit,
}

impl Verdict {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Slow => "slow",
            Self::Unfit => "unfit",
        }
    }

    pub(super) const fn sentence(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Slow => "slow: a node works here, but not well",
            Self::Unfit => "unfit: do not run a node here before what is said above is done",
        }
    }

    /// As that of `tercet explain`.
    pub(super) const fn exit_code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Slow => 2,
            Self::Unfit => 3,
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Finding {
    pub(super) subject: &'static str,
    pub(super) verdict: Verdict,
    /// What it means, and what to do where it is not good.
    pub(super) words: String,
}

const GIB: u64 = 1 << 30;

pub(super) fn findings(measured: &Measured) -> Vec<Finding> {
    vec![
        usual_sync(&measured.zeroed, &measured.growing),
        late_sync(&measured.zeroed),
        write(&measured.write),
        read(&measured.read),
        space(measured.free_bytes),
        clock(&measured.clock),
        wall(&measured.clock),
    ]
}

fn usual_sync(zeroed: &Syncs, growing: &Syncs) -> Finding {
    let us = micros(zeroed.p50);
    let (verdict, next) = match us {
        0..=5 => (
            Verdict::Unfit,
            "so fast that it reaches no disk (tmpfs, or a disk that lies): what is acknowledged \
             would not survive a loss of power; take a directory on a real disk",
        ),
        6..=2_000 => (Verdict::Good, ""),
        2_001..=20_000 => (
            Verdict::Slow,
            "a disk that is made for servers takes less than 2 ms; many submits at a time still \
             share a sync",
        ),
        _ => (
            Verdict::Unfit,
            "too slow for the default timeouts: take another disk, or raise heartbeat, \
             election_min and election_max in [timing] tenfold",
        ),
    };
    let mut words = format!("one submit cannot be faster than {}", shown(zeroed.p50));
    // By more than chance.
    if micros(growing.p50) > us + us / 10 {
        words += &format!(
            "; in a file that grows it would be {}, which is why the log is made of zeros first",
            shown(growing.p50)
        );
    }
    Finding { subject: "sync", verdict, words: with_next(words, next) }
}

fn late_sync(zeroed: &Syncs) -> Finding {
    let election_min = Timing::default().election_min;
    let (verdict, next) = if zeroed.p99 < election_min / 4 {
        (Verdict::Good, "")
    } else if zeroed.p99 < election_min {
        (Verdict::Slow, "near the default election timeout: see what else uses this disk")
    } else {
        (
            Verdict::Unfit,
            "longer than the default election timeout, so that leaders are replaced for no other \
             reason: raise election_min and election_max in [timing], or give the log a disk of \
             its own",
        )
    };
    let words = format!("one submit in a hundred waits {} or longer", shown(zeroed.p99));
    Finding { subject: "late syncs", verdict, words: with_next(words, next) }
}

fn of_rate(rate: &Rate) -> Verdict {
    match rate.per_second() >> 20 {
        50.. => Verdict::Good,
        10..50 => Verdict::Slow,
        0..10 => Verdict::Unfit,
    }
}

fn write(rate: &Rate) -> Finding {
    let verdict = of_rate(rate);
    let next = match verdict {
        Verdict::Good => "",
        Verdict::Slow | Verdict::Unfit => "take a faster disk, or keep the log short",
    };
    let words = format!("a node that is 1 GiB behind needs {} at least", seconds(rate));
    Finding { subject: "write", verdict, words: with_next(words, next) }
}

fn read(rate: &Rate) -> Finding {
    let verdict = of_rate(rate);
    let next = match verdict {
        Verdict::Good => "",
        Verdict::Slow | Verdict::Unfit => "expect long restarts, or take a faster disk",
    };
    let words = format!("reading 1 GiB of the log takes {} at least", seconds(rate));
    Finding { subject: "read", verdict, words: with_next(words, next) }
}

fn space(free_bytes: u64) -> Finding {
    let (verdict, next) = match free_bytes >> 20 {
        // A node keeps 64 MiB free, and makes its log in files of 64 MiB, the next one in advance.
        0..256 => (
            Verdict::Unfit,
            "a node makes files of 64 MiB and keeps as much free: make room, or lower \
             storage.segment and storage.disk_reserve",
        ),
        256..1024 => (Verdict::Slow, "it will be full soon: the log only grows"),
        _ => (Verdict::Good, ""),
    };
    let words = format!("{} MiB are free", free_bytes >> 20);
    Finding { subject: "space", verdict, words: with_next(words, next) }
}

fn clock(clock: &Clock) -> Finding {
    let worst = clock.step.max(clock.cost);
    let (verdict, next) = if worst < Duration::from_micros(1) {
        (Verdict::Good, "")
    } else if worst < Duration::from_millis(1) {
        (
            Verdict::Slow,
            "each step of a node reads it: see whether the system can use another clocksource (tsc)",
        )
    } else {
        (
            Verdict::Unfit,
            "too coarse for heartbeats and election timeouts: have the system use another \
             clocksource (/sys/devices/system/clocksource)",
        )
    };
    let words = format!("steps of {} and {} to read it", shown(clock.step), shown(clock.cost));
    Finding { subject: "clock", verdict, words: with_next(words, next) }
}

fn wall(clock: &Clock) -> Finding {
    let (verdict, words) = if clock.wall_jump < Duration::from_millis(20) {
        (Verdict::Good, "it goes with the monotonic clock".to_owned())
    } else {
        (
            Verdict::Slow,
            format!(
                "it jumped by {} while this ran: elections do not care, but the times of records \
                 do; see that one time service (chrony, ntpd) sets it, slowly",
                shown(clock.wall_jump)
            ),
        )
    };
    Finding { subject: "time of day", verdict, words }
}

fn with_next(words: String, next: &str) -> String {
    if next.is_empty() { words } else { format!("{words}: {next}") }
}

fn shown(duration: Duration) -> String {
    if duration < Duration::from_micros(1) {
        format!("{} ns", duration.as_nanos())
    } else if duration < Duration::from_millis(10) {
        format!("{} µs", micros(duration))
    } else {
        format!("{} ms", duration.as_millis())
    }
}

fn seconds(rate: &Rate) -> String {
    format!("{:.1} s", GIB as f64 / rate.per_second().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Measured {
        let us = Duration::from_micros;
        let rate = Rate { bytes: 100 << 20, took: Duration::from_secs(1) };
        Measured {
            growing: Syncs { p50: us(180), p99: us(400), count: 1000 },
            zeroed: Syncs { p50: us(120), p99: us(300), count: 1000 },
            write: rate,
            read: rate,
            free_bytes: 100 << 30,
            clock: Clock {
                source: Some("tsc".to_owned()),
                step: Duration::from_nanos(20),
                cost: Duration::from_nanos(25),
                wall_jump: us(3),
            },
        }
    }

    /// The findings that differ from those of a good machine: subject and verdict.
    fn bad(change: impl FnOnce(&mut Measured)) -> Vec<(&'static str, Verdict)> {
        let mut measured = good();
        change(&mut measured);
        let findings = findings(&measured);
        let bad = findings.iter().filter(|finding| finding.verdict != Verdict::Good);
        bad.map(|finding| (finding.subject, finding.verdict)).collect()
    }

    #[test]
    fn each_thing_is_judged_by_its_thresholds() {
        let (us, ms) = (Duration::from_micros, Duration::from_millis);
        let rate = |mib: u64| Rate { bytes: mib << 20, took: Duration::from_secs(1) };
        assert_eq!(bad(|_| {}), []);
        assert_eq!(bad(|m| m.zeroed.p50 = us(5)), [("sync", Verdict::Unfit)]);
        assert_eq!(bad(|m| m.zeroed.p50 = us(2_000)), []);
        assert_eq!(bad(|m| m.zeroed.p50 = us(2_001)), [("sync", Verdict::Slow)]);
        assert_eq!(bad(|m| m.zeroed.p50 = us(20_001)), [("sync", Verdict::Unfit)]);
        assert_eq!(bad(|m| m.zeroed.p99 = ms(40)), [("late syncs", Verdict::Slow)]);
        assert_eq!(bad(|m| m.zeroed.p99 = ms(150)), [("late syncs", Verdict::Unfit)]);
        assert_eq!(bad(|m| m.write = rate(50)), []);
        assert_eq!(bad(|m| m.write = rate(49)), [("write", Verdict::Slow)]);
        assert_eq!(bad(|m| m.read = rate(9)), [("read", Verdict::Unfit)]);
        assert_eq!(bad(|m| m.free_bytes = 1023 << 20), [("space", Verdict::Slow)]);
        assert_eq!(bad(|m| m.free_bytes = 0), [("space", Verdict::Unfit)]);
        assert_eq!(bad(|m| m.clock.cost = us(1)), [("clock", Verdict::Slow)]);
        assert_eq!(bad(|m| m.clock.step = ms(4)), [("clock", Verdict::Unfit)]);
        assert_eq!(bad(|m| m.clock.wall_jump = ms(20)), [("time of day", Verdict::Slow)]);
    }

    #[test]
    fn what_a_sync_means_is_said() {
        let words = |measured: &Measured| findings(measured)[0].words.clone();
        assert_eq!(
            words(&good()),
            "one submit cannot be faster than 120 µs; in a file that grows it would be 180 µs, \
             which is why the log is made of zeros first"
        );
        let mut other = good();
        other.growing.p50 = other.zeroed.p50;
        assert_eq!(words(&other), "one submit cannot be faster than 120 µs");
    }
}
