//! Stacks, tasks, modules and structures of running kernels, at whatever instruction they are stopped. Images:
//! linux-{6.1,6.12,7.2}-debug, debian-cloud-{6.1,6.12,7.2}.

mod common;

use common::guest::{Running, image, unpacks_itself};
use staleline::guest::{Frame, Guest, How, LayoutOrigin};
use std::collections::BTreeSet;

/// Virtual time between looks, before the first program has been started and after: no multiple of anything that the guest
/// does in step.
const STEPS: (u64, u64) = (100_003, 1_009);
/// Most looks at a guest, which is idle in the end.
const LOOKS: u32 = 40_000;
/// Most steps until a guest has loaded its drivers.
const DRIVERS: u32 = 20_000;

/// What has been seen at the stops.
#[derive(Debug, Default)]
struct Seen {
    /// Stops in the kernel while it does a system call.
    calls: u32,
    /// Stops in the kernel while it handles an interrupt or exception.
    interrupts: u32,
    /// Stops in user space.
    user: u32,
    /// Names of tasks.
    tasks: BTreeSet<String>,
    /// Modules of frames.
    modules: BTreeSet<String>,
}

fn names(guest: &Guest, frames: &[Frame]) -> Vec<String> {
    frames.iter().map(|frame| guest.describe(frame)).collect()
}

/// Looks at the guest where it is.
fn look(running: &Running, guest: &mut Guest, seen: &mut Seen) {
    let machine = running.machine.lock();
    let registers = running.registers(0);
    let frames = guest.backtrace(machine.ram(), &registers, 64);
    let trace = names(guest, &frames);
    // What is run before alternative instructions are chosen has no entries in the kernel's tables; and while an exception's
    // registers are pushed its return address is in RSI, which no entry can say (PUSH_REGS of arch/x86/entry/calling.h).
    let unknown = ["_einittext+", "__x86_indirect_thunk_", "error_entry+"];
    if unknown.iter().any(|name| trace[0].contains(name)) {
        return;
    }
    assert!(frames.iter().all(|frame| frame.how != How::Guess), "{trace:#?}");
    let Some(task) = guest.task(machine.ram(), &registers) else {
        // Per-CPU areas are not there from the start.
        assert!(seen.calls == 0 && registers.cpl == 0, "{trace:#?}");
        return;
    };
    assert!(!task.comm.is_empty() && task.pid < 1000 && task.tgid <= task.pid, "{task:?}");
    seen.tasks.insert(task.comm);
    let symbols: Vec<_> = frames.iter().filter_map(|frame| guest.resolve_frame(frame)).collect();
    seen.modules.extend(symbols.iter().filter_map(|symbol| symbol.module).map(str::to_owned));
    let (last, before) = frames.split_last().unwrap();
    assert!(before.iter().all(|frame| !frame.user), "{trace:#?}");
    if registers.cpl == 3 {
        assert!(before.is_empty() && last.user, "{trace:#?}");
        seen.user += 1;
        return;
    }
    assert_eq!(symbols.len(), frames.len() - usize::from(last.user), "{trace:#?}");
    let outermost = symbols.last().unwrap();
    let text = ["__entry_text_start", "__entry_text_end"].map(|name| guest.address(name).unwrap());
    let outermost_at = if last.user { before.last().unwrap() } else { last }.address;
    let in_entry = (text[0]..=text[1]).contains(&outermost_at);
    if symbols.iter().any(|symbol| symbol.name == "do_syscall_64") {
        // The entry's labels have names of their own.
        assert!(outermost.name.starts_with("entry_SYSCALL_64") && last.user, "{trace:#?}");
        seen.calls += 1;
    } else if !in_entry {
        // Kernel threads, and what has become the first of them.
        let starts = ["ret_from_fork", "secondary_startup_64", "common_startup_64"];
        assert!(starts.iter().any(|name| outermost.name.starts_with(name)) && !last.user, "{trace:#?}");
    }
    if symbols.iter().any(|symbol| symbol.name.starts_with("asm_")) {
        seen.interrupts += 1;
    }
}

fn boot(mut running: Running, origin: &LayoutOrigin) -> (Running, Guest, Seen) {
    running.run_to_lstar();
    let mut guest = running.discover(None).unwrap();
    assert_eq!(guest.layout_origin().as_ref(), Ok(origin));
    assert!(guest.can_unwind());
    let mut seen = Seen::default();
    let enough = |seen: &Seen| seen.calls >= 60 && seen.user >= 1 && seen.tasks.len() > 1;
    for _ in 0..LOOKS {
        running.run_for(if seen.tasks.contains("init") { STEPS.1 } else { STEPS.0 });
        look(&running, &mut guest, &mut seen);
        if enough(&seen) {
            break;
        }
    }
    assert!(enough(&seen), "{seen:?}");
    // A copy made anew sees the same.
    let mut again = running.discover(None).unwrap();
    let registers = running.registers(0);
    let machine = running.machine.lock();
    let frames = guest.backtrace(machine.ram(), &registers, 64);
    assert_eq!(again.backtrace(machine.ram(), &registers, 64), frames);
    assert_eq!(names(&again, &frames), names(&guest, &frames));
    drop(machine);
    (running, guest, seen)
}

fn debug_kernel(series: &str) {
    let running = Running::start(&image(&format!("linux-{series}-debug")), None, 1, 1);
    boot(running, &LayoutOrigin::Table(series.into()));
}

#[test]
fn linux_6_1_debug() {
    debug_kernel("6.1");
}

#[test]
fn linux_6_12_debug() {
    debug_kernel("6.12");
}

#[test]
fn linux_7_2_debug() {
    debug_kernel("7.2");
}

fn stock_kernel(series: &str) {
    let image = image(&format!("debian-cloud-{series}"));
    let kernel = unpacks_itself(&image.kernel);
    let running = Running::start(&image, Some(kernel.path()), 1, 1);
    let (mut running, mut guest, _) = boot(running, &LayoutOrigin::Memory);
    // Its init loads drivers.
    for _ in 0..DRIVERS {
        running.run_for(STEPS.0);
        guest.refresh(running.machine.lock().ram());
        if guest.modules().any(|name| name == "mlx5_core") {
            break;
        }
    }
    assert_eq!(guest.offset("device.kobj.name"), Ok(0));
    assert_eq!(guest.size_of("scatterlist"), Ok(32));
    let error = guest.offset("device.none").unwrap_err().to_string();
    assert_eq!(error, "there is no device.none by the kernel's BTF");
    // Their functions have names, and code in which they end.
    let modules: Vec<_> = guest.modules().map(str::to_owned).collect();
    assert!(modules.iter().any(|name| name == "mlx5_core"), "{modules:?}");
    let probe = guest.address("mlx5_cmd_exec").unwrap();
    let symbol = guest.resolve(probe + 0x1c).unwrap();
    assert_eq!((symbol.name, symbol.module), ("mlx5_cmd_exec", Some("mlx5_core")));
    assert!(running.machine.lock().ram().contains(0, 1));
}

#[test]
fn debian_6_1() {
    stock_kernel("6.1");
}

#[test]
fn debian_6_12() {
    stock_kernel("6.12");
}

#[test]
fn debian_7_2() {
    stock_kernel("7.2");
}
