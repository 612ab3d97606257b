//! Condition codes of Jcc, SETcc and CMOVcc.

use crate::flags::LazyFlags;
use iced_x86::ConditionCode;

/// Whether condition `C`, in its encoding of 4 bits (SDM volume 1, appendix B), holds.
#[inline(always)]
pub(crate) fn holds<const C: u8>(flags: &LazyFlags) -> bool {
    let value = match C >> 1 {
        0 => flags.of(),
        1 => flags.cf(),
        2 => flags.zf(),
        3 => flags.cf() | flags.zf(),
        4 => flags.sf(),
        5 => flags.pf(),
        6 => flags.sf() != flags.of(),
        _ => flags.zf() | (flags.sf() != flags.of()),
    };
    value != (C & 1 != 0)
}

/// Encoding of a condition code.
pub(crate) fn encoding(code: ConditionCode) -> u8 {
    match code {
        ConditionCode::o => 0,
        ConditionCode::no => 1,
        ConditionCode::b => 2,
        ConditionCode::ae => 3,
        ConditionCode::e => 4,
        ConditionCode::ne => 5,
        ConditionCode::be => 6,
        ConditionCode::a => 7,
        ConditionCode::s => 8,
        ConditionCode::ns => 9,
        ConditionCode::p => 10,
        ConditionCode::np => 11,
        ConditionCode::l => 12,
        ConditionCode::ge => 13,
        ConditionCode::le => 14,
        ConditionCode::None | ConditionCode::g => 15,
    }
}

/// Chooses the instance of an operation generic over a condition and, where given, an operand size.
macro_rules! by_condition {
    ($condition:expr, $function:ident $(, $kind:ty)*) => {{
        let run: $crate::block::OpFn<W> = match $condition {
            0 => $function::<0, $($kind,)* W>,
            1 => $function::<1, $($kind,)* W>,
            2 => $function::<2, $($kind,)* W>,
            3 => $function::<3, $($kind,)* W>,
            4 => $function::<4, $($kind,)* W>,
            5 => $function::<5, $($kind,)* W>,
            6 => $function::<6, $($kind,)* W>,
            7 => $function::<7, $($kind,)* W>,
            8 => $function::<8, $($kind,)* W>,
            9 => $function::<9, $($kind,)* W>,
            10 => $function::<10, $($kind,)* W>,
            11 => $function::<11, $($kind,)* W>,
            12 => $function::<12, $($kind,)* W>,
            13 => $function::<13, $($kind,)* W>,
            14 => $function::<14, $($kind,)* W>,
            _ => $function::<15, $($kind,)* W>,
        };
        run
    }};
}
pub(crate) use by_condition;
