//! What calls of the DMA API come to.

use super::bounces::Site;
use super::functions::{self, Argument, Does, Function};
use super::kernel::{Device, Kernel};
use super::share::{Share, is_allocated};
use super::{Call, Kind, Ledger, Note, PoolPage};
use crate::guest::{Frame, Guest, Registers};
use crate::memory::GuestRam;
use crate::memory::layout::LINE;
use cache_model::ledger::{Attributes, Direction, Entry, LedgerError, Mapping, Owner};
use x86_cpu::reg;

/// What a mapping that failed has for an address (DMA_MAPPING_ERROR).
pub(super) const MAPPING_ERROR: u64 = u64::MAX;
/// DMA_ATTR_… (include/linux/dma-mapping.h).
pub(super) mod attribute {
    pub const SKIP_CPU_SYNC: u64 = 1 << 5;
    pub const MMIO: u64 = 1 << 10;
    pub const DEBUGGING_IGNORE_CACHELINES: u64 = 1 << 11;
    pub const REQUIRE_COHERENT: u64 = 1 << 12;
}
/// Most frames of a backtrace.
const MAX_FRAMES: usize = 24;
/// Most elements of a scatter list that are followed.
const MAX_ELEMENTS: usize = 1 << 17;
/// Most mappings wrong in themselves that wait to be taken by [`Ledger::take_misuses`].
const MAX_MISUSES: usize = 1 << 8;
/// Most pages of DMA pools that are kept.
const MAX_POOL_PAGES: usize = 1 << 16;

/// A call's arguments by what they are.
pub(super) struct Arguments<'a>(pub &'a Function, pub &'a Call);

impl Arguments<'_> {
    pub fn get(&self, wanted: Argument) -> u64 {
        self.0
            .position(wanted)
            .and_then(|position| self.1.arguments.get(position))
            .copied()
            .unwrap_or_default()
    }

    /// enum dma_data_direction, an int.
    pub fn direction(&self) -> Option<Direction> {
        match self.get(Argument::Direction) as u32 {
            0 => Some(Direction::Bidirectional),
            1 => Some(Direction::ToDevice),
            2 => Some(Direction::FromDevice),
            _ => None,
        }
    }

    /// An int.
    fn count(&self) -> usize {
        (self.get(Argument::Count) as u32 as usize).min(MAX_ELEMENTS)
    }
}

/// Memory that a device gets.
struct Piece {
    address: u64,
    size: u64,
    physical: Option<u64>,
}

/// What the pieces of one call have in common.
struct Common {
    device: Device,
    kind: Kind,
    direction: Direction,
    attributes: u64,
    /// CPU and device use it at the same time: nobody hands it over.
    has_to_be_coherent: bool,
}

/// Where something is done: [`Ledger::trace`] and [`Ledger::task`] have it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    pub trace: Option<u32>,
    task: Option<u32>,
}

/// The end of mappings: when, and where, if anybody has said so.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    at: u64,
    place: Place,
}

impl End {
    pub(super) fn new(at: u64, place: Option<Place>) -> Self {
        Self { at, place: place.unwrap_or_default() }
    }
}

impl Ledger {
    /// Where a function of the DMA API is called that a vCPU with these registers is about to enter.
    pub(super) fn place_of_call(
        &mut self,
        guest: &mut Guest,
        ram: &GuestRam,
        registers: &Registers,
    ) -> Place {
        let mut trace = guest.backtrace(ram, registers, MAX_FRAMES);
        // The function itself.
        trace.drain(..trace.len().min(1));
        self.place(guest, ram, registers, trace)
    }

    fn place(&mut self, guest: &Guest, ram: &GuestRam, registers: &Registers, trace: Vec<Frame>) -> Place {
        let task = guest.task(ram, registers).and_then(|task| self.tasks.number(task));
        Place { trace: self.traces.number(trace), task }
    }

    /// `call`, which makes mappings, has returned.
    pub(super) fn returned(
        &mut self,
        guest: &mut Guest,
        ram: &GuestRam,
        kernel: &Kernel<'_>,
        registers: &Registers,
        call: &Call,
        now: u64,
    ) {
        let Some(function) = self.function(&call.function) else { return };
        let slot = registers.gpr[reg::RSP].wrapping_sub(8);
        if function.does == Does::Bounce {
            let got = (slot, registers.gpr[reg::RAX]);
            if let Some(device) = self.bounced(kernel, &Arguments(function, call), got, now) {
                let trace = guest.backtrace(ram, registers, MAX_FRAMES);
                let trace = self.place(guest, ram, registers, trace).trace;
                self.bounces.settle(slot, Site { device, trace });
            }
            return;
        }
        let in_pool = match call.outer.map(|outer| self.calls.get(outer).map(|outer| &*outer.function)) {
            None => false,
            Some(Some("dma_pool_alloc")) => true,
            // A means of the call that it is in.
            Some(_) => return,
        };
        let Some((mut common, pieces)) = made(kernel, function, call, registers.gpr[reg::RAX]) else {
            return self.coverage.lost(format!("a call of {} was not understood", call.function));
        };
        if pieces.is_empty() && !self.bounces.is_open(slot) {
            return;
        }
        let trace = guest.backtrace(ram, registers, MAX_FRAMES);
        let from_user = trace.iter().any(|frame| {
            let symbol = guest.resolve_frame(frame);
            symbol.is_some_and(|symbol| functions::of_user_memory().iter().any(|name| name == symbol.name))
        });
        let elements = pieces.len() as u32;
        let place = self.place(guest, ram, registers, trace);
        let name = self.names.number(common.device.name.clone()).unwrap_or(u32::MAX);
        self.bounces.settle(slot, Site { device: name, trace: place.trace });
        if in_pool {
            common.kind = Kind::PoolPage;
        }
        common.has_to_be_coherent |= from_user;
        for piece in pieces {
            let note = Note {
                kind: common.kind,
                device: name,
                physical: piece.physical,
                bounced: self.bounces.at(piece.address).map(|buffer| buffer.original),
                attributes: common.attributes,
                elements,
                trace: place.trace,
                task: place.task,
                unmap_trace: None,
                unmap_task: None,
            };
            if in_pool {
                self.add_pool_page(&common, &piece, note, now);
            } else {
                // The others are the kernel's, by the way they were got.
                let mapped = matches!(common.kind, Kind::Single | Kind::ScatterGather | Kind::Iova);
                let pinned = match piece.physical.filter(|_| mapped) {
                    _ if from_user => Some(true),
                    Some(physical) => kernel.is_pinned(physical),
                    None => Some(false),
                };
                self.add(&common, &piece, note, pinned, now);
            }
        }
    }

    fn add_pool_page(&mut self, common: &Common, piece: &Piece, note: Note, now: u64) {
        let device = common.device.requester;
        let dropped =
            if self.pool_pages.len() >= MAX_POOL_PAGES { self.pool_pages.pop_first() } else { None };
        let id = self.next;
        self.next += 1;
        let page = PoolPage { id, size: piece.size, mapped_at: now, note };
        let replaced = self.pool_pages.insert((device, piece.address), page);
        let ended = dropped.map(|(_, page)| page).into_iter().chain(replaced);
        self.shares.extend(ended.map(|page| Share::Ends { id: page.id }));
        self.shares.push(Share::Begins { id, device, addr: piece.address, len: piece.size });
        self.enter_memory(piece);
    }

    fn add(&mut self, common: &Common, piece: &Piece, note: Note, pinned: Option<bool>, now: u64) {
        let requester = common.device.requester;
        if !self.coverage.unmaps {
            // The old mapping has ended, although nobody said so.
            let same = |entry: &&Entry<Note>| {
                entry.mapping.note.kind == common.kind && entry.mapping.len == piece.size
            };
            let old =
                self.mappings.beginning_at(requester, piece.address).into_iter().find(same).map(|old| old.id);
            if let Some(old) = old {
                self.end_mapping(old, End::new(now, None));
            }
        }
        let has = |bit| common.attributes & bit != 0;
        let bounced = note.bounced;
        let mapping = Mapping {
            device: requester,
            addr: piece.address,
            len: piece.size,
            direction: common.direction,
            attributes: Attributes {
                require_coherent: has(attribute::REQUIRE_COHERENT),
                shares_lines: has(attribute::DEBUGGING_IGNORE_CACHELINES),
                skip_cpu_sync: has(attribute::SKIP_CPU_SYNC),
            },
            // Where nothing is known of the memory it is what the attribute is for.
            user_pinned: pinned.unwrap_or(has(attribute::REQUIRE_COHERENT)),
            note,
        };
        let id = self.next;
        self.next += 1;
        match self.mappings.map(id, mapping, now) {
            Ok(()) => {
                if is_allocated(common.kind) {
                    let (addr, len) = (piece.address, piece.size);
                    self.shares.push(Share::Begins { id, device: requester, addr, len });
                }
                if let Some(memory) = bounced.filter(|_| common.has_to_be_coherent) {
                    self.coherents.begin(id, piece.address, memory, piece.size);
                }
                self.enter_memory(piece);
                self.look_for_misuse(id);
            }
            Err(LedgerError::Full) => self.coverage.lost("there are more live mappings than can be followed"),
            Err(error) => self.coverage.lost(error.to_string()),
        }
    }

    /// Is the new mapping wrong in itself?
    fn look_for_misuse(&mut self, id: u64) {
        let Some(entry) = self.mappings.get(id).filter(|_| self.coverage.unmaps) else { return };
        for misuse in self.mappings.misuse(id, LINE) {
            if self.misuses.len() < MAX_MISUSES {
                self.misuses.push((misuse, Box::new(entry.clone())));
            }
        }
    }

    fn enter_memory(&mut self, piece: &Piece) {
        self.entered.push((piece.address, piece.size));
    }

    /// `function`, whose arguments say all, is called.
    pub(super) fn acts(
        &mut self,
        guest: &Guest,
        kernel: &Kernel<'_>,
        function: &Function,
        call: &Call,
        end: End,
    ) {
        let now = end.at;
        let arguments = Arguments(function, call);
        let get = |argument| arguments.get(argument);
        if function.does == Does::Dump {
            self.printed = Some(self.records(guest));
            return;
        }
        if function.does.bounces() {
            return self.copies(function, call);
        }
        let device = match function.position(Argument::Pool) {
            Some(_) => kernel.pool(get(Argument::Pool)).map(|(device, _)| device),
            None => kernel.device(get(Argument::Device)),
        };
        let Some(Device { requester, .. }) = device else {
            return self.coverage.lost(format!("a call of {} was not understood", call.function));
        };
        let (address, size) = (get(Argument::Address), get(Argument::Size));
        let part = || kernel.iova(get(Argument::State)).map(|base| base.wrapping_add(get(Argument::Offset)));
        match function.does {
            Does::Unmap => self.end(requester, address, Some(size), &[Kind::Single, Kind::Resource], end),
            Does::UnmapList => {
                self.end_list(
                    kernel,
                    requester,
                    get(Argument::List),
                    arguments.count(),
                    Kind::ScatterGather,
                    end,
                );
            }
            // Freeing nothing is nothing.
            Does::Free if function.position(Argument::Virtual).is_some() && get(Argument::Virtual) == 0 => {}
            Does::Free => self.end_allocation(requester, address, size, end),
            Does::FreeTable => {
                if let Some((list, mapped)) = kernel.table(get(Argument::Table)) {
                    self.end_list(
                        kernel,
                        requester,
                        list,
                        mapped.min(MAX_ELEMENTS),
                        Kind::Noncontiguous,
                        end,
                    );
                }
            }
            Does::FreeBlock => self.end(requester, address, None, &[Kind::PoolBlock], end),
            Does::Unlink => {
                if let Some(address) = part() {
                    self.end_range(requester, address, size, end);
                }
            }
            Does::Destroy => {
                if let Some(address) = kernel.iova(get(Argument::State)) {
                    self.end_range(requester, address, size, end);
                }
            }
            Does::SyncForCpu => self.sync(requester, Owner::Cpu, address, size, now),
            Does::SyncForDevice => self.sync(requester, Owner::Device, address, size, now),
            Does::SyncListForCpu | Does::SyncListForDevice => {
                let to = if function.does == Does::SyncListForCpu { Owner::Cpu } else { Owner::Device };
                for segment in kernel.list(get(Argument::List), arguments.count()) {
                    if segment.mapped != 0 {
                        self.sync(requester, to, segment.address, segment.mapped, now);
                    }
                }
            }
            _ => {}
        }
    }

    /// The mapping that begins at `address` ends: of several one of these kinds and this size, if there is.
    fn end(&mut self, device: u32, address: u64, size: Option<u64>, kinds: &[Kind], end: End) {
        let entries = self.mappings.beginning_at(device, address);
        let likeness = |entry: &&Entry<Note>| {
            let mapping = &entry.mapping;
            (kinds.contains(&mapping.note.kind), size.is_none_or(|size| size == mapping.len), entry.id)
        };
        // Another kind's function may end it all the same, but for what is in a pool.
        let may = |entry: &&Entry<Note>| {
            let kind = entry.mapping.note.kind;
            kinds.contains(&kind) || kind != Kind::PoolBlock && !kinds.contains(&Kind::PoolBlock)
        };
        let found = entries.into_iter().filter(may).max_by_key(likeness).map(|entry| entry.id);
        match found {
            Some(id) => self.end_mapping(id, end),
            None => self.unknown += 1,
        }
    }

    /// Allocated memory is freed: the driver's own, or a pool's.
    fn end_allocation(&mut self, device: u32, address: u64, size: u64, end: End) {
        match self.pool_pages.remove(&(device, address)) {
            Some(page) => self.shares.push(Share::Ends { id: page.id }),
            None => self.end(device, address, Some(size), &[Kind::Coherent, Kind::Noncoherent], end),
        }
    }

    fn end_mapping(&mut self, id: u64, End { at, place }: End) {
        if let Some(note) = self.mappings.note_mut(id) {
            (note.unmap_trace, note.unmap_task) = (place.trace, place.task);
            if is_allocated(note.kind) {
                self.shares.push(Share::Ends { id });
            }
        }
        if let Err(error) = self.mappings.unmap(id, at) {
            log::debug!("ledger: {error}");
        }
    }

    /// The mappings that a list was mapped to end.
    fn end_list(&mut self, kernel: &Kernel<'_>, device: u32, list: u64, count: usize, kind: Kind, end: End) {
        let segments = kernel.list(list, count);
        let first = segments.first().and_then(|first| {
            let entries = self.mappings.beginning_at(device, first.address);
            let same =
                |entry: &&Entry<Note>| entry.mapping.note.kind == kind && entry.mapping.len == first.mapped;
            entries.into_iter().find(same).map(|entry| entry.mapping.note.elements as usize)
        });
        let Some(mapped) = first else {
            self.unknown += 1;
            return;
        };
        for segment in segments.into_iter().take(mapped) {
            self.end(device, segment.address, Some(segment.mapped), &[kind], end);
        }
    }

    /// What is linked within a range of I/O virtual addresses ends.
    fn end_range(&mut self, device: u32, address: u64, size: u64, end: End) {
        let last = address.saturating_add(size);
        let within = |entry: &&Entry<Note>| {
            let mapping = &entry.mapping;
            mapping.device == device
                && mapping.note.kind == Kind::Iova
                && address <= mapping.addr
                && mapping.end() <= last
        };
        let ids: Vec<_> =
            self.mappings.live_at(address, size).into_iter().filter(within).map(|entry| entry.id).collect();
        for id in ids {
            self.end_mapping(id, end);
        }
    }

    /// A part of a mapping is handed over.
    fn sync(&mut self, device: u32, to: Owner, address: u64, size: u64, now: u64) {
        let covers = |entry: &&Entry<Note>| {
            entry.mapping.device == device
                && entry.mapping.contains(address)
                && entry.mapping.note.kind != Kind::PoolBlock
        };
        let found = self.mappings.live_at(address, size.max(1)).into_iter().find(covers);
        let Some((id, start, end)) = found.map(|entry| (entry.id, entry.mapping.addr, entry.mapping.end()))
        else {
            self.unknown += 1;
            return;
        };
        let part = (address - start, size.min(end - address));
        if let Err(error) = self.mappings.sync(id, to, Some(part), now) {
            log::debug!("ledger: {error}");
        }
    }
}

/// The memory that devices get by a call that has returned `result`; `None` if that cannot be made out.
fn made(kernel: &Kernel<'_>, function: &Function, call: &Call, result: u64) -> Option<(Common, Vec<Piece>)> {
    let arguments = Arguments(function, call);
    let get = |argument| arguments.get(argument);
    let attributes = get(Argument::Attributes);
    let handle = || kernel.memory.u64(get(Argument::Handle)).ok();
    let succeeded = match function.does {
        Does::Map | Does::MapResource => result != MAPPING_ERROR,
        // Of type int.
        Does::MapTable | Does::Link => result as u32 == 0,
        Does::MapList => result as i32 > 0,
        _ => result != 0,
    };
    let (device, block) = match function.does {
        Does::AllocateBlock => kernel.pool(get(Argument::Pool)).map(|(device, size)| (device, Some(size)))?,
        _ => (kernel.device(get(Argument::Device))?, None),
    };
    let size = block.unwrap_or_else(|| get(Argument::Size));
    let (kind, direction) = match function.does {
        Does::MapResource => (Kind::Resource, arguments.direction()?),
        Does::Map if attributes & attribute::MMIO != 0 => (Kind::Resource, arguments.direction()?),
        Does::Map => (Kind::Single, arguments.direction()?),
        Does::MapList | Does::MapTable => (Kind::ScatterGather, arguments.direction()?),
        Does::Allocate => (Kind::Coherent, Direction::Coherent),
        Does::AllocatePages => (Kind::Noncoherent, arguments.direction()?),
        Does::AllocateTable => (Kind::Noncontiguous, arguments.direction()?),
        Does::AllocateBlock => (Kind::PoolBlock, Direction::Coherent),
        Does::Link => (Kind::Iova, arguments.direction()?),
        _ => return None,
    };
    let has_to_be_coherent = attributes & attribute::REQUIRE_COHERENT != 0;
    let common = Common { device, kind, direction, attributes, has_to_be_coherent };
    if !succeeded {
        return Some((common, Vec::new()));
    }
    let segments = |list, count: usize| {
        let segments = kernel.list(list, count.min(MAX_ELEMENTS));
        let whole = segments.len() == count;
        let pieces = segments.into_iter().map(|segment| Piece {
            address: segment.address,
            size: segment.mapped,
            physical: Some(segment.physical),
        });
        whole.then(|| pieces.collect::<Vec<_>>())
    };
    let one = |address, physical| vec![Piece { address, size, physical }];
    let pieces = match function.does {
        Does::Map | Does::MapResource => {
            let physical = match function.position(Argument::Page) {
                Some(_) => {
                    kernel.page(get(Argument::Page)).map(|page| page.saturating_add(get(Argument::Offset)))
                }
                None => Some(get(Argument::Physical)),
            };
            one(result, physical)
        }
        Does::MapList => segments(get(Argument::List), result as u32 as usize)?,
        Does::MapTable | Does::AllocateTable => {
            let table = if function.does == Does::MapTable { get(Argument::Table) } else { result };
            let (list, mapped) = kernel.table(table)?;
            segments(list, mapped)?
        }
        Does::AllocatePages => one(handle()?, kernel.page(result)),
        Does::Allocate | Does::AllocateBlock => one(handle()?, kernel.memory.translate(result).ok()),
        Does::Link => one(
            kernel.iova(get(Argument::State))?.wrapping_add(get(Argument::Offset)),
            Some(get(Argument::Physical)),
        ),
        _ => return None,
    };
    Some((common, pieces))
}
