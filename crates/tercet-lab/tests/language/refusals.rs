//! What is refused, where, and in which words.

use tercet_lab::{ScriptError, parse, parse_step};

/// A cluster line, so that line 2 is the first of `steps`.
const HEAD: &str = "cluster n1 n2 n3\n";

fn complaints(text: &str) -> Vec<String> {
    parse(text).expect_err("a script with mistakes").iter().map(ToString::to_string).collect()
}

fn check(table: &[(&str, &str)]) {
    let mut wrong = String::new();
    for (steps, expected) in table {
        let found = match parse(&format!("{HEAD}{steps}")) {
            Ok(_) => "nothing".to_owned(),
            Err(errors) => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" / "),
        };
        if found != *expected {
            wrong += &format!("\n{steps}\n  expected {expected}\n  found    {found}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn check_whole(table: &[(&str, &[&str])]) {
    for (text, expected) in table {
        assert_eq!(complaints(text), *expected, "{text}");
    }
}

/// Words that are none, with the one that was meant.
#[test]
fn words() {
    check(&[
        ("  crsh n1", "2:3: \"crsh\" is unknown: did you mean \"crash\"?"),
        ("Crash n1", "2:1: \"Crash\" is unknown: did you mean \"crash\"?"),
        ("frobnicate n1", "2:1: \"frobnicate\" is unknown"),
        ("elect n1 wn", "2:10: \"wn\" is unknown: did you mean \"win\"?"),
        ("elect n1 win win", "2:14: \"win\" is too much here"),
        ("wipe n2 lgo", "2:9: \"lgo\" is unknown: did you mean \"log\"?"),
        ("wipe n2 disk", "2:9: \"disk\" is unknown: expected log, meta or all"),
        ("set n1 hartbeat=2s", "2:8: \"hartbeat\" is unknown: did you mean \"heartbeat\"?"),
        ("set n1 disk=broken", "2:13: \"broken\" is unknown: expected slow, full or ok"),
        ("submit a -> okay", "2:13: \"okay\" is unknown: did you mean \"ok\"?"),
        (
            "submit a -> redirect n2 -> fine",
            "2:28: \"fine\" is unknown: expected ok, redirect, refused or unknown",
        ),
        ("retry W", "2:7: \"W\" names no request: no \"as=W\" stands above"),
        ("read stael", "2:6: \"stael\" is unknown: did you mean \"stale\"?"),
        ("wait leader = n1 witihn 5s", "2:18: \"witihn\" is unknown: did you mean \"within\"?"),
        ("wait n1 role=leader wthin 5s", "2:21: \"wthin\" is unknown: did you mean \"within\"?"),
        ("always n1 role=leader untill x", "2:23: \"untill\" is unknown: did you mean \"until\"?"),
        ("always leader = n1 untl x", "2:20: \"untl\" is unknown: did you mean \"until\"?"),
        ("expect leadr = n1", "2:8: \"leadr\" is unknown: did you mean \"leader\"?"),
        ("expect n1 rol=follower", "2:11: \"rol\" is unknown: did you mean \"role\"?"),
        ("expect n1 role=follwer", "2:16: \"follwer\" is unknown: did you mean \"follower\"?"),
        ("expect n1 term=2 comit=3", "2:18: \"comit\" is unknown: did you mean \"commit\"?"),
        (
            "expect invariants violated=StateMachine",
            "2:28: \"StateMachine\" is unknown: expected ElectionSafety, LeaderAppendOnly, LogMatching, LeaderCompleteness, StateMachineSafety or Linearizability",
        ),
        (
            "expect invariants violated=LogMatchin",
            "2:28: \"LogMatchin\" is unknown: did you mean \"LogMatching\"?",
        ),
        (
            "expect count apend_rejected = 1",
            "2:14: \"apend_rejected\" is unknown: did you mean \"append_rejected\"?",
        ),
        (
            "expect count append_rejected(folower=n2) = 1",
            "2:30: append_rejected: \"folower\" is unknown: did you mean \"follower\"?",
        ),
        (
            "expect count append_rejected(x=n2) = 1",
            "2:30: append_rejected: \"x\" is unknown: expected follower, leader, prev, node or term",
        ),
        (
            "hold n1->n2 AppendEntry",
            "2:13: \"AppendEntry\" is unknown: expected PreVote, PreVoteReply, Vote, RequestVote, VoteReply, Append, AppendEntries, AppendReply, Heartbeat, HeartbeatReply, LearnerReply, Rejoin, TimeoutNow, ReadIndex or ReadIndexReply",
        ),
        (
            "drop next 2 Foo n1->n2",
            "2:13: \"Foo\" is unknown: expected PreVote, PreVoteReply, Vote, RequestVote, VoteReply, Append, AppendEntries, AppendReply, Heartbeat, HeartbeatReply, LearnerReply, Rejoin, TimeoutNow, ReadIndex or ReadIndexReply",
        ),
        (
            "mutant commit-old-term on",
            "2:8: \"commit-old-term\" is unknown: did you mean \"commit-old-terms\"?",
        ),
        ("settle\nmutant commit-old-terms", "3:24: expected on or off, found the end of the line"),
        (
            "settle\ntitle \"late\"",
            "3:1: \"title\" belongs to the head of a script, before the first step",
        ),
        ("list all", "2:6: \"all\" is unknown: expected \"held\""),
        ("end as-was", "2:5: \"as-was\" is unknown: did you mean \"as-is\"?"),
        ("}", "2:1: \"}\" closes nothing"),
        ("1", "2:1: expected a word that says what to do, found \"1\""),
    ]);
}

/// What is missing, or too much.
#[test]
fn shapes() {
    check(&[
        ("crash", "2:6: expected a node, found the end of the line"),
        ("crash n1 please", "2:10: \"please\" is too much here"),
        ("restart", "2:8: expected a node, found the end of the line"),
        ("tear n2 2", "2:9: expected \"last\" and a number of entries, found \"2\""),
        ("tear n2 last 0", "2:14: expected a number of entries of at least 1, found \"0\""),
        ("tear n2 last two", "2:14: expected a number of entries, found \"two\""),
        ("set n1 heartbeat", "2:17: expected \"=\", found the end of the line"),
        (
            "set n1 heartbeat=0s",
            "2:18: a leader cannot send heartbeats without a pause between them",
        ),
        ("set n1 clock=1h", "2:14: expected +DURATION or -DURATION, found \"1h\""),
        ("run", "2:4: expected a duration like 300ms, 2s or 1m, found the end of the line"),
        ("run 300", "2:5: expected a duration like 300ms, 2s or 1m, found \"300\""),
        ("run 1.5s", "2:5: expected a duration like 300ms, 2s or 1m, found \"1.5s\""),
        ("run 99999h", "2:5: \"99999h\" is too long: at most 30 days"),
        (
            "run 99999999999999999999s",
            "2:5: expected a duration like 300ms, 2s or 1m, found \"99999999999999999999s\"",
        ),
        (
            "delay n1->n2",
            "2:13: expected a duration like 300ms, 2s or 1m, found the end of the line",
        ),
        ("cut n1 n2", "2:10: expected \"|\" or \"->\", found the end of the line"),
        ("cut n1 | n1 n2", "2:10: \"n1\" is on both sides"),
        ("reset n1 | n1 n2", "2:12: \"n1\" is on both sides"),
        ("reset n1 -> n2", "2:10: expected \"|\", found \"->\""),
        ("cut n1 | n4", "2:10: \"n4\" is not in the cluster: it has n1 to n3"),
        ("hold n1", "2:8: expected \"->\", found the end of the line"),
        ("hold n1->n1", "2:10: \"n1\" is at both ends"),
        ("crash n1 n1", "2:10: \"n1\" is there twice"),
        ("drop 2 Append n1->n2", "2:6: expected \"next\", found \"2\""),
        ("drop next 0 n1->n2", "2:11: expected a number of messages of at least 1, found \"0\""),
        (
            "deliver",
            "2:8: expected all, #NUMBER, type=, from=, to=, first or last, found the end of the line",
        ),
        ("deliver type=Vote type=Vote", "2:19: \"type\" is there twice"),
        ("deliver first", "2:14: expected a number of messages, found the end of the line"),
        (
            "deliver #x",
            "2:8: expected all, #NUMBER, type=, from=, to=, first or last, found the end of the line",
        ),
        ("freeze n1", "2:10: expected \".timers\", found the end of the line"),
        ("thaw all", "2:9: expected \".timers\", found the end of the line"),
        ("submit", "2:7: expected a value, found the end of the line"),
        ("submit nowait -> ok", "2:15: expected a value, found \"->\""),
        ("submit a -> ok -> ok", "2:16: only a redirect is followed by another answer"),
        (
            "submit a nowait -> ok",
            "2:17: with nowait there is no answer to check: name it with as=W and expect W.client later",
        ),
        ("submit a->b", "2:8: \"a->b\" looks like an operator: put it in quotes to submit it"),
        ("submit x = 1", "2:10: \"=\" looks like an operator: put it in quotes to submit it"),
        ("submit \"a", "2:8: the quotation is not closed"),
        ("submit \"a\\n\"", "2:10: only \\\" and \\\\ can stand behind a backslash"),
        ("submit a via=", "2:14: expected a node, found the end of the line"),
        ("submit a via=n1 via=n2", "2:17: \"via\" is there twice"),
        ("submit a as=n1", "2:13: \"n1\" stands for nodes: take another name"),
        ("let leader = n1", "2:5: \"leader\" stands for nodes: take another name"),
        ("let L n1", "2:7: expected \"=\", found \"n1\""),
        ("mark", "2:5: expected the name of a mark, found the end of the line"),
        ("say hello", "2:5: expected what is said, in quotes, found \"hello\""),
        ("ask \"Who?\" n1 = n1", "2:15: expected at least two choices, found \"=\""),
        ("ask \"Who?\" n1 n1 = n1", "2:15: \"n1\" is there twice"),
        (
            "ask \"Who?\" n1 n2",
            "2:17: expected \" = \" and the right choice, found the end of the line",
        ),
        ("ask \"Who?\" n1 n2 =", "2:19: expected the right choice, found the end of the line"),
        ("ask \"Who?\" n1 n2 = n3", "2:20: \"n3\" is none of the choices: n1 or n2"),
        ("always leader = n1", "2:19: expected \"until\" and a mark, found the end of the line"),
        (
            "ask \"Who?\" 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 = 1",
            "2:63: \"21\" is one too many: at most 20 choices",
        ),
        (
            "fork a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u",
            "2:66: \"u\" is one too many: at most 20 branches",
        ),
        ("expect", "2:7: expected something that can be true, found the end of the line"),
        ("expect leader = ", "2:16: expected a node, found the end of the line"),
        ("expect leader > n1", "2:15: expected a condition like role=follower, found \">\""),
        ("expect leader = n1 @x", "2:21: expected a number or one like $L.term, found \"x\""),
        (
            "expect n1",
            "2:10: expected what is true of the nodes, like role=follower, found the end of the line",
        ),
        (
            "expect n1.term = 2",
            "2:10: expected a space: a node's term is written \"n1 term = 2\", found \".term\"",
        ),
        (
            "expect n1 term",
            "2:15: expected a comparison: =, !=, >=, <=, > or <, found the end of the line",
        ),
        ("expect n1 term == 2", "2:17: expected a number or one like $L.term, found \"=\""),
        ("expect n1 term=two", "2:16: expected a number or one like $L.term, found \"two\""),
        ("expect n1 log = a", "2:17: expected entries like 1:a, or \"empty\", found \"a\""),
        (
            "expect n1 log = 1:",
            "2:19: expected what the entry holds, like 1:a or 2:-, found the end of the line",
        ),
        (
            "expect n1 log =",
            "2:16: expected entries like 1:a, or \"empty\", found the end of the line",
        ),
        ("expect n1 log ends", "2:19: expected entries like 1:a, found the end of the line"),
        ("expect n1 log > 1:a", "2:15: expected \"=\" or \"ends\", found \">\""),
        (
            "expect n1 log = n1.commit:a",
            "2:17: expected entries like 1:a, or \"empty\", found \"n1.commit:a\"",
        ),
        (
            "expect logs all",
            "2:16: expected \"=\", \"ends\" or \"equal\", found the end of the line",
        ),
        ("expect up n1", "2:8: \"up\" stands behind the nodes: n1 up"),
        ("expect n1 role>leader", "2:15: expected \"=\" or \"!=\", found \">leader\""),
        ("expect invariants violated", "2:27: expected \"=\", found the end of the line"),
        (
            "expect count append",
            "2:20: expected a comparison: =, !=, >=, <=, > or <, found the end of the line",
        ),
        ("expect count append(first=) = 1", "2:27: expected a value, found \")\""),
        (
            "expect count append(first=1,last=2) = 1",
            "2:28: expected a field or \")\", found \",last=2)\"",
        ),
        ("expect count append(first=1 first=1) = 1", "2:29: \"first\" is there twice"),
        (
            "expect count append >= 0",
            "2:24: every number or none is so compared with 0: it checks nothing",
        ),
        (
            "expect! count append = 1",
            "2:9: \"expect!\" is for states: events are expected by \"expect count\"",
        ),
        (
            "expect! trace {",
            "2:1: the trace is not closed: \"}\" is missing / 2:9: \"expect!\" is for states: events are expected by \"expect trace\"",
        ),
        ("fork a", "2:7: expected \",\" and another branch, found the end of the line"),
        ("fork a, a", "2:9: \"a\" is there twice"),
        (
            "given n1 term=1 # after all, this is still the header\nsettle\ngiven n2 term=1",
            "4:1: \"given\" belongs to the head of a script, before the first step",
        ),
    ]);
}

/// Nodes, variables, requests and marks that are not there, or twice.
#[test]
fn names() {
    check(&[
        ("crash n4", "2:7: \"n4\" is not in the cluster: it has n1 to n3"),
        ("crash n0", "2:7: \"n0\" is not in the cluster: it has n1 to n3"),
        (
            "crash n99999999999999999999",
            "2:7: \"n99999999999999999999\" is not in the cluster: it has n1 to n3",
        ),
        ("expect leader = n4", "2:17: \"n4\" is not in the cluster: it has n1 to n3"),
        ("expect $L role=leader", "2:8: \"$L\" is not set: no \"let L = …\" stands above"),
        (
            "let Lead = leader\nexpect $Laed role=leader",
            "3:8: \"$Laed\" is not set: no \"let Laed = …\" stands above: did you mean \"$Lead\"?",
        ),
        ("expect n1 term=$L.term", "2:16: \"$L\" is not set: no \"let L = …\" stands above"),
        (
            "expect count append_rejected(follower=n4) = 1",
            "2:39: \"n4\" is not in the cluster: it has n1 to n3",
        ),
        (
            "expect count append_rejected(follower=$L) = 1",
            "2:39: \"$L\" is not set: no \"let L = …\" stands above",
        ),
        ("expect W.client = ok", "2:8: \"W\" names no request: no \"as=W\" stands above"),
        (
            "submit a as=Write\nexpect Wrte.client = ok",
            "3:8: \"Wrte\" names no request: no \"as=Wrte\" stands above: did you mean \"Write\"?",
        ),
        ("submit a as=W\nsubmit b as=W", "3:13: \"W\" names the request of line 2 already"),
        ("submit a as=W\nread as=W", "3:9: \"W\" names the request of line 2 already"),
        ("submit a as=W\nexpect W.values = a", "3:8: \"W\" is a submit: only a read has values"),
        ("read as=R\nexpect R.fate = lost", "3:8: \"R\" is a read: only a submit has a fate"),
        ("read as=R\nretry R", "3:7: \"R\" is a read: only a submit can be retried"),
        ("read as=R\nexpect R.value = a", "3:10: \"value\" is unknown: did you mean \"values\"?"),
        ("expect count append since start = 1", "2:27: \"start\" is not marked above"),
        (
            "mark start\nexpect count append since stat = 1",
            "3:27: \"stat\" is not marked above: did you mean \"start\"?",
        ),
        ("mark a\nmark a", "3:6: \"a\" is marked in line 2 already"),
        ("always leader != n1 until done", "2:27: \"done\" is not marked further down"),
        (
            "mark done\nalways leader != n1 until done",
            "3:27: \"done\" is marked above, in line 2: it is over",
        ),
        ("expect trace since start {\nbecame_leader\n}", "2:20: \"start\" is not marked above"),
        (
            "fork a\nbranch a {\n}",
            "2:7: expected \",\" and another branch, found the end of the line",
        ),
    ]);
}

/// What cannot be done to a node as it is.
#[test]
fn processes() {
    check(&[
        ("restart n1", "2:9: n1 runs: restart is for a node that was crashed"),
        (
            "crash n1\nrestart n1\nrestart n1",
            "4:9: n1 runs: restart is for a node that was crashed",
        ),
        ("crash n1\ncrash n1", "3:7: n1 is down: crash is for a node that runs"),
        ("crash n1\npause n1", "3:7: n1 is down: pause is for a node that runs"),
        ("pause n1\npause n1", "3:7: n1 is paused: pause is for a node that runs"),
        ("pause n1\nrestart n1", "3:9: n1 is paused: restart is for a node that was crashed"),
        ("crash n1\nresume n1", "3:8: n1 is down: resume is for a node that was paused"),
        ("resume n1", "2:8: n1 runs: resume is for a node that was paused"),
        ("tear n1 last 1", "2:6: n1 runs: tear is for a node that was crashed"),
        ("restart leader", "2:9: \"leader\" is a node that runs: name the one that is down"),
        ("restart all", "2:9: n1 runs: restart is for a node that was crashed"),
        ("crash n1\nrestart all", "3:9: n2 runs: restart is for a node that was crashed"),
        ("crash n3\ncrash all", "3:7: n3 is down: crash is for a node that runs"),
        ("resume all", "2:8: no node was paused"),
        ("let L = n1\nrestart $L", "3:9: n1 runs: restart is for a node that was crashed"),
        ("let L = leader\nrestart $L", "3:9: no node was crashed"),
        (
            "crash n1\nfork a, b\nbranch a {\nrestart n1\n}\nbranch b {\nrestart n1\nrestart n1\n}",
            "9:9: n1 runs: restart is for a node that was crashed",
        ),
    ]);
}

/// Disks that no run can leave behind.
#[test]
fn given_sets() {
    check(&[
        ("given", "2:6: expected a node or \"all\", found the end of the line"),
        ("given n1", "2:9: expected term=, voted= or log=, found the end of the line"),
        ("given n1 trem=1", "2:10: \"trem\" is unknown: did you mean \"term\"?"),
        ("given n4 term=1", "2:7: \"n4\" is not in the cluster: it has n1 to n3"),
        ("given n1 n1 term=1", "2:10: \"n1\" is there twice"),
        ("given n1 term=1 term=2", "2:17: \"term\" is there twice"),
        ("given n1 voted=n1", "2:10: \"voted\" needs a term: in term 0 nobody votes"),
        ("given n1 voted=n4 term=1", "2:16: \"n4\" is not in the cluster: it has n1 to n3"),
        ("given n1 voted=x term=1", "2:16: \"x\" is no node: expected a node or \"-\""),
        ("given n1 log=1,", "2:16: expected a term, found the end of the line"),
        ("given n1 log=1:,2", "2:16: expected a value, found \",2\""),
        ("given n1 log=0", "2:14: \"0\" is of term 0: entries are of term 1 or later"),
        ("given n1 log=x", "2:14: expected a term, found \"x\""),
        (
            "given n1 log=1,2,1",
            "2:18: \"1\" follows an entry of term 2: terms never decrease in a log",
        ),
        (
            "given n1 term=1 log=1,2:x",
            "2:23: \"2:x\" is of a later term than the node's, which is 1",
        ),
        ("given n1 log=1\ngiven n1 log=1", "3:7: \"n1\" is given in line 2 already"),
        ("given n1 log=1\ngiven all log=1", "3:7: line 2 gives some of all nodes already"),
        (
            "given n1 log=1,2:x\ngiven n2 log=1,2:y",
            "3:16: \"2:y\" makes index 2 of term 2 hold \"y\", and line 2 \"x\": a term has one entry there",
        ),
        (
            "given n1 log=1,2:x\ngiven n2 log=1,2",
            "3:16: \"2\" makes index 2 of term 2 hold \"t2i2\", and line 2 \"x\": a term has one entry there",
        ),
        (
            "given n1 log=1,1,3\ngiven n2 log=1,2,3",
            "3:18: \"3\" has term 3 at index 3 as in line 2, but index 2 differs: impossible (Log Matching)",
        ),
    ]);
}

/// Forks, branches, traces, ends.
#[test]
fn blocks() {
    check(&[
        ("fork a, b", "2:6: branch \"a\" is missing / 2:9: branch \"b\" is missing"),
        ("fork a, b\nbranch a {\n}", "2:9: branch \"b\" is missing"),
        (
            "fork a, b\nbranch a {\n}\nbranch a {\n}\nbranch b {\n}",
            "5:8: branch \"a\" is there twice",
        ),
        (
            "fork lost, found\nbranch lots {\n}\nbranch found {\n}",
            "3:8: branch \"lots\" is not in the fork: did you mean \"lost\"?",
        ),
        (
            "fork a, b\nsettle\nheal\nbranch a {\n}\nbranch b {\n}",
            "3:1: only the branches may follow a fork",
        ),
        (
            "fork a, b\nbranch a {\n}\nbranch b {\n}\nsettle\nheal",
            "7:1: only \"end as-is\" may follow the branches",
        ),
        (
            "fork a, b\nbranch a {\nfork c, d\nbranch c {\n}\nbranch d {\n}\n}\nbranch b {\n}",
            "4:1: a branch cannot fork again: write its ways on as branches of the first fork",
        ),
        (
            "fork a, b\nbranch a {\nbranch c {\ncrsh\n}\n}\nbranch b {\n}",
            "4:8: branch \"c\" stands behind no fork",
        ),
        ("fork a, b\nbranch a {\n} settle\nbranch b {\n}", "4:3: \"settle\" is too much here"),
        ("fork a, b\nbranch a\n}\nbranch b {\n}", "3:9: expected \"{\", found the end of the line"),
        (
            "fork a, b\nbranch a {\n}\nbranch b {\nsettle",
            "5:1: the branch is not closed: \"}\" is missing",
        ),
        (
            "settle\nmark\nexpect count append since start = 1\nexpect count append since mark = 1",
            "3:5: expected the name of a mark, found the end of the line / 4:27: \"start\" is not marked above",
        ),
        ("crsh n1\nrestart n1", "2:1: \"crsh\" is unknown: did you mean \"crash\"?"),
        ("let L leader\ncrash $L", "2:7: expected \"=\", found \"leader\""),
        (
            "always leader != n1 until done\nmrk done",
            "3:1: \"mrk\" is unknown: did you mean \"mark\"?",
        ),
        (
            "always leader != n1 until m\nfork a, b\nbranch a {\nmark m\n}\nbranch b {\n}",
            "2:27: \"m\" is not marked further down",
        ),
        (
            "always leader != n1 until m\nfork a, b\nbranch a {\n}\nbranch b {\n}",
            "2:27: \"m\" is not marked further down",
        ),
        ("branch a {\ncrsh\n}", "2:8: branch \"a\" stands behind no fork"),
        ("expect trace {", "2:1: the trace is not closed: \"}\" is missing"),
        ("expect trace {\n}", "2:1: the trace has no events: it checks nothing"),
        (
            "expect trace {\nbecame_leadr\nbecame_leader nod=n1\ncommit from=1,to=2\n}",
            "3:1: \"became_leadr\" is unknown: did you mean \"became_leader\"? / 4:15: became_leader: \"nod\" is unknown: did you mean \"node\"? / 5:14: \",to=2\" is too much here",
        ),
        ("expect trace {\nbecame_leader\n} settle", "4:3: \"settle\" is too much here"),
        ("end as-is\nsettle", "3:1: nothing may follow \"end as-is\""),
        (
            "fork a, b\nbranch a {\nend as-is\nsettle\n}\nbranch b {\n}",
            "5:1: nothing may follow \"end as-is\"",
        ),
    ]);
}

/// What stands at the head, and what is missing from it.
#[test]
fn headers() {
    let missing = "no \"cluster n1 n2 n3\" stands above: the script has no nodes";
    let missing_at = |place: &str| format!("{place}: {missing}");
    check_whole(&[
        ("", &[&missing_at("1:1")]),
        ("title \"x\"\n\n", &[&missing_at("2:1")]),
        ("  settle\nsettle", &[&missing_at("1:3")]),
        ("given all term=1\ncluster n1", &[&missing_at("1:1"), "2:1: \"cluster\" is there twice"]),
        ("title x", &["1:7: expected a title in quotes, found \"x\""]),
        ("title \"x\" title \"y\"\ncluster n1", &["1:11: \"title\" is there twice"]),
        ("cite\ncluster n1", &["1:5: expected a source in quotes, found the end of the line"]),
        ("cluster", &["1:8: expected nodes: n1 n2 n3, found the end of the line"]),
        ("cluster n1 n3\ncrash n3", &["1:12: \"n3\" is out of order: expected \"n2\""]),
        ("cluster n2", &["1:9: \"n2\" is out of order: expected \"n1\""]),
        (
            "cluster n1 n2 n3 n4 n5 n6 n7 n8",
            &["1:30: \"n8\" is one too many: a cluster has at most 7 nodes"],
        ),
        ("cluster n1\ncrash n2", &["2:7: \"n2\" is not in the cluster: it has only n1"]),
        ("cluster n1 profil=paper", &["1:12: \"profil\" is unknown: did you mean \"profile\"?"]),
        ("cluster n1 profile=old", &["1:20: \"old\" is unknown: expected paper or modern"]),
        ("cluster n1 timers=of", &["1:19: \"of\" is unknown: expected manual or auto"]),
        ("cluster n1 recovery=none", &["1:21: \"none\" is unknown: expected quarantine or trust"]),
        ("cluster n1 seed=x", &["1:17: expected a seed, found \"x\""]),
        ("cluster n1 seed=1 seed=2", &["1:19: \"seed\" is there twice"]),
        (
            "cluster n1\nrequires sim",
            &["2:13: expected the reason in quotes, found the end of the line"],
        ),
        ("cluster n1\nrequires moon \"x\"", &["2:10: \"moon\" is unknown: expected sim or real"]),
        (
            "cluster n1\nrequires sim \"a\"\nrequires real \"b\"",
            &["3:1: \"requires\" contradicts line 2: the script could run nowhere"],
        ),
        (
            "cluster n1\nrequires sim \"a\"\nrequires sim \"b\"",
            &["3:1: \"requires\" is there twice"],
        ),
        (
            "cluster n1\nmutant no-prevote",
            &["2:8: \"no-prevote\" is unknown: did you mean \"no-pre-vote\"?"],
        ),
        (
            "cluster n1\nmutant no-pre-vote\nmutant no-pre-vote",
            &["3:8: \"no-pre-vote\" is there twice"],
        ),
        (
            "cluster n1\nrequires real \"a\"\nsettle\n---\n",
            &["4:1: golden text is checked in the simulator only, and the script requires real"],
        ),
    ]);
}

/// All that is wrong is said at once, in order, and each only once.
#[test]
fn many_mistakes() {
    let text = "cluster n1 n2 n3\n\
        always leader != n1 until done\n\
        crsh n1\n\
        restart n1\n\
        submit a -> maybe as=W\n\
        expect W.client = ok\n\
        expect V.client = ok\n";
    assert_eq!(
        complaints(text),
        [
            "2:27: \"done\" is not marked further down",
            "3:1: \"crsh\" is unknown: did you mean \"crash\"?",
            "5:13: \"maybe\" is unknown: expected ok, redirect, refused or unknown",
            "7:8: \"V\" names no request: no \"as=V\" stands above",
        ]
    );
    let endless = format!("{HEAD}{}", "crsh n1\n".repeat(50));
    let errors = parse(&endless).expect_err("mistakes");
    assert_eq!(errors.len(), 20);
    assert_eq!(errors[19].line, 21);
}

#[test]
fn lines_of_a_shell() {
    for (line, expected) in [
        ("", "1:1: expected a word that says what to do, found the end of the line"),
        (
            "# only a comment",
            "1:1: expected a word that says what to do, found the end of the line",
        ),
        ("crash n4", "1:7: \"n4\" is not in the cluster: it has n1 to n3"),
        ("cluster n1", "1:1: \"cluster\" belongs to the head of a script, before the first step"),
        (
            "given n1 term=1",
            "1:1: \"given\" belongs to the head of a script, before the first step",
        ),
        ("mutant no-pre-vote", "1:19: expected on or off, found the end of the line"),
        ("fork a, b", "1:1: \"fork\" needs a script"),
        ("branch a {", "1:1: \"branch\" needs a script"),
        ("}", "1:1: \"}\" needs a script"),
        ("expect trace {", "1:1: \"expect\" needs a script"),
        ("end as-is", "1:1: \"end\" needs a script"),
        ("heal\nheal", "1:1: expected a single line"),
    ] {
        let error = parse_step(line, 3).expect_err("a refusal");
        assert_eq!(error.to_string(), expected, "{line:?}");
    }
}

#[test]
fn pictures() {
    let text = "cluster n1\n\tcrsh\tn1 # \u{1b}[31m\nsay \"ä\" x\nmark";
    let errors = parse(text).expect_err("mistakes");
    let pictures: Vec<String> = errors.iter().map(|error| error.render("c.lab", text)).collect();
    assert_eq!(
        pictures,
        [
            "c.lab:2:2: \"crsh\" is unknown: did you mean \"crash\"?\n   \
             2 | \tcrsh\tn1 # \u{fffd}[31m\n     | \t^",
            "c.lab:3:9: \"x\" is too much here\n   3 | say \"ä\" x\n     |         ^",
            "c.lab:4:5: expected the name of a mark, found the end of the line\n   \
             4 | mark\n     |     ^",
        ]
    );
    let error = ScriptError {
        line: 9,
        column: 1,
        found: String::new(),
        message: "elsewhere".to_owned(),
        suggestion: None,
    };
    assert_eq!(error.render("c.lab", text), "c.lab:9:1: elsewhere");
    let word = "x".repeat(100);
    let error = parse_step(&word, 3).expect_err("a refusal");
    assert_eq!(error.to_string(), format!("1:1: \"{}…\" is unknown", "x".repeat(40)));
    assert_eq!((error.found, error.suggestion), (word, None));
}
