//! Reports for tests.

use super::report::{Access, Action, Frame, Mapped, Moment, Report, Task, What};
use cache_model::Verdict;
use cache_model::judge::{Blame, Kind};

fn frame(address: u64, symbol: &str) -> Frame {
    let symbol = (!symbol.is_empty()).then(|| symbol.to_owned());
    Frame { address, symbol, guess: false }
}

/// An application polls memory that a device has written past its cache.
pub fn stale_cpu_read() -> Report {
    let task = Some(Task { pid: 71, name: "onesided".into() });
    let victim = Access {
        who: "vCPU 0".into(),
        action: Action::Load,
        purpose: None,
        time: 1_204_118_000,
        backtrace: vec![frame(0x40_1234, "")],
        task: task.clone(),
    };
    let device = "0000:08:00.0 mlx5".to_owned();
    let writer = Access {
        who: device.clone(),
        action: Action::DmaWrite,
        purpose: Some("RDMA WRITE qpn 0x42 mkey 0x1200".into()),
        time: 1_204_000_000,
        backtrace: Vec::new(),
        task: None,
    };
    let moment = |time, what| Moment { time, what, by: None, at: None };
    Report {
        id: 1,
        kind: Kind::StaleCpuRead,
        verdict: Verdict::Manifest,
        blame: Blame::Platform,
        uapi_cannot_sync: true,
        time: 1_204_118_000,
        line: 0x0d42_8040,
        line_size: 64,
        addr: 0x0d42_8040,
        len: 1,
        expected: vec![1],
        found: vec![0],
        ram: vec![1],
        culprit: Some(writer.clone()),
        victim: Some(victim),
        writer: Some(writer),
        mapping: Some(Mapped {
            device: device.clone(),
            addr: 0x0d42_8000,
            len: 0x1000,
            bounced: None,
            direction: "BIDIRECTIONAL".into(),
            attributes: vec!["USER_PINNED".into(), "REQUIRE_COHERENT".into()],
            mapped_at: 1_190_021_000,
            unmapped_at: None,
            backtrace: vec![
                frame(0xffff_ffff_8110_0000, "dma_map_sgtable+0x10"),
                frame(0xffff_ffff_8120_0000, "ib_umem_get+0x1f0"),
            ],
            task,
            unmap_backtrace: Vec::new(),
            unmap_task: None,
        }),
        timeline: vec![
            moment(1_190_021_000, What::Map),
            Moment { at: Some(frame(0x40_1234, "")), ..moment(1_203_500_000, What::Fill) },
            Moment { by: Some(device), ..moment(1_204_000_000, What::DmaWrite) },
            moment(1_204_118_000, What::Observed),
        ],
        notes: Vec::new(),
        kernel: Some("7.2.13 build-id 3f9c0102".into()),
        count: 1,
        again_at: Vec::new(),
        trace: None,
    }
}
