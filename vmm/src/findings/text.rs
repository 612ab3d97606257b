//! A report as text, in the manner of KASAN: to be pasted into a mail.

use super::Context;
use super::report::{Access, Frame, Mapped, Moment, Report, Task, What};
use cache_model::Verdict;
use cache_model::judge::{Blame, Kind};
use std::fmt::{self, Display, Formatter};

/// Bytes in a line of the dump.
const DUMP: usize = 16;
/// Characters of a line, beyond which lists go on in the next.
const WIDTH: usize = 100;
/// Where what a line says begins.
const INDENT: usize = 11;

/// The report's text, with what is the same for all of a run.
pub struct Text<'a>(pub &'a Report, pub &'a Context);

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What went wrong, for people.
#[must_use]
pub fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::StaleDeviceRead => "stale device read",
        Kind::StaleCpuRead => "stale CPU read",
        Kind::LostDmaWrite => "lost DMA write",
        Kind::LostCpuWrite => "lost CPU write",
        Kind::NeighbourLoss => "neighbour loss",
        Kind::LatentClobber => "latent clobber",
        Kind::MissingSyncForDevice => "missing sync for device",
        Kind::MissingSyncForCpu => "missing sync for CPU",
        Kind::OwnershipViolation => "ownership violation",
        Kind::UseAfterUnmap => "DMA after unmap",
        Kind::OutOfMapping => "DMA out of mapping",
        Kind::AgainstDirection => "DMA against the mapping's direction",
        Kind::BlockedDma => "DMA blocked by the IOMMU",
        Kind::BouncedCoherentMemory => "bounced coherent memory",
        Kind::PrivateDma => "DMA with private memory",
        Kind::RequireCoherentOnKernelMemory => "REQUIRE_COHERENT on kernel memory",
        Kind::MixedAttributes => "mixed attributes on one line",
    }
}

/// Why it is theirs.
fn reason(report: &Report) -> &'static str {
    if report.kind == Kind::BouncedCoherentMemory {
        return match report.uapi_cannot_sync {
            true => {
                "the device was given a bounce buffer, which is copied when it is mapped, synced and unmapped; memory that an \
                 application has registered is used in between by both, and no call syncs it. Nothing fails and no log \
                 says so: data is lost up to deregistration, and queues in such memory never move. A kernel that knows \
                 DMA_ATTR_REQUIRE_COHERENT refuses to map it"
            }
            false => {
                "the device was given a bounce buffer although the mapping requires coherent memory: this kernel does not \
                 know DMA_ATTR_REQUIRE_COHERENT, or it did not see that the device would need one"
            }
        };
    }
    if report.uapi_cannot_sync {
        return "the device is not snooped, and this interface has no call by which user memory could be synced; \
                x86 reports DMA as coherent, so dma_map could not refuse";
    }
    match (report.blame, report.kind) {
        (Blame::Platform, Kind::StaleDeviceRead) => {
            "the bytes were handed to the device, but are not in RAM: the device is not snooped, and mapping and \
             syncing clean nothing on x86"
        }
        (Blame::Platform, Kind::StaleCpuRead) => {
            "the bytes are in RAM, but the cache still has the line as it was: the device is not snooped, and \
             unmapping and syncing invalidate nothing on x86"
        }
        (Blame::Platform, _) => {
            "the line was dirty when it was handed to the device: the device is not snooped, and mapping and \
             syncing clean nothing on x86"
        }
        (Blame::Driver, Kind::MissingSyncForDevice) => {
            "the store came after the memory was handed to the device: dma_sync_*_for_device is missing after it"
        }
        (Blame::Driver, Kind::MissingSyncForCpu) => {
            "the load came while the memory was the device's: dma_sync_*_for_cpu or dma_unmap_* is missing before it"
        }
        (Blame::Driver, Kind::OwnershipViolation) => {
            "the store came while the memory was the device's: between mapping and dma_sync_*_for_cpu or dma_unmap_*"
        }
        (Blame::Driver, Kind::NeighbourLoss) => {
            "the bytes share a cache line with a mapping: cache maintenance for that has discarded them"
        }
        (Blame::Driver, Kind::LostDmaWrite | Kind::LatentClobber) => {
            "the store is to the same cache line as memory that was the device's: a write-back of the line takes \
             what the device has written"
        }
        (Blame::Driver, Kind::UseAfterUnmap) => {
            "the device was given, or kept, an address that is no longer mapped"
        }
        (Blame::Driver, Kind::OutOfMapping) => {
            "the device was given an address, or a length, that was never mapped"
        }
        (Blame::Driver, Kind::AgainstDirection) => "the memory is mapped for transfers the other way",
        (Blame::Driver, Kind::BlockedDma) => {
            "the device was given an address that it cannot reach: neither a bounce buffer, as mappings have them, nor memory \
             allocated for it, or one beyond its address lines; the request was answered as unsupported"
        }
        (Blame::Driver, Kind::PrivateDma) => {
            "the device was given an address of memory that the guest has not shared with its hypervisor (set_memory_decrypted, or \
             a bounce buffer): for the device it is encrypted, and what the device writes there is not what the guest reads"
        }
        (Blame::Driver, Kind::RequireCoherentOnKernelMemory) => {
            "DMA_ATTR_REQUIRE_COHERENT is for pinned user memory: the kernel's own can be synced, and the mapping \
             fails where DMA is not coherent"
        }
        (Blame::Driver, Kind::MixedAttributes) => {
            "another mapping in the same cache line follows other rules of coherence"
        }
        (Blame::Driver, _) => "the bytes were stored, and discarded before they were in RAM",
    }
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(report, context) = *self;
        headline(f, report)?;
        if !report.found.is_empty() {
            let offset = report.addr.saturating_sub(report.line);
            let (got, who) = report.victim.as_ref().map_or(("", ""), |victim| (", ", victim.who.as_str()));
            let plural = if report.len == 1 { "" } else { "s" };
            let (len, line) = (report.len, report.line);
            writeln!(
                f,
                "{len} byte{plural} at line {line:#010x} +{offset}{got}{who}, t={}",
                Seconds(report.time)
            )?;
            dump(f, report)?;
        }
        if let Some(writer) = &report.writer {
            access(f, "written by", writer)?;
        }
        if let Some(culprit) =
            report.culprit.as_ref().filter(|culprit| report.writer.as_ref() != Some(culprit))
        {
            access(f, "culprit", culprit)?;
        }
        if let Some(victim) = &report.victim {
            access(f, "found by", victim)?;
        }
        if let Some(mapping) = &report.mapping {
            mapped(f, mapping)?;
        }
        if !report.timeline.is_empty() {
            list(
                f,
                "timeline",
                " | ",
                report.timeline.iter().map(|moment| moment_text(moment, report.time)),
            )?;
        }
        let api = if report.uapi_cannot_sync { " (the user-space API cannot sync)" } else { "" };
        let reason = format!("{}{api}: {}", report.blame.name(), reason(report));
        list(f, "blame", " ", reason.split(' ').map(str::to_owned))?;
        for note in &report.notes {
            list(f, "note", " ", note.split(' ').map(str::to_owned))?;
        }
        if let Some(kernel) = &report.kernel {
            writeln!(f, "{:INDENT$}{kernel}", "kernel")?;
        }
        if let Some(trace) = &report.trace {
            writeln!(f, "{:INDENT$}{trace}", "trace")?;
        }
        writeln!(f, "{:INDENT$}{}", "again", context.again)
    }
}

fn headline(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let verdict = match report.verdict {
        Verdict::Manifest => "manifest",
        Verdict::Latent => "latent",
    };
    let place = report.victim.as_ref().or(report.culprit.as_ref());
    write!(f, "BUG: staleline: {} ({verdict})", title(report.kind))?;
    match place {
        Some(place) if place.backtrace.is_empty() => writeln!(f, " by {}", place.site()),
        Some(place) => writeln!(f, " in {}", place.site()),
        None => writeln!(f),
    }
}

fn dump(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let got = if report.victim.is_some() { "got" } else { "moved" };
    let coherent = Some(&report.expected).filter(|coherent| **coherent != report.ram);
    let rows = match report.kind {
        // The memory has what was found in it.
        Kind::BouncedCoherentMemory if report.victim.is_none() => {
            [("in RAM", Some(&report.found)), ("written", coherent), ("", None)]
        }
        _ => [(got, Some(&report.found)), ("in RAM", Some(&report.ram)), ("expected", coherent)],
    };
    for (name, bytes) in rows {
        for (at, chunk) in bytes.into_iter().flat_map(|bytes| bytes.chunks(DUMP)).enumerate() {
            write!(f, "  {:8}", if at == 0 { name } else { "" })?;
            chunk.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
            writeln!(f)?;
        }
    }
    Ok(())
}

fn access(f: &mut Formatter<'_>, name: &str, access: &Access) -> fmt::Result {
    let Access { who, action, time, backtrace, .. } = access;
    write!(f, "{name:INDENT$}{who} {}", action.name())?;
    access.purpose.iter().try_for_each(|purpose| write!(f, ": {purpose},"))?;
    write!(f, " t={}", Seconds(*time))?;
    task(f, access.task.as_ref())?;
    frames(f, backtrace)
}

fn mapped(f: &mut Formatter<'_>, mapping: &Mapped) -> fmt::Result {
    let Mapped { device, addr, len, direction, attributes, mapped_at, .. } = mapping;
    write!(f, "{:INDENT$}{addr:#010x}+{len:#x} {direction}", "mapped")?;
    attributes.iter().try_for_each(|attribute| write!(f, " {attribute}"))?;
    write!(f, " for {device} t={}", Seconds(*mapped_at))?;
    task(f, mapping.task.as_ref())?;
    if let Some(memory) = mapping.bounced {
        writeln!(f, "{:INDENT$}a bounce buffer for the memory at {memory:#010x}", "")?;
    }
    frames(f, &mapping.backtrace)?;
    if let Some(ended) = mapping.unmapped_at {
        write!(f, "{:INDENT$}t={}", "unmapped", Seconds(ended))?;
        task(f, mapping.unmap_task.as_ref())?;
        frames(f, &mapping.unmap_backtrace)?;
    }
    Ok(())
}

/// The end of a line: the task that did it.
fn task(f: &mut Formatter<'_>, task: Option<&Task>) -> fmt::Result {
    match task {
        Some(task) => writeln!(f, " ({task})"),
        None => writeln!(f),
    }
}

fn frames(f: &mut Formatter<'_>, frames: &[Frame]) -> fmt::Result {
    if frames.is_empty() { Ok(()) } else { list(f, "", " < ", frames.iter().map(Frame::to_string)) }
}

/// Times of the same second as the finding are given by their fraction.
fn moment_text(moment: &Moment, now: u64) -> String {
    let time = Seconds(moment.time).to_string();
    let same = moment.time / SECOND == now / SECOND;
    let time = time.find('.').filter(|_| same).map_or(&*time, |point| time.get(point..).unwrap_or(&time));
    let place = match (&moment.at, &moment.by) {
        (Some(at), _) if moment.what != What::Observed => format!(" {at}"),
        (None, Some(by)) if moment.what != What::Observed => format!(" {by}"),
        _ => String::new(),
    };
    format!("{}{place} {time}", moment.what.name())
}

/// Items one after the other, in lines of a bearable length.
fn list(
    f: &mut Formatter<'_>,
    name: &str,
    separator: &str,
    items: impl Iterator<Item = String>,
) -> fmt::Result {
    write!(f, "{name:INDENT$}")?;
    let mut column = INDENT;
    for (at, item) in items.enumerate() {
        let length = separator.len() + item.chars().count();
        if at > 0 && column + length > WIDTH {
            write!(f, "\n{:INDENT$}{}", "", separator.trim_start())?;
            column = INDENT;
        } else if at > 0 {
            f.write_str(separator)?;
        }
        f.write_str(&item)?;
        column += length;
    }
    writeln!(f)
}

const SECOND: u64 = 1_000_000_000;

/// Virtual nanoseconds as seconds.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / SECOND, self.0 % SECOND)
    }
}
