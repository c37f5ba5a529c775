//! The words of the shell: what `help` lists and Tab completes. How those of the language are written
//! in full is in docs/lab.md.

use crate::config::distance;

/// What a shell stands over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Kind {
    /// Nodes without the lab.
    #[default]
    Plain,
    /// Nodes with the lab.
    Real,
    /// The simulator.
    Sim,
}

impl Kind {
    pub(crate) const fn prompt(self) -> &'static str {
        match self {
            Self::Plain => "tercet> ",
            Self::Real => "lab> ",
            Self::Sim => "sim> ",
        }
    }
}

/// Where a word is understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Needs {
    Nothing,
    /// Nodes with the lab, or the simulator.
    Lab,
    /// The simulator.
    Sim,
}

/// A word with its arguments and what it does.
#[derive(Debug)]
pub(crate) struct Word {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static str,
    pub(crate) what: &'static str,
    pub(crate) needs: Needs,
    /// Not of the language, but of the shell.
    pub(crate) own: bool,
}

const fn own(
    name: &'static str,
    arguments: &'static str,
    what: &'static str,
    needs: Needs,
) -> Word {
    Word { name, arguments, what, needs, own: true }
}

const fn step(
    name: &'static str,
    arguments: &'static str,
    what: &'static str,
    needs: Needs,
) -> Word {
    Word { name, arguments, what, needs, own: false }
}

use Needs::{Lab, Nothing, Sim};

pub(crate) const WORDS: &[Word] = &[
    own("menu", "", "the numbered list of the lab class: 1 to 4", Lab),
    own("status", "", "what each node says of itself", Nothing),
    own("logs", "", "every node's log, leader first", Lab),
    own("explain", "", "how the cluster is, in words", Nothing),
    own(
        "why",
        "[NODE]",
        "the reasons behind the last refusals, and what keeps a value from being committed",
        Lab,
    ),
    own("watch", "[5s]", "tell what happens for a while", Lab),
    step("submit", "VALUE… [via=n1] [nowait]", "append values: submit a \"two words\"", Nothing),
    step("retry", "NAME", "send a request again: submit a as=W nowait, then retry W", Lab),
    step("read", "[via=n1] [stale]", "print committed values", Nothing),
    step("crash", "NODE", "kill -9: crash n2", Nothing),
    step("restart", "NODE", "start a node that is down: restart n2", Nothing),
    step("pause", "NODE", "let a process stand still (SIGSTOP): pause leader", Lab),
    step("resume", "NODE", "let it go on: resume n1", Lab),
    step(
        "wipe",
        "NODE [log|meta|all]",
        "delete a node's files, all if it is not said: wipe n2 log",
        Nothing,
    ),
    step(
        "tear",
        "NODE last N",
        "cut the last entries of a node that is down short: tear n2 last 1",
        Lab,
    ),
    step(
        "set",
        "NODE heartbeat=20s [until=stepdown]",
        "slow heartbeats, a slow disk (disk=slow), a wrong clock (clock=+1h)",
        Lab,
    ),
    step(
        "cut",
        "A | B",
        "lose all messages between two sides: cut n1 | n2 n3; one way: cut n1 -> n2",
        Lab,
    ),
    step("isolate", "NODE", "cut a node from all others", Lab),
    step("reset", "A | B", "close the connections between two sides: reset n1 | n2", Lab),
    step("heal", "", "no cuts, delays and losses any more", Lab),
    step("delay", "n1->n2 50ms", "slow a direction down", Lab),
    step("drop", "next 2 Append n1->n3", "lose the next messages of a kind", Lab),
    step("dup", "next 1 Vote n1->n3", "double the next messages of a kind", Lab),
    step("hold", "n1->n2 [KIND]", "keep messages at the gate", Lab),
    step("list", "held", "the messages that are kept", Lab),
    step("deliver", "#12", "let a kept message go: deliver type=VoteReply to=n1", Lab),
    step("discard", "#12", "lose a kept message", Lab),
    step("release", "[n1->n2]", "keep nothing any more", Lab),
    step("elect", "NODE [win]", "fire a node's election timer: elect n2 win", Lab),
    step("transfer", "[NODE]", "the leader hands over: transfer n2", Nothing),
    step("freeze", "n1.timers", "stop election timers: freeze all.timers", Lab),
    step("thaw", "n1.timers", "let them run again: thaw all.timers", Lab),
    step("run", "300ms", "let time pass", Nothing),
    step("settle", "", "wait until nothing changes any more", Lab),
    step("wait", "PREDICATE [within 5s]", "wait for something: wait leader != n1", Lab),
    step("expect", "PREDICATE", "check something: expect leader = n2", Lab),
    step("let", "NAME = NODE", "give a node a name: let L = leader, then crash $L", Lab),
    step("mark", "NAME", "give this moment a name, for expect … since NAME", Lab),
    step("say", "\"TEXT\"", "a sentence of the narrator", Lab),
    step("mutant", "RULE on|off", "switch a rule of Raft off: mutant commit-old-terms on", Lab),
    own("profile", "paper|modern", "start the nodes again as Figure 2 alone, or with all", Lab),
    own("play", "NAME|FILE", "tell a scenario, in a simulator of its own: play figure-8", Lab),
    own("record", "start", "begin to write down what is typed", Lab),
    own("save", "FILE", "save what was written down as a script: save my.lab", Lab),
    own(
        "export",
        "trace|svg|mermaid|shiviz [FILE]",
        "write what happened as a diagram: export svg my.svg",
        Lab,
    ),
    own("undo", "", "take the last command back", Sim),
    own("back", "N", "take the last N commands back: back 3", Sim),
    own("history", "", "the commands that led here", Sim),
    own("fork", "[NAME]", "go on from here on another branch; this one stays as it is", Sim),
    own("switch", "NAME", "to another branch", Sim),
    own("branches", "", "all branches, and where each is", Sim),
    own("json", "on|off", "status and explain as JSON, or in words", Nothing),
    own("help", "[WORD]", "this list, or one word with its example", Nothing),
    own("quit", "", "end; nodes that were started here are stopped, their data stays", Nothing),
];

/// The numbers of the menu are words, too.
pub(crate) const NUMBERS: [&str; 4] = ["1", "2", "3", "4"];

pub(crate) fn find(name: &str) -> Option<&'static Word> {
    WORDS.iter().find(|word| word.name == name)
}

impl Word {
    /// Whether it is understood there.
    pub(crate) const fn is_for(&self, kind: Kind) -> bool {
        match self.needs {
            Nothing => true,
            Lab => !matches!(kind, Kind::Plain),
            Sim => matches!(kind, Kind::Sim),
        }
    }

    /// What to do where it is not.
    pub(crate) fn instead(&self) -> String {
        match self.needs {
            Nothing | Lab => needs_the_lab(self.name),
            Sim => format!(
                "\"{}\" needs the simulator, because what real nodes did cannot be undone: `record start` and `save \
                 my.lab` keep what is typed, and `tercet sh --sim` takes commands back",
                self.name
            ),
        }
    }
}

/// What is answered where nodes run without the lab.
pub(crate) fn needs_the_lab(what: &str) -> String {
    format!("\"{what}\" needs the lab: start the nodes with `tercet dev --lab`")
}

/// A word that does not exist, with the one that was probably meant.
pub(crate) fn unknown(word: &str) -> String {
    let nearest = WORDS.iter().map(|word| word.name).min_by_key(|name| distance(word, name));
    match nearest.filter(|name| distance(word, name) <= 2) {
        Some(name) => format!("\"{word}\" is unknown. Did you mean \"{name}\"?"),
        None => format!("\"{word}\" is unknown: help lists the words"),
    }
}

/// The list of `help`.
pub(crate) fn help(kind: Kind) -> Vec<String> {
    let mut lines: Vec<String> = WORDS
        .iter()
        .filter(|word| word.is_for(kind))
        .map(|word| {
            let usage = format!("{} {}", word.name, word.arguments);
            format!("{usage:<44} {}", word.what)
        })
        .collect();
    match kind {
        Kind::Plain => {
            lines.push("`tercet dev --lab` has more: it cuts, holds, pauses and bends".to_owned());
        }
        Kind::Real => {
            let words: Vec<&str> =
                WORDS.iter().filter(|word| word.needs == Sim).map(|word| word.name).collect();
            lines.push(format!("`tercet sh --sim` has more: {}", words.join(", ")));
        }
        Kind::Sim => {}
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_answered() {
        assert!(unknown("sumbit").contains("Did you mean \"submit\""));
        assert!(unknown("xyzzy").contains("help"));
    }

    #[test]
    fn each_word_says_where_it_is_understood() {
        for word in WORDS {
            assert!(word.is_for(Kind::Sim), "{}", word.name);
            let in_help = |kind| {
                let start = format!("{} ", word.name);
                help(kind).iter().any(|line| line.starts_with(&start))
            };
            for kind in [Kind::Plain, Kind::Real, Kind::Sim] {
                assert_eq!(in_help(kind), word.is_for(kind), "{} in {kind:?}", word.name);
            }
        }
        assert!(find("cut").expect("a word").instead().contains("tercet dev --lab"));
        assert!(find("undo").expect("a word").instead().contains("tercet sh --sim"));
    }

    /// Whatever the language has is in the list, so that Tab knows it.
    #[test]
    fn examples_are_of_the_language() {
        for word in WORDS.iter().filter(|word| !word.own) {
            let example = word.what.split_once(": ").map(|(_, example)| example);
            let Some(example) = example.filter(|example| example.starts_with(word.name)) else {
                continue;
            };
            let example = example.split([';', ',']).next().unwrap_or(example);
            let read = tercet_lab::parse_step(example, 3);
            assert!(read.is_ok(), "{example}: {}", read.err().map_or(String::new(), |e| e.message));
        }
    }
}
