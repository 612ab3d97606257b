//! The modelled cache between vCPUs, devices and RAM: the machine's accesses as [`cache_model`] knows them.

use super::GuestRam;
use super::hook::{MemoryHook, Operation};
use super::layout::PAGE;
use super::reach::Reach;
use super::recorder::Recorder;
use cache_model::{CacheModel, Config, Memory, MemoryType, OutOfRange, Schedule, Snoop, Writer};
use devices::dma::AtomicOp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use x86_cpu::{CacheOp, CodePages, MemoryType as PageType, RamAccess, Shown};

/// Which accesses the model is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Scope {
    /// Every load, store, fetch and page walk: the cache is exact.
    #[default]
    All,
    /// Those to pages that devices reach, from the moment on at which they first do.
    Dma,
}

/// Which cache a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheConfig {
    pub model: Config,
    pub scope: Scope,
    /// Seed of the model's schedule; `None`: the machine's at the ready mark.
    pub seed: Option<u64>,
}

/// The cache of a machine: plain data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cache {
    model: CacheModel,
    scope: Scope,
    seed: Option<u64>,
    /// What caches could hold.
    reach: Reach,
    /// With [`Scope::Dma`]: the pages shown.
    shown: BTreeSet<u64>,
    /// Counts growth of `shown`.
    generation: u64,
    /// Writes down what happens. Not part of the machine's state: a recording is of one run.
    #[serde(skip)]
    recorder: Option<Recorder>,
}

/// RAM as the model works on it: what CPUs see.
struct View<'a> {
    ram: &'a GuestRam,
    code: &'a mut CodePages,
    reach: &'a Reach,
}

impl Memory for View<'_> {
    fn covers(&self, addr: u64, len: u64) -> bool {
        self.ram.contains(addr, len)
    }
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), OutOfRange> {
        let len = buf.len() as u64;
        self.ram.read(addr, buf).map_err(|_| OutOfRange { addr, len })
    }
    fn write(&mut self, addr: u64, data: &[u8]) -> Result<(), OutOfRange> {
        let len = data.len() as u64;
        self.ram.write(addr, data).map_err(|_| OutOfRange { addr, len })?;
        self.code.written(addr, len);
        Ok(())
    }
    fn may_speculate(&self, addr: u64) -> bool {
        self.reach.may_be_filled(addr)
    }
    fn may_be_cached(&self, addr: u64) -> bool {
        self.reach.may_be_cached(addr)
    }
}

/// A model and the memory under it, for one access.
macro_rules! over {
    ($cache:expr, $ram:expr, $code:expr) => {
        (&mut $cache.model, &mut View { ram: $ram, code: $code, reach: &$cache.reach })
    };
}

fn writer(by: &RamAccess) -> Writer {
    Writer::cpu(by.cpu, by.ip, by.now)
}

impl Cache {
    /// An empty cache for a machine whose RAM ends at `end`.
    #[must_use]
    pub fn new(config: &CacheConfig, end: u64) -> Self {
        Self {
            model: CacheModel::new(config.model),
            scope: config.scope,
            seed: config.seed,
            reach: Reach::new(end, config.model.geometry().line() as u64),
            shown: BTreeSet::new(),
            generation: 0,
            recorder: None,
        }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &CacheModel {
        &self.model
    }

    /// The model, for what it has found.
    pub fn model_mut(&mut self) -> &mut CacheModel {
        &mut self.model
    }

    /// The guest is ready: the schedule acts from now on, by its own seed or by `seed`.
    pub fn start_schedule(&mut self, seed: u64) {
        if self.model.config().schedule() != Schedule::None {
            self.model.start_schedule(self.seed.unwrap_or(seed));
        }
    }

    /// What vCPUs are to show.
    #[inline]
    #[must_use]
    pub fn shown(&self) -> Shown {
        match self.scope {
            Scope::All => {
                let geometry = self.model.config().geometry();
                Shown::Everything { line: geometry.line() as u32, sets: geometry.sets() as u32 }
            }
            Scope::Dma => Shown::Pages,
        }
    }

    /// Whether accesses to a page of RAM are to be shown.
    #[must_use]
    pub fn shows_page(&self, frame: u64, kind: PageType) -> bool {
        self.scope == Scope::All || kind != PageType::WriteBack || self.shown.contains(&(frame / PAGE))
    }

    /// Changes when more pages are to be shown.
    #[inline]
    #[must_use]
    pub fn shown_generation(&self) -> u64 {
        self.generation
    }

    /// Has these pages shown from the beginning on: nothing has happened, and so their past is known.
    pub fn show_pages(&mut self, pages: &[u64]) {
        self.shown.extend(pages.iter().map(|page| page / PAGE));
        self.generation += 1;
    }

    /// Addresses of the pages that are shown with [`Scope::Dma`], lowest first.
    pub fn shown_pages(&self) -> impl Iterator<Item = u64> {
        self.shown.iter().map(|page| page * PAGE)
    }

    /// Devices reach these bytes: with [`Scope::Dma`] their pages are shown from now on, lines of unknown past.
    pub fn enter(&mut self, ram: &GuestRam, address: u64, length: u64) {
        let Some(last) = length.checked_sub(1).map(|more| address.saturating_add(more)) else { return };
        if self.scope == Scope::All {
            return;
        }
        for page in address / PAGE..=last / PAGE {
            if !ram.contains(page * PAGE, PAGE) {
                break;
            }
            if self.shown.insert(page) {
                self.generation += 1;
                let mut code = CodePages::default();
                self.reach.enter(page * PAGE);
                let view = View { ram, code: &mut code, reach: &self.reach };
                // All of the page is RAM.
                let _ = self.model.enter_unknown(&view, page * PAGE, PAGE);
            }
        }
    }

    /// The quick way of a load.
    #[inline(always)]
    pub fn load_hit(&mut self, cpu: u32, address: u64, len: usize) -> bool {
        self.recorder.is_none() && self.model.load_hit(cpu, address, len)
    }

    /// The quick way of a store.
    #[inline(always)]
    pub fn store_hit(&mut self, cpu: u32, now: u64, ip: u64, address: u64, len: usize) -> bool {
        self.recorder.is_none() && self.model.store_hit(Writer::cpu(cpu, ip, now), address, len)
    }

    /// The quick way of a fetch.
    #[inline(always)]
    pub fn fetch_hit(&mut self, cpu: u32, address: u64) -> bool {
        self.recorder.is_none() && self.model.fetch_hit(cpu, address)
    }

    /// The quick way of a load from RAM that may miss.
    pub fn load_miss(&mut self, by: &RamAccess, address: u64, len: usize) -> bool {
        self.misses_plainly(by, address) && self.model.load_miss(writer(by), address, len)
    }

    /// The quick way of a fetch from one line that may miss.
    pub fn fetch_miss(&mut self, by: &RamAccess, address: u64) -> bool {
        self.misses_plainly(by, address) && self.model.fetch_miss(writer(by), address)
    }

    /// Whether an access to RAM may fill its line without more ado.
    fn misses_plainly(&mut self, by: &RamAccess, address: u64) -> bool {
        let plain = self.recorder.is_none() && by.kind == PageType::WriteBack;
        if plain {
            self.use_translation(by, address);
        }
        plain
    }

    /// Changes when what the quick ways allow without asking ends; see [`CacheModel::hot_generation`].
    #[inline]
    #[must_use]
    pub fn hot_generation(&self) -> u64 {
        self.model.hot_generation()
    }

    /// A vCPU has loaded and fetched without asking.
    pub fn count_hits(&mut self, cpu: u32, hits: u64, fetched: Option<u64>) {
        self.model.count_hits(cpu, hits, fetched);
    }

    /// A vCPU's load from RAM.
    ///
    /// # Errors
    /// If a line of it is not RAM.
    pub fn load(
        &mut self,
        (ram, code): (&GuestRam, &mut CodePages),
        by: &RamAccess,
        address: u64,
        data: &mut [u8],
    ) -> Result<(), OutOfRange> {
        match self.kind(by, address, data.len(), false) {
            Some(kind) => self.make((ram, code), writer(by), Operation::Load { address, data, kind }),
            None => View { ram, code, reach: &self.reach }.read(address, data),
        }
    }

    /// A vCPU's store to RAM.
    ///
    /// # Errors
    /// As [`Cache::load`].
    pub fn store(
        &mut self,
        (ram, code): (&GuestRam, &mut CodePages),
        by: &RamAccess,
        address: u64,
        data: &[u8],
    ) -> Result<(), OutOfRange> {
        // What misses while nothing may be filled reaches RAM as a store that is written through would.
        let kind = self.kind(by, address, data.len(), true).unwrap_or(MemoryType::WriteThrough);
        self.make((ram, code), writer(by), Operation::Store { address, data, kind })
    }

    /// A vCPU's fetch of instruction bytes that lie in one line.
    ///
    /// # Errors
    /// As [`Cache::load`].
    pub fn fetch(
        &mut self,
        (ram, code): (&GuestRam, &mut CodePages),
        by: &RamAccess,
        address: u64,
        length: usize,
    ) -> Result<(), OutOfRange> {
        match self.kind(by, address, length, false) {
            Some(kind) => self.make((ram, code), writer(by), Operation::Fetch { address, length, kind }),
            None => Ok(()),
        }
    }

    /// A cache maintenance instruction or a fence.
    ///
    /// # Errors
    /// As [`Cache::load`].
    pub fn maintain(
        &mut self,
        (ram, code): (&GuestRam, &mut CodePages),
        by: &RamAccess,
        op: CacheOp,
    ) -> Result<(), OutOfRange> {
        if let CacheOp::Flush(address) | CacheOp::FlushWeakly(address) | CacheOp::CleanWeakly(address) = op {
            self.use_translation(by, address);
        }
        match op {
            CacheOp::Flush(address) | CacheOp::FlushWeakly(address) => {
                self.reach.flushed(address);
            }
            CacheOp::FlushAll | CacheOp::InvalidateAll => self.reach.flushed_all(),
            CacheOp::CleanWeakly(_) | CacheOp::Fence | CacheOp::Drain => {}
        }
        let operation = match op {
            CacheOp::Flush(address) => Operation::Flush(address),
            CacheOp::FlushWeakly(address) => Operation::FlushWeakly(address),
            CacheOp::CleanWeakly(address) => Operation::CleanWeakly(address),
            CacheOp::FlushAll => Operation::FlushAll,
            CacheOp::InvalidateAll => Operation::InvalidateAll,
            CacheOp::Fence => Operation::Fence(by.cpu),
            CacheOp::Drain => Operation::Drain(by.cpu),
        };
        self.make((ram, code), writer(by), operation)
    }

    /// A device's read of RAM that has been [entered](Cache::enter).
    ///
    /// # Errors
    /// As [`Cache::load`].
    pub fn dma_read(
        &mut self,
        (ram, code): (&GuestRam, &mut CodePages),
        by: Writer,
        address: u64,
        data: &mut [u8],
        snoop: Snoop,
    ) -> Result<(), OutOfRange> {
        self.make((ram, code), by, Operation::DmaRead { address, data, snoop })
    }

    /// A device's write of RAM that has been [entered](Cache::enter).
    ///
    /// # Errors
    /// As [`Cache::load`].
    pub fn dma_write(
        &mut self,
        (ram, code): (&GuestRam, &mut CodePages),
        by: Writer,
        address: u64,
        data: &[u8],
        snoop: Snoop,
    ) -> Result<(), OutOfRange> {
        self.make((ram, code), by, Operation::DmaWrite { address, data, snoop })
    }

    /// A device's atomic operation on 8 aligned bytes of RAM that have been entered; returns the old value.
    ///
    /// # Errors
    /// As [`Cache::load`].
    pub fn dma_atomic(
        &mut self,
        (ram, code): (&GuestRam, &mut CodePages),
        by: Writer,
        address: u64,
        op: AtomicOp,
        snoop: Snoop,
    ) -> Result<u64, OutOfRange> {
        let (model, memory) = over!(self, ram, code);
        let (mut old, mut new) = ([0; 8], [0; 8]);
        model.dma_atomic(memory, by, address, 8, snoop, |bytes| {
            if let Ok(word) = <&mut [u8; 8]>::try_from(bytes) {
                old = *word;
                new = op.apply(u64::from_le_bytes(old)).to_le_bytes();
                *word = new;
            }
        })?;
        if let Some(recorder) = &mut self.recorder {
            recorder.moved(model);
            let mut was = old;
            recorder.operate(memory, by, &mut Operation::DmaRead { address, data: &mut was, snoop })?;
            recorder.operate(memory, by, &mut Operation::DmaWrite { address, data: &new, snoop })?;
        }
        Ok(u64::from_le_bytes(old))
    }

    /// What RAM holds, past the cache.
    ///
    /// # Errors
    /// As [`Cache::load`].
    pub fn peek_ram(&self, ram: &GuestRam, address: u64, data: &mut [u8]) -> Result<(), OutOfRange> {
        let mut code = CodePages::default();
        let view = View { ram, code: &mut code, reach: &self.reach };
        self.model.peek_ram(&view, address, data)
    }

    /// Has everything be written to `file` from now on, before which nothing has happened.
    ///
    /// # Errors
    /// The host's reason.
    pub fn record(&mut self, file: File, ram: &GuestRam) -> io::Result<()> {
        self.recorder = Some(Recorder::new(file, ram, &self.model)?);
        self.model.keep_moves();
        Ok(())
    }

    /// Ends what [`Cache::record`] has begun.
    ///
    /// # Errors
    /// What has kept the recording from being written.
    pub fn finish_recording(&mut self, ram: &GuestRam) -> io::Result<()> {
        let Some(mut recorder) = self.recorder.take() else { return Ok(()) };
        recorder.finish(ram, self.model.stats(), |address, data| {
            if self.peek_ram(ram, address, data).is_err() {
                data.fill(0xff);
            }
        })
    }

    /// Shows an operation to those who are to see it.
    #[inline]
    fn make(
        &mut self,
        (ram, code): (&GuestRam, &mut CodePages),
        by: Writer,
        mut operation: Operation<'_>,
    ) -> Result<(), OutOfRange> {
        let (model, memory) = over!(self, ram, code);
        match &mut self.recorder {
            None => model.operate(memory, by, &mut operation),
            Some(recorder) => recorder.record(model, memory, by, &mut operation),
        }
    }

    #[inline]
    fn use_translation(&mut self, by: &RamAccess, address: u64) {
        if Reach::is_cacheable(by.kind) {
            self.reach.used(by.cpu, address);
        }
    }

    /// vCPU `cpu` has dropped all its translations, or those that lead to these addresses.
    pub fn translations_dropped(&mut self, cpu: u32, addresses: Option<&[u64]>) {
        match addresses {
            None => self.reach.dropped_all(cpu),
            Some(addresses) => addresses.iter().for_each(|&address| self.reach.dropped(cpu, address)),
        }
    }

    /// The access's type for the model. `None` if it misses while CR0.CD forbids fills: it reaches RAM, and no copy can have come
    /// to be in the cache that would have to be older or newer.
    fn kind(&mut self, by: &RamAccess, address: u64, length: usize, store: bool) -> Option<MemoryType> {
        self.use_translation(by, address);
        let last = address.saturating_add(length.saturating_sub(1) as u64);
        if by.no_fill && !self.model.is_resident(address) && !self.model.is_resident(last) {
            return None;
        }
        Some(match by.kind {
            PageType::Uncacheable => MemoryType::Uncached,
            PageType::WriteCombining => MemoryType::WriteCombining,
            _ if by.streaming && store => MemoryType::NonTemporal,
            PageType::WriteThrough => MemoryType::WriteThrough,
            PageType::WriteProtected => MemoryType::WriteProtected,
            PageType::NoFill | PageType::WriteBack => MemoryType::WriteBack,
        })
    }
}
