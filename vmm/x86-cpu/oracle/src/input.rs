//! Cases from bytes that a fuzzer chooses.
//!
//! The first byte: bit 0 set for 32-bit code; bits 1 and 2: 0 one form, 1 a form with more prefixes, 2 a sequence, 3 raw bytes.
//! A form follows as its 16-bit number of the decoder (another number picks some form); raw bytes follow after their count. All other choices are made by
//! the rest (see [`Rng::from_bytes`]).

use crate::compare::Undefined;
use crate::forms;
use crate::generate::{Case, single};
use crate::rng::Rng;
use crate::state::Width;
use crate::{prefix, raw, sequence};
use iced_x86::Code;

/// Bytes of the longest instruction.
const LONGEST: usize = 15;

/// What cases are made of in code of one width.
#[derive(Debug)]
struct Lists {
    width: Width,
    forms: Vec<Code>,
    pool: Vec<Code>,
    branches: Vec<Code>,
}

impl Lists {
    fn new(width: Width) -> Self {
        let compared = |code: &Code| !forms::only_faults(*code) && forms::exclusion(*code, width).is_none();
        Self {
            width,
            forms: forms::advertised(width).filter(compared).collect(),
            pool: sequence::pool(width),
            branches: sequence::branches(width),
        }
    }
}

impl Lists {
    fn form(&self, number: u16) -> Option<Code> {
        let named = self.forms.iter().find(|code| **code as u16 == number);
        named.or_else(|| self.forms.get(usize::from(number) % self.forms.len())).copied()
    }
}

/// Turns bytes into cases.
#[derive(Debug)]
pub struct Inputs([Lists; 2]);

impl Default for Inputs {
    fn default() -> Self {
        Self([Lists::new(Width::Bits64), Lists::new(Width::Bits32)])
    }
}

impl Inputs {
    /// The case that `data` stands for, and what may differ after it; nothing, if it is too short or cannot be compared.
    pub fn case(&self, data: &[u8]) -> Option<(Case, Undefined)> {
        let (kind, rest) = data.split_first()?;
        let lists = &self.0[usize::from(kind & 1)];
        let width = lists.width;
        match kind >> 1 & 3 {
            kind @ (0 | 1) => {
                let (number, rest) = rest.split_first_chunk::<2>()?;
                let code = lists.form(u16::from_le_bytes(*number))?;
                let rng = Rng::from_bytes(rest);
                if kind == 1 {
                    return prefix::generate(&rng, width, code);
                }
                let case = single(&rng, width, code)?;
                let undefined = Undefined::after(case.instructions.last()?, &case.state);
                Some((case, undefined))
            }
            2 => Some(sequence::generate(Rng::from_bytes(rest), width, &lists.pool, &lists.branches)),
            _ => {
                let (count, rest) = rest.split_first()?;
                let (bytes, rest) = rest.split_at_checked(usize::from(*count) % LONGEST + 1)?;
                raw::generate(Rng::from_bytes(rest), width, bytes)
            }
        }
    }
}
