//! The judge of a history: is what the clients were told consistent with the log at the end?

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tercet_replica::{LoggedContent, Submitted};
use tercet_sim::{Answer, World};

use super::clients::{Clients, Read, Request};

/// The final log is that of a cluster that has converged.
pub(crate) fn judge(world: &mut World, clients: &Clients) -> Result<(), String> {
    let nodes = world.node_ids();
    let log = world.log(nodes[0]);
    for id in &nodes[1..] {
        if world.log(*id) != log {
            return Err(format!("the log of {id} is not that of {}", nodes[0]));
        }
    }
    let mut finals: Vec<Bytes> = Vec::new();
    let mut places: BTreeMap<u128, (u64, u64, Vec<Bytes>)> = BTreeMap::new();
    for entry in &log {
        if let LoggedContent::Records { request_id, values } = &entry.content {
            let first_seq = finals.len() as u64 + 1;
            finals.extend(values.iter().cloned());
            if places.insert(*request_id, (entry.index, first_seq, values.clone())).is_some() {
                return Err(format!("request {request_id:#x} stands twice in the log"));
            }
        }
    }
    for id in &nodes {
        if super::values(world, *id) != super::lines(&finals) {
            return Err(format!("values.log of {id} is not made of the committed records"));
        }
    }
    for request in &clients.requests {
        judge_request(world, request, places.get(&request.id))?;
    }
    let known: BTreeSet<u128> = clients.requests.iter().map(|request| request.id).collect();
    if let Some(id) = places.keys().find(|id| !known.contains(id)) {
        return Err(format!("request {id:#x} stands in the log, and nobody submitted it"));
    }
    judge_order(&clients.requests)?;
    judge_reads(clients, &finals)
}

fn judge_request(
    world: &World,
    request: &Request,
    place: Option<&(u64, u64, Vec<Bytes>)>,
) -> Result<(), String> {
    let Request { id, values, acked, given_up, .. } = request;
    let Some((index, first_seq, found)) = place else {
        return match acked {
            Some((done, _)) => Err(format!("lost: {values:?} was acknowledged as {done:?}")),
            None => Ok(()),
        };
    };
    if *given_up {
        return Err(format!("phantom: {values:?} was refused, and stands at {first_seq}"));
    }
    if found != values {
        return Err(format!("torn: {values:?} was submitted, and {found:?} stands there"));
    }
    let last_seq = first_seq + values.len() as u64 - 1;
    let mut first_answers = 0;
    for op in &request.attempts {
        let Some(Answer::Submitted(done)) = world.answer(*op) else { continue };
        let Submitted { first_seq: first, last_seq: last, index: at, duplicate, .. } = done;
        if (*first, *last, *at) != (*first_seq, last_seq, *index) {
            return Err(format!("{id:#x} was answered {done:?}, and stands at {first_seq}"));
        }
        first_answers += u64::from(!duplicate);
    }
    if first_answers > 1 {
        return Err(format!("{id:#x} was appended {first_answers} times, by its answers"));
    }
    Ok(())
}

/// Along the log, no request may begin after one that stands behind it has ended.
fn judge_order(requests: &[Request]) -> Result<(), String> {
    let mut acked: Vec<(&Submitted, u64, u64)> = requests
        .iter()
        .filter_map(|request| {
            let (done, ended) = request.acked.as_ref()?;
            Some((done, request.begun, *ended))
        })
        .collect();
    acked.sort_unstable_by_key(|(done, ..)| done.first_seq);
    let mut latest: Option<(u64, &Submitted)> = None;
    for (done, begun, ended) in acked {
        if let Some((latest_begun, before)) = latest
            && ended < latest_begun
        {
            return Err(format!("{done:?} was answered before {before:?} was submitted"));
        }
        if latest.is_none_or(|(latest_begun, _)| begun > latest_begun) {
            latest = Some((begun, done));
        }
    }
    Ok(())
}

fn judge_reads(clients: &Clients, finals: &[Bytes]) -> Result<(), String> {
    // What must be seen, by when: acknowledged records, and what a linearizable read returned.
    let acked = clients.requests.iter().filter_map(|request| request.acked.as_ref());
    let mut seen: Vec<(u64, u64)> = acked.map(|(done, ended)| (*ended, done.last_seq)).collect();
    let of_read = |read: &Read| (read.ended, read.values.len() as u64);
    seen.extend(clients.reads.iter().filter(|read| read.linearizable).map(of_read));
    seen.sort_unstable();
    let mut highest = 0;
    for (_, seq) in &mut seen {
        highest = highest.max(*seq);
        *seq = highest;
    }
    for read in &clients.reads {
        let length = read.values.len();
        if finals.get(..length) != Some(&read.values[..]) {
            return Err(format!("a read of {length} records is no prefix of the log"));
        }
        let before = seen.partition_point(|(ended, _)| *ended < read.begun);
        let expected = before.checked_sub(1).map_or(0, |last| seen[last].1);
        if read.linearizable && (length as u64) < expected {
            return Err(format!("stale: a read ended at {length}, after {expected} was seen"));
        }
    }
    Ok(())
}
