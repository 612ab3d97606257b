/*
 * What every 32-bit bare-metal kernel is linked with. It runs in flat protected mode without paging; what it reports, and
 * how it ends, is as in the kernels of 64 bits.
 */
#ifndef SUPPORT_H
#define SUPPORT_H

#include "checks.h"
#include "cpu.h"
#include "layout.h"

/* ---- Exceptions and interrupts ---- */

/* What the stubs leave on the stack. */
struct frame {
	u32 gs, fs, es, ds;
	u32 edi, esi, ebp, ignored, ebx, edx, ecx, eax;
	u32 vector, error_code;
	u32 eip, cs, eflags;
	/* Only of an interrupted outer level; the segments only of virtual-8086 mode. */
	u32 esp, ss, v86_es, v86_ds, v86_fs, v86_gs;
};

typedef void handler(struct frame *frame);

/* Has the vector call handler; NULL takes it away. It comes before RECOVER. */
void set_handler(u8 vector, handler *handler);

/*
 * Assembly for asm volatile: the instruction, which may fault. Execution goes on behind it then, and last_fault() says
 * what happened. Call clear_fault() before.
 */
#define RECOVER(instruction)                                        \
	"1: " instruction "\n2:\n"                                  \
	".pushsection .recovery, \"a\"\n.balign 8\n.long 1b, 2b\n"  \
	".popsection\n"

void clear_fault(void);
struct fault last_fault(void);

/* Runs an operand-less piece of assembly, given as a string, and yields the fault. */
#define FAULT_OF(instruction)                                                                 \
	({                                                                                    \
		clear_fault();                                                                \
		asm volatile(RECOVER(instruction) : : : "memory", "cc", "eax", "ecx", "edx"); \
		last_fault();                                                                 \
	})

u32 call_user(u32 function, u32 argument, u32 stack);
_Noreturn void leave_user(u32 result);

/* ---- Descriptors ---- */

/* Access bytes: present and privilege level 0 unless ORed with DPL(). */
#define ACCESS_DATA 0x93
#define ACCESS_DATA_READ_ONLY 0x91
#define ACCESS_DATA_EXPAND_DOWN 0x97
#define ACCESS_CODE 0x9b
#define ACCESS_CODE_EXECUTE_ONLY 0x99
#define ACCESS_CODE_CONFORMING 0x9f
#define ACCESS_LDT 0x82
#define ACCESS_TASK16 0x81
#define ACCESS_TASK32 0x89
#define ACCESS_TASK32_BUSY 0x8b
#define ACCESS_CALL_GATE16 0x84
#define ACCESS_TASK_GATE 0x85
#define ACCESS_CALL_GATE32 0x8c
#define ACCESS_INTERRUPT_GATE32 0x8e
#define ACCESS_PRESENT 0x80
#define DPL(level) ((level) << 5)
/* Flags above the access byte. */
#define SEGMENT_32 4
#define SEGMENT_PAGES 8

extern u64 gdt[GDT_ENTRIES];
extern u64 idt[256];

u64 descriptor(u32 base, u32 limit, u8 access, u8 flags);
/* A gate; `parameters` is of call gates. */
u64 gate(u16 selector, u32 offset, u8 access, u8 parameters);

/* A 32-bit task state segment. */
struct task {
	u32 link;
	u32 esp0, ss0, esp1, ss1, esp2, ss2;
	u32 cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
	u32 es, cs, ss, ds, fs, gs, ldt;
	u16 trap, io_map;
};
extern struct task kernel_task;

#endif
