//! Guest programs for tests, assembled with the test itself.

/// The machine code of a program. Labels are numeric (`2:`, `2b`, `2f`; not of the digits 0 and 1 alone); the program
/// chooses its code size by `.code16`, `.code32` or `.code64`.
macro_rules! assemble {
    ($($line:literal),+ $(,)?) => {{
        let (start, end): (usize, usize);
        // SAFETY: only takes two addresses; the program itself lies in a section of data.
        unsafe {
            std::arch::asm!(
                "lea {start}, [rip + 88f]",
                "lea {end}, [rip + 99f]",
                ".pushsection .rodata.guest, \"a\", @progbits",
                "88:",
                $($line,)+
                ".code64",
                "99:",
                ".popsection",
                start = out(reg) start,
                end = out(reg) end,
                options(nomem, nostack),
            );
        }
        // SAFETY: both labels are in one read-only section that lives as long as the program.
        unsafe { std::slice::from_raw_parts(start as *const u8, end - start) }
    }};
}
pub(super) use assemble;
