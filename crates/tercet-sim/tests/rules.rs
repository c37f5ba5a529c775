//! The checker of traces (`tercet_sim::rules`) must be able to refuse: a good trace with one thing
//! changed in it breaks the rule that stands beside it. That good runs are accepted is shown by every
//! seeded history (`histories.rs`), each of which is held against the model.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test picks the lines that it changes")]

use std::collections::BTreeMap;

use tercet_raft::Profile;
use tercet_sim::model::Action;
use tercet_sim::rules::{Checker, Line, OnDisk};
use tercet_sim::swarm::{self, Limits, Preset};

/// Three nodes with the incarnations 1, 2 and 3.
fn begin() -> Line {
    Line::Begin(BTreeMap::from([(1, 1), (2, 2), (3, 3)]))
}

fn did(actions: &[Action]) -> Vec<Line> {
    actions.iter().copied().map(Line::Did).collect()
}

fn disk(term: u64, vote: Option<u8>, terms: &[u64], incarnation: u128, is_voter: bool) -> OnDisk {
    let readmits = BTreeMap::new();
    OnDisk { term, vote, terms: terms.to_vec(), readmits, disk: incarnation, is_voter }
}

/// A good trace with all kinds of lines: n1 leads and commits, n3 is wiped and readmitted, n2 leads.
fn good() -> Vec<Line> {
    use Action::{Admit, Commit, Crash, Follow, Grant, Observe, Promise, Put, Timeout, Win, Wipe};
    let mut lines = vec![begin()];
    lines.extend(did(&[
        Timeout(1),
        Observe(2, 1),
        Grant(2, 1, 1),
        Win(1),
        Put(1, None),
        Follow(1, 1, 1),
        Follow(2, 1, 1),
        Commit(1, 1),
    ]));
    lines.push(Line::Synced(2, disk(1, Some(1), &[1], 2, true)));
    lines.push(Line::Learned(2, 1, 1));
    lines.extend(did(&[
        Wipe(3, 33),
        Put(1, Some((3, 33))),
        Follow(1, 1, 2),
        Follow(2, 1, 2),
        Commit(1, 2),
        Follow(3, 1, 2),
        Promise(3),
        Admit(3, 2),
    ]));
    let mut readmitted = disk(1, Some(1), &[1, 1], 33, true);
    readmitted.readmits.insert(2, (3, 33));
    lines.push(Line::Synced(3, readmitted));
    lines.extend(did(&[Put(1, None), Follow(2, 1, 3), Crash(1)]));
    // n1 dies before its own disk has the third entry.
    let mut found = disk(1, Some(1), &[1, 1], 1, true);
    found.readmits.insert(2, (3, 33));
    lines.push(Line::Found(1, found, vec![Follow(1, 1, 3)]));
    lines.extend(did(&[
        Timeout(2),
        Grant(3, 2, 2),
        Win(2),
        Put(2, None),
        Follow(2, 2, 4),
        Follow(3, 2, 4),
        Commit(2, 4),
    ]));
    lines.push(Line::Learned(3, 4, 2));
    lines
}

fn check(lines: &[Line]) -> Result<(), String> {
    let mut checker = Checker::default();
    for line in lines {
        checker.take(line).map_err(|broken| broken.rule.to_owned())?;
    }
    Ok(())
}

type Change = fn(&mut Vec<Line>);

fn at(lines: &[Line], line: &Line) -> usize {
    lines.iter().position(|other| other == line).expect("the good trace has this line")
}

fn cut(lines: &mut Vec<Line>, action: Action) {
    let at = at(lines, &Line::Did(action));
    lines.remove(at);
}

fn swap(lines: &mut [Line], action: Action, by: Action) {
    let at = at(lines, &Line::Did(action));
    lines[at] = Line::Did(by);
}

fn insert_before(lines: &mut Vec<Line>, before: Action, action: Action) {
    let at = at(lines, &Line::Did(before));
    lines.insert(at, Line::Did(action));
}

/// The disk in the first line that has one.
fn first_disk(lines: &mut [Line]) -> &mut OnDisk {
    lines
        .iter_mut()
        .find_map(|line| if let Line::Synced(_, disk) = line { Some(disk) } else { None })
        .unwrap()
}

#[test]
fn a_good_trace_is_taken() {
    assert_eq!(check(&good()), Ok(()));
}

#[test]
fn forty_broken_traces_are_refused() {
    use Action::{Admit, Commit, Crash, Follow, Grant, Observe, Promise, Put, Timeout, Win, Wipe};
    let changes: Vec<(&str, Change)> = vec![
        ("Win: the votes of a majority", |t| cut(t, Grant(2, 1, 1))),
        ("Win: a candidate", |t| insert_before(t, Put(2, None), Win(3))),
        ("Grant: to who asked", |t| swap(t, Grant(2, 1, 1), Grant(2, 1, 3))),
        ("Grant: one vote per term", |t| {
            insert_before(t, Win(1), Observe(3, 1));
            insert_before(t, Observe(3, 1), Grant(2, 1, 1));
            insert_before(t, Win(1), Crash(1));
            // n3 asks in term 1, too, and n2 votes a second time.
            let at = at(t, &Line::Did(Observe(3, 1)));
            t[at] = Line::Did(Timeout(3));
            t.insert(at + 1, Line::Did(Grant(2, 1, 3)));
        }),
        ("Grant: to an up-to-date log", |t| {
            // n1 lacks the third entry, and n2 votes for it.
            insert_before(t, Timeout(2), Timeout(1));
            insert_before(t, Timeout(2), Grant(2, 2, 1));
        }),
        ("Grant: a voter", |t| {
            insert_before(t, Put(1, Some((3, 33))), Timeout(2));
            insert_before(t, Put(1, Some((3, 33))), Grant(3, 2, 2));
        }),
        ("Timeout: a voter", |t| insert_before(t, Put(1, Some((3, 33))), Timeout(3))),
        ("Timeout: no leader", |t| insert_before(t, Put(1, None), Timeout(1))),
        ("Observe: a term that somebody reached", |t| swap(t, Observe(2, 1), Observe(2, 7))),
        ("terms do not go back", |t| insert_before(t, Win(1), Observe(2, 1))),
        ("Put: a leader", |t| cut(t, Win(1))),
        ("Follow: what the leader has", |t| swap(t, Follow(2, 1, 1), Follow(2, 1, 2))),
        ("Follow: of a leader", |t| swap(t, Follow(2, 1, 1), Follow(2, 2, 1))),
        ("Commit: on a majority", |t| cut(t, Follow(2, 1, 1))),
        // The leader counts itself before its own disk is done.
        ("Commit: on a majority", |t| cut(t, Follow(1, 1, 1))),
        ("Commit: what it has", |t| swap(t, Commit(1, 1), Commit(1, 2))),
        ("Commit: a leader", |t| swap(t, Commit(1, 1), Commit(2, 1))),
        // Figure 8: an entry of an older term, counted by the leader of a newer one.
        ("Commit: an entry of its own term", |t| {
            insert_before(t, Put(2, None), Follow(3, 2, 3));
            insert_before(t, Put(2, None), Commit(2, 3));
        }),
        ("Readmit: who lost a memory", |t| cut(t, Wipe(3, 33))),
        ("Readmit: after an entry of its own term", |t| {
            cut(t, Commit(1, 1));
            t.retain(|line| !matches!(line, Line::Learned(2, 1, 1)));
        }),
        ("Readmit: one at a time", |t| {
            insert_before(t, Follow(1, 1, 2), Wipe(3, 34));
            insert_before(t, Follow(1, 1, 2), Put(1, Some((3, 34))));
        }),
        ("Readmit: an incarnation once", |t| {
            insert_before(t, Promise(3), Put(1, Some((3, 33))));
        }),
        ("Readmit: another", |t| swap(t, Put(1, Some((3, 33))), Put(1, Some((1, 33))))),
        ("Wipe: a new incarnation", |t| swap(t, Wipe(3, 33), Wipe(3, 3))),
        ("Leave: by a committed Readmit", |t| cut(t, Commit(1, 2))),
        ("Leave: by its own Readmit", |t| {
            // Wiped once more before it leaves, by the Readmit of the disk that is gone.
            insert_before(t, Follow(3, 1, 2), Wipe(3, 34));
        }),
        ("Leave: by its own Readmit", |t| cut(t, Follow(3, 1, 2))),
        ("Leave: by its own Readmit", |t| swap(t, Admit(3, 2), Admit(3, 1))),
        ("Leave: with a vote for the leader", |t| cut(t, Promise(3))),
        ("Leave: a mute node", |t| insert_before(t, Put(2, None), Promise(3))),
        // A mute node's word counts for a commit.
        ("Commit: on a majority", |t| {
            cut(t, Follow(2, 1, 2));
            cut(t, Follow(3, 1, 2));
            insert_before(t, Commit(1, 2), Follow(3, 1, 2));
        }),
        ("Learn: what a leader has committed", |t| {
            let at = at(t, &Line::Learned(3, 4, 2));
            t[at] = Line::Learned(3, 4, 1);
        }),
        ("Learn: what a leader has committed", |t| cut(t, Commit(2, 4))),
        ("Drop: what is committed stays", |t| {
            insert_before(t, Put(1, Some((3, 33))), Action::Drop(2, 1));
        }),
        ("Disk: term and vote", |t| first_disk(t).vote = None),
        ("Disk: term and vote", |t| first_disk(t).term = 2),
        ("Disk: the log", |t| first_disk(t).terms.clear()),
        ("Disk: the log", |t| first_disk(t).readmits = BTreeMap::from([(1, (2, 2))])),
        ("Disk: the incarnation", |t| first_disk(t).disk = 22),
        ("Disk: who may vote", |t| first_disk(t).is_voter = false),
        // What was durable is not there any more, and nobody calls it a loss of memory.
        ("Start: with what was durable", |t| {
            for line in t {
                if let Line::Found(_, found, _) = line {
                    found.terms.pop();
                    found.readmits.clear();
                }
            }
        }),
        // Nor is there what was never on its way.
        ("Start: with what was durable", |t| {
            for line in t {
                if let Line::Found(_, found, _) = line {
                    found.term = 9;
                }
            }
        }),
    ];
    assert!(changes.len() >= 40);
    let mut failed = Vec::new();
    for (number, (rule, change)) in changes.into_iter().enumerate() {
        let mut lines = good();
        change(&mut lines);
        let found = check(&lines);
        if found != Err(rule.to_owned()) {
            failed.push(format!("{number}: {rule}: {found:?}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Traces of production replicas, each with one line changed or left out: none of the steps that count
/// can be missing.
#[test]
fn real_traces_are_refused_without_any_of_their_votes_and_commits() {
    let mut refused: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 60_000..60_012 {
        let (nodes, profile) = (Some(3), Some(Profile::Modern));
        let limits = Limits { nodes, profile, ..Limits::default() };
        let outcome = swarm::run(&Preset::Busy.draw(seed, &limits));
        assert_eq!(outcome.failure, None, "seed {seed}");
        let lines = outcome.lines;
        assert_eq!(check(&lines), Ok(()), "seed {seed}");
        let kind = |line: &Line| match line {
            Line::Did(Action::Timeout(_)) => Some("timeout"),
            Line::Did(Action::Win(_)) => Some("win"),
            Line::Did(Action::Put(..)) => Some("put"),
            Line::Did(Action::Wipe(..)) => Some("wipe"),
            Line::Did(Action::Promise(_)) => Some("promise"),
            Line::Did(Action::Admit(..)) => Some("admit"),
            _ => None,
        };
        let mut left: BTreeMap<&str, usize> = BTreeMap::new();
        for (at, line) in lines.iter().enumerate() {
            let Some(kind) = kind(line) else { continue };
            let count = left.entry(kind).or_default();
            *count += 1;
            if *count > 6 {
                continue;
            }
            let mut broken = lines.clone();
            broken.remove(at);
            if check(&broken).is_ok() {
                // An entry that reached no disk, or a disk that was lost again before anything was
                // on it, leaves no trace.
                let may_vanish = matches!(kind, "put" | "wipe");
                assert!(may_vanish, "seed {seed}: without line {}: {line:?}", at + 1);
                continue;
            }
            *refused.entry(kind).or_default() += 1;
        }
    }
    assert_eq!(refused.len(), 6, "{refused:?}");
}

/// Nothing tells in which order a promise and what was appended behind it came to the disk of a node
/// that died.
#[test]
fn a_promise_may_be_durable_without_what_was_on_its_way_before_it_was_seen() {
    use Action::{Crash, Follow, Promise, Put};
    let good = good();
    let before = at(&good, &Line::Did(Promise(3)));
    let dies_with = |terms: &[u64], vote: Option<u8>| {
        let mut lines = good[..before].to_vec();
        lines.extend(did(&[Put(1, None), Crash(3)]));
        let mut found = disk(1, vote, terms, 33, false);
        found.readmits.extend((terms.len() > 1).then_some((2, (3, 33))));
        lines.push(Line::Found(3, found, vec![Follow(3, 1, 3), Promise(3)]));
        check(&lines)
    };
    for terms in [&[1, 1][..], &[1, 1, 1]] {
        for vote in [None, Some(1)] {
            assert_eq!(dies_with(terms, vote), Ok(()), "{terms:?}, {vote:?}");
        }
    }
    // What was durable before is there in any order.
    assert_eq!(dies_with(&[1], Some(1)), Err("Start: with what was durable".to_owned()));
}
