//! Tests of the family as a whole.

mod avx;
mod faults;
mod model;
mod native;
mod xsave;

use crate::block::Op;
use crate::decode::{Lowered, operand};
use crate::state::{Segment, Vcpu, cr0, cr4, efer, seg};
use crate::test_world::TestWorld;
use crate::{Fault, Mode};
use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, EncodingKind};

/// A vCPU in 64-bit mode without paging, with SSE enabled.
fn cpu() -> Vcpu {
    let mut cpu = Vcpu::new(0);
    cpu.cr0 |= cr0::PE | cr0::NE;
    cpu.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
    cpu.efer |= efer::LME | efer::LMA;
    cpu.set_segment(seg::CS, Segment { selector: 8, base: 0, limit: u32::MAX, attr: 0xa09b });
    cpu.update_mode();
    assert!(cpu.mode.is_64());
    cpu
}

/// The operation that this family makes of one instruction in 64-bit mode.
fn lower(bytes: &[u8], mode: Mode) -> (Op<TestWorld>, Lowered) {
    let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
    assert!(!instruction.is_invalid(), "{bytes:x?}");
    let mut op = Op::new(crate::decode::undefined, 0, instruction.len() as u8);
    if operand::has_memory(&instruction) {
        operand::fill_memory(&instruction, mode, 0, &mut op);
    }
    let lowered = super::lower(&instruction, mode, &mut op);
    (op, lowered)
}

/// Executes one instruction.
fn execute(cpu: &mut Vcpu, world: &mut TestWorld, bytes: &[u8]) -> Result<(), Fault> {
    let (op, lowered) = lower(bytes, cpu.mode);
    assert_ne!(lowered, Lowered::No, "{bytes:x?}");
    (op.run)(cpu, world, &op)
}

/// Every instruction form that this family is to implement.
fn forms() -> impl Iterator<Item = Code> {
    const FEATURES: [CpuidFeature; 15] = [
        CpuidFeature::MMX,
        CpuidFeature::SSE,
        CpuidFeature::SSE2,
        CpuidFeature::SSE3,
        CpuidFeature::SSSE3,
        CpuidFeature::SSE4_1,
        CpuidFeature::SSE4_2,
        CpuidFeature::FXSR,
        CpuidFeature::CLFSH,
        CpuidFeature::CLFLUSHOPT,
        CpuidFeature::CLWB,
        CpuidFeature::PREFETCHW,
        CpuidFeature::AES,
        CpuidFeature::PCLMULQDQ,
        CpuidFeature::SHA,
    ];
    // SSE3 also names FISTTP, which is x87, and MONITOR, which has a bit of its own.
    Code::values().filter(|code| {
        let op_code = code.op_code();
        op_code.is_instruction()
            && op_code.encoding() == EncodingKind::Legacy
            && op_code.mode64()
            && !code.mnemonic().eq(&iced_x86::Mnemonic::Fisttp)
            && code.cpuid_features().iter().all(|feature| FEATURES.contains(feature))
            && code.cpuid_features() != [CpuidFeature::SSE, CpuidFeature::CYRIX_FPU]
    })
}

#[test]
fn every_form_is_implemented() {
    let mut count = 0;
    for code in forms() {
        let known = [false, true].iter().any(|memory| super::choose::<TestWorld>(code, *memory, 0).is_some());
        assert!(known, "{code:?}");
        count += 1;
    }
    assert!(count > 400, "{count}");
}
