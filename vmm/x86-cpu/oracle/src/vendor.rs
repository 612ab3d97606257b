//! Where processors of other vendors differ from the Intel processor that the interpreter presents, as far as user code can
//! tell. The table is the only place that knows the host's vendor: what is in it is not compared on such a host, all else is
//! compared everywhere. (What is left open between processors of one vendor too is in [`compare`](crate::compare).)

use crate::compare::{SUMMARY, UNDERFLOW, Undefined};
use crate::generate::{RDI, RSI, RSP, effective_address, linear_address};
use crate::state::{State, Width};
use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic, OpKind, Register};
use std::arch::x86_64::__cpuid;
use std::sync::LazyLock;

/// Maker of the host's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    Intel,
    /// AMD, and Hygon, whose processors are AMD's.
    Amd,
    Other,
}

static HOST: LazyLock<Vendor> = LazyLock::new(|| {
    let leaf = __cpuid(0);
    let mut name = [0; 12];
    for (part, word) in name.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    match &name {
        b"GenuineIntel" => Vendor::Intel,
        b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
        _ => Vendor::Other,
    }
});

/// Maker of this host's processor.
pub fn host() -> Vendor {
    *HOST
}

/// A documented or observed difference.
#[derive(Debug)]
struct Difference {
    /// Whose processors behave unlike Intel's.
    vendor: Vendor,
    /// What they do, and where it is written.
    what: &'static str,
    applies: fn(&Instruction, &State) -> bool,
    /// Opens what may differ.
    open: fn(&mut Undefined, &Instruction, &State),
}

/// Forms that only fault on other vendors' processors, or that fault differently there.
static OTHER_FORMS: &[(Vendor, &str, Width, &[Code])] = &[
    (
        Vendor::Amd,
        "0F 0D with a register is #UD on AMD (APM volume 3, PREFETCH), a no-operation on Intel",
        Width::Bits64,
        RESERVED_NOP_0F0D,
    ),
    (
        Vendor::Amd,
        "0F 0D with a register is #UD on AMD (APM volume 3, PREFETCH), a no-operation on Intel",
        Width::Bits32,
        RESERVED_NOP_0F0D,
    ),
    (
        Vendor::Amd,
        "far pointers with a 64-bit offset exist on Intel only (SDM volume 2, JMP, CALL, LSS)",
        Width::Bits64,
        &[Code::Jmp_m1664, Code::Call_m1664, Code::Lss_r64_m1664, Code::Lfs_r64_m1664, Code::Lgs_r64_m1664],
    ),
    (
        Vendor::Amd,
        "SYSRET in compatibility mode is #UD on Intel (SDM volume 2), legal for the kernel on AMD (APM volume 3)",
        Width::Bits32,
        &[Code::Sysretd],
    ),
];

static RESERVED_NOP_0F0D: &[Code] =
    &[Code::Reservednop_rm16_r16_0F0D, Code::Reservednop_rm32_r32_0F0D, Code::Reservednop_rm64_r64_0F0D];

static PUSH_SEGMENT_32: &[Code] =
    &[Code::Pushd_ES, Code::Pushd_CS, Code::Pushd_SS, Code::Pushd_DS, Code::Pushd_FS, Code::Pushd_GS];

/// A fault of the memory that holds a selector where the interpreter rejects the selector.
const MEMORY_BEFORE_SELECTOR: [(u8, u8); 3] = [(12, 13), (14, 13), (17, 13)];

static DIFFERENCES: &[Difference] = &[
    Difference {
        vendor: Vendor::Amd,
        what: "PUSH of a segment register with a 32-bit operand writes 4 bytes (APM volume 3, PUSH), 2 on Intel (SDM volume 2)",
        applies: |instruction, _| PUSH_SEGMENT_32.contains(&instruction.code()),
        open: |undefined, _, before| {
            let sp = before.gpr[RSP];
            undefined.completed.memory.push(sp.wrapping_sub(2)..sp);
            undefined.excused.extend(Undefined::HOST_FAULTS);
        },
    },
    Difference {
        vendor: Vendor::Amd,
        what: "a fault within repeated CMPS or SCAS leaves the flags of the last comparison; Intel restores those from before \
               (SDM volume 2, REP)",
        applies: |instruction, _| {
            let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
            repeats && (compares(instruction.mnemonic()) || scans(instruction.mnemonic()))
        },
        open: |undefined, instruction, _| undefined.open_flags_at(instruction.ip(), Undefined::ARITHMETIC),
    },
    Difference {
        vendor: Vendor::Amd,
        what: "an x87 store looks at its operand's address before it computes: a memory fault comes before an unmasked \
               numeric exception (observed)",
        applies: |instruction, before| {
            stores_x87(instruction.mnemonic())
                && instruction.op0_kind() == OpKind::Memory
                && !before.fpu.control & 0x3f != 0
        },
        open: |undefined, _, _| undefined.excused.extend(Undefined::HOST_FAULTS),
    },
    Difference {
        vendor: Vendor::Amd,
        what: "an effective address that is not canonical is #GP or #SS, even if the segment base makes it so (observed)",
        applies: |instruction, before| {
            effective_addresses(instruction, before).any(|address| !is_canonical(address))
        },
        open: |undefined, _, _| undefined.either.extend([(13, 14), (12, 14), (13, 17), (12, 17)]),
    },
    Difference {
        vendor: Vendor::Amd,
        what: "FPREM and FPREM1 of a denormal by an infinity raise an unmasked underflow; Intel returns the dividend (observed)",
        applies: |instruction, before| {
            let [dividend, divisor, ..] = before.fpu.st;
            matches!(instruction.mnemonic(), Mnemonic::Fprem | Mnemonic::Fprem1)
                && before.fpu.control & UNDERFLOW == 0
                && dividend >> 64 & 0x7fff == 0
                && divisor >> 64 & 0x7fff == 0x7fff
        },
        open: |undefined, _, _| undefined.open_x87(UNDERFLOW | SUMMARY),
    },
    Difference {
        vendor: Vendor::Amd,
        what: "loading FS or GS with a null selector may leave the base as it was (APM volume 2, 4.5.3); Intel clears it",
        applies: |instruction, _| loads_fs_or_gs(instruction),
        open: |undefined, _, _| undefined.completed.segment_bases = true,
    },
    Difference {
        vendor: Vendor::Amd,
        what: "a far return reads all that an outer one would before it looks at the selector (observed)",
        applies: |instruction, _| instruction.mnemonic() == Mnemonic::Retf,
        open: |undefined, _, _| undefined.either.extend(MEMORY_BEFORE_SELECTOR),
    },
    Difference {
        vendor: Vendor::Amd,
        what: "POP of a segment register reads the whole of its stack slot (observed), not 16 bits only",
        applies: |instruction, _| {
            instruction.mnemonic() == Mnemonic::Pop && instruction.op0_register().is_segment_register()
        },
        open: |undefined, _, _| {
            undefined.either.extend(MEMORY_BEFORE_SELECTOR);
            undefined.excused.extend(Undefined::HOST_FAULTS);
        },
    },
    Difference {
        vendor: Vendor::Amd,
        what: "ARPL checks that its operand can be written only when it writes: never if it changes nothing, and after a \
               page fault of the read (observed)",
        applies: |instruction, _| instruction.mnemonic() == Mnemonic::Arpl,
        open: |undefined, _, _| {
            undefined.excused.extend([(None, Some(13)), (None, Some(14)), (Some(14), Some(13))]);
        },
    },
    Difference {
        vendor: Vendor::Amd,
        what: "MXCSR has bit 17, which is reserved on Intel (APM volume 2, 11.3.1)",
        applies: |instruction, _| {
            matches!(
                instruction.mnemonic(),
                Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr | Mnemonic::Fxrstor | Mnemonic::Fxrstor64
            )
        },
        open: |undefined, _, _| undefined.excused.push((None, Some(13))),
    },
    Difference {
        vendor: Vendor::Amd,
        what: "a compacted XRSTOR that initialises SSE but restores AVX leaves MXCSR alone (observed); Intel initialises it \
               (SDM volume 1, 13.8.2)",
        applies: |instruction, _| matches!(instruction.mnemonic(), Mnemonic::Xrstor | Mnemonic::Xrstor64),
        open: |undefined, _, _| undefined.mxcsr = true,
    },
    Difference {
        vendor: Vendor::Amd,
        what: "MOVSXD with a 16-bit operand reads 32 bits of memory (observed); Intel reads 16 (SDM volume 2, MOVSXD)",
        applies: |instruction, _| instruction.code() == Code::Movsxd_r16_rm16,
        open: |undefined, _, _| undefined.excused.extend(Undefined::HOST_FAULTS),
    },
    Difference {
        vendor: Vendor::Amd,
        what: "the SHA extensions take misaligned operands (observed); #GP on Intel (SDM volume 2, exception type 4)",
        applies: |instruction, before| {
            instruction.cpuid_features() == [CpuidFeature::SHA]
                && linear_address(instruction, before).is_some_and(|address| address % 16 != 0)
        },
        open: |undefined, _, _| undefined.excused.extend([(None, Some(13)), (Some(14), Some(13))]),
    },
    Difference {
        vendor: Vendor::Amd,
        what: "DPPS and DPPD add their products in another order, which shows in whose NaN is returned (SDM volume 2, DPPS: \
               the order is left to the implementation)",
        applies: |instruction, _| {
            matches!(
                instruction.mnemonic(),
                Mnemonic::Dpps | Mnemonic::Dppd | Mnemonic::Vdpps | Mnemonic::Vdppd
            )
        },
        open: |undefined, instruction, _| {
            undefined.nan_lanes =
                if matches!(instruction.mnemonic(), Mnemonic::Dpps | Mnemonic::Vdpps) { 32 } else { 64 };
        },
    },
];

/// The addresses of the memory operands of `instruction` before a segment base is added.
fn effective_addresses(instruction: &Instruction, before: &State) -> impl Iterator<Item = u64> {
    let string = (0..instruction.op_count()).filter_map(|i| match instruction.op_kind(i) {
        OpKind::MemorySegRSI => Some(before.gpr[RSI]),
        OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(before.gpr[RDI]),
        _ => None,
    });
    let bits = bit_string_offset(instruction, before);
    effective_address(instruction, before).map(|address| address.wrapping_add(bits)).into_iter().chain(string)
}

/// How far from its memory operand BT and its kin access the bit that a register names (SDM volume 2, BT).
fn bit_string_offset(instruction: &Instruction, before: &State) -> u64 {
    let tests =
        matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
    if !tests || instruction.op1_kind() != OpKind::Register {
        return 0;
    }
    let value = before.gpr[instruction.op1_register().full_register().number()];
    let size = instruction.memory_size().size() as u64;
    let offset = match size {
        2 => i64::from(value as i16),
        4 => i64::from(value as i32),
        _ => value as i64,
    };
    (offset >> 3) as u64 & !(size - 1)
}

fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

fn loads_fs_or_gs(instruction: &Instruction) -> bool {
    let first = instruction.op0_register();
    matches!(instruction.mnemonic(), Mnemonic::Lfs | Mnemonic::Lgs)
        || matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Pop)
            && matches!(first, Register::FS | Register::GS)
}

fn compares(mnemonic: Mnemonic) -> bool {
    matches!(mnemonic, Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq)
}

fn scans(mnemonic: Mnemonic) -> bool {
    matches!(mnemonic, Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq)
}

fn stores_x87(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Fst
            | Mnemonic::Fstp
            | Mnemonic::Fist
            | Mnemonic::Fistp
            | Mnemonic::Fisttp
            | Mnemonic::Fbstp
    )
}

/// Why `code` is not compared on this host for its vendor, if so.
pub fn exclusion(code: Code, width: Width) -> Option<&'static str> {
    let host = host();
    OTHER_FORMS
        .iter()
        .find(|(vendor, _, in_width, codes)| *vendor == host && *in_width == width && codes.contains(&code))
        .map(|(_, reason, _, _)| *reason)
}

/// Opens in `undefined` what this host does unlike Intel's processors in `instruction` from the state `before`.
pub fn open(undefined: &mut Undefined, instruction: &Instruction, before: &State) {
    let host = host();
    for difference in DIFFERENCES {
        if difference.vendor == host && (difference.applies)(instruction, before) {
            (difference.open)(undefined, instruction, before);
        }
    }
}

/// Whether this host executes `mnemonic` with a LOCK prefix that makes it #UD on Intel: AMD does so with VERW (observed).
pub fn ignores_lock(mnemonic: Mnemonic) -> bool {
    host() == Vendor::Amd && mnemonic == Mnemonic::Verw
}

/// Whether what `code` leaves is the same on this host whatever else is known of it, so that other instructions may follow.
pub fn suits_sequences(code: Code) -> bool {
    host() != Vendor::Amd || code != Code::Movsxd_r16_rm16 && !PUSH_SEGMENT_32.contains(&code)
}

/// The differences that were not compared on this host, one a line.
pub fn summary() -> String {
    let host = host();
    let rules = DIFFERENCES.iter().filter(|rule| rule.vendor == host).map(|rule| rule.what);
    let lines: String = rules.map(|what| format!("  not compared on this host: {what}\n")).collect();
    format!("host's processor: {host:?}\n{lines}")
}
