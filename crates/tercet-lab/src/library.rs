//! The scenarios that come with the program: those of `scenarios/`, as they are.

/// A scenario of the library.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// Its file's name without `.lab`.
    pub name: &'static str,
    /// The script.
    pub text: &'static str,
}

macro_rules! scenarios {
    ($($name:literal),* $(,)?) => {
        &[$(Scenario { name: $name, text: include_str!(concat!("../../../scenarios/", $name, ".lab")) }),*]
    };
}

/// All of them, in the order in which one would study them.
pub const SCENARIOS: &[Scenario] = scenarios![
    "election",
    "split-vote",
    "rivals",
    "leader-change",
    "commit-lag",
    "quorum-and-no-quorum",
    "replication-failure-heals",
    "leader-crash-divergent-logs",
    "rejoin-rounds",
    "long-private-tail",
    "best-log-wins",
    "ignore-log-in-votes",
    "figure-7",
    "figure-7-fast-backup",
    "slow-backup-cases",
    "fast-backup-cases",
    "slow-backup",
    "fast-backup",
    "figure-8",
    "figure-8-e",
    "figure-8-without-the-rule",
    "power-cut",
    "power-cut-modern",
    "zombie-leader",
    "both-sides-of-a-partition",
    "late-and-doubled-messages",
    "late-messages-truncate-always",
    "lost-reply",
    "lost-reply-without-sessions",
    "stale-read",
    "read-index",
    "term-inflation",
    "pre-vote-stops-it",
    "fast-failover",
    "flapping-link",
    "partial-partition",
    "partial-partition-modern",
    "asymmetric-partition",
    "slow-disk-leader",
    "disk-full",
    "clock-jump",
    "torn-tail",
    "vote-survives-a-crash",
    "vote-lost",
    "log-deleted-trust",
    "log-deleted",
    "log-deleted-while-running",
    "wiped-plus-one-down-trust",
    "wiped-plus-one-down",
    "readmission-old-vote-trust",
    "readmission-old-vote",
];

/// The scenario with this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}
