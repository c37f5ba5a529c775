//! What stands before the first step: title, sources, cluster, the worlds it needs, mutants. Knows
//! no steps.
//!
//! The one idea: header words may share a line, so each reads exactly what belongs to it.

use tercet_raft::Profile;

use super::cursor::{Cursor, Result, Word};
use super::error::quoted;
use super::words::{
    HEADER_WORDS, MUTANTS, PROFILES, RECOVERIES, SWITCH, TIMERS, WORLDS, node_name,
};
use crate::ast::{Header, Mutant, Recovery, Requires, Timers, World};

/// The most nodes that a script can have.
const MOST_NODES: u8 = 7;

/// A header that grows line by line.
#[derive(Clone, Default, Debug)]
pub(super) struct Draft {
    title: Option<String>,
    cites: Vec<String>,
    cluster: Option<Cluster>,
    /// With the line.
    requires: Option<(Requires, usize)>,
    mutants: Vec<Mutant>,
}

#[derive(Clone, Copy, Debug)]
struct Cluster {
    nodes: u8,
    profile: Profile,
    timers: Timers,
    recovery: Recovery,
    seed: u64,
}

impl Default for Cluster {
    /// What holds where the `cluster` line says nothing.
    fn default() -> Self {
        Self {
            nodes: MOST_NODES,
            profile: Profile::Modern,
            timers: Timers::Auto,
            recovery: Recovery::Quarantine,
            seed: 1,
        }
    }
}

/// Whether the line is one of the header, not a step. `mutant NAME on` is a step.
pub(super) fn begins(cursor: &Cursor) -> bool {
    let mut ahead = cursor.clone();
    let Some(word) = ahead.name() else { return false };
    match word.text.as_str() {
        "mutant" => ahead.name().is_some() && ahead.choice(SWITCH).is_err(),
        "given" => false,
        other => HEADER_WORDS.contains(&other),
    }
}

impl Draft {
    /// Reads a line of header words.
    pub(super) fn read(&mut self, cursor: &mut Cursor) -> Result<()> {
        while !cursor.at_end() {
            let Some(word) = cursor.name() else { return Err(cursor.expected("a header word")) };
            match word.text.as_str() {
                "title" => self.read_title(cursor, &word)?,
                "cite" => self.cites.push(cursor.string("a source in quotes")?),
                "cluster" => self.read_cluster(cursor, &word)?,
                "requires" => self.read_requires(cursor, &word)?,
                "mutant" => self.read_mutant(cursor)?,
                _ => return Err(cursor.unknown(&word, &HEADER_WORDS[..4])),
            }
        }
        Ok(())
    }

    /// How many nodes there are, if the cluster was said.
    pub(super) fn nodes(&self) -> Option<u8> {
        self.cluster.map(|cluster| cluster.nodes)
    }

    /// Goes on without a cluster: it was complained about.
    pub(super) fn assume_cluster(&mut self) -> u8 {
        self.cluster.get_or_insert_default().nodes
    }

    /// Whether only real processes will do.
    pub(super) fn requires_real(&self) -> bool {
        self.requires.as_ref().is_some_and(|(requires, _)| requires.world == World::Real)
    }

    /// The header.
    pub(super) fn finish(self) -> Header {
        let cluster = self.cluster.unwrap_or_default();
        Header {
            title: self.title.unwrap_or_default(),
            cites: self.cites,
            nodes: cluster.nodes,
            profile: cluster.profile,
            timers: cluster.timers,
            recovery: cluster.recovery,
            seed: cluster.seed,
            requires: self.requires.map(|(requires, _)| requires),
            mutants: self.mutants,
        }
    }

    fn read_title(&mut self, cursor: &mut Cursor, word: &Word) -> Result<()> {
        if self.title.is_some() {
            return Err(cursor.about(word, "is there twice"));
        }
        self.title = Some(cursor.string("a title in quotes")?);
        Ok(())
    }

    fn read_cluster(&mut self, cursor: &mut Cursor, word: &Word) -> Result<()> {
        if self.cluster.is_some() {
            return Err(cursor.about(word, "is there twice"));
        }
        // Nodes count from here on even if an option is wrong: it is one mistake, not many.
        let cluster = self.cluster.insert(Cluster::default());
        cluster.nodes = read_nodes(cursor)?;
        let mut seen: Vec<String> = Vec::new();
        while let Some(name) = cursor.peek_name() {
            if HEADER_WORDS.contains(&name.as_str()) || name == "mutant" {
                break;
            }
            let key = cursor.name().expect("a name was seen here");
            cluster.read_option(cursor, &key)?;
            if seen.contains(&key.text) {
                return Err(cursor.about(&key, "is there twice"));
            }
            seen.push(key.text);
        }
        Ok(())
    }

    fn read_requires(&mut self, cursor: &mut Cursor, word: &Word) -> Result<()> {
        let world = cursor.choice(WORLDS)?;
        if let Some((earlier, line)) = &self.requires {
            let what = if earlier.world == world {
                "is there twice"
            } else {
                &format!("contradicts line {line}: the script could run nowhere")
            };
            return Err(cursor.about(word, what));
        }
        let reason = cursor.string("the reason in quotes")?;
        self.requires = Some((Requires { world, reason }, cursor.line()));
        Ok(())
    }

    fn read_mutant(&mut self, cursor: &mut Cursor) -> Result<()> {
        let (column, name) = (cursor.column(), cursor.raw());
        let mutant = cursor.choice(MUTANTS)?;
        if self.mutants.contains(&mutant) {
            let message = format!("{} is there twice", quoted(&name));
            return Err(cursor.error(column, &name, message.into()));
        }
        self.mutants.push(mutant);
        Ok(())
    }
}

impl Cluster {
    fn read_option(&mut self, cursor: &mut Cursor, key: &Word) -> Result<()> {
        const OPTIONS: &[&str] = &["profile", "timers", "recovery", "seed"];
        if !OPTIONS.contains(&key.text.as_str()) {
            return Err(cursor.unknown(key, OPTIONS));
        }
        if !cursor.take("=") {
            return Err(cursor.expected("\"=\""));
        }
        match key.text.as_str() {
            "profile" => self.profile = cursor.choice(PROFILES)?,
            "timers" => self.timers = cursor.choice(TIMERS)?,
            "recovery" => self.recovery = cursor.choice(RECOVERIES)?,
            _ => self.seed = cursor.number("a seed")?,
        }
        Ok(())
    }
}

/// Reads `n1 n2 n3`: the nodes in order, without gaps.
fn read_nodes(cursor: &mut Cursor) -> Result<u8> {
    let mut nodes = 0;
    while let Some(name) = cursor.peek_name()
        && node_name(&name).is_some()
    {
        let word = cursor.name().expect("a name was seen here");
        if nodes == MOST_NODES {
            return Err(cursor.about(&word, "is one too many: a cluster has at most 7 nodes"));
        }
        nodes += 1;
        if name != format!("n{nodes}") {
            let what = format!("is out of order: expected \"n{nodes}\"");
            return Err(cursor.about(&word, &what));
        }
    }
    if nodes == 0 { Err(cursor.expected("nodes: n1 n2 n3")) } else { Ok(nodes) }
}
