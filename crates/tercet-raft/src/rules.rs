//! The rules of Raft that the lab may switch off, one at a time, to see what breaks without them.
//! A server never does.

/// Which rules are broken. The default breaks none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Rules {
    /// A leader counts replicas of entries of *earlier* terms as a commit. Without the rule,
    /// figure 8 of the paper happens: a committed entry is overwritten (§5.4.2).
    pub commit_old_terms: bool,
    /// A follower cuts its log behind the entries of any AppendEntries. Without the rule, a late
    /// and short message takes acknowledged entries away (Figure 2, AppendEntries 3).
    pub truncate_always: bool,
    /// Votes are given whatever the candidate's log holds. Without the rule, a leader may lack
    /// committed entries (§5.4.1).
    pub ignore_log_in_votes: bool,
    /// Answers that carry no vote yet durable are sent at once. Without the rule, a node that
    /// restarts may vote twice in a term (Figure 2, "persistent state").
    pub speak_before_durable: bool,
    /// A node that lost its memory comes back as a plain, empty voter (docs/rejoin.md).
    pub trust_wiped: bool,
    /// Nodes campaign without asking first whether they could win. Without pre-vote, a node that
    /// was cut off unseats the leader when it returns (thesis §9.6).
    pub no_pre_vote: bool,
    /// A leader goes on leading without hearing from a majority. Without check-quorum, a leader
    /// behind a broken link blocks its clients for ever (thesis §6.2).
    pub no_check_quorum: bool,
}
