//! The driver is unbound from the function and bound to it a hundred times, and nothing is lost.

use crate::common::{images, rdma};
use crate::guest::OPTIONS;
use libtest_mimic::{Failed, Trial};

const IMAGE: &str = "linux-6.12-debug";
/// Prints dma-debug's free entries after each unbinding and binding. What programs make the
/// driver keep for later (pools of mailboxes) it gives back when it is unbound.
const SCRIPT: &str = "
    debug=/sys/kernel/debug/dma-api
    verify='verbs-verify --polling --size 4097 rc.send rc.read rc.write-imm fault.no-receive object.destroy'
    cd /sys/bus/pci/drivers/mlx5_core
    cycle=1
    while test $cycle -le 100; do
        echo 0000:08:00.0 > unbind && test ! -e /dev/infiniband/uverbs0 || exit 1
        echo unbound $(cat $debug/num_free_entries)
        echo 0000:08:00.0 > bind && test -e /dev/infiniband/uverbs0 || exit 1
        echo bound $(cat $debug/num_free_entries)
        if test $((cycle % 25)) = 1; then
            $verify > /tmp/output || { cat /tmp/output; exit 1; }
        fi
        cycle=$((cycle + 1))
    done";

pub fn trial() -> Trial {
    images::trial(
        "a_hundred_rebindings_lose_nothing".into(),
        IMAGE,
        |_| {},
        |image| {
            let outcome = rdma::in_guest(image, "", &OPTIONS, SCRIPT)?;
            if outcome.status != 0 || outcome.error_count != Some(0) {
                return Err(outcome.to_string().into());
            }
            same(&outcome.output, "bound")?;
            same(&outcome.output, "unbound")
        },
    )
}

/// A hundred lines of that kind have one number.
fn same(output: &str, kind: &str) -> Result<(), Failed> {
    let numbers: Vec<u32> = output
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(first, _)| *first == kind)
        .map(|(_, number)| number.parse())
        .collect::<Result<_, _>>()?;
    if numbers.len() != 100 || numbers.iter().any(|number| Some(number) != numbers.first()) {
        return Err(format!("dma-debug's free entries while {kind}: {numbers:?}").into());
    }
    Ok(())
}
