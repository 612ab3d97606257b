//! Both sides side by side.

use crate::compare::{Observed, Undefined, differences, memory_differences};
use crate::generate::Case;
use crate::interp::Interpreter;
use crate::native::Native;
use crate::rng::Rng;
use crate::state::{CODE, Outcome, PAGE, PAGES, PATCH, State, locate};
use crate::values::Flavour;
use std::io;

const INT3: u8 = 0xcc;

#[derive(Debug)]
pub struct Lab {
    native: Native,
    interpreter: Interpreter,
    /// Memory before the edits of a case.
    base: Vec<u8>,
}

/// What came of a case.
#[derive(Debug)]
pub struct Verdict {
    /// The host executed all instructions.
    pub completed: bool,
    /// Empty if both sides agree.
    pub differences: Vec<String>,
}

impl Lab {
    /// # Errors
    /// The native child could not be started.
    pub fn new() -> io::Result<Self> {
        let rng = Rng::new(0x6c61_6221);
        let mut base = vec![0; PAGES * PAGE];
        for chunk in base.chunks_mut(256) {
            Flavour::any(&rng).fill(&rng, chunk);
        }
        for region in [CODE, PATCH] {
            base[region.first * PAGE..(region.first + region.pages) * PAGE].fill(INT3);
        }
        Ok(Self { native: Native::start()?, interpreter: Interpreter::new(), base })
    }

    /// Runs `case` on both sides. `undefined` says what may differ, from the state in which the last instruction started
    /// or, if that is not known, the first.
    ///
    /// # Errors
    /// The native child failed.
    pub fn compare(&mut self, case: &Case, undefined: &Undefined) -> io::Result<Verdict> {
        let mut image = self.base.clone();
        for (address, data) in &case.edits {
            if let Some(range) = locate(*address, data.len()) {
                image[range].copy_from_slice(data);
            }
        }
        self.native.image().copy_from_slice(&image);
        let (outcome, state) = self.native.run(&case.state)?;
        let want = Observed { outcome, state: &state };
        let completed = outcome == Outcome::Completed;
        let got: Result<(Outcome, State), String> =
            self.interpreter.run(case.width, &case.state, &image, case.count);
        let mut lines = match &got {
            Err(error) => vec![format!("interpreter: {error}; expected {outcome:x?}")],
            Ok((outcome, state)) => {
                differences(case, undefined, &want, &Observed { outcome: *outcome, state })
            }
        };
        let excused = got.as_ref().is_ok_and(|(got, _)| undefined.excuses(case, &want, *got));
        if excused {
            return Ok(Verdict { completed, differences: lines });
        }
        for (page, native) in self.native.image().chunks_exact(PAGE).enumerate() {
            let interpreted = self.interpreter.image(page);
            if native != interpreted {
                lines.extend(memory_differences(undefined, completed, page * PAGE, native, interpreted));
            }
        }
        Ok(Verdict { completed, differences: lines })
    }
}
