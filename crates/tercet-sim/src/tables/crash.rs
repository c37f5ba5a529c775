//! A machine that dies at each write, sync and rename in turn.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tercet_raft::NodeId;
use tercet_replica::escape_value;
use tercet_wal::{HardState, Survive};

use super::image::{Holds, Image, value};
use super::play::{PATIENCE, Play, config};
use super::{Outcome, Suite, Verdict};
use crate::{Answer, OpId};

/// How many values are submitted, one after the other.
const VALUES: u64 = 24;
/// What survives: everything, nothing, and so many random subsets.
const SUBSETS: u64 = 20;

/// The suite of crash points.
pub fn suites() -> Vec<Suite> {
    let holds = Holds { hard_state: HardState::default(), log: Vec::new() };
    let image = Image::new(config(3, 1), &vec![holds; 3]);
    // The same for each node: a step that one of them does not come to is a case without a crash.
    let steps = image
        .world()
        .node_ids()
        .into_iter()
        .map(|victim| {
            let mut run = Run::new(&image, victim);
            run.play.world.disk(victim).crash_after(Some(u64::MAX));
            run.finish();
            u64::MAX - run.play.world.disk(victim).steps_left().unwrap_or(u64::MAX)
        })
        .max()
        .unwrap_or(0);
    let play = move |case: u64| {
        let nodes = 3;
        let slot = u8::try_from(case % nodes + 1).expect("1 to 3");
        let victim = NodeId::new(slot).expect("1 to 3");
        let step = case / nodes % steps;
        let round = case / nodes / steps;
        let survive = match round / 2 {
            0 => Survive::All,
            1 => Survive::None,
            seed => Survive::Random(seed * 0x9e37_79b9 + case),
        };
        let mut run = Run::new(&image, victim);
        run.kills_all = round % 2 == 1;
        run.play.world.crash_in_write(victim, step, survive);
        run.finish();
        run.verdict()
    };
    vec![Suite {
        name: "crash-points",
        what: format!(
            "3 nodes, {VALUES} submits with restarts and a change of leader: one node's machine dies \
             at each of its {steps} writes, syncs and directory changes, and {{all, none, {SUBSETS} \
             random subsets}} of what was not synced survive; alone, and with the others killed"
        ),
        cases: 3 * steps * 2 * (2 + SUBSETS),
        reported: "",
        play: Box::new(play),
    }]
}

/// A client that submits one value after the other, and who restarts what died.
struct Run<'a> {
    play: Play<'a>,
    victim: NodeId,
    kills_all: bool,
    has_died: bool,
    next: u64,
    op: Option<OpId>,
    down_until: Vec<(NodeId, tercet_raft::Time)>,
}

impl Run<'_> {
    fn new(image: &Image, victim: NodeId) -> Self {
        let mut play = Play::new(image.world(), &[]);
        let ids = play.world.node_ids();
        play.start(ids);
        Self {
            play,
            victim,
            kills_all: false,
            has_died: false,
            next: 1,
            op: None,
            down_until: Vec::new(),
        }
    }

    fn down(&mut self, id: NodeId, ms: u64) {
        if self.play.world.is_up(id) {
            self.play.world.crash(id, Survive::All);
        }
        let until = self.play.world.now().after(Duration::from_millis(ms));
        self.down_until.push((id, until));
    }

    fn restart_due(&mut self) {
        let now = self.play.world.now();
        let due: Vec<NodeId> =
            self.down_until.iter().filter(|(_, at)| *at <= now).map(|(id, _)| *id).collect();
        self.down_until.retain(|(_, at)| *at > now);
        for id in due {
            if !self.play.world.is_up(id) && self.play.world.start(id).is_err() {
                // The machine died while it started: its disk is what that left.
                self.play.world.crash(id, Survive::None);
                self.down(id, 300);
            }
        }
    }

    fn finish(&mut self) {
        let end = self.play.world.now().after(PATIENCE);
        while self.next <= VALUES && self.play.world.now() < end {
            let glance = self.play.world.now().after(Duration::from_millis(10));
            while self.play.world.step(glance) {}
            let victim = self.victim;
            let is_known = self.down_until.iter().any(|(id, _)| *id == victim);
            if !self.play.world.is_up(victim) && !is_known {
                if self.kills_all && !self.has_died {
                    for id in self.play.world.node_ids() {
                        if id != victim {
                            self.down(id, 350);
                        }
                    }
                }
                self.has_died = true;
                self.down(victim, 300);
            }
            self.restart_due();
            self.submit();
        }
        // Nothing showed yet that the machine is dead.
        if self.play.world.disk(self.victim).steps_left() == Some(0) {
            self.down(self.victim, 300);
        }
        // Everybody comes back.
        for _ in 0..5 {
            self.play.run(Duration::from_millis(400), |_| false);
            self.restart_due();
        }
        for id in self.play.world.node_ids() {
            if !self.play.world.is_up(id) {
                let _ = self.play.world.start(id);
            }
        }
        let expected = self.expected();
        let ids = self.play.world.node_ids();
        for _ in 0..200 {
            let whole = ids.iter().all(|id| {
                self.play.world.disk(*id).contents("values.log").as_deref() == Some(&expected[..])
            });
            if whole {
                break;
            }
            self.play.run(Duration::from_millis(100), |_| false);
        }
    }

    fn submit(&mut self) {
        match self.op.and_then(|op| self.play.world.answer(op).cloned()) {
            Some(Answer::Submitted(_)) => {
                self.op = None;
                self.next += 1;
                self.disturb();
            }
            None if self.op.is_some() => {}
            _ => {
                self.op = None;
                if self.next <= VALUES
                    && let Some(leader) = self.play.leader()
                {
                    let value = value_of(self.next);
                    let id = 0xc4a5_0000 + u128::from(self.next);
                    self.op = Some(self.play.world.submit(leader, id, vec![value]));
                }
            }
        }
    }

    /// What happens on the way: others restart, leadership moves.
    fn disturb(&mut self) {
        let other = |run: &Self, leads: bool| {
            let ids = run.play.world.node_ids();
            let leader = run.play.leader();
            ids.into_iter().find(|id| *id != run.victim && (Some(*id) == leader) == leads)
        };
        match self.next {
            6 | 18 => {
                if let Some(id) = other(self, false) {
                    self.down(id, 200);
                }
            }
            12 => {
                if let Some(id) = other(self, true) {
                    self.down(id, 200);
                } else if let Some(leader) = self.play.leader() {
                    self.play.world.transfer(leader, None);
                }
            }
            _ => {}
        }
    }

    /// What was acknowledged, and no more: each submit was tried until it was.
    fn expected(&self) -> Vec<u8> {
        let mut expected = Vec::new();
        for at in 1..self.next {
            expected.extend_from_slice(b"write ");
            escape_value(&value_of(at), &mut expected);
            expected.push(b'\n');
        }
        expected
    }

    fn verdict(mut self) -> Verdict {
        let expected = self.expected();
        let done = self.next > VALUES;
        let mut why = None;
        for id in self.play.world.node_ids() {
            let values = self.play.world.disk(id).contents("values.log").unwrap_or_default();
            // A value that was not acknowledged may be there all the same.
            if !values.starts_with(&expected) && !expected.starts_with(&values) {
                return Verdict::miss(
                    Outcome::Unsafe,
                    format!("values.log of {id} is not what was acknowledged"),
                );
            }
            if values != expected {
                why = Some(format!("{id} has {} bytes of {}", values.len(), expected.len()));
            }
        }
        match why {
            None if done => Verdict::good(Outcome::Correct),
            None => Verdict::miss(Outcome::Unavailable, format!("stuck at value {}", self.next)),
            Some(why) => self.play.judge_stuck(&why),
        }
    }
}

/// Some are large, so that the log goes on in another segment.
fn value_of(at: u64) -> Bytes {
    value(at, if at % 8 == 5 { 60_000 } else { 40 })
}

impl Play<'_> {
    fn judge_stuck(self, why: &str) -> Verdict {
        let mute: BTreeSet<NodeId> =
            self.world.node_ids().into_iter().filter(|id| !self.world.is_up(*id)).collect();
        Verdict::miss(Outcome::Unavailable, format!("{why}; down: {mute:?}; {}", self.explain()))
    }
}
