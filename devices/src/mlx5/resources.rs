//! Objects that are little more than a number: UARs, protection domains, XRC domains, transport domains.

use super::command::Command;
use super::hca::{Hca, Phase, answer_number};
use super::layout::capabilities::general;
use super::layout::commands::OBJECT;
use super::status::Failure;
use super::uar;
use serde::{Deserialize, Serialize};

pub const COMMANDS: &[Command] = &[
    Command::new(0x800, "ALLOC_PD", Phase::Ready, alloc_pd),
    Command::new(0x801, "DEALLOC_PD", Phase::Ready, dealloc_pd),
    Command::new(0x802, "ALLOC_UAR", Phase::Ready, alloc_uar),
    Command::new(0x803, "DEALLOC_UAR", Phase::Ready, dealloc_uar),
    Command::new(0x80e, "ALLOC_XRCD", Phase::Ready, alloc_xrcd),
    Command::new(0x80f, "DEALLOC_XRCD", Phase::Ready, dealloc_xrcd),
    Command::new(0x816, "ALLOC_TRANSPORT_DOMAIN", Phase::Ready, alloc_transport_domain),
    Command::new(0x817, "DEALLOC_TRANSPORT_DOMAIN", Phase::Ready, dealloc_transport_domain),
];

/// A protection domain: memory keys and queues of one domain work together.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ProtectionDomain;

/// An XRC domain.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct XrcDomain;

/// A transport domain, which isolates self-loopback of Ethernet queues.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct TransportDomain;

/// A user access region: one page of doorbells.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Uar {
    /// First word of a CQ doorbell written as two 4-byte halves.
    pub cq_doorbell_high: u32,
}

fn alloc_pd(hca: &mut Hca, _input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let end = hca.caps.limit(general::LOG_MAX_PD);
    answer_number(hca.pds.insert(ProtectionDomain, end), out)
}

fn dealloc_pd(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    let pd = OBJECT.get32(input);
    if hca.mkeys.values().any(|mkey| mkey.pd == pd)
        || hca.qps.values().any(|qp| qp.pd == pd)
        || hca.srqs.values().any(|srq| srq.pd == pd)
    {
        return Err(Failure::busy("the protection domain is in use"));
    }
    hca.pds.remove(pd).ok_or(Failure::resource("no such protection domain"))?;
    Ok(())
}

fn alloc_uar(hca: &mut Hca, _input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    answer_number(hca.uars.insert(Uar::default(), uar::END), out)
}

/// Work queues and completion queues do not hold their UAR: Linux gives a process's UARs back when it closes the device,
/// before what the process has forgotten to destroy. Such a queue cannot be rung any more.
fn dealloc_uar(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    let uar = OBJECT.get32(input);
    if hca.eqs.values().any(|eq| eq.uar == uar) {
        return Err(Failure::busy("the UAR is in use"));
    }
    hca.uars.remove(uar).ok_or(Failure::resource("no such UAR"))?;
    Ok(())
}

fn alloc_xrcd(hca: &mut Hca, _input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let end = hca.caps.limit(general::LOG_MAX_XRCD);
    answer_number(hca.xrcds.insert(XrcDomain, end), out)
}

fn dealloc_xrcd(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    let xrcd = OBJECT.get32(input);
    if hca.srqs.values().any(|srq| srq.xrcd() == Some(xrcd))
        || hca.qps.values().any(|qp| qp.xrcd == Some(xrcd))
    {
        return Err(Failure::busy("the XRC domain is in use"));
    }
    hca.xrcds.remove(xrcd).ok_or(Failure::resource("no such XRC domain"))?;
    Ok(())
}

fn alloc_transport_domain(hca: &mut Hca, _input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let end = hca.caps.limit(general::LOG_MAX_TRANSPORT_DOMAIN);
    answer_number(hca.transport_domains.insert(TransportDomain, end), out)
}

fn dealloc_transport_domain(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    let number = OBJECT.get32(input);
    hca.transport_domains.remove(number).ok_or(Failure::resource("no such transport domain"))?;
    Ok(())
}
