//! Saved machines: a run that goes on from a file is the run that a boot of its own would have been, and a file that is no
//! saved machine is refused by name. Image: linux-6.12-debug, built at first use.

mod common;

use common::session::{Ran, boot, cold, config, run, shell};
use staleline::engine::Kick;
use staleline::session::{Cause, SessionConfig, Template};

/// Saves a machine of `config`, and restores it twice: once each for works with RDMA traffic, devices and a new seed.
fn restored_runs_equal_cold_runs(config: &SessionConfig) {
    let works = [
        shell(
            "peer-walk --nodes 4 && (ibv_rc_pingpong -c -n 20 & sleep 1; ibv_rc_pingpong -c -n 20 127.0.0.1) && exit 5",
            None,
        ),
        shell("head -c 64 /dev/hwrng | md5sum; cat /proc/interrupts; echo more > /dev/hvc0; date", Some(7)),
    ];
    let (_folder, path) = common::new_file();
    let template = boot(config).unwrap();
    let length = template.save(&path, "the image").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
    let forks: Vec<Ran> = works
        .each_ref()
        .map(|work| run(template.fork(work, config.deadline, Kick::default()).unwrap()))
        .into();
    drop(template);
    for (work, fork) in works.iter().zip(&forks) {
        let restored = Template::restore(&path).unwrap();
        assert_eq!((&*restored.guest, restored.machine.cpus), ("the image", config.machine.cpus));
        let ran = run(restored.template.fork(work, config.deadline, Kick::default()).unwrap());
        assert_eq!(ran, *fork, "{work:?}");
        assert_eq!(ran, cold(config, work), "{work:?}");
    }
    assert_eq!(forks[0].outcome.cause, Cause::Exited(5), "{forks:?}");
}

#[test]
fn with_one_vcpu() {
    restored_runs_equal_cold_runs(&config(1));
}
