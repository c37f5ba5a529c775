//! The commands of the prompt.

use bytes::Bytes;
use tercet_client::{Client, SubmitOptions};
use tokio::runtime::Runtime;

use std::sync::MutexGuard;

use super::supervisor::{SharedSupervisor, Supervisor};
use crate::commands::{print_explain, print_status, read_values, submit_values};
use crate::config::distance;
use crate::output;

/// A cluster and what is done to it.
#[derive(Debug)]
pub(crate) struct Shell {
    cluster: SharedSupervisor,
    pub(crate) client: Client,
    pub(crate) runtime: Runtime,
    pub(crate) json: bool,
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    Go,
    Quit,
}

/// The commands, each with its arguments and what it does.
pub(crate) const COMMANDS: [(&str, &str, &str); 11] = [
    ("submit", "VALUE…", "append values, all or none; quote what has spaces: submit \"two words\""),
    ("read", "[FROM] [LIMIT]", "print committed values"),
    ("status", "", "what each node says of itself"),
    ("explain", "", "how the cluster is, in words"),
    ("transfer", "[NODE]", "hand leadership over: transfer n2"),
    ("crash", "NODE", "kill -9 a node's process: crash n2"),
    ("restart", "NODE", "start a node that is down: restart n2"),
    ("wipe", "NODE", "kill a node and delete its directory; restart it, and it rejoins"),
    ("json", "on|off", "print JSON, or words"),
    ("help", "[COMMAND]", "this list"),
    ("quit", "", "stop all nodes; their data stays"),
];

/// Splits a line into words; quotes keep spaces.
pub(crate) fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut in_word) = (Vec::new(), String::new(), false);
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', Some('"') | None) => {
                word.push(chars.next().ok_or("a backslash at the end of the line")?);
                in_word = true;
            }
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                in_word = true;
            }
            ('#', None) if !in_word => break,
            (c, None) if c.is_whitespace() => {
                if in_word {
                    words.push(std::mem::take(&mut word));
                    in_word = false;
                }
            }
            (c, None) => {
                word.push(c);
                in_word = true;
            }
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    if in_word {
        words.push(word);
    }
    Ok(words)
}

impl Shell {
    pub(crate) const fn new(
        cluster: SharedSupervisor,
        client: Client,
        runtime: Runtime,
        json: bool,
    ) -> Self {
        Self { cluster, client, runtime, json }
    }

    /// The node processes; held for one action at a time, so that a signal can stop them.
    pub(crate) fn cluster(&self) -> MutexGuard<'_, Supervisor> {
        super::supervisor::lock(&self.cluster)
    }

    /// Runs one line.
    pub(crate) fn run(&mut self, line: &str) -> anyhow::Result<Next> {
        let words = words(line).map_err(anyhow::Error::msg)?;
        let Some((command, arguments)) = words.split_first() else {
            return Ok(Next::Go);
        };
        match (command.as_str(), arguments) {
            ("submit", []) => anyhow::bail!("submit what? For example: submit 1"),
            ("submit", values) => {
                let values = values.iter().cloned().map(Bytes::from).collect();
                self.runtime.block_on(submit_values(
                    &self.client,
                    values,
                    SubmitOptions::default(),
                    self.json,
                ))?;
            }
            ("read", arguments) => {
                let number = |at: usize, default: u64| match arguments.get(at) {
                    None => Ok(default),
                    Some(text) => text
                        .parse()
                        .map_err(|_| anyhow::anyhow!("read: \"{text}\" is not a number")),
                };
                let (from, limit) = (number(0, 1)?, number(1, 1000)?);
                self.runtime.block_on(read_values(&self.client, from, limit, false, self.json))?;
            }
            ("status", []) => self.runtime.block_on(print_status(&self.client, self.json))?,
            ("explain", []) => {
                self.runtime.block_on(print_explain(&self.client, self.json))?;
            }
            ("transfer", arguments) => {
                let to = match arguments.first() {
                    None => None,
                    Some(name) => Some(u32::try_from(self.node(name)?)?),
                };
                let leader =
                    self.runtime.block_on(self.client.transfer(to)).map_err(anyhow::Error::from)?;
                output::line(format!("n{leader} leads"))?;
            }
            ("crash", [name]) => {
                let id = self.node(name)?;
                if !self.cluster().is_running(id) {
                    anyhow::bail!("n{id} is down already: restart n{id} first");
                }
                let pid = self.cluster().crash(id)?;
                output::line(format!("n{id} killed (pid {pid})"))?;
            }
            ("restart", [name]) => {
                let id = self.node(name)?;
                if self.cluster().is_running(id) {
                    anyhow::bail!("n{id} runs: crash n{id} first");
                }
                self.cluster().start(id)?;
                output::line(format!("n{id} started"))?;
            }
            ("wipe", [name]) => {
                let id = self.node(name)?;
                let was_running = self.cluster().wipe(id)?;
                let killed = if was_running { "killed, and " } else { "" };
                output::line(format!(
                    "n{id}: {killed}its directory is deleted. restart n{id}: it rejoins, mute until the others have readmitted it"
                ))?;
            }
            ("json", [word]) if word == "on" || word == "off" => self.json = word == "on",
            ("help", []) => {
                for (name, arguments, what) in COMMANDS {
                    output::line(format!("{:<24} {what}", format!("{name} {arguments}")))?;
                }
            }
            ("help", [name]) => {
                let found = COMMANDS.iter().find(|(command, ..)| command == name);
                let (name, arguments, what) = found.ok_or_else(|| unknown(name))?;
                output::line(format!("{name} {arguments}\n  {what}"))?;
            }
            ("quit" | "exit", _) => return Ok(Next::Quit),
            (command, _) => {
                let known = COMMANDS.iter().find(|(name, ..)| *name == command);
                return Err(known.map_or_else(
                    || unknown(command),
                    |(name, arguments, _)| anyhow::anyhow!("it is: {name} {arguments}"),
                ));
            }
        }
        Ok(Next::Go)
    }

    fn node(&self, name: &str) -> anyhow::Result<usize> {
        let count = self.cluster().count();
        let id = name.strip_prefix('n').unwrap_or(name).parse().ok();
        id.filter(|id| (1..=count).contains(id)).ok_or_else(|| {
            anyhow::anyhow!("there is no node \"{name}\": the nodes are n1 to n{count}")
        })
    }
}

fn unknown(command: &str) -> anyhow::Error {
    if crate::lab_shell::WORDS.iter().any(|(word, ..)| *word == command) {
        return anyhow::anyhow!("\"{command}\" needs the lab: start with `tercet dev --lab`");
    }
    let nearest =
        COMMANDS.iter().map(|(name, ..)| *name).min_by_key(|name| distance(command, name));
    match nearest.filter(|name| distance(command, name) <= 2) {
        Some(name) => anyhow::anyhow!("\"{command}\" is unknown. Did you mean \"{name}\"?"),
        None => anyhow::anyhow!("\"{command}\" is unknown: help lists the commands"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_words() {
        assert_eq!(words("submit a b").unwrap(), ["submit", "a", "b"]);
        assert_eq!(
            words(r#"submit "two words" 'it''s' a\ b "" # said"#).unwrap(),
            ["submit", "two words", "its", "a b", ""]
        );
        assert_eq!(words("  ").unwrap(), Vec::<String>::new());
        assert_eq!(words("submit a#b").unwrap(), ["submit", "a#b"]);
        assert!(words("submit \"a").is_err() && words("a\\").is_err());
    }

    #[test]
    fn typing_errors_are_answered() {
        assert!(unknown("sumbit").to_string().contains("Did you mean \"submit\""));
        assert!(unknown("xyzzy").to_string().contains("help"));
        assert!(unknown("cut").to_string().contains("--lab"));
    }
}
