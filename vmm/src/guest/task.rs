//! The task that runs on a vCPU.

use super::layout::Layout;
use super::memory::GuestMemory;
use super::registers::Registers;
use super::symbols::SymbolTable;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest name of a task (TASK_COMM_LEN).
const COMM: usize = 16;
/// vCPUs whose per-CPU areas are looked up.
const MAX_CPUS: usize = 64;

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Task {
    /// Its name, 15 characters at most.
    pub comm: String,
    /// What user space calls the thread's ID.
    pub pid: u32,
    /// What user space calls the process ID.
    pub tgid: u32,
}

/// As the kernel's own reports name it: `Comm: verbs PID: 64`.
impl fmt::Display for Task {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Comm: {} PID: {}", self.comm, self.pid)
    }
}

/// Where the running task and its fields are.
#[derive(Debug)]
pub(super) struct TaskLayout {
    /// The per-CPU variable with the address of the running task.
    current: u64,
    /// The table of per-CPU areas.
    areas: Option<u64>,
    comm: u64,
    pid: u64,
    tgid: u64,
}

impl TaskLayout {
    /// As the kernel with these symbols has it.
    pub fn new(layout: &Layout, symbols: &SymbolTable) -> Option<Self> {
        // Linux 6.2 to 6.14 keep it in a structure with other hot variables, as the first.
        let hot =
            || symbols.address("pcpu_hot").map(|at| at + layout.offset("pcpu_hot.current_task").unwrap_or(0));
        let field = |name: &str| layout.offset(&format!("task_struct.{name}")).ok();
        Some(Self {
            current: symbols.address("current_task").or_else(hot)?,
            areas: symbols.address("__per_cpu_offset"),
            comm: field("comm")?,
            pid: field("pid")?,
            tgid: field("tgid")?,
        })
    }

    /// The task that runs on the vCPU with these registers.
    pub fn current(&self, memory: &GuestMemory<'_>, registers: &Registers) -> Option<Task> {
        let area = self.area(memory, registers)?;
        let task = memory.u64(area.wrapping_add(self.current)).ok()?;
        Some(Task {
            comm: memory.string(task.wrapping_add(self.comm), COMM).ok()?,
            pid: memory.u32(task.wrapping_add(self.pid)).ok()?,
            tgid: memory.u32(task.wrapping_add(self.tgid)).ok()?,
        })
    }

    /// The per-CPU area of a vCPU: one of the bases of GS, whichever the kernel knows. The other is the user's, often 0 as in the
    /// table where there is no vCPU.
    fn area(&self, memory: &GuestMemory<'_>, registers: &Registers) -> Option<u64> {
        let bases = if registers.cpl == 3 {
            [registers.kernel_gs_base, registers.gs_base]
        } else {
            [registers.gs_base, registers.kernel_gs_base]
        };
        let mut kernels = bases.into_iter().filter(|base| base >> 63 != 0);
        let Some(areas) = self.areas else { return kernels.next() };
        let known = memory.mapped_bytes(areas, 8 * MAX_CPUS);
        let known = known.as_chunks().0;
        kernels.find(|base| known.contains(&base.to_le_bytes()))
    }
}
