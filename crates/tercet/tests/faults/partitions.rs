//! Links between real processes that are cut by the gate inside each node, under load: everything,
//! one direction, or all but a bridge. In each of them a majority can go on, and has to.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tercet_lab::ast::{Recovery, Timers};
use tercet_lab::backend::{Backend as _, GateChange};
use tercet_lab::{Processes, RealBackend, RealOptions, RealSetup};
use tercet_raft::{NodeId, Profile, Rules};
use tercet_testkit::{Cluster, Load};

use crate::{PATIENCE, Run, on_three_with};

/// A cut link: from a node, to a node.
type Cut = (usize, usize);

/// The gates of a cluster's nodes.
struct Gates(RealBackend);

impl Gates {
    fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        let setup = RealSetup {
            profile: Profile::Modern,
            timers: Timers::Auto,
            recovery: Recovery::Quarantine,
            rules: Rules::default(),
        };
        let processes = Processes::of_others(cluster.addresses());
        Ok(Self(RealBackend::attach(processes, setup, RealOptions::default())?))
    }

    fn change(&mut self, id: usize, change: GateChange) -> anyhow::Result<()> {
        Ok(self.0.gate(node(id)?, change)?)
    }
}

fn node(id: usize) -> anyhow::Result<NodeId> {
    u8::try_from(id).ok().and_then(NodeId::new).context("a node of the cluster")
}

/// Cuts links again and again; `cuts` says which, of a cluster with this leader.
fn partition(name: &str, cuts: impl Fn(&mut Run, usize) -> Vec<Cut>) {
    on_three_with(name, 10, &["--lab"], |cluster, run| {
        cluster.start_all()?;
        let mut gates = Gates::of(cluster)?;
        let load = Load::start(cluster.addresses(), 4, run.seed);
        let mut times = Vec::new();
        while run.again() {
            load.await_progress(10, PATIENCE);
            let leader = cluster.await_leader()?;
            for (from, to) in cuts(run, leader) {
                gates.change(from, GateChange::Cut(node(to)?))?;
            }
            let cut = Instant::now();
            // More than every client can have had acknowledged on the way.
            load.await_progress(20, PATIENCE);
            times.push(cut.elapsed());
            // How long it lasts is part of the test: shorter and longer than elections.
            std::thread::sleep(run.random.millis(0, 1500));
            for id in 1..=cluster.count() {
                gates.change(id, GateChange::Heal)?;
            }
            load.await_progress(10, PATIENCE);
        }
        ensure!(cluster.statuses().iter().flatten().count() == 3, "a node does not answer");
        run.note_times("20 submits acknowledged", Duration::from_millis(900), &times);
        cluster.judge(&load.finish())
    });
}

/// All links of one node, the leader or another, in both directions.
#[test]
fn cut_a_node_off() {
    partition("cut_a_node_off", |run, leader| {
        let id = if run.begun % 2 == 1 { leader } else { run.random.node(3) };
        let others = (1..=3).filter(|other| *other != id);
        others.flat_map(|other| [(id, other), (other, id)]).collect()
    });
}

/// One node is not heard, or hears nobody; or is not heard by one of the others.
#[test]
fn cut_one_way() {
    partition("cut_one_way", |run, leader| {
        let id = if run.begun % 2 == 1 { leader } else { run.random.node(3) };
        let is_mute = run.random.below(2) == 0;
        let link = |other| if is_mute { (id, other) } else { (other, id) };
        let mut cuts: Vec<Cut> = (1..=3).filter(|other| *other != id).map(link).collect();
        if run.random.below(3) == 0 {
            cuts.pop();
        }
        cuts
    });
}

/// Two nodes do not reach each other, but both reach the third: with the leader in the middle, or
/// at one of the ends.
#[test]
fn cut_all_but_a_bridge() {
    partition("cut_all_but_a_bridge", |run, leader| {
        let bridge = if run.begun % 2 == 1 { 1 + leader % 3 } else { run.random.node(3) };
        let ends: Vec<usize> = (1..=3).filter(|id| *id != bridge).collect();
        vec![(ends[0], ends[1]), (ends[1], ends[0])]
    });
}
