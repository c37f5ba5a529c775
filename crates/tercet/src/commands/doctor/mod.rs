//! `tercet doctor`: what this machine's disk and clocks can do, and what that means for a node here.
//!
//! `disk.rs` and `clock.rs` measure, within [`TIME_MAX`] and [`BYTES_MAX`]; `judge.rs` says in words
//! what it means.

mod clock;
mod disk;
mod judge;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use clock::Clock;
use disk::{Rate, Scratch, Syncs};
use judge::{Finding, Verdict};

use crate::dev::on_signal;
use crate::output;

/// The longest that each of the four measurements of the disk goes on.
const TIME_MAX: Duration = Duration::from_millis(1500);
/// The most bytes that are written to the disk at a time; a quarter of what is free, if that is less.
const BYTES_MAX: u64 = 128 << 20;

/// What was measured.
#[derive(Debug)]
struct Measured {
    growing: Syncs,
    zeroed: Syncs,
    write: Rate,
    read: Rate,
    free_bytes: u64,
    clock: Clock,
}

pub(crate) fn run(dir: &Path, json: bool) -> anyhow::Result<u8> {
    let measured =
        measure(dir).with_context(|| format!("{}: cannot be measured", dir.display()))?;
    let findings = judge::findings(&measured);
    let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Good);
    if json {
        output::line(as_json(dir, &measured, &findings, verdict).to_string())?;
    } else {
        tell(dir, &measured, &findings, verdict)?;
    }
    Ok(verdict.exit_code())
}

fn measure(dir: &Path) -> anyhow::Result<Measured> {
    let stat = rustix::fs::statvfs(dir)?;
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    let scratch = Scratch::new(dir)?;
    let path = scratch.path().to_owned();
    on_signal(move |code| {
        // What cannot be removed is taken and removed by the next one.
        let _ = std::fs::remove_file(path);
        std::process::exit(code);
    })?;
    let mut watch = clock::Watch::new();
    let bar = output::progress(4, "measuring");
    let growing = scratch.syncs(false, TIME_MAX, &mut watch)?;
    bar.inc(1);
    let zeroed = scratch.syncs(true, TIME_MAX, &mut watch)?;
    bar.inc(1);
    let write = scratch.write(BYTES_MAX.min(free_bytes / 4), TIME_MAX)?;
    watch.look();
    bar.inc(1);
    let read = scratch.read(TIME_MAX)?;
    watch.look();
    bar.finish_and_clear();
    Ok(Measured { growing, zeroed, write, read, free_bytes, clock: watch.end() })
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn as_json(
    dir: &Path,
    measured: &Measured,
    findings: &[Finding],
    verdict: Verdict,
) -> serde_json::Value {
    let syncs = |syncs: &Syncs| json!({ "p50_us": micros(syncs.p50), "p99_us": micros(syncs.p99), "count": syncs.count });
    let rate = |rate: &Rate| json!({ "bytes": rate.bytes, "bytes_per_second": rate.per_second() });
    let clock = &measured.clock;
    let findings = findings.iter().map(|finding| {
        json!({
            "subject": finding.subject,
            "verdict": finding.verdict.word(),
            "words": finding.words,
        })
    });
    json!({
        "dir": dir.display().to_string(),
        "sync_growing": syncs(&measured.growing),
        "sync_zeroed": syncs(&measured.zeroed),
        "sequential_write": rate(&measured.write),
        "sequential_read": rate(&measured.read),
        "free_bytes": measured.free_bytes,
        "clock": {
            "source": clock.source,
            "step_ns": nanos(clock.step),
            "read_ns": nanos(clock.cost),
            "wall_jump_us": micros(clock.wall_jump),
        },
        "findings": findings.collect::<Vec<_>>(),
        "verdict": verdict.word(),
    })
}

fn tell(
    dir: &Path,
    measured: &Measured,
    findings: &[Finding],
    verdict: Verdict,
) -> anyhow::Result<()> {
    let syncs = |syncs: &Syncs| {
        let Syncs { p50, p99, count } = syncs;
        format!("p50 {:>6} µs   p99 {:>6} µs   ({count} times)", micros(*p50), micros(*p99))
    };
    let rate =
        |rate: &Rate| format!("{:>6} MiB/s   ({} MiB)", rate.per_second() >> 20, rate.bytes >> 20);
    let clock = &measured.clock;
    output::line(format!("disk of {}", dir.display()))?;
    output::line(format!("  4 KiB + fdatasync, growing file   {}", syncs(&measured.growing)))?;
    output::line(format!("  the same, file of zeros           {}", syncs(&measured.zeroed)))?;
    output::line(format!("  sequential write, synced          {}", rate(&measured.write)))?;
    output::line(format!("  sequential read                   {}", rate(&measured.read)))?;
    output::line(format!(
        "  free                              {:>6} MiB",
        measured.free_bytes >> 20
    ))?;
    output::line(format!(
        "clock ({}): steps of {} ns, {} ns to read it",
        clock.source.as_deref().unwrap_or("source unknown"),
        nanos(clock.step),
        nanos(clock.cost)
    ))?;
    output::line("")?;
    for Finding { subject, verdict, words } in findings {
        output::line(format!("{:<6} {subject}: {words}", verdict.word()))?;
    }
    output::line(format!("\nverdict: {}", verdict.sentence()))?;
    Ok(())
}
