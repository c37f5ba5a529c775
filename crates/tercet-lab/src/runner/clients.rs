//! The script's clients: they send requests, follow redirects, wait for answers, and compare what they
//! are told with what the script expects. What they were told is what the checker holds the nodes to.

use std::time::Duration;

use super::{LIMIT, Progress, ReadRequest, Request, Runner, Stepped, Wrong};
use crate::ast::{ClientState, NodeRef, Outcome};
use crate::backend::{Backend, ClientAnswer, Ticket};
use tercet_raft::NodeId;

impl<B: Backend> Runner<'_, B> {
    pub(super) fn hear_clients(&mut self) -> Stepped {
        for request in &mut self.requests {
            let Some(ticket) = request.ticket else { continue };
            let Some(answer) = self.backend.answer(ticket)? else { continue };
            request.ticket = None;
            request.state = match answer {
                ClientAnswer::Ok { index, .. } => {
                    let id = *request.ids.last().expect("it was sent");
                    self.checker.acknowledge(id, &request.value, index);
                    ClientState::Ok
                }
                ClientAnswer::Redirect(_) | ClientAnswer::Refused(_) => ClientState::Refused,
                ClientAnswer::Unknown(_) | ClientAnswer::Values(_) => ClientState::Unknown,
            };
        }
        for read in &mut self.reads {
            let Some(ticket) = read.ticket else { continue };
            let Some(answer) = self.backend.answer(ticket)? else { continue };
            read.ticket = None;
            if let ClientAnswer::Values(values) = answer {
                if !read.stale {
                    self.checker.check_read(&values, &read.owed);
                }
                read.values = values;
                read.state = ClientState::Ok;
            } else {
                read.state = ClientState::Unknown;
            }
        }
        Ok(())
    }

    fn fresh_id(&mut self) -> u128 {
        self.next_id += 1;
        self.next_id
    }

    /// The node that a client goes to: the one named, or whoever leads, now or soon.
    fn target(&mut self, via: Option<&NodeRef>) -> Stepped<NodeId> {
        if let Some(via) = via {
            return self.node(via);
        }
        self.wait_for(LIMIT, |runner| Ok(runner.scene(|scene| scene.node(&NodeRef::Leader))))
    }

    pub(super) fn submit(
        &mut self,
        values: &[String],
        via: Option<&NodeRef>,
        name: Option<&str>,
        nowait: bool,
        expect: &[Outcome],
    ) -> Stepped {
        for value in values {
            let id = self.fresh_id();
            let position = self.requests.len();
            let request = Request {
                value: value.clone(),
                ids: vec![id],
                ticket: None,
                state: ClientState::Waiting,
            };
            self.requests.push(request);
            if let Some(name) = name {
                self.named.entry(name.to_owned()).or_default().push(position);
            }
            self.send(position, via, nowait, expect)?;
        }
        Ok(())
    }

    pub(super) fn retry(
        &mut self,
        name: &str,
        via: Option<&NodeRef>,
        nowait: bool,
        expect: &[Outcome],
    ) -> Stepped {
        let positions = self.named.get(name).cloned();
        let positions = positions.ok_or_else(|| format!("{name} was never sent"))?;
        for position in positions {
            if self.no_request_ids {
                let id = self.fresh_id();
                let first = self.requests[position].ids[0];
                self.checker.repeat(first, id);
                self.requests[position].ids.push(id);
            }
            self.requests[position].state = ClientState::Waiting;
            self.send(position, via, nowait, expect)?;
        }
        Ok(())
    }

    /// Sends a request, follows redirects, and compares what the client is told with what the
    /// script expects.
    fn send(
        &mut self,
        position: usize,
        via: Option<&NodeRef>,
        nowait: bool,
        expect: &[Outcome],
    ) -> Stepped {
        let mut at = match self.target(via) {
            Err(Wrong::Found(found)) => {
                // Nobody was asked: it is appended nowhere.
                self.requests[position].state = ClientState::Refused;
                let value = self.requests[position].value.clone();
                let text = format!("refused: {found}");
                (self.tell)(Progress::Answered { value, state: ClientState::Refused, text });
                return Err(Wrong::Found(found));
            }
            target => target?,
        };
        let mut expected = expect.iter();
        let mut next = expected.next();
        let end = self.backend.elapsed() + LIMIT;
        loop {
            let (id, value) = {
                let request = &self.requests[position];
                (*request.ids.last().expect("it has one"), request.value.clone())
            };
            let ticket = self.backend.submit(at, id, &value)?;
            self.requests[position].ticket = Some(ticket);
            if nowait {
                return self.observe();
            }
            let answer = self.await_answer(ticket, end)?;
            self.observe()?;
            let told = match &answer {
                Some(ClientAnswer::Redirect(Some(leader))) => {
                    if let Some(Outcome::Redirect(wanted)) = next {
                        let wanted = self.node(wanted)?;
                        if wanted != *leader {
                            return Err(format!("{at} names {leader} as the leader").into());
                        }
                        next = expected.next();
                    }
                    at = *leader;
                    self.requests[position].state = ClientState::Waiting;
                    continue;
                }
                Some(ClientAnswer::Redirect(None)) if self.backend.elapsed() < end => {
                    // It knows no leader: perhaps soon.
                    if !matches!(next, Some(Outcome::Refused)) {
                        self.pass(self.backend.heartbeat())?;
                        at = self.target(via)?;
                        self.requests[position].state = ClientState::Waiting;
                        continue;
                    }
                    "refused".to_owned()
                }
                Some(ClientAnswer::Ok { .. }) => "ok".to_owned(),
                Some(ClientAnswer::Redirect(None)) => "refused: no leader is known".to_owned(),
                Some(ClientAnswer::Refused(why)) => format!("refused: {why}"),
                Some(ClientAnswer::Unknown(why)) => format!("unknown: {why}"),
                Some(ClientAnswer::Values(_)) => unreachable!("a submit reads nothing"),
                None => {
                    // The client stops waiting: it will not know.
                    self.requests[position].ticket = None;
                    self.requests[position].state = ClientState::Unknown;
                    format!("unknown: no answer within {LIMIT:?}")
                }
            };
            let state = self.requests[position].state;
            let text = told.clone();
            (self.tell)(Progress::Answered { value: value.clone(), state, text });
            let Some(wanted) = next else { return Ok(()) };
            let word = match wanted {
                Outcome::Ok => "ok",
                Outcome::Refused => "refused",
                Outcome::Unknown => "unknown",
                Outcome::Redirect(_) => "redirect",
            };
            self.checked += 1;
            return if told.starts_with(word) {
                Ok(())
            } else {
                Err(format!("{value}: {told}").into())
            };
        }
    }

    /// Waits for a client's answer; none if it does not come in time, or never can.
    fn await_answer(&mut self, ticket: Ticket, end: Duration) -> Stepped<Option<ClientAnswer>> {
        loop {
            if let Some(answer) = self.backend.answer(ticket)? {
                return Ok(Some(answer));
            }
            let left = end.saturating_sub(self.backend.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            self.backend.wait_a_little(left.min(self.backend.heartbeat()))?;
            self.observe()?;
        }
    }

    pub(super) fn read(
        &mut self,
        via: Option<&NodeRef>,
        name: Option<&str>,
        stale: bool,
        nowait: bool,
        expect: &[Outcome],
    ) -> Stepped {
        let at = self.target(via)?;
        let owed = self.checker.acknowledged_values();
        let ticket = self.backend.read(at, stale || self.stale_reads)?;
        let position = self.reads.len();
        self.reads.push(ReadRequest {
            ticket: Some(ticket),
            state: ClientState::Waiting,
            values: Vec::new(),
            owed,
            stale,
        });
        if let Some(name) = name {
            self.named_reads.insert(name.to_owned(), position);
        }
        if nowait {
            return self.observe();
        }
        let end = self.backend.elapsed() + self.backend.heartbeat() * 40;
        let answer = self.await_answer(ticket, end)?;
        self.observe()?;
        if answer.is_none() {
            self.reads[position].ticket = None;
            self.reads[position].state = ClientState::Unknown;
        }
        let told = match answer {
            Some(ClientAnswer::Values(values)) => {
                (self.tell)(Progress::Told(values.join(" ")));
                "ok"
            }
            Some(_) | None => "unknown",
        };
        match expect.last() {
            None => Ok(()),
            Some(wanted) => {
                self.checked += 1;
                let holds = matches!(
                    (wanted, told),
                    (Outcome::Ok, "ok") | (Outcome::Unknown | Outcome::Refused, "unknown")
                );
                if holds { Ok(()) } else { Err(format!("the read was {told}").into()) }
            }
        }
    }
}
