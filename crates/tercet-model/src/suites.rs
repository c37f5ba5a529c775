//! What is searched: bounds that each look at one side of the protocol.

use std::time::Duration;

use tercet_raft::{Profile, Rules};

use crate::node::Setup;
use crate::search::{Plan, Start};
use crate::state::Bounds;

/// A named search.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it looks at, in a sentence.
    pub about: &'static str,
    /// What is searched.
    pub plan: Plan,
}

const BOUNDS: Bounds = Bounds {
    terms: 2,
    entries: 3,
    proposals: 1,
    heartbeats: 0,
    crashes: 0,
    wipes: 0,
    duplicates: 0,
    step_downs: 0,
    transfers: 0,
    links_lost: 0,
    messages: 6,
    forgets: true,
};

fn plan(nodes: u8, profile: Profile, bounds: Bounds) -> Plan {
    let rules = Rules::default();
    Plan {
        setup: Setup { nodes, profile, rules, pre_vote: false, eager_sync: false },
        bounds,
        start: Start::default(),
        states_max: u64::MAX,
        time_max: Duration::MAX,
        threads: 2,
    }
}

/// All searches.
pub fn suites() -> Vec<Suite> {
    let paper = |bounds| plan(3, Profile::Paper, bounds);
    let modern = |bounds| plan(3, Profile::Modern, bounds);
    let led = |plan: Plan| Plan { start: Start { elected: vec![1], ..Start::default() }, ..plan };
    let figure_8 = Plan {
        setup: Setup { eager_sync: true, ..paper(BOUNDS).setup },
        start: Start { given: vec![(2, vec![1]), (2, vec![2]), (2, vec![])], ..Start::default() },
        ..paper(Bounds { terms: 4, proposals: 0, messages: 5, ..BOUNDS })
    };
    let pre_vote = modern(Bounds { terms: 2, step_downs: 1, ..BOUNDS });
    let pre_vote = Plan { setup: Setup { pre_vote: true, ..pre_vote.setup }, ..pre_vote };
    vec![
        Suite {
            name: "elections",
            about: "votes: three nodes, three terms, crashes and doubled messages",
            plan: paper(Bounds { terms: 3, proposals: 0, crashes: 2, duplicates: 1, ..BOUNDS }),
        },
        Suite {
            name: "four",
            about: "votes counted: four nodes, one term, doubled messages",
            plan: plan(
                4,
                Profile::Paper,
                Bounds { terms: 1, proposals: 0, crashes: 1, duplicates: 2, messages: 8, ..BOUNDS },
            ),
        },
        Suite {
            name: "replication",
            about: "entries and elections on nodes and links without faults: order alone",
            plan: paper(BOUNDS),
        },
        Suite {
            name: "paper",
            about: "Figure 2 and nothing else: elections, entries, a crash, a doubled message",
            plan: paper(Bounds {
                proposals: 2,
                crashes: 1,
                duplicates: 1,
                heartbeats: 1,
                ..BOUNDS
            }),
        },
        Suite {
            name: "figure-8",
            about: "entries of earlier terms: from (b) of the figure on, four terms",
            plan: figure_8,
        },
        Suite {
            name: "modern",
            about: "a leader that streams: entries, heartbeats, a crash, the next leader",
            plan: led(modern(Bounds { crashes: 1, heartbeats: 1, duplicates: 1, ..BOUNDS })),
        },
        Suite {
            name: "links",
            about: "links that end: a leader that streams begins again where it is sure of a follower",
            plan: led(modern(Bounds {
                terms: 3,
                proposals: 2,
                heartbeats: 2,
                links_lost: 2,
                ..BOUNDS
            })),
        },
        Suite {
            name: "pre-vote",
            about: "asking before campaigning, stepping down for want of a majority",
            plan: pre_vote,
        },
        Suite {
            name: "index-before-term",
            about: "whose log is up-to-date: a longer log of an earlier term against a shorter one",
            plan: Plan {
                setup: Setup { eager_sync: true, ..paper(BOUNDS).setup },
                start: Start {
                    given: vec![(2, vec![1, 1, 1]), (2, vec![2]), (2, vec![2])],
                    ..Start::default()
                },
                ..paper(Bounds { terms: 4, entries: 4, messages: 5, ..BOUNDS })
            },
        },
        Suite {
            name: "wipe",
            about: "a node loses its memory and comes back",
            plan: led(modern(Bounds { wipes: 1, entries: 4, heartbeats: 1, ..BOUNDS })),
        },
        Suite {
            name: "rejoin",
            about: "a vote that is on its way while its giver is wiped (docs/rejoin.md)",
            plan: Plan {
                setup: Setup { eager_sync: true, ..modern(BOUNDS).setup },
                start: Start {
                    elected: vec![1],
                    vote_on_its_way: Some((3, 2)),
                    ..Start::default()
                },
                ..modern(Bounds { wipes: 1, entries: 4, heartbeats: 2, messages: 5, ..BOUNDS })
            },
        },
        Suite {
            name: "old-reply",
            about: "an acknowledgement that arrives when its sender has another log since",
            plan: Plan {
                start: Start {
                    given: vec![(2, vec![2]); 3],
                    reply_on_its_way: Some((2, 1, 1, 2)),
                    ..Start::default()
                },
                ..paper(Bounds { terms: 3, messages: 5, forgets: false, ..BOUNDS })
            },
        },
    ]
}
