//! Seeded bugs: mistakes that others made, or nearly, each at the place where it would be made. A
//! check that cannot fail proves nothing, so `cargo xtask seeded-bugs` puts them in, one at a time,
//! and counts how many seeds the checks need.
//!
//! In a normal build [`has`] is a constant `false`, and nothing of a bug is left in the program.
//! With `--cfg seeded_bugs`, which no build without debug assertions can have, one bug is chosen by
//! the environment variable `TERCET_SEEDED_BUG` (`4b`), which is read once.
//!
//! The rules that the lab switches off at run time (`tercet_raft::Rules`) are another thing: those
//! are lessons, with words for them in the language; these are for the checks alone.

#[cfg(all(seeded_bugs, not(debug_assertions)))]
compile_error!("seeded bugs are for the checks: no build without debug assertions has them");

macro_rules! bugs {
    ($($name:ident = $number:literal $about:literal,)*) => {
        /// The bugs.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug {
            $(#[doc = $about] $name,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The number by which it is chosen.
            pub const fn number(self) -> &'static str {
                match self {
                    $(Self::$name => $number,)*
                }
            }

            /// What is wrong, in words.
            pub const fn about(self) -> &'static str {
                match self {
                    $(Self::$name => $about,)*
                }
            }
        }
    };
}

bugs! {
    VoteBeforeSync = "1" "a vote is not synced before the reply",
    AckBeforeSync = "2" "entries are acknowledged before they are synced",
    CommitOldTerms = "3" "an entry of an older term is committed by counting (Figure 8)",
    NoLogCheck = "4a" "votes are given whatever the candidate's log holds",
    IndexBeforeTerm = "4b" "logs are compared by index before term",
    CountVoteMessages = "5" "votes are counted as messages, not as a set",
    ForgetVoteOnStepDown = "6" "the vote is cleared on stepping down in the same term",
    CutBehindAppend = "7" "any AppendEntries cuts the log behind its last entry",
    OldReplyRaisesMatch = "8a" "a reply of an older term raises the match index",
    RefusalRaisesMatch = "8b" "a refusal raises the match index",
    WipedVotes = "9" "a wiped node comes back as a plain voter",
    RejoinAtCommit = "10a" "a wiped node votes again when it has caught up to the commit index",
    RejoinAtEnd = "10b" "a wiped node votes again when it has the leader's whole log",
    RejoinByOldReadmit = "11a" "the Readmit of an older incarnation is accepted",
    RejoinWithoutTerm = "11b" "a readmitted node has not stored the leader's term and its vote",
    RejoinUncommitted = "11c" "a Readmit that is not committed is accepted",
    CutAtBadChecksum = "12" "the log is cut at the first bad checksum",
    IgnoreSyncError = "13a" "a sync that failed counts as done",
    RetrySync = "13b" "a sync that failed is tried again",
    NoDirectorySync = "13c" "the directory is not synced after a file was made in it",
    NoCheckQuorum = "14a" "a leader goes on without hearing from a majority",
    NoPreVote = "14b" "nodes campaign without asking first",
    ReadBeforeOwnCommit = "15a" "a read is served before the leader committed an entry of its own",
    ReadWithoutRound = "15b" "a read is served without a round of heartbeats",
    ForgetIdsOnStart = "16a" "request ids are forgotten by a restart",
    ForgetIdsOnFollowers = "16b" "request ids are known to the leader that took them alone",
    BeatWhileStalled = "17" "heartbeats go on while the disk stalls",
}

/// Whether the program has this bug.
#[cfg(not(seeded_bugs))]
pub const fn has(_bug: Bug) -> bool {
    false
}

/// Whether the program has this bug.
///
/// # Panics
/// If the environment names a bug that there is not.
#[cfg(seeded_bugs)]
pub fn has(bug: Bug) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let choose = || {
        let number = std::env::var("TERCET_SEEDED_BUG").ok()?;
        let found = Bug::ALL.iter().copied().find(|bug| bug.number() == number);
        Some(found.unwrap_or_else(|| panic!("there is no seeded bug {number}")))
    };
    *CHOSEN.get_or_init(choose) == Some(bug)
}
