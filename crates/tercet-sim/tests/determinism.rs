//! A seed means the same world every time: with faults, to the microsecond, on every node. Without
//! this no seed is a bug report.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

use tercet_sim::swarm::{self, Limits, Preset};

fn trace(seed: u64) -> Vec<String> {
    let options = Preset::Busy.draw(seed, &Limits::default());
    let mut trace = Vec::new();
    let outcome = swarm::run_told(&options, &mut |told| trace.push(format!("{told:?}")));
    assert_eq!(outcome.failure, None, "seed {seed}");
    assert!(trace.iter().any(|line| line.contains("Step")), "seed {seed}: {trace:?}");
    trace
}

#[test]
fn the_same_seed_gives_the_same_events() {
    for seed in 50_000..50_020 {
        let (once, again) = (trace(seed), trace(seed));
        for (line, other) in once.iter().zip(&again) {
            assert_eq!(line, other, "seed {seed}");
        }
        assert!(once.len() == again.len() && once.len() > 100, "seed {seed}: {}", once.len());
    }
}

#[test]
fn another_seed_gives_other_events() {
    assert_ne!(trace(1), trace(2));
}
