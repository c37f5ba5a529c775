//! The five scripts of the design mean what their text says.

use std::time::Duration;

use tercet_lab::ast::{
    Cmp, Condition, Content, EventPattern, Fate, FieldValue, Given, LogItem, NodeRef, NodeRefs,
    Number, Outcome, Pred, Recovery, Script, Step, StepKind, Timers, Wipe,
};
use tercet_lab::parse;
use tercet_raft::{NodeId, Profile, RoleKind};

use crate::SCRIPTS;

fn n(slot: u8) -> NodeRef {
    NodeRef::Node(node(slot))
}

fn node(slot: u8) -> NodeId {
    NodeId::new(slot).expect("a slot of a small cluster")
}

fn some(slots: &[u8]) -> NodeRefs {
    NodeRefs::Some(slots.iter().map(|slot| n(*slot)).collect())
}

fn values(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn item(term: u64, value: &str) -> LogItem {
    LogItem { term: Some(Number::Literal(term)), content: Content::Value(value.to_owned()) }
}

fn script(which: usize) -> Script {
    parse(SCRIPTS[which]).unwrap_or_else(|errors| {
        panic!("{}", errors.iter().map(|e| e.render("script", SCRIPTS[which])).collect::<String>())
    })
}

/// The step of the line.
fn at(steps: &[Step], line: usize) -> &StepKind {
    &steps.iter().find(|step| step.line == line).expect("a step on that line").kind
}

fn expect(pred: Pred) -> StepKind {
    StepKind::Expect { pred, at_once: false }
}

#[test]
fn a_normal_election() {
    let script = script(0);
    assert_eq!(script.header.title, "A. Normal election");
    assert_eq!(script.header.cites, ["raft.pdf §5.2"]);
    assert_eq!(script.header.nodes, 3);
    assert_eq!(script.header.profile, Profile::Paper);
    assert_eq!(script.header.timers, Timers::Manual);
    assert_eq!(script.header.recovery, Recovery::Quarantine);
    assert_eq!((script.header.seed, script.header.requires), (1, None));
    let nodes = vec![node(1), node(2), node(3)];
    assert_eq!(
        script.given,
        [Given { line: 3, nodes, term: Some(1), voted: None, log: Vec::new() }]
    );
    assert_eq!((script.steps.len(), script.ends_as_is, script.golden), (12, false, None));
    assert_eq!(
        *at(&script.steps, 4),
        StepKind::Ask {
            question: "n3's timer fires first. Which term will it ask votes for?".to_owned(),
            options: values(&["1", "2", "3"]),
            answer: "2".to_owned(),
        }
    );
    assert_eq!(*at(&script.steps, 6), StepKind::Elect { node: n(3), win: false });
    assert_eq!(
        *at(&script.steps, 8),
        expect(Pred::Leader {
            negated: false,
            node: Some(n(3)),
            term: Some((Cmp::Equal, Number::Literal(2))),
        })
    );
    assert_eq!(
        *at(&script.steps, 9),
        expect(Pred::Nodes {
            nodes: some(&[1, 2]),
            conditions: vec![
                Condition::Role { negated: false, role: RoleKind::Follower },
                Condition::Term(Cmp::Equal, Number::Literal(2)),
                Condition::Voted(Some(n(3))),
            ],
        })
    );
    assert_eq!(
        *at(&script.steps, 10),
        StepKind::ExpectCount {
            events: EventPattern {
                kind: "vote_granted".to_owned(),
                fields: vec![
                    ("to".to_owned(), FieldValue::Node(n(3))),
                    ("term".to_owned(), FieldValue::Text("2".to_owned())),
                ],
            },
            since: Some("start".to_owned()),
            cmp: Cmp::Equal,
            count: 2,
        }
    );
    let empty = Pred::Nodes { nodes: NodeRefs::All, conditions: vec![Condition::Log(Vec::new())] };
    assert_eq!(*at(&script.steps, 11), expect(empty));
    assert_eq!(*at(&script.steps, 12), StepKind::Thaw(NodeRefs::All));
    assert_eq!(*at(&script.steps, 13), StepKind::Run(Duration::from_secs(30)));
    assert_eq!(script.steps[7].text, "expect logs all = empty");
}

#[test]
fn b_leader_change() {
    let script = script(1);
    assert_eq!((script.header.timers, script.header.seed), (Timers::Auto, 2));
    assert_eq!(
        *at(&script.steps, 4),
        StepKind::Submit {
            values: values(&["x=1", "y=2", "z=3"]),
            via: None,
            name: None,
            nowait: false,
            expect: vec![Outcome::Ok],
        }
    );
    assert_eq!(
        *at(&script.steps, 9),
        StepKind::SetHeartbeat {
            node: n(1),
            interval: Some(Duration::from_secs(20)),
            until_stepdown: true,
        }
    );
    assert_eq!(
        *at(&script.steps, 10),
        StepKind::Wait {
            pred: Pred::Leader { negated: true, node: Some(n(1)), term: None },
            within: Duration::from_secs(10),
        }
    );
    let l = || NodeRef::Variable("L".to_owned());
    assert_eq!(
        *at(&script.steps, 11),
        StepKind::Let { name: "L".to_owned(), node: NodeRef::Leader }
    );
    assert_eq!(
        *at(&script.steps, 13),
        expect(Pred::Nodes {
            nodes: some(&[1]),
            conditions: vec![
                Condition::Role { negated: false, role: RoleKind::Follower },
                Condition::Term(Cmp::Equal, Number::Term(l())),
                Condition::Heartbeat(None),
            ],
        })
    );
    assert_eq!(
        *at(&script.steps, 17),
        StepKind::Submit {
            values: values(&["w=4"]),
            via: Some(n(1)),
            name: None,
            nowait: false,
            expect: vec![Outcome::Redirect(l()), Outcome::Ok],
        }
    );
    assert_eq!(
        *at(&script.steps, 19),
        expect(Pred::Nodes {
            nodes: NodeRefs::All,
            conditions: vec![Condition::LogEnds(vec![LogItem {
                term: Some(Number::Term(l())),
                content: Content::Value("w=4".to_owned()),
            }])],
        })
    );
}

#[test]
fn c_leader_crash() {
    let script = script(2);
    assert_eq!(
        *at(&script.steps, 6),
        StepKind::Cut { from: some(&[1]), to: some(&[2, 3]), one_way: false }
    );
    assert_eq!(
        *at(&script.steps, 7),
        StepKind::Submit {
            values: values(&["c"]),
            via: Some(n(1)),
            name: Some("W".to_owned()),
            nowait: true,
            expect: Vec::new(),
        }
    );
    assert_eq!(
        *at(&script.steps, 9),
        expect(Pred::Nodes {
            nodes: some(&[1]),
            conditions: vec![
                Condition::Log(vec![item(1, "a"), item(1, "b"), item(1, "c")]),
                Condition::Commit(Cmp::Equal, Number::Literal(2)),
            ],
        })
    );
    let StepKind::Fork(branches) = at(&script.steps, 16) else { panic!("a fork") };
    let names: Vec<_> = branches.iter().map(|b| (b.name.as_str(), b.line, b.steps.len())).collect();
    assert_eq!(names, [("lost", 17, 9), ("survives", 28, 13)]);
    assert_eq!(
        *at(&branches[0].steps, 26),
        expect(Pred::Fate { name: "W".to_owned(), fate: Fate::Lost })
    );
    assert!(matches!(script.steps.last().map(|step| &step.kind), Some(StepKind::Fork(_))));
}

#[test]
fn d_deleted_log() {
    let script = script(3);
    assert_eq!(*at(&script.steps, 7), StepKind::Crash(some(&[2])));
    assert_eq!(*at(&script.steps, 8), StepKind::Wipe { nodes: some(&[2]), what: Wipe::Log });
    let conditions = vec![Condition::Log(Vec::new())];
    assert_eq!(
        *at(&script.steps, 11),
        StepKind::Expect { pred: Pred::Nodes { nodes: some(&[2]), conditions }, at_once: true }
    );
    assert_eq!(*at(&script.steps, 14), StepKind::Release(None));
    let StepKind::ExpectTrace { since, events } = at(&script.steps, 16) else { panic!("a trace") };
    assert_eq!(since.as_deref(), Some("gone"));
    let kinds: Vec<_> = events.iter().map(|(line, event)| (*line, event.kind.as_str())).collect();
    assert_eq!(kinds.first(), Some(&(17, "append_rejected")));
    assert_eq!(kinds.last(), Some(&(23, "append_accepted")));
    assert_eq!(
        events[1].1.fields,
        [
            ("peer".to_owned(), FieldValue::Node(n(2))),
            ("from".to_owned(), FieldValue::Text("4".to_owned())),
            ("to".to_owned(), FieldValue::Text("3".to_owned())),
        ]
    );
}

#[test]
fn e_rejoin() {
    let script = script(4);
    let StepKind::Fork(branches) = at(&script.steps, 10) else { panic!("a fork") };
    assert_eq!(branches[1].name, "changed");
    assert_eq!(*at(&branches[1].steps, 18), StepKind::Elect { node: n(2), win: true });
    assert_eq!(
        branches[1].steps[3].text,
        "expect count append_rejected(follower=n3) since back = 3"
    );
}
