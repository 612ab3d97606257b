//! Model-specific registers (SDM volume 4, chapter 2).

use crate::encryption::SEV_STATUS;
use crate::fault::Fault;
use crate::memory::access::is_canonical;
use crate::memory::paging::PHYSICAL_BITS;
use crate::state::{Vcpu, cr0, efer, seg};
use crate::world::{Shown, World};
use serde::{Deserialize, Serialize};

/// Indices of the registers known here.
pub(crate) mod index {
    pub const TSC: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1b;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const PPIN_CTL: u32 = 0x4e;
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const MTRRCAP: u32 = 0xfe;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const MISC_FEATURES_ENABLES: u32 = 0x140;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const MTRR_VARIABLE: u32 = 0x200;
    pub const MTRR_VARIABLE_END: u32 = 0x20f;
    pub const MTRR_FIX64K: u32 = 0x250;
    pub const MTRR_FIX16K: u32 = 0x258;
    pub const MTRR_FIX16K_END: u32 = 0x259;
    pub const MTRR_FIX4K: u32 = 0x268;
    pub const MTRR_FIX4K_END: u32 = 0x26f;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC: u32 = 0x800;
    pub const X2APIC_END: u32 = 0x8ff;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const FMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const SEV_STATUS: u32 = 0xc001_0131;
    /// KVM's: whether the guest has said what is to be known to move it to another host.
    pub const MIGRATION_CONTROL: u32 = 0x4b56_4d08;
}

/// Registers that kernels probe for on this model and that are absent: not worth a log line.
const KNOWN_ABSENT: &[u32] = &[
    0x33,  // TEST_CTRL
    0x34,  // SMI_COUNT
    0x122, // TSX_CTRL
    0x123, // MCU_OPT_CTRL
    0x606, // RAPL_POWER_UNIT
    0x64e, // PPERF
];

/// The vulnerabilities that this engine does not have (IA32_ARCH_CAPABILITIES): RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY,
/// SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
const ARCH_CAPABILITIES: u64 = 1 << 0
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;
/// Later than any update that kernels ask for.
const MICROCODE_REVISION: u64 = 0x7f00_0000 << 32;
/// Fast strings; branch trace storage and precise sampling unavailable.
const MISC_ENABLE_RESET: u64 = 1 << 0 | 1 << 11 | 1 << 12;
/// IA32_MISC_ENABLE: CPUID reports no leaf above 2.
const LIMIT_CPUID: u64 = 1 << 22;
/// IA32_MISC_ENABLE: there is no NX.
const DISABLE_NX: u64 = 1 << 34;
/// The bits of MISC_ENABLE that software may change: fast strings, and those of thermal control, SpeedStep, MONITOR and
/// xTPR, which have no effect here.
const MISC_ENABLE_WRITABLE: u64 = 1 << 0 | 1 << 3 | 1 << 16 | 1 << 18 | LIMIT_CPUID | 1 << 23 | DISABLE_NX;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// Locked, with neither VMX nor SGX enabled.
const FEATURE_CONTROL: u64 = 1;
/// Base ratio 10 of 100 MHz.
const PLATFORM_INFO: u64 = 10 << 8;
const PPIN_LOCKED: u64 = 1;
/// Distinct registers reported in the log at most.
const MAX_REPORTED: usize = 64;

/// Memory types (SDM volume 3, table 12-2).
const UNCACHEABLE: u64 = 0;
const WRITE_BACK: u64 = 6;

/// Number of variable MTRRs.
const VARIABLE_RANGES: usize = 8;

/// Memory type range registers (SDM volume 3, 12.11). Their reset state here is what firmware leaves: enabled, all of
/// memory write-back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mtrrs {
    /// IA32_MTRR_DEF_TYPE.
    pub default_type: u64,
    /// Pairs of PHYSBASE and PHYSMASK.
    pub variable: [[u64; 2]; VARIABLE_RANGES],
    /// 64K_00000, 16K_80000, 16K_A0000, 4K_C0000 to 4K_F8000.
    pub fixed: [u64; 11],
}

const ALL_WRITE_BACK: u64 = 0x0606_0606_0606_0606;

impl Default for Mtrrs {
    fn default() -> Self {
        let mut fixed = [ALL_WRITE_BACK; 11];
        // The legacy video window, 640 KiB to 768 KiB.
        fixed[2] = 0;
        Self { default_type: 1 << 11 | 1 << 10 | WRITE_BACK, variable: [[0; 2]; VARIABLE_RANGES], fixed }
    }
}

impl Mtrrs {
    /// Makes `[base, base + size)` uncacheable by the variable ranges still free. Returns false if they do not suffice;
    /// the ranges set so far stay.
    pub fn set_uncacheable(&mut self, mut base: u64, mut size: u64) -> bool {
        for range in &mut self.variable {
            if size == 0 {
                break;
            }
            if range[1] != 0 {
                continue;
            }
            // The largest power of two that is aligned and fits.
            let fit = 1 << size.ilog2();
            let piece = if base == 0 { fit } else { fit.min(1 << base.trailing_zeros()) };
            let mask = ((1 << PHYSICAL_BITS) - 1) & !(piece - 1);
            *range = [base | UNCACHEABLE, mask | 1 << 11];
            base += piece;
            size -= piece;
        }
        size == 0
    }

    /// Index and value of every register, for a processor with `physical_bits` address bits: a range that begins beyond
    /// what it can address is left out, a mask ends with its addresses.
    pub fn registers(&self, physical_bits: u32) -> impl Iterator<Item = (u32, u64)> {
        let implemented = (1_u64 << physical_bits.min(PHYSICAL_BITS)) - 1;
        let variable =
            (index::MTRR_VARIABLE..).step_by(2).zip(self.variable).flat_map(move |(index, pair)| {
                let [base, mask] = if pair[0] <= implemented { pair } else { [0; 2] };
                [(index, base), (index + 1, mask & implemented)]
            });
        let fixed = [index::MTRR_FIX64K]
            .into_iter()
            .chain(index::MTRR_FIX16K..=index::MTRR_FIX16K_END)
            .chain(index::MTRR_FIX4K..=index::MTRR_FIX4K_END)
            .zip(self.fixed);
        variable.chain(fixed).chain([(index::MTRR_DEF_TYPE, self.default_type)])
    }

    fn fixed_slot(index: u32) -> Option<usize> {
        match index {
            index::MTRR_FIX64K => Some(0),
            index::MTRR_FIX16K..=index::MTRR_FIX16K_END => Some((index - index::MTRR_FIX16K) as usize + 1),
            index::MTRR_FIX4K..=index::MTRR_FIX4K_END => Some((index - index::MTRR_FIX4K) as usize + 3),
            _ => None,
        }
    }

    fn read(&self, index: u32) -> Option<u64> {
        match index {
            // Write-combining, fixed ranges, and the number of variable ones.
            index::MTRRCAP => Some(1 << 10 | 1 << 8 | VARIABLE_RANGES as u64),
            index::MTRR_DEF_TYPE => Some(self.default_type),
            index::MTRR_VARIABLE..=index::MTRR_VARIABLE_END => {
                let at = index - index::MTRR_VARIABLE;
                Some(self.variable[(at / 2) as usize][(at & 1) as usize])
            }
            _ => self.fixed.get(Self::fixed_slot(index)?).copied(),
        }
    }

    fn write(&mut self, index: u32, value: u64) -> Option<()> {
        let valid = |kind: u64| matches!(kind, 0 | 1 | 4 | 5 | 6);
        let address_bits = (1 << PHYSICAL_BITS) - 1;
        match index {
            index::MTRR_DEF_TYPE => {
                if value & !0xcff != 0 || !valid(value & 0xff) {
                    return None;
                }
                self.default_type = value;
            }
            index::MTRR_VARIABLE..=index::MTRR_VARIABLE_END => {
                let at = index - index::MTRR_VARIABLE;
                let is_mask = at & 1 == 1;
                let reserved = if is_mask { value & 0x7ff } else { value & 0xf00 };
                if reserved != 0 || value & !address_bits != 0 || (!is_mask && !valid(value & 0xff)) {
                    return None;
                }
                self.variable[(at / 2) as usize][(at & 1) as usize] = value;
            }
            _ => {
                let slot = self.fixed.get_mut(Self::fixed_slot(index)?)?;
                if !value.to_le_bytes().into_iter().all(|kind| valid(u64::from(kind))) {
                    return None;
                }
                *slot = value;
            }
        }
        Some(())
    }
}

/// The model-specific registers that are the CPU's own state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub tsc_aux: u32,
    pub tsc_adjust: i64,
    pub mtrr: Mtrrs,
    pub spec_ctrl: u64,
    pub misc_enable: u64,
    pub debug_ctl: u64,
    pub mcg_status: u64,
    /// Registers that do not exist and were accessed: each is reported once.
    reported: Vec<u32>,
}

impl Default for Msrs {
    fn default() -> Self {
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            pat: PAT_RESET,
            tsc_aux: 0,
            tsc_adjust: 0,
            mtrr: Mtrrs::default(),
            spec_ctrl: 0,
            misc_enable: MISC_ENABLE_RESET,
            debug_ctl: 0,
            mcg_status: 0,
            reported: Vec::new(),
        }
    }
}

/// IA32_DEBUGCTL.BTF: the trap flag steps from branch to branch.
const BRANCH_STEP: u64 = 1 << 1;

impl Msrs {
    /// Whether single steps go from branch to branch (IA32_DEBUGCTL.BTF).
    pub(crate) fn steps_branches(&self) -> bool {
        self.debug_ctl & BRANCH_STEP != 0
    }
    /// Whether CPUID is to report no leaf above 2.
    pub(crate) fn limits_cpuid(&self) -> bool {
        self.misc_enable & LIMIT_CPUID != 0
    }
    /// Whether NX is hidden and cannot be enabled.
    pub(crate) fn disables_nx(&self) -> bool {
        self.misc_enable & DISABLE_NX != 0
    }
}

impl Vcpu {
    /// The time stamp counter at the running instruction: one tick is one instruction retired and 1 ns of virtual time.
    #[must_use]
    pub fn time_stamp(&self) -> u64 {
        self.now().wrapping_add_signed(self.msr.tsc_adjust)
    }

    /// RDMSR, without the privilege check.
    ///
    /// # Errors
    /// #GP(0) for a register that does not exist or cannot be read.
    pub(crate) fn read_msr<W: World>(&mut self, world: &mut W, index: u32) -> Result<u64, Fault> {
        let value = match index {
            index::TSC => Some(self.time_stamp()),
            index::TSC_ADJUST => Some(self.msr.tsc_adjust as u64),
            index::TSC_AUX => Some(u64::from(self.msr.tsc_aux)),
            index::EFER => Some(self.efer),
            index::STAR => Some(self.msr.star),
            index::LSTAR => Some(self.msr.lstar),
            index::CSTAR => Some(self.msr.cstar),
            index::FMASK => Some(self.msr.fmask),
            index::FS_BASE => Some(self.segs[seg::FS].base),
            index::GS_BASE => Some(self.segs[seg::GS].base),
            index::KERNEL_GS_BASE => Some(self.msr.kernel_gs_base),
            index::SYSENTER_CS => Some(self.msr.sysenter_cs),
            index::SYSENTER_ESP => Some(self.msr.sysenter_esp),
            index::SYSENTER_EIP => Some(self.msr.sysenter_eip),
            index::PAT => Some(self.msr.pat),
            index::SPEC_CTRL => Some(self.msr.spec_ctrl),
            index::ARCH_CAPABILITIES => Some(ARCH_CAPABILITIES),
            index::MISC_ENABLE => Some(self.msr.misc_enable),
            index::DEBUGCTL => Some(self.msr.debug_ctl),
            index::MCG_STATUS => Some(self.msr.mcg_status),
            index::BIOS_SIGN_ID => Some(MICROCODE_REVISION),
            index::PLATFORM_INFO => Some(PLATFORM_INFO),
            index::FEATURE_CONTROL => Some(FEATURE_CONTROL),
            index::PPIN_CTL => Some(PPIN_LOCKED),
            index::PLATFORM_ID | index::MCG_CAP | index::MISC_FEATURES_ENABLES => Some(0),
            index::SEV_STATUS if self.sev => Some(SEV_STATUS),
            index::MIGRATION_CONTROL if self.sev => Some(0),
            index::APIC_BASE | index::TSC_DEADLINE | index::X2APIC..=index::X2APIC_END => {
                self.call_attention();
                return world.read_msr(self.id, self.now(), index).ok_or(Fault::GP0);
            }
            _ => self.msr.mtrr.read(index),
        };
        value.ok_or_else(|| self.absent_msr("read", index))
    }

    /// WRMSR, without the privilege check.
    ///
    /// # Errors
    /// #GP(0) for a register that does not exist or cannot be written, and for a value with reserved bits.
    pub(crate) fn write_msr<W: World>(&mut self, world: &mut W, index: u32, value: u64) -> Result<(), Fault> {
        let canonical = || if is_canonical(value) { Ok(value) } else { Err(Fault::GP0) };
        let within = |mask: u64| if value & !mask == 0 { Ok(value) } else { Err(Fault::GP0) };
        match index {
            index::TSC => {
                self.msr.tsc_adjust = value.wrapping_sub(self.now()) as i64;
                self.call_attention();
            }
            index::TSC_ADJUST => {
                self.msr.tsc_adjust = value as i64;
                self.call_attention();
            }
            index::TSC_AUX => self.msr.tsc_aux = within(0xffff_ffff)? as u32,
            index::EFER => self.write_efer(world, value)?,
            index::STAR => self.msr.star = value,
            index::LSTAR => self.msr.lstar = canonical()?,
            index::CSTAR => self.msr.cstar = canonical()?,
            index::FMASK => self.msr.fmask = within(0xffff_ffff)?,
            index::FS_BASE => self.set_segment_base(seg::FS, canonical()?),
            index::GS_BASE => self.set_segment_base(seg::GS, canonical()?),
            index::KERNEL_GS_BASE => self.msr.kernel_gs_base = canonical()?,
            index::SYSENTER_CS => self.msr.sysenter_cs = value & 0xffff_ffff,
            index::SYSENTER_ESP => self.msr.sysenter_esp = canonical()?,
            index::SYSENTER_EIP => self.msr.sysenter_eip = canonical()?,
            index::PAT => {
                if !value.to_le_bytes().into_iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)) {
                    return Err(Fault::GP0);
                }
                self.msr.pat = value;
                self.change_types(world);
            }
            // IBRS and BHI_DIS_S are the controls that CPUID advertises.
            index::SPEC_CTRL => self.msr.spec_ctrl = within(1 << 10 | 1)?,
            index::PRED_CMD => {
                within(1)?;
            }
            index::MISC_ENABLE => {
                let changed = (value ^ self.msr.misc_enable) & !MISC_ENABLE_WRITABLE;
                if changed != 0 {
                    return Err(Fault::GP0);
                }
                self.msr.misc_enable = value;
            }
            index::DEBUGCTL => self.msr.debug_ctl = within(3)?,
            index::MCG_STATUS => self.msr.mcg_status = within(0)?,
            // Software clears it before CPUID to read the revision.
            index::BIOS_SIGN_ID => {}
            index::MISC_FEATURES_ENABLES => {
                within(0)?;
            }
            index::SEV_STATUS if self.sev => return Err(Fault::GP0),
            index::MIGRATION_CONTROL if self.sev => {
                within(1)?;
            }
            index::APIC_BASE | index::TSC_DEADLINE | index::X2APIC..=index::X2APIC_END => {
                self.call_attention();
                return world.write_msr(self.id, self.now(), index, value).ok_or(Fault::GP0);
            }
            _ => {
                if self.msr.mtrr.write(index, value).is_none() {
                    return Err(match self.msr.mtrr.read(index) {
                        Some(_) => Fault::GP0,
                        None => self.absent_msr("write", index),
                    });
                }
                self.change_types(world);
            }
        }
        Ok(())
    }

    /// PAT or the MTRRs have changed: translations carry types where anybody looks at them.
    fn change_types<W: World>(&mut self, world: &mut W) {
        self.tlb.forget_types();
        if world.shown() != Shown::Nothing {
            self.drop_translations(world, false);
        }
    }

    fn write_efer<W: World>(&mut self, world: &mut W, value: u64) -> Result<(), Fault> {
        let changed = value ^ self.efer;
        let writable = efer::SCE | efer::LME | efer::NXE;
        if changed & !(writable | efer::LMA) != 0
            || (changed & efer::LME != 0 && self.cr0 & cr0::PG != 0)
            || (changed & value & efer::NXE != 0 && self.msr.disables_nx())
        {
            return Err(Fault::GP0);
        }
        self.efer = value & writable | self.efer & efer::LMA;
        if changed & efer::NXE != 0 {
            self.drop_translations(world, false);
        }
        self.update_mode();
        Ok(())
    }

    #[cold]
    fn absent_msr(&mut self, access: &str, index: u32) -> Fault {
        let reported = &mut self.msr.reported;
        if reported.len() < MAX_REPORTED && !KNOWN_ABSENT.contains(&index) && !reported.contains(&index) {
            reported.push(index);
            log::info!("vCPU {}: {access} of MSR {index:#x}, which does not exist: #GP", self.id);
        }
        Fault::GP0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_world::TestWorld;

    #[test]
    fn reserved_values_fault_and_change_nothing() {
        let mut world = TestWorld::new(1);
        let mut cpu = Vcpu::new(0);
        for (index, value) in [
            (index::PAT, 0x0007_0406_0007_0402),
            (index::LSTAR, 0x0000_8000_0000_0000),
            (index::SPEC_CTRL, 4),
            (index::MTRRCAP, 0),
            (index::MTRR_DEF_TYPE, 0xc02),
            (index::MTRR_FIX64K, 0x0606_0602_0606_0606),
            (index::EFER, 1 << 3),
            (0xdead, 0),
        ] {
            let before = cpu.read_msr(&mut world, index);
            assert_eq!(cpu.write_msr(&mut world, index, value), Err(Fault::GP0), "{index:#x}");
            assert_eq!(cpu.read_msr(&mut world, index), before, "{index:#x}");
        }
    }

    #[test]
    fn time_stamp_follows_the_clock_and_its_adjustment() {
        let mut world = TestWorld::new(1);
        let mut cpu = Vcpu::new(0);
        cpu.block_clock = 1000;
        assert_eq!(cpu.read_msr(&mut world, index::TSC), Ok(1000));
        assert_eq!(cpu.write_msr(&mut world, index::TSC, 50), Ok(()));
        cpu.block_clock = 1007;
        assert_eq!(cpu.read_msr(&mut world, index::TSC), Ok(57));
        assert_eq!(cpu.read_msr(&mut world, index::TSC_ADJUST), Ok(-950_i64 as u64));
    }

    #[test]
    fn a_hole_is_made_of_aligned_ranges() {
        let mut mtrr = Mtrrs::default();
        assert!(mtrr.set_uncacheable(0xb000_0000, 0x5000_0000));
        let used: Vec<_> = mtrr.variable.iter().filter(|range| range[1] != 0).collect();
        assert_eq!(used, [&[0xb000_0000, 0x3fff_f000_0800], &[0xc000_0000, 0x3fff_c000_0800]]);
        assert!(!mtrr.set_uncacheable(0x1_0000_1000, 0x7fff_e000));
    }
}
