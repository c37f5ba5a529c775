//! The bugs of crates/tercet-seeded, each with the lives of clusters that must find it
//! (`swarm::Preset`). Without a bug none of them finds anything; with one (`cargo xtask
//! seeded-bugs`), it says after how many seeds, and which invariant was broken.
#![allow(clippy::print_stdout, reason = "a test talks out loud")]

use tercet_raft::Profile;
use tercet_seeded::Bug;
use tercet_sim::swarm::{self, Limits, Options, Preset, Trial};

/// The lives in which a bug must show.
fn lives(bug: Bug) -> (Preset, Limits) {
    let paper = Limits { profile: Some(Profile::Paper), ..Limits::default() };
    match bug {
        Bug::CutBehindAppend | Bug::ForgetVoteOnStepDown => {
            (Preset::LateMessages, Limits::default())
        }
        Bug::OldReplyRaisesMatch => (Preset::Peace(Trial::LateAnswer), Limits::default()),
        Bug::CountVoteMessages => (Preset::SplitVotes, paper),
        Bug::CommitOldTerms => (Preset::ShortReigns, paper),
        Bug::ReadBeforeOwnCommit => (Preset::ShortReigns, Limits::default()),
        Bug::ReadWithoutRound => (Preset::DeposedLeaders, Limits::default()),
        Bug::CutAtBadChecksum => (Preset::DamagedLogs, Limits::default()),
        Bug::WipedVotes
        | Bug::RejoinAtCommit
        | Bug::RejoinAtEnd
        | Bug::RejoinByOldReadmit
        | Bug::RejoinWithoutTerm
        | Bug::RejoinUncommitted => (Preset::LostMemories, Limits::default()),
        Bug::NoDirectorySync => (Preset::Peace(Trial::PowerCut), Limits::default()),
        Bug::NoCheckQuorum => (Preset::Peace(Trial::DeafLeader), Limits::default()),
        Bug::NoPreVote => (Preset::Peace(Trial::NodeReturns), Limits::default()),
        Bug::BeatWhileStalled => (Preset::Peace(Trial::StalledLeader), Limits::default()),
        Bug::VoteBeforeSync
        | Bug::AckBeforeSync
        | Bug::NoLogCheck
        | Bug::IndexBeforeTerm
        | Bug::RefusalRaisesMatch
        | Bug::IgnoreSyncError
        | Bug::RetrySync
        | Bug::ForgetIdsOnStart
        | Bug::ForgetIdsOnFollowers => (Preset::Busy, Limits::default()),
    }
}

fn draw(bug: Bug, seed: u64) -> Options {
    let (preset, limits) = lives(bug);
    // What must find a bug are the invariants, not the comparison with the model.
    Options { is_refined: false, ..preset.draw(seed, &limits) }
}

#[cfg(seeded_bugs)]
fn number_of(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Looks from several starts for the bug that this program has. The lines are for
/// `cargo xtask seeded-bugs`.
#[test]
#[cfg(seeded_bugs)]
fn the_bug_is_found() {
    let number = std::env::var("TERCET_SEEDED_BUG").expect("cargo xtask seeded-bugs says which");
    let bug = *Bug::ALL.iter().find(|bug| bug.number() == number).expect("it is one of them");
    let starts = number_of("TERCET_SEEDED_STARTS").unwrap_or(5);
    let most = number_of("TERCET_SEEDED_BUDGET").unwrap_or(1_000);
    // The cluster's panics are finds: told below, in one line.
    std::panic::set_hook(Box::new(|_| {}));
    for start in 0..starts {
        let first = 1_000_000 * (start + 1);
        let failure = |seed| Some((seed, swarm::run(&draw(bug, first + seed)).failure?));
        match (0..most).find_map(failure) {
            Some((seed, failure)) => {
                let words: String = failure.text.chars().take(160).collect();
                let words = words.replace('\n', " ");
                println!("found\t{}\t{}\t{words}", seed + 1, failure.invariant);
            }
            None => println!("missed\t{most}"),
        }
    }
    let _ = std::panic::take_hook();
}

/// A check that finds something where nothing is proves as little.
#[test]
#[cfg(not(seeded_bugs))]
fn without_a_bug_nothing_is_found() {
    for (bug, first) in Bug::ALL.iter().zip((0..).step_by(100)) {
        for seed in first..first + 24 {
            let failure = swarm::run(&draw(*bug, seed)).failure;
            assert_eq!(failure, None, "seed {seed}: {}", bug.about());
        }
    }
}
