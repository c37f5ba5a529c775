//! A script as data: what the parser makes and the runner does. It knows no backend and decides
//! nothing; every step keeps its line, so that whatever goes wrong later can be shown in place.

use std::time::Duration;

use tercet_raft::{NodeId, Profile, RoleKind};
/// The kinds of messages that scripts name; `RequestVote` and `AppendEntries` are other words for
/// `Vote` and `Append`.
pub use tercet_replica::gate::MessageKind;

/// A whole script.
#[derive(Clone, PartialEq, Debug)]
pub struct Script {
    /// What it sets up.
    pub header: Header,
    /// What the nodes' disks hold before they start, in the order of the lines.
    pub given: Vec<Given>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// `end as-is`: without the implicit healing and the agreement that every other script ends with.
    pub ends_as_is: bool,
    /// The golden text behind `---`, if there is any: the events in words, checked in the simulator.
    pub golden: Option<String>,
}

/// What stands before the first step.
#[derive(Clone, PartialEq, Debug)]
pub struct Header {
    /// The headline.
    pub title: String,
    /// Where it comes from: paper sections, lectures, issues.
    pub cites: Vec<String>,
    /// How many nodes: `n1` to `nN`. 1 to 7.
    pub nodes: u8,
    /// Which Raft.
    pub profile: Profile,
    /// Whether election timers run (`auto`) or fire only by `elect` (`manual`).
    pub timers: Timers,
    /// What a node that lost its memory may do.
    pub recovery: Recovery,
    /// The seed of the timeouts and of the simulator.
    pub seed: u64,
    /// In which world it can run, with the reason if only in one.
    pub requires: Option<Requires>,
    /// Rules that are switched off, by name, from the start: `mutant commit-old-terms`.
    pub mutants: Vec<Mutant>,
}

/// Whether election timers run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timers {
    /// They run.
    Auto,
    /// They fire only by `elect`, until `thaw`.
    Manual,
}

/// What a node that lost its memory may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// It is mute until it is readmitted (protocol RJ).
    Quarantine,
    /// It votes at once, as in a lab class; loses acknowledged data (docs/rejoin.md).
    Trust,
}

/// One world only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Requires {
    /// Which.
    pub world: World,
    /// Why not the other: `requires sim "real disks cannot …"`.
    pub reason: String,
}

/// Where a script runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum World {
    /// The deterministic simulator.
    Sim,
    /// Real processes.
    Real,
}

/// A rule that is switched off, to see what breaks without it. The names are those of
/// [`tercet_raft::Rules`] with hyphens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// `commit-old-terms` (figure 8).
    CommitOldTerms,
    /// `truncate-always`.
    TruncateAlways,
    /// `ignore-log-in-votes`.
    IgnoreLogInVotes,
    /// `speak-before-durable`.
    SpeakBeforeDurable,
    /// `no-pre-vote`.
    NoPreVote,
    /// `no-check-quorum`.
    NoCheckQuorum,
    /// `no-request-ids`: clients retry under a new id, as if there were no sessions (§8).
    NoRequestIds,
    /// `stale-reads`: a read answers at once with what the node has (§8).
    StaleReads,
}

/// What some nodes' disks hold before they start: `given n1 term=7 voted=- log=1,1,1,4:x`.
#[derive(Clone, PartialEq, Debug)]
pub struct Given {
    /// The line, from 1.
    pub line: usize,
    /// Which nodes.
    pub nodes: Vec<NodeId>,
    /// The term; the last entry's if it is not said.
    pub term: Option<u64>,
    /// Who got the vote in that term.
    pub voted: Option<NodeId>,
    /// The log.
    pub log: Vec<GivenEntry>,
}

/// An entry of a given log: `4` or `4:x`. Without a value it gets one made of term and index
/// (`t4i7`), so that the same place holds the same value on every node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GivenEntry {
    /// Its term.
    pub term: u64,
    /// Its value.
    pub value: Option<String>,
}

/// One step with its place.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// The line, from 1.
    pub line: usize,
    /// The step as it was written, without its comment, for echoes and reports.
    pub text: String,
    /// What it is.
    pub kind: StepKind,
}

/// A node by name, by role, or by variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeRef {
    /// `n1`.
    Node(NodeId),
    /// `leader`: who leads with the highest term at that moment.
    Leader,
    /// `$L`: what `let L = leader` kept.
    Variable(String),
}

/// Some nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeRefs {
    /// `all`.
    All,
    /// `n1 n2`, in order.
    Some(Vec<NodeRef>),
}

/// A direction between two nodes: `n1->n2`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// The sender.
    pub from: NodeRef,
    /// The receiver.
    pub to: NodeRef,
}

/// Which held messages: `#12`, or all that fit. Without any field: all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selector {
    /// `#12`: the number that `list` shows.
    pub number: Option<u64>,
    /// `type=VoteReply`.
    pub kind: Option<MessageKind>,
    /// `from=n1`.
    pub from: Option<NodeRef>,
    /// `to=n2`.
    pub to: Option<NodeRef>,
    /// `last 1` / `first 1`: how many at most, counted from the oldest (`first`) or newest (`last`).
    pub at_most: Option<(End, u32)>,
}

/// From which end something is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// From the oldest.
    First,
    /// From the newest.
    Last,
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// `ok`: committed, on disk on a majority.
    Ok,
    /// `redirect n2`: the node asked does not lead, and names who does; the client goes there.
    Redirect(NodeRef),
    /// `refused`: not appended, and never will be.
    Refused,
    /// `unknown`: nobody can know.
    Unknown,
}

/// What is lost of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wipe {
    /// `log`: the log's entries. Term and vote stay with `recovery=trust`; with `quarantine` the
    /// log's files are deleted, which is a loss of memory.
    Log,
    /// `meta`: term and vote.
    Meta,
    /// `all`: the whole directory.
    All,
}

impl Wipe {
    /// The words that scripts, and callers of agents, have for it.
    pub(crate) const NAMES: [(&str, Self); 3] =
        [("log", Self::Log), ("meta", Self::Meta), ("all", Self::All)];

    /// Its word.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Meta => "meta",
            Self::All => "all",
        }
    }

    /// What a word stands for.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, what)| *what)
    }
}

/// Everything that a script can do.
#[derive(Clone, PartialEq, Debug)]
pub enum StepKind {
    /// `submit a b [via=n1] [as=W] [nowait] [-> redirect n2 -> ok]`
    Submit {
        /// The values, each an entry of its own.
        values: Vec<String>,
        /// To which node; to the leader if it is not said.
        via: Option<NodeRef>,
        /// The client's name for it, for `W.client` and `W.fate`.
        name: Option<String>,
        /// Go on without waiting for the answer.
        nowait: bool,
        /// What the client is told, step by step; empty: not checked.
        expect: Vec<Outcome>,
    },
    /// `retry W [via=n2] [nowait] [-> ok]`: the same request again, with the same id.
    Retry {
        /// Which.
        name: String,
        /// To which node.
        via: Option<NodeRef>,
        /// Go on without waiting for the answer.
        nowait: bool,
        /// What the client is told.
        expect: Vec<Outcome>,
    },
    /// `read [via=n1] [as=R] [stale] [nowait] [-> ok|unknown]`
    Read {
        /// At which node; the leader if it is not said.
        via: Option<NodeRef>,
        /// The client's name for it, for `R.client` and `R.values`.
        name: Option<String>,
        /// What the node has, without asking anyone.
        stale: bool,
        /// Go on without waiting for the answer.
        nowait: bool,
        /// What the client is told.
        expect: Vec<Outcome>,
    },
    /// `crash n1 n2`: the processes die; what was not synced is lost.
    Crash(NodeRefs),
    /// `restart n1`
    Restart(NodeRefs),
    /// `pause n1`: the process stands still (SIGSTOP).
    Pause(NodeRefs),
    /// `resume n1`
    Resume(NodeRefs),
    /// `wipe n2 log|meta|all`: of a node that is down, or of one that runs.
    Wipe {
        /// Which nodes.
        nodes: NodeRefs,
        /// What is lost.
        what: Wipe,
    },
    /// `tear n2 last 2`: the last entries of a node that is down were cut short by its crash.
    Tear {
        /// Which node.
        node: NodeRef,
        /// How many entries.
        count: u64,
    },
    /// `set n1 heartbeat=20s [until=stepdown]`, `set n1 heartbeat=default`
    SetHeartbeat {
        /// Which node.
        node: NodeRef,
        /// The interval; `None` is the default.
        interval: Option<Duration>,
        /// Undone when the node steps down.
        until_stepdown: bool,
    },
    /// `set n1 disk=slow|full|ok`: a disk of 50 ms per sync, or one without space.
    SetDisk {
        /// Which node.
        node: NodeRef,
        /// How it is from now on.
        disk: DiskState,
    },
    /// `set n1 clock=+1h`: the wall clock jumps.
    JumpClock {
        /// Which node.
        node: NodeRef,
        /// Forward, or with `backward` back.
        by: Duration,
        /// Back in time.
        backward: bool,
    },
    /// `cut n1 | n2 n3` (both ways between the groups), `cut n1 -> n3` (one way)
    Cut {
        /// The one side.
        from: NodeRefs,
        /// The other side.
        to: NodeRefs,
        /// Only messages of `from` to `to` are lost.
        one_way: bool,
    },
    /// `isolate n1`: cut from all others, both ways.
    Isolate(NodeRef),
    /// `reset n1 | n2 n3`: the connections between the two sides close, and are made again.
    Reset {
        /// The one side.
        one: NodeRefs,
        /// The other side.
        other: NodeRefs,
    },
    /// `heal`: no link is cut, slow, or loses anything any more. Held messages stay held.
    Heal,
    /// `delay n1->n2 50ms`
    Delay {
        /// Which direction.
        link: Link,
        /// How long each message takes from now on.
        by: Duration,
    },
    /// `drop next 2 AppendEntries n1->n3`: the next messages of that kind are lost; of any kind if none is said.
    Drop {
        /// Which direction.
        link: Link,
        /// Which kind.
        kind: Option<MessageKind>,
        /// How many.
        count: u32,
    },
    /// `dup next 2 Vote n1->n3`: the next messages of that kind arrive twice.
    Duplicate {
        /// Which direction.
        link: Link,
        /// Which kind.
        kind: Option<MessageKind>,
        /// How many.
        count: u32,
    },
    /// `hold n1->n2 [Append]`: messages wait until they are delivered or released.
    Hold {
        /// Which direction.
        link: Link,
        /// Which kind; all if none is said.
        kind: Option<MessageKind>,
    },
    /// `list held`
    ListHeld,
    /// `deliver #12`, `deliver type=VoteReply to=n1`: held messages go on their way.
    Deliver(Selector),
    /// `discard type=Append`: held messages are lost.
    Discard(Selector),
    /// `release`, `release n1->n2`: nothing is held any more; what was held goes on its way, in order.
    Release(Option<Link>),
    /// `elect n1 [win]`: fires the node's election timer; with `win` up to 5 times until it leads.
    Elect {
        /// Which node.
        node: NodeRef,
        /// Until it leads.
        win: bool,
    },
    /// `transfer [to=n2]`: the leader hands over.
    Transfer(Option<NodeRef>),
    /// `run 300ms`
    Run(Duration),
    /// `settle`: until no message is on its way and nothing changes any more.
    Settle,
    /// `wait PRED [within 5s]`
    Wait {
        /// What is waited for.
        pred: Pred,
        /// How long; 5 s if it is not said.
        within: Duration,
    },
    /// `freeze n1.timers`, `freeze all.timers`
    Freeze(NodeRefs),
    /// `thaw all.timers`
    Thaw(NodeRefs),
    /// `expect PRED`; `expect! PRED`: this very instant, also on real processes.
    Expect {
        /// What must be true.
        pred: Pred,
        /// Without patience.
        at_once: bool,
    },
    /// `expect count KIND(field=value …) since MARK = 3`
    ExpectCount {
        /// Which events.
        events: EventPattern,
        /// From this mark on; from the beginning if none is said.
        since: Option<String>,
        /// How the number compares.
        cmp: Cmp,
        /// With what.
        count: u64,
    },
    /// `expect trace since MARK { … }`: these events happened in this order, others between them.
    ExpectTrace {
        /// From this mark on.
        since: Option<String>,
        /// The events, in order, each with its line.
        events: Vec<(usize, EventPattern)>,
    },
    /// `always PRED until MARK`: checked after every event up to that mark.
    Always {
        /// What must stay true.
        pred: Pred,
        /// Until when: a mark further down.
        until: String,
    },
    /// `never PRED until MARK`
    Never {
        /// What must not become true.
        pred: Pred,
        /// Until when: a mark further down.
        until: String,
    },
    /// `let L = leader`
    Let {
        /// The variable's name.
        name: String,
        /// The node that it stands for from now on.
        node: NodeRef,
    },
    /// `mark before`
    Mark(String),
    /// `fork lost, survives` with its `branch NAME { … }` blocks: each is run from here on, alone.
    Fork(Vec<Branch>),
    /// `say "…"`: the narrator.
    Say(String),
    /// `ask "Who wins?" n1 n2 n3 = n2`
    Ask {
        /// The question.
        question: String,
        /// The choices.
        options: Vec<String>,
        /// The right one.
        answer: String,
    },
    /// `mutant NAME on|off`: from now on, on all nodes. In the header it holds from the start.
    Mutant {
        /// Which rule.
        mutant: Mutant,
        /// Whether it is broken from now on.
        on: bool,
    },
}

/// How a disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskState {
    /// As usual.
    Ok,
    /// Every sync takes 50 ms.
    Slow,
    /// There is no space for entries.
    Full,
}

/// One way on from a fork.
#[derive(Clone, PartialEq, Debug)]
pub struct Branch {
    /// Its name.
    pub name: String,
    /// The line, from 1.
    pub line: usize,
    /// What is done there.
    pub steps: Vec<Step>,
    /// `end as-is` inside of the branch.
    pub ends_as_is: bool,
}

/// How two numbers compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cmp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `>=`
    AtLeast,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `<`
    Below,
}

/// A number, or one that a node has at that moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Number {
    /// `3`
    Literal(u64),
    /// `$L.term`, `n1.term`
    Term(NodeRef),
    /// `$L.commit`, `n1.commit`
    Commit(NodeRef),
    /// `n1.last`: the last index of its log.
    Last(NodeRef),
}

/// Something that is true or not at a moment.
#[derive(Clone, PartialEq, Debug)]
pub enum Pred {
    /// `leader = n3 @2`, `leader != n1`, `leader = none`: the leader of the highest term, among nodes that run.
    Leader {
        /// `!=`
        negated: bool,
        /// Who; `None` is `none`.
        node: Option<NodeRef>,
        /// `@2`, `@>=2`
        term: Option<(Cmp, Number)>,
    },
    /// `n1 n2 role=follower term=2 voted=n3`, `logs all = 1:a`, `commit all = 3`: all of it for each of the nodes.
    Nodes {
        /// Which nodes.
        nodes: NodeRefs,
        /// What must be true of each.
        conditions: Vec<Condition>,
    },
    /// `logs all equal`, `logs n1 n2 equal`
    LogsEqual(NodeRefs),
    /// `W.client = ok`
    Client {
        /// The request.
        name: String,
        /// What the client knows.
        state: ClientState,
    },
    /// `W.fate = committed`
    Fate {
        /// The request.
        name: String,
        /// What became of its value.
        fate: Fate,
    },
    /// `R.values = a b`, `R.values = empty`
    Values {
        /// The read.
        name: String,
        /// What it returned.
        values: Vec<String>,
    },
    /// `invariants ok`
    InvariantsOk,
    /// `invariants violated=StateMachineSafety`
    Violated(Invariant),
}

/// What can be broken: the properties of Figure 3, and what clients are promised.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Invariant {
    /// At most one leader per term.
    ElectionSafety,
    /// A leader never changes its own log but by appending.
    LeaderAppendOnly,
    /// Logs that agree at a place agree before it.
    LogMatching,
    /// A leader has all that was committed before.
    LeaderCompleteness,
    /// No two nodes apply different entries at a place.
    StateMachineSafety,
    /// What a client was told stays true: acknowledged values are there, once, and reads are not stale.
    Linearizability,
}

/// What must be true of a node.
#[derive(Clone, PartialEq, Debug)]
pub enum Condition {
    /// `role=follower`, `role!=leader`
    Role {
        /// `!=`
        negated: bool,
        /// Which.
        role: RoleKind,
    },
    /// `term=2`, `term >= 2`, `term=$L.term`
    Term(Cmp, Number),
    /// `voted=n3`, `voted=-`
    Voted(Option<NodeRef>),
    /// `commit=3`
    Commit(Cmp, Number),
    /// `last=3`: the last index of the log.
    Last(Cmp, Number),
    /// `log = 1:a 1:b`, `log = empty`
    Log(Vec<LogItem>),
    /// `log ends 2:d`
    LogEnds(Vec<LogItem>),
    /// `heartbeat=default`, `heartbeat=20s`
    Heartbeat(Option<Duration>),
    /// `up`, `down`
    Up(bool),
}

/// An entry of an expected log: `2:d`, `2:-` (a no-op), `2:+n2` (the readmission of n2), `2:*` (any), `$L.term:d`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogItem {
    /// Its term; `None` is `*`.
    pub term: Option<Number>,
    /// What it holds.
    pub content: Content,
}

/// What an entry holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// A value.
    Value(String),
    /// `-`: a leader's no-op.
    Noop,
    /// `+n2`: the readmission of a node.
    Readmit(NodeRef),
    /// `*`: whatever.
    Any,
}

/// What a client knows of its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientState {
    /// It waits.
    Waiting,
    /// It was told: committed.
    Ok,
    /// It was told: not appended.
    Refused,
    /// It was told, or found out, that nobody can know.
    Unknown,
}

/// What became of a value, as one who sees all nodes knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is committed.
    Committed,
    /// Another entry is committed in its place, or no log has it any more.
    Lost,
    /// It is in some log, and not committed.
    Pending,
}

/// Some events: `append_rejected(follower=n2 prev=3)`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventPattern {
    /// The kind, one of [`EVENT_KINDS`].
    pub kind: String,
    /// Fields that must be equal: name and value, as text.
    pub fields: Vec<(String, FieldValue)>,
}

/// The value that a field of an event must have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FieldValue {
    /// As it is written.
    Text(String),
    /// A node: `$L`, `leader` or `n1`.
    Node(NodeRef),
    /// `$L.term`
    Number(Number),
}

/// The kinds of events that scripts can count and expect, each with its fields. `node` is where it
/// happened and `term` that node's term; every kind has both.
pub const EVENT_KINDS: &[(&str, &[&str])] = &[
    ("became_follower", &[]),
    ("became_pre_candidate", &[]),
    ("became_candidate", &[]),
    ("became_leader", &[]),
    ("stepped_down", &[]),
    ("term", &["from", "to"]),
    ("leader_lost", &["leader"]),
    ("election_timeout", &[]),
    ("pre_vote_asked", &["last"]),
    ("vote_asked", &["last"]),
    ("pre_vote_granted", &["to"]),
    ("vote_granted", &["to"]),
    ("pre_vote_denied", &["to", "reason"]),
    ("vote_denied", &["to", "reason"]),
    ("vote_received", &["from"]),
    ("vote_refused", &["from", "reason"]),
    ("leader", &["leader"]),
    ("append", &["first", "last", "entries"]),
    ("truncated", &["from", "to"]),
    ("append_rejected", &["follower", "leader", "prev"]),
    ("append_accepted", &["follower", "leader", "prev", "last", "entries"]),
    ("nextindex", &["peer", "from", "to"]),
    ("matchindex", &["peer", "from", "to"]),
    ("persisted", &["last"]),
    ("commit", &["from", "to"]),
    ("quorum_lost", &[]),
    ("transfer_begun", &["to"]),
    ("transfer_given_up", &["to"]),
    ("drop", &["from", "why"]),
    ("warning", &["kind"]),
    ("readmit_appended", &["peer", "index"]),
    ("rejoin_asked", &[]),
    ("readmitted", &["index"]),
    ("peer_readmitted", &["peer"]),
    ("violation", &["index"]),
];
