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

    /// How often each device, by requester ID, has accessed private pages.
    #[must_use]
    pub fn private_accesses(&self) -> &BTreeMap<u32, u64> {
        &self.private_accesses
    }
}
