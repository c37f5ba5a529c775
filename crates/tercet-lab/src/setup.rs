//! What a script's header and `given` lines mean for the nodes, in either world.

use tercet_raft::{NodeId, Rules};

use crate::ast::{Header, Mutant, Recovery, Script};

/// What one node's directory holds before it starts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeGiven {
    /// The term that it has seen.
    pub term: u64,
    /// Who got its vote in that term.
    pub voted: Option<NodeId>,
    /// Term and value of each entry, from index 1.
    pub log: Vec<(u64, String)>,
}

/// All that the `given` lines say of a node; a later line replaces what it names again.
pub(crate) fn given_of(script: &Script, node: NodeId) -> NodeGiven {
    let mut found = NodeGiven::default();
    for given in script.given.iter().filter(|given| given.nodes.contains(&node)) {
        if !given.log.is_empty() {
            found.log = given
                .log
                .iter()
                .zip(1..)
                .map(|(entry, index)| {
                    let made = || format!("t{}i{index}", entry.term);
                    (entry.term, entry.value.clone().unwrap_or_else(made))
                })
                .collect();
        }
        let least = found.log.last().map_or(0, |(term, _)| *term);
        found.term = given.term.unwrap_or(found.term).max(least);
        found.voted = given.voted.or(found.voted);
    }
    found
}

/// The rules that are switched off from the start.
pub(crate) fn rules_of(header: &Header) -> Rules {
    let mut rules = Rules { trust_wiped: header.recovery == Recovery::Trust, ..Rules::default() };
    for mutant in &header.mutants {
        switch(&mut rules, *mutant, true);
    }
    rules
}

/// Switches a rule of the protocol; what is the client's, not the protocol's, is left to the runner.
pub(crate) const fn switch(rules: &mut Rules, mutant: Mutant, on: bool) {
    match mutant {
        Mutant::CommitOldTerms => rules.commit_old_terms = on,
        Mutant::TruncateAlways => rules.truncate_always = on,
        Mutant::IgnoreLogInVotes => rules.ignore_log_in_votes = on,
        Mutant::SpeakBeforeDurable => rules.speak_before_durable = on,
        Mutant::NoPreVote => rules.no_pre_vote = on,
        Mutant::NoCheckQuorum => rules.no_check_quorum = on,
        Mutant::NoRequestIds | Mutant::StaleReads => {}
    }
}

/// The names of the rules that are switched off, as a node takes them.
pub(crate) fn names_of(rules: Rules) -> String {
    let named = [
        (rules.commit_old_terms, "commit-old-terms"),
        (rules.truncate_always, "truncate-always"),
        (rules.ignore_log_in_votes, "ignore-log-in-votes"),
        (rules.speak_before_durable, "speak-before-durable"),
        (rules.trust_wiped, "trust-wiped"),
        (rules.no_pre_vote, "no-pre-vote"),
        (rules.no_check_quorum, "no-check-quorum"),
    ];
    let names: Vec<&str> = named.iter().filter(|(off, _)| *off).map(|(_, name)| *name).collect();
    names.join(",")
}
