//! The vocabulary: which words there are, what they stand for, and which one was meant. Knows
//! nothing of lines and places.

use tercet_raft::{NodeId, Profile, RoleKind};

use crate::ast::{
    ClientState, DiskState, Fate, Invariant, MessageKind, Mutant, Recovery, Timers, Wipe, World,
};

/// The words that set a script up; they stand before the first step.
pub(super) const HEADER_WORDS: &[&str] = &["title", "cite", "cluster", "requires", "given"];

/// The words that begin a line, for suggestions.
pub(super) const LINE_WORDS: &[&str] = &[
    "title", "cite", "cluster", "requires", "given", "submit", "retry", "read", "crash", "restart",
    "pause", "resume", "wipe", "tear", "set", "cut", "isolate", "reset", "heal", "delay", "drop",
    "dup", "hold", "list", "deliver", "discard", "release", "elect", "transfer", "run", "settle",
    "wait", "freeze", "thaw", "expect", "always", "never", "let", "mark", "fork", "branch", "say",
    "ask", "mutant", "end",
];

/// The words of a condition on nodes.
pub(super) const CONDITION_WORDS: &[&str] =
    &["role", "term", "voted", "commit", "last", "log", "heartbeat", "up", "down"];

/// The words that a predicate may begin with, beside nodes and requests.
pub(super) const PREDICATE_WORDS: &[&str] = &[
    "leader",
    "logs",
    "log",
    "commit",
    "term",
    "last",
    "role",
    "voted",
    "heartbeat",
    "invariants",
    "all",
    "count",
    "trace",
];

pub(super) const PROFILES: &[(&str, Profile)] =
    &[("paper", Profile::Paper), ("modern", Profile::Modern)];

pub(super) const TIMERS: &[(&str, Timers)] = &[("manual", Timers::Manual), ("auto", Timers::Auto)];

pub(super) const RECOVERIES: &[(&str, Recovery)] =
    &[("quarantine", Recovery::Quarantine), ("trust", Recovery::Trust)];

pub(super) const WORLDS: &[(&str, World)] = &[("sim", World::Sim), ("real", World::Real)];

pub(super) const MUTANTS: &[(&str, Mutant)] = &[
    ("commit-old-terms", Mutant::CommitOldTerms),
    ("truncate-always", Mutant::TruncateAlways),
    ("ignore-log-in-votes", Mutant::IgnoreLogInVotes),
    ("speak-before-durable", Mutant::SpeakBeforeDurable),
    ("no-pre-vote", Mutant::NoPreVote),
    ("no-check-quorum", Mutant::NoCheckQuorum),
    ("no-request-ids", Mutant::NoRequestIds),
    ("stale-reads", Mutant::StaleReads),
];

pub(super) const SWITCH: &[(&str, bool)] = &[("on", true), ("off", false)];

pub(super) const WIPES: &[(&str, Wipe)] = &Wipe::NAMES;

pub(super) const DISKS: &[(&str, DiskState)] =
    &[("slow", DiskState::Slow), ("full", DiskState::Full), ("ok", DiskState::Ok)];

pub(super) const ROLES: &[(&str, RoleKind)] = &[
    ("follower", RoleKind::Follower),
    ("pre-candidate", RoleKind::PreCandidate),
    ("precandidate", RoleKind::PreCandidate),
    ("candidate", RoleKind::Candidate),
    ("leader", RoleKind::Leader),
    ("quarantined", RoleKind::Quarantined),
];

pub(super) const CLIENT_STATES: &[(&str, ClientState)] = &[
    ("ok", ClientState::Ok),
    ("refused", ClientState::Refused),
    ("unknown", ClientState::Unknown),
    ("waiting", ClientState::Waiting),
];

pub(super) const FATES: &[(&str, Fate)] =
    &[("committed", Fate::Committed), ("lost", Fate::Lost), ("pending", Fate::Pending)];

pub(super) const INVARIANTS: &[(&str, Invariant)] = &[
    ("ElectionSafety", Invariant::ElectionSafety),
    ("LeaderAppendOnly", Invariant::LeaderAppendOnly),
    ("LogMatching", Invariant::LogMatching),
    ("LeaderCompleteness", Invariant::LeaderCompleteness),
    ("StateMachineSafety", Invariant::StateMachineSafety),
    ("Linearizability", Invariant::Linearizability),
];

/// The kinds of messages, matched ignoring case.
pub(super) const MESSAGE_KINDS: &[(&str, MessageKind)] = &[
    ("PreVote", MessageKind::PreVote),
    ("PreVoteReply", MessageKind::PreVoteReply),
    ("Vote", MessageKind::Vote),
    ("RequestVote", MessageKind::Vote),
    ("VoteReply", MessageKind::VoteReply),
    ("Append", MessageKind::Append),
    ("AppendEntries", MessageKind::Append),
    ("AppendReply", MessageKind::AppendReply),
    ("Heartbeat", MessageKind::Heartbeat),
    ("HeartbeatReply", MessageKind::HeartbeatReply),
    ("LearnerReply", MessageKind::LearnerReply),
    ("Rejoin", MessageKind::Rejoin),
    ("TimeoutNow", MessageKind::TimeoutNow),
    ("ReadIndex", MessageKind::ReadIndex),
    ("ReadIndexReply", MessageKind::ReadIndexReply),
];

/// The kind of messages that `name` stands for.
pub(super) fn message_kind(name: &str) -> Option<MessageKind> {
    MESSAGE_KINDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, kind)| *kind)
}

/// The slot in a word like `n3`: `Some(None)` if it looks like a node and no node can be called so.
pub(super) fn node_name(word: &str) -> Option<Option<NodeId>> {
    let digits = word.strip_prefix('n')?;
    let is_node = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_node {
        return None;
    }
    let slot = if digits.starts_with('0') { None } else { digits.parse().ok() };
    Some(slot.and_then(NodeId::new))
}

/// The word of `known` that `word` is a misspelling of: at most two edits away, and not altogether
/// another. Of equals the first.
pub(super) fn nearest<S: AsRef<str>>(word: &str, known: &[S]) -> Option<String> {
    const FARTHEST: usize = 2;
    let length = word.chars().count();
    let close = |candidate: &str| {
        // Spares the comparison with a word of a million letters.
        if candidate.chars().count().abs_diff(length) > FARTHEST {
            return None;
        }
        let distance = edits(&word.to_lowercase(), &candidate.to_lowercase());
        (distance <= FARTHEST && distance < length).then_some(distance)
    };
    known
        .iter()
        .filter_map(|candidate| Some((close(candidate.as_ref())?, candidate.as_ref())))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}

/// The least number of letters inserted, deleted or replaced that makes `b` of `a` (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, distance) in
            [("", "", 0), ("crash", "crash", 0), ("crsh", "crash", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(edits(a, b), distance, "{a} {b}");
            assert_eq!(edits(b, a), distance, "{b} {a}");
        }
    }

    #[test]
    fn a_short_word_is_not_taken_for_another() {
        assert_eq!(nearest("ab", &["ok"]), None);
        assert_eq!(nearest("Crash", &["crash"]), Some("crash".to_owned()));
        assert_eq!(nearest("splt", &["split", "spilt"]), Some("split".to_owned()));
    }
}
