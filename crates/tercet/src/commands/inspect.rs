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
    /// The term of each entry whose bytes are damaged.
    damaged: BTreeMap<u64, u64>,
    records: u64,
    torn: Option<String>,
    faults: Vec<String>,
}

impl Summary {
    fn last_index(&self) -> u64 {
        let last = |entries: Option<&u64>| entries.copied().unwrap_or(0);
        last(self.entries.keys().next_back()).max(last(self.damaged.keys().next_back()))
    }

    /// The damaged entries in words; those that follow each other are told together.
    fn damaged_words(&self) -> Vec<String> {
        let mut runs: Vec<(u64, u64, u64)> = Vec::new();
        for (index, term) in &self.damaged {
            match runs.last_mut() {
                Some((_, last, of)) if *last + 1 == *index && of == term => *last = *index,
                Some(_) | None => runs.push((*index, *index, *term)),
            }
        }
        let words = |(first, last, term)| {
            let what = if first == last {
                format!("entry {first} of term {term} is damaged: the node repairs it")
            } else {
                format!(
                    "entries {first} to {last} of term {term} are damaged: the node repairs them"
                )
            };
            format!("{what} from another one when it runs")
        };
        runs.into_iter().map(words).collect()
    }

    /// All that is wrong, in words.
    fn all_faults(&self) -> Vec<String> {
        self.faults.iter().cloned().chain(self.damaged_words()).collect()
    }

    fn damaged_json(&self) -> Vec<serde_json::Value> {
        let one = |(index, term): (&u64, &u64)| json!({ "index": index, "term": term });
        self.damaged.iter().map(one).collect()
    }
}

fn read(dir: &Path, mut each: impl FnMut(&Entry)) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    walk(dir, |found| match found {
        Found::Segment { hard_state, .. } => {
            summary.segments += 1;
            summary.hard_state = hard_state;
        }
        Found::Frame { hard_state, truncate_from, entries, faulty, .. } => {
            summary.frames += 1;
            summary.hard_state = hard_state;
            if let Some(from) = truncate_from {
                summary.entries.split_off(&from);
                summary.damaged.split_off(&from);
            }
            summary.damaged.extend(faulty);
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

/// The lines of `values.log` that the log does not confirm, or that are missing. If the log has
/// damaged entries, `lines` end before the first one, and what follows is not looked at.
fn check_values(dir: &Path, lines: &[u8], is_all: bool) -> Result<u64, String> {
    let path = dir.join("values.log");
    let values = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let same = values.iter().zip(lines).take_while(|(a, b)| a == b).count();
    if same < values.len() && (is_all || same < lines.len()) {
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
        faults.extend(summary.damaged_words().iter().map(|fault| format!("{shown}: {fault}")));
        let first_damaged = summary.damaged.keys().next().copied();
        if let Some(first) = first_damaged {
            rendered.split_off(&first);
        }
        let lines: Vec<u8> = rendered.into_values().flatten().collect();
        let values = match check_values(dir, &lines, first_damaged.is_none()) {
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
                "last_index": summary.last_index(), "values": summary.records,
                "torn_tail": summary.torn, "faults": summary.all_faults(),
                "damaged": summary.damaged_json(),
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
                summary.last_index(),
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
                "last_index": summary.last_index(), "torn_tail": summary.torn,
                "faults": summary.all_faults(), "damaged": summary.damaged_json(), "entries": listed,
            })
            .to_string(),
        )?;
        return Ok(u8::from(!summary.all_faults().is_empty()));
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
        summary.last_index(),
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
    let faults = summary.all_faults();
    if faults.is_empty() {
        return Ok(0);
    }
    Err(Failure::new(1, faults.join("\n")).into())
}

fn kind(kind: u8) -> &'static str {
    match kind {
        1 => "noop",
        2 => "records",
        3 => "readmit",
        _ => "unknown",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails out loud")]
mod tests {
    use tercet_wal::{Batch, Entry, EntryHeader, FileDisk, Wal, WalOptions};

    use super::*;

    /// A log of so many entries without records, in frames of two; gives the segment's path.
    fn make_log(dir: &Path, count: u64) -> PathBuf {
        let mut disk = FileDisk::open(dir.to_owned()).unwrap();
        let options = WalOptions { segment_bytes: 0, ..WalOptions::default() };
        let mut wal = Wal::create(&mut disk, options).unwrap();
        for first in (1..=count).step_by(2) {
            let entries = [first, first + 1].map(|index| {
                let header = EntryHeader {
                    term: 3,
                    index,
                    first_seq: 1,
                    record_count: 0,
                    kind: 1,
                    flags: 0,
                    log_id: 0,
                    time_ms: 1,
                    body_bytes: 0,
                    crc: 0,
                };
                Entry::new(&header, &[b"body"])
            });
            wal.stage(Batch { entries: entries.to_vec(), ..Batch::default() });
            wal.commit(&mut disk).unwrap();
        }
        dir.join("wal/00000001.seg")
    }

    /// Where an entry of that log stands.
    fn place(index: usize) -> usize {
        4096 + (index - 1) / 2 * 168 + 64 + (index - 1) % 2 * 52
    }

    #[test]
    fn damaged_entries_are_told_with_what_becomes_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let segment = make_log(dir.path(), 10);
        let whole = read(dir.path(), |_| {}).unwrap();
        assert_eq!((whole.last_index(), whole.all_faults()), (10, Vec::new()));
        let mut bytes = std::fs::read(&segment).unwrap();
        for index in [3, 6, 7, 8, 10] {
            bytes[place(index) + 50] ^= 1;
        }
        std::fs::write(&segment, bytes).unwrap();
        let mut seen = Vec::new();
        let summary = read(dir.path(), |entry| seen.push(entry.header.index)).unwrap();
        assert_eq!(seen, [1, 2, 4, 5, 9]);
        assert_eq!((summary.last_index(), summary.faults.len()), (10, 0));
        let words = [
            "entry 3 of term 3 is damaged: the node repairs it from another one when it runs",
            "entries 6 to 8 of term 3 are damaged: the node repairs them from another one when it runs",
            "entry 10 of term 3 is damaged: the node repairs it from another one when it runs",
        ];
        assert_eq!(summary.all_faults(), words);
        assert_eq!(summary.damaged_json()[4], json!({ "index": 10, "term": 3 }));
        // It is a fault of the directory, and no difference to one that has the entries.
        std::fs::write(dir.path().join("values.log"), b"").unwrap();
        let error = verify(&[dir.path().to_owned()], true).unwrap_err();
        let failure = error.downcast::<Failure>().unwrap();
        assert!(failure.to_string().contains(": entries 6 to 8 of term 3"), "{failure}");
        assert_eq!(difference(&whole, &summary), None);
    }

    /// What stands behind a damaged entry cannot be confirmed, and is not contradicted.
    #[test]
    fn values_are_compared_up_to_the_damage() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("values.log"), b"write 1\nwrite 2\n").unwrap();
        assert_eq!(check_values(dir.path(), b"write 1\n", false), Ok(2));
        assert_eq!(check_values(dir.path(), b"write 1\nwrite 2\nwrite 3\n", true), Ok(2));
        assert!(check_values(dir.path(), b"write 1\n", true).is_err());
        assert!(check_values(dir.path(), b"write 7\n", false).is_err());
    }
}
