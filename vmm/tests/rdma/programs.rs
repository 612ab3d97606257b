//! Programs of rdma-core and perftest: client and server in one guest.

use crate::guest::{Program, Section};
use libtest_mimic::Failed;

/// Sizes of messages with their number of exchanges.
const SIZES: [(u32, u32); 9] = [
    (1, 200),
    (64, 200),
    (1023, 200),
    (4096, 200),
    (4097, 100),
    (9000, 100),
    (65_536, 50),
    (262_145, 10),
    (1 << 20, 5),
];
/// A listener on TCP port 18515, where the programs exchange their addresses, as /proc/net/tcp shows it.
const LISTENER: &str = ":4853 00000000:0000 0A";

/// The whole matrix.
pub fn all() -> Vec<Program> {
    [pingpongs(), perftests()].concat()
}

/// rdma-core's programs, with messages of many sizes.
pub fn pingpongs() -> Vec<Program> {
    let mut programs = vec![devinfo(), asyncwatch()];
    for (size, count) in SIZES {
        programs.push(pingpong("ibv_rc_pingpong", &format!("-c -s {size} -n {count}")));
        programs.push(pingpong("ibv_rc_pingpong", &format!("-c -e -s {size} -n {count}")));
        programs.push(pingpong("ibv_uc_pingpong", &format!("-c -s {size} -n {count}")));
    }
    for mtu in [256, 512, 2048, 4096] {
        programs.push(pingpong("ibv_rc_pingpong", &format!("-c -s 9000 -n 50 -m {mtu}")));
    }
    for size in [1, 1024, 2048] {
        programs.push(pingpong("ibv_ud_pingpong", &format!("-c -s {size} -n 100")));
        programs.push(pingpong("ibv_ud_pingpong", &format!("-c -e -s {size} -n 100")));
    }
    for (size, count) in [(1, 50), (4096, 50), (65_536, 5)] {
        programs.push(pingpong("ibv_srq_pingpong", &format!("-c -s {size} -n {count}")));
        programs.push(pingpong("ibv_srq_pingpong", &format!("-c -e -s {size} -n {count}")));
    }
    programs.extend([
        pingpong("ibv_rc_pingpong", "-c -N -n 100"),
        pingpong("ibv_rc_pingpong", "-c -t -n 100"),
        pingpong("ibv_uc_pingpong", "-c -e -n 100"),
        pingpong("ibv_xsrq_pingpong", ""),
        pingpong("ibv_xsrq_pingpong", "-e -s 9000"),
    ]);
    programs
}

/// perftest's programs.
fn perftests() -> Vec<Program> {
    [
        ("ib_write_bw", "-s 65536 -n 100"),
        ("ib_write_bw", "-b -s 4096 -n 100"),
        ("ib_write_bw", "-c UC -s 4096 -n 100"),
        ("ib_write_bw", "-q 4 -l 5 -s 512 -n 100"),
        ("ib_write_lat", "-s 8 -n 100"),
        ("ib_write_lat", "-I 0 -s 64 -n 100"),
        ("ib_read_bw", "-s 65536 -n 100"),
        ("ib_read_lat", "-s 8 -n 100"),
        ("ib_send_bw", "-s 65536 -n 100"),
        ("ib_send_bw", "-c UC -s 4096 -n 100"),
        ("ib_send_bw", "-c UD -s 1024 -n 100"),
        ("ib_send_bw", "-c XRC -s 1024 -n 100"),
        ("ib_send_bw", "--use-srq -q 2 -s 1024 -n 100"),
        ("ib_send_bw", "-e -s 4096 -n 100"),
        ("ib_send_lat", "-s 64 -n 100"),
        ("ib_send_lat", "-e -s 64 -n 100"),
        ("ib_send_lat", "-e -c UD -s 64 -n 100"),
        ("ib_read_lat", "-e -s 8 -n 100"),
        ("ib_atomic_lat", "-e -n 100"),
        ("ib_atomic_bw", "-A FETCH_AND_ADD -n 100"),
        ("ib_atomic_bw", "-A CMP_AND_SWAP -n 100"),
        ("ib_atomic_lat", "-n 100"),
    ]
    .map(|(program, arguments)| perftest(program, arguments))
    .into()
}

/// One of each kind.
pub fn few() -> Vec<Program> {
    vec![
        devinfo(),
        pingpong("ibv_rc_pingpong", "-c -s 1 -n 50"),
        pingpong("ibv_rc_pingpong", "-c -e -s 9000 -n 50"),
        pingpong("ibv_rc_pingpong", "-c -s 1048576 -n 3"),
        pingpong("ibv_uc_pingpong", "-c -n 50"),
        pingpong("ibv_ud_pingpong", "-c -n 50"),
        pingpong("ibv_srq_pingpong", "-c -n 10"),
        pingpong("ibv_xsrq_pingpong", ""),
        perftest("ib_write_bw", "-s 65536 -n 100"),
        perftest("ib_read_lat", "-s 8 -n 100"),
        perftest("ib_send_bw", "-s 4096 -n 100"),
        perftest("ib_atomic_bw", "-n 100"),
    ]
}

fn devinfo() -> Program {
    let judge = |section: &Section| {
        let keys = [
            "PORT_ACTIVE (4)",
            "port_lid:\t\t1",
            "link_layer:\t\tInfiniBand",
            "max_qp:\t\t\t\t256",
            "max_qp_rd_atom:\t\t\t16",
            "atomic_cap:\t\t\tATOMIC_HCA (1)",
            "max_msg_sz:\t\t0x40000000",
        ];
        match keys.iter().find(|key| !section.output.contains(**key)) {
            Some(key) => Err(format!("no {key:?} in\n{}", section.output).into()),
            None => Ok(()),
        }
    };
    Program { name: "ibv_devinfo -v".into(), script: "ibv_devinfo -v".into(), judge }
}

/// Waits for asynchronous events, of which there are none: it is ended from outside, and says which device it watches.
fn asyncwatch() -> Program {
    let judge = |section: &Section| match section.output.lines().next() {
        Some("mlx5_0: async event FD 4") => Ok(()),
        _ => Err(section.output.as_str().into()),
    };
    let script = "timeout 1 ibv_asyncwatch; test $? = 143";
    Program { name: "ibv_asyncwatch".into(), script: script.into(), judge }
}

/// A server in the background, and a client once it listens; their outputs, server's first, and their statuses. The
/// driver must not have logged a command that the device refused.
fn pair(program: &str, arguments: &str) -> String {
    format!(
        "dmesg -c > /dev/null
         {program} {arguments} > /tmp/server 2>&1 & server=$!
         while ! grep -q \"{LISTENER}\" /proc/net/tcp && kill -0 $server 2> /dev/null; do sleep 0.01; done
         {program} {arguments} 127.0.0.1 > /tmp/client 2>&1; client=$?
         test $client = 0 || kill $server 2> /dev/null
         wait $server; server=$?
         cat /tmp/server; echo; cat /tmp/client
         test $server = 0 && test $client = 0 && ! dmesg | grep \"failed, status\""
    )
}

fn pingpong(program: &str, arguments: &str) -> Program {
    let name = format!("{program} {arguments}").trim().to_owned();
    Program { name, script: pair(program, arguments), judge: judge_pingpong }
}

/// Both sides tell what they have moved, and neither has seen invalid data.
fn judge_pingpong(section: &Section) -> Result<(), Failed> {
    let output = &section.output;
    let count = |text: &str| output.lines().filter(|line| line.contains(text)).count();
    if output.contains("invalid data") {
        return Err(format!("invalid data\n{output}").into());
    }
    // ibv_xsrq_pingpong does not measure.
    let (bytes, exchanges, successes) = (count("bytes in"), count("iters in"), count("success"));
    match (bytes, exchanges, successes) {
        (2, 2, 0) | (0, 0, 2) => Ok(()),
        _ => Err(format!("no two results in\n{output}").into()),
    }
}

fn perftest(program: &str, arguments: &str) -> Program {
    let name = format!("{program} {arguments}").trim().to_owned();
    // The frequency of the processor need not be measured.
    Program { name, script: pair(program, &format!("-F {arguments}")), judge: judge_perftest }
}

/// A line of results is numbers only: size, iterations, peak rate or least time, average rate or greatest time, and more.
/// There is one at least, and no average is zero. A receiver measures no peak.
fn judge_perftest(section: &Section) -> Result<(), Failed> {
    let numbers = |line: &str| -> Option<Vec<f64>> {
        line.split_whitespace().map(|field| field.parse().ok()).collect::<Option<_>>()
    };
    let results: Vec<_> =
        section.output.lines().filter_map(numbers).filter(|result| result.len() >= 4).collect();
    let measured = |result: &Vec<f64>| [0, 1, 3].iter().all(|at| result.get(*at).is_some_and(|n| *n > 0.0));
    if results.is_empty() || !results.iter().all(measured) {
        return Err(format!("no result, or one of zero, in\n{}", section.output).into());
    }
    Ok(())
}

pub fn judges_tell_good_from_bad() {
    let section = |output: &str| Section { output: output.to_owned(), status: 0, dma_errors: None };
    let side =
        "8192000 bytes in 0.01 seconds = 8000.00 Mbit/sec\n1000 iters in 0.01 seconds = 8.00 usec/iter\n";
    assert!(judge_pingpong(&section(&side.repeat(2))).is_ok());
    assert!(judge_pingpong(&section(side)).is_err(), "one side only");
    assert!(judge_pingpong(&section("success\nsuccess\n")).is_ok());
    assert!(judge_pingpong(&section(&format!("invalid data in page 0\n{}", side.repeat(2)))).is_err());

    let header = " #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]\n";
    assert!(judge_perftest(&section(&format!("{header} 65536 200 100.00 90.00 0.001\n"))).is_ok());
    assert!(
        judge_perftest(&section(&format!("{header} 65536 200 0.00 90.00 0.001\n"))).is_ok(),
        "a receiver"
    );
    assert!(judge_perftest(&section(header)).is_err());
    assert!(judge_perftest(&section(&format!("{header} 65536 200 0.00 0.00 0.000\n"))).is_err());
}
