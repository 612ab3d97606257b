//! RAM of an encrypted guest (AMD SEV; APM volume 2, 15.34), as devices and the two views of vCPUs have it.
//!
//! Encryption acts as a keystream would that depends on the key and the address alone: what is stored through one view of a
//! page (private by the C-bit, or shared) is seen through the other with the keystream of the page on it, and devices, for whom
//! there is no key, always have the shared view. Each page has a label, private at first, and RAM holds what the view of that
//! label shows. A vCPU that is about to access the other view turns the page over: its bytes get the keystream, and the label
//! changes. No view's bytes change by that, so whoever looks finds what was stored.

use super::GuestRam;
use super::dma;
use super::layout::{LINE, PAGE};
use super::page_set::PageSet;
use super::system::Transaction;
use cache_model::Snoop;
use devices::bus::Nanos;
use devices::dma::Purpose;
use devices::random::Random;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use x86_cpu::CodePages;
use x86_cpu::encryption::{Hypercall, hypercall_error};

/// Accesses that may wait to be looked into; more are counted only.
const WAITING: usize = 1 << 10;

/// KVM_HC_MAP_GPA_RANGE: a guest-physical address, a number of pages, attributes.
const MAP_GPA_RANGE: u64 = 12;
/// KVM_MAP_GPA_RANGE_ENCRYPTED.
const ENCRYPTED: u64 = 1 << 4;

/// Told apart by this, the seed is that of the key.
const KEY: u64 = 0x7365_7620_6b65_7920;

/// What a device has found of, or done to, a page that the guest has not shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateAccess {
    /// Requester ID of the function, or [`super::system::PLATFORM`].
    pub device: u32,
    pub write: bool,
    /// The first private byte.
    pub address: u64,
    /// Up to the end of its line: as the device has read or written them.
    pub outside: Vec<u8>,
    /// The same, as the guest sees them.
    pub inside: Vec<u8>,
    pub no_snoop: bool,
    pub purpose: Purpose,
    pub at: Nanos,
}

/// The labels of pages, and the key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Encryption {
    key: u64,
    /// Pages of RAM.
    pages: u64,
    /// The pages of which RAM holds the shared view.
    shared: PageSet,
    /// The pages that the guest has told the hypervisor that it shares, and has not accessed as private since.
    declared: PageSet,
    /// Counts changes.
    generation: u64,
    waiting: Vec<PrivateAccess>,
    /// Accesses of each device, by requester ID, of which a byte was private.
    private_accesses: BTreeMap<u32, u64>,
}

impl Encryption {
    /// Of RAM up to `end`; the key follows from `seed`.
    #[must_use]
    pub fn new(seed: u64, end: u64) -> Self {
        let pages = end / PAGE;
        Self {
            key: Random::new(seed ^ KEY).next_u64(),
            pages,
            shared: PageSet::new(pages, false),
            declared: PageSet::new(pages, false),
            generation: 0,
            waiting: Vec::new(),
            private_accesses: BTreeMap::new(),
        }
    }

    /// Whether it is of RAM up to `end`.
    #[must_use]
    pub fn is_of(&self, end: u64) -> bool {
        let pages = end / PAGE;
        self.pages == pages && self.shared.is_of(pages) && self.declared.is_of(pages)
    }

    /// Has RAM hold this view of the frame at `frame`. Returns whether it has held the other one.
    pub fn set_label(&mut self, ram: &GuestRam, code: &mut CodePages, frame: u64, private: bool) -> bool {
        let page = frame / PAGE;
        if page >= self.pages {
            return false;
        }
        if private {
            self.declared.set(page, false);
        }
        if self.shared.contains(page) != private {
            return false;
        }
        let mut bytes = [0; PAGE as usize];
        if ram.read(frame, &mut bytes).is_err() {
            return false;
        }
        self.scramble(frame, &mut bytes);
        if ram.write(frame, &bytes).is_err() {
            return false;
        }
        code.written(frame, PAGE);
        self.shared.set(page, !private);
        self.generation = self.generation.wrapping_add(1);
        true
    }

    /// A call of the guest to its hypervisor; returns the answer. Of KVM's there is KVM_HC_MAP_GPA_RANGE, by which guests say
    /// which pages they share.
    pub fn hypercall(&mut self, call: Hypercall) -> u64 {
        let Hypercall { number: MAP_GPA_RANGE, arguments: [address, count, attributes, _] } = call else {
            return hypercall_error::UNKNOWN;
        };
        let first = address / PAGE;
        match first.checked_add(count) {
            Some(end) if address.is_multiple_of(PAGE) && count != 0 => {
                self.declare(first..end, attributes & ENCRYPTED == 0);
                0
            }
            _ => hypercall_error::INVALID,
        }
    }

    /// The guest has told the hypervisor that it shares these pages, or that it does no longer.
    fn declare(&mut self, pages: Range<u64>, shared: bool) {
        self.declared.set_range(pages, shared);
        // Translations go, so that the next access as private is heard of.
        self.generation = self.generation.wrapping_add(1);
    }

    /// Counts what makes vCPUs' translations void.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Puts the keystream on `data`, which is in RAM at `address`.
    fn scramble(&self, address: u64, data: &mut [u8]) {
        for (at, range) in dma::parts(address, data.len(), PAGE) {
            let Some(part) = data.get_mut(range) else { break };
            let mut words = Random::new(Random::new(self.key ^ (at - at % PAGE)).next_u64());
            let mut stream = [0; PAGE as usize];
            for word in stream.chunks_exact_mut(8) {
                word.copy_from_slice(&words.next_u64().to_le_bytes());
            }
            let stream = stream.get((at % PAGE) as usize..).unwrap_or_default();
            for (byte, key) in part.iter_mut().zip(stream) {
                *byte ^= key;
            }
        }
    }

    /// Turns `data`, which RAM holds or is to hold at `address`, from the guest's view into the devices' or back: the keystream
    /// goes on the parts in private pages. Returns the first byte of those.
    pub fn cross(&self, address: u64, data: &mut [u8]) -> Option<u64> {
        let mut first = None;
        for (at, range) in dma::parts(address, data.len(), PAGE) {
            let Some(part) = data.get_mut(range) else { break };
            if at / PAGE < self.pages && !self.shared.contains(at / PAGE) {
                first = first.or(Some(at));
                self.scramble(at, part);
            }
        }
        first
    }

    /// A device has made a transaction at `address` with the bytes `outside`, which the guest sees as `inside`; `private` is
    /// the first that it has not accessed as shared. It is counted unless the guest has said that it shares the page.
    pub fn observe(
        &mut self,
        by: Transaction,
        write: bool,
        address: u64,
        private: Option<u64>,
        (outside, inside): (&[u8], &[u8]),
    ) {
        let undeclared = |&at: &u64| !self.declared.contains(at / PAGE);
        let Some(first) = private.filter(undeclared) else { return };
        let count = self.private_accesses.entry(by.device).or_default();
        *count = count.saturating_add(1);
        if self.waiting.len() >= WAITING {
            return;
        }
        let start = first.wrapping_sub(address) as usize;
        let end = start.saturating_add((LINE - first % LINE) as usize).min(outside.len());
        let part = |bytes: &[u8]| bytes.get(start..end).unwrap_or_default().to_vec();
        self.waiting.push(PrivateAccess {
            device: by.device,
            write,
            address: first,
            outside: part(outside),
            inside: part(inside),
            no_snoop: by.snoop == Snoop::NoSnoop,
            purpose: by.purpose,
            at: by.at,
        });
    }

    /// Whether there is something for [`Encryption::take_accesses`].
    #[must_use]
    pub fn has_accesses(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Accesses of devices to private pages since the last call.
    pub fn take_accesses(&mut self) -> Vec<PrivateAccess> {
        std::mem::take(&mut self.waiting)
    }

    /// Bytes of the pages that were last accessed as shared.
    #[must_use]
    pub fn shared_bytes(&self) -> u64 {
        PAGE * self.shared.count()
    }

    /// How often each device, by requester ID, has accessed private pages.
    #[must_use]
    pub fn private_accesses(&self) -> &BTreeMap<u32, u64> {
        &self.private_accesses
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemorySystem;
    use super::super::layout::{GIB, MIB};
    use super::super::ram::GuestRam;
    use super::*;
    use devices::dma::AtomicOp;
    use devices::state::{Loader, Saver};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn machine(seed: u64) -> MemorySystem {
        let ram = GuestRam::new(8 * MIB).unwrap();
        let encryption = Some(Box::new(Encryption::new(seed, ram.end())));
        MemorySystem { encryption, ..MemorySystem::new(ram, None) }
    }

    impl MemorySystem {
        fn label(&mut self, frame: u64, private: bool) -> bool {
            let Self { ram, code, encryption, .. } = self;
            encryption.as_mut().unwrap().set_label(ram, code, frame, private)
        }

        /// The keystream of a page, which is what devices have of zeros.
        fn keystream(&mut self, page: u64) -> Vec<u8> {
            let mut bytes = vec![0; PAGE as usize];
            self.encryption.as_mut().unwrap().cross(page * PAGE, &mut bytes);
            bytes
        }
    }

    fn device() -> Transaction {
        Transaction::of_platform(7)
    }

    /// What is done to one of three pages.
    #[derive(Debug, Clone)]
    enum Step {
        /// A vCPU stores bytes by a view.
        Store {
            private: bool,
            at: u64,
            data: Vec<u8>,
        },
        DeviceWrite {
            at: u64,
            data: Vec<u8>,
        },
        DeviceRead {
            at: u64,
            length: usize,
        },
        Add {
            word: u64,
            value: u64,
        },
        Declare {
            page: u64,
            shared: bool,
        },
        Save,
    }

    const BASE: u64 = 5;
    const PAGES: u64 = 3;

    fn step() -> impl Strategy<Value = Step> {
        let at = || 0..PAGES * PAGE - 300;
        prop_oneof![
            (any::<bool>(), at(), vec(any::<u8>(), 1..300)).prop_map(|(private, at, data)| Step::Store {
                private,
                at,
                data
            }),
            (at(), vec(any::<u8>(), 1..300)).prop_map(|(at, data)| Step::DeviceWrite { at, data }),
            (at(), 1..300_usize).prop_map(|(at, length)| Step::DeviceRead { at, length }),
            (0..PAGES * PAGE / 8, any::<u64>()).prop_map(|(word, value)| Step::Add { word, value }),
            (0..PAGES, any::<bool>()).prop_map(|(page, shared)| Step::Declare { page, shared }),
            Just(Step::Save),
        ]
    }

    proptest! {
        /// However views alternate, each shows what was stored: as if there were one array, as devices see it, and a keystream.
        #[test]
        fn views_are_one_array_and_a_keystream(seed in any::<u64>(), steps in vec(step(), 1..60)) {
            let mut memory = machine(seed);
            let key: Vec<u8> = (BASE..BASE + PAGES).flat_map(|page| memory.keystream(page)).collect();
            let mut outside = key.clone();
            let mut private = [true; PAGES as usize];
            let mut declared = [false; PAGES as usize];
            let mut counted = 0_u64;
            for step in steps {
                match step {
                    Step::Store { private: view, at, data } => {
                        for (at, range) in dma::parts(at, data.len(), PAGE) {
                            let page = (at / PAGE) as usize;
                            let turned = memory.label((BASE + at / PAGE) * PAGE, view);
                            prop_assert_eq!(turned, private[page] != view);
                            private[page] = view;
                            declared[page] &= !view;
                            memory.ram.write(BASE * PAGE + at, &data[range.clone()]).unwrap();
                            for (at, byte) in (at as usize..).zip(&data[range]) {
                                outside[at] = if view { byte ^ key[at] } else { *byte };
                            }
                        }
                    }
                    Step::DeviceWrite { at, data } => {
                        memory.dma_write(device(), BASE * PAGE + at, &data).unwrap();
                        outside[at as usize..][..data.len()].copy_from_slice(&data);
                        let pages = at / PAGE..=(at + data.len() as u64 - 1) / PAGE;
                        let first = pages.clone().find(|&page| private[page as usize]);
                        counted += u64::from(first.is_some_and(|page| !declared[page as usize]));
                    }
                    Step::DeviceRead { at, length } => {
                        let mut data = vec![0; length];
                        memory.dma_read(device(), BASE * PAGE + at, &mut data).unwrap();
                        prop_assert_eq!(&data[..], &outside[at as usize..][..length]);
                        let mut pages = at / PAGE..=(at + length as u64 - 1) / PAGE;
                        let first = pages.find(|&page| private[page as usize]);
                        counted += u64::from(first.is_some_and(|page| !declared[page as usize]));
                    }
                    Step::Add { word, value } => {
                        let at = 8 * word as usize;
                        let old = u64::from_le_bytes(outside[at..at + 8].try_into().unwrap());
                        let op = AtomicOp::FetchAdd(value);
                        prop_assert_eq!(memory.dma_atomic(device(), BASE * PAGE + at as u64, op), Ok(old));
                        outside[at..at + 8].copy_from_slice(&old.wrapping_add(value).to_le_bytes());
                        let page = at / PAGE as usize;
                        counted += 2 * u64::from(private[page] && !declared[page]);
                    }
                    Step::Declare { page, shared } => {
                        let attributes = if shared { 0 } else { ENCRYPTED };
                        let arguments = [(BASE + page) * PAGE, 1, attributes, 0];
                        let call = Hypercall { number: MAP_GPA_RANGE, arguments };
                        prop_assert_eq!(memory.encryption.as_mut().unwrap().hypercall(call), 0);
                        declared[page as usize] = shared;
                    }
                    Step::Save => {
                        let mut saver = Saver::default();
                        saver.put(&memory.encryption).unwrap();
                        let bytes = saver.into_bytes();
                        memory.encryption = Loader::new(&bytes).take().unwrap();
                        prop_assert!(memory.encryption.as_ref().unwrap().is_of(memory.ram.end()));
                    }
                }
            }
            let encryption = memory.encryption.as_ref().unwrap();
            prop_assert_eq!(encryption.private_accesses().values().sum::<u64>(), counted);
            for page in 0..PAGES as usize {
                for view in [true, false] {
                    memory.label((BASE + page as u64) * PAGE, view);
                    let seen = memory.ram.bytes((BASE + page as u64) * PAGE, PAGE as usize).unwrap();
                    let at = page * PAGE as usize;
                    for (offset, byte) in seen.iter().enumerate() {
                        let key = if view { key[at + offset] } else { 0 };
                        prop_assert_eq!(*byte, outside[at + offset] ^ key);
                    }
                }
            }
        }
    }

    #[test]
    fn the_key_follows_from_the_seed_and_hides_what_there_is() {
        let stream = |seed| machine(seed).keystream(9);
        assert_eq!(stream(1), stream(1));
        for (one, other) in [(stream(1), stream(2)), (stream(1), machine(1).keystream(10))] {
            let same = one.iter().zip(&other).filter(|(a, b)| a == b).count();
            assert!(same < 64, "{same} bytes of {PAGE} are alike");
        }
    }

    #[test]
    fn what_a_device_has_done_is_told_from_its_first_private_byte() {
        let mut memory = machine(1);
        memory.label(PAGE, false);
        memory.ram.write(2 * PAGE, b"private").unwrap();
        let mut data = [0; 100];
        memory.dma_read(device(), 2 * PAGE - 3, &mut data).unwrap();
        assert!(memory.has_found());
        let accesses = memory.encryption.as_mut().unwrap().take_accesses();
        let [access] = &accesses[..] else { panic!("{accesses:?}") };
        assert_eq!((access.address, access.outside.len(), access.at), (2 * PAGE, LINE as usize, 7));
        assert_eq!(
            (&access.inside[..7], &access.outside[..]),
            (&b"private"[..], &data[3..3 + LINE as usize])
        );
        assert!(!memory.has_found());
        memory.dma_write(device(), PAGE + 5, &[1; 9]).unwrap();
        assert!(!memory.has_found(), "a shared page is nobody's business");
    }

    #[test]
    fn what_is_no_ram_has_no_label() {
        let mut memory = machine(1);
        for frame in [8 * MIB, 3 * GIB, u64::MAX - PAGE + 1] {
            assert!(!memory.label(frame, false) && !memory.label(frame, true));
        }
        assert!(memory.dma_write(device(), 8 * MIB - 4, &[1; 8]).is_err());
        assert!(memory.dma_atomic(device(), 4, AtomicOp::FetchAdd(1)).is_err(), "unaligned");
        let encryption = memory.encryption.as_mut().unwrap();
        for arguments in [[1, 1, 0, 0], [0, 0, 0, 0], [PAGE, u64::MAX, 0, 0]] {
            let answer = encryption.hypercall(Hypercall { number: MAP_GPA_RANGE, arguments });
            assert_eq!(answer, hypercall_error::INVALID, "{arguments:?}");
        }
        let all = Hypercall { number: MAP_GPA_RANGE, arguments: [0, u64::MAX, 0, 0] };
        assert_eq!(encryption.hypercall(all), 0);
        let unknown = Hypercall { number: 1, arguments: [0; 4] };
        assert_eq!(encryption.hypercall(unknown), hypercall_error::UNKNOWN);
        assert!(!encryption.is_of(16 * MIB));
    }
}
