//! Processors and memory.

use super::{Item, Section};
use crate::memory::GuestRam;
use guest_images::Host;

/// What `repro` gives its guest, MiB: the default of `--memory`.
const GUEST_MIB: u64 = 512;
/// What the VMM needs beyond guest RAM at most, MiB.
const OWN_MIB: u64 = 150;

pub(super) fn examine(host: &Host) -> Section {
    Section { title: "host".into(), items: vec![cores(), memory(available_mib(host)), guest_ram()] }
}

fn cores() -> Item {
    match std::thread::available_parallelism() {
        Ok(cores) => Item::ok("cores", cores.to_string()),
        Err(error) => Item::warn("cores", format!("unknown: {error}")),
    }
}

fn memory(available: Option<u64>) -> Item {
    let needed = GUEST_MIB + OWN_MIB;
    match available {
        None => Item::warn("memory", "unknown: /proc/meminfo does not say"),
        Some(mib) if mib >= needed => Item::ok("memory", format!("{mib} MiB available")),
        Some(mib) => Item::warn("memory", format!("{mib} MiB available, a guest may use {needed} MiB"))
            .advise("give guests less with --memory, or end other programs"),
    }
}

fn guest_ram() -> Item {
    match GuestRam::new(GUEST_MIB << 20) {
        Ok(_) => Item::ok("guest RAM", format!("{GUEST_MIB} MiB can be mapped")),
        Err(error) => Item::missing("guest RAM", error.to_string())
            .advise("guest RAM is a memfd of that size; raise the limit (ulimit -v, ulimit -f) or give less with --memory"),
    }
}

/// What this process may still use: the machine's available memory, or less if its control group says so.
pub(super) fn available_mib(host: &Host) -> Option<u64> {
    let number = |file: &str| -> Option<u64> {
        std::fs::read_to_string(host.root.join(file)).ok()?.trim().parse().ok()
    };
    let text = std::fs::read_to_string(host.root.join("proc/meminfo")).ok()?;
    let kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    // Only inside a container does this folder belong to the process's own group; elsewhere there is no such file.
    let group = number("sys/fs/cgroup/memory.max")
        .and_then(|max| Some(max.saturating_sub(number("sys/fs/cgroup/memory.current")?) >> 20));
    Some(group.map_or(kib >> 10, |group| group.min(kib >> 10)))
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn available_memory_respects_a_control_group() {
        let root = tempfile::tempdir().unwrap();
        let host = Host { path: Default::default(), root: root.path().to_owned() };
        assert_eq!(available_mib(&host), None);
        std::fs::create_dir_all(root.path().join("proc")).unwrap();
        std::fs::write(root.path().join("proc/meminfo"), "MemTotal: 9 kB\nMemAvailable:    4194304 kB\n")
            .unwrap();
        assert_eq!(available_mib(&host), Some(4096));

        let group = root.path().join("sys/fs/cgroup");
        std::fs::create_dir_all(&group).unwrap();
        std::fs::write(group.join("memory.max"), "max\n").unwrap();
        std::fs::write(group.join("memory.current"), "1048576\n").unwrap();
        assert_eq!(available_mib(&host), Some(4096));
        std::fs::write(group.join("memory.max"), "105906176\n").unwrap();
        assert_eq!(available_mib(&host), Some(100));

        assert_eq!(memory(Some(100)).status, Status::Warn);
        assert_eq!(memory(Some(4096)).status, Status::Ok);
        assert_eq!(memory(None).status, Status::Warn);
    }
}
