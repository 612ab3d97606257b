//! Memory keys: what a queue may reach in memory, and where it lies.

use super::command::Command;
use super::hca::{Hca, Phase, answer_number};
use super::layout::capabilities::general;
use super::layout::commands::{CONTEXT, OBJECT, PAGES, header, mkey, special_contexts};
use super::layout::contexts::mkc;
use super::pages::ADAPTER_PAGE_SHIFT;
use super::status::{Failure, Status};
use serde::{Deserialize, Serialize};

pub const COMMANDS: &[Command] = &[
    Command::new(0x200, "CREATE_MKEY", Phase::Ready, create).lengths(PAGES, header::OUT_LEN),
    Command::new(0x201, "QUERY_MKEY", Phase::Ready, query).lengths(header::IN_LEN, PAGES),
    Command::new(0x202, "DESTROY_MKEY", Phase::Ready, destroy),
    Command::new(0x203, "QUERY_SPECIAL_CONTEXTS", Phase::Ready, query_special_contexts)
        .lengths(header::IN_LEN, 32),
];

/// Translation entries (8 bytes each) that all memory keys together may hold: 16 GiB of 4-KiB pages.
const MAX_TRANSLATIONS: usize = 1 << 22;
/// Largest page of a memory key, as a power of two.
const MAX_PAGE_SHIFT: u32 = 31;
/// The data segment that ends a receive work request's scatter list names this key.
pub const TERMINATE_SCATTER_LIST_MKEY: u32 = 0x100;
const LOCAL_ADDRESS_LKEY: u64 = 0;
/// Work requests write translation entries by so many octwords, the last of which may be padding.
const UMR_ALIGN: usize = 4;
/// Any queue pair may use the key.
const ANY_QUEUE_PAIR: u32 = 0xff_ffff;

/// How a memory key translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessMode {
    /// Addresses are bus addresses.
    Physical,
    /// Pages of one size, one entry each.
    PageList,
    /// Entries of two words: byte count and key, then address; each may have its own length.
    KeyedList,
    /// Entries like those of a keyed list, all of one length.
    FixedKeyedList,
}

/// What may be done with a memory key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    pub local_read: bool,
    pub local_write: bool,
    pub remote_read: bool,
    pub remote_write: bool,
    pub atomic: bool,
}

/// A memory key as the driver has created or changed it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemoryKey {
    #[serde(with = "crate::state::bytes")]
    context: [u8; mkc::SIZE],
    /// Low 8 bits of the key that work requests use, chosen by the driver.
    pub variant: u8,
    pub pd: u32,
    /// The only queue pair that may use the key, if it is bound to one.
    pub bound_to: Option<u32>,
    /// First address that the key covers.
    pub start: u64,
    /// Bytes covered; 2 to the power of 64 for a key over all memory.
    pub len: u128,
    pub mode: AccessMode,
    pub access: Access,
    /// Not valid before a work request makes it so.
    pub free: bool,
    /// Work requests may change it.
    pub umr_enabled: bool,
    /// A peer's SEND with invalidate may free it.
    pub remote_invalidate: bool,
    /// Writes through it may pass earlier ones.
    pub relaxed_ordering_write: bool,
    /// Size of a page or of a fixed entry, as a power of two.
    pub page_shift: u32,
    /// Page addresses, or pairs of words of a keyed list.
    pub translations: Vec<u64>,
    /// Where each entry of a keyed list ends, in bytes from the key's start.
    pub ends: Vec<u64>,
    /// Page addresses carry their own access rights in bits 1:0.
    pub page_access: bool,
    /// Translation entries that work requests may fill.
    capacity: usize,
}

impl MemoryKey {
    fn parse(input: &[u8]) -> Result<Self, Failure> {
        let given = input.get(CONTEXT..).and_then(|bytes| bytes.first_chunk());
        let context: [u8; mkc::SIZE] = *given.ok_or(Failure::new(Status::BadInputLength, "no context"))?;
        if mkey::UMEM_VALID.is_set(input) {
            return Err(Failure::parameter("user memory objects are not supported"));
        }
        let octwords = mkey::TRANSLATIONS_OCTWORD_ACTUAL_SIZE.get(input);
        let (entries, _) = input.get(PAGES..).unwrap_or_default().as_chunks::<8>();
        if octwords * 2 > entries.len() as u64 {
            return Err(Failure::new(Status::BadInputLength, "fewer translation entries than announced"));
        }
        let translations = entries.iter().take(octwords as usize * 2).map(|e| u64::from_be_bytes(*e));
        let mut mkey = Self::from_context(context)?;
        mkey.page_access = mkey::PG_ACCESS.is_set(input);
        mkey.translations = translations.collect();
        mkey.index_entries();
        Ok(mkey)
    }

    /// A key without translation entries.
    fn from_context(context: [u8; mkc::SIZE]) -> Result<Self, Failure> {
        let mode = match mkc::ACCESS_MODE_4_2.get(&context) << 2 | mkc::ACCESS_MODE_1_0.get(&context) {
            0 => AccessMode::Physical,
            1 => AccessMode::PageList,
            2 => AccessMode::KeyedList,
            3 => AccessMode::FixedKeyedList,
            _ => return Err(Failure::parameter("unknown access mode")),
        };
        let page_shift = mkc::LOG_PAGE_SIZE.get32(&context);
        if mode == AccessMode::PageList && !(ADAPTER_PAGE_SHIFT..=MAX_PAGE_SHIFT).contains(&page_shift) {
            return Err(Failure::parameter("page size out of range"));
        }
        let qpn = mkc::QPN.get32(&context);
        Ok(Self {
            variant: mkc::MKEY_7_0.get(&context) as u8,
            pd: mkc::PD.get32(&context),
            bound_to: (qpn != ANY_QUEUE_PAIR).then_some(qpn),
            start: mkc::START_ADDR.get(&context),
            len: if mkc::LENGTH64.is_set(&context) { 1 << 64 } else { mkc::LEN.get(&context).into() },
            mode,
            access: Access {
                local_read: mkc::LOCAL_READ.is_set(&context),
                local_write: mkc::LOCAL_WRITE.is_set(&context),
                remote_read: mkc::REMOTE_READ.is_set(&context),
                remote_write: mkc::REMOTE_WRITE.is_set(&context),
                atomic: mkc::ATOMIC.is_set(&context),
            },
            free: mkc::FREE.is_set(&context),
            umr_enabled: mkc::UMR_EN.is_set(&context),
            remote_invalidate: mkc::EN_RINVAL.is_set(&context),
            relaxed_ordering_write: mkc::RELAXED_ORDERING_WRITE.is_set(&context),
            page_shift,
            translations: Vec::new(),
            ends: Vec::new(),
            page_access: false,
            capacity: (mkc::TRANSLATIONS_OCTWORD_SIZE.get(&context) as usize)
                .next_multiple_of(UMR_ALIGN)
                .saturating_mul(2),
            context,
        })
    }

    /// The context, with the key's state of being free.
    pub fn context(&self) -> [u8; mkc::SIZE] {
        let mut context = self.context;
        mkc::FREE.set(&mut context, self.free.into());
        context
    }

    /// Takes over a changed context; the translation entries stay.
    ///
    /// # Errors
    /// BAD_PARAM if the context is impossible; the key is as before.
    pub fn set_context(&mut self, context: [u8; mkc::SIZE]) -> Result<(), Failure> {
        let mut changed = Self::from_context(context)?;
        changed.page_access = self.page_access;
        changed.translations = std::mem::take(&mut self.translations);
        changed.index_entries();
        *self = changed;
        Ok(())
    }

    /// Overwrites translation entries from entry `first` on. They carry their own access rights, as those of a work
    /// request do.
    ///
    /// # Errors
    /// BAD_PARAM if they do not fit into the key.
    pub fn set_translations(&mut self, first: usize, entries: &[u64]) -> Result<(), Failure> {
        let end = first.checked_add(entries.len()).filter(|end| *end <= self.capacity);
        let end = end.ok_or(Failure::parameter("more translation entries than the key has room for"))?;
        if self.translations.len() < end {
            self.translations.resize(end, 0);
        }
        if let Some(place) = self.translations.get_mut(first..end) {
            place.copy_from_slice(entries);
        }
        self.page_access = true;
        self.index_entries();
        Ok(())
    }

    /// Adds up the lengths of a keyed list's entries.
    fn index_entries(&mut self) {
        self.ends.clear();
        if self.mode == AccessMode::KeyedList {
            let (pairs, _) = self.translations.as_chunks::<2>();
            let mut end = 0u64;
            self.ends.extend(pairs.iter().map(|[count_and_key, _]| {
                end = end.saturating_add(count_and_key >> 32);
                end
            }));
        }
    }
}

impl Hca {
    /// Whether all memory keys together may hold `more` translation entries.
    pub fn has_room_for_translations(&self, more: usize) -> bool {
        let held: usize = self.mkeys.values().map(|mkey| mkey.translations.len()).sum();
        held.saturating_add(more) <= MAX_TRANSLATIONS
    }
}

fn create(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let mkey = MemoryKey::parse(input)?;
    if !hca.pds.contains(mkey.pd) {
        return Err(Failure::resource("no such protection domain"));
    }
    if !hca.has_room_for_translations(mkey.translations.len()) {
        return Err(Failure::limit("no room for more translation entries"));
    }
    let end = hca.caps.limit(general::LOG_MAX_MKEY);
    answer_number(hca.mkeys.insert(mkey, end), out)
}

fn query(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let mkey = hca.mkeys.get(OBJECT.get32(input)).ok_or(Failure::resource("no such memory key"))?;
    if let Some(context) = out.get_mut(CONTEXT..CONTEXT + mkc::SIZE) {
        context.copy_from_slice(&mkey.context());
    }
    if mkey::PG_ACCESS.is_set(input) {
        let (entries, _) = out.get_mut(PAGES..).unwrap_or_default().as_chunks_mut::<8>();
        for (entry, translation) in entries.iter_mut().zip(&mkey.translations) {
            *entry = translation.to_be_bytes();
        }
    }
    Ok(())
}

fn destroy(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    hca.mkeys.remove(OBJECT.get32(input)).ok_or(Failure::resource("no such memory key"))?;
    Ok(())
}

fn query_special_contexts(_hca: &mut Hca, _input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    special_contexts::RESD_LKEY.set(out, LOCAL_ADDRESS_LKEY);
    special_contexts::TERMINATE_SCATTER_LIST_MKEY.set(out, TERMINATE_SCATTER_LIST_MKEY.into());
    Ok(())
}
