//! The end: is what the nodes hold the same, and what the clients were told true of it?

use std::collections::{BTreeMap, BTreeSet};

use tercet_replica::{LoggedContent, Submitted};

use super::invariant::{Found, Invariant};
use super::load::Load;
use crate::history::{self, Violation};
use crate::world::World;

/// The nodes are those of a cluster that has converged.
pub(crate) fn check(world: &mut World, load: &Load) -> Found {
    let nodes = world.node_ids();
    let log = world.log(nodes[0]);
    for id in &nodes[1..] {
        if world.log(*id) != log {
            let text = format!("the log of {id} is not that of {}", nodes[0]);
            return Err((Invariant::Identity, text));
        }
    }
    let known: BTreeSet<u128> = load.requests.iter().map(|request| request.id).collect();
    let mut finals: Vec<&[u8]> = Vec::new();
    let mut places: BTreeMap<u128, (u64, u64, u64)> = BTreeMap::new();
    let mut next_seq = 1;
    for entry in &log {
        let LoggedContent::Records { request_id, values } = &entry.content else { continue };
        let place = (entry.index, next_seq, next_seq + values.len() as u64 - 1);
        next_seq = place.2 + 1;
        finals.extend(values.iter().map(|value| &value[..]));
        if !known.contains(request_id) {
            let text =
                format!("request {request_id:#x} stands in the log, and nobody submitted it");
            return Err((Invariant::ExactlyOnce, text));
        }
        if places.insert(*request_id, place).is_some() {
            let text = format!("request {request_id:#x} stands twice in the log");
            return Err((Invariant::ExactlyOnce, text));
        }
    }
    for request in &load.requests {
        let place = places.get(&request.id);
        for Submitted { index, first_seq, last_seq, .. } in &request.answers {
            if place != Some(&(*index, *first_seq, *last_seq)) {
                let text = format!(
                    "request {:#x} was acknowledged as {first_seq} to {last_seq} by entry {index}, and \
                     (entry, first, last) is {place:?}",
                    request.id
                );
                let invariant =
                    if place.is_none() { Invariant::Durability } else { Invariant::ExactlyOnce };
                return Err((invariant, text));
            }
        }
        let appended = request.answers.iter().filter(|done| !done.duplicate).count();
        if appended > 1 {
            let text = format!("{:#x} was appended {appended} times, by its answers", request.id);
            return Err((Invariant::ExactlyOnce, text));
        }
    }
    let mut files = Vec::new();
    for id in &nodes {
        let file = world.disk(*id).contents("values.log").unwrap_or_default();
        let lines = file.strip_suffix(b"\n").map(|lines| lines.split(|byte| *byte == b'\n'));
        let values = lines.into_iter().flatten().map(history::parse_line);
        if !values.eq(finals.iter().map(|value| Some(value.to_vec()))) {
            let text = format!("values.log of {id} is not made of the committed records");
            return Err((Invariant::Identity, text));
        }
        files.push(file);
    }
    match history::check(&load.history(), &files).first() {
        Some(violation) => Err((invariant_of(violation), violation.to_string())),
        None => Ok(()),
    }
}

const fn invariant_of(violation: &Violation) -> Invariant {
    match violation {
        Violation::FilesDiffer { .. } | Violation::Unreadable { .. } => Invariant::Identity,
        Violation::Lost { .. } => Invariant::Durability,
        Violation::Phantom { .. } | Violation::Duplicate { .. } | Violation::Torn { .. } => {
            Invariant::ExactlyOnce
        }
        Violation::OutOfOrder { .. }
        | Violation::WrongRead { .. }
        | Violation::StaleRead { .. } => Invariant::Linearizability,
    }
}
