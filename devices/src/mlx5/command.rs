//! The command table: which opcodes there are, what they need, and how one is executed.

use super::hca::{Hca, Phase};
use super::layout::commands::header;
use super::status::{Failure, Status};
use super::{admin, caps, cq, eq, mad, mkey, multicast, qp, registers, resources, srq, vport};

/// Executes a command: reads its input, changes the device, fills its output (which begins as zeros).
pub type Handler = fn(&mut Hca, &[u8], &mut [u8]) -> Result<(), Failure>;

/// One command of the firmware interface.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    opcode: u16,
    name: &'static str,
    /// Lowest phase of the device in which the command is accepted.
    phase: Phase,
    run: Handler,
    in_len: usize,
    out_len: usize,
}

impl Command {
    /// A command without input beyond its header and without output beyond its status.
    pub const fn new(opcode: u16, name: &'static str, phase: Phase, run: Handler) -> Self {
        Self { opcode, name, phase, run, in_len: header::IN_LEN, out_len: header::OUT_LEN }
    }

    /// Sets the shortest input and output that the command takes, in bytes.
    pub const fn lengths(self, in_len: usize, out_len: usize) -> Self {
        Self { in_len, out_len, ..self }
    }
}

/// All commands, by the file that implements them.
const COMMANDS: &[&[Command]] = &[
    admin::COMMANDS,
    caps::COMMANDS,
    resources::COMMANDS,
    mkey::COMMANDS,
    eq::COMMANDS,
    cq::COMMANDS,
    qp::COMMANDS,
    srq::COMMANDS,
    multicast::COMMANDS,
    vport::COMMANDS,
    registers::COMMANDS,
    mad::COMMANDS,
];

/// Executes the command in `input`. `out` holds zeros on entry and the command's answer, with status and syndrome, on
/// return.
pub fn execute(hca: &mut Hca, input: &[u8], out: &mut [u8]) {
    let opcode = header::OPCODE.get(input) as u16;
    if let Err(failure) = dispatch(hca, opcode, input, out) {
        log::debug!("mlx5: command {opcode:#05x} failed: {failure}");
        out.fill(0);
        header::STATUS.set(out, failure.status as u64);
        header::SYNDROME.set(out, syndrome(opcode, failure.status));
    }
}

/// Firmware's syndromes are undocumented; ours name the command and the status, so that a log line says something.
fn syndrome(opcode: u16, status: Status) -> u64 {
    u64::from(opcode) << 8 | status as u64
}

fn dispatch(hca: &mut Hca, opcode: u16, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let Some(command) = COMMANDS.iter().copied().flatten().find(|command| command.opcode == opcode) else {
        hca.note_unknown_opcode(opcode);
        return Err(Failure::new(Status::BadOperation, "unknown opcode"));
    };
    log::trace!("mlx5: {} in {} out {}", command.name, input.len(), out.len());
    if input.len() < command.in_len {
        return Err(Failure::new(Status::BadInputLength, "input too short"));
    }
    if out.len() < command.out_len {
        return Err(Failure::new(Status::BadOutputLength, "output too short"));
    }
    if hca.phase < command.phase {
        return Err(Failure::new(Status::BadSystemState, "the device is not initialised so far"));
    }
    (command.run)(hca, input, out)
}

#[cfg(test)]
mod tests {
    use super::COMMANDS;
    use std::collections::BTreeSet;

    #[test]
    fn opcodes_are_unique() {
        let mut seen = BTreeSet::new();
        for command in COMMANDS.iter().copied().flatten() {
            assert!(seen.insert(command.opcode), "{} is listed twice", command.name);
        }
        assert!(seen.len() > 50);
    }
}
