//! Which instruction forms exist, and which of them are not compared, with the reason.

use crate::state::Width;
use crate::vendor;
use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic};

/// Forms with one of these mnemonics are not compared.
static EXCLUDED_MNEMONICS: &[(&str, &[Mnemonic])] = &[
    (
        "answers with the clock, a random number or the identity of the processor",
        &[
            Mnemonic::Rdtsc,
            Mnemonic::Rdtscp,
            Mnemonic::Rdpid,
            Mnemonic::Rdrand,
            Mnemonic::Rdseed,
            Mnemonic::Cpuid,
            Mnemonic::Rdpmc,
            Mnemonic::Xgetbv,
        ],
    ),
    ("enters the host's kernel", &[Mnemonic::Syscall, Mnemonic::Sysenter]),
    ("tells the tracer that the case has ended", &[Mnemonic::Int1, Mnemonic::Int3]),
    (
        "shows tables or system registers of the host's kernel",
        &[Mnemonic::Sgdt, Mnemonic::Sidt, Mnemonic::Sldt, Mnemonic::Str, Mnemonic::Smsw],
    ),
    ("shadow-stack state of the host's kernel", &[Mnemonic::Rdsspd, Mnemonic::Rdsspq]),
];

/// All forms that the interpreter advertises for code of `width`.
pub fn advertised(width: Width) -> impl Iterator<Item = Code> {
    Code::values().filter(move |code| {
        let info = code.op_code();
        let in_width = match width {
            Width::Bits64 => info.mode64(),
            Width::Bits32 => info.mode32(),
        };
        info.is_instruction()
            && in_width
            && matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
            && x86_cpu::advertises(*code)
    })
}

/// Why `code` is not compared, if it is not.
pub fn exclusion(code: Code, width: Width) -> Option<&'static str> {
    let info = code.op_code();
    let decoded = match width {
        Width::Bits64 => info.intel_decoder64(),
        Width::Bits32 => info.intel_decoder32(),
    };
    if !decoded {
        return Some("not decoded by processors of the advertised vendor");
    }
    let by_mnemonic = EXCLUDED_MNEMONICS.iter().find(|(_, list)| list.contains(&code.mnemonic()));
    by_mnemonic
        .map(|(reason, _)| *reason)
        .or_else(|| vendor::exclusion(code, width))
        .or_else(|| host_lacks(code).then_some("this host's processor does not have it"))
}

/// Whether the form always faults in user mode, so that comparing the fault is all there is to do.
pub fn only_faults(code: Code) -> bool {
    let privileged = matches!(
        code.mnemonic(),
        Mnemonic::Cli | Mnemonic::Sti | Mnemonic::In | Mnemonic::Out | Mnemonic::Hlt
    ) || matches!(
        code.mnemonic(),
        Mnemonic::Insb
            | Mnemonic::Insw
            | Mnemonic::Insd
            | Mnemonic::Outsb
            | Mnemonic::Outsw
            | Mnemonic::Outsd
    );
    // Of the interrupts that user code may raise, one is a breakpoint, which the tracer uses, and one is an error.
    let interrupt = code.mnemonic() == Mnemonic::Int;
    let undefined = matches!(code.mnemonic(), Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2);
    privileged || interrupt || undefined || !code.op_code().cpl3()
}

/// Features that a host of the baseline (x86-64-v2) may lack: whether it does.
fn host_lacks(code: Code) -> bool {
    use iced_x86::CpuidFeature as F;
    use std::arch::x86_64::__cpuid_count;
    let sub = |leaf: u32, subleaf: u32, register: usize, bit: u32| {
        let maximum = __cpuid_count(leaf & 0x8000_0000, 0).eax;
        let answer = __cpuid_count(leaf, subleaf);
        let words = [answer.eax, answer.ebx, answer.ecx, answer.edx];
        leaf <= maximum && words[register] >> bit & 1 != 0
    };
    let bit = |leaf, register, bit| sub(leaf, 0, register, bit);
    let has = |feature: &F| match feature {
        F::MOVBE => bit(1, 2, 22),
        F::AES => bit(1, 2, 25),
        F::PCLMULQDQ => bit(1, 2, 1),
        F::XSAVE => bit(1, 2, 27),
        F::XSAVEOPT => bit(1, 2, 27) && sub(0xd, 1, 0, 0),
        F::XSAVEC => bit(1, 2, 27) && sub(0xd, 1, 0, 1),
        F::FSGSBASE => user_may_set_bases(),
        F::BMI1 => bit(7, 1, 3),
        F::BMI2 => bit(7, 1, 8),
        F::ADX => bit(7, 1, 19),
        F::CLFLUSHOPT => bit(7, 1, 23),
        F::CLWB => bit(7, 1, 24),
        F::SHA => bit(7, 1, 29),
        F::FMA => bit(1, 2, 12),
        F::AVX => bit(1, 2, 28),
        F::F16C => bit(1, 2, 29),
        F::AVX2 => bit(7, 1, 5),
        F::LZCNT => bit(0x8000_0001, 2, 5),
        F::PREFETCHW => bit(0x8000_0001, 2, 8),
        _ => true,
    };
    !code.cpuid_features().iter().all(has)
}

/// Whether the host's kernel lets user code change the bases of FS and GS.
fn user_may_set_bases() -> bool {
    crate::native::auxiliary_capabilities() & 2 != 0
}

/// The extension a form belongs to, for the report.
pub fn extension(code: Code) -> String {
    let features: Vec<String> = code
        .cpuid_features()
        .iter()
        .map(|feature| match feature {
            CpuidFeature::INTEL8086
            | CpuidFeature::INTEL186
            | CpuidFeature::INTEL286
            | CpuidFeature::INTEL386
            | CpuidFeature::INTEL486 => "base".to_owned(),
            CpuidFeature::X64 => "base, 64-bit".to_owned(),
            CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387 => "x87".to_owned(),
            other => format!("{other:?}"),
        })
        .collect();
    features.join("+")
}
