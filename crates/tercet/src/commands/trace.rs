//! A failed run as a file: every step and every event, one JSON object a line, with the failure at
//! the end. `tercet lab show FILE.trace` opens it at that point.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tercet_lab::backend::{LabEvent, NodeView};
use tercet_lab::diagram::{Diagram, Format, Item};
use tercet_lab::{Failure, Progress, is_worth_telling};
use tercet_raft::NodeId;
use tercet_sim::swarm::Outcome;

use crate::output::line;

/// How many lines before the failure are shown at first.
const BEFORE: usize = 40;

/// What happens in a run, in order.
#[derive(Debug, Default)]
pub(crate) struct Trace(Vec<Value>);

impl Trace {
    pub(crate) fn note(&mut self, progress: &Progress) {
        self.0.push(match progress {
            Progress::Begin { branch, nodes } => json!({"begin": nodes, "branch": branch}),
            Progress::Step { line, text } => json!({"line": line, "step": text}),
            Progress::Event(event) => event_json(event),
            Progress::Say(text) => json!({"say": text}),
            Progress::Ask { question, .. } => json!({"ask": question}),
            Progress::Told(text) => json!({"told": text}),
            Progress::Answered { value, text, .. } => json!({"told": format!("{value}: {text}")}),
        });
    }

    /// Writes the run with what failed in it. The file's name says the script and the seed.
    pub(super) fn write(
        &self,
        script: &str,
        seed: u64,
        failures: &[Failure],
    ) -> anyhow::Result<PathBuf> {
        let failed = failures.iter().map(|failure| {
            let views: Vec<Value> = failure.views.iter().map(view_json).collect();
            json!({"failed": failure.line, "branch": failure.branch, "expected": failure.step,
                "found": failure.found, "nodes": views})
        });
        let stem =
            Path::new(script).file_stem().map_or("run".into(), |stem| stem.to_string_lossy());
        self.save(&stem, script, seed, failed)
    }

    /// Something was done in the swarm, as its `line`th step.
    pub(super) fn note_step(&mut self, line: usize, text: &str) {
        self.0.push(json!({"line": line, "step": text}));
    }

    /// Something happened in the swarm.
    pub(super) fn note_event(&mut self, event: &LabEvent) {
        self.0.push(event_json(event));
    }

    /// Writes a life of the swarm with the invariant that was broken after so many steps.
    pub(super) fn write_life(
        mut self,
        command: &str,
        outcome: &Outcome,
        steps: usize,
    ) -> anyhow::Result<PathBuf> {
        self.0.insert(0, json!({"begin": outcome.nodes, "branch": null}));
        let told = outcome.states.iter().map(|state| json!({"told": state}));
        let failed = outcome.failure.iter().map(|failure| {
            json!({"failed": steps, "branch": null, "expected": failure.invariant.name(),
                "found": failure.text, "nodes": []})
        });
        self.save("sim", command, outcome.seed, told.chain(failed))
    }

    /// Writes all that was noted, and then what came of it.
    fn save(
        &self,
        stem: &str,
        script: &str,
        seed: u64,
        end: impl Iterator<Item = Value>,
    ) -> anyhow::Result<PathBuf> {
        let path = std::env::temp_dir().join(format!("tercet-{stem}-seed{seed}.trace"));
        let head = json!({"script": script, "seed": seed});
        let items = std::iter::once(head).chain(self.0.iter().cloned()).chain(end);
        fs::write(&path, in_lines(items))
            .with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path)
    }

    /// A run without a script as a file's text.
    pub(crate) fn text(&self, what: &str, nodes: u8) -> String {
        let head = json!({"script": what, "seed": null});
        let begin = json!({"begin": nodes, "branch": null});
        in_lines([head, begin].into_iter().chain(self.0.iter().cloned()))
    }

    /// A run without branches as a diagram.
    pub(crate) fn diagram(&self, title: &str, nodes: u8) -> Diagram {
        Diagram::new(title, nodes, self.0.iter().filter_map(item_of))
    }
}

fn in_lines(items: impl Iterator<Item = Value>) -> String {
    let mut text = String::new();
    for item in items {
        text.push_str(&item.to_string());
        text.push('\n');
    }
    text
}

/// A node as JSON.
pub(crate) fn view_json(view: &NodeView) -> Value {
    json!({"node": view.node.to_string(), "up": view.up, "role": view.role.to_string(),
        "term": view.term, "commit": view.commit, "log": view.log_text()})
}

/// What of a trace is drawn.
fn item_of(item: &Value) -> Option<Item> {
    if let Some(step) = item["step"].as_str() {
        return Some(Item::Step(step.to_owned()));
    }
    let slot = text_of(item, "node").strip_prefix('n')?.parse().ok()?;
    let fields = item["fields"].as_object()?.iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(Item::Event(LabEvent {
        at: Duration::from_micros(item["at_us"].as_u64()?),
        node: NodeId::new(slot)?,
        term: item["term"].as_u64()?,
        kind: item["kind"].as_str()?.to_owned(),
        fields: fields.map(|(name, value)| (name.clone(), text(value))).collect(),
        text: text_of(item, "text").to_owned(),
        classic: None,
    }))
}

/// One way through a run as a diagram: the branch of this name, else the one that failed, else the
/// last.
fn diagram_of(title: &str, items: &[Value], branch: Option<&str>) -> anyhow::Result<Diagram> {
    let begins: Vec<usize> = (0..items.len()).filter(|at| !items[*at]["begin"].is_null()).collect();
    let name = |at: &usize| items[*at]["branch"].as_str();
    let failed = items.iter().find(|item| !item["failed"].is_null());
    let failed = failed.and_then(|item| item["branch"].as_str());
    let wanted = branch.or(failed);
    let at = match wanted {
        Some(wanted) => begins.iter().find(|at| name(at) == Some(wanted)).copied(),
        None => begins.last().copied(),
    };
    let at = at.with_context(|| {
        let known: Vec<&str> = begins.iter().filter_map(name).collect();
        match wanted {
            Some(wanted) if known.is_empty() => format!("there is no branch {wanted}: it has none"),
            Some(wanted) => format!("there is no branch {wanted}: there are {}", known.join(", ")),
            None => "this trace does not say how many nodes there were".to_owned(),
        }
    })?;
    let end = begins.iter().find(|next| **next > at).copied().unwrap_or(items.len());
    let nodes = items[at]["begin"].as_u64().and_then(|nodes| u8::try_from(nodes).ok());
    let nodes = nodes.filter(|nodes| (1..=7).contains(nodes));
    let nodes = nodes.context("a cluster has 1 to 7 nodes")?;
    let title = name(&at).map_or(title.to_owned(), |branch| format!("{title} – {branch}"));
    Ok(Diagram::new(&title, nodes, items[at + 1..end].iter().filter_map(item_of)))
}

/// A scenario's run in the simulator as a diagram.
pub(super) fn draw(
    title: &str,
    trace: &Trace,
    branch: Option<&str>,
    format: Format,
) -> anyhow::Result<()> {
    Ok(line(diagram_of(title, &trace.0, branch)?.write(format).trim_end())?)
}

/// A saved trace as a diagram.
pub(super) fn draw_file(path: &Path, branch: Option<&str>, format: Format) -> anyhow::Result<()> {
    let items = read(path)?;
    let title = text_of(&items[0], "script").to_owned();
    Ok(line(diagram_of(&title, &items[1..], branch)?.write(format).trim_end())?)
}

fn event_json(event: &LabEvent) -> Value {
    let fields: serde_json::Map<String, Value> =
        event.fields.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    json!({"at_us": u64::try_from(event.at.as_micros()).unwrap_or(u64::MAX), "node": event.node.to_string(),
        "term": event.term, "kind": event.kind, "fields": fields, "text": event.text,
        "told": is_worth_telling(event)})
}

/// Shows a trace: what led to the failure, and what was there instead.
pub(super) fn show(path: &Path, whole: bool) -> anyhow::Result<()> {
    let items = read(path)?;
    let (head, items) = (&items[0], &items[1..]);
    let script = text_of(head, "script");
    let seed = head["seed"].as_u64().map_or(String::new(), |seed| format!(", seed {seed}"));
    line(format!("{script}{seed}"))?;
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

/// The lines of a trace: at least one.
fn read(path: &Path) -> anyhow::Result<Vec<Value>> {
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
    if items.is_empty() {
        anyhow::bail!("{}: this is no trace: it is empty", path.display());
    }
    Ok(items)
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
    if let Some(branch) = item["branch"].as_str().filter(|_| item["failed"].is_null()) {
        return Some(format!("branch {branch}"));
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
