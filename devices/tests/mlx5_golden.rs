//! The driver model goes through the recorded command traces of the stock driver, in order.
//!
//! `data/mlx5-commands-*.txt` are what the stock driver and rdma-core sent to a device: bring-up, `ibv_devinfo`, two
//! overlapping memory registrations, (InfiniBand) `ibv_rc_pingpong`, and teardown. Every command is issued with the
//! recorded lengths and parameters and must succeed with the recorded object number.

use devices::mlx5::layout::capabilities::general;
use devices::mlx5::layout::commands::{
    CONTEXT, EQ_NUMBER, OBJECT, PAGES, access_register, adapter, issi, mkey, pages, qp, rmp, vport,
};
use devices::mlx5::layout::contexts::{ads, cqc, mkc, qpc, rmpc, wq, xrc_srqc};
use devices::mlx5::layout::port::{hca_vport, nic_vport, pmtu, ptys, pvlc};
use devices::mlx5::{AccessMode, Mlx5Config, PortType};
use driver_model::mlx5_model::{Driver, EqParam, PAGE, command, fill_pages, get, set};
use std::collections::BTreeMap;

const INFINIBAND: &str = include_str!("data/mlx5-commands-ib.txt");
const ETHERNET: &str = include_str!("data/mlx5-commands-eth.txt");

/// Status of a command on an object that another still uses.
const BUSY: u8 = 0x09;

/// A line of a trace that the driver caused.
#[derive(Debug)]
enum Step<'a> {
    Command(Recorded<'a>),
    /// A write of 8 bytes at this offset of BAR 0.
    Doorbell {
        offset: u64,
        value: u64,
    },
}

/// A recorded command.
#[derive(Debug)]
struct Recorded<'a> {
    number: u32,
    opcode: u16,
    op_mod: u16,
    in_len: usize,
    out_len: usize,
    words: Vec<&'a str>,
}

impl<'a> Recorded<'a> {
    fn parse(line: &'a str) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |key: &str| words.iter().position(|word| *word == key).map(|at| words[at + 1]);
        Self {
            number: words[1].parse().unwrap(),
            opcode: u16::from_str_radix(words[2], 16).unwrap(),
            op_mod: after("op_mod").unwrap().parse().unwrap(),
            in_len: after("in").unwrap().parse().unwrap(),
            out_len: after("out").unwrap().parse().unwrap(),
            words: words.clone(),
        }
    }

    fn text(&self, key: &str) -> &'a str {
        let at = self.words.iter().position(|word| *word == key);
        self.words[at.unwrap_or_else(|| panic!("command {} has no {key}", self.number)) + 1]
    }

    fn decimal(&self, key: &str) -> u64 {
        self.text(key).parse().unwrap()
    }

    fn hex(&self, key: &str) -> u64 {
        u64::from_str_radix(self.text(key), 16).unwrap()
    }

    /// The input with its header.
    fn input(&self) -> Vec<u8> {
        command(self.opcode, self.op_mod, self.in_len)
    }
}

fn parse(trace: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for line in trace.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.first() {
            Some(&"CMD") => steps.push(Step::Command(Recorded::parse(line))),
            Some(&"UAR") => {
                let hex = |at: usize| u64::from_str_radix(words[at], 16).unwrap();
                assert_eq!(words[5], "8", "size of a doorbell");
                steps.push(Step::Doorbell { offset: hex(1) * PAGE + hex(3), value: hex(7) });
            }
            // Work requests and completions are the data path; the first line tells of the command queue.
            Some(&("WQE" | "CQE" | "cmdq")) => {}
            other => panic!("unknown line {other:?}"),
        }
    }
    steps
}

/// A queue pair as the driver remembers it.
#[derive(Debug, Clone, Copy)]
struct Qp {
    pd: u32,
    state: u64,
}

/// The driver's objects. Numbers are as the device gave them.
#[derive(Debug, Default)]
struct Objects {
    uars: Vec<u32>,
    pds: Vec<u32>,
    xrcds: Vec<u32>,
    transport_domains: Vec<u32>,
    /// Index and protection domain.
    mkeys: Vec<(u32, u32)>,
    eqs: Vec<u32>,
    cqs: Vec<u32>,
    qps: BTreeMap<u32, Qp>,
    /// XRC SRQ and receive memory pools, each with its protection domain.
    xrc_srqs: Vec<(u32, u32)>,
    rmps: Vec<(u32, u32)>,
}

impl Objects {
    fn used_by_queues(&self, pd: u32) -> bool {
        self.qps.values().any(|qp| qp.pd == pd)
            || self.xrc_srqs.iter().chain(&self.rmps).any(|(_, srq_pd)| *srq_pd == pd)
    }

    /// The newest memory key whose protection domain no queue uses: the driver's next to go, and, for a new kernel
    /// queue pair, the one it works with.
    fn idle_mkey(&self) -> (u32, u32) {
        *self.mkeys.iter().rev().find(|(_, pd)| !self.used_by_queues(*pd)).expect("an idle memory key")
    }
}

/// Replays one trace.
struct Replay {
    driver: Driver,
    objects: Objects,
    port: PortType,
    gid_queries: u64,
    pkey_queries: u64,
    caps: Vec<u8>,
}

impl Replay {
    fn new(port: PortType) -> Self {
        Self {
            driver: Driver::new(Mlx5Config { port, umr: false, ..Mlx5Config::default() }),
            objects: Objects::default(),
            port,
            gid_queries: 0,
            pkey_queries: 0,
            caps: Vec::new(),
        }
    }

    fn run(&mut self, trace: &str) {
        self.gid_queries = 0;
        self.pkey_queries = 0;
        let steps = parse(trace);
        assert!(steps.len() > 100);
        for step in &steps {
            match step {
                Step::Command(recorded) => self.command(recorded),
                Step::Doorbell { offset, value } => self.doorbell(*offset, *value),
            }
        }
        assert_eq!(self.driver.device.live_objects().total(), 0);
    }

    fn doorbell(&mut self, offset: u64, value: u64) {
        self.driver.port.interrupts.clear();
        self.driver.write64(offset, value);
        if offset % PAGE == 0x20 {
            let mut query = command(0x402, 0, 16);
            OBJECT.set(&mut query, value & 0xff_ffff);
            let out = self.driver.succeed(&query, 272);
            assert_eq!(get(&out, CONTEXT, cqc::ST), 9, "the completion queue is armed");
        } else {
            assert!(self.driver.port.interrupts.is_empty(), "a send doorbell alone raises no interrupt");
        }
    }

    fn command(&mut self, r: &Recorded<'_>) {
        match r.opcode {
            0x100 => self.query_caps(r),
            0x101 => {
                let out = self.driver.succeed(&r.input(), r.out_len);
                assert_eq!(adapter::IEEE_VENDOR_ID.get(&out), 0x2c9);
            }
            0x103 => {
                assert_eq!(self.driver.device.live_objects().total(), 0, "before teardown");
                self.driver.succeed(&r.input(), r.out_len);
            }
            0x107 => {
                let out = self.driver.succeed(&r.input(), r.out_len);
                assert_eq!(pages::COUNT.get(&out), 0);
            }
            0x109 => {
                let mut input = r.input();
                input[CONTEXT..].copy_from_slice(&self.caps[CONTEXT..]);
                set(&mut input, CONTEXT, general::LOG_MAX_QP, 7);
                self.driver.succeed(&input, r.out_len);
            }
            0x10a => {
                let out = self.driver.succeed(&r.input(), r.out_len);
                assert_eq!(issi::SUPPORTED_DW0.get(&out), 2);
            }
            0x10b => {
                let mut input = r.input();
                issi::CURRENT.set(&mut input, 1);
                self.driver.succeed(&input, r.out_len);
            }
            0x102 | 0x104 | 0x105 => {
                self.driver.succeed(&r.input(), r.out_len);
            }
            0x200 => self.create_mkey(r),
            0x301 => self.create_eq(r),
            0x302 => self.destroy_eq(r),
            0x400 => self.create_cq(r),
            0x500 => self.create_qp(r),
            0x502..=0x504 => self.modify_qp(r),
            0x50a => self.reset_qp(r),
            0x50b => self.query_qp(r),
            0x50d => self.mad(r),
            0x705 => self.create_xrc_srq(r),
            0x90c => self.create_rmp(r),
            0x754 => {
                let out = self.driver.succeed(&r.input(), r.out_len);
                assert_ne!(get(&out, CONTEXT, nic_vport::NODE_GUID), 0);
                assert_ne!(get(&out, CONTEXT, nic_vport::PERMANENT_ADDRESS), 0);
            }
            0x762 => {
                let out = self.driver.succeed(&r.input(), r.out_len);
                assert_eq!(get(&out, CONTEXT, hca_vport::VPORT_STATE), 4, "PORT_ACTIVE");
                assert_eq!(get(&out, CONTEXT, hca_vport::PORT_PHYSICAL_STATE), 5, "LINK_UP");
                assert_eq!(get(&out, CONTEXT, hca_vport::LID), 1);
            }
            0x764 => self.query_gid(r),
            0x765 => self.query_pkey(r),
            0x805 => self.access_register(r),
            0x800 | 0x802 | 0x80e | 0x816 => self.allocate(r),
            0x801 | 0x803 | 0x80f | 0x817 | 0x202 | 0x401 | 0x501 | 0x706 | 0x90e => self.destroy(r),
            other => panic!("command {} has an opcode {other:#x} that the model does not know", r.number),
        }
    }

    fn query_caps(&mut self, r: &Recorded<'_>) {
        assert_eq!(r.text("type"), "0");
        self.caps = self.driver.succeed(&r.input(), r.out_len);
        let caps = &self.caps;
        let is_ib = u64::from(self.port == PortType::InfiniBand);
        assert_eq!(get(caps, CONTEXT, general::IB_VIRT), is_ib);
        assert_eq!(get(caps, CONTEXT, general::PORT_TYPE), 1 - is_ib);
        assert_eq!(get(caps, CONTEXT, general::UMR_MODIFY_ENTITY_SIZE_DISABLED), 1);
        assert_eq!(get(caps, CONTEXT, general::XRC), 1);
        // The model sets log_max_qp to 7 between command 6 and the query of what is in force.
        let expected = if r.op_mod == 1 && r.number > 6 { 7 } else { 8 };
        assert_eq!(get(caps, CONTEXT, general::LOG_MAX_QP), expected, "command {}", r.number);
    }

    fn allocate(&mut self, r: &Recorded<'_>) {
        let out = self.driver.succeed(&r.input(), r.out_len);
        let number = OBJECT.get32(&out);
        match r.opcode {
            0x800 => self.objects.pds.push(number),
            0x802 => {
                assert!((16..1024).contains(&number), "UAR {number} is a doorbell page of the BAR");
                self.objects.uars.push(number);
            }
            0x80e => self.objects.xrcds.push(number),
            _ => self.objects.transport_domains.push(number),
        }
    }

    /// The trace does not say which object a destroy command names. The newest goes that nothing else uses; those
    /// still used must be refused, which checks the device's references.
    fn destroy(&mut self, r: &Recorded<'_>) {
        let objects = &self.objects;
        let numbers: Vec<u32> = match r.opcode {
            0x801 => objects.pds.clone(),
            0x803 => objects.uars.clone(),
            0x80f => objects.xrcds.clone(),
            0x817 => objects.transport_domains.clone(),
            0x202 => vec![objects.idle_mkey().0],
            0x401 => objects.cqs.clone(),
            0x501 => objects.qps.iter().filter(|(_, qp)| qp.state == 0).map(|(qpn, _)| *qpn).collect(),
            0x706 => objects.xrc_srqs.iter().map(|(number, _)| *number).collect(),
            _ => objects.rmps.iter().map(|(number, _)| *number).collect(),
        };
        for number in numbers.into_iter().rev() {
            let mut input = r.input();
            OBJECT.set(&mut input, number.into());
            let done = self.driver.execute(&input, r.out_len);
            assert_eq!(done.delivery, 0);
            if done.status() == 0 {
                self.forget(r.opcode, number);
                return;
            }
            assert_eq!(done.status(), BUSY, "command {} on object {number}", r.number);
        }
        panic!("command {} found nothing to destroy", r.number);
    }

    fn forget(&mut self, opcode: u16, number: u32) {
        let objects = &mut self.objects;
        match opcode {
            0x801 => objects.pds.retain(|n| *n != number),
            0x803 => objects.uars.retain(|n| *n != number),
            0x80f => objects.xrcds.retain(|n| *n != number),
            0x817 => objects.transport_domains.retain(|n| *n != number),
            0x202 => objects.mkeys.retain(|(n, _)| *n != number),
            0x401 => objects.cqs.retain(|n| *n != number),
            0x501 => drop(objects.qps.remove(&number)),
            0x706 => objects.xrc_srqs.retain(|(n, _)| *n != number),
            _ => objects.rmps.retain(|(n, _)| *n != number),
        }
    }

    fn create_eq(&mut self, r: &Recorded<'_>) {
        assert_eq!(r.in_len as u64, 272 + 8 * r.decimal("npas"));
        let param = EqParam {
            log_size: r.decimal("log") as u32,
            vector: r.decimal("intr") as u16,
            uar: r.decimal("uar") as u32,
            mask: r.hex("mask"),
        };
        let eqn = self.driver.create_eq(r.in_len, param);
        assert_eq!(u64::from(eqn), r.decimal("eqn"));
        self.objects.eqs.push(eqn);
        if param.mask == 1 << 0x0a {
            self.driver.command_eq = Some(eqn);
        }
    }

    fn destroy_eq(&mut self, r: &Recorded<'_>) {
        let eqn = self.objects.eqs.pop().expect("an event queue");
        if self.driver.command_eq == Some(eqn) {
            self.driver.command_eq = None;
        }
        let mut input = r.input();
        EQ_NUMBER.set(&mut input, eqn.into());
        self.driver.succeed(&input, r.out_len);
    }

    fn create_cq(&mut self, r: &Recorded<'_>) {
        let count = r.decimal("npas");
        assert_eq!(r.in_len as u64, 272 + 8 * count);
        assert_eq!(r.decimal("esz"), 64);
        let record = self.driver.allocate(1);
        let buffer = self.driver.allocate(count);
        let mut input = r.input();
        set(&mut input, CONTEXT, cqc::LOG_CQ_SIZE, r.decimal("log"));
        set(&mut input, CONTEXT, cqc::C_EQN, r.decimal("eqn"));
        set(&mut input, CONTEXT, cqc::UAR_PAGE, r.decimal("uar"));
        set(&mut input, CONTEXT, cqc::PAGE_OFFSET, r.decimal("poff"));
        set(&mut input, CONTEXT, cqc::DBR_ADDR, record);
        fill_pages(&mut input[PAGES..], buffer, count);
        let out = self.driver.succeed(&input, r.out_len);
        assert_eq!(OBJECT.get(&out), r.decimal("cqn"));
        self.objects.cqs.push(OBJECT.get32(&out));
    }

    fn create_mkey(&mut self, r: &Recorded<'_>) {
        let actual = r.decimal("actual");
        assert_eq!(r.in_len as u64, 272 + 16 * actual);
        let pd = r.decimal("pd") as u32;
        let mode = r.decimal("mode");
        let first_page = r.hex("pas0");
        let (start, len) = (r.hex("start"), r.hex("len"));
        let mut input = r.input();
        mkey::TRANSLATIONS_OCTWORD_ACTUAL_SIZE.set(&mut input, actual);
        for (field, value) in [
            (mkc::ACCESS_MODE_1_0, mode),
            (mkc::LENGTH64, (mode == 0).into()),
            (mkc::FREE, r.decimal("free")),
            (mkc::LOCAL_READ, 1),
            (mkc::LOCAL_WRITE, 1),
            (mkc::QPN, 0xff_ffff),
            (mkc::MKEY_7_0, 0x5a),
            (mkc::PD, pd.into()),
            (mkc::START_ADDR, start),
            (mkc::LEN, len),
            (mkc::TRANSLATIONS_OCTWORD_SIZE, r.decimal("oct")),
            (mkc::LOG_PAGE_SIZE, r.decimal("pgsh")),
        ] {
            set(&mut input, CONTEXT, field, value);
        }
        if let Some(list) = input.get_mut(PAGES..PAGES + 8) {
            list.copy_from_slice(&first_page.to_be_bytes());
        }
        let out = self.driver.succeed(&input, r.out_len);
        let index = OBJECT.get32(&out);
        assert_eq!(u64::from(index), r.decimal("idx"));
        self.objects.mkeys.push((index, pd));

        let kept = self.driver.device.memory_key(index).expect("the new memory key");
        assert_eq!((kept.pd, kept.start, kept.variant), (pd, start, 0x5a));
        assert!(kept.access.local_write && !kept.access.remote_write);
        if mode == 0 {
            assert_eq!((kept.mode, kept.len), (AccessMode::Physical, 1 << 64));
        } else {
            assert_eq!((kept.mode, kept.len), (AccessMode::PageList, len.into()));
            assert_eq!(kept.translations, [first_page, 0]);
        }
        let mut query = command(0x201, 0, 16);
        OBJECT.set(&mut query, index.into());
        mkey::PG_ACCESS.set(&mut query, 1);
        let out = self.driver.succeed(&query, 304);
        assert_eq!(out[CONTEXT..CONTEXT + mkc::SIZE], input[CONTEXT..CONTEXT + mkc::SIZE]);
        assert_eq!(out[PAGES..PAGES + 8], first_page.to_be_bytes());
    }

    fn create_xrc_srq(&mut self, r: &Recorded<'_>) {
        let pd = *self.objects.pds.last().unwrap();
        let buffer = self.driver.allocate(1);
        let mut input = r.input();
        for (field, value) in [
            (xrc_srqc::LOG_SIZE, 2),
            (xrc_srqc::LOG_RQ_STRIDE, 1),
            (xrc_srqc::PD, pd.into()),
            (xrc_srqc::CQN, (*self.objects.cqs.last().unwrap()).into()),
            (xrc_srqc::XRCD, self.objects.xrcds[0].into()),
            (xrc_srqc::DBR_ADDR, buffer + 2048),
        ] {
            set(&mut input, CONTEXT, field, value);
        }
        fill_pages(&mut input[PAGES..], buffer, 1);
        let out = self.driver.succeed(&input, r.out_len);
        self.objects.xrc_srqs.push((OBJECT.get32(&out), pd));
    }

    fn create_rmp(&mut self, r: &Recorded<'_>) {
        let pd = *self.objects.pds.last().unwrap();
        let buffer = self.driver.allocate(1);
        let mut input = r.input();
        for (field, value) in
            [(wq::LOG_WQ_SZ, 2), (wq::LOG_WQ_STRIDE, 5), (wq::PD, pd.into()), (wq::DBR_ADDR, buffer + 2048)]
        {
            set(&mut input, rmp::RMPC + rmpc::WQ as usize, field, value);
        }
        fill_pages(&mut input[PAGES..], buffer, 1);
        let out = self.driver.succeed(&input, r.out_len);
        let number = OBJECT.get32(&out);
        assert!(self.objects.xrc_srqs.iter().all(|(n, _)| *n != number), "the kinds share their numbers");
        self.objects.rmps.push((number, pd));
    }

    fn create_qp(&mut self, r: &Recorded<'_>) {
        let service = r.decimal("st");
        let pd = match service {
            0..=3 => *self.objects.pds.last().unwrap(),
            7 | 8 => self.objects.pds[0],
            // The driver gives the queue pair that registers memory no protection domain.
            _ => 0,
        };
        let (send_cq, receive_cq) = r.text("cq").split_once('/').unwrap();
        let count = r.decimal("npas");
        assert_eq!(r.in_len as u64, 272 + 8 * count);
        let record = self.driver.allocate(1);
        let buffer = self.driver.allocate(count);
        let mut input = r.input();
        for (field, value) in [
            (qpc::ST, service),
            (qpc::PD, pd.into()),
            (qpc::CQN_SND, send_cq.parse().unwrap()),
            (qpc::CQN_RCV, receive_cq.parse().unwrap()),
            (qpc::LOG_RQ_SIZE, r.decimal("rqsz")),
            (qpc::LOG_RQ_STRIDE, r.decimal("stride")),
            (qpc::LOG_SQ_SIZE, r.decimal("sqsz")),
            (qpc::NO_SQ, r.decimal("nosq")),
            (qpc::RQ_TYPE, r.decimal("rqtype")),
            (qpc::UAR_PAGE, r.decimal("uar")),
            (qpc::DBR_ADDR, record),
        ] {
            set(&mut input, qp::QPC, field, value);
        }
        fill_pages(&mut input[PAGES..], buffer, count);
        let out = self.driver.succeed(&input, r.out_len);
        let qpn = OBJECT.get32(&out);
        assert_eq!(u64::from(qpn), r.decimal("qpn"));
        self.objects.qps.insert(qpn, Qp { pd, state: 0 });
    }

    fn modify_qp(&mut self, r: &Recorded<'_>) {
        let qpn = r.decimal("qpn");
        let path = qp::QPC + qpc::PRIMARY_PATH as usize;
        let mut input = r.input();
        OBJECT.set(&mut input, qpn);
        qp::OPT_PARAM_MASK.set(&mut input, r.hex("opt"));
        set(&mut input, qp::QPC, qpc::REMOTE_QPN, r.decimal("rqpn"));
        set(&mut input, qp::QPC, qpc::MTU, r.decimal("mtu"));
        set(&mut input, path, ads::RLID, r.decimal("rlid"));
        if r.opcode == 0x502 {
            set(&mut input, path, ads::VHCA_PORT_NUM, 1);
        }
        self.driver.succeed(&input, r.out_len);
        let state = u64::from(r.opcode - 0x501);
        self.objects.qps.get_mut(&(qpn as u32)).unwrap().state = state;
        let out = self.query_context(qpn);
        assert_eq!(get(&out, qp::QPC, qpc::STATE), state);
        assert_eq!(get(&out, path, ads::VHCA_PORT_NUM), 1, "the port stays");
        if r.opcode == 0x503 {
            assert_eq!(get(&out, qp::QPC, qpc::REMOTE_QPN), r.decimal("rqpn"));
            assert_eq!(get(&out, qp::QPC, qpc::MTU), r.decimal("mtu"));
            assert_eq!(get(&out, path, ads::RLID), r.decimal("rlid"));
        }
    }

    fn reset_qp(&mut self, r: &Recorded<'_>) {
        let qpn = r.decimal("qpn");
        let mut input = r.input();
        OBJECT.set(&mut input, qpn);
        self.driver.succeed(&input, r.out_len);
        self.objects.qps.get_mut(&(qpn as u32)).unwrap().state = 0;
        assert_eq!(get(&self.query_context(qpn), qp::QPC, qpc::STATE), 0);
    }

    fn query_qp(&mut self, r: &Recorded<'_>) {
        let (&qpn, known) = self.objects.qps.last_key_value().expect("a queue pair");
        let state = known.state;
        let mut input = r.input();
        OBJECT.set(&mut input, qpn.into());
        let out = self.driver.succeed(&input, r.out_len);
        assert_eq!(get(&out, qp::QPC, qpc::STATE), state);
    }

    fn query_context(&mut self, qpn: u64) -> Vec<u8> {
        let mut query = command(0x50b, 0, 16);
        OBJECT.set(&mut query, qpn);
        self.driver.succeed(&query, 464)
    }

    fn query_gid(&mut self, r: &Recorded<'_>) {
        let mut input = r.input();
        let index = self.gid_queries % 8;
        self.gid_queries += 1;
        vport::INDEX.set(&mut input, index);
        let out = self.driver.succeed(&input, r.out_len);
        let is_set = out[CONTEXT..].iter().any(|byte| *byte != 0);
        assert_eq!(is_set, index == 0);
        if index == 0 {
            assert_eq!(out[CONTEXT..CONTEXT + 8], [0xfe, 0x80, 0, 0, 0, 0, 0, 0]);
        }
    }

    fn query_pkey(&mut self, r: &Recorded<'_>) {
        let mut input = r.input();
        let index = self.pkey_queries % 128;
        self.pkey_queries += 1;
        vport::INDEX.set(&mut input, index);
        let out = self.driver.succeed(&input, r.out_len);
        let expected: [u8; 4] = if index == 0 { [0, 0, 0xff, 0xff] } else { [0; 4] };
        assert_eq!(out[CONTEXT..], expected, "P_Key {index}");
    }

    fn access_register(&mut self, r: &Recorded<'_>) {
        let mut input = r.input();
        access_register::REGISTER_ID.set(&mut input, r.hex("reg"));
        let data = access_register::DATA;
        set(&mut input, data, ptys::LOCAL_PORT, 1);
        let is_ib = self.port == PortType::InfiniBand;
        if r.hex("reg") == 0x5004 {
            set(&mut input, data, ptys::PROTO_MASK, if is_ib { ptys::PROTO_IB } else { ptys::PROTO_ETH });
        }
        let out = self.driver.succeed(&input, r.out_len);
        match r.hex("reg") {
            0x5003 => {
                assert_eq!(get(&out, data, pmtu::MAX_MTU), 4096);
                assert_eq!(get(&out, data, pmtu::OPER_MTU), 4096);
            }
            0x5004 if is_ib => {
                assert_eq!(get(&out, data, ptys::IB_WIDTH_OPER), 4, "4x");
                assert_eq!(get(&out, data, ptys::IB_SPEED_OPER), 32, "EDR");
            }
            0x5004 => assert_ne!(get(&out, data, ptys::ETH_OPER), 0),
            0x500f => assert_eq!(get(&out, data, pvlc::VL_HW_CAP), 8, "VL 0-7"),
            0x6001 => assert_ne!(out[data], 0, "a node description"),
            other => panic!("register {other:#x}"),
        }
    }

    fn mad(&mut self, r: &Recorded<'_>) {
        assert_eq!((r.text("class"), r.text("method"), r.text("attr")), ("4", "1", "1"));
        let mut input = r.input();
        input[CONTEXT..CONTEXT + 4].copy_from_slice(&[1, 4, 1, 1]);
        input[CONTEXT + 17] = 1;
        let out = self.driver.succeed(&input, r.out_len);
        assert_eq!(out[CONTEXT..CONTEXT + 6], [1, 4, 1, 0x81, 0, 0], "a response without error");
        assert_eq!(out[CONTEXT + 64..CONTEXT + 66], [1, 1], "versions of the class");
    }
}

#[test]
fn infiniband_from_bring_up_to_teardown_twice() {
    let mut replay = Replay::new(PortType::InfiniBand);
    replay.run(INFINIBAND);
    replay.driver = Driver::attach(replay.driver.device.clone());
    replay.run(INFINIBAND);
}

#[test]
fn ethernet_from_bring_up_to_teardown() {
    Replay::new(PortType::Ethernet).run(ETHERNET);
}

#[test]
fn a_cloned_device_continues_as_the_original() {
    let mut original = Replay::new(PortType::Ethernet);
    let steps = parse(ETHERNET);
    let (before, after) = steps.split_at(70);
    let run = |replay: &mut Replay, steps: &[Step<'_>]| {
        for step in steps {
            match step {
                Step::Command(recorded) => replay.command(recorded),
                Step::Doorbell { offset, value } => replay.doorbell(*offset, *value),
            }
        }
    };
    run(&mut original, before);
    let fork = original.driver.clone();
    let objects = format!("{:?}", original.objects);
    run(&mut original, after);

    let mut replayed = Replay::new(PortType::Ethernet);
    run(&mut replayed, before);
    assert_eq!(format!("{:?}", replayed.objects), objects);
    replayed.driver = fork;
    run(&mut replayed, after);
    assert_eq!(replayed.driver.port.ram, original.driver.port.ram);
    assert_eq!(format!("{:?}", replayed.driver.device), format!("{:?}", original.driver.device));
}
