//! Management datagrams that the driver passes to the device (MAD_IFC). Of the management classes only performance
//! management answers, with counters that stand at zero.

use super::command::Command;
use super::field::Field;
use super::hca::{Hca, Phase};
use super::layout::commands::CONTEXT;
use super::status::Failure;

pub const COMMANDS: &[Command] =
    &[Command::new(0x50d, "MAD_IFC", Phase::Ready, mad_ifc).lengths(CONTEXT + MAD_LEN, CONTEXT + MAD_LEN)];

const MAD_LEN: usize = 256;

/// Common MAD header (IBA 13.4.2).
const BASE_VERSION: Field = Field::at(0, 8);
const MANAGEMENT_CLASS: Field = Field::at(8, 8);
const CLASS_VERSION: Field = Field::at(16, 8);
const METHOD: Field = Field::at(24, 8);
const STATUS: Field = Field::at(32, 16);
const TRANSACTION_ID: Field = Field::at(64, 64);
const ATTRIBUTE_ID: Field = Field::at(128, 16);
const ATTRIBUTE_MODIFIER: Field = Field::at(160, 32);

/// Byte where a performance management attribute begins (IBA 16.1.2).
const DATA: u32 = 64;
/// ClassPortInfo: versions; the time to respond is 4.096 µs times 2 to the power of the low 5 bits.
const INFO_BASE_VERSION: Field = Field::at(0, 8).within(DATA);
const INFO_CLASS_VERSION: Field = Field::at(8, 8).within(DATA);
const INFO_RESPONSE_TIME: Field = Field::at(59, 5).within(DATA);
/// PortCounters: the port they belong to.
const COUNTERS_PORT: Field = Field::at(8, 8).within(DATA);

const CLASS_PERFORMANCE: u64 = 0x04;
const METHOD_GET: u64 = 0x01;
const METHOD_SET: u64 = 0x02;
const METHOD_GET_RESPONSE: u64 = 0x81;
const CLASS_PORT_INFO: u64 = 0x01;
const PORT_COUNTERS: u64 = 0x12;
const PORT_COUNTERS_EXTENDED: u64 = 0x1d;
/// Status: method and attribute do not go together (IBA 13.4.7).
const UNSUPPORTED_ATTRIBUTE: u64 = 3 << 2;
const RESPONSE_TIME: u64 = 18;
const VERSION: u64 = 1;

fn mad_ifc(_hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let request = input.get(CONTEXT..).unwrap_or_default();
    let response = out.get_mut(CONTEXT..).unwrap_or_default();
    if MANAGEMENT_CLASS.get(request) != CLASS_PERFORMANCE {
        return Err(Failure::parameter("unsupported management class"));
    }
    for field in
        [BASE_VERSION, MANAGEMENT_CLASS, CLASS_VERSION, TRANSACTION_ID, ATTRIBUTE_ID, ATTRIBUTE_MODIFIER]
    {
        field.copy(request, response);
    }
    METHOD.set(response, METHOD_GET_RESPONSE);
    match (METHOD.get(request), ATTRIBUTE_ID.get(request)) {
        (METHOD_GET, CLASS_PORT_INFO) => {
            INFO_BASE_VERSION.set(response, VERSION);
            INFO_CLASS_VERSION.set(response, VERSION);
            INFO_RESPONSE_TIME.set(response, RESPONSE_TIME);
        }
        (METHOD_GET | METHOD_SET, PORT_COUNTERS | PORT_COUNTERS_EXTENDED) => {
            COUNTERS_PORT.copy(request, response);
        }
        _ => STATUS.set(response, UNSUPPORTED_ATTRIBUTE),
    }
    Ok(())
}
