//! `why`: the reasons that stand in the events, and what the nodes' state says of a stall.

use tercet_lab::backend::{Backend, LabEvent};

use super::Shell;
use crate::output::line;

/// How many refusals are told.
const REFUSALS: usize = 5;

impl Shell<'_, '_> {
    pub(super) fn why(&mut self, about: &[&str]) -> anyhow::Result<()> {
        let node = about.first().copied();
        let is_about = |event: &&LabEvent| {
            let refused = matches!(
                event.kind.as_str(),
                "vote_denied" | "pre_vote_denied" | "append_rejected" | "quorum_lost" | "amnesia"
            );
            let names = |name: &str| {
                event.node.to_string() == name
                    || event.fields.iter().any(|(_, value)| value == name)
            };
            refused && node.is_none_or(names)
        };
        let mut told: Vec<String> = Vec::new();
        for event in self.runner.events().iter().rev().filter(is_about) {
            let text = format!("{}: {}", event.node, event.text);
            if !told.contains(&text) {
                told.push(text);
            }
            if told.len() == REFUSALS {
                break;
            }
        }
        for text in told.iter().rev() {
            line(text)?;
        }
        let stall = self.stall()?;
        if let Some(stall) = &stall {
            line(stall)?;
        }
        if told.is_empty() && stall.is_none() {
            line("nothing was refused, and nothing is stuck")?;
        }
        Ok(())
    }

    /// Why nothing can be committed now, if so.
    fn stall(&mut self) -> anyhow::Result<Option<String>> {
        let views = self.runner.backend().views()?;
        let running = views.iter().filter(|view| view.up && !view.paused).count();
        let majority = views.len() / 2 + 1;
        if running < majority {
            return Ok(Some(format!(
                "only {running} of {} nodes run, {majority} are needed: nothing can be committed now",
                views.len()
            )));
        }
        let leader = views.iter().filter(|view| view.is_leader()).max_by_key(|view| view.term);
        let Some(leader) = leader else {
            return Ok(Some(
                "nobody leads now: the next election timeout starts an election, unless timers are \
                 frozen or the nodes are cut from each other"
                    .to_owned(),
            ));
        };
        if leader.last() > leader.commit {
            let has = |view: &&tercet_lab::backend::NodeView| view.last() >= leader.last();
            let holders: Vec<String> =
                views.iter().filter(has).map(|view| view.node.to_string()).collect();
            return Ok(Some(format!(
                "{}'s log ends at {}, but only {} is committed: {} of {} nodes hold it ({}), {majority} are needed",
                leader.node,
                leader.last(),
                leader.commit,
                holders.len(),
                views.len(),
                holders.join(", ")
            )));
        }
        Ok(None)
    }
}
