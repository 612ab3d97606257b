//! Operand sizes as types.

/// A memory or register operand of 1, 2, 4, 8 or 16 bytes.
pub trait Word: Copy + Eq + std::fmt::Debug + 'static {
    /// Size in bits.
    const BITS: u32;
    /// Size in bytes.
    const SIZE: usize;
    /// Low bits of `value`.
    fn truncate(value: u128) -> Self;
    /// Zero-extended.
    fn extend(self) -> u128;
}

macro_rules! word {
    ($($t:ty),*) => {$(
        impl Word for $t {
            const BITS: u32 = <$t>::BITS;
            const SIZE: usize = size_of::<$t>();
            #[inline(always)]
            fn truncate(value: u128) -> Self {
                value as $t
            }
            #[inline(always)]
            fn extend(self) -> u128 {
                u128::from(self)
            }
        }
    )*};
}
word!(u8, u16, u32, u64, u128);

/// A general-register operand: 1, 2, 4 or 8 bytes.
pub trait Int: Word {
    /// Low bits of `value`.
    fn low(value: u64) -> Self;
    /// Zero-extended to 64 bits.
    fn zext(self) -> u64;
    /// Sign-extended to 64 bits.
    fn sext(self) -> u64;
}

macro_rules! int {
    ($($t:ty as $s:ty),*) => {$(
        impl Int for $t {
            #[inline(always)]
            fn low(value: u64) -> Self {
                value as $t
            }
            #[inline(always)]
            fn zext(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn sext(self) -> u64 {
                self as $s as i64 as u64
            }
        }
    )*};
}
int!(u8 as i8, u16 as i16, u32 as i32, u64 as i64);
