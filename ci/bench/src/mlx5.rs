//! What the emulated ConnectX function does: its own work in host time over a plain memory port with no guest, and round
//! trips of a stock program in a guest.

use crate::table::Figure;
use crate::timing::Run;
use anyhow::{Result, ensure};
use driver_model::mlx5_verbs::{Cq, Pair, PairSpec, SendRequest, Sge, Verbs, pattern, transport};
use guest_images::Store;
use guest_images::progress::for_stderr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Device time that a round takes at least.
const ROUND: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Send,
    Write,
    Read,
}

/// One kind of traffic.
#[derive(Debug)]
struct Traffic {
    title: &'static str,
    operation: Operation,
    /// Bytes of a message.
    len: u32,
    /// Messages for one doorbell.
    batch: usize,
    /// Counts bytes rather than messages.
    counts_bytes: bool,
    target: Option<f64>,
}

const MESSAGES: f64 = 1e6;
const BYTES: f64 = 2e9;

const TRAFFIC: &[Traffic] = &[
    Traffic {
        title: "SEND of 64 B, RC",
        operation: Operation::Send,
        len: 64,
        batch: 256,
        counts_bytes: false,
        target: Some(MESSAGES),
    },
    Traffic {
        title: "WRITE of 64 B, RC",
        operation: Operation::Write,
        len: 64,
        batch: 256,
        counts_bytes: false,
        target: Some(MESSAGES),
    },
    Traffic {
        title: "SEND of 64 KiB, RC",
        operation: Operation::Send,
        len: 64 << 10,
        batch: 64,
        counts_bytes: true,
        target: Some(BYTES),
    },
    Traffic {
        title: "WRITE of 1 MiB, RC",
        operation: Operation::Write,
        len: 1 << 20,
        batch: 16,
        counts_bytes: true,
        target: Some(BYTES),
    },
    Traffic {
        title: "READ of 1 MiB, RC",
        operation: Operation::Read,
        len: 1 << 20,
        batch: 16,
        counts_bytes: true,
        target: None,
    },
];

/// Measures the device alone.
pub(crate) fn device(rounds: u32) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for traffic in TRAFFIC {
        let unit = if traffic.counts_bytes { "GB/s" } else { "M messages/s" };
        let scale = if traffic.counts_bytes { 1e9 } else { 1e6 };
        let mut figure = Figure::new(format!("mlx5: {}", traffic.title), unit);
        figure.target = traffic.target.map(|target| target / scale);
        for _ in 0..rounds {
            figure.values.push(traffic.measure()? / scale);
        }
        figures.push(figure);
    }
    Ok(figures)
}

impl Traffic {
    /// Messages or bytes a second. Only the device is timed, from the doorbell to its rest; every message is signalled.
    fn measure(&self) -> Result<f64> {
        let mut verbs = Verbs::open();
        let (mut sent, mut received) = (Cq::new(&mut verbs, 9), Cq::new(&mut verbs, 9));
        let spec = PairSpec {
            receive_cq: received.cqn,
            log_send: Some(11),
            log_receive: 9,
            ..PairSpec::new(transport::RC, sent.cqn)
        };
        let mut pair = Pair::loopback(&mut verbs, spec);
        let from = verbs.memory(self.len.into());
        let to = verbs.memory(self.len.into());
        let (from_key, to_key) = (verbs.register(from, self.len.into()), verbs.register(to, self.len.into()));
        let data = pattern(1, self.len as usize);
        verbs.fill(from, &data);
        let (local, remote) = (Sge::new(from, self.len, from_key), Sge::new(to, self.len, to_key));
        let request = match self.operation {
            Operation::Send => SendRequest::send(&[local]),
            Operation::Write => SendRequest::write(to, to_key, &[local]),
            Operation::Read => SendRequest::read(from, from_key, &[remote]),
        };
        let mut time = Duration::ZERO;
        let mut messages = 0u64;
        while time < ROUND {
            for _ in 0..self.batch {
                if self.operation == Operation::Send {
                    pair.receive(&mut verbs, &[remote]);
                }
                pair.place(&mut verbs, &request);
            }
            let start = Instant::now();
            pair.ring(&mut verbs);
            verbs.settle();
            time += start.elapsed();
            let mut done = 0;
            while let Some(cqe) = sent.poll(&mut verbs) {
                ensure!(!cqe.is_error(), "{}: {cqe:x?}", self.title);
                done += 1;
            }
            while received.poll(&mut verbs).is_some() {}
            ensure!(done == self.batch, "{}: {done} of {} messages complete", self.title, self.batch);
            messages += done as u64;
        }
        ensure!(verbs.bytes(to, data.len()) == data, "{}: the data has not arrived", self.title);
        let count = if self.counts_bytes { messages * u64::from(self.len) } else { messages };
        Ok(count as f64 / time.as_secs_f64())
    }
}

/// Round trips of 4 KiB that ibv_rc_pingpong makes in a guest.
struct PingPong {
    title: &'static str,
    cpus: &'static str,
    /// Waits by events rather than by polling.
    options: &'static str,
    iterations: u32,
}

const PING_PONG: &[PingPong] = &[
    PingPong { title: "polling, 2 vCPUs", cpus: "2", options: "", iterations: 20_000 },
    PingPong { title: "events, 1 vCPU", cpus: "1", options: "-e", iterations: 10_000 },
];

/// Measures round trips in a guest of the debugging kernel.
pub(crate) fn ping_pong(staleline: &Path, rounds: u32) -> Result<Vec<Figure>> {
    Store::open(None)?.ensure("linux-6.12-debug", &*for_stderr())?;
    let mut figures = Vec::new();
    for kind in PING_PONG {
        let mut figure = Figure::new(format!("ibv_rc_pingpong of 4 KiB, {}", kind.title), "iterations/s");
        for round in 1..=rounds {
            eprintln!("pingpong, {}: round {round} of {rounds}", kind.title);
            let options = format!("{} -s 4096 -n {}", kind.options, kind.iterations);
            // The server listens before the client begins. Both say much, with times of the guest's own clock.
            let script = format!(
                "ip link set lo up; ibv_rc_pingpong {options} >/dev/null & sleep 1; echo workload begins
                ibv_rc_pingpong {options} localhost >/dev/null && echo workload ends 0; wait"
            );
            let mut command = Command::new(staleline);
            command.args(["run", "--engine", "soft", "--kernel", "linux-6.12-debug", "--cpus", kind.cpus]);
            command.args(["--device", "mlx5,slot=8", "--", "sh", "-c", &script]);
            let timing = Run::new(command).time(true)?;
            figure.values.push(f64::from(kind.iterations) / timing.work.as_secs_f64());
        }
        figures.push(figure);
    }
    Ok(figures)
}
