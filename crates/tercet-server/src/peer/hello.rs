//! The first words on a link: who is there, of which cluster, which disk, which protocol.
//!
//! Whatever does not fit is refused in words that both sides can show to a person.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use tercet_raft::{Incarnation, NodeId};

use super::wire::{id_bytes, id_of};

/// The protocol versions that this program speaks between nodes.
pub(crate) const PROTOCOL_MIN: u32 = 1;
/// See [`PROTOCOL_MIN`].
pub(crate) const PROTOCOL_MAX: u32 = 1;
/// The longest HELLO: a few names and addresses.
pub(crate) const HELLO_BYTES_MAX: usize = 16 << 10;

/// Which of a pair's two links.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Channel {
    /// Votes, heartbeats, answers.
    Control,
    /// Entries, forwarded submits.
    Bulk,
}

impl Channel {
    pub(crate) const ALL: [Self; 2] = [Self::Control, Self::Bulk];

    const fn to_wire(self) -> u32 {
        match self {
            Self::Control => 1,
            Self::Bulk => 2,
        }
    }
}

/// The first frame of whoever dials.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Hello {
    #[prost(uint32, tag = "1")]
    protocol_min: u32,
    #[prost(uint32, tag = "2")]
    protocol_max: u32,
    #[prost(string, tag = "3")]
    cluster_name: String,
    /// `1=host:port`, ascending.
    #[prost(string, repeated, tag = "4")]
    members: Vec<String>,
    #[prost(uint32, tag = "5")]
    node: u32,
    #[prost(uint32, tag = "6")]
    to_node: u32,
    #[prost(bytes = "bytes", tag = "7")]
    incarnation: Bytes,
    /// Empty while the dialler knows no cluster.
    #[prost(bytes = "bytes", tag = "8")]
    origin: Bytes,
    #[prost(uint32, tag = "9")]
    channel: u32,
    #[prost(string, tag = "10")]
    client_address: String,
}

/// The answer to [`Hello`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HelloReply {
    /// The version to speak; 0 if refused.
    #[prost(uint32, tag = "1")]
    protocol: u32,
    /// Why not, in words; empty if accepted.
    #[prost(string, tag = "2")]
    pub(crate) refused: String,
    #[prost(bytes = "bytes", tag = "3")]
    incarnation: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    origin: Bytes,
    #[prost(string, tag = "5")]
    pub(crate) client_address: String,
}

/// Who is on the other side of an accepted link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Remote {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) channel: Channel,
    pub(crate) client_address: String,
}

/// What this node says of itself.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) node: NodeId,
    pub(crate) cluster_name: String,
    pub(crate) members: BTreeMap<NodeId, String>,
    pub(crate) incarnation: Incarnation,
    /// The id of the cluster's first generation: becomes known when the cluster is formed or found.
    pub(crate) origin: RefCell<Option<u128>>,
    pub(crate) client_address: String,
}

impl Local {
    fn origin_bytes(&self) -> Bytes {
        self.origin.borrow().map_or(Bytes::new(), id_bytes)
    }

    fn member_lines(&self) -> Vec<String> {
        let line = |(node, address): (&NodeId, &String)| format!("{}={address}", node.slot());
        self.members.iter().map(line).collect()
    }

    pub(crate) fn hello(&self, to: NodeId, channel: Channel) -> Hello {
        Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            cluster_name: self.cluster_name.clone(),
            members: self.member_lines(),
            node: u32::from(self.node.slot()),
            to_node: u32::from(to.slot()),
            incarnation: id_bytes(self.incarnation.0),
            origin: self.origin_bytes(),
            channel: channel.to_wire(),
            client_address: self.client_address.clone(),
        }
    }

    /// The answer to a HELLO, with who it is if it fits.
    pub(crate) fn answer(&self, hello: &Hello) -> (HelloReply, Result<Remote, String>) {
        let remote = self.check(hello);
        let refused = remote.as_ref().err().cloned().unwrap_or_default();
        let reply = HelloReply {
            protocol: if refused.is_empty() { PROTOCOL_MAX.min(hello.protocol_max) } else { 0 },
            refused,
            incarnation: id_bytes(self.incarnation.0),
            origin: self.origin_bytes(),
            client_address: self.client_address.clone(),
        };
        (reply, remote)
    }

    fn check(&self, hello: &Hello) -> Result<Remote, String> {
        if hello.protocol_max < PROTOCOL_MIN || hello.protocol_min > PROTOCOL_MAX {
            return Err(format!(
                "node {} speaks peer protocol {} to {}, node {} speaks {PROTOCOL_MIN} to \
                 {PROTOCOL_MAX}: run versions of the program that overlap",
                hello.node,
                hello.protocol_min,
                hello.protocol_max,
                self.node.slot()
            ));
        }
        if hello.cluster_name != self.cluster_name {
            return Err(format!(
                "node {} is of the cluster \"{}\", node {} of \"{}\": give both the same name, or \
                 other addresses",
                hello.node,
                hello.cluster_name,
                self.node.slot(),
                self.cluster_name
            ));
        }
        if hello.members != self.member_lines() {
            return Err(format!(
                "the member lists differ: node {} has {}; node {} has {}: make them the same",
                hello.node,
                hello.members.join(","),
                self.node.slot(),
                self.member_lines().join(",")
            ));
        }
        if hello.to_node != u32::from(self.node.slot()) {
            return Err(format!(
                "node {} called node {} here, but this is node {}: its address is another's",
                hello.node,
                hello.to_node,
                self.node.slot()
            ));
        }
        let node = u8::try_from(hello.node)
            .ok()
            .and_then(NodeId::new)
            .filter(|node| *node != self.node && self.members.contains_key(node))
            .ok_or_else(|| {
                format!("node {} is not a peer of node {}", hello.node, self.node.slot())
            })?;
        let channel = Channel::ALL
            .into_iter()
            .find(|channel| channel.to_wire() == hello.channel)
            .ok_or_else(|| format!("link {} is unknown", hello.channel))?;
        self.check_cluster(node, &hello.origin)?;
        let incarnation = id_of(&hello.incarnation).map_err(|error| error.to_string())?;
        Ok(Remote {
            node,
            incarnation: Incarnation(incarnation),
            channel,
            client_address: hello.client_address.clone(),
        })
    }

    fn check_cluster(&self, node: NodeId, theirs: &[u8]) -> Result<(), String> {
        let ours = *self.origin.borrow();
        match (ours, id_of(theirs)) {
            (Some(ours), Ok(theirs)) if ours != theirs => Err(format!(
                "node {} belongs to the cluster {theirs:032x}, node {} to {ours:032x}: one of the \
                 directories is of another cluster",
                node.slot(),
                self.node.slot()
            )),
            _ => Ok(()),
        }
    }

    /// Whether the answer to our HELLO lets us send.
    pub(crate) fn accept(
        &self,
        node: NodeId,
        channel: Channel,
        reply: &HelloReply,
    ) -> Result<Remote, String> {
        if !reply.refused.is_empty() {
            return Err(reply.refused.clone());
        }
        if reply.protocol < PROTOCOL_MIN || reply.protocol > PROTOCOL_MAX {
            return Err(format!("node {} answers in protocol {}", node.slot(), reply.protocol));
        }
        self.check_cluster(node, &reply.origin)?;
        let incarnation = id_of(&reply.incarnation).map_err(|error| error.to_string())?;
        Ok(Remote {
            node,
            incarnation: Incarnation(incarnation),
            channel,
            client_address: reply.client_address.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(slot: u8) -> Local {
        let members = (1..=3).map(|n| (NodeId::new(n).unwrap(), format!("h{n}:7"))).collect();
        Local {
            node: NodeId::new(slot).unwrap(),
            cluster_name: "demo".to_owned(),
            members,
            incarnation: Incarnation(u128::from(slot)),
            origin: RefCell::new(None),
            client_address: format!("h{slot}:8"),
        }
    }

    fn refusal(hello: &Hello) -> String {
        local(2).answer(hello).1.unwrap_err()
    }

    #[test]
    fn peers_of_one_cluster_accept_each_other() {
        let (one, two) = (local(1), local(2));
        *one.origin.borrow_mut() = Some(9);
        let (reply, remote) = two.answer(&one.hello(two.node, Channel::Bulk));
        let remote = remote.unwrap();
        assert_eq!((remote.node, remote.channel), (one.node, Channel::Bulk));
        assert_eq!(remote.client_address, "h1:8");
        assert_eq!(
            one.accept(two.node, Channel::Bulk, &reply).unwrap().incarnation,
            two.incarnation
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_in_words() {
        let hello = local(1).hello(NodeId::new(2).unwrap(), Channel::Control);
        let newer = Hello { protocol_min: 7, protocol_max: 9, ..hello.clone() };
        assert!(refusal(&newer).contains("protocol 7 to 9"));
        let other = Hello { cluster_name: "prod".to_owned(), ..hello.clone() };
        assert!(refusal(&other).contains("\"prod\""));
        let list = Hello { members: vec!["1=h1:7".to_owned()], ..hello.clone() };
        assert!(refusal(&list).contains("node 1 has 1=h1:7; node 2 has 1=h1:7,2=h2:7,3=h3:7"));
        let wrong = Hello { to_node: 3, ..hello.clone() };
        assert!(refusal(&wrong).contains("this is node 2"));
        let me = Hello { node: 2, ..hello.clone() };
        assert!(refusal(&me).contains("not a peer"));
        let two = local(2);
        *two.origin.borrow_mut() = Some(1);
        let foreign = Hello { origin: id_bytes(5), ..hello };
        assert!(two.answer(&foreign).0.refused.contains("another cluster"));
    }
}
