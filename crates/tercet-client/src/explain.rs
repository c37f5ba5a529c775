//! Why a cluster is as it is, in words: from what its nodes say of themselves.

use crate::v1::{ExplainResponse, StatusResponse};

/// Everything is well.
pub const HEALTHY: u32 = 0;
/// It works, but something needs attention.
pub const DEGRADED: u32 = 2;
/// Nothing can be appended.
pub const NO_QUORUM: u32 = 3;

/// What was learned of one node: its status, or why there is none.
pub type Report = (String, Result<StatusResponse, String>);

/// Puts the nodes' reports into words. With the report of only one node, that node's view of its
/// peers stands for them.
pub fn explain(reports: &[Report]) -> ExplainResponse {
    let known: Vec<&StatusResponse> =
        reports.iter().filter_map(|(_, report)| report.as_ref().ok()).collect();
    let mut findings = Vec::new();
    for (address, report) in reports {
        if let Err(why) = report {
            findings.push(format!("{address} does not answer ({why}): is its process running? Start it again; its data is found by the same command."));
        }
    }
    let Some(view) = known.iter().max_by_key(|status| (status.role == "leader", status.term))
    else {
        return ExplainResponse {
            level: NO_QUORUM,
            summary: "no node answers".to_owned(),
            findings,
        };
    };
    let members = view.peers.len() + 1;
    let quorum = members / 2 + 1;
    let leader = known.iter().find(|status| status.role == "leader" && status.term == view.term);
    let forming = known.iter().filter(|status| status.role == "forming").count();
    for status in &known {
        for problem in &status.problems {
            findings.push(format!("n{}: {problem}.", status.node));
        }
    }
    if let Some(leader) = leader {
        let mut level = if findings.is_empty() { HEALTHY } else { DEGRADED };
        for peer in &leader.peers {
            let name = format!("n{}", peer.id);
            if !peer.reachable {
                level = DEGRADED;
                findings.push(format!(
                    "{name} cannot be reached by the leader ({}): it misses {} entries so far and will get them when it is back.",
                    peer.error,
                    peer.lag.unwrap_or(0)
                ));
            } else if peer.state == "quarantined" {
                level = DEGRADED;
                findings.push(format!(
                    "{name} has lost its memory: it stores what the leader sends, but does not count for majorities until it is readmitted. Nothing is to be done."
                ));
            } else if peer.lag.unwrap_or(0) > 10_000 {
                level = DEGRADED;
                findings.push(format!(
                    "{name} is {} entries behind and is catching up.",
                    peer.lag.unwrap_or(0)
                ));
            }
        }
        let counting = 1 + leader
            .peers
            .iter()
            .filter(|peer| peer.reachable && peer.state != "quarantined")
            // One that has just come back empty may know it before its leader does.
            .filter(|peer| {
                !known.iter().any(|status| status.node == peer.id && status.role == "quarantined")
            })
            .count();
        if counting < quorum {
            return ExplainResponse {
                level: NO_QUORUM,
                summary: format!(
                    "n{} leads term {}, but only {counting} of {members} nodes count and {quorum} are needed: nothing can be committed",
                    leader.node, leader.term
                ),
                findings,
            };
        }
        let state = if level == 0 { "healthy" } else { "degraded" };
        let summary = format!(
            "{state}: n{} leads in term {}; {counting} of {members} nodes count, {quorum} are needed",
            leader.node, leader.term
        );
        return ExplainResponse { level, summary, findings };
    }
    // One node alone knows of a leader only by hearsay; that is enough if it hears one.
    if known.len() == 1
        && let Some(leader) = view.leader
    {
        let level = if findings.is_empty() { HEALTHY } else { DEGRADED };
        let summary = format!("n{} follows n{leader} in term {}", view.node, view.term);
        return ExplainResponse { level, summary, findings };
    }
    if forming > 0 && forming == known.len() {
        let generation = known.iter().map(|status| status.generation).max().unwrap_or(0);
        let summary = if generation > 1 {
            format!("generation {generation} has not begun yet: it needs all of its nodes")
        } else {
            "the cluster is not formed yet: its first start needs all of its nodes".to_owned()
        };
        return ExplainResponse { level: NO_QUORUM, summary, findings };
    }
    let muted = known.iter().filter(|status| status.role == "quarantined").count();
    let voters = known.len() - muted - forming;
    if known.len() == 1 {
        for peer in view.peers.iter().filter(|peer| !peer.reachable) {
            findings.push(format!(
                "n{} cannot be reached by n{} ({}).",
                peer.id, view.node, peer.error
            ));
        }
    }
    let reason = if muted + forming > 0 && voters < quorum {
        findings.push(format!(
            "{} of {members} nodes have lost their memory and may not vote: the cluster waits for a node that has its log. Start the nodes that are down; do not delete their directories.",
            muted + forming
        ));
        let lost_max = members - quorum;
        findings.push(if muted + forming > lost_max {
            format!(
                "That is more than the {lost_max} that {members} nodes can spare: if no other directory comes back, only an operator can let the cluster begin again from one that is left, with a loss: stop its node and see `tercet recover --from DIR`."
            )
        } else {
            "If those that are down are lost for good, only an operator can let the cluster begin again from a directory that is left, with a loss: see `tercet recover --from DIR`.".to_owned()
        });
        "too few nodes may vote"
    } else if voters < quorum && known.len() > 1 {
        "too few nodes are up"
    } else {
        "an election is under way, or nodes cannot reach each other"
    };
    ExplainResponse {
        level: NO_QUORUM,
        summary: format!(
            "no leader: {reason} ({voters} of {members} can vote, {quorum} are needed)"
        ),
        findings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::PeerStatus;

    fn status(node: u32, role: &str, leader: Option<u32>) -> StatusResponse {
        let peer = |id| PeerStatus {
            id,
            reachable: true,
            state: "replicate".to_owned(),
            ..PeerStatus::default()
        };
        StatusResponse {
            node,
            role: role.to_owned(),
            leader,
            term: 4,
            peers: (1..=3).filter(|id| *id != node).map(peer).collect(),
            ..StatusResponse::default()
        }
    }

    fn up(status: StatusResponse) -> Report {
        (format!("127.0.0.1:710{}", status.node), Ok(status))
    }

    fn down(node: u32) -> Report {
        (format!("127.0.0.1:710{node}"), Err("connection refused".to_owned()))
    }

    #[test]
    fn all_is_well() {
        let reports =
            [1, 2, 3].map(|n| up(status(n, if n == 2 { "leader" } else { "follower" }, Some(2))));
        let said = explain(&reports);
        assert_eq!((said.level, said.findings.len()), (HEALTHY, 0));
        assert!(
            said.summary.starts_with("healthy: n2 leads in term 4; 3 of 3"),
            "{}",
            said.summary
        );
    }

    #[test]
    fn one_node_down_is_degraded_and_named() {
        let mut leader = status(1, "leader", Some(1));
        leader.peers[0].reachable = false;
        leader.peers[0].error = "refused".to_owned();
        let said = explain(&[up(leader), down(2), up(status(3, "follower", Some(1)))]);
        assert_eq!(said.level, DEGRADED);
        assert!(said.findings.iter().any(|f| f.starts_with("127.0.0.1:7102 does not answer")));
        assert!(said.findings.iter().any(|f| f.starts_with("n2 cannot be reached")));
    }

    #[test]
    fn without_a_majority_it_says_how_many_are_missing() {
        let said = explain(&[up(status(1, "pre-candidate", None)), down(2), down(3)]);
        assert_eq!(said.level, NO_QUORUM);
        assert!(said.summary.contains("1 of 3 can vote, 2 are needed"), "{}", said.summary);
        assert_eq!(explain(&[down(1), down(2), down(3)]).level, NO_QUORUM);
    }

    #[test]
    fn two_that_lost_their_memory_wait_for_the_third() {
        let said = explain(&[
            up(status(1, "quarantined", None)),
            up(status(2, "quarantined", None)),
            down(3),
        ]);
        assert_eq!(said.level, NO_QUORUM);
        assert!(said.findings.iter().any(|f| f.contains("2 of 3 nodes have lost their memory")));
        let way_out = "more than the 1 that 3 nodes can spare";
        assert!(said.findings.iter().any(|f| f.contains(way_out) && f.contains("tercet recover")));
    }

    #[test]
    fn a_recovered_cluster_that_waits_is_not_a_new_one() {
        let mut survivor = status(1, "forming", None);
        survivor.generation = 2;
        let said = explain(&[up(survivor), up(status(2, "forming", None)), down(3)]);
        assert_eq!(said.level, NO_QUORUM);
        assert_eq!(said.summary, "generation 2 has not begun yet: it needs all of its nodes");
    }
}
