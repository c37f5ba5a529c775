//! `tercet verify` and `tercet inspect`: data directories of nodes that do not run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;
use tercet_replica::{escape_value, records_of};
use tercet_wal::inspect::{Found, walk};
use tercet_wal::{Entry, HardState};

use crate::output::{self, Failure};

/// What is known of a directory after its log was read.
#[derive(Debug, Default)]
struct Summary {
    segments: usize,
    frames: u64,
    hard_state: HardState,
    /// Term and checksum of each entry of the log as it stands at the end.
    entries: BTreeMap<u64, (u64, u32)>,
    records: u64,
    torn: Option<String>,
    faults: Vec<String>,
}

fn read(dir: &Path, mut each: impl FnMut(&Entry)) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    walk(dir, |found| match found {
        Found::Segment { hard_state, .. } => {
            summary.segments += 1;
            summary.hard_state = hard_state;
        }
        Found::Frame { hard_state, truncate_from, entries, .. } => {
            summary.frames += 1;
            summary.hard_state = hard_state;
            if let Some(from) = truncate_from {
                summary.entries.split_off(&from);
            }
            for entry in &entries {
                let header = &entry.header;
                summary.entries.insert(header.index, (header.term, header.crc));
                each(entry);
            }
        }
        Found::Unused { .. } => {}
        Found::TornTail { segment, offset } => {
            summary.torn = Some(format!("{segment} at byte {offset}"));
        }
        Found::Fault { segment, offset, what } => {
            summary.faults.push(format!("{segment} at byte {offset}: {what}"));
        }
    })
    .with_context(|| {
        format!("{}: its log cannot be read. Is it the directory of a node?", dir.display())
    })?;
    Ok(summary)
}

/// The lines of `values.log` that the log does not confirm, or that are missing.
fn check_values(dir: &Path, lines: &[u8]) -> Result<u64, String> {
    let path = dir.join("values.log");
    let values = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let same = values.iter().zip(lines).take_while(|(a, b)| a == b).count();
    if same < values.len() {
        let line = values[..same].iter().filter(|byte| **byte == b'\n').count() + 1;
        return Err(format!("{}:{line}: the log says something else", path.display()));
    }
    Ok(values.iter().filter(|byte| **byte == b'\n').count() as u64)
}

pub(crate) fn verify(dirs: &[PathBuf], json: bool) -> anyhow::Result<u8> {
    let bar = output::progress(dirs.len() as u64, "directories");
    let mut faults = Vec::new();
    let mut summaries = Vec::new();
    for dir in dirs {
        let mut rendered: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let summary = read(dir, |entry| {
            rendered.split_off(&entry.header.index);
            let mut lines = Vec::new();
            if entry.header.record_count > 0
                && let Ok(records) = records_of(entry)
            {
                for value in records.values {
                    lines.extend_from_slice(b"write ");
                    escape_value(&value, &mut lines);
                    lines.push(b'\n');
                }
            }
            rendered.insert(entry.header.index, lines);
        })?;
        let shown = dir.display();
        faults.extend(summary.faults.iter().map(|fault| format!("{shown}/wal/{fault}")));
        let lines: Vec<u8> = rendered.into_values().flatten().collect();
        let values = match check_values(dir, &lines) {
            Ok(count) => count,
            Err(fault) => {
                faults.push(fault);
                0
            }
        };
        summaries.push((dir, Summary { records: values, ..summary }));
        bar.inc(1);
    }
    bar.finish_and_clear();
    for (position, (dir, summary)) in summaries.iter().enumerate() {
        for (other_dir, other) in &summaries[position + 1..] {
            if let Some(fault) = difference(summary, other) {
                faults.push(format!("{} and {}: {fault}", dir.display(), other_dir.display()));
            }
        }
    }
    for (dir, summary) in &summaries {
        let text = if json {
            json!({
                "dir": dir.display().to_string(), "segments": summary.segments, "frames": summary.frames,
                "last_index": summary.entries.len(), "values": summary.records,
                "torn_tail": summary.torn, "faults": summary.faults,
            })
            .to_string()
        } else {
            let torn = summary
                .torn
                .as_ref()
                .map_or(String::new(), |at| format!(", a torn tail in {at} (never acknowledged)"));
            format!(
                "{}: {} entries in {} segments, {} values{torn}",
                dir.display(),
                summary.entries.len(),
                summary.segments,
                summary.records
            )
        };
        output::line(text)?;
    }
    if faults.is_empty() {
        if !json {
            output::line("ok: every checksum fits, and the directories agree")?;
        }
        return Ok(0);
    }
    Err(Failure::new(1, faults.join("\n")).into())
}

/// Where two logs contradict each other: Log Matching (§5.3), and the committed values.
fn difference(a: &Summary, b: &Summary) -> Option<String> {
    let mut differs = None;
    for (index, entry) in &a.entries {
        match b.entries.get(index) {
            Some(other) if other.0 == entry.0 && other.1 != entry.1 => {
                return Some(format!("entry {index} of term {} is not the same", entry.0));
            }
            Some(other) if other.0 == entry.0 && differs.is_some() => {
                return Some(format!("entry {index} is the same, but an earlier one is not"));
            }
            Some(other) if other.0 != entry.0 => differs = Some(index),
            _ => {}
        }
    }
    None
}

pub(crate) fn inspect(dir: &Path, entries: bool, json: bool) -> anyhow::Result<u8> {
    let identity = tercet_replica::Identity::load_from(dir)
        .with_context(|| format!("{}: its identity cannot be read", dir.display()))?;
    let mut listed = Vec::new();
    let summary = read(dir, |entry| {
        if entries {
            let header = entry.header;
            listed.push(json!({
                "index": header.index, "term": header.term, "kind": kind(header.kind), "first_seq": header.first_seq,
                "records": header.record_count, "bytes": entry.frame.len(), "time_ms": header.time_ms,
            }));
        }
    })?;
    let incarnation = identity.incarnation.to_string();
    let cluster_id = identity.cluster_id.map(|id| format!("{id:032x}"));
    if json {
        output::line(
            json!({
                "node": identity.node.slot(), "incarnation": incarnation, "cluster_name": identity.cluster_name,
                "cluster_id": cluster_id, "generation": identity.generation.number, "state": identity.state.as_str(), "term": summary.hard_state.term,
                "vote": summary.hard_state.vote, "segments": summary.segments, "frames": summary.frames,
                "last_index": summary.entries.len(), "torn_tail": summary.torn, "faults": summary.faults,
                "entries": listed,
            })
            .to_string(),
        )?;
        return Ok(u8::from(!summary.faults.is_empty()));
    }
    output::line(format!("node         n{}", identity.node.slot()))?;
    output::line(format!("state        {}", identity.state.as_str()))?;
    output::line(format!("incarnation  {incarnation}"))?;
    output::line(format!(
        "cluster      {} ({})",
        identity.cluster_name,
        cluster_id.unwrap_or_else(|| "not formed yet".to_owned())
    ))?;
    if let Some(recovery) = identity.generation.recovery {
        output::line(format!(
            "generation   {}, recovered from {} with its log up to {}",
            identity.generation.number, recovery.survivor, recovery.floor
        ))?;
    }
    let vote = summary.hard_state.vote.map_or("nobody".to_owned(), |vote| format!("n{vote}"));
    output::line(format!("term         {}, voted for {vote}", summary.hard_state.term))?;
    output::line(format!(
        "log          {} entries, {} frames, {} segments",
        summary.entries.len(),
        summary.frames,
        summary.segments
    ))?;
    if let Some(torn) = &summary.torn {
        output::line(format!("torn tail    {torn}: cut short by a crash, never acknowledged"))?;
    }
    for entry in listed {
        output::line(format!(
            "  {:>8}@{:<5} {:<8} {} records from {}, {} bytes",
            entry["index"],
            entry["term"],
            entry["kind"].as_str().unwrap_or(""),
            entry["records"],
            entry["first_seq"],
            entry["bytes"]
        ))?;
    }
    if summary.faults.is_empty() {
        return Ok(0);
    }
    Err(Failure::new(1, summary.faults.join("\n")).into())
}

fn kind(kind: u8) -> &'static str {
    match kind {
        1 => "noop",
        2 => "records",
        3 => "readmit",
        _ => "unknown",
    }
}
