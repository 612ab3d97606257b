//! What instructions do, one family a module. Each family has a `lower` that chooses the operation for an instruction.

/// Chooses the instance of a generic operation for an operand size in bytes.
macro_rules! by_size {
    ($size:expr, $function:ident $(, $kind:ty)*) => {{
        let run: $crate::block::OpFn<W> = match $size {
            1 => $function::<$($kind,)* u8, W>,
            2 => $function::<$($kind,)* u16, W>,
            4 => $function::<$($kind,)* u32, W>,
            _ => $function::<$($kind,)* u64, W>,
        };
        run
    }};
}

/// As [`by_size`], for operations without a byte form.
macro_rules! by_wide_size {
    ($size:expr, $function:ident $(, $kind:ty)*) => {{
        let run: $crate::block::OpFn<W> = match $size {
            2 => $function::<$($kind,)* u16, W>,
            4 => $function::<$($kind,)* u32, W>,
            _ => $function::<$($kind,)* u64, W>,
        };
        run
    }};
}

pub(crate) mod condition;
pub(crate) mod control;
pub(crate) mod index;
pub(crate) mod integer;
pub(crate) mod register;
pub(crate) mod sse;
pub(crate) mod string;
pub(crate) mod system;
pub(crate) mod x87;
