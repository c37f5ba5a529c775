//! The lines that break things and hold messages by hand: nodes, disks, clocks, links. Knows no
//! assertions.
//!
//! The one idea: a fault names what it hits in full, so that no line depends on what broke before.

use super::cursor::Result;
use super::facts::Act;
use super::nodes::{PlacedNode, Statement, plain};
use super::words::{DISKS, MESSAGE_KINDS, WIPES, message_kind};
use crate::ast::{End, MessageKind, NodeRef, NodeRefs, Selector, StepKind, Wipe};

impl Statement<'_> {
    /// Reads what stands behind `word`, or nothing if `word` begins no fault.
    pub(super) fn fault(&mut self, word: &str) -> Result<Option<StepKind>> {
        Ok(Some(match word {
            "crash" => StepKind::Crash(self.acted_on(Act::Crash)?),
            "restart" => StepKind::Restart(self.acted_on(Act::Restart)?),
            "pause" => StepKind::Pause(self.acted_on(Act::Pause)?),
            "resume" => StepKind::Resume(self.acted_on(Act::Resume)?),
            "wipe" => {
                let nodes = self.nodes()?;
                let all = self.cursor.at_end();
                let what = if all { Wipe::All } else { self.cursor.choice(WIPES)? };
                StepKind::Wipe { nodes, what }
            }
            "tear" => self.tear()?,
            "set" => self.set()?,
            "cut" => self.cut()?,
            "isolate" => StepKind::Isolate(self.node()?),
            "reset" => self.reset()?,
            "heal" => StepKind::Heal,
            "delay" => StepKind::Delay { link: self.link()?, by: self.cursor.duration()? },
            "drop" => {
                let (count, kind) = self.next_messages()?;
                StepKind::Drop { link: self.link()?, kind, count }
            }
            "dup" => {
                let (count, kind) = self.next_messages()?;
                StepKind::Duplicate { link: self.link()?, kind, count }
            }
            "hold" => self.hold()?,
            "list" => self.cursor.choice(&[("held", ())]).map(|()| StepKind::ListHeld)?,
            "deliver" => StepKind::Deliver(self.selector()?),
            "discard" => StepKind::Discard(self.selector()?),
            "release" => {
                let link = if self.cursor.at_end() { None } else { Some(self.link()?) };
                StepKind::Release(link)
            }
            _ => return Ok(None),
        }))
    }

    /// Reads nodes, and does `act` to them as far as the facts go.
    fn acted_on(&mut self, act: Act) -> Result<NodeRefs> {
        let column = self.cursor.column();
        if self.cursor.take_name("all") {
            self.facts
                .act_on_all(act)
                .map_err(|complaint| self.cursor.error(column, "all", complaint))?;
            return Ok(NodeRefs::All);
        }
        let nodes = self.placed_nodes()?;
        for placed in &nodes {
            self.act(act, placed)?;
        }
        Ok(plain(nodes))
    }

    fn act(&mut self, act: Act, (node, word): &PlacedNode) -> Result<()> {
        self.facts.act(act, node).map_err(|complaint| self.complain(word, complaint))
    }

    fn tear(&mut self) -> Result<StepKind> {
        let placed = self.placed_node()?;
        if !self.cursor.take_name("last") {
            return Err(self.cursor.expected("\"last\" and a number of entries"));
        }
        let count = self.cursor.count("a number of entries")?.into();
        self.act(Act::Tear, &placed)?;
        Ok(StepKind::Tear { node: placed.0, count })
    }

    fn set(&mut self) -> Result<StepKind> {
        const SETTINGS: &[&str] = &["heartbeat", "disk", "clock"];
        let node = self.node()?;
        let Some(key) = self.cursor.name() else {
            return Err(self.cursor.expected("heartbeat=, disk= or clock="));
        };
        if !SETTINGS.contains(&key.text.as_str()) {
            return Err(self.cursor.unknown(&key, SETTINGS));
        }
        self.equals()?;
        match key.text.as_str() {
            "heartbeat" => self.set_heartbeat(node),
            "disk" => Ok(StepKind::SetDisk { node, disk: self.cursor.choice(DISKS)? }),
            _ => self.jump_clock(node),
        }
    }

    fn set_heartbeat(&mut self, node: NodeRef) -> Result<StepKind> {
        let column = self.cursor.column();
        if self.cursor.take_name("default") {
            return Ok(StepKind::SetHeartbeat { node, interval: None, until_stepdown: false });
        }
        let interval = self.cursor.duration()?;
        if interval.is_zero() {
            let message = "a leader cannot send heartbeats without a pause between them";
            return Err(self.cursor.error(column, "0", message.to_owned().into()));
        }
        let until_stepdown = self.cursor.take_key("until");
        if until_stepdown {
            self.cursor.choice(&[("stepdown", ())])?;
        }
        Ok(StepKind::SetHeartbeat { node, interval: Some(interval), until_stepdown })
    }

    fn jump_clock(&mut self, node: NodeRef) -> Result<StepKind> {
        let backward = self.cursor.take("-");
        if !backward && !self.cursor.take("+") {
            return Err(self.cursor.expected("+DURATION or -DURATION"));
        }
        Ok(StepKind::JumpClock { node, by: self.cursor.duration()?, backward })
    }

    /// Reads `n1 | n2 n3` or `n1 -> n3`.
    fn cut(&mut self) -> Result<StepKind> {
        let from = self.placed_nodes()?;
        let one_way = self.cursor.take("->");
        if !one_way && !self.cursor.take("|") {
            return Err(self.cursor.expected("\"|\" or \"->\""));
        }
        let (from, to) = self.against(from)?;
        Ok(StepKind::Cut { from, to, one_way })
    }

    /// Reads `n1 | n2 n3`.
    fn reset(&mut self) -> Result<StepKind> {
        let one = self.placed_nodes()?;
        if !self.cursor.take("|") {
            return Err(self.cursor.expected("\"|\""));
        }
        let (one, other) = self.against(one)?;
        Ok(StepKind::Reset { one, other })
    }

    /// Reads the nodes on the other side.
    fn against(&mut self, one: Vec<PlacedNode>) -> Result<(NodeRefs, NodeRefs)> {
        let other = self.placed_nodes()?;
        if let Some((_, word)) = other.iter().find(|(node, _)| one.iter().any(|(f, _)| f == node)) {
            return Err(self.cursor.about(word, "is on both sides"));
        }
        Ok((plain(one), plain(other)))
    }

    fn hold(&mut self) -> Result<StepKind> {
        let link = self.link()?;
        let kind = if self.cursor.at_end() { None } else { Some(self.message_kind()?) };
        Ok(StepKind::Hold { link, kind })
    }

    /// Reads `next 2 Append`, where number and kind may be missing.
    fn next_messages(&mut self) -> Result<(u32, Option<MessageKind>)> {
        if !self.cursor.take_name("next") {
            return Err(self.cursor.expected("\"next\""));
        }
        let numbered = self.cursor.raw().starts_with(|c: char| c.is_ascii_digit());
        let count = if numbered { self.cursor.count("a number of messages")? } else { 1 };
        let kind = if self.sees_node() { None } else { Some(self.message_kind()?) };
        Ok((count, kind))
    }

    fn message_kind(&mut self) -> Result<MessageKind> {
        let Some(word) = self.cursor.name() else {
            return Err(self.cursor.expected("a kind of message"));
        };
        message_kind(&word.text).ok_or_else(|| {
            let names: Vec<&str> = MESSAGE_KINDS.iter().map(|(name, _)| *name).collect();
            self.cursor.unknown(&word, &names)
        })
    }

    /// Reads which held messages are meant. Nothing at all is refused: `all` is a word.
    fn selector(&mut self) -> Result<Selector> {
        let mut selector = Selector::default();
        if self.cursor.take_name("all") {
            return Ok(selector);
        }
        if self.cursor.take("#") {
            selector.number = Some(self.cursor.number("the number of a held message")?);
            return Ok(selector);
        }
        if self.cursor.at_end() {
            return Err(self.cursor.expected("all, #NUMBER, type=, from=, to=, first or last"));
        }
        while !self.cursor.at_end() {
            self.selector_field(&mut selector)?;
        }
        Ok(selector)
    }

    fn selector_field(&mut self, selector: &mut Selector) -> Result<()> {
        const FIELDS: &[&str] = &["type", "from", "to", "first", "last"];
        let Some(word) = self.cursor.name() else {
            return Err(self.cursor.expected("type=, from=, to=, first or last"));
        };
        if matches!(word.text.as_str(), "type" | "from" | "to") {
            self.equals()?;
        }
        let repeated = match word.text.as_str() {
            "type" => selector.kind.replace(self.message_kind()?).is_some(),
            "from" => selector.from.replace(self.node()?).is_some(),
            "to" => selector.to.replace(self.node()?).is_some(),
            "first" | "last" => {
                let end = if word.text == "first" { End::First } else { End::Last };
                let count = self.cursor.count("a number of messages")?;
                selector.at_most.replace((end, count)).is_some()
            }
            _ => return Err(self.cursor.unknown(&word, FIELDS)),
        };
        if repeated { Err(self.cursor.about(&word, "is there twice")) } else { Ok(()) }
    }
}
