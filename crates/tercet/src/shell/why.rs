//! `why`: the reasons that stand in the events, and what the nodes' state says of a stall.

use tercet_lab::backend::{LabEvent, NodeView};

use super::Shell;

/// How many refusals are told.
const REFUSALS: usize = 5;

impl Shell<'_> {
    pub(super) fn why(&mut self, node: Option<&str>) -> anyhow::Result<()> {
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
        for event in self.lab()?.events().iter().rev().filter(is_about) {
            let text = format!("{}: {}", event.node, event.text);
            if !told.contains(&text) {
                told.push(text);
            }
            if told.len() == REFUSALS {
                break;
            }
        }
        for text in told.iter().rev() {
            self.voice.say(text)?;
        }
        let stall = stall(&self.lab()?.look()?);
        if let Some(stall) = &stall {
            self.voice.say(stall)?;
        }
        if told.is_empty() && stall.is_none() {
            self.voice.say("nothing was refused, and nothing is stuck")?;
        }
        Ok(())
    }
}

/// Why nothing can be committed now, if so.
pub(super) fn stall(views: &[NodeView]) -> Option<String> {
    let running = views.iter().filter(|view| view.up && !view.paused).count();
    let majority = views.len() / 2 + 1;
    if running < majority {
        return Some(format!(
            "only {running} of {} nodes run, {majority} are needed: nothing can be committed now",
            views.len()
        ));
    }
    let leader = views.iter().filter(|view| view.is_leader()).max_by_key(|view| view.term);
    let Some(leader) = leader else {
        return Some(
            "nobody leads now: the next election timeout starts an election, unless timers are \
                 frozen or the nodes are cut from each other"
                .to_owned(),
        );
    };
    if leader.last() > leader.commit {
        let has = |view: &&NodeView| view.last() >= leader.last();
        let holders: Vec<String> =
            views.iter().filter(has).map(|view| view.node.to_string()).collect();
        return Some(format!(
            "{}'s log ends at {}, but only {} is committed: {} of {} nodes hold it ({}), {majority} are needed",
            leader.node,
            leader.last(),
            leader.commit,
            holders.len(),
            views.len(),
            holders.join(", ")
        ));
    }
    None
}
