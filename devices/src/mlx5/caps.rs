//! Capabilities: what the device offers, and what the driver has set.

use super::command::Command;
use super::config::{Mlx5Config, PortType};
use super::field::Field;
use super::hca::{Hca, Phase};
use super::layout::capabilities::{SIZE, atomic, general};
use super::layout::commands::{CONTEXT, header};
use super::multicast;
use super::status::{Failure, Status};
use serde::{Deserialize, Serialize};

const GENERAL: u64 = 0;
const ODP: u64 = 2;
const ATOMIC: u64 = 3;

/// QUERY_HCA_CAP and SET_HCA_CAP carry room for the largest of all capability structures.
const UNION_LEN: usize = 4096;

pub const COMMANDS: &[Command] = &[
    Command::new(0x100, "QUERY_HCA_CAP", Phase::Enabled, query).lengths(header::IN_LEN, CONTEXT + UNION_LEN),
    Command::new(0x109, "SET_HCA_CAP", Phase::Enabled, set).lengths(CONTEXT + UNION_LEN, header::OUT_LEN),
];

/// Timer frequency of the initialization segment, in kHz.
pub const DEVICE_FREQUENCY_KHZ: u64 = 156_250;

/// What the device offers on either link layer. Every capability that is not listed is 0: no flow steering, eswitch,
/// on-demand paging, user contexts or RoCE.
const OFFERED: &[(Field, u64)] = &[
    (general::VHCA_ID, 1),
    (general::LOG_MAX_SRQ_SZ, 10),
    (general::LOG_MAX_QP_SZ, 13),
    (general::LOG_MAX_QP, 8),
    (general::LOG_MAX_SRQ, 6),
    (general::LOG_MAX_CQ_SZ, 16),
    (general::LOG_MAX_CQ, 8),
    (general::LOG_MAX_EQ_SZ, 16),
    (general::LOG_MAX_MKEY, 12),
    (general::LOG_MAX_EQ, 4),
    (general::LOG_MAX_MRW_SZ, 40),
    (general::LOG_MAX_KLM_LIST_SIZE, 16),
    (general::LOG_MAX_RA_REQ_QP, 4),
    (general::LOG_MAX_RA_RES_QP, 4),
    (general::LOCAL_CA_ACK_DELAY, 16),
    (general::NUM_PORTS, 1),
    (general::LOG_MAX_MSG, 30),
    (general::CQE_VERSION, 1),
    (general::COMPACT_ADDRESS_VECTOR, 1),
    (general::UMR_EXTENDED_TRANSLATION_OFFSET, 1),
    (general::ATOMIC, 1),
    (general::XRC, 1),
    (general::UD, 1),
    (general::UC, 1),
    (general::RC, 1),
    (general::LOG_PG_SZ, 12),
    (general::LOG_BF_REG_SIZE, 9),
    (general::MAX_WQE_SZ_SQ, 512),
    (general::MAX_WQE_SZ_RQ, 512),
    (general::MAX_QP_MCG, multicast::MAX_MEMBERS as u64),
    (general::LOG_MAX_MCG, 4),
    (general::IMAICL, 1),
    (general::LOG_MAX_TRANSPORT_DOMAIN, 4),
    (general::LOG_MAX_PD, 8),
    (general::LOG_MAX_XRCD, 4),
    (general::LOG_MAX_RQ, 6),
    (general::LOG_MAX_SQ, 6),
    (general::LOG_MAX_TIR, 4),
    (general::LOG_MAX_TIS, 4),
    (general::LOG_MAX_STRIDE_SZ_RQ, 9),
    (general::LOG_MAX_STRIDE_SZ_SQ, 9),
    (general::LOG_MAX_WQ_SZ, 13),
    (general::DEVICE_FREQUENCY_KHZ, DEVICE_FREQUENCY_KHZ),
];

/// Limits the driver may lower but not raise.
const LIMITS: &[Field] = &[
    general::LOG_MAX_SRQ_SZ,
    general::LOG_MAX_QP_SZ,
    general::LOG_MAX_QP,
    general::LOG_MAX_SRQ,
    general::LOG_MAX_CQ_SZ,
    general::LOG_MAX_CQ,
    general::LOG_MAX_EQ_SZ,
    general::LOG_MAX_MKEY,
    general::LOG_MAX_EQ,
    general::LOG_MAX_KLM_LIST_SIZE,
    general::LOG_MAX_TRANSPORT_DOMAIN,
    general::LOG_MAX_PD,
    general::LOG_MAX_XRCD,
];

/// Capabilities offered and, for the general ones, in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Capabilities {
    #[serde(with = "crate::state::bytes")]
    offered: [u8; SIZE],
    #[serde(with = "crate::state::bytes")]
    current: [u8; SIZE],
    #[serde(with = "crate::state::bytes")]
    atomic: [u8; SIZE],
}

impl Capabilities {
    pub fn new(config: &Mlx5Config) -> Self {
        let mut offered = [0; SIZE];
        for (field, value) in OFFERED {
            field.set(&mut offered, *value);
        }
        let infiniband = config.port == PortType::InfiniBand;
        general::IB_VIRT.set(&mut offered, infiniband.into());
        general::PORT_TYPE.set(&mut offered, (!infiniband).into());
        general::UMR_MODIFY_ENTITY_SIZE_DISABLED.set(&mut offered, (!config.umr).into());
        let mut operations = [0; SIZE];
        atomic::HOST_ENDIANNESS_SUPPORTED.set(&mut operations, 1);
        atomic::OPERATIONS.set(&mut operations, 0b11);
        atomic::SIZE_QP.set(&mut operations, 1 << 3);
        Self { offered, current: offered, atomic: operations }
    }

    /// A general capability in force.
    pub fn general(&self, field: Field) -> u32 {
        field.get32(&self.current)
    }

    /// 2 to the power of a general capability in force.
    pub fn limit(&self, log: Field) -> u32 {
        1u32.checked_shl(self.general(log)).unwrap_or(u32::MAX)
    }

    /// Entries of the GID table: `gid_table_size` 0 means 8, each step doubles.
    pub fn gid_count(&self) -> u32 {
        8 << self.general(general::GID_TABLE_SIZE).min(4)
    }

    /// Entries of the P_Key table: `pkey_table_size` 0 means 128, each step doubles.
    pub fn pkey_count(&self) -> u32 {
        128 << self.general(general::PKEY_TABLE_SIZE).min(5)
    }
}

fn query(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let op_mod = header::OP_MOD.get(input);
    let wants_current = op_mod & 1 != 0;
    let caps = match op_mod >> 1 {
        GENERAL if wants_current => hca.caps.current,
        GENERAL => hca.caps.offered,
        ODP => [0; SIZE],
        ATOMIC => hca.caps.atomic,
        _ => return Err(Failure::parameter("no capabilities of this type")),
    };
    if let Some(answer) = out.get_mut(CONTEXT..CONTEXT + SIZE) {
        answer.copy_from_slice(&caps);
    }
    Ok(())
}

fn set(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    if hca.phase == Phase::Ready {
        return Err(Failure::new(Status::BadSystemState, "capabilities are fixed by INIT_HCA"));
    }
    let wanted = input.get(CONTEXT..).and_then(|caps| caps.first_chunk::<SIZE>());
    let wanted = wanted.ok_or(Failure::new(Status::BadInputLength, "no capabilities"))?;
    match header::OP_MOD.get(input) >> 1 {
        GENERAL => {}
        ATOMIC => return set_atomic(hca, wanted),
        _ => return Err(Failure::parameter("capabilities of this type cannot be set")),
    }
    if LIMITS.iter().any(|limit| limit.get(wanted) > limit.get(&hca.caps.offered)) {
        return Err(Failure::parameter("a limit is higher than offered"));
    }
    hca.caps.current = *wanted;
    Ok(())
}

/// Operands lie in memory in the host's byte order: the only mode there is, which a driver may ask for.
fn set_atomic(hca: &mut Hca, wanted: &[u8; SIZE]) -> Result<(), Failure> {
    if atomic::HOST_ENDIANNESS.get(wanted) > 1 {
        return Err(Failure::parameter("no such byte order of atomic operands"));
    }
    atomic::HOST_ENDIANNESS.copy(wanted, &mut hca.caps.atomic);
    Ok(())
}
