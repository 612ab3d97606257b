//! CPUID: what this CPU says it is, and which instructions it therefore has.
//!
//! One table, [`FEATURES`], is the source of the feature bits and of [`implements`]: an instruction whose feature is not
//! in it raises #UD, and a bit that is not in it reads 0.

use crate::encryption;
use crate::exec::sse::xsave::{AVX_OFFSET, AVX_SIZE, image_size};
use crate::memory::paging::PHYSICAL_BITS;
use crate::state::{Vcpu, cr4, xcr0};
use iced_x86::{Code, CpuidFeature, DecoderOptions, Instruction};
use std::sync::LazyLock;

/// Family, model and stepping, as in CPUID leaf 1 EAX: family 6, model 173 (a server of 2024), so that kernels take none
/// of the workarounds of older parts.
pub(crate) const SIGNATURE: u32 = 0x000a_06d1;
/// Core crystal clock, Hz: the local APIC timer counts it. As fast as the TSC, so that kernels which wait for a timer count
/// of the usual size do not execute for long, and as KVM's is.
pub const CRYSTAL_HZ: u32 = 1_000_000_000;
/// Time stamp counter ticks for each tick of the crystal.
pub const TSC_PER_CRYSTAL: u32 = 1;
const VENDOR: [u32; 3] = text(b"GenuineIntel");
const HYPERVISOR: [u32; 3] = text(b"Staleline\0\0\0");
const BRAND: &[u8; 48] = b"Staleline x86-64 virtual processor @ 1.00GHz\0\0\0\0";
const MAX_BASIC: u32 = 0x1f;
/// The first of the hypervisor's leaves.
const HYPERVISOR_LEAF: u32 = 0x4000_0000;
const MAX_EXTENDED: u32 = 0x8000_0008;
/// With memory encryption: [`encryption::CPUID_LEAF`].
const MAX_EXTENDED_SEV: u32 = 0x8000_001f;
/// The hypervisor's leaves with memory encryption. Linux guests tell none but KVM of the pages that they share.
const KVM: [u32; 3] = text(b"KVMKVMKVM\0\0\0");
const KVM_FEATURES: u32 = 0x4000_0001;
/// KVM_FEATURE_HC_MAP_GPA_RANGE and KVM_FEATURE_MIGRATION_CONTROL, without which Linux does not use the former.
const KVM_FEATURE_BITS: u32 = 1 << 16 | 1 << 17;
const LINEAR_BITS: u32 = 48;

/// Quirks of the decoder that follow from the features: WBNOINVD is WBINVD without its bit.
pub(crate) const DECODER_OPTIONS: u32 = DecoderOptions::NO_WBNOINVD;

/// A register of a leaf that holds feature bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Leaf1Ecx,
    Leaf1Edx,
    Leaf6Eax,
    Leaf7Ebx,
    Leaf7Ecx,
    Leaf7Edx,
    Leaf7Subleaf2Edx,
    LeafDSubleaf1Eax,
    Extended1Ecx,
    Extended1Edx,
    Extended7Edx,
}

/// A feature bit, and the instruction groups of the decoder that it stands for.
struct Feature {
    word: Word,
    bit: u32,
    groups: &'static [CpuidFeature],
}

const fn bit(word: Word, bit: u32) -> Feature {
    Feature { word, bit, groups: &[] }
}

const fn group(word: Word, bit: u32, groups: &'static [CpuidFeature]) -> Feature {
    Feature { word, bit, groups }
}

/// Everything advertised (SDM volume 2, CPUID).
static FEATURES: &[Feature] = &[
    group(Word::Leaf1Edx, 0, &[CpuidFeature::FPU, CpuidFeature::FPU287, CpuidFeature::FPU387]),
    bit(Word::Leaf1Edx, 2), // DE
    bit(Word::Leaf1Edx, 3), // PSE
    group(Word::Leaf1Edx, 4, &[CpuidFeature::TSC]),
    group(Word::Leaf1Edx, 5, &[CpuidFeature::MSR]),
    bit(Word::Leaf1Edx, 6), // PAE
    bit(Word::Leaf1Edx, 7), // MCE
    group(Word::Leaf1Edx, 8, &[CpuidFeature::CX8]),
    bit(Word::Leaf1Edx, 9), // APIC
    group(Word::Leaf1Edx, 11, &[CpuidFeature::SEP]),
    bit(Word::Leaf1Edx, 12), // MTRR
    bit(Word::Leaf1Edx, 13), // PGE
    bit(Word::Leaf1Edx, 14), // MCA
    group(Word::Leaf1Edx, 15, &[CpuidFeature::CMOV]),
    bit(Word::Leaf1Edx, 16), // PAT
    bit(Word::Leaf1Edx, 17), // PSE-36
    group(Word::Leaf1Edx, 19, &[CpuidFeature::CLFSH]),
    group(Word::Leaf1Edx, 23, &[CpuidFeature::MMX]),
    group(Word::Leaf1Edx, 24, &[CpuidFeature::FXSR]),
    group(Word::Leaf1Edx, 25, &[CpuidFeature::SSE]),
    group(Word::Leaf1Edx, 26, &[CpuidFeature::SSE2]),
    group(Word::Leaf1Ecx, 0, &[CpuidFeature::SSE3]),
    group(Word::Leaf1Ecx, 1, &[CpuidFeature::PCLMULQDQ]),
    group(Word::Leaf1Ecx, 9, &[CpuidFeature::SSSE3]),
    group(Word::Leaf1Ecx, 12, &[CpuidFeature::FMA]),
    group(Word::Leaf1Ecx, 13, &[CpuidFeature::CMPXCHG16B]),
    bit(Word::Leaf1Ecx, 17), // PCID
    group(Word::Leaf1Ecx, 19, &[CpuidFeature::SSE4_1]),
    group(Word::Leaf1Ecx, 20, &[CpuidFeature::SSE4_2]),
    bit(Word::Leaf1Ecx, 21), // x2APIC
    group(Word::Leaf1Ecx, 22, &[CpuidFeature::MOVBE]),
    group(Word::Leaf1Ecx, 23, &[CpuidFeature::POPCNT]),
    bit(Word::Leaf1Ecx, 24), // TSC deadline timer
    group(Word::Leaf1Ecx, 25, &[CpuidFeature::AES]),
    group(Word::Leaf1Ecx, 26, &[CpuidFeature::XSAVE]),
    group(Word::Leaf1Ecx, 28, &[CpuidFeature::AVX]),
    group(Word::Leaf1Ecx, 29, &[CpuidFeature::F16C]),
    group(Word::Leaf1Ecx, 30, &[CpuidFeature::RDRAND]),
    // A hypervisor of no known kind: kernels then leave microcode, uncore and idle-state hardware alone.
    bit(Word::Leaf1Ecx, 31),
    bit(Word::Leaf6Eax, 2), // ARAT
    group(Word::Leaf7Ebx, 0, &[CpuidFeature::FSGSBASE]),
    bit(Word::Leaf7Ebx, 1), // TSC_ADJUST
    group(Word::Leaf7Ebx, 3, &[CpuidFeature::BMI1]),
    group(Word::Leaf7Ebx, 5, &[CpuidFeature::AVX2]),
    bit(Word::Leaf7Ebx, 6), // x87 data pointer written on exceptions only
    bit(Word::Leaf7Ebx, 7), // SMEP
    group(Word::Leaf7Ebx, 8, &[CpuidFeature::BMI2]),
    bit(Word::Leaf7Ebx, 9), // ERMS
    group(Word::Leaf7Ebx, 10, &[CpuidFeature::INVPCID]),
    bit(Word::Leaf7Ebx, 13), // FCS and FDS deprecated
    group(Word::Leaf7Ebx, 18, &[CpuidFeature::RDSEED]),
    group(Word::Leaf7Ebx, 19, &[CpuidFeature::ADX]),
    group(Word::Leaf7Ebx, 20, &[CpuidFeature::SMAP]),
    group(Word::Leaf7Ebx, 23, &[CpuidFeature::CLFLUSHOPT]),
    group(Word::Leaf7Ebx, 24, &[CpuidFeature::CLWB]),
    group(Word::Leaf7Ebx, 29, &[CpuidFeature::SHA]),
    bit(Word::Leaf7Ecx, 2), // UMIP
    group(Word::Leaf7Ecx, 22, &[CpuidFeature::RDPID]),
    bit(Word::Leaf7Edx, 4),         // FSRM
    bit(Word::Leaf7Edx, 26),        // IBRS and IBPB
    bit(Word::Leaf7Edx, 29),        // IA32_ARCH_CAPABILITIES
    bit(Word::Leaf7Subleaf2Edx, 4), // BHI_DIS_S: kernels then clear no branch history in software
    group(Word::LeafDSubleaf1Eax, 0, &[CpuidFeature::XSAVEOPT]),
    group(Word::LeafDSubleaf1Eax, 1, &[CpuidFeature::XSAVEC]),
    bit(Word::LeafDSubleaf1Eax, 2), // XGETBV with ECX = 1
    bit(Word::Extended1Ecx, 0),     // LAHF and SAHF in 64-bit mode
    group(Word::Extended1Ecx, 5, &[CpuidFeature::LZCNT]),
    group(Word::Extended1Ecx, 8, &[CpuidFeature::PREFETCHW]),
    group(Word::Extended1Edx, 11, &[CpuidFeature::SYSCALL]),
    bit(Word::Extended1Edx, 20), // NX
    bit(Word::Extended1Edx, 26), // 1 GiB pages
    group(Word::Extended1Edx, 27, &[CpuidFeature::RDTSCP]),
    group(Word::Extended1Edx, 29, &[CpuidFeature::X64]),
    bit(Word::Extended7Edx, 8), // invariant TSC
];

/// Instruction groups that need no bit, or whose instructions are hints that execute as NOP without it.
static BASELINE: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::CPUID,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::RDPMC,
    CpuidFeature::PREFETCHWT1,
    CpuidFeature::PREFETCHITI,
    CpuidFeature::CLDEMOTE,
    CpuidFeature::CET_IBT,
];

static GROUPS: LazyLock<[bool; 256]> = LazyLock::new(|| {
    let mut groups = [false; 256];
    for group in BASELINE.iter().chain(FEATURES.iter().flat_map(|feature| feature.groups)) {
        if let Some(entry) = groups.get_mut(*group as usize) {
            *entry = true;
        }
    }
    groups
});

/// Whether CPUID advertises what `instruction` needs.
pub(crate) fn implements(instruction: &Instruction) -> bool {
    match instruction.code() {
        // Of the shadow-stack group only this one is a NOP on CPUs without it.
        Code::Rdsspd_r32 | Code::Rdsspq_r64 => true,
        _ => instruction.cpuid_features().iter().all(|group| GROUPS.get(*group as usize) == Some(&true)),
    }
}

const fn text(bytes: &[u8; 12]) -> [u32; 3] {
    let mut words = [0; 3];
    let mut i = 0;
    while i < 12 {
        words[i / 4] |= (bytes[i] as u32) << (i % 4 * 8);
        i += 1;
    }
    words
}

fn features(word: Word) -> u32 {
    FEATURES.iter().filter(|feature| feature.word == word).fold(0, |bits, feature| bits | 1 << feature.bit)
}

/// Bits of an APIC id below the package, for `count` logical processors.
fn topology_shift(count: u32) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

/// Deterministic cache parameters (leaf 4): type, level, ways, sets, shared by all cores.
const CACHES: [(u32, u32, u32, u32, bool); 4] =
    [(1, 1, 8, 64, false), (2, 1, 8, 64, false), (3, 2, 16, 1024, false), (3, 3, 16, 16384, true)];
const LINE: u32 = 64;

fn cache_leaf(subleaf: u32, count: u32) -> [u32; 4] {
    let Some((kind, level, ways, sets, shared)) = CACHES.get(subleaf as usize) else {
        return [0; 4];
    };
    let ids = 1_u32 << topology_shift(count).min(6);
    let sharing = if *shared { ids - 1 } else { 0 };
    let eax = kind | level << 5 | 1 << 8 | sharing << 14 | (ids - 1) << 26;
    [eax, (ways - 1) << 22 | (LINE - 1), sets - 1, 0]
}

fn topology_leaf(subleaf: u32, id: u32, count: u32) -> [u32; 4] {
    match subleaf {
        0 => [0, 1, 1 << 8, id],
        1 => [topology_shift(count), count.max(1), 2 << 8 | 1, id],
        _ => [0, 0, subleaf & 0xff, id],
    }
}

impl Vcpu {
    /// CPUID leaf `leaf`, subleaf `subleaf`: EAX, EBX, ECX, EDX.
    #[must_use]
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        match leaf {
            0x4000_0000..=0x4fff_ffff => match leaf {
                HYPERVISOR_LEAF if self.sev => [KVM_FEATURES, KVM[0], KVM[1], KVM[2]],
                HYPERVISOR_LEAF => [HYPERVISOR_LEAF, HYPERVISOR[0], HYPERVISOR[1], HYPERVISOR[2]],
                KVM_FEATURES if self.sev => [KVM_FEATURE_BITS, 0, 0, 0],
                _ => [0; 4],
            },
            0x8000_0000..=MAX_EXTENDED_SEV if leaf <= self.max_extended() => self.extended_leaf(leaf),
            // A leaf beyond the maximum answers as the highest basic leaf (SDM volume 2, CPUID).
            _ => self.basic_leaf(leaf.min(self.max_basic()), subleaf),
        }
    }

    fn max_basic(&self) -> u32 {
        if self.msr.limits_cpuid() { 2 } else { MAX_BASIC }
    }

    fn max_extended(&self) -> u32 {
        if self.sev { MAX_EXTENDED_SEV } else { MAX_EXTENDED }
    }

    fn basic_leaf(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        match leaf {
            0 => [self.max_basic(), VENDOR[0], VENDOR[2], VENDOR[1]],
            1 => {
                let ids = 1_u32 << topology_shift(self.count).min(7);
                let multiple = u32::from(self.count > 1);
                // Bit 27 mirrors CR4.
                let osxsave = if self.cr4 & cr4::OSXSAVE != 0 { 1 << 27 } else { 0 };
                [
                    SIGNATURE,
                    self.id << 24 | ids << 16 | (LINE / 8) << 8,
                    features(Word::Leaf1Ecx) | osxsave,
                    features(Word::Leaf1Edx) | multiple << 28,
                ]
            }
            // Caches are described by leaf 4; the prefetch size is 64 bytes.
            2 => [0x00ff_0001, 0xf0, 0, 0],
            4 => cache_leaf(subleaf, self.count),
            6 => [features(Word::Leaf6Eax), 0, 0, 0],
            7 if subleaf == 0 => {
                [2, features(Word::Leaf7Ebx), features(Word::Leaf7Ecx), features(Word::Leaf7Edx)]
            }
            7 if subleaf == 2 => [0, 0, 0, features(Word::Leaf7Subleaf2Edx)],
            0xd => self.state_leaf(subleaf),
            0xb | 0x1f => topology_leaf(subleaf, self.id, self.count),
            0x15 => [1, TSC_PER_CRYSTAL, CRYSTAL_HZ, 0],
            0x16 => [1000, 1000, 100, 0],
            _ => [0; 4],
        }
    }

    /// Processor extended state (SDM volume 1, 13.2).
    fn state_leaf(&self, subleaf: u32) -> [u32; 4] {
        let size = |components| image_size(components) as u32;
        match subleaf {
            0 => [xcr0::SUPPORTED as u32, size(self.xcr0), size(xcr0::SUPPORTED), 0],
            1 => [features(Word::LeafDSubleaf1Eax), size(self.xcr0), 0, 0],
            2 => [AVX_SIZE as u32, AVX_OFFSET as u32, 0, 0],
            _ => [0; 4],
        }
    }

    fn extended_leaf(&self, leaf: u32) -> [u32; 4] {
        match leaf {
            0x8000_0000 => [self.max_extended(), 0, 0, 0],
            0x8000_0001 => {
                let syscall = if self.mode.is_64() { 0 } else { 1 << 11 };
                let nx = if self.msr.disables_nx() { 1 << 20 } else { 0 };
                [0, 0, features(Word::Extended1Ecx), features(Word::Extended1Edx) & !(syscall | nx)]
            }
            0x8000_0002..=0x8000_0004 => {
                let start = (leaf - 0x8000_0002) as usize * 16;
                std::array::from_fn(|i| {
                    (0..4).fold(0, |word, j| {
                        let byte = BRAND.get(start + i * 4 + j).copied().unwrap_or(0);
                        word | u32::from(byte) << (j * 8)
                    })
                })
            }
            // L2: 1 MiB, 16 ways.
            0x8000_0006 => [0, 0, 1024 << 16 | 8 << 12 | LINE, 0],
            0x8000_0007 => [0, 0, 0, features(Word::Extended7Edx)],
            0x8000_0008 => [PHYSICAL_BITS | LINEAR_BITS << 8, 0, 0, 0],
            MAX_EXTENDED_SEV => encryption::CPUID_LEAF,
            _ => [0; 4],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn decode(bytes: &[u8]) -> Instruction {
        Decoder::new(64, bytes, DecoderOptions::NONE).decode()
    }

    #[test]
    fn features_gate_instructions() {
        assert!(implements(&decode(&[0x90])));
        assert!(implements(&decode(&[0x0f, 0x05])), "SYSCALL");
        assert!(implements(&decode(&[0xf3, 0x0f, 0x1e, 0xfa])), "ENDBR64 is a NOP");
        assert!(implements(&decode(&[0x66, 0x0f, 0x38, 0x17, 0xc1])), "PTEST");
        assert!(implements(&decode(&[0xc5, 0xf8, 0x77])), "VZEROUPPER");
        assert!(!implements(&decode(&[0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1])), "VADDPS of 512 bits");
        assert!(!implements(&decode(&[0x0f, 0x01, 0xc8])), "MONITOR");
        assert!(!implements(&decode(&[0x0f, 0x01, 0xc1])), "VMCALL");
    }

    #[test]
    fn leaves_are_consistent() {
        let mut cpu = Vcpu::new(2);
        cpu.count = 3;
        let [max, ebx, ecx, edx] = cpu.cpuid(0, 0);
        assert_eq!(max, MAX_BASIC);
        let vendor: Vec<u8> = [ebx, edx, ecx].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(vendor, b"GenuineIntel");
        assert_eq!(cpu.cpuid(1, 0)[1] >> 24, 2);
        assert_eq!(cpu.cpuid(0xb, 1), [2, 3, 0x201, 2]);
        assert_eq!(cpu.cpuid(4, 3)[0] >> 14 & 0xfff, 3);
        assert_eq!(cpu.cpuid(0x15, 0)[2] * TSC_PER_CRYSTAL, 1_000_000_000);
        assert_eq!(cpu.cpuid(0x4000_0000, 0)[1].to_le_bytes(), *b"Stal");
        assert_eq!(cpu.cpuid(0x8000_0001, 0)[3] >> 11 & 1, 0, "SYSCALL is there in 64-bit mode only");
        let brand: Vec<u8> = (0x8000_0002..=0x8000_0004)
            .flat_map(|leaf| cpu.cpuid(leaf, 0))
            .flat_map(u32::to_le_bytes)
            .collect();
        assert_eq!(brand, BRAND);
    }
}
