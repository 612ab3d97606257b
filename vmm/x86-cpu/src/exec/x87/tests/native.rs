//! Runs one x87 instruction on the host from a given state, as the oracle.

use std::ptr;

/// Bytes of the memory operand.
pub(super) const MEMORY: usize = 128;
/// Bytes of an FNSAVE image.
pub(super) const IMAGE: usize = 108;

/// The state that an instruction sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub image: [u8; IMAGE],
    pub memory: [u8; MEMORY],
    pub rax: u64,
    pub rflags: u64,
}

#[repr(C, align(16))]
struct Frame {
    before: [u8; 128],
    after: [u8; 128],
    memory: [u8; 256],
    rax: u64,
    rflags: u64,
}

const PAGE: usize = 4096;
/// push r12; mov r12, rdi; frstor \[r12\]; push qword \[r12+520\]; popfq; mov rax, \[r12+512\]; lea rdx, \[r12+256\]
const HEAD: &[u8] = &[
    0x41, 0x54, 0x49, 0x89, 0xfc, 0x41, 0xdd, 0x24, 0x24, 0x41, 0xff, 0xb4, 0x24, 0x08, 0x02, 0, 0, 0x9d,
    0x49, 0x8b, 0x84, 0x24, 0, 0x02, 0, 0, 0x49, 0x8d, 0x94, 0x24, 0, 0x01, 0, 0,
];
/// fnsave \[r12+128\]; mov \[r12+512\], rax; pushfq; pop qword \[r12+520\]; pop r12; ret
const TAIL: &[u8] = &[
    0x41, 0xdd, 0xb4, 0x24, 0x80, 0, 0, 0, 0x49, 0x89, 0x84, 0x24, 0, 0x02, 0, 0, 0x9c, 0x41, 0x8f, 0x84,
    0x24, 0x08, 0x02, 0, 0, 0x41, 0x5c, 0xc3,
];

/// A page of code and a page of data below 4 GiB.
pub(super) struct Host(*mut u8);

impl Host {
    /// Prepares to run `instruction`, whose memory operand, if any, is \[rdx\].
    pub(super) fn new(instruction: &[u8]) -> Self {
        // SAFETY: a fresh anonymous mapping; its result is checked.
        let pages = unsafe {
            libc::mmap(
                ptr::null_mut(),
                2 * PAGE,
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
                -1,
                0,
            )
        };
        assert_ne!(pages, libc::MAP_FAILED, "no executable memory");
        let code: Vec<u8> = [HEAD, instruction, TAIL].concat();
        assert!(code.len() <= PAGE);
        // SAFETY: the mapping has room for it.
        unsafe { ptr::copy_nonoverlapping(code.as_ptr(), pages.cast(), code.len()) };
        Self(pages.cast())
    }
    /// Address of the instruction.
    pub(super) fn instruction(&self) -> u32 {
        self.0 as u32 + HEAD.len() as u32
    }
    /// Address of the memory operand.
    pub(super) fn operand(&self) -> u32 {
        self.0 as u32 + (PAGE + 256) as u32
    }
    /// Runs the instruction from `state`. It must not wait for an exception that is pending in the image.
    pub(super) fn run(&mut self, state: &State) -> State {
        let mut frame = Frame {
            before: [0; 128],
            after: [0; 128],
            memory: [0; 256],
            rax: state.rax,
            rflags: state.rflags,
        };
        frame.before[..IMAGE].copy_from_slice(&state.image);
        frame.memory[..MEMORY].copy_from_slice(&state.memory);
        // SAFETY: the second page of the mapping is aligned and large enough, and only used here.
        let shared = unsafe { &mut *self.0.add(PAGE).cast::<Frame>() };
        *shared = frame;
        // SAFETY: the first page holds a function of this type, which preserves what the calling convention wants
        // preserved: FNSAVE leaves the x87 initialised.
        unsafe {
            let function: extern "sysv64" fn(*mut Frame) = std::mem::transmute(self.0);
            function(shared);
        }
        let mut after =
            State { image: [0; IMAGE], memory: [0; MEMORY], rax: shared.rax, rflags: shared.rflags };
        after.image.copy_from_slice(&shared.after[..IMAGE]);
        after.memory.copy_from_slice(&shared.memory[..MEMORY]);
        after
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `new`, not used afterwards.
        unsafe { libc::munmap(self.0.cast(), 2 * PAGE) };
    }
}
