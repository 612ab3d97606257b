//! The symbols of running kernels, found in their memory. Images: linux-{6.1,6.12,7.2}-debug, debian-cloud-{6.1,6.12,7.2}.

mod common;

use common::guest::{Running, image, unpacks_itself};
use staleline::guest::{Guest, SymbolFile};
use std::path::Path;

/// What every kernel has, whatever its version and configuration.
fn check(running: &Running, guest: &Guest) {
    let lstar = running.registers(0).lstar;
    assert_eq!(guest.address("entry_SYSCALL_64"), Some(lstar));
    assert_eq!(guest.resolve(lstar + 2).unwrap().name, "entry_SYSCALL_64");
    let machine = running.machine.lock();
    let memory = guest.memory(machine.ram());
    let banner = memory.string(guest.address("linux_banner").unwrap(), 256).unwrap();
    assert!(banner.starts_with(&format!("Linux version {} (", guest.release())), "{banner}");
    for name in ["do_syscall_64", "schedule", "dma_map_page_attrs", "dma_map_sgtable", "dma_alloc_attrs"] {
        let address = guest.address(name).unwrap_or_else(|| panic!("{name}"));
        let symbol = guest.resolve(address + 4).unwrap();
        assert_eq!((symbol.name, symbol.offset), (name, 4));
        assert!(symbol.size > 4 && memory.bytes(address, symbol.size as usize).is_ok(), "{symbol}");
    }
    assert!(guest.addresses("cleanup_module").is_empty());
}

/// Starts the kernel of a debug image, whose symbols its files have, too.
fn debug_kernel(name: &str) {
    let image = image(name);
    let folder = image.kernel.parent().unwrap();
    let mut running = Running::start(&image, None, 1, 1);
    running.run_to_lstar();
    let guest = running.discover(None).unwrap();
    check(&running, &guest);
    let map = std::fs::read_to_string(folder.join("System.map")).unwrap();
    let mut names = 0;
    for line in map.lines() {
        let [address, kind, name] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        // To Linux 6.3 the tables of symbols do not name themselves.
        if kind.chars().all(|kind| "TDR".contains(kind)) && !name.starts_with("kallsyms_") {
            let address = u64::from_str_radix(address, 16).unwrap();
            assert!(guest.addresses(name).contains(&address), "{line}");
            names += 1;
        }
    }
    assert!(names > 10_000, "{names}");
    for file in ["vmlinux", "System.map"] {
        let file = SymbolFile::open(&folder.join(file)).unwrap();
        let guest = running.discover(Some(&file)).unwrap();
        check(&running, &guest);
    }
}

#[test]
fn linux_6_1_debug() {
    debug_kernel("linux-6.1-debug");
}

#[test]
fn linux_6_12_debug() {
    debug_kernel("linux-6.12-debug");
}

#[test]
fn linux_7_2_debug() {
    debug_kernel("linux-7.2-debug");
}

/// Starts a stock kernel that unpacks and moves itself.
fn stock_kernel(name: &str) {
    let image = image(name);
    let kernel = unpacks_itself(&image.kernel);
    let slides = [1, 2].map(|seed| {
        let mut running = Running::start(&image, Some(kernel.path()), 1, seed);
        running.run_to_lstar();
        let guest = running.discover(None).unwrap();
        check(&running, &guest);
        assert!(guest.build_id().is_some());
        guest.address("_text").unwrap() - 0xffff_ffff_8100_0000
    });
    assert_ne!(slides[0], slides[1], "the kernel has not moved itself");
}

#[test]
fn debian_6_1_moved() {
    stock_kernel("debian-cloud-6.1");
}

#[test]
fn debian_6_12_moved() {
    stock_kernel("debian-cloud-6.12");
}

#[test]
fn debian_7_2_moved() {
    stock_kernel("debian-cloud-7.2");
}

#[test]
fn symbols_of_another_kernel_are_refused() {
    let mut running = Running::start(&image("linux-6.12-debug"), None, 1, 1);
    let early = running.discover(None).unwrap_err().to_string();
    assert!(early.contains("has not set its system call entry"), "{early}");
    running.run_to_lstar();
    let own = running.discover(None).unwrap();
    let other = image("linux-7.2-debug").kernel;
    let open = |file: &str| SymbolFile::open(&other.parent().unwrap().join(file)).unwrap();
    let error = running.discover(Some(&open("vmlinux"))).unwrap_err().to_string();
    assert!(
        error.contains(&own.build_id().unwrap().to_string()) && error.contains("vmlinux: its build-id is "),
        "{error}"
    );
    let error = running.discover(Some(&open("System.map"))).unwrap_err().to_string();
    assert!(error.contains("System.map: these are symbols of another kernel"), "{error}");
    assert!(SymbolFile::open(Path::new("/proc/self/exe")).is_err());
}
