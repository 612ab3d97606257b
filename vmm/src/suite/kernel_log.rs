//! What a kernel's log warns of. A log is what `dmesg -r` prints: `<PRIORITY>[TIME] TEXT` a line.

/// The least severe level that warns (include/linux/kern_levels.h).
const WARNING: u32 = 4;
/// What tells of trouble in a line of any level.
const TROUBLE: [&str; 22] = [
    "WARNING:",
    "BUG:",
    "Oops",
    "Call Trace:",
    "general protection fault",
    "segfault at",
    "unchecked MSR",
    "[Firmware Bug]",
    "soft lockup",
    "hard LOCKUP",
    "detected stall",
    "self-detected stall",
    "blocked for more than",
    "TSC unstable",
    "Marking clocksource",
    "TSC warp",
    "nobody cared",
    "APIC error",
    "No irq handler for vector",
    "do_boot_cpu failed",
    "smpboot: CPU failed",
    "calibration failed",
];

/// The level of a line, the lower three bits of its priority (RFC 5424), and its text. None if it is no record.
fn record(line: &str) -> Option<(u32, &str)> {
    let (priority, text) = line.strip_prefix('<')?.split_once('>')?;
    Some((priority.parse::<u32>().ok()? & 7, text))
}

/// The lines of level warning or worse, and those that tell of trouble.
pub(super) fn warnings(log: &str) -> impl Iterator<Item = &str> {
    let warns = |line: &&str| {
        record(line).is_some_and(|(level, text)| {
            level <= WARNING || TROUBLE.iter().any(|trouble| text.contains(trouble))
        })
    };
    log.lines().filter(warns)
}

/// What dma-debug warned of: `DMA-API: [DRIVER DEVICE: ]MESSAGE` on a line of level warning or worse, without its other lines
/// (where a mapping was made).
pub(super) fn dma_debug_messages(log: &str) -> Vec<&str> {
    log.lines()
        .filter_map(record)
        .filter(|(level, _)| *level <= WARNING)
        .filter_map(|(_, text)| text.split_once("DMA-API: ").map(|(_, message)| message))
        .filter(|message| !message.starts_with("Mapped at:"))
        .map(without_device)
        .collect()
}

/// `mlx5_core 0000:08:00.0: MESSAGE` without driver and device.
fn without_device(message: &str) -> &str {
    match message.split_once(": ") {
        Some((who, rest)) if who.split(' ').count() == 2 && !who.contains(',') => rest,
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_and_warnings_are_found_and_nothing_else() {
        let log = "<6>[    0.1] Linux version 6.1\n<4>[    0.2] x: strange\n<6>[    0.3] unchecked MSR access error\n\
                   <12>[    0.4] init: warned\nnot a WARNING: record\n<30>[    0.6] daemon: started\n";
        let expected = [
            "<4>[    0.2] x: strange",
            "<6>[    0.3] unchecked MSR access error",
            "<12>[    0.4] init: warned",
        ];
        assert_eq!(warnings(log).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn dma_debugs_warnings_are_found_by_level() {
        let log = "<6>[ 0.1] DMA-API: preallocated 8192 debug entries\n\
            <4>[ 1.0] DMA-API: mlx5_core 0000:08:00.0: cacheline tracking EEXIST, overlapping\n\
            <4>[ 1.1] DMA-API: Mapped at:\n<4>[ 1.2] DMA-API: exceeded 7 overlapping mappings of cacheline 0x1\n";
        let expected =
            ["cacheline tracking EEXIST, overlapping", "exceeded 7 overlapping mappings of cacheline 0x1"];
        assert_eq!(dma_debug_messages(log), expected);
    }
}
