//! RAM and nothing else for the interpreter to run in.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use x86_cpu::{CodePages, World};

#[repr(C, align(4096))]
struct Frame(UnsafeCell<[u8; 4096]>);

pub struct Ram {
    frames: Box<[Frame]>,
    pages: CodePages,
}

impl Ram {
    pub fn new(pages: usize) -> Self {
        Self {
            frames: (0..pages).map(|_| Frame(UnsafeCell::new([0; 4096]))).collect(),
            pages: CodePages::default(),
        }
    }
    /// The content of a frame, to read.
    pub fn frame(&mut self, number: usize) -> &[u8; 4096] {
        self.frames[number].0.get_mut()
    }
    /// The content of a frame, to write.
    pub fn frame_mut(&mut self, number: usize) -> &mut [u8; 4096] {
        self.pages.written((number as u64) << 12, 4096);
        self.frames[number].0.get_mut()
    }
    pub fn put(&mut self, address: u64, value: u64) {
        let at = (address & 0xfff) as usize;
        self.frame_mut((address >> 12) as usize)[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    pub fn get(&mut self, address: u64) -> u64 {
        let at = (address & 0xfff) as usize;
        let bytes = &self.frame((address >> 12) as usize)[at..at + 8];
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

// SAFETY: the frames live as long as the world, are 4096 bytes each, and are borrowed only while no vCPU runs.
unsafe impl World for Ram {
    fn ram_frame(&mut self, frame: u64) -> Option<NonNull<u8>> {
        NonNull::new(self.frames.get((frame >> 12) as usize)?.0.get().cast())
    }
    fn read(&mut self, _: u32, _: u64, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn write(&mut self, _: u32, _: u64, _: u64, _: &[u8]) {}
    fn io_read(&mut self, _: u32, _: u64, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn io_write(&mut self, _: u32, _: u64, _: u16, _: u8, _: u32) {}
    fn read_msr(&mut self, _: u32, _: u64, _: u32) -> Option<u64> {
        None
    }
    fn write_msr(&mut self, _: u32, _: u64, _: u32, _: u64) -> Option<()> {
        None
    }
    fn task_priority(&mut self, _: u32) -> u8 {
        0
    }
    fn set_task_priority(&mut self, _: u32, _: u8) {}
    fn interrupt_pending(&mut self, _: u32) -> bool {
        false
    }
    fn acknowledge_interrupt(&mut self, _: u32, _: u64) -> Option<u8> {
        None
    }
    fn take_nmi(&mut self, _: u32) -> bool {
        false
    }
    fn random(&mut self) -> u64 {
        0
    }
    fn code_pages(&mut self) -> &mut CodePages {
        &mut self.pages
    }
}
