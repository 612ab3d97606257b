//! Work requests that change a memory key (UMR): its context, its translation entries, or whether it is free.

use super::completion::Syndrome;
use super::schedule::Budget;
use super::translate::Right;
use super::wqe::Segment;
use crate::mlx5::field::{Field, be16, be32, be64};
use crate::mlx5::hca::Hca;
use crate::mlx5::layout::contexts::mkc;
use crate::mlx5::mkey::MemoryKey;
use crate::pci::Port;

/// Bytes of the segment that says what to change, and of the memory key segment behind it.
const CONTROL: usize = 48;
const CONTEXT: usize = mkc::SIZE;
/// Unit in which translation entries are counted.
const OCTWORD: usize = 16;

/// Flags of the control segment.
const TRANSLATION_OFFSET: u8 = 1 << 4;
/// The request fails unless the key is free, or if it is: the flags are named for what makes it fail.
const FAIL_IF_NOT_FREE: u8 = 1 << 5;
const FAIL_IF_FREE: u8 = 2 << 5;
const INLINE: u8 = 1 << 7;

/// Fields of a memory key's context that a bit of the mask takes over.
const MASKED: &[(u32, Field)] = &[
    (0, mkc::LEN),
    (0, mkc::LENGTH64),
    (1, mkc::LOG_PAGE_SIZE_4_0),
    (6, mkc::START_ADDR),
    (7, mkc::PD),
    (8, mkc::EN_RINVAL),
    (13, mkc::MKEY_7_0),
    (14, mkc::QPN),
    (17, mkc::LOCAL_READ),
    (18, mkc::LOCAL_WRITE),
    (19, mkc::REMOTE_READ),
    (20, mkc::REMOTE_WRITE),
    (21, mkc::ATOMIC),
    (25, mkc::RELAXED_ORDERING_WRITE),
    (29, mkc::FREE),
    (42, mkc::LOG_PAGE_SIZE_5),
    (47, mkc::RELAXED_ORDERING_READ),
];

/// What a request asks for.
struct Change<'a> {
    flags: u8,
    /// Translation entries to write, in bytes, and the first one's place.
    translation_len: usize,
    translation_offset: u64,
    mask: u64,
    context: &'a [u8],
    /// Where the translation entries are: behind, or named by a data segment.
    rest: &'a [u8],
}

impl<'a> Change<'a> {
    fn parse(segments: &'a [u8]) -> Option<Self> {
        let (control, rest) = segments.split_at_checked(CONTROL)?;
        let (context, rest) = rest.split_at_checked(CONTEXT)?;
        let flags = *control.first()?;
        let offset = if flags & TRANSLATION_OFFSET != 0 {
            u64::from(be32(control, 16)) << 16 | u64::from(be16(control, 6))
        } else {
            0
        };
        Some(Self {
            flags,
            translation_len: usize::from(be16(control, 4)) * OCTWORD,
            translation_offset: offset,
            mask: be64(control, 8),
            context,
            rest,
        })
    }

    /// Whether the key is in the state that the request wants it to be in.
    fn suits(&self, mkey: &MemoryKey) -> bool {
        !(self.flags & FAIL_IF_FREE != 0 && mkey.free || self.flags & FAIL_IF_NOT_FREE != 0 && !mkey.free)
    }
}

impl Hca {
    /// Executes a request of queue pair `qpn` on the memory key that work requests call `key`.
    ///
    /// # Errors
    /// The syndrome of the completion; the key's context is as before.
    pub fn change_key(
        &mut self,
        qpn: u32,
        key: u32,
        segments: &[u8],
        budget: &mut Budget,
        port: &mut dyn Port,
    ) -> Result<(), Syndrome> {
        let changed = self.try_to_change_key(qpn, key, segments, budget, port);
        changed.map_err(|Refusal { syndrome, reason }| {
            log::debug!("mlx5: queue pair {qpn} may not change memory key {key:#x}: {reason}");
            syndrome
        })
    }

    fn try_to_change_key(
        &mut self,
        qpn: u32,
        key: u32,
        segments: &[u8],
        budget: &mut Budget,
        port: &mut dyn Port,
    ) -> Result<(), Refusal> {
        let change = Change::parse(segments).ok_or(operation("the request is too short"))?;
        let holder = self.qps.get(qpn).ok_or(operation("the queue pair is gone"))?.holder();
        let mkey = self.mkeys.get(key >> 8).ok_or(bind("it does not exist"))?;
        if !mkey.umr_enabled {
            return Err(bind("work requests may not change it"));
        }
        if !change.suits(mkey) {
            return Err(bind("it is free, or is not, against what the request says"));
        }
        let mut context = mkey.context();
        for (bit, field) in MASKED {
            if change.mask >> bit & 1 != 0 {
                field.copy(change.context, &mut context);
            }
        }
        // A queue pair of a protection domain changes keys of its own only, and cannot give them away.
        let new_domain = mkc::PD.get32(&context);
        if holder.pd.is_some_and(|pd| mkey.pd != pd || new_domain != pd) || !self.pds.contains(new_domain) {
            return Err(bind("the protection domain is another, or does not exist"));
        }
        let held = mkey.translations.len();
        let first = usize::try_from(change.translation_offset).ok().and_then(|first| first.checked_mul(2));
        let first = first.ok_or(operation("no such translation entry"))?;
        let mut translations = vec![0; change.translation_len];
        if change.flags & INLINE != 0 {
            let inline = change.rest.get(..translations.len());
            translations
                .copy_from_slice(inline.ok_or(operation("fewer translation entries than announced"))?);
        } else if !translations.is_empty() {
            let segment = change.rest.get(..Segment::SIZE).map(Segment::parse);
            let segment = segment.ok_or(operation("no list of translation entries"))?;
            translations.truncate(segment.len as usize);
            let list = (segment.key, segment.address);
            self.read_key(holder, list, &mut translations, Right::LocalRead, port).map_err(|_| Refusal {
                syndrome: Syndrome::LocalProtection,
                reason: "the list of translation entries is out of reach",
            })?;
        }
        budget.spend_bytes(translations.len() as u64);
        let (entries, _) = translations.as_chunks::<8>();
        let entries: Vec<u64> = entries.iter().map(|entry| u64::from_be_bytes(*entry)).collect();
        let more = first.saturating_add(entries.len()).saturating_sub(held);
        if !self.has_room_for_translations(more) {
            return Err(bind("no room for more translation entries"));
        }
        let mkey = self.mkeys.get_mut(key >> 8).ok_or(bind("it does not exist"))?;
        if !entries.is_empty() {
            mkey.set_translations(first, &entries).map_err(|failure| bind(failure.reason))?;
        }
        mkey.set_context(context).map_err(|failure| bind(failure.reason))?;
        // The lengths of a keyed list have been added up anew, however little of it is new.
        budget.spend_bytes(8 * mkey.ends.len() as u64);
        self.mkeys.renew(key >> 8);
        Ok(())
    }
}

/// Why a key is not changed.
struct Refusal {
    syndrome: Syndrome,
    reason: &'static str,
}

fn bind(reason: &'static str) -> Refusal {
    Refusal { syndrome: Syndrome::MemoryWindowBind, reason }
}

fn operation(reason: &'static str) -> Refusal {
    Refusal { syndrome: Syndrome::LocalOperation, reason }
}
