//! The one shell: over plain nodes, over nodes with the lab, and over the simulator. Every line is read
//! by the parser of the `.lab` language; the words of `words` are understood besides.
//!
//! A [`World`] is what the shell stands over. What one cannot do it answers with a sentence that says
//! what to do instead.

mod export;
mod input;
mod menu;
mod plain;
mod real;
mod run;
mod sim;
mod voice;
mod why;
mod words;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tercet_lab::ast::Step;
use tercet_lab::backend::NodeView;
use tercet_lab::{Lab, SimBackend, parse, parse_step};
use tercet_raft::Profile;

use crate::commands::play;
use crate::output::{self, Failure};

pub(crate) use input::{Input, Piped, Terminal};
pub(crate) use plain::Plain;
pub(crate) use real::Real;
pub(crate) use run::do_lines;
pub(crate) use sim::{Sim, SimOptions};
pub(crate) use voice::{Mode, Voice};

use input::Offered;
use sim::Branches;
use words::{Kind, NUMBERS};

/// What a shell stands over.
pub(crate) trait World {
    /// Which words make sense.
    fn kind(&self) -> Kind;
    /// How many nodes.
    fn nodes(&self) -> u8;
    /// The lab, if there is one.
    fn lab(&mut self) -> Option<&mut dyn Lab>;
    /// Runs a line of the language.
    fn step(&mut self, step: &Step) -> anyhow::Result<()>;
    /// A line was typed, which may be several steps.
    fn begin(&mut self, _text: &str) {}
    /// What each node says of itself, as JSON and in words.
    fn status(&mut self) -> anyhow::Result<(Value, String)>;
    /// How the cluster is, as JSON and in words.
    fn explain(&mut self) -> anyhow::Result<(Value, String)>;
    /// What completion may offer.
    fn offered(&mut self) -> Offered;
    /// The head of a script that begins as this world did.
    fn header(&self) -> String;
    /// Starts the nodes again as another Raft. `ask` asks whether it may.
    fn profile(
        &mut self,
        profile: Profile,
        ask: &mut dyn FnMut(&str) -> anyhow::Result<String>,
    ) -> anyhow::Result<String>;
    /// The branches, where what was done can be done again.
    fn branches(&mut self) -> Option<&mut dyn Branches> {
        None
    }
    /// Nodes that ended by themselves, in words.
    fn ended(&mut self) -> Vec<String> {
        Vec::new()
    }
    /// The end.
    fn stop(&mut self);
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    Go,
    Quit,
}

/// A line that was understood.
enum Line {
    Nothing,
    /// A word of the shell with its arguments.
    Own(Vec<String>),
    Step(Step),
}

/// A shell over a world.
pub(crate) struct Shell<'a> {
    world: &'a mut dyn World,
    input: &'a mut dyn Input,
    voice: Voice,
    /// What was typed since `record start`.
    recorded: Option<Vec<String>>,
}

impl<'a> Shell<'a> {
    pub(crate) fn new(world: &'a mut dyn World, input: &'a mut dyn Input, voice: Voice) -> Self {
        Self { world, input, voice, recorded: None }
    }

    /// Reads and runs lines until their end; says whether one failed.
    pub(crate) fn prompt(&mut self) -> anyhow::Result<bool> {
        let mut failed = false;
        let prompt = self.world.kind().prompt();
        loop {
            for sentence in self.world.ended() {
                output::note(&sentence);
            }
            let offered =
                if self.input.is_person() { self.world.offered() } else { Offered::default() };
            let Some(text) = self.input.line(prompt, &offered)? else { return Ok(failed) };
            match self.line(&text) {
                Ok(Next::Go) => {}
                Ok(Next::Quit) => return Ok(failed),
                Err(error) if output::is_broken_pipe(&error) => return Err(error),
                Err(error) => {
                    failed = true;
                    output::error(&format!("{error:#}"));
                }
            }
        }
    }

    fn line(&mut self, text: &str) -> anyhow::Result<Next> {
        match self.understand(text)? {
            Line::Nothing => Ok(Next::Go),
            Line::Own(words) => {
                self.world.begin(text);
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                self.own(&words)
            }
            Line::Step(step) => {
                self.world.begin(text);
                self.run(&step, text)?;
                Ok(Next::Go)
            }
        }
    }

    /// Makes a line of text, or says why it is none here. Nothing is done yet.
    fn understand(&self, text: &str) -> anyhow::Result<Line> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let Some(first) = words.first().filter(|first| !first.starts_with('#')) else {
            return Ok(Line::Nothing);
        };
        let kind = self.world.kind();
        let usage = |why: String| anyhow::Error::from(Failure::new(2, why));
        let word = words::find(first);
        if let Some(word) = word.filter(|word| !word.is_for(kind)) {
            return Err(usage(word.instead()));
        }
        if NUMBERS.contains(first) {
            if kind == Kind::Plain {
                return Err(usage(words::needs_the_lab(first)));
            }
            return Ok(Line::Own(vec![(*first).to_owned()]));
        }
        if word.is_some_and(|word| word.own) || *first == "exit" {
            return Ok(Line::Own(words.into_iter().map(str::to_owned).collect()));
        }
        match parse_step(text, self.world.nodes()) {
            Ok(_) if word.is_none() && kind == Kind::Plain => {
                Err(usage(words::needs_the_lab(first)))
            }
            Ok(step) => Ok(Line::Step(step)),
            Err(error) if word.is_some() => {
                Err(usage(format!("{error}. `help {first}` shows how it is written")))
            }
            Err(error) if error.suggestion.is_none() && error.found != *first => {
                Err(usage(error.to_string()))
            }
            Err(_) => Err(usage(words::unknown(first))),
        }
    }

    /// Runs a word of the shell.
    fn own(&mut self, words: &[&str]) -> anyhow::Result<Next> {
        match words {
            ["quit" | "exit"] => return Ok(Next::Quit),
            ["help"] => {
                for text in words::help(self.world.kind()) {
                    self.voice.say(text)?;
                }
            }
            ["help", word] => {
                let found = words::find(word).with_context(|| words::unknown(word))?;
                let (name, arguments, what) = (found.name, found.arguments, found.what);
                self.voice.say(format!("{name} {arguments}\n  {what}"))?;
            }
            ["status"] => {
                let (value, text) = self.world.status()?;
                self.value_or_text(value, text)?;
            }
            ["explain"] => {
                let (value, text) = self.world.explain()?;
                self.value_or_text(value, text)?;
            }
            ["json", "on"] => self.voice.set_json(true),
            ["json", "off"] => self.voice.set_json(false),
            ["logs"] => self.logs()?,
            ["why"] => self.why(None)?,
            ["why", node] => self.why(Some(node))?,
            ["watch"] => self.watch(Duration::from_secs(5))?,
            ["watch", time] => {
                let time = crate::config::parse_time(time).map_err(|why| Failure::new(2, why))?;
                self.watch(time)?;
            }
            ["profile", "paper"] => self.profile(Profile::Paper)?,
            ["profile", "modern"] => self.profile(Profile::Modern)?,
            ["play", name] => self.play(name)?,
            ["record", "start"] => self.record()?,
            ["save", file] => self.save(file)?,
            ["export", format] => self.export(format, None)?,
            ["export", format, file] => self.export(format, Some(file))?,
            ["menu"] => self.print_menu()?,
            [number] if NUMBERS.contains(number) => self.menu(number)?,
            ["undo" | "back" | "history" | "fork" | "switch" | "branches", ..] => {
                self.travel(words)?;
            }
            [word, ..] => {
                let usage = words::find(word).map_or("", |word| word.arguments);
                return Err(Failure::new(2, format!("it is: {word} {usage}")).into());
            }
            [] => {}
        }
        Ok(Next::Go)
    }

    /// Through the history of a world that can be built again.
    fn travel(&mut self, words: &[&str]) -> anyhow::Result<()> {
        let branches = self.world.branches().context("only the simulator has branches")?;
        let said = match words {
            ["undo"] => vec![branches.back(1)?],
            ["back", count] => {
                let count = count.parse().ok().filter(|count| *count > 0);
                let count = count
                    .ok_or_else(|| Failure::new(2, "it is: back N, the number of commands"))?;
                vec![branches.back(count)?]
            }
            ["history"] => branches.history(),
            ["fork"] => vec![branches.fork(None)?],
            ["fork", name] => vec![branches.fork(Some(name))?],
            ["switch", name] => vec![branches.switch(name)?],
            ["branches"] => branches.list(),
            [word, ..] => {
                let usage = words::find(word).map_or("", |word| word.arguments);
                return Err(Failure::new(2, format!("it is: {word} {usage}")).into());
            }
            [] => Vec::new(),
        };
        said.into_iter().try_for_each(|text| self.voice.say(text))
    }

    fn value_or_text(&self, value: Value, text: String) -> anyhow::Result<()> {
        if self.voice.is_json() { self.voice.data(value) } else { self.voice.say(text) }
    }

    fn lab(&mut self) -> anyhow::Result<&mut dyn Lab> {
        self.world.lab().context("this needs the lab: start the nodes with `tercet dev --lab`")
    }

    /// Runs one line of the language that the shell itself makes.
    fn step(&mut self, text: &str) -> anyhow::Result<()> {
        let step = parse_step(text, self.world.nodes())
            .map_err(|error| Failure::new(2, error.to_string()))?;
        self.run(&step, text)
    }

    fn run(&mut self, step: &Step, text: &str) -> anyhow::Result<()> {
        self.world.step(step)?;
        if let Some(recorded) = &mut self.recorded {
            recorded.push(text.trim().to_owned());
        }
        Ok(())
    }

    fn logs(&mut self) -> anyhow::Result<()> {
        let mut views = self.lab()?.look()?;
        views.sort_by_key(|view| (std::cmp::Reverse((view.is_leader(), view.term)), view.node));
        views.iter().try_for_each(|view| self.voice.say(log_line(view)))
    }

    fn watch(&mut self, duration: Duration) -> anyhow::Result<()> {
        if self.world.kind() == Kind::Sim {
            // Virtual time passes at once.
            return self.step(&format!("run {}ms", duration.as_millis()));
        }
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let step = parse_step("run 50ms", self.world.nodes()).expect("it is a step");
            self.world.step(&step)?;
        }
        Ok(())
    }

    fn profile(&mut self, profile: Profile) -> anyhow::Result<()> {
        let input = &mut *self.input;
        let mut ask = |prompt: &str| -> anyhow::Result<String> {
            Ok(input.line(prompt, &Offered::default())?.unwrap_or_default().trim().to_owned())
        };
        let said = self.world.profile(profile, &mut ask)?;
        self.voice.say(said)?;
        if self.recorded.take().is_some() {
            self.voice.say("the recording ended: a script has one profile; record start again")?;
        }
        Ok(())
    }

    /// Tells a scenario in a simulator of its own: the shell's cluster is left alone.
    fn play(&mut self, name: &str) -> anyhow::Result<()> {
        let input = &mut *self.input;
        let pace = if input.is_person() { 1.0 } else { 0.0 };
        let voice = self.voice.clone();
        let say = |text: &str| {
            // Whoever looks away stops nothing.
            let _ = voice.say(text);
        };
        let ask = |prompt: &str| input.line(prompt, &Offered::default()).ok().flatten();
        if !play(name, pace, say, ask)? {
            bail!("{name} did not end as it should");
        }
        Ok(())
    }

    /// Begins to write down what is typed.
    fn record(&mut self) -> anyhow::Result<()> {
        if self.world.branches().is_some() {
            return self.voice.say("all is written down here: `save FILE` writes it as a script");
        }
        // The script must begin with the leader that the person saw.
        self.recorded = Some(vec![format!("elect {} win", self.leader()?)]);
        self.voice.say("recording: `save FILE` writes what is typed from here on as a script")
    }

    /// Writes what was recorded as a script, and says whether it passes in the simulator.
    fn save(&mut self, file: &str) -> anyhow::Result<()> {
        let steps = match self.world.branches() {
            Some(branches) => branches.lines(),
            None => self.recorded.clone().context("nothing was recorded: record start first")?,
        };
        let mut text =
            format!("title \"Recorded\"   cite \"a shell\"\n{}\n\n", self.world.header());
        for step in &steps {
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
        let count = steps.len();
        self.voice.say(match report.failures.first() {
            None => format!(
                "{file}: {count} steps; it passes in the simulator (again: tercet lab run {file})"
            ),
            Some(failure) => format!(
                "{file}: {count} steps; in the simulator line {} fails: {}",
                failure.line, failure.found
            ),
        })
    }

    fn ask(&mut self, prompt: &str) -> anyhow::Result<String> {
        let answer = self.input.line(prompt, &Offered::default())?;
        Ok(answer.unwrap_or_default().trim().to_owned())
    }

    /// Who leads, by name.
    fn leader(&mut self) -> anyhow::Result<String> {
        let views = self.lab()?.look()?;
        let leader = views.iter().filter(|view| view.is_leader()).max_by_key(|view| view.term);
        let leader = leader.context("nobody leads now: `why` says what keeps the nodes from it")?;
        Ok(leader.node.to_string())
    }

    fn others(&mut self, node: &str) -> anyhow::Result<Vec<String>> {
        let views = self.lab()?.look()?;
        let names = views.iter().map(|view| view.node.to_string());
        let names: BTreeSet<String> = names.filter(|name| name != node).collect();
        Ok(names.into_iter().collect())
    }
}

/// A node with its log on a line.
fn log_line(view: &NodeView) -> String {
    let mark = if view.is_leader() { "★" } else { " " };
    let state = match (view.up, view.paused) {
        (false, _) => "down".to_owned(),
        (true, true) => "paused".to_owned(),
        (true, false) => view.role.to_string(),
    };
    format!(
        "{} {mark} @{} {state:<11} commit={} log = {}",
        view.node,
        view.term,
        view.commit,
        view.log_text()
    )
}

/// What completion may offer of nodes and messages in a lab.
fn offered_of(kind: Kind, lab: &mut dyn Lab) -> Offered {
    let held = lab.held().unwrap_or_default();
    let views = lab.look().unwrap_or_default();
    let named = |keep: &dyn Fn(&NodeView) -> bool| {
        views.iter().filter(|view| keep(view)).map(|view| view.node.to_string()).collect()
    };
    Offered {
        kind,
        up: named(&|view| view.up && !view.paused),
        down: named(&|view| !view.up),
        paused: named(&|view| view.paused),
        held: held.iter().map(|held| format!("#{}", held.number)).collect(),
        branches: Vec::new(),
    }
}

const fn profile_name(profile: Profile) -> &'static str {
    match profile {
        Profile::Paper => "paper",
        Profile::Modern => "modern",
    }
}
