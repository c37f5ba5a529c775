//! `tercet recover`: begins again from one directory when more nodes are lost than a majority can
//! spare (docs/rejoin.md). It shows what will be lost, and asks.

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;
use tercet_raft::Incarnation;
use tercet_replica::{IdentityState, Survey, recover, survey};
use tercet_wal::{FileDisk, WalOptions};

use crate::output::{self, Failure};

pub(crate) fn run(from: &Path, accept_loss: bool, yes: bool, json: bool) -> anyhow::Result<u8> {
    let mut disk = open(from)?;
    let refused = |error: tercet_replica::RecoverError| {
        Failure::new(1, format!("{}: {error}", from.display()))
    };
    let found = survey(&mut disk, WalOptions::default()).map_err(refused)?;
    if !json {
        for line in describe(&found) {
            output::line(line)?;
        }
    }
    if !accept_loss {
        return Err(Failure::new(
            2,
            "nothing was changed. A recovery can lose what was acknowledged: if a majority may still \
             come back, start it instead. To go on from this directory, say --accept-loss",
        )
        .into());
    }
    if !yes && !is_wanted(&found)? {
        return Err(Failure::new(1, "nothing was changed").into());
    }
    let incarnation = Incarnation(tercet_server::random_u128());
    let identity = recover(&mut disk, WalOptions::default(), incarnation).map_err(refused)?;
    let number = identity.generation.number;
    if json {
        output::line(
            json!({
                "node": identity.node.slot(), "cluster_name": identity.cluster_name,
                "generation": number, "term": found.hard_state.term,
                "last_index": found.last.index.0, "last_seq": found.last_seq,
                "committed_seq": found.committed_seq,
            })
            .to_string(),
        )?;
    } else {
        output::line(format!(
            "\ndone: {} holds the log of generation {number}. Start all nodes, each with the same \
             file as before; the generation begins when all of them have met.",
            identity.node
        ))?;
    }
    Ok(0)
}

fn open(from: &Path) -> anyhow::Result<FileDisk> {
    // Opening would make it.
    std::fs::metadata(from.join("identity"))
        .with_context(|| format!("{}: this is not the directory of a node", from.display()))?;
    FileDisk::open(PathBuf::from(from)).with_context(|| {
        format!("{}: a directory is recovered while its node does not run", from.display())
    })
}

/// What the directory holds, and what going on from it means.
fn describe(found: &Survey) -> Vec<String> {
    let Survey { identity, hard_state, last, last_seq, committed_seq } = found;
    let (node, number) = (identity.node, identity.generation.number.max(1));
    let vote = hard_state.vote.map_or("nobody".to_owned(), |vote| format!("n{vote}"));
    let others: Vec<String> = identity
        .members
        .keys()
        .filter(|member| **member != node)
        .map(ToString::to_string)
        .collect();
    let mut lines = vec![
        format!("node         {node} of \"{}\", generation {number}", identity.cluster_name),
        format!("term         {}, voted for {vote}", hard_state.term),
        format!("log          {} entries, the last one of term {}", last.index, last.term),
        format!("records      {last_seq}, of which {committed_seq} are known to be committed"),
    ];
    if identity.state == IdentityState::Quarantined {
        lines.push(
            "memory       lost once: it holds what a leader has sent it since, and may lack much"
                .to_owned(),
        );
    }
    lines.push(String::new());
    lines.push(format!("If this log goes on as generation {}:", number + 1));
    if committed_seq < last_seq {
        lines.push(format!(
            "- records {} to {last_seq} stay, whether they were acknowledged or not;",
            committed_seq + 1
        ));
    }
    lines.push(format!(
        "- whatever was acknowledged after record {last_seq} is gone for good, and its numbers are \
         given to other records;"
    ));
    lines.push(format!(
        "- {} take part as new nodes: what their directories hold is moved to lost/.",
        others.join(", ")
    ));
    lines.push(
        "Compare first: of the directories that are left, the one with the highest term of its last \
         entry, and among those with the most entries, has lost least."
            .to_owned(),
    );
    lines
}

fn is_wanted(found: &Survey) -> anyhow::Result<bool> {
    let mut err = std::io::stderr().lock();
    write!(err, "\nType the cluster's name to go on: ")?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == found.identity.cluster_name)
}
