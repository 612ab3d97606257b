//! What calls of SWIOTLB's functions come to.

use super::bounces::{Copy, Request};
use super::follow::{Arguments, MAPPING_ERROR, attribute};
use super::functions::{Argument, Does, Function};
use super::kernel::Kernel;
use super::{Call, Ledger};
use cache_model::ledger::Direction;

impl Ledger {
    /// A call that asks for a bounce buffer has returned `result`; its return address was at `slot`. Returns the number of the
    /// device's name if it was not a means of the DMA API, whose own call is to say what mapping it was for.
    pub(super) fn bounced(
        &mut self,
        kernel: &Kernel<'_>,
        arguments: &Arguments<'_>,
        (slot, result): (u64, u64),
        now: u64,
    ) -> Option<u32> {
        let outermost = self.calls.outermost(arguments.1);
        let get = |argument| arguments.get(argument);
        let device = self.names.number(kernel.device(get(Argument::Device))?.name).unwrap_or(u32::MAX);
        let size = get(Argument::Size);
        // Where the caller says how long the buffer is it is not rounded up.
        let (allocated, multiple) = match arguments.0.position(Argument::Allocated) {
            Some(_) => (get(Argument::Allocated), 1),
            // An unsigned int.
            None => (size, u64::from(get(Argument::Alignment) as u32).saturating_add(1)),
        };
        let (original, within) = (get(Argument::Physical), outermost.unwrap_or(slot));
        let request = Request { device, original, size, allocated, multiple, within, at: now };
        match result {
            MAPPING_ERROR => self.bounces.failed(request),
            address => self.bounces.got(request, address),
        }
        outermost.is_none().then_some(device)
    }

    /// `function` of SWIOTLB's is called, and its arguments say all.
    pub(super) fn copies(&mut self, function: &Function, call: &Call) {
        let arguments = Arguments(function, call);
        let (address, size) = (arguments.get(Argument::Address), arguments.get(Argument::Size));
        let direction = arguments.direction();
        let comes_back = matches!(direction, Some(Direction::FromDevice | Direction::Bidirectional));
        let goes_out = matches!(direction, Some(Direction::ToDevice | Direction::Bidirectional));
        match function.does {
            Does::Unbounce => {
                let skips = arguments.get(Argument::Attributes) & attribute::SKIP_CPU_SYNC != 0;
                self.bounces.release(address, (comes_back && !skips).then_some(size));
                self.coherents.end(address);
            }
            Does::BounceForCpu if comes_back => self.copied(address, size, Copy::FromDevice),
            Does::BounceForDevice if goes_out => self.copied(address, size, Copy::ToDevice),
            _ => {}
        }
    }

    fn copied(&mut self, address: u64, size: u64, copy: Copy) {
        self.bounces.copied(address, size, copy);
        self.coherents.copied(address, size);
    }
}
