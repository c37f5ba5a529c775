//! The lab's shell: a prompt over real nodes that run with `--lab`. Every line of the `.lab` language
//! works; the words below are the shell's own, and the numbered menu does the steps of a lab class.
//!
//! What is typed can be recorded and saved as a script that passes.

mod input;
mod menu;
mod why;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tercet_client::Client;
use tercet_lab::backend::{Backend, NodeView};
use tercet_lab::{Progress, RealBackend, Runner, SimBackend, is_worth_telling, parse, parse_step};
use tokio::runtime::Runtime;

use crate::commands::{print_explain, print_status};
use crate::config::distance;
use crate::output::{self, line, note};

pub(crate) use input::{Input, Offered, Piped, Terminal};

/// The words of the shell, each with its arguments and what it does. Those of the language are in
/// docs/lab.md.
pub(crate) const WORDS: [(&str, &str, &str); 37] = [
    ("menu", "", "the numbered list of the lab class: 1 to 4"),
    ("status", "", "what each node says of itself"),
    ("logs", "", "every node's log, leader first"),
    ("explain", "", "how the cluster is, in words"),
    (
        "why",
        "[NODE]",
        "the reasons behind the last refusals, and what keeps a value from being committed",
    ),
    ("watch", "[5s]", "tell what happens for a while"),
    ("submit", "VALUE… [via=n1] [nowait]", "append values: submit a b"),
    ("read", "[via=n1] [stale]", "print committed values"),
    ("crash", "NODE", "kill -9: crash n2"),
    ("restart", "NODE", "start a node that is down: restart n2"),
    ("pause", "NODE", "let a process stand still (SIGSTOP): pause leader"),
    ("resume", "NODE", "let it go on: resume n1"),
    ("wipe", "NODE log|meta|all", "delete a node's files: wipe n2 log"),
    ("tear", "NODE last N", "cut the last entries of a node that is down short: tear n2 last 1"),
    (
        "set",
        "NODE heartbeat=20s [until=stepdown]",
        "slow heartbeats, a slow disk (disk=slow), a wrong clock (clock=+1h)",
    ),
    ("cut", "A | B", "lose all messages between two sides: cut n1 | n2 n3; one way: cut n1 -> n2"),
    ("isolate", "NODE", "cut a node from all others"),
    ("heal", "", "no cuts, delays and losses any more"),
    ("delay", "n1->n2 50ms", "slow a direction down"),
    ("drop", "next 2 Append n1->n3", "lose the next messages of a kind"),
    ("dup", "next 1 Vote n1->n3", "double the next messages of a kind"),
    ("hold", "n1->n2 [KIND]", "keep messages at the gate"),
    ("list", "held", "the messages that are kept"),
    ("deliver", "#12", "let a kept message go: deliver type=VoteReply to=n1"),
    ("discard", "#12", "lose a kept message"),
    ("release", "[n1->n2]", "keep nothing any more"),
    ("elect", "NODE [win]", "fire a node's election timer: elect n2 win"),
    ("transfer", "[to=n2]", "the leader hands over"),
    ("freeze", "n1.timers", "stop election timers: freeze all.timers"),
    ("thaw", "n1.timers", "let them run again: thaw all.timers"),
    ("settle", "", "wait until nothing changes any more"),
    ("expect", "PREDICATE", "check something: expect leader = n2"),
    ("record", "start", "begin to write down what is typed"),
    ("save", "FILE", "save what was written down as a script: save my.lab"),
    ("json", "on|off", "status and explain as JSON, or in words"),
    ("help", "[WORD]", "this list, or one word with its example"),
    ("quit", "", "end; nodes that were started here are stopped, their data stays"),
];

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Go,
    Quit,
}

/// A shell over a cluster.
pub(crate) struct Shell<'a, 'b> {
    runner: Runner<'b, RealBackend>,
    client: &'a Client,
    runtime: &'a Runtime,
    nodes: u8,
    json: bool,
    /// What was typed since `record start`.
    recorded: Option<Vec<String>>,
    input: &'a mut dyn Input,
}

/// Tells what a person wants to hear while a line is run.
pub(crate) fn tell(progress: &Progress) {
    let text = match progress {
        Progress::Event(event) if is_worth_telling(event) => {
            format!("  {} {}", event.node, event.text)
        }
        Progress::Event(_) | Progress::Step { .. } | Progress::Ask { .. } => return,
        Progress::Say(text) => format!("  “{text}”"),
        Progress::Told(text) => text.clone(),
    };
    // Whoever looks away stops nothing.
    let _ = line(text);
}

/// Runs the prompt over a cluster until its end; says whether a line failed.
pub(crate) fn run(
    backend: RealBackend,
    client: &Client,
    runtime: &Runtime,
    json: bool,
    input: &mut dyn Input,
) -> anyhow::Result<bool> {
    let nodes = u8::try_from(client.addresses().count()).context("at most 7 nodes")?;
    let names: Vec<String> = (1..=nodes).map(|slot| format!("n{slot}")).collect();
    let script = parse(&format!("cluster {} timers=auto", names.join(" ")))
        .map_err(|errors| anyhow::anyhow!("{}", errors[0]))?;
    let mut tell = |progress: Progress| tell(&progress);
    let runner = Runner::new(&script, backend, &mut tell);
    let mut shell = Shell { runner, client, runtime, nodes, json, recorded: None, input };
    let failed = shell.prompt()?;
    note("stopping the nodes that were started here; their data stays in their directories");
    shell.runner.backend().processes().stop_all();
    Ok(failed)
}

impl Shell<'_, '_> {
    fn prompt(&mut self) -> anyhow::Result<bool> {
        let mut failed = false;
        loop {
            let offered = self.offered();
            let Some(text) = self.input.line("lab> ", &offered)? else { return Ok(failed) };
            match self.line(&text) {
                Ok(Next::Go) => {}
                Ok(Next::Quit) => return Ok(failed),
                Err(error) => {
                    failed = true;
                    output::error(&format!("{error:#}"));
                }
            }
        }
    }

    fn offered(&mut self) -> Offered {
        let held = self.runner.backend().held().unwrap_or_default();
        let views = self.runner.backend().views().unwrap_or_default();
        let named = |keep: &dyn Fn(&NodeView) -> bool| {
            views.iter().filter(|view| keep(view)).map(|view| view.node.to_string()).collect()
        };
        Offered {
            up: named(&|view| view.up && !view.paused),
            down: named(&|view| !view.up),
            paused: named(&|view| view.paused),
            held: held.iter().map(|held| format!("#{}", held.number)).collect(),
        }
    }

    fn line(&mut self, text: &str) -> anyhow::Result<Next> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["quit" | "exit"] => return Ok(Next::Quit),
            ["help"] => {
                for (word, arguments, what) in WORDS {
                    line(format!("{:<44} {what}", format!("{word} {arguments}")))?;
                }
            }
            ["help", word] => {
                let found = WORDS.iter().find(|(name, ..)| name == word);
                let (word, arguments, what) = found.with_context(|| unknown(word))?;
                line(format!("{word} {arguments}\n  {what}"))?;
            }
            ["status"] => self.runtime.block_on(print_status(self.client, self.json))?,
            ["explain"] => {
                self.runtime.block_on(print_explain(self.client, self.json))?;
            }
            ["json", "on"] => self.json = true,
            ["json", "off"] => self.json = false,
            ["logs"] => self.logs()?,
            ["why", about @ ..] => self.why(about)?,
            ["watch"] => self.watch(Duration::from_secs(5))?,
            ["watch", time] => {
                self.watch(crate::config::parse_time(time).map_err(anyhow::Error::msg)?)?;
            }
            ["record", "start"] => {
                // The script must begin with the leader that the person saw.
                self.recorded = Some(vec![format!("elect {} win", self.leader()?)]);
                line("recording: `save FILE` writes what is typed from here on as a script")?;
            }
            ["save", file] => self.save(file)?,
            ["menu"] => menu::print()?,
            [number @ ("1" | "2" | "3" | "4")] => self.menu(number)?,
            _ => self.step(text)?,
        }
        Ok(Next::Go)
    }

    /// Runs one line of the language.
    fn step(&mut self, text: &str) -> anyhow::Result<()> {
        let step = match parse_step(text, self.nodes) {
            Ok(step) => step,
            Err(error) => {
                let first = text.split_whitespace().next().unwrap_or_default();
                if WORDS.iter().any(|(word, ..)| *word == first) {
                    bail!("{error}. `help {first}` shows how it is written");
                }
                bail!("{}", unknown(first));
            }
        };
        self.runner.run_line(&step).map_err(anyhow::Error::msg)?;
        if let Some(recorded) = &mut self.recorded {
            recorded.push(text.trim().to_owned());
        }
        Ok(())
    }

    fn logs(&mut self) -> anyhow::Result<()> {
        let mut views = self.runner.backend().views()?;
        views.sort_by_key(|view| (std::cmp::Reverse((view.is_leader(), view.term)), view.node));
        for view in views {
            let mark = if view.is_leader() { "★" } else { " " };
            let state = match (view.up, view.paused) {
                (false, _) => "down".to_owned(),
                (true, true) => "paused".to_owned(),
                (true, false) => view.role.to_string(),
            };
            line(format!(
                "{} {mark} @{} {state:<11} commit={} log = {}",
                view.node,
                view.term,
                view.commit,
                view.log_text()
            ))?;
        }
        Ok(())
    }

    fn watch(&mut self, duration: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let step = parse_step("run 50ms", self.nodes).expect("it is a step");
            self.runner.run_line(&step).map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }

    /// Writes what was recorded as a script, and says whether it passes in the simulator.
    fn save(&mut self, file: &str) -> anyhow::Result<()> {
        let recorded = self.recorded.clone().context("nothing was recorded: record start first")?;
        let names: Vec<String> = (1..=self.nodes).map(|slot| format!("n{slot}")).collect();
        let mut text = format!(
            "title \"Recorded\"   cite \"a shell\"\ncluster {} profile=modern timers=auto\n\n",
            names.join(" ")
        );
        for step in &recorded {
            text.push_str(step);
            text.push('\n');
        }
        let script = parse(&text).map_err(|errors| {
            let shown: Vec<String> = errors.iter().map(|error| error.render(file, &text)).collect();
            anyhow::anyhow!("what was typed makes no script:\n{}", shown.join("\n"))
        })?;
        fs::write(file, &text).with_context(|| format!("{file} cannot be written"))?;
        let world = || SimBackend::new(&script, script.header.seed);
        let report = tercet_lab::run(&script, None, world, &mut |_| {})?;
        match report.failures.first() {
            None => line(format!(
                "{file}: {} steps; it passes in the simulator (again: tercet lab run {file})",
                recorded.len()
            ))?,
            Some(failure) => line(format!(
                "{file}: {} steps; in the simulator line {} fails: {}",
                recorded.len(),
                failure.line,
                failure.found
            ))?,
        }
        Ok(())
    }

    fn ask(&mut self, prompt: &str) -> anyhow::Result<String> {
        let answer = self.input.line(prompt, &Offered::default())?;
        Ok(answer.unwrap_or_default().trim().to_owned())
    }

    /// Who leads, by name.
    fn leader(&mut self) -> anyhow::Result<String> {
        let views = self.runner.backend().views()?;
        let leader = views.iter().filter(|view| view.is_leader()).max_by_key(|view| view.term);
        let leader = leader.context("nobody leads now: `why` says what keeps the nodes from it")?;
        Ok(leader.node.to_string())
    }

    fn others(&mut self, node: &str) -> anyhow::Result<Vec<String>> {
        let views = self.runner.backend().views()?;
        let names = views.iter().map(|view| view.node.to_string());
        let names: BTreeSet<String> = names.filter(|name| name != node).collect();
        Ok(names.into_iter().collect())
    }
}

fn unknown(word: &str) -> String {
    let nearest = WORDS.iter().map(|(name, ..)| *name).min_by_key(|name| distance(word, name));
    match nearest.filter(|name| distance(word, name) <= 2) {
        Some(name) => format!("\"{word}\" is unknown. Did you mean \"{name}\"?"),
        None => format!("\"{word}\" is unknown: help lists the words"),
    }
}
