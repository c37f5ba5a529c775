//! The simulator as a shell's world. It is deterministic: the same commands from the same seed lead to
//! the same state, event by event. So nothing has to be saved to go back: a state is reached again by
//! doing again what led there.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tercet_lab::ast::{Script, Step, Timers};
use tercet_lab::backend::{Backend as _, NodeView};
use tercet_lab::{Lab, Runner, SimBackend, parse, parse_step};
use tercet_raft::Profile;

use super::input::Offered;
use super::real::cluster_line;
use super::words::Kind;
use super::{Voice, World, offered_of, profile_name};

/// The branch that a shell begins with.
const MAIN: &str = "main";
/// How a branch with running timers begins: with a leader, as `tercet dev` does.
const FIRST: &str = "wait leader != none";

/// How a simulated cluster is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SimOptions {
    pub(crate) nodes: u8,
    pub(crate) seed: u64,
    pub(crate) profile: Profile,
    pub(crate) timers: Timers,
}

/// What was typed on a line.
#[derive(Clone, Debug)]
struct Typed {
    text: String,
    /// What it came to: several steps if it was of the menu.
    steps: Vec<Step>,
}

/// A way from the beginning.
#[derive(Clone, Debug)]
struct Branch {
    profile: Profile,
    typed: Vec<Typed>,
}

/// What can be done with a world that can be built again. Each says where one is then.
pub(crate) trait Branches {
    /// Takes the last commands back.
    fn back(&mut self, count: usize) -> anyhow::Result<String>;
    /// The commands that led here.
    fn history(&self) -> Vec<String>;
    /// Goes on from here under another name.
    fn fork(&mut self, name: Option<&str>) -> anyhow::Result<String>;
    /// Goes to another branch.
    fn switch(&mut self, name: &str) -> anyhow::Result<String>;
    /// All branches.
    fn list(&self) -> Vec<String>;
    /// The steps that led here, as lines of a script.
    fn lines(&self) -> Vec<String>;
}

pub(crate) struct Sim {
    options: SimOptions,
    voice: Voice,
    branches: BTreeMap<String, Branch>,
    current: String,
    runner: Runner<'static, SimBackend>,
    /// What was typed, until its first step shows that it is a command.
    line: Option<String>,
}

impl Sim {
    /// A cluster that nothing was done to.
    ///
    /// # Errors
    /// The simulator cannot set it up.
    pub(crate) fn new(options: SimOptions, voice: &Voice) -> anyhow::Result<Self> {
        let branch = Branch { profile: options.profile, typed: Vec::new() };
        let runner = voice.anew(|| build(options, &branch, voice))?;
        Ok(Self {
            options,
            voice: voice.clone(),
            branches: BTreeMap::from([(MAIN.to_owned(), branch)]),
            current: MAIN.to_owned(),
            runner,
            line: None,
        })
    }

    fn branch(&self) -> &Branch {
        &self.branches[&self.current]
    }

    fn branch_mut(&mut self) -> &mut Branch {
        self.branches.get_mut(&self.current).expect("the current branch exists")
    }

    /// Builds the current branch's state.
    fn rebuild(&mut self) -> anyhow::Result<String> {
        let branch = self.branches[&self.current].clone();
        let voice = self.voice.clone();
        self.runner = voice.anew(|| build(self.options, &branch, &voice))?;
        Ok(self.place())
    }

    /// Where one is, in words.
    fn place(&self) -> String {
        let count = self.branch().typed.len();
        let commands = if count == 1 { "1 command" } else { &format!("{count} commands") };
        format!("{}: {commands}, {}", self.current, millis(self.runner.world().elapsed()))
    }

    /// A name that no branch has.
    fn fresh(&self, stem: &str) -> String {
        let names = (2..).map(|number| format!("{stem}{number}"));
        let mut names = std::iter::once(stem.to_owned()).chain(names);
        names.find(|name| !self.branches.contains_key(name)).expect("there is always a next number")
    }
}

fn header(options: SimOptions, profile: Profile) -> String {
    let timers = if options.timers == Timers::Manual { "manual" } else { "auto" };
    let rest = format!("timers={timers} seed={}", options.seed);
    cluster_line(options.nodes, profile, &rest)
}

fn first_steps(options: SimOptions) -> Vec<Step> {
    let first = || parse_step(FIRST, options.nodes).expect("it is a step");
    if options.timers == Timers::Auto { vec![first()] } else { Vec::new() }
}

/// Does again what led to a branch's state.
fn build(
    options: SimOptions,
    branch: &Branch,
    voice: &Voice,
) -> anyhow::Result<Runner<'static, SimBackend>> {
    let script: Script = parse(&header(options, branch.profile))
        .map_err(|errors| anyhow::anyhow!("{}", errors[0]))?;
    let backend = SimBackend::new(&script, options.seed)?;
    let mut runner = Runner::new(&script, backend, voice.teller());
    let typed = branch.typed.iter().flat_map(|typed| &typed.steps);
    for step in first_steps(options).iter().chain(typed) {
        // What failed then fails again in the same way, and is a part of the history.
        let _ = runner.run_line(step);
    }
    Ok(runner)
}

fn millis(at: Duration) -> String {
    format!("{:.1} ms", at.as_secs_f64() * 1000.0)
}

impl Branches for Sim {
    fn back(&mut self, count: usize) -> anyhow::Result<String> {
        let typed = &mut self.branch_mut().typed;
        let Some(left) = typed.len().checked_sub(count) else {
            match typed.len() {
                0 => bail!("nothing was done here yet"),
                all => bail!("only {all} commands led here: `back {all}` is the beginning"),
            }
        };
        let undone: Vec<String> = typed.drain(left..).map(|typed| typed.text).collect();
        let place = self.rebuild()?;
        Ok(format!("taken back: {}\n{place}", undone.join(" · ")))
    }

    fn history(&self) -> Vec<String> {
        let numbered = self.branch().typed.iter().zip(1..);
        let mut lines: Vec<String> =
            numbered.map(|(typed, number)| format!("{number:>4}  {}", typed.text)).collect();
        lines.push(self.place());
        lines
    }

    fn fork(&mut self, name: Option<&str>) -> anyhow::Result<String> {
        let name = match name {
            Some(name) if self.branches.contains_key(name) => {
                bail!("there is a branch {name} already: `switch {name}` goes there")
            }
            Some(name) => name.to_owned(),
            None => self.fresh("fork"),
        };
        let from = std::mem::replace(&mut self.current, name.clone());
        let branch = self.branches[&from].clone();
        self.branches.insert(name, branch);
        Ok(format!("{}   (`switch {from}` goes back)", self.place()))
    }

    fn switch(&mut self, name: &str) -> anyhow::Result<String> {
        if !self.branches.contains_key(name) {
            let known: Vec<&str> = self.branches.keys().map(String::as_str).collect();
            bail!("there is no branch {name}: there are {}", known.join(", "));
        }
        name.clone_into(&mut self.current);
        self.rebuild()
    }

    fn list(&self) -> Vec<String> {
        self.branches
            .iter()
            .map(|(name, branch)| {
                let mark = if *name == self.current { "*" } else { " " };
                let last = branch.typed.last().map_or("", |typed| &typed.text);
                let profile = profile_name(branch.profile);
                format!("{mark} {name:<12} {profile:<6} {:>3} commands  {last}", branch.typed.len())
            })
            .collect()
    }

    fn lines(&self) -> Vec<String> {
        let first = first_steps(self.options);
        let typed = self.branch().typed.iter().flat_map(|typed| &typed.steps);
        first.iter().chain(typed).map(|step| step.text.clone()).collect()
    }
}

impl World for Sim {
    fn kind(&self) -> Kind {
        Kind::Sim
    }

    fn nodes(&self) -> u8 {
        self.options.nodes
    }

    fn lab(&mut self) -> Option<&mut dyn Lab> {
        Some(&mut self.runner)
    }

    fn begin(&mut self, text: &str) {
        self.line = Some(text.trim().to_owned());
    }

    fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        if let Some(text) = self.line.take() {
            self.branch_mut().typed.push(Typed { text, steps: Vec::new() });
        }
        let typed = self.branch_mut().typed.last_mut();
        typed.context("a step belongs to a line")?.steps.push(step.clone());
        self.runner.run_line(step).map_err(anyhow::Error::msg)
    }

    fn status(&mut self) -> anyhow::Result<(Value, String)> {
        let views = self.runner.look()?;
        let at = self.runner.world().elapsed();
        let nodes: Vec<Value> = views.iter().map(crate::commands::view_json).collect();
        let value = json!({"seed": self.options.seed, "branch": self.current,
            "at_us": u64::try_from(at.as_micros()).unwrap_or(u64::MAX), "nodes": nodes});
        let mut lines = vec![format!(
            "SIM · seed {} · {} · {}",
            self.options.seed,
            profile_name(self.branch().profile),
            self.place()
        )];
        lines.extend(views.iter().map(super::log_line));
        Ok((value, lines.join("\n")))
    }

    fn explain(&mut self) -> anyhow::Result<(Value, String)> {
        let views = self.runner.look()?;
        let leader = views.iter().filter(|view| view.is_leader()).max_by_key(|view| view.term);
        let up = views.iter().filter(|view| view.up && !view.paused).count();
        let who = leader.map_or_else(
            || "nobody leads".to_owned(),
            |view| format!("{} leads in term {}", view.node, view.term),
        );
        let summary = format!("{who}; {up} of {} nodes run", views.len());
        let mut findings: Vec<String> = super::why::stall(&views).into_iter().collect();
        let behind =
            |view: &&NodeView| view.up && leader.is_some_and(|leader| view.commit < leader.commit);
        findings.extend(views.iter().filter(behind).map(|view| {
            format!("{} knows only {} entries to be committed", view.node, view.commit)
        }));
        let text = findings.iter().map(|finding| format!("\n- {finding}")).collect::<String>();
        Ok((json!({"summary": summary, "findings": findings}), format!("{summary}{text}")))
    }

    fn offered(&mut self) -> Offered {
        let others = self.branches.keys().filter(|name| **name != self.current);
        let branches = others.cloned().collect();
        Offered { branches, ..offered_of(Kind::Sim, &mut self.runner) }
    }

    fn header(&self) -> String {
        header(self.options, self.branch().profile)
    }

    fn profile(
        &mut self,
        profile: Profile,
        _: &mut dyn FnMut(&str) -> anyhow::Result<String>,
    ) -> anyhow::Result<String> {
        let name = profile_name(profile);
        if self.branch().profile == profile && self.branch().typed.is_empty() {
            return Ok(format!("it is {name} already"));
        }
        let from = self.current.clone();
        self.current = self.fresh(name);
        self.branches.insert(self.current.clone(), Branch { profile, typed: Vec::new() });
        let place = self.rebuild()?;
        Ok(format!(
            "a new cluster, {name}, on a branch of its own   (`switch {from}` goes back)\n{place}"
        ))
    }

    fn branches(&mut self) -> Option<&mut dyn Branches> {
        Some(self)
    }

    fn stop(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::super::voice::Mode;
    use super::*;

    fn sim(seed: u64) -> Sim {
        let options = SimOptions { nodes: 3, seed, profile: Profile::Modern, timers: Timers::Auto };
        Sim::new(options, &Voice::new(Mode::Silent, false)).expect("a cluster")
    }

    fn type_in(sim: &mut Sim, text: &str) {
        sim.begin(text);
        sim.step(&parse_step(text, 3).expect("a step")).expect("it can be done");
    }

    /// All that there is to be seen of a state.
    fn seen(sim: &mut Sim) -> (Vec<NodeView>, Duration, Vec<String>) {
        let views = sim.runner.look().expect("a look");
        let events = sim.runner.events().iter();
        let events = events.map(|event| format!("{:?} {} {}", event.at, event.node, event.text));
        (views, sim.runner.world().elapsed(), events.collect())
    }

    #[test]
    fn a_state_is_reached_again_exactly() {
        for seed in 1..20 {
            let mut sim = sim(seed);
            let mut states = vec![seen(&mut sim)];
            for text in
                ["submit a b", "crash leader", "wait leader != none", "submit c", "restart all"]
            {
                // The last fails: not all are down. It is a part of the history all the same.
                sim.begin(text);
                let _ = sim.step(&parse_step(text, 3).expect("a step"));
                states.push(seen(&mut sim));
            }
            for before in states.iter().rev().skip(1) {
                sim.back(1).expect("something was done");
                assert_eq!(seen(&mut sim), *before, "seed {seed}");
            }
            assert!(sim.back(1).is_err());
        }
    }

    #[test]
    fn branches_do_not_know_each_other() {
        let mut sim = sim(7);
        type_in(&mut sim, "submit a");
        let before = seen(&mut sim);
        sim.fork(Some("what-if")).expect("a new name");
        assert_eq!(seen(&mut sim), before);
        type_in(&mut sim, "crash leader");
        type_in(&mut sim, "run 1s");
        let there = seen(&mut sim);
        assert!(sim.fork(Some("main")).is_err());
        sim.switch("main").expect("it exists");
        assert_eq!(seen(&mut sim), before);
        sim.switch("what-if").expect("it exists");
        assert_eq!(seen(&mut sim), there);
        assert_eq!(sim.back(3).map(|_| ()).map_err(|_| ()), Ok(()));
        let error = sim.switch("nowhere").expect_err("it does not exist").to_string();
        assert!(error.contains("main, what-if"), "{error}");
    }

    #[test]
    fn another_profile_is_another_cluster() {
        let mut sim = sim(3);
        type_in(&mut sim, "submit a");
        let before = seen(&mut sim);
        sim.profile(Profile::Paper, &mut |_| bail!("it does not ask")).expect("a new cluster");
        assert_eq!(sim.current, "paper");
        // Figure 2 has no no-op.
        assert!(seen(&mut sim).0.iter().all(|view| view.log.is_empty()));
        sim.switch(MAIN).expect("it is still there");
        assert_eq!(seen(&mut sim), before);
    }
}
