//! The ledger as others read it.

use super::bounce_report::BounceReport;
use super::{Coverage, Kind, Ledger, Note};
use crate::guest::{Guest, Task};
use crate::memory::GuestRam;
use cache_model::ledger::Direction;
use serde::{Deserialize, Serialize};

/// A live mapping.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Record {
    /// As dev_name() gives it.
    pub device: String,
    pub kind: Kind,
    /// As the device has it.
    pub address: u64,
    pub size: u64,
    /// As Linux names it; that of coherent memory is BIDIRECTIONAL.
    pub direction: String,
    /// Guest-physical address of the memory, where it is known.
    pub physical: Option<u64>,
    /// DMA_ATTR_….
    pub attributes: u64,
    /// Virtual time in nanoseconds.
    pub mapped_at: u64,
    pub user_pinned: bool,
    /// By which task, or in whose time.
    pub task: Option<String>,
    /// Where it was mapped: the caller of the DMA API first. `? ` is before what is but a guess.
    pub trace: Vec<String>,
}

/// What became of a run's ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Why it followed nothing, if it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off: Option<String>,
    #[serde(flatten)]
    pub coverage: Coverage,
    /// Mappings followed in all.
    pub mapped: u64,
    /// Calls that ended or synced what is not known: mappings from before the ledger was on, or none.
    pub unknown: u64,
    /// What has gone through bounce buffers, if the guest has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounced: Option<BounceReport>,
    /// Live mappings: at the moment the guest last printed its own, if that was wanted and it did, else at the end.
    #[serde(skip)]
    pub records: Vec<Record>,
}

impl Ledger {
    fn record(&self, guest: &Guest, address: u64, size: u64, at: u64, note: &Note) -> Record {
        Record {
            device: self.name(note.device).to_owned(),
            kind: note.kind,
            address,
            size,
            direction: String::new(),
            physical: note.physical,
            attributes: note.attributes,
            mapped_at: at,
            user_pinned: false,
            task: note.task.and_then(|task| self.task(task)).map(Task::to_string),
            trace: self.described(guest, note.trace),
        }
    }

    /// The frames of a backtrace in words.
    pub(super) fn described(&self, guest: &Guest, trace: Option<u32>) -> Vec<String> {
        let frames = trace.map_or(&[][..], |trace| self.trace(trace));
        frames.iter().map(|frame| guest.describe(frame)).collect()
    }

    /// All live mappings, and the memory of DMA pools, in order.
    #[must_use]
    pub fn records(&self, guest: &Guest) -> Vec<Record> {
        let mappings = self.mappings.live().map(|entry| {
            let mapping = &entry.mapping;
            let direction = match mapping.direction {
                Direction::Coherent => Direction::Bidirectional,
                direction => direction,
            };
            Record {
                direction: direction.name().to_owned(),
                user_pinned: mapping.user_pinned,
                ..self.record(guest, mapping.addr, mapping.len, entry.mapped_at, &mapping.note)
            }
        });
        let pages = self.pool_pages.iter().map(|(&(_, address), page)| Record {
            direction: Direction::Bidirectional.name().to_owned(),
            ..self.record(guest, address, page.size, page.mapped_at, &page.note)
        });
        let mut records: Vec<_> = mappings.chain(pages).collect();
        records.sort();
        records
    }

    /// What has become of it; `guest` is the kernel it follows, in `ram`.
    #[must_use]
    pub fn report(&mut self, guest: Option<&Guest>, ram: &GuestRam) -> Report {
        let off = self.off().map(str::to_owned);
        let records = match (self.keeps_printed, self.printed.take(), guest) {
            (true, Some(records), _) => records,
            (true, None, Some(guest)) => self.records(guest),
            _ => Vec::new(),
        };
        let bounced = guest.filter(|_| off.is_none()).and_then(|guest| self.bounce_report(guest, ram));
        let (coverage, mapped, unknown) = (self.coverage.clone(), self.next, self.unknown);
        Report { off, coverage, mapped, unknown, bounced, records }
    }
}
