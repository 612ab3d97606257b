/* Descriptor tables, handlers, and exceptions that a 32-bit kernel expects. */
#include "support.h"

#define INTERRUPT_STACK 8192

struct recovery {
	u32 from, to;
};

extern u8 vector_stubs[][16];
extern struct recovery recovery_table[], recovery_table_end[];
void kernel_start(void);
void dispatch(struct frame *frame);

u64 idt[256] __attribute__((aligned(8)));
struct task kernel_task;

static u8 entry_stack[INTERRUPT_STACK] __attribute__((aligned(16)));
static handler *handlers[256];
static struct fault fault;

u64 descriptor(u32 base, u32 limit, u8 access, u8 flags)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 | (u64)(limit >> 16 & 15) << 48 |
	       (u64)flags << 52 | (u64)(base >> 24) << 56;
}

u64 gate(u16 selector, u32 offset, u8 access, u8 parameters)
{
	return (offset & 0xffff) | (u64)selector << 16 | (u64)parameters << 32 | (u64)access << 40 |
	       (u64)(offset >> 16) << 48;
}

void set_handler(u8 vector, handler *handler)
{
	handlers[vector] = handler;
}

void clear_fault(void)
{
	fault.taken = false;
}

struct fault last_fault(void)
{
	return fault;
}

/* Called by the stubs. */
void dispatch(struct frame *frame)
{
	if (handlers[frame->vector]) {
		handlers[frame->vector](frame);
		return;
	}
	if (frame->vector == USER_EXIT && (frame->cs & 3))
		leave_user(frame->eax);
	for (struct recovery *entry = recovery_table; entry < recovery_table_end; entry++) {
		if (frame->eip != entry->from)
			continue;
		fault = (struct fault){
			.taken = true,
			.vector = frame->vector,
			.error_code = frame->error_code,
			.address = frame->vector == VECTOR_PF ? read_cr2() : 0,
			.rip = frame->eip,
		};
		frame->eip = entry->to;
		return;
	}
	print("vector %u, error code 0x%x, at 0x%x:0x%x, CR2 0x%lx\n", frame->vector, frame->error_code, frame->cs,
	      frame->eip, read_cr2());
	fatal("an exception or interrupt that nobody expects");
}

/* Where start.S comes to. */
void kernel_start(void)
{
	struct {
		u16 limit;
		u32 base;
	} __attribute__((packed)) table = { sizeof(idt) - 1, (u32)idt };

	for (u32 vector = 0; vector < 256; vector++) {
		u8 level = vector == USER_EXIT ? DPL(3) : 0;

		idt[vector] = gate(KERNEL_CODE, (u32)vector_stubs[vector], ACCESS_INTERRUPT_GATE32 | level, 0);
	}
	kernel_task.esp0 = (u32)(entry_stack + INTERRUPT_STACK);
	kernel_task.ss0 = KERNEL_DATA;
	kernel_task.io_map = sizeof(kernel_task);
	gdt[TASK_SELECTOR / 8] = descriptor((u32)&kernel_task, sizeof(kernel_task) - 1, ACCESS_TASK32, 0);
	asm volatile("lidt %0; ltr %w1" : : "m"(table), "r"(TASK_SELECTOR));
	become_ready();
	main();
	finish();
}
