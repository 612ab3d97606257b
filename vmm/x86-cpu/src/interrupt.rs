//! Delivery of exceptions and interrupts.

use crate::fault::Fault;
use crate::state::Vcpu;
use crate::world::World;

/// Delivers `fault` at the current RIP; a fault on the way becomes a double fault, then a shutdown.
pub(crate) fn raise<W: World>(_cpu: &mut Vcpu, _world: &mut W, _fault: Fault) {}

/// Delivers external interrupt or NMI `vector`.
pub(crate) fn external<W: World>(_cpu: &mut Vcpu, _world: &mut W, _vector: u8) {}
