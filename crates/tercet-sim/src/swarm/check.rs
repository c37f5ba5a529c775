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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::swarm::load::Request;
    use crate::swarm::run::Life;
    use crate::swarm::{Limits, Preset};

    type Break = fn(&mut World, &mut Load, &mut Random);

    fn any<'a>(
        load: &'a mut Load,
        random: &mut Random,
        which: impl Fn(&Request) -> bool,
    ) -> &'a mut Request {
        let mut chosen: Vec<_> = load.requests.iter_mut().filter(|r| which(r)).collect();
        let at = usize::try_from(random.below(chosen.len() as u64)).unwrap();
        chosen.swap_remove(at)
    }

    const fn is_answered(request: &Request) -> bool {
        !request.answers.is_empty()
    }

    /// A check that cannot fail proves nothing: a good life is judged good, and the same one with
    /// one thing changed in it is not.
    #[test]
    fn a_life_with_one_thing_changed_is_refused() {
        let breaks: [(Invariant, &str, Break); 11] = [
            (Invariant::Durability, "was acknowledged as", |_, load, random| {
                let mut lost = any(load, random, is_answered).clone();
                lost.id += 1 << 32;
                load.requests.push(lost);
            }),
            (Invariant::ExactlyOnce, "nobody submitted it", |_, load, _| {
                let at = load.requests.iter().position(is_answered).unwrap();
                load.requests.remove(at);
            }),
            (Invariant::ExactlyOnce, "phantom", |_, load, random| {
                let request = any(load, random, is_answered);
                request.answers.clear();
                (request.given_up, request.maybe) = (true, false);
            }),
            (Invariant::ExactlyOnce, "torn", |_, load, random| {
                // Nobody knows of it, and one of its values is not there.
                let request = any(load, random, is_answered);
                request.answers.clear();
                request.maybe = true;
                request.values.push(bytes::Bytes::from_static(b"another"));
            }),
            (Invariant::ExactlyOnce, "(entry, first, last) is Some", |_, load, random| {
                let of_another = any(load, random, is_answered).answers.clone();
                let request = load
                    .requests
                    .iter_mut()
                    .find(|r| is_answered(r) && r.answers[0].index != of_another[0].index);
                request.unwrap().answers.extend(of_another);
            }),
            (Invariant::ExactlyOnce, "was appended 2 times", |_, load, random| {
                let is_first = |r: &Request| r.answers.iter().any(|done| !done.duplicate);
                let request = any(load, random, is_first);
                let first = request.answers.iter().find(|done| !done.duplicate).cloned();
                request.answers.extend(first);
            }),
            (Invariant::Linearizability, "out of order", |_, load, _| {
                let mut acked: Vec<_> =
                    load.requests.iter_mut().filter(|r| is_answered(r)).collect();
                acked.sort_by_key(|request| request.answers[0].index);
                let last = acked.last().unwrap().ended.unwrap();
                // The first in the log is asked for when the last was answered.
                (acked[0].begun, acked[0].ended) = (last + 1, Some(last + 2));
            }),
            (Invariant::Linearizability, "stale", |_, load, _| {
                let read = load
                    .reads
                    .iter_mut()
                    .rev()
                    .find(|read| read.linearizable && read.records.len() > 1);
                read.unwrap().records.clear();
            }),
            (Invariant::Linearizability, "a read returned", |_, load, _| {
                let read = load.reads.iter_mut().find(|read| read.records.len() > 1).unwrap();
                let (one, other) = read.records.split_at_mut(1);
                std::mem::swap(&mut one[0].1, &mut other[0].1);
            }),
            (Invariant::Identity, "is not made of the committed records", |world, _, _| {
                use tercet_wal::{Disk as _, DiskFile as _};
                let id = world.node_ids()[2];
                let file = world.disk(id).open("values.log").unwrap().unwrap();
                let end = file.len().unwrap();
                file.write_at(b"write nobody\n", end).unwrap();
            }),
            (Invariant::Identity, "the log of n2 is not that of n1", |world, _, _| {
                let id = world.node_ids()[1];
                world.crash(id, tercet_wal::Survive::All);
            }),
        ];
        for (number, (invariant, words, break_it)) in (0..).zip(breaks) {
            for seed in 0..3 {
                let limits = Limits { nodes: Some(3), ..Limits::default() };
                let options = Preset::LateMessages.draw(seed, &limits);
                let mut tell = |_: crate::swarm::Told<'_>| {};
                let mut life = Life::new(&options, &mut tell);
                assert_eq!(life.live(), Ok(()), "seed {seed}");
                let mut random = Random::new(number << 8 | seed);
                break_it(&mut life.world, &mut life.load, &mut random);
                let (found, text) = check(&mut life.world, &life.load).unwrap_err();
                assert_eq!(found, invariant, "{words}, seed {seed}: {text}");
                assert!(text.contains(words), "{words}, seed {seed}: {text}");
            }
        }
    }
}
