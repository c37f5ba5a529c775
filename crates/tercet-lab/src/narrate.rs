//! What of all that happens is worth a sentence. The sentences themselves are the events' own.

use crate::backend::LabEvent;

/// Whether a person who follows along wants to hear of this: decisions and what changes them, not
/// every message and every sync.
pub fn is_worth_telling(event: &LabEvent) -> bool {
    matches!(
        event.kind.as_str(),
        "became_candidate"
            | "became_leader"
            | "became_quarantined"
            | "stepped_down"
            | "leader_lost"
            | "election_timeout"
            | "vote_granted"
            | "vote_denied"
            | "pre_vote_denied"
            | "append_rejected"
            | "nextindex"
            | "truncated"
            | "commit"
            | "quorum_lost"
            | "transfer_begun"
            | "transfer_given_up"
            | "amnesia"
            | "readmit_appended"
            | "rejoin_asked"
            | "readmitted"
            | "peer_readmitted"
            | "heartbeat_interval"
            | "warning"
            | "notice"
            | "stopped"
            | "violation"
    )
}
