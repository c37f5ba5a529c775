//! `tercet doctor`: what this machine's disk and clock can do.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use crate::output;

const SYNCS: usize = 300;
const BLOCK: usize = 4096;

/// The median and the 99th percentile of one way to make 4 KiB durable.
#[derive(Clone, Copy, Debug)]
struct Syncs {
    p50: Duration,
    p99: Duration,
}

pub(crate) fn run(dir: &Path, json: bool) -> anyhow::Result<u8> {
    let shown = dir.display();
    let growing = measure(dir, false).with_context(|| format!("{shown}: cannot be measured"))?;
    let zeroed = measure(dir, true).with_context(|| format!("{shown}: cannot be measured"))?;
    let clock = clock_step();
    let stat = rustix::fs::statvfs(dir).with_context(|| shown.to_string())?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let verdict = verdict(zeroed);
    if json {
        let us = |syncs: Syncs| json!({ "p50_us": micros(syncs.p50), "p99_us": micros(syncs.p99) });
        output::line(
            json!({
                "dir": shown.to_string(), "sync_growing": us(growing), "sync_zeroed": us(zeroed),
                "free_bytes": free, "clock_step_ns": clock.as_nanos().to_string(), "verdict": verdict,
            })
            .to_string(),
        )?;
        return Ok(0);
    }
    let line = |what: &str, syncs: Syncs| {
        format!("{what:<36} p50 {:>7} µs   p99 {:>7} µs", micros(syncs.p50), micros(syncs.p99))
    };
    output::line(format!("disk of {shown}, {SYNCS} × 4 KiB with fdatasync"))?;
    output::line(line("  a growing file", growing))?;
    output::line(line("  a file of zeros (as the log is)", zeroed))?;
    output::line(format!("  free: {} MiB", free >> 20))?;
    output::line(format!("clock: steps of {} ns", clock.as_nanos()))?;
    output::line(format!("verdict: {verdict}"))?;
    Ok(0)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn verdict(syncs: Syncs) -> &'static str {
    match micros(syncs.p50) {
        0..=5 => {
            "suspicious: a sync this fast reaches no disk (tmpfs, or a disk that lies); do not trust records to it"
        }
        6..=2_000 => "good",
        2_001..=20_000 => "slow: a submit takes at least one sync of two nodes",
        _ => "too slow for the default timeouts: raise heartbeat and election in [timing]",
    }
}

fn measure(dir: &Path, zeroed: bool) -> anyhow::Result<Syncs> {
    let path = dir.join(format!(".tercet-doctor-{}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    let result = (|| {
        if zeroed {
            file.write_all_at(&vec![0; SYNCS * BLOCK], 0)?;
            file.sync_all()?;
        }
        let bar = output::progress(SYNCS as u64, "syncs");
        let mut times = Vec::with_capacity(SYNCS);
        for i in 0..SYNCS {
            let begun = Instant::now();
            file.write_all_at(&[7; BLOCK], (i * BLOCK) as u64)?;
            file.sync_data()?;
            times.push(begun.elapsed());
            bar.inc(1);
        }
        bar.finish_and_clear();
        times.sort_unstable();
        Ok(Syncs { p50: times[SYNCS / 2], p99: times[SYNCS * 99 / 100] })
    })();
    std::fs::remove_file(&path)?;
    result
}

/// The smallest step of the monotonic clock that can be seen.
fn clock_step() -> Duration {
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
