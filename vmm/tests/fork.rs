//! Forks of a booted machine: each is the run that a boot of its own would have been. Image: linux-6.12-debug, built at first
//! use.

mod common;

use common::bare_kernel;
use common::session::{Ran, boot, cold, config, run, shell};
use staleline::engine::{EngineKind, Kick};
use staleline::machine::{IommuSpec, MachineConfig};
use staleline::session::{Cause, SessionConfig, SessionError, Watch, Work};

/// Several forks of one template at once, on threads, each beside the run that boots by itself.
fn forks_equal_cold_runs(cpus: u32) {
    let config = config(cpus);
    let rdma = "ibv_devinfo && regtwice; echo more > /dev/kmsg; sleep 3; date; cat /proc/uptime; exit 5";
    // The driver has read ahead: only what comes later is of the new seed.
    let random = "head -c 4096 /dev/hwrng | md5sum; cat /proc/interrupts; echo err >&2; kill -9 $$";
    let works = [
        shell(rdma, None),
        shell(random, None),
        shell(random, Some(7)),
        Work { argv: vec!["/nonexistent".into()], seed: None },
    ];
    let template = boot(&config).unwrap();
    let forked: Vec<Ran> = std::thread::scope(|scope| {
        let fork = |work| run(template.fork(work, config.deadline, Kick::default()).unwrap());
        let threads: Vec<_> = works.iter().map(|work| scope.spawn(move || fork(work))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (work, forked) in works.iter().zip(&forked) {
        assert_eq!(*forked, cold(&config, work), "{work:?}");
        assert!(forked.outcome.virtual_nanos > template.virtual_nanos());
    }
    let causes = forked.iter().map(|ran| ran.outcome.cause.clone()).collect::<Vec<_>>();
    assert_eq!(causes, [Cause::Exited(5), Cause::Signalled(9), Cause::Signalled(9), Cause::Exited(127)]);
    let [bound, random, seeded, _] = &forked[..] else { unreachable!("four works") };
    assert!(bound.stdout.contains("PORT_ACTIVE") && bound.console.contains("cacheline tracking EEXIST"));
    assert!(bound.console.contains("Linux version 6.12"), "a fork's console begins with the boot");
    assert_eq!(random.stderr, "err\n");
    assert_ne!(random.stdout.lines().next(), seeded.stdout.lines().next(), "a seed of its own: {random:?}");
    // A deadline is a fork's own; virtual time counts from power-on.
    let mark = template.virtual_nanos();
    let slow = shell("echo begun; sleep 100", None);
    let limited = SessionConfig { deadline: Some(mark + 5_000_000_000), ..config.clone() };
    let stopped = run(template.fork(&slow, limited.deadline, Kick::default()).unwrap());
    assert_eq!((&stopped.outcome.cause, &*stopped.stdout), (&Cause::Deadline, "begun\n"));
    assert_eq!(stopped, cold(&limited, &slow));
    let refused = template.fork(&slow, Some(mark), Kick::default());
    assert!(matches!(refused, Err(SessionError::CannotFork(_))), "{refused:?}");
    // The template is as it was.
    assert_eq!(run(template.fork(&works[0], config.deadline, Kick::default()).unwrap()), *bound);
}

#[test]
fn forks_with_one_vcpu_equal_cold_runs() {
    forks_equal_cold_runs(1);
}

#[test]
fn forks_with_two_vcpus_equal_cold_runs() {
    forks_equal_cold_runs(2);
}

#[test]
fn a_guest_that_never_gets_ready_is_an_error() {
    // jmp .
    let kernel = bare_kernel(&[0xeb, 0xfe]);
    let config = SessionConfig {
        machine: MachineConfig {
            memory: 64 << 20,
            cpus: 1,
            seed: 1,
            devices: Vec::new(),
            cache: staleline::memory::CacheSpec::off(),
            iommu: IommuSpec::Off,
            confidential: None,
        },
        engine: EngineKind::Soft,
        kernel: kernel.path().to_owned(),
        initrd: Vec::new(),
        command_line: Some(String::new()),
        deadline: Some(1_000_000),
        work: None,
        watch: Watch::default(),
    };
    let error = boot(&config).unwrap_err();
    let SessionError::NotReady(outcome) = &error else { panic!("{error:?}") };
    assert_eq!((&outcome.cause, outcome.virtual_nanos, outcome.ready), (&Cause::Deadline, 1_000_000, false));
    assert_eq!(error.to_string(), "the guest did not come to its ready mark: deadline");
}

#[test]
fn what_cannot_be_had_twice_is_named() {
    let (_folder, path) = common::new_file();
    let kernel = bare_kernel(&[0xeb, 0xfe]);
    let config = SessionConfig {
        machine: MachineConfig {
            memory: 64 << 20,
            cpus: 1,
            seed: 1,
            devices: vec![format!("console,out={}", common::path(&path)).parse().unwrap()],
            cache: staleline::memory::CacheSpec::off(),
            iommu: IommuSpec::Off,
            confidential: None,
        },
        engine: EngineKind::Soft,
        kernel: kernel.path().to_owned(),
        initrd: Vec::new(),
        command_line: Some(String::new()),
        deadline: Some(1_000_000),
        work: None,
        watch: Watch::default(),
    };
    let error = boot(&config).unwrap_err().to_string();
    assert_eq!(error, "this machine cannot be forked: a device of it writes to a file of the host");
}
