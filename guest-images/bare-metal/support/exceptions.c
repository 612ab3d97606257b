/* Descriptor tables, handlers, and exceptions that a kernel expects. */
#include "support.h"

#define GATE_INTERRUPT 0x8e
#define GATE_INTERRUPT_USER 0xee
#define USER_EXIT 0x80
#define TSS_AVAILABLE 0x89ull
#define INTERRUPT_STACK 4096

struct recovery {
	u64 from, to;
};

extern u8 vector_stubs[][16];
extern struct recovery recovery_table[], recovery_table_end[];
_Noreturn void leave_user(u64 result);
_Noreturn void processor_start(u32 cpu);
_Noreturn void serve(u32 cpu);

struct gate idt[256] __attribute__((aligned(16)));
struct task_state task_states[MAX_CPUS] __attribute__((aligned(128)));

static u8 user_entry_stacks[MAX_CPUS][INTERRUPT_STACK] __attribute__((aligned(16)));
static u8 double_fault_stacks[MAX_CPUS][INTERRUPT_STACK] __attribute__((aligned(16)));
static handler *handlers[256];
static struct fault faults[MAX_CPUS];

static void fill_idt(void)
{
	for (u32 vector = 0; vector < 256; vector++) {
		u64 stub = (u64)vector_stubs[vector];

		idt[vector] = (struct gate){
			.offset_low = stub,
			.selector = KERNEL_CODE,
			.ist = vector == VECTOR_DF ? DOUBLE_FAULT_STACK : 0,
			.type = vector == USER_EXIT ? GATE_INTERRUPT_USER : GATE_INTERRUPT,
			.offset_middle = stub >> 16,
			.offset_high = stub >> 32,
		};
	}
}

static void load_tables(u32 cpu)
{
	struct task_state *task = &task_states[cpu];
	u64 base = (u64)task, limit = offsetof(struct task_state, io_bitmap) - 1;
	u32 selector = TASK_SELECTOR + 16 * cpu;
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) idt_register = { sizeof(idt) - 1, (u64)idt };

	task->rsp[0] = (u64)user_entry_stacks[cpu + 1];
	task->ist[DOUBLE_FAULT_STACK - 1] = (u64)double_fault_stacks[cpu + 1];
	task->io_map = sizeof(*task);
	gdt[selector / 8] = limit | (base & 0xffffff) << 16 | TSS_AVAILABLE << 40 | (base >> 24 & 0xff) << 56;
	gdt[selector / 8 + 1] = base >> 32;
	asm volatile("lidt %0" : : "m"(idt_register));
	asm volatile("ltr %w0" : : "r"(selector));
}

void set_handler(u8 vector, handler *handler)
{
	handlers[vector] = handler;
}

void clear_fault(void)
{
	faults[cpu_index()].taken = false;
}

struct fault last_fault(void)
{
	return faults[cpu_index()];
}

struct fault read_msr_checked(u32 index, u64 *value)
{
	u32 low = 0, high = 0;

	clear_fault();
	asm volatile(RECOVER("rdmsr") : "+a"(low), "+d"(high) : "c"(index));
	*value = low | (u64)high << 32;
	return last_fault();
}

struct fault write_msr_checked(u32 index, u64 value)
{
	clear_fault();
	asm volatile(RECOVER("wrmsr") : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
	return last_fault();
}

/* Called by the stubs. */
void dispatch(struct frame *frame)
{
	struct fault *fault = &faults[cpu_index()];

	if (handlers[frame->vector]) {
		handlers[frame->vector](frame);
		return;
	}
	if (frame->vector == USER_EXIT && (frame->cs & 3))
		leave_user(frame->rax);
	for (struct recovery *entry = recovery_table; entry < recovery_table_end; entry++) {
		if (frame->rip != entry->from)
			continue;
		*fault = (struct fault){
			.taken = true,
			.vector = frame->vector,
			.error_code = frame->error_code,
			.address = frame->vector == VECTOR_PF ? read_cr2() : 0,
			.rip = frame->rip,
		};
		frame->rip = entry->to;
		return;
	}
	print("vector %lu, error code 0x%lx, at 0x%lx:0x%lx, CR2 0x%lx, RSP 0x%lx, CPU %u\n", frame->vector,
	      frame->error_code, frame->cs, frame->rip, read_cr2(), frame->rsp, cpu_index());
	fatal("an exception or interrupt that nobody expects");
}

/* Where every processor comes to from start.S. */
void processor_start(u32 cpu)
{
	if (cpu == 0)
		fill_idt();
	load_tables(cpu);
	if (cpu != 0)
		serve(cpu);
	if (multiboot_magic != MULTIBOOT_MAGIC)
		fatal("not booted by multiboot");
	become_ready();
	main();
	finish();
}
