//! kverbs, the in-kernel user of the mlx5 function, in guests of several kernels: every byte is right, on coherent and on
//! bounced DMA; the deliberate bug is found where it can do harm; nothing is left behind.
//!
//! Images (built at first use): linux-6.1-debug, linux-6.12-debug, linux-7.2-debug and debian-cloud-6.12.

mod common;

use common::path;
use common::rdma::{Outcome, in_guest, kverbs};
use common::{images, kernel_log};
use guest_images::Image;
use libtest_mimic::{Arguments, Failed};
use std::path::Path;
use std::process::ExitCode;

const ALL: &[&str] = &["linux-6.1-debug", "linux-6.12-debug", "linux-7.2-debug", "debian-cloud-6.12"];
const DEBUG: &[&str] = &["linux-6.12-debug", "linux-7.2-debug"];
const CONDITIONS: [(&str, &str); 2] = [("coherent", ""), ("bounced", "swiotlb=force")];
/// mlx5_ib lets the kernel do these, but none of the atomics ("Atomic operations are not supported yet").
const OPERATIONS: [&str; 6] = ["send", "send_imm", "send_inv", "write", "write_imm", "read"];

/// Loads the module. `go NAME=VALUE…` then sets parameters and runs it.
const RUN: &str = "go() {
        for setting; do echo ${setting#*=} > /sys/module/kverbs/parameters/${setting%%=*} || return; done
        echo run > /proc/kverbs
    }
    insmod /kverbs.ko && ";

type Test = fn(&Image, &Path, &'static str) -> Result<(), Failed>;

fn main() -> ExitCode {
    let tests: [(&str, &[&'static str], Test); 5] = [
        ("every_byte_is_right", ALL, every_byte_is_right),
        ("the_global_key_serves_as_well", DEBUG, the_global_key_serves_as_well),
        (
            "a_missing_sync_is_seen_where_memory_is_bounced",
            ALL,
            a_missing_sync_is_seen_where_memory_is_bounced,
        ),
        ("the_device_may_go_and_come_back", DEBUG, the_device_may_go_and_come_back),
        ("two_runs_are_the_same", DEBUG, two_runs_are_the_same),
    ];
    let mut trials = vec![];
    for (name, on, test) in tests {
        for image in on {
            for (condition, cmdline) in CONDITIONS {
                let name = format!("{name}::{image}::{condition}");
                trials.push(images::trial(
                    name,
                    image,
                    |_| {},
                    move |image| test(image, &kverbs(image)?, cmdline),
                ));
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Runs `script` after the module was loaded, with two vCPUs: each side's completions have their own.
fn guest(image: &Image, module: &Path, cmdline: &str, script: &str) -> Result<Outcome, Failed> {
    in_guest(
        image,
        cmdline,
        &["--device", "mlx5", "--cpus", "2", "--file", path(module)],
        &format!("{RUN}{{ {script}\n}}"),
    )
}

/// The script has succeeded, dma-debug has counted nothing and the log has no line that the rules do not allow.
fn assert_clean(image: &Image, outcome: &Outcome) -> Result<(), Failed> {
    let errors = image.name.ends_with("-debug").then_some(0);
    let judgement = kernel_log::judge(&outcome.log, &outcome.release);
    if outcome.status != 0 || outcome.error_count != errors || !judgement.unexpected.is_empty() {
        return Err(format!("{judgement:?}\n{outcome}").into());
    }
    Ok(())
}

fn assert_says(outcome: &Outcome, text: &str) -> Result<(), Failed> {
    if outcome.output.contains(text) { Ok(()) } else { Err(format!("no {text:?} in {outcome}").into()) }
}

/// Messages of a byte, of less, of as much and of more than a page, of many pages; whole and in pieces; so many that every
/// queue comes round again and again.
fn every_byte_is_right(image: &Image, module: &Path, cmdline: &'static str) -> Result<(), Failed> {
    let outcome = guest(image, module, cmdline, "
        go && cat /proc/kverbs &&
        go size=1 iterations=40 && go size=63 && go sges=2 && go size=4097 iterations=3 && go sges=4 && go size=70001 &&
        go size=200000 sges=1 iterations=2 && cat /proc/kverbs && rmmod kverbs && ! test -e /proc/kverbs")?;
    assert_clean(image, &outcome)?;
    assert_says(
        &outcome,
        "mlx5_0: ok, 16 iterations each way, 4096 bytes in 1 pieces, keys by fast registration, LID 1\n",
    )?;
    assert_says(&outcome, "mlx5_0: ok, 2 iterations each way, 200000 bytes in 1 pieces")?;
    for operation in OPERATIONS {
        assert_says(&outcome, &format!("\n  {operation}: 32 messages, every byte right\n"))?;
        assert_says(&outcome, &format!("\n  {operation}: 4 messages, every byte right\n"))?;
    }
    assert_says(&outcome, "\n  fetch_add: not offered to the kernel\n  cmp_swap: not offered to the kernel\n")
}

fn the_global_key_serves_as_well(image: &Image, module: &Path, cmdline: &'static str) -> Result<(), Failed> {
    let outcome = guest(
        image,
        module,
        cmdline,
        "
        go unsafe_rkey=1 size=9000 sges=3 iterations=4 && cat /proc/kverbs && rmmod kverbs",
    )?;
    assert_clean(image, &outcome)?;
    assert_says(&outcome, "keys by the global key")?;
    assert_says(&outcome, "\n  read: 8 messages, every byte right\n")?;
    assert_says(&outcome, "\n  send_inv: not offered to the kernel\n")
}

/// Without its dma_sync the kernel sees what it had written before, for each kind of message; but where DMA goes to the memory
/// itself there is nothing to be seen.
fn a_missing_sync_is_seen_where_memory_is_bounced(
    image: &Image,
    module: &Path,
    cmdline: &'static str,
) -> Result<(), Failed> {
    if cmdline.is_empty() {
        let outcome = guest(image, module, cmdline, "go skip_sync=1 && cat /proc/kverbs && rmmod kverbs")?;
        assert_clean(image, &outcome)?;
        return assert_says(&outcome, "mlx5_0: ok");
    }
    let runs: String = OPERATIONS
        .iter()
        .map(|it| format!("go skip_sync=1 operations={it} size=100; echo ended $?; cat /proc/kverbs\n"))
        .collect();
    let outcome =
        guest(image, module, cmdline, &format!("{runs} go skip_sync=0 operations=all && rmmod kverbs"))?;
    if outcome.status != 0 {
        return Err(format!("{outcome}").into());
    }
    for operation in OPERATIONS {
        let found = format!(
            "ended 1\nmlx5_0: failed (-5): {operation}, iteration 0, side 0 to 1: 100 of 100 bytes are wrong (100 of \
             them stale: what the CPU had written before), first at 0: expected "
        );
        assert_says(&outcome, &found)?;
        if !outcome.log.contains(&found["ended 1\n".len()..]) {
            return Err(format!("the log does not say {found:?}: {outcome}").into());
        }
    }
    Ok(())
}

/// The function is unbound from its driver with a run under way, then bound again; then the module is unloaded with a run
/// under way.
fn the_device_may_go_and_come_back(
    image: &Image,
    module: &Path,
    cmdline: &'static str,
) -> Result<(), Failed> {
    let outcome = guest(
        image,
        module,
        cmdline,
        "
        driver=/sys/bus/pci/drivers/mlx5_core
        { go iterations=100000; echo ended $?; } &
        sleep 1
        echo 0000:08:00.0 > $driver/unbind
        wait
        echo \"there is $(cat /proc/kverbs)\"
        echo run > /proc/kverbs || echo refused
        echo 0000:08:00.0 > $driver/bind
        cat /proc/kverbs
        go iterations=3 || exit
        { go iterations=100000; echo ended $?; } &
        sleep 1
        rmmod kverbs && wait && ! test -e /proc/kverbs",
    )?;
    if outcome.status != 0 || outcome.error_count.is_some_and(|count| count != 0) {
        return Err(format!("{outcome}").into());
    }
    let lines: Vec<&str> =
        outcome.output.lines().filter(|line| !line.starts_with("sh: write error")).collect();
    if lines != ["ended 1", "there is ", "refused", "mlx5_0: not run yet", "ended 1"] {
        return Err(format!("{outcome}").into());
    }
    for text in ["sh: write error: No such device", "mlx5_0: failed (-19): "] {
        if !outcome.output.contains(text) && !outcome.log.contains(text) {
            return Err(format!("nothing says {text:?}: {outcome}").into());
        }
    }
    Ok(())
}

fn two_runs_are_the_same(image: &Image, module: &Path, cmdline: &'static str) -> Result<(), Failed> {
    let once =
        || guest(image, module, cmdline, "go verbose=1 iterations=3 size=777 sges=2 && cat /proc/kverbs");
    let (first, second) = (once()?, once()?);
    assert_says(&first, "mlx5_0: ok")?;
    if (&first.output, &first.log) != (&second.output, &second.log) {
        return Err(format!("{}\n\n{}", first.log, second.log).into());
    }
    Ok(())
}
