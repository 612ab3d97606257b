//! Memory keys.

use super::Verbs;
use crate::mlx5_model::{PAGE, command, set};
use devices::mlx5::layout::commands::{CONTEXT, OBJECT, PAGES, mkey};
use devices::mlx5::layout::contexts::mkc;

/// Access rights, as bits of a mask.
pub mod access {
    pub const LOCAL_READ: u32 = 1 << 0;
    pub const LOCAL_WRITE: u32 = 1 << 1;
    pub const REMOTE_READ: u32 = 1 << 2;
    pub const REMOTE_WRITE: u32 = 1 << 3;
    pub const ATOMIC: u32 = 1 << 4;
    /// What a program gives a buffer that it only sends from and receives into.
    pub const LOCAL: u32 = LOCAL_READ | LOCAL_WRITE;
    pub const ALL: u32 = LOCAL | REMOTE_READ | REMOTE_WRITE | ATOMIC;
}

/// An entry of a key made of other keys: bytes, key, address.
pub type Klm = (u32, u32, u64);

const PHYSICAL: u64 = 0;
const PAGE_LIST: u64 = 1;
const KEYED_LIST: u64 = 2;

/// The low 8 bits of every key, which the driver chooses.
const VARIANT: u32 = 0x5a;

impl Verbs {
    /// The input of CREATE_MKEY.
    fn key_input(&self, mode: u64, start: u64, rights: u32, entries: &[[u8; 8]]) -> Vec<u8> {
        let octwords = entries.len().div_ceil(2);
        let mut input = command(0x200, 0, PAGES + 16 * octwords);
        let fields = [
            (mkc::ACCESS_MODE_1_0, mode),
            (mkc::START_ADDR, start),
            (mkc::PD, self.pd.into()),
            (mkc::QPN, 0xff_ffff),
            (mkc::MKEY_7_0, VARIANT.into()),
            (mkc::LOCAL_READ, (rights & access::LOCAL_READ != 0).into()),
            (mkc::LOCAL_WRITE, (rights & access::LOCAL_WRITE != 0).into()),
            (mkc::REMOTE_READ, (rights & access::REMOTE_READ != 0).into()),
            (mkc::REMOTE_WRITE, (rights & access::REMOTE_WRITE != 0).into()),
            (mkc::ATOMIC, (rights & access::ATOMIC != 0).into()),
            (mkc::TRANSLATIONS_OCTWORD_SIZE, octwords as u64),
        ];
        for (field, value) in fields {
            set(&mut input, CONTEXT, field, value);
        }
        mkey::TRANSLATIONS_OCTWORD_ACTUAL_SIZE.set(&mut input, octwords as u64);
        for (place, entry) in input[PAGES..].chunks_exact_mut(8).zip(entries) {
            place.copy_from_slice(entry);
        }
        input
    }

    fn create_key(&mut self, input: &[u8]) -> u32 {
        OBJECT.get32(&self.driver.succeed(input, 16)) << 8 | VARIANT
    }

    /// A key over all memory by bus address, as the kernel makes for itself.
    pub fn physical_key(&mut self, rights: u32) -> u32 {
        let mut input = self.key_input(PHYSICAL, 0, rights, &[]);
        set(&mut input, CONTEXT, mkc::LENGTH64, 1);
        self.create_key(&input)
    }

    /// A key over `len` bytes that begin at `start` for programs; `pages` of 2^`page_shift` bytes lie behind it.
    pub fn page_key(&mut self, start: u64, len: u64, page_shift: u32, pages: &[u64], rights: u32) -> u32 {
        let entries: Vec<[u8; 8]> = pages.iter().map(|page| page.to_be_bytes()).collect();
        let mut input = self.key_input(PAGE_LIST, start, rights, &entries);
        set(&mut input, CONTEXT, mkc::LEN, len);
        set(&mut input, CONTEXT, mkc::LOG_PAGE_SIZE, page_shift.into());
        self.create_key(&input)
    }

    /// Registers `len` bytes at bus address `at` under the same address, with every right.
    pub fn register(&mut self, at: u64, len: u64) -> u32 {
        self.register_with(at, len, access::ALL)
    }

    /// Registers `len` bytes at bus address `at` under the same address.
    pub fn register_with(&mut self, at: u64, len: u64, rights: u32) -> u32 {
        let first = at / PAGE * PAGE;
        let pages: Vec<u64> = (first..at + len).step_by(PAGE as usize).collect();
        self.page_key(at, len, PAGE.trailing_zeros(), &pages, rights)
    }

    /// A key over pieces of other keys, one after the other.
    pub fn keyed_key(&mut self, start: u64, list: &[Klm], rights: u32) -> u32 {
        let entries: Vec<[u8; 8]> = list
            .iter()
            .flat_map(|(bytes, key, at)| {
                [(u64::from(*bytes) << 32 | u64::from(*key)).to_be_bytes(), at.to_be_bytes()]
            })
            .collect();
        let mut input = self.key_input(KEYED_LIST, start, rights, &entries);
        let len: u64 = list.iter().map(|(bytes, ..)| u64::from(*bytes)).sum();
        set(&mut input, CONTEXT, mkc::LEN, len);
        self.create_key(&input)
    }

    /// A key that is free until a work request fills it, with room for `octwords` 16-byte units of translations.
    pub fn free_key(&mut self, keyed: bool, octwords: u64) -> u32 {
        let mode = if keyed { KEYED_LIST } else { PAGE_LIST };
        let mut input = self.key_input(mode, 0, 0, &[]);
        for (field, value) in [
            (mkc::FREE, 1),
            (mkc::UMR_EN, 1),
            (mkc::LOG_PAGE_SIZE, 12),
            (mkc::TRANSLATIONS_OCTWORD_SIZE, octwords),
        ] {
            set(&mut input, CONTEXT, field, value);
        }
        self.create_key(&input)
    }

    pub fn destroy_key(&mut self, key: u32) {
        self.on_object(0x202, key >> 8);
    }
}
