//! Multicast groups: which queue pairs have a copy of a datagram sent to a group's GID.

use super::command::Command;
use super::hca::{Hca, Phase};
use super::layout::capabilities::general;
use super::layout::commands::{OBJECT, mcg};
use super::qp::Transport;
use super::status::Failure;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub const COMMANDS: &[Command] = &[
    Command::new(0x806, "ATTACH_TO_MCG", Phase::Ready, attach).lengths(mcg::LEN, 16),
    Command::new(0x807, "DETACH_FROM_MCG", Phase::Ready, detach).lengths(mcg::LEN, 16),
];

/// Queue pairs of a group.
pub const MAX_MEMBERS: u32 = 16;

/// The groups that have members.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MulticastGroups {
    groups: BTreeMap<[u8; 16], BTreeSet<u32>>,
}

impl MulticastGroups {
    /// The queue pairs that are attached to the group `gid`, in order.
    pub fn members(&self, gid: &[u8; 16]) -> Vec<u32> {
        self.groups.get(gid).into_iter().flatten().copied().collect()
    }

    /// Whether queue pair `qpn` is attached to a group.
    pub fn contains(&self, qpn: u32) -> bool {
        self.groups.values().any(|members| members.contains(&qpn))
    }
}

fn group_of(input: &[u8]) -> Result<[u8; 16], Failure> {
    let gid = input.get(mcg::GID..).and_then(|rest| rest.first_chunk());
    gid.copied().ok_or(Failure::parameter("no group"))
}

fn attach(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    let (gid, qpn) = (group_of(input)?, OBJECT.get32(input));
    let qp = hca.qps.get(qpn).ok_or(Failure::resource("no such queue pair"))?;
    if qp.transport != Transport::UnreliableDatagram {
        return Err(Failure::parameter("only queue pairs for datagrams are in groups"));
    }
    let max_groups = hca.caps.limit(general::LOG_MAX_MCG) as usize;
    let groups = &mut hca.multicast.groups;
    if !groups.contains_key(&gid) && groups.len() >= max_groups {
        return Err(Failure::limit("no more multicast groups"));
    }
    let members = groups.entry(gid).or_default();
    if !members.contains(&qpn) && members.len() >= MAX_MEMBERS as usize {
        return Err(Failure::limit("the multicast group is full"));
    }
    members.insert(qpn);
    Ok(())
}

fn detach(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    let gid = group_of(input)?;
    let groups = &mut hca.multicast.groups;
    let members = groups.get_mut(&gid).ok_or(Failure::resource("the group has no members"))?;
    if !members.remove(&OBJECT.get32(input)) {
        return Err(Failure::resource("the queue pair is not in the group"));
    }
    if members.is_empty() {
        groups.remove(&gid);
    }
    Ok(())
}
