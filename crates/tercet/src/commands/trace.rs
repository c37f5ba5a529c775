//! A failed run as a file: every step and every event, one JSON object a line, with the failure at
//! the end. `tercet lab show FILE.trace` opens it at that point.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tercet_lab::backend::LabEvent;
use tercet_lab::{Failure, Progress, is_worth_telling};

use crate::output::line;

/// How many lines before the failure are shown at first.
const BEFORE: usize = 40;

/// What happens in a run, in order.
#[derive(Debug, Default)]
pub(super) struct Trace(Vec<Value>);

impl Trace {
    pub(super) fn note(&mut self, progress: &Progress) {
        self.0.push(match progress {
            Progress::Step { line, text } => json!({"line": line, "step": text}),
            Progress::Event(event) => event_json(event),
            Progress::Say(text) => json!({"say": text}),
            Progress::Ask { question, .. } => json!({"ask": question}),
            Progress::Told(text) => json!({"told": text}),
        });
    }

    /// Writes the run with what failed in it. The file's name says the script and the seed.
    pub(super) fn write(
        &self,
        script: &str,
        seed: u64,
        failures: &[Failure],
    ) -> anyhow::Result<PathBuf> {
        let stem =
            Path::new(script).file_stem().map_or("run".into(), |stem| stem.to_string_lossy());
        let path = std::env::temp_dir().join(format!("tercet-{stem}-seed{seed}.trace"));
        let mut text = json!({"script": script, "seed": seed}).to_string();
        text.push('\n');
        for item in &self.0 {
            text.push_str(&item.to_string());
            text.push('\n');
        }
        for failure in failures {
            let views: Vec<Value> = failure
                .views
                .iter()
                .map(|view| {
                    json!({"node": view.node.to_string(), "up": view.up, "role": view.role.to_string(),
                        "term": view.term, "commit": view.commit, "log": view.log_text()})
                })
                .collect();
            let failed = json!({"failed": failure.line, "branch": failure.branch, "expected": failure.step,
                "found": failure.found, "nodes": views});
            text.push_str(&failed.to_string());
            text.push('\n');
        }
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path)
    }
}

pub(super) fn event_json(event: &LabEvent) -> Value {
    let fields: serde_json::Map<String, Value> =
        event.fields.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    json!({"at_us": u64::try_from(event.at.as_micros()).unwrap_or(u64::MAX), "node": event.node.to_string(),
        "term": event.term, "kind": event.kind, "fields": fields, "text": event.text,
        "told": is_worth_telling(event)})
}

/// Shows a trace: what led to the failure, and what was there instead.
pub(super) fn show(path: &Path, whole: bool) -> anyhow::Result<()> {
    let text =
        fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let items = text
        .lines()
        .zip(1..)
        .map(|(line, number)| {
            serde_json::from_str::<Value>(line)
                .with_context(|| format!("{}:{number}: this is no trace", path.display()))
        })
        .collect::<anyhow::Result<Vec<Value>>>()?;
    let Some((head, items)) = items.split_first() else {
        anyhow::bail!("{}: this is no trace: it is empty", path.display());
    };
    let script = text_of(head, "script");
    line(format!("{script}, seed {}", head["seed"]))?;
    let shown: Vec<String> = items.iter().filter_map(|item| shown(item, whole)).collect();
    let skip = if whole { 0 } else { shown.len().saturating_sub(BEFORE) };
    if skip > 0 {
        line(format!("… {skip} lines before: --whole shows all"))?;
    }
    for text in &shown[skip..] {
        line(text)?;
    }
    Ok(())
}

fn text_of<'a>(item: &'a Value, name: &str) -> &'a str {
    item[name].as_str().unwrap_or_default()
}

/// A line of the trace for a person; none if it is noise.
fn shown(item: &Value, whole: bool) -> Option<String> {
    if let Some(step) = item["step"].as_str() {
        return Some(format!("{:>4}  {step}", item["line"]));
    }
    if !item["kind"].is_null() {
        let told = whole || item["told"].as_bool().unwrap_or(true);
        let at = Duration::from_micros(item["at_us"].as_u64().unwrap_or(0));
        let (node, text) = (text_of(item, "node"), text_of(item, "text"));
        return told.then(|| format!("      {:>9.1} ms {node} {text}", at.as_secs_f64() * 1000.0));
    }
    if let Some(text) = item["told"].as_str().or(item["say"].as_str()) {
        return Some(format!("      {text}"));
    }
    if item["failed"].is_null() {
        return None;
    }
    let mut text = format!(
        "FAILED at line {}\n  expected: {}\n  found:    {}",
        item["failed"],
        text_of(item, "expected"),
        text_of(item, "found")
    );
    for node in item["nodes"].as_array().into_iter().flatten() {
        let state =
            if node["up"].as_bool() == Some(false) { "down" } else { text_of(node, "role") };
        text.push_str(&format!(
            "\n  {} {state} @{} commit={} log = {}",
            text_of(node, "node"),
            node["term"],
            node["commit"],
            text_of(node, "log")
        ));
    }
    Some(text)
}
