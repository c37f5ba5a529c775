//! Every word of the language, once in each of its forms.

use std::time::Duration;

use tercet_lab::ast::{
    ClientState, Cmp, Condition, Content, DiskState, End, Fate, FieldValue, GivenEntry, Invariant,
    Link, LogItem, MessageKind, Mutant, NodeRef, NodeRefs, Number, Outcome, Pred, Recovery,
    Selector, StepKind, Timers, Wipe, World,
};
use tercet_lab::{parse, parse_step};
use tercet_raft::{NodeId, Profile, RoleKind};

fn node(slot: u8) -> NodeId {
    NodeId::new(slot).expect("a slot of a small cluster")
}

fn n(slot: u8) -> NodeRef {
    NodeRef::Node(node(slot))
}

fn some(slots: &[u8]) -> NodeRefs {
    NodeRefs::Some(slots.iter().map(|slot| n(*slot)).collect())
}

fn var(name: &str) -> NodeRef {
    NodeRef::Variable(name.to_owned())
}

fn link(from: u8, to: u8) -> Link {
    Link { from: n(from), to: n(to) }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn lit(number: u64) -> Number {
    Number::Literal(number)
}

fn step(line: &str) -> StepKind {
    parse_step(line, 3).unwrap_or_else(|error| panic!("{line}: {error}")).kind
}

/// What `expect` makes of the predicate.
fn pred(line: &str) -> Pred {
    let StepKind::Expect { pred, at_once: false } = step(&format!("expect {line}")) else {
        panic!("{line}: a plain expectation")
    };
    pred
}

fn on(nodes: NodeRefs, condition: Condition) -> Pred {
    Pred::Nodes { nodes, conditions: vec![condition] }
}

#[test]
fn nodes() {
    let table = [
        ("crash n1 n2", StepKind::Crash(some(&[1, 2]))),
        ("crash leader", StepKind::Crash(NodeRefs::Some(vec![NodeRef::Leader]))),
        ("crash $L", StepKind::Crash(NodeRefs::Some(vec![var("L")]))),
        ("restart all", StepKind::Restart(NodeRefs::All)),
        ("pause n1", StepKind::Pause(some(&[1]))),
        ("resume n1", StepKind::Resume(some(&[1]))),
        ("wipe n2 log", StepKind::Wipe { nodes: some(&[2]), what: Wipe::Log }),
        ("wipe n2 n3 meta", StepKind::Wipe { nodes: some(&[2, 3]), what: Wipe::Meta }),
        ("wipe n2", StepKind::Wipe { nodes: some(&[2]), what: Wipe::All }),
        ("wipe all all", StepKind::Wipe { nodes: NodeRefs::All, what: Wipe::All }),
        ("tear n2 last 2", StepKind::Tear { node: n(2), count: 2 }),
        (
            "set n1 heartbeat=20s until=stepdown",
            StepKind::SetHeartbeat { node: n(1), interval: Some(ms(20_000)), until_stepdown: true },
        ),
        (
            "set leader heartbeat = 50ms",
            StepKind::SetHeartbeat {
                node: NodeRef::Leader,
                interval: Some(ms(50)),
                until_stepdown: false,
            },
        ),
        (
            "set n1 heartbeat=default",
            StepKind::SetHeartbeat { node: n(1), interval: None, until_stepdown: false },
        ),
        ("set n1 disk=slow", StepKind::SetDisk { node: n(1), disk: DiskState::Slow }),
        ("set n1 disk=full", StepKind::SetDisk { node: n(1), disk: DiskState::Full }),
        ("set n1 disk=ok", StepKind::SetDisk { node: n(1), disk: DiskState::Ok }),
        (
            "set n1 clock=+1h",
            StepKind::JumpClock { node: n(1), by: ms(3_600_000), backward: false },
        ),
        ("set n1 clock=-1m", StepKind::JumpClock { node: n(1), by: ms(60_000), backward: true }),
    ];
    for (line, expected) in table {
        assert_eq!(step(line), expected, "{line}");
    }
}

#[test]
fn links() {
    let cut =
        |from: &[u8], to: &[u8], one_way| StepKind::Cut { from: some(from), to: some(to), one_way };
    let table = [
        ("cut n1 | n2 n3", cut(&[1], &[2, 3], false)),
        ("cut n1|n2 n3", cut(&[1], &[2, 3], false)),
        ("cut n1 -> n3", cut(&[1], &[3], true)),
        ("cut n1 n2->n3", cut(&[1, 2], &[3], true)),
        ("isolate n1", StepKind::Isolate(n(1))),
        ("reset n1 | n2 n3", StepKind::Reset { one: some(&[1]), other: some(&[2, 3]) }),
        ("heal", StepKind::Heal),
        ("delay n1->n2 50ms", StepKind::Delay { link: link(1, 2), by: ms(50) }),
        (
            "drop next 2 AppendEntries n1->n3",
            StepKind::Drop { link: link(1, 3), kind: Some(MessageKind::Append), count: 2 },
        ),
        ("drop next n1->n3", StepKind::Drop { link: link(1, 3), kind: None, count: 1 }),
        (
            "dup next RequestVote n1 -> n3",
            StepKind::Duplicate { link: link(1, 3), kind: Some(MessageKind::Vote), count: 1 },
        ),
        ("dup next 3 n1->n3", StepKind::Duplicate { link: link(1, 3), kind: None, count: 3 }),
        ("hold n1->n2", StepKind::Hold { link: link(1, 2), kind: None }),
        (
            "hold n1 -> $L append",
            StepKind::Hold {
                link: Link { from: n(1), to: var("L") },
                kind: Some(MessageKind::Append),
            },
        ),
        ("list held", StepKind::ListHeld),
        ("release", StepKind::Release(None)),
        ("release n1->n2", StepKind::Release(Some(link(1, 2)))),
    ];
    for (line, expected) in table {
        assert_eq!(step(line), expected, "{line}");
    }
}

#[test]
fn selectors() {
    let number = Selector { number: Some(12), ..Selector::default() };
    let reply = Selector {
        kind: Some(MessageKind::VoteReply),
        to: Some(n(1)),
        at_most: Some((End::First, 1)),
        ..Selector::default()
    };
    let last = Selector { from: Some(n(2)), at_most: Some((End::Last, 3)), ..Selector::default() };
    let table = [
        ("deliver #12", StepKind::Deliver(number.clone())),
        ("deliver #12  # not a comment", StepKind::Deliver(number.clone())),
        ("discard #12", StepKind::Discard(number)),
        ("deliver all", StepKind::Deliver(Selector::default())),
        ("deliver all #12 is a comment", StepKind::Deliver(Selector::default())),
        ("deliver type=VoteReply to=n1 first 1", StepKind::Deliver(reply)),
        ("discard from=n2 last 3", StepKind::Discard(last)),
    ];
    for (line, expected) in table {
        assert_eq!(step(line), expected, "{line}");
    }
}

/// `# 12` with a space is a comment, and `deliver` alone says too little.
#[test]
fn a_number_is_glued_to_its_sign() {
    assert!(parse_step("deliver # 12", 3).is_err());
}

#[test]
fn kinds_of_messages() {
    let table = [
        ("PreVote", MessageKind::PreVote),
        ("PreVoteReply", MessageKind::PreVoteReply),
        ("Vote", MessageKind::Vote),
        ("requestvote", MessageKind::Vote),
        ("VoteReply", MessageKind::VoteReply),
        ("Append", MessageKind::Append),
        ("appendEntries", MessageKind::Append),
        ("AppendReply", MessageKind::AppendReply),
        ("HEARTBEAT", MessageKind::Heartbeat),
        ("HeartbeatReply", MessageKind::HeartbeatReply),
        ("LearnerReply", MessageKind::LearnerReply),
        ("Rejoin", MessageKind::Rejoin),
        ("TimeoutNow", MessageKind::TimeoutNow),
        ("ReadIndex", MessageKind::ReadIndex),
        ("ReadIndexReply", MessageKind::ReadIndexReply),
    ];
    for (word, kind) in table {
        let expected = StepKind::Hold { link: link(1, 2), kind: Some(kind) };
        assert_eq!(step(&format!("hold n1->n2 {word}")), expected, "{word}");
    }
}

#[test]
fn clients() {
    let submit = |values: &[&str]| StepKind::Submit {
        values: values.iter().map(|value| text(value)).collect(),
        via: None,
        name: None,
        nowait: false,
        expect: Vec::new(),
    };
    let table = [
        ("submit a b", submit(&["a", "b"])),
        (
            "submit \"via=n1\" \"a \\\"b\\\" \\\\ # c\" x#y",
            submit(&["via=n1", "a \"b\" \\ # c", "x#y"]),
        ),
        ("submit via nowait=1", submit(&["via", "nowait=1"])),
        (
            "submit x=1 y=2 via=n1 as=W nowait",
            StepKind::Submit {
                values: vec![text("x=1"), text("y=2")],
                via: Some(n(1)),
                name: Some(text("W")),
                nowait: true,
                expect: Vec::new(),
            },
        ),
        (
            "submit a via = n1 -> redirect n2 -> unknown",
            StepKind::Submit {
                values: vec![text("a")],
                via: Some(n(1)),
                name: None,
                nowait: false,
                expect: vec![Outcome::Redirect(n(2)), Outcome::Unknown],
            },
        ),
        (
            "retry W via=n2 nowait",
            StepKind::Retry { name: text("W"), via: Some(n(2)), nowait: true, expect: Vec::new() },
        ),
        (
            "retry W -> refused",
            StepKind::Retry {
                name: text("W"),
                via: None,
                nowait: false,
                expect: vec![Outcome::Refused],
            },
        ),
        (
            "read",
            StepKind::Read {
                via: None,
                name: None,
                stale: false,
                nowait: false,
                expect: Vec::new(),
            },
        ),
        (
            "read via=n1 as=R stale -> ok",
            StepKind::Read {
                via: Some(n(1)),
                name: Some(text("R")),
                stale: true,
                nowait: false,
                expect: vec![Outcome::Ok],
            },
        ),
        (
            "read linearizable nowait",
            StepKind::Read {
                via: None,
                name: None,
                stale: false,
                nowait: true,
                expect: Vec::new(),
            },
        ),
    ];
    for (line, expected) in table {
        assert_eq!(step(line), expected, "{line}");
    }
}

#[test]
fn time_and_flow() {
    let somebody = Pred::Leader { negated: true, node: None, term: None };
    let table = [
        ("elect n1", StepKind::Elect { node: n(1), win: false }),
        ("elect $L win", StepKind::Elect { node: var("L"), win: true }),
        ("transfer", StepKind::Transfer(None)),
        ("transfer n2", StepKind::Transfer(Some(n(2)))),
        ("transfer to=n2", StepKind::Transfer(Some(n(2)))),
        ("run 300ms", StepKind::Run(ms(300))),
        ("run 2s", StepKind::Run(ms(2000))),
        ("run 1m", StepKind::Run(ms(60_000))),
        ("settle", StepKind::Settle),
        ("wait leader != none", StepKind::Wait { pred: somebody.clone(), within: ms(5000) }),
        (
            "wait leader != none within 10s",
            StepKind::Wait { pred: somebody.clone(), within: ms(10_000) },
        ),
        ("freeze n1.timers", StepKind::Freeze(some(&[1]))),
        ("freeze n1.timers n2.timers", StepKind::Freeze(some(&[1, 2]))),
        ("thaw all.timers", StepKind::Thaw(NodeRefs::All)),
        (
            "always leader != none until x",
            StepKind::Always { pred: somebody.clone(), until: text("x") },
        ),
        ("never leader != none until x", StepKind::Never { pred: somebody, until: text("x") }),
        ("let L = leader", StepKind::Let { name: text("L"), node: NodeRef::Leader }),
        ("let L=n2", StepKind::Let { name: text("L"), node: n(2) }),
        ("mark after-heal", StepKind::Mark(text("after-heal"))),
        ("say \"Look: # here.\"  # not here", StepKind::Say(text("Look: # here."))),
        (
            "ask \"Who?\" n1 \"nobody at all\" = \"nobody at all\"",
            StepKind::Ask {
                question: text("Who?"),
                options: vec![text("n1"), text("nobody at all")],
                answer: text("nobody at all"),
            },
        ),
    ];
    for (line, expected) in table {
        assert_eq!(step(line), expected, "{line}");
    }
}

#[test]
fn mutants() {
    let table = [
        ("commit-old-terms", Mutant::CommitOldTerms),
        ("truncate-always", Mutant::TruncateAlways),
        ("ignore-log-in-votes", Mutant::IgnoreLogInVotes),
        ("speak-before-durable", Mutant::SpeakBeforeDurable),
        ("no-pre-vote", Mutant::NoPreVote),
        ("no-check-quorum", Mutant::NoCheckQuorum),
        ("no-request-ids", Mutant::NoRequestIds),
        ("stale-reads", Mutant::StaleReads),
    ];
    for (word, mutant) in table {
        assert_eq!(step(&format!("mutant {word} on")), StepKind::Mutant { mutant, on: true });
        assert_eq!(step(&format!("mutant {word} off")), StepKind::Mutant { mutant, on: false });
        let script = parse(&format!("cluster n1\nmutant {word}\nmutant {word} off\n"))
            .expect("a header and a step");
        assert_eq!(script.header.mutants, [mutant]);
        assert_eq!(script.steps.len(), 1);
    }
}

#[test]
fn predicates_on_leaders_and_nodes() {
    let leader = |negated, node, term| Pred::Leader { negated, node, term };
    let table = [
        ("leader = n3 @2", leader(false, Some(n(3)), Some((Cmp::Equal, lit(2))))),
        ("leader=n3@>=2", leader(false, Some(n(3)), Some((Cmp::AtLeast, lit(2))))),
        (
            "leader = $L @ $L.term",
            leader(false, Some(var("L")), Some((Cmp::Equal, Number::Term(var("L"))))),
        ),
        ("leader != n1", leader(true, Some(n(1)), None)),
        ("leader = none", leader(false, None, None)),
        (
            "leader role=leader",
            on(
                NodeRefs::Some(vec![NodeRef::Leader]),
                Condition::Role { negated: false, role: RoleKind::Leader },
            ),
        ),
        (
            "n1 role!=candidate",
            on(some(&[1]), Condition::Role { negated: true, role: RoleKind::Candidate }),
        ),
        (
            "n1 role=pre-candidate",
            on(some(&[1]), Condition::Role { negated: false, role: RoleKind::PreCandidate }),
        ),
        (
            "n1 role=precandidate",
            on(some(&[1]), Condition::Role { negated: false, role: RoleKind::PreCandidate }),
        ),
        (
            "n1 role = quarantined",
            on(some(&[1]), Condition::Role { negated: false, role: RoleKind::Quarantined }),
        ),
        ("$L term >= 2", on(NodeRefs::Some(vec![var("L")]), Condition::Term(Cmp::AtLeast, lit(2)))),
        ("n1 term>2", on(some(&[1]), Condition::Term(Cmp::Above, lit(2)))),
        ("n1 term<2", on(some(&[1]), Condition::Term(Cmp::Below, lit(2)))),
        ("n1 term<=2", on(some(&[1]), Condition::Term(Cmp::AtMost, lit(2)))),
        ("n1 term!=2", on(some(&[1]), Condition::Term(Cmp::NotEqual, lit(2)))),
        ("n1 voted=-", on(some(&[1]), Condition::Voted(None))),
        ("n1 voted = n3", on(some(&[1]), Condition::Voted(Some(n(3))))),
        ("commit all = 4", on(NodeRefs::All, Condition::Commit(Cmp::Equal, lit(4)))),
        (
            "all commit=n1.last",
            on(NodeRefs::All, Condition::Commit(Cmp::Equal, Number::Last(n(1)))),
        ),
        (
            "n2 last>=leader.commit",
            on(some(&[2]), Condition::Last(Cmp::AtLeast, Number::Commit(NodeRef::Leader))),
        ),
        ("n1 heartbeat=default", on(some(&[1]), Condition::Heartbeat(None))),
        ("n1 heartbeat=20s", on(some(&[1]), Condition::Heartbeat(Some(ms(20_000))))),
        ("n1 up", on(some(&[1]), Condition::Up(true))),
        ("n2 n3 down", on(some(&[2, 3]), Condition::Up(false))),
        ("logs all equal", Pred::LogsEqual(NodeRefs::All)),
        ("logs n1 n2 equal", Pred::LogsEqual(some(&[1, 2]))),
        ("invariants ok", Pred::InvariantsOk),
    ];
    for (line, expected) in table {
        assert_eq!(pred(line), expected, "{line}");
    }
    assert_eq!(
        step("expect! n1 up"),
        StepKind::Expect { pred: on(some(&[1]), Condition::Up(true)), at_once: true }
    );
}

#[test]
fn logs() {
    let item = |term: u64, content| LogItem { term: Some(lit(term)), content };
    let value = |term, value: &str| item(term, Content::Value(text(value)));
    let of_l = LogItem { term: Some(Number::Term(var("L"))), content: Content::Value(text("w=4")) };
    let any_term = LogItem { term: None, content: Content::Value(text("a")) };
    let table = [
        ("logs all = 1:a 1:b", Condition::Log(vec![value(1, "a"), value(1, "b")]), NodeRefs::All),
        ("log all ends $L.term:w=4", Condition::LogEnds(vec![of_l]), NodeRefs::All),
        ("n1 log = empty", Condition::Log(Vec::new()), some(&[1])),
        (
            "n1 log=2:- 2:+n2 2:* *:a",
            Condition::Log(vec![
                item(2, Content::Noop),
                item(2, Content::Readmit(n(2))),
                item(2, Content::Any),
                any_term,
            ]),
            some(&[1]),
        ),
        (
            "n1 log ends 2:\"-\" 2:\"a b\" 2:x:y",
            Condition::LogEnds(vec![value(2, "-"), value(2, "a b"), value(2, "x:y")]),
            some(&[1]),
        ),
    ];
    for (line, condition, nodes) in table {
        assert_eq!(pred(line), on(nodes, condition), "{line}");
    }
    let Pred::Nodes { conditions, .. } = pred("n1 log = 1:a 1:b  commit=2 up") else {
        panic!("conditions on nodes")
    };
    assert_eq!(
        conditions,
        [
            Condition::Log(vec![value(1, "a"), value(1, "b")]),
            Condition::Commit(Cmp::Equal, lit(2)),
            Condition::Up(true),
        ]
    );
}

#[test]
fn predicates_on_clients_and_invariants() {
    let w = || text("W");
    let client = |state| Pred::Client { name: w(), state };
    let fate = |fate| Pred::Fate { name: w(), fate };
    let table = [
        ("W.client = unknown", client(ClientState::Unknown)),
        ("W.client=ok", client(ClientState::Ok)),
        ("W.client = refused", client(ClientState::Refused)),
        ("W.client = waiting", client(ClientState::Waiting)),
        ("W.fate = lost", fate(Fate::Lost)),
        ("W.fate = committed", fate(Fate::Committed)),
        ("W.fate = pending", fate(Fate::Pending)),
        ("R.values = a b", Pred::Values { name: text("R"), values: vec![text("a"), text("b")] }),
        ("R.values = empty", Pred::Values { name: text("R"), values: Vec::new() }),
        ("invariants violated=ElectionSafety", Pred::Violated(Invariant::ElectionSafety)),
        ("invariants violated=LeaderAppendOnly", Pred::Violated(Invariant::LeaderAppendOnly)),
        ("invariants violated=LogMatching", Pred::Violated(Invariant::LogMatching)),
        ("invariants violated=LeaderCompleteness", Pred::Violated(Invariant::LeaderCompleteness)),
        ("invariants violated=StateMachineSafety", Pred::Violated(Invariant::StateMachineSafety)),
        ("invariants violated = Linearizability", Pred::Violated(Invariant::Linearizability)),
    ];
    for (line, expected) in table {
        assert_eq!(pred(line), expected, "{line}");
    }
    let StepKind::Wait { pred, within } = step("wait R.values = a \"within\" within 1s") else {
        panic!("a wait")
    };
    assert_eq!(within, ms(1000));
    assert_eq!(pred, Pred::Values { name: text("R"), values: vec![text("a"), text("within")] });
}

#[test]
fn counts_of_events() {
    let table = [
        ("expect count became_leader = 1", "became_leader", Cmp::Equal, 1),
        ("expect count became_leader since m >= 3", "became_leader", Cmp::AtLeast, 3),
        ("expect count became_leader() since m=3", "became_leader", Cmp::Equal, 3),
        ("expect count commit <= 3", "commit", Cmp::AtMost, 3),
        ("expect count commit != 0", "commit", Cmp::NotEqual, 0),
        ("expect count commit > 0", "commit", Cmp::Above, 0),
        ("expect count commit < 2", "commit", Cmp::Below, 2),
    ];
    for (line, kind, comparison, number) in table {
        let StepKind::ExpectCount { events, cmp, count, .. } = step(line) else {
            panic!("{line}: a count")
        };
        assert_eq!((events.kind.as_str(), cmp, count), (kind, comparison, number), "{line}");
    }
    let line =
        "expect count vote_denied(node=n1 to=$L term=$L.term reason=\"no (yet)\") since m = 1";
    let StepKind::ExpectCount { events, since, .. } = step(line) else { panic!("a count") };
    assert_eq!(since.as_deref(), Some("m"));
    assert_eq!(
        events.fields,
        [
            (text("node"), FieldValue::Node(n(1))),
            (text("to"), FieldValue::Node(var("L"))),
            (text("term"), FieldValue::Number(Number::Term(var("L")))),
            (text("reason"), FieldValue::Text(text("no (yet)"))),
        ]
    );
}

#[test]
fn headers() {
    let text = "\u{feff}# A comment.\n\
        title \"T\" cite \"a\" cite \"b\"\r\n\
        cluster n1 n2 profile=paper timers = manual recovery=trust seed=7 requires real \"why\"\n\
        mutant no-pre-vote mutant stale-reads\n";
    let header = parse(text).expect("a header").header;
    assert_eq!((header.title.as_str(), header.nodes, header.seed), ("T", 2, 7));
    assert_eq!(header.cites, ["a", "b"]);
    assert_eq!(header.profile, Profile::Paper);
    assert_eq!((header.timers, header.recovery), (Timers::Manual, Recovery::Trust));
    assert_eq!(header.mutants, [Mutant::NoPreVote, Mutant::StaleReads]);
    let requires = header.requires.expect("one world");
    assert_eq!((requires.world, requires.reason.as_str()), (World::Real, "why"));

    let header =
        parse("cluster n1 n2 n3 n4 n5 n6 n7\nrequires sim \"why\"").expect("a header").header;
    assert_eq!((header.profile, header.timers), (Profile::Modern, Timers::Auto));
    assert_eq!((header.recovery, header.seed, header.nodes), (Recovery::Quarantine, 1, 7));
    assert_eq!(header.requires.map(|requires| requires.world), Some(World::Sim));
}

#[test]
fn given_disks() {
    let script = parse(
        "cluster n1 n2 n3\n\
         given n1 term=7 voted=- log=1,1,4:x\n\
         given n2 n3 log = 1,1,4:\"x\",5:\"a,b\" voted=n1\n",
    )
    .expect("two lines that agree");
    let entry = |term, value: Option<&str>| GivenEntry { term, value: value.map(text) };
    let [first, second] = &script.given[..] else { panic!("two lines") };
    assert_eq!((first.line, first.term, first.voted), (2, Some(7), None));
    assert_eq!(first.log, [entry(1, None), entry(1, None), entry(4, Some("x"))]);
    assert_eq!((second.nodes.len(), second.term, second.voted), (2, None, Some(node(1))));
    assert_eq!(second.log[3], entry(5, Some("a,b")));
    let script = parse("cluster n1 n2\ngiven all term=3 log=empty").expect("a line");
    assert_eq!((script.given[0].nodes.len(), script.given[0].log.len()), (2, 0));
}

#[test]
fn ends_and_golden_text() {
    let script =
        parse("cluster n1\nelect n1\nend as-is\n---\nn1 leads\n\n---\nlast").expect("golden");
    assert!(script.ends_as_is);
    assert_eq!(script.golden.as_deref(), Some("n1 leads\n\n---\nlast"));
    let script = parse(
        "cluster n1\nfork a, b\n\nbranch b {\n end as-is\n}\n# between\nbranch a {\n}\nend as-is\n---\n",
    )
    .expect("a fork");
    let StepKind::Fork(branches) = &script.steps[0].kind else { panic!("a fork") };
    let ends: Vec<_> = branches.iter().map(|b| (b.name.as_str(), b.ends_as_is)).collect();
    assert_eq!(ends, [("b", true), ("a", false)]);
    assert!(script.ends_as_is);
    assert_eq!(script.golden.as_deref(), Some(""));
}

/// The same name may be used in two branches; a mark that is awaited may be made in each of them.
#[test]
fn straight_lines_do_not_see_each_other() {
    let script = "cluster n1 n2 n3\n\
        crash n1\n\
        always leader != n1 until done\n\
        fork a, b\n\
        branch a {\nlet L = leader\nrestart n1\nsubmit x as=W\nmark done\n}\n\
        branch b {\nlet L = leader\nrestart n1\nsubmit x as=W\nmark done\n}\n";
    assert!(parse(script).is_ok());
}
