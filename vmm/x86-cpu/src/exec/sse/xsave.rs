//! The XSAVE feature set (SDM volume 1, chapter 13): XCR0, and the instructions that save and restore the state
//! components it enables.
//!
//! State that is in its initial configuration is never saved by the instructions that may leave it out; the modified
//! optimisation of XSAVEOPT is not used (a processor may always take state for modified).

use super::image::{self, Region};
use super::{Choice, Gate};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::state::{Vcpu, X87, reg, xcr0};
use crate::world::World;
use iced_x86::Code;

/// Offset of the header: XSTATE_BV, XCOMP_BV, and 48 bytes that are 0.
const HEADER: usize = image::SIZE;
const HEADER_SIZE: usize = 64;
/// Size of an image without extended components.
const BASE_SIZE: usize = HEADER + HEADER_SIZE;
/// Offset of the upper halves of the YMM registers: the first extended component has the same place in both formats.
pub(crate) const AVX_OFFSET: usize = BASE_SIZE;
/// Size of all of them.
pub(crate) const AVX_SIZE: usize = 256;
/// In XCOMP_BV: the image is compacted.
const COMPACTED: u64 = 1 << 63;
const ALIGNMENT: u64 = 64;
const RESET_MXCSR: u32 = 0x1f80;

/// Size in bytes of an image, of either format, that holds the components in `components`.
pub(crate) const fn image_size(components: u64) -> usize {
    if components & xcr0::AVX != 0 { AVX_OFFSET + AVX_SIZE } else { BASE_SIZE }
}

/// What distinguishes the saving instructions.
trait Form {
    /// Leaves out components in their initial configuration.
    const OPTIMISED: bool;
    /// Writes the compacted format.
    const COMPACTED: bool;
}

enum Plain {}
impl Form for Plain {
    const OPTIMISED: bool = false;
    const COMPACTED: bool = false;
}
enum Optimised {}
impl Form for Optimised {
    const OPTIMISED: bool = true;
    const COMPACTED: bool = false;
}
enum Compacted {}
impl Form for Compacted {
    const OPTIMISED: bool = true;
    const COMPACTED: bool = true;
}

impl Vcpu {
    /// EDX:EAX.
    fn pair(&self) -> u64 {
        self.gpr[reg::RDX] << 32 | self.gpr[reg::RAX] & 0xffff_ffff
    }

    /// XINUSE: the components that are not in their initial configuration (SDM volume 1, 13.6). XMM registers out of
    /// reach count too.
    fn components_in_use(&self) -> u64 {
        let x87 = if self.x87 == X87::initial() { 0 } else { xcr0::X87 };
        let sse = if self.xmm == [0; 16] { 0 } else { xcr0::SSE };
        let avx = if self.ymm_high == [0; 16] { 0 } else { xcr0::AVX };
        x87 | sse | avx
    }
}

/// Bytes of an image to be written: parts that follow one another are one.
#[derive(Default)]
struct Parts {
    ranges: [(usize, usize); 6],
    count: usize,
}

impl Parts {
    fn add(&mut self, start: usize, end: usize) {
        match self.count.checked_sub(1).and_then(|last| self.ranges.get_mut(last)) {
            Some(last) if last.1 == start => last.1 = end,
            _ => {
                self.ranges[self.count] = (start, end);
                self.count += 1;
            }
        }
    }
    fn iter(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.ranges.iter().take(self.count).map(|(start, end)| *start..*end)
    }
}

/// XSAVE, XSAVEOPT and XSAVEC, with `WIDE` their 64-bit forms. All or nothing is written.
fn save<W: World, F: Form, const WIDE: bool>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let requested = cpu.xcr0 & cpu.pair();
    let in_use = cpu.components_in_use();
    let mut saved = if F::OPTIMISED { requested & in_use } else { requested };
    if F::COMPACTED && cpu.mxcsr != RESET_MXCSR {
        saved |= requested & xcr0::SSE;
    }
    let (linear, last) = image::ends::<W, ALIGNMENT>(cpu, op, image_size(requested), true)?;
    let mut bytes = [0; AVX_OFFSET + AVX_SIZE];
    let mut parts = Parts::default();
    let mut region: Region = [0; image::SIZE];
    if saved & xcr0::X87 != 0 {
        image::put_x87(&mut region, &cpu.x87, WIDE);
        parts.add(0, image::MXCSR);
    }
    let mxcsr = if F::COMPACTED { saved & xcr0::SSE } else { requested & (xcr0::SSE | xcr0::AVX) };
    if mxcsr != 0 {
        image::put_mxcsr(&mut region, cpu.mxcsr);
        parts.add(image::MXCSR, image::ST);
    }
    if saved & xcr0::X87 != 0 {
        parts.add(image::ST, image::XMM);
    }
    if saved & xcr0::SSE != 0 {
        let end = image::put_xmm(&mut region, cpu);
        parts.add(image::XMM, end);
    }
    bytes[..image::SIZE].copy_from_slice(&region);
    let header = if F::COMPACTED {
        u128::from(saved) | u128::from(requested | COMPACTED) << 64
    } else {
        let old: u64 = cpu.load(world, linear.wrapping_add(HEADER as u64))?;
        u128::from(old & !requested | in_use & requested)
    };
    bytes[HEADER..HEADER + 16].copy_from_slice(&header.to_le_bytes());
    parts.add(HEADER, HEADER + if F::COMPACTED { 16 } else { 8 });
    if saved & xcr0::AVX != 0 {
        let count = image::vector_count(cpu);
        for (to, value) in bytes[AVX_OFFSET..].chunks_exact_mut(16).zip(cpu.ymm_high).take(count) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        parts.add(AVX_OFFSET, AVX_OFFSET + count * 16);
    }
    // Processors touch both ends of the image even if they do not write there.
    cpu.check_write(world, linear, 1)?;
    cpu.check_write(world, last, 1)?;
    for part in parts.iter() {
        cpu.check_write(world, linear.wrapping_add(part.start as u64), part.len())?;
    }
    for part in parts.iter() {
        cpu.store_bytes(world, linear.wrapping_add(part.start as u64), &bytes[part])?;
    }
    Ok(())
}

/// XRSTOR, with `WIDE` XRSTOR64.
fn restore<W: World, const WIDE: bool>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let requested = cpu.xcr0 & cpu.pair();
    let (linear, _) = image::ends::<W, ALIGNMENT>(cpu, op, image_size(requested), false)?;
    let mut header = [0; HEADER_SIZE];
    cpu.load_bytes(world, linear.wrapping_add(HEADER as u64), &mut header)?;
    // Processors touch the image's first byte too before they look at the header.
    cpu.physical_address(world, linear)?;
    let [present, layout] = [0, 8].map(|at| image::get(&header, at, 8) as u64);
    let compacted = layout & COMPACTED != 0;
    let layout = layout & !COMPACTED;
    // SDM volume 1, 13.8: reserved bits of the header.
    let zero = |from: usize| header[from..].iter().all(|byte| *byte == 0);
    let valid = if compacted {
        layout & !cpu.xcr0 == 0 && present & !layout == 0 && zero(16)
    } else {
        present & !cpu.xcr0 == 0 && layout == 0 && image::get(&header, 16, 8) == 0
    };
    if !valid {
        return Err(Fault::GP0);
    }
    let restored = requested & present;
    let mut region: Region = [0; image::SIZE];
    if requested != 0 {
        cpu.load_bytes(world, linear, &mut region)?;
    }
    let count = image::vector_count(cpu);
    let mut upper = [0; AVX_SIZE];
    if restored & xcr0::AVX != 0 {
        let linear = linear.wrapping_add(AVX_OFFSET as u64);
        cpu.load_bytes(world, linear, &mut upper[..count * 16])?;
    }
    let mxcsr = match compacted {
        true if restored & xcr0::SSE != 0 => image::take_mxcsr(&region)?,
        true if requested & xcr0::SSE != 0 => RESET_MXCSR,
        false if requested & (xcr0::SSE | xcr0::AVX) != 0 => image::take_mxcsr(&region)?,
        _ => cpu.mxcsr,
    };
    cpu.mxcsr = mxcsr;
    if restored & xcr0::X87 != 0 {
        image::take_x87(&region, &mut cpu.x87, WIDE);
    } else if requested & xcr0::X87 != 0 {
        cpu.x87 = X87::initial();
    }
    if restored & xcr0::SSE != 0 {
        image::take_xmm(&region, cpu);
    } else if requested & xcr0::SSE != 0 {
        cpu.xmm[..count].fill(0);
    }
    // Zero is the initial configuration.
    if requested & xcr0::AVX != 0 {
        for (i, value) in cpu.ymm_high.iter_mut().enumerate().take(count) {
            *value = image::get(&upper, i * 16, 16);
        }
    }
    Ok(())
}

/// XGETBV: XCR0, or with ECX = 1 the components of it that are in use.
fn get_extended_control<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let value = match cpu.gpr[reg::RCX] as u32 {
        0 => cpu.xcr0,
        1 => cpu.xcr0 & cpu.components_in_use(),
        _ => return Err(Fault::GP0),
    };
    cpu.gpr[reg::RAX] = value & 0xffff_ffff;
    cpu.gpr[reg::RDX] = value >> 32;
    Ok(())
}

/// XSETBV (SDM volume 2).
fn set_extended_control<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let value = cpu.pair();
    if cpu.cpl != 0 || cpu.gpr[reg::RCX] as u32 != 0 || !xcr0::valid(value) {
        return Err(Fault::GP0);
    }
    cpu.xcr0 = value;
    cpu.update_mode();
    Ok(())
}

pub(super) fn lower<W: World>(code: Code, _: bool) -> Choice<W> {
    let run: OpFn<W> = match code {
        Code::Xsave_mem => save::<W, Plain, false>,
        Code::Xsave64_mem => save::<W, Plain, true>,
        Code::Xsaveopt_mem => save::<W, Optimised, false>,
        Code::Xsaveopt64_mem => save::<W, Optimised, true>,
        Code::Xsavec_mem => save::<W, Compacted, false>,
        Code::Xsavec64_mem => save::<W, Compacted, true>,
        Code::Xrstor_mem => restore::<W, false>,
        Code::Xrstor64_mem => restore::<W, true>,
        Code::Xgetbv => return Some((Gate::Xcr, get_extended_control)),
        Code::Xsetbv => return Some((Gate::Xcr, set_extended_control)),
        _ => return None,
    };
    Some((Gate::Xsave, run))
}
