//! What is done to a cluster in peace, one thing at a time, and how soon it must be over.

use std::time::Duration;

use tercet_raft::{NodeId, Profile};
use tercet_replica::LabInput;
use tercet_replica::gate::{GateChange, MessageKind};
use tercet_wal::Survive;

use super::faults::{CUT, leader};
use super::invariant::{Found, Invariant};
use super::run::{COMMIT_TIMEOUTS, Life, states};
use crate::network::Link;
use crate::random::Random;

/// One thing that is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Trial {
    /// All hear the leader, and it hears nobody: there must be another one, that commits.
    DeafLeader,
    /// A node that was cut off comes back: it must not unseat the leader that all others follow.
    NodeReturns,
    /// The leader's disk stands still: there must be another one, that commits.
    StalledLeader,
    /// An answer to an earlier reign of the leader comes when its sender has another log since.
    LateAnswer,
    /// New files of the log are begun, and then the power fails on all nodes at once: the files must
    /// be there.
    PowerCut,
}

impl Trial {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::DeafLeader,
        Self::NodeReturns,
        Self::StalledLeader,
        Self::LateAnswer,
        Self::PowerCut,
    ];

    /// Which Raft promises this; the paper's knows nothing of some of it.
    pub const fn profile(self) -> Option<Profile> {
        match self {
            Self::DeafLeader | Self::NodeReturns | Self::StalledLeader => Some(Profile::Modern),
            Self::LateAnswer | Self::PowerCut => None,
        }
    }

    /// With how many nodes it makes sense, if not with any.
    pub const fn nodes(self) -> Option<u8> {
        match self {
            // What two of three hold is committed, or will be.
            Self::LateAnswer => Some(5),
            Self::DeafLeader | Self::NodeReturns | Self::StalledLeader | Self::PowerCut => None,
        }
    }
}

impl Life<'_> {
    /// Tries a cluster that is healed.
    pub(super) fn try_it(&mut self, trial: Trial) -> Found {
        let mut random = Random::new(self.options.seed ^ 0x7472_6961);
        match trial {
            Trial::DeafLeader => {
                let deaf = self.led()?;
                self.step(&format!("{deaf} leads, and hears nobody"));
                for id in self.world.node_ids() {
                    self.world.set_link(id, deaf, CUT);
                }
                self.commits("nothing is committed without the deaf leader")?;
                self.step("it hears again");
                for id in self.world.node_ids() {
                    self.world.set_link(id, deaf, Link::default());
                }
                Ok(())
            }
            Trial::NodeReturns => self.node_returns(&mut random),
            Trial::StalledLeader => {
                let stalled = self.led()?;
                let usual = self.options.world.sync;
                self.step(&format!("{stalled} leads, and its disk stands still"));
                self.world.set_sync(stalled, Duration::from_secs(60));
                // What is on its way to the disk when it stalls.
                self.load.come(self.world.now());
                self.commits("nothing is committed without the leader whose disk stalls")?;
                self.step("its disk goes on");
                self.world.set_sync(stalled, usual);
                Ok(())
            }
            Trial::LateAnswer => self.late_answer(&mut random),
            Trial::PowerCut => {
                // More than the shortest file of the log holds.
                for _ in 0..6 + random.below(8) {
                    self.load.come_with_much(self.world.now());
                }
                self.agree()?;
                self.step("power cut of all nodes");
                for id in self.world.node_ids() {
                    self.world.crash(id, Survive::None);
                }
                self.heal("start all nodes");
                Ok(())
            }
        }?;
        self.agree()
    }

    /// A leader and one follower are cut off; what the follower says of the entries that it gets
    /// then is late. The others elect another leader, and it cuts these entries. When the first one
    /// leads again, what it hears of its earlier reign tells it nothing.
    fn late_answer(&mut self, random: &mut Random) -> Found {
        let first = self.led()?;
        let mut others = self.world.node_ids();
        others.retain(|id| *id != first);
        let mut take = || {
            let at = usize::try_from(random.below(others.len() as u64)).expect("few nodes");
            others.remove(at)
        };
        let (late, next) = (take(), take());
        let set_links = |life: &mut Self, link, these: &[NodeId], those: &[NodeId]| {
            for (one, other) in these.iter().flat_map(|a| those.iter().map(move |b| (*a, *b))) {
                life.world.set_link(one, other, link);
                life.world.set_link(other, one, link);
            }
        };
        let majority: Vec<NodeId> = others.iter().copied().chain([next]).collect();
        self.step(&format!("{first} leads, cut off with {late}, whose answers are late"));
        set_links(self, CUT, &[first, late], &majority);
        self.world.change_gate(late, GateChange::Hold(first, Some(MessageKind::AppendReply)));
        // Nobody waits for an answer and asks elsewhere: the next leader's log is shorter.
        for _ in 0..6 + random.below(6) {
            self.load.leave(first, &mut self.world);
        }
        self.pass(self.world.now().after(self.timeouts(1)))?;
        self.world.interfere(next, LabInput::Campaign);
        self.pass(self.world.now().after(self.timeouts(3)))?;
        let second = self.led()?;
        self.step(&format!("the cut ends; {second} leads"));
        set_links(self, Link::default(), &[first, late], &majority);
        self.pass(self.world.now().after(self.timeouts(3)))?;
        self.step(&format!("{first} leads again, and only {next} hears it"));
        let second = self.led()?;
        self.world.transfer(second, Some(first));
        self.pass(self.world.now().after(self.timeouts(1)))?;
        others.push(late);
        for other in &others {
            self.world.set_link(first, *other, CUT);
        }
        for _ in 0..1 + random.below(4) {
            self.load.leave(first, &mut self.world);
        }
        self.pass(self.world.now().after(self.options.world.election_timeout_min / 4))?;
        self.step(&format!("what {late} said comes"));
        self.world.change_gate(late, GateChange::Heal);
        self.world.change_gate(late, GateChange::Release(None));
        self.pass(self.world.now().after(self.timeouts(2)))?;
        for other in &others {
            self.world.set_link(first, *other, Link::default());
        }
        Ok(())
    }

    fn led(&self) -> Result<NodeId, (Invariant, String)> {
        let nobody =
            || (Invariant::Liveness, format!("nobody leads: {}", states(&self.world).join("; ")));
        leader(&self.world).ok_or_else(nobody)
    }

    /// A request that comes now is committed in time.
    fn commits(&mut self, what: &str) -> Found {
        let probe = self.load.come(self.world.now());
        self.commit(probe, self.timeouts(COMMIT_TIMEOUTS), what)
    }

    fn node_returns(&mut self, random: &mut Random) -> Found {
        let leads = self.led()?;
        let term = |life: &Self| life.world.status(leads).map(|status| status.hard_state.term);
        let (before, ids) = (term(self), self.world.node_ids());
        let others: Vec<NodeId> = ids.iter().copied().filter(|id| *id != leads).collect();
        let away = random.below(others.len() as u64);
        let away = others[usize::try_from(away).expect("few nodes")];
        self.step(&format!("{away} is cut off for a while"));
        let both_ways = |life: &mut Self, link| {
            for id in &ids {
                life.world.set_link(*id, away, link);
                life.world.set_link(away, *id, link);
            }
        };
        both_ways(self, CUT);
        let most = self.timeouts(COMMIT_TIMEOUTS).as_millis();
        let ms = random.below(u64::try_from(most).expect("seconds"));
        self.pass(self.world.now().after(self.timeouts(2) + Duration::from_millis(ms)))?;
        self.step("it is back");
        both_ways(self, Link::default());
        self.pass(self.world.now().after(self.timeouts(7)))?;
        if leader(&self.world) != Some(leads) || term(self) != before {
            let text = format!("{away} came back, and {leads} leads {before:?} no more");
            return Err((Invariant::Liveness, text));
        }
        Ok(())
    }
}
