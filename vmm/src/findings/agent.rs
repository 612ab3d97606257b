//! What vCPUs and devices are called.

use crate::memory::system::PLATFORM;
use cache_model::Agent;
use std::collections::BTreeMap;

/// The name of a vCPU or a device, one of `devices` by requester.
#[must_use]
pub fn agent_name(agent: Agent, devices: &BTreeMap<u32, String>) -> String {
    match agent {
        Agent::Cpu(index) => format!("vCPU {index}"),
        Agent::Device(PLATFORM) => "platform".to_owned(),
        Agent::Device(device) => {
            devices.get(&device).cloned().unwrap_or_else(|| format!("device {device:#x}"))
        }
    }
}
