//! Elections: asking first whether one could win, then for votes (§5.2, thesis §9.6).

use tercet_seeded::{Bug, has};

use crate::event::Event;
use crate::message::{DenyReason, Message};
use crate::raft::{Raft, Role};
use crate::types::{NodeId, NodeSet, Term, WriteId};

impl Raft {
    /// The election timer fired, or somebody wants an election here.
    pub(crate) fn campaign(&mut self) {
        if !self.may_lead() {
            self.reset_election_timer();
            return;
        }
        match self.role {
            Role::Leader(_) | Role::Quarantined(_) => {}
            // It could not even vote for itself.
            Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. }
                if self.is_modern() && self.is_disk_stalled() =>
            {
                self.reset_election_timer();
            }
            Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. } => {
                if self.asks_first() {
                    self.become_pre_candidate();
                } else {
                    self.become_candidate(false);
                }
            }
        }
    }

    /// Whether an election begins with the question whether it could be won.
    pub(crate) fn asks_first(&self) -> bool {
        self.is_modern() && !self.config.rules.no_pre_vote && !has(Bug::NoPreVote)
    }

    /// Whether this log reaches the floor: nobody would vote for one that does not.
    pub(crate) fn may_lead(&self) -> bool {
        self.log.last() >= self.config.floor
    }

    fn become_pre_candidate(&mut self) {
        self.forget_leader();
        self.set_role(Role::PreCandidate { granted: [self.config.node].into_iter().collect() });
        self.reset_election_timer();
        let term = self.hard_state.term.next();
        let last = self.log.last();
        self.event(Event::PreVoteAsked { term, last });
        for peer in self.peers().iter() {
            self.ask_for_pre_vote(peer);
        }
        self.maybe_campaign();
    }

    pub(crate) fn ask_for_pre_vote(&mut self, peer: NodeId) {
        let last = self.log.last();
        self.send_after(WriteId(0), peer, self.hard_state.term.next(), Message::PreVote { last });
    }

    fn forget_leader(&mut self) {
        if self.leader.take().is_some() {
            self.fail_forwarded();
        }
    }

    pub(crate) fn on_pre_vote_reply(
        &mut self,
        from: NodeId,
        term: Term,
        denied: Option<DenyReason>,
    ) {
        let Role::PreCandidate { granted } = &mut self.role else {
            return;
        };
        match denied {
            None if term == self.hard_state.term.next() => {
                granted.insert(from);
                self.maybe_campaign();
            }
            // An answer to an earlier question.
            None => {}
            Some(reason) => {
                let term = self.hard_state.term.next();
                self.event(Event::VoteRefused { from, term, reason });
            }
        }
    }

    fn maybe_campaign(&mut self) {
        if let Role::PreCandidate { granted } = &self.role
            && granted.len() >= self.quorum()
        {
            self.become_candidate(false);
        }
    }

    pub(crate) fn become_candidate(&mut self, transfer: bool) {
        self.forget_leader();
        let term = self.hard_state.term.next();
        self.set_hard_state(term, Some(self.config.node));
        self.heard_at = None;
        self.set_role(Role::Candidate { granted: NodeSet::EMPTY });
        self.reset_election_timer();
        let last = self.log.last();
        self.event(Event::VoteAsked { term, last });
        for peer in self.peers().iter() {
            self.send(peer, Message::Vote { last, transfer });
        }
    }

    /// A candidate's vote for itself counts like any other: when it is durable.
    pub(crate) fn count_own_vote(&mut self) {
        if self.is_hard_state_durable()
            && let Role::Candidate { granted } = &mut self.role
        {
            granted.insert(self.config.node);
            self.maybe_win();
        }
    }

    pub(crate) fn on_vote_reply(&mut self, from: NodeId, denied: Option<DenyReason>) {
        let term = self.hard_state.term;
        let members = self.config.members.keys().copied();
        let Role::Candidate { granted } = &mut self.role else {
            return;
        };
        match denied {
            None => {
                let is_news = granted.insert(from);
                if has(Bug::CountVoteMessages) && !is_news {
                    let another = members.into_iter().find(|node| !granted.contains(*node));
                    granted.insert(another.unwrap_or(from));
                }
                self.event(Event::VoteReceived { from, term });
                self.maybe_win();
            }
            Some(reason) => self.event(Event::VoteRefused { from, term, reason }),
        }
    }

    fn maybe_win(&mut self) {
        if let Role::Candidate { granted } = &self.role
            && granted.len() >= self.quorum()
        {
            self.become_leader();
        }
    }
}
