/*
 * What every bare-metal kernel is linked with. A kernel is one file in kernels/ with a main(); it reports with CHECK and
 * returns. The exit status of the run is 1 if all checks have passed and 3 if one has failed.
 */
#ifndef SUPPORT_H
#define SUPPORT_H

#include "checks.h"
#include "cpu.h"
#include "layout.h"

/* ---- Memory ---- */

/* First byte that neither kernel nor multiboot modules use. */
u64 free_memory(void);

/* ---- Exceptions and interrupts ---- */

/* What the stubs leave on the stack. */
struct frame {
	u64 rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
	u64 vector, error_code;
	u64 rip, cs, rflags, rsp, ss;
};

typedef void handler(struct frame *frame);

/* Has the vector call handler on every processor; NULL takes it away. It comes before RECOVER. */
void set_handler(u8 vector, handler *handler);

/*
 * Assembly for asm volatile: the instruction, which may fault. Execution goes on behind it then, and last_fault() says what
 * happened. Call clear_fault() before.
 */
#define RECOVER(instruction)                                        \
	"1: " instruction "\n2:\n"                                  \
	".pushsection .recovery, \"a\"\n.balign 8\n.quad 1b, 2b\n"  \
	".popsection\n"

void clear_fault(void);
struct fault last_fault(void);

/* Runs an operand-less piece of assembly, given as a string, and yields the fault. */
#define FAULT_OF(instruction)                               \
	({                                                  \
		clear_fault();                              \
		asm volatile(RECOVER(instruction) : : : "memory", "cc", "rax", "rcx", "rdx"); \
		last_fault();                               \
	})

struct fault read_msr_checked(u32 index, u64 *value);
struct fault write_msr_checked(u32 index, u64 value);

/* The interrupt descriptor table, the global one and the task state segment, for kernels that change them. */
struct gate {
	u16 offset_low, selector;
	u8 ist, type;
	u16 offset_middle;
	u32 offset_high, reserved;
};
extern struct gate idt[256];
extern u64 gdt[GDT_ENTRIES];

struct task_state {
	u32 reserved;
	u64 rsp[3];
	u64 reserved_2;
	u64 ist[7];
	u64 reserved_3;
	u16 reserved_4, io_map;
	u8 io_bitmap[0x2001];
} __attribute__((packed));
extern struct task_state task_states[MAX_CPUS];

/* Runs function(argument) at privilege level 3 on a stack of its own until it makes INT 0x80; returns its RAX. The code,
 * stack and data must be mapped for users: see set_user_pages(). */
u64 call_user(u64 function, u64 argument, u64 stack);

/* ---- Page tables: 0 to 4 GiB is mapped to itself by 2 MiB pages, for the supervisor only ---- */

#define PAGE_PRESENT (1ull << 0)
#define PAGE_WRITABLE (1ull << 1)
#define PAGE_USER (1ull << 2)
#define PAGE_WRITE_THROUGH (1ull << 3)
#define PAGE_NO_CACHE (1ull << 4)
#define PAGE_ACCESSED (1ull << 5)
#define PAGE_DIRTY (1ull << 6)
#define PAGE_LARGE (1ull << 7)
#define PAGE_GLOBAL (1ull << 8)
#define PAGE_NO_EXECUTE (1ull << 63)
/* Makes the memory of an encrypted guest private; 0 to others. All memory is mapped like that. */
extern u64 private_bit;

/* The 4 KiB entry of an address; large pages on the way are split and absent tables made, for users as well. */
u64 *page_entry(u64 address);
/* Sets or clears bits of the entries of a range and invalidates them on this processor. */
void change_pages(u64 address, u64 size, u64 set, u64 clear);
/* A zeroed page that nothing else uses. */
void *new_page(void);

/* ---- Processors ---- */

/* Index of this processor: 0 is the boot processor. */
u32 cpu_index(void);
/* TSC ticks in which a processor comes up, even if an interpreter of real-mode code brings it. */
#define START_TIME 3000000000ull
/* Starts the others by INIT and start-up IPIs; returns how many processors there are now. */
u32 start_processors(void);
/* Local APIC ID of a started processor. */
u32 apic_id_of(u32 cpu);
/* Runs function(argument) on another processor and waits for its end. */
void run_on(u32 cpu, void (*function)(u64), u64 argument);
/* The same without waiting; wait_for() waits. */
void start_on(u32 cpu, void (*function)(u64), u64 argument);
void wait_for(u32 cpu);

/* ---- Local APIC ---- */

enum apic_register {
	APIC_ID = 0x20,
	APIC_VERSION = 0x30,
	APIC_TPR = 0x80,
	APIC_PPR = 0xa0,
	APIC_EOI = 0xb0,
	APIC_LDR = 0xd0,
	APIC_DFR = 0xe0,
	APIC_SPIV = 0xf0,
	APIC_ISR = 0x100,
	APIC_TMR = 0x180,
	APIC_IRR = 0x200,
	APIC_ESR = 0x280,
	APIC_ICR = 0x300,
	APIC_ICR_HIGH = 0x310,
	APIC_LVT_TIMER = 0x320,
	APIC_LVT_LINT0 = 0x350,
	APIC_LVT_LINT1 = 0x360,
	APIC_LVT_ERROR = 0x370,
	APIC_TIMER_INITIAL = 0x380,
	APIC_TIMER_CURRENT = 0x390,
	APIC_TIMER_DIVIDE = 0x3e0,
};

#define ICR_NMI (4u << 8)
#define ICR_INIT (5u << 8)
#define ICR_STARTUP (6u << 8)
#define ICR_LOWEST (1u << 8)
#define ICR_LOGICAL (1u << 11)
#define ICR_PENDING (1u << 12)
#define ICR_ASSERT (1u << 14)
#define ICR_LEVEL (1u << 15)
#define ICR_SELF (1u << 18)
#define ICR_ALL (2u << 18)
#define ICR_OTHERS (3u << 18)

#define MSR_APIC_BASE 0x1b
#define APIC_BASE_BSP (1u << 8)
#define APIC_BASE_X2APIC (1u << 10)
#define APIC_BASE_ENABLE (1u << 11)

/* By memory or, in x2APIC mode, by MSR. */
u32 apic_read(u32 reg);
void apic_write(u32 reg, u32 value);
/* Sends an interrupt command and waits until it is gone. */
void apic_send(u32 destination, u32 command);
void apic_eoi(void);
u32 apic_id(void);

/* Waits this many TSC ticks. */
void delay(u64 ticks);

extern u32 multiboot_magic, multiboot_info;

#endif
