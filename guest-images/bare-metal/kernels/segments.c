/*
 * Segmentation in protected mode: limits, types, privilege, call gates and far returns (SDM volume 3, chapters 3 and 5).
 *
 * bits: 32
 */
#include "support.h"

#define TEST SPARE_SELECTOR
#define GATE (SPARE_SELECTOR + 8)
#define LDT (SPARE_SELECTOR + 16)
#define INNER (SPARE_SELECTOR + 24)

/* Where the test segment lies. */
static u8 area[0x30000] __attribute__((aligned(4096)));

static void define(u32 base, u32 limit, u8 access, u8 flags)
{
	gdt[TEST / 8] = descriptor(base, limit, access, flags);
}

static struct fault load_es(u32 selector)
{
	clear_fault();
	asm volatile(RECOVER("mov %w0, %%es") : : "r"(selector) : "memory");
	return last_fault();
}

static void restore_es(void)
{
	asm volatile("mov %w0, %%es" : : "r"(KERNEL_DATA) : "memory");
}

static struct fault read_es(u32 offset, u32 size)
{
	clear_fault();
	if (size == 1)
		asm volatile(RECOVER("movb %%es:(%0), %%al") : : "r"(offset) : "eax", "memory");
	else if (size == 2)
		asm volatile(RECOVER("movw %%es:(%0), %%ax") : : "r"(offset) : "eax", "memory");
	else
		asm volatile(RECOVER("movl %%es:(%0), %%eax") : : "r"(offset) : "eax", "memory");
	return last_fault();
}

static struct fault write_es(u32 offset)
{
	clear_fault();
	asm volatile(RECOVER("movb $1, %%es:(%0)") : : "r"(offset) : "memory");
	return last_fault();
}

static void limits(void)
{
	static const struct {
		const char *name;
		u32 limit;
		u8 access, flags;
		u32 offset, size;
		bool inside;
	} cases[] = {
		{ "the last byte", 0xfff, ACCESS_DATA, SEGMENT_32, 0xfff, 1, true },
		{ "the byte after it", 0xfff, ACCESS_DATA, SEGMENT_32, 0x1000, 1, false },
		{ "a word over the end", 0xfff, ACCESS_DATA, SEGMENT_32, 0xfff, 2, false },
		{ "four bytes to the end", 0xfff, ACCESS_DATA, SEGMENT_32, 0xffc, 4, true },
		{ "four bytes over the end", 0xfff, ACCESS_DATA, SEGMENT_32, 0xffd, 4, false },
		{ "four bytes over 4 GiB", 0xfff, ACCESS_DATA, SEGMENT_32, 0xfffffffe, 4, false },
		{ "a limit of 0", 0, ACCESS_DATA, SEGMENT_32, 0, 1, true },
		{ "a word in a limit of 0", 0, ACCESS_DATA, SEGMENT_32, 0, 2, false },
		{ "the last byte of pages", 1, ACCESS_DATA, SEGMENT_32 | SEGMENT_PAGES, 0x1fff, 1, true },
		{ "the byte after it", 1, ACCESS_DATA, SEGMENT_32 | SEGMENT_PAGES, 0x2000, 1, false },
		{ "expand-down: the limit itself", 0xfff, ACCESS_DATA_EXPAND_DOWN, 0, 0xfff, 1, false },
		{ "expand-down: above the limit", 0xfff, ACCESS_DATA_EXPAND_DOWN, 0, 0x1000, 1, true },
		{ "expand-down: a word above the limit", 0xfff, ACCESS_DATA_EXPAND_DOWN, 0, 0x1000, 2, true },
		{ "expand-down: a word that begins at the limit", 0xfff, ACCESS_DATA_EXPAND_DOWN, 0, 0xfff, 2, false },
		{ "expand-down of 16 bits: its last byte", 0xfff, ACCESS_DATA_EXPAND_DOWN, 0, 0xffff, 1, true },
		{ "expand-down of 16 bits: above it", 0xfff, ACCESS_DATA_EXPAND_DOWN, 0, 0x10000, 1, false },
		{ "expand-down of 16 bits: a word over it", 0xfff, ACCESS_DATA_EXPAND_DOWN, 0, 0xffff, 2, false },
		{ "expand-down of 32 bits: above 64 KiB", 0xfff, ACCESS_DATA_EXPAND_DOWN, SEGMENT_32, 0x10000, 1, true },
	};

	for (u32 i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct fault fault;

		define((u32)area, cases[i].limit, cases[i].access, cases[i].flags);
		load_es(TEST);
		fault = read_es(cases[i].offset, cases[i].size);
		restore_es();
		check(fault.taken != cases[i].inside && (cases[i].inside || (fault.vector == VECTOR_GP && !fault.error_code)),
		      "%s", cases[i].name);
	}

	/* The stack's segment raises #SS; 4 MiB hold the stack. */
	define(0, 0x3ff, ACCESS_DATA, SEGMENT_32 | SEGMENT_PAGES);
	clear_fault();
	asm volatile("mov %%ss, %%edx; mov %w0, %%ss\n" RECOVER("mov %%ss:0x400000, %%eax") "mov %%edx, %%ss"
		     : : "r"(TEST) : "eax", "edx", "memory");
	check_fault(last_fault(), VECTOR_SS, 0, "a load beyond the stack's segment");
}

static void types(void)
{
	define((u32)area, 0xfff, ACCESS_DATA_READ_ONLY, SEGMENT_32);
	check_no_fault(load_es(TEST), "read-only data in ES");
	check_no_fault(read_es(0, 4), "a load");
	check_fault(write_es(0), VECTOR_GP, 0, "a store");
	define((u32)area, 0xfff, ACCESS_CODE, SEGMENT_32);
	check_no_fault(load_es(TEST), "readable code in ES");
	check_no_fault(read_es(0, 4), "a load");
	check_fault(write_es(0), VECTOR_GP, 0, "a store");
	restore_es();
	define((u32)area, 0xfff, ACCESS_CODE_EXECUTE_ONLY, SEGMENT_32);
	check_fault(load_es(TEST), VECTOR_GP, TEST, "code that is not readable in ES");
	define((u32)area, 0xfff, ACCESS_LDT, 0);
	check_fault(load_es(TEST), VECTOR_GP, TEST, "a system segment in ES");
	define((u32)area, 0xfff, ACCESS_DATA & ~ACCESS_PRESENT, SEGMENT_32);
	check_fault(load_es(TEST), VECTOR_NP, TEST, "data that is not present in ES");
	check_fault(load_es(8 * GDT_ENTRIES), VECTOR_GP, 8 * GDT_ENTRIES, "a selector beyond the table");
	check_fault(load_es(4), VECTOR_GP, 4, "a selector of the local table, which is not there");
	check_no_fault(load_es(3), "a null selector in ES");
	check_fault(read_es(0, 1), VECTOR_GP, 0, "a load by it");
	restore_es();
	define((u32)area, 0xfff, ACCESS_DATA & ~1, SEGMENT_32);
	load_es(TEST);
	check_equal(gdt[TEST / 8] >> 40 & 1, 1, "the accessed bit is set");
	restore_es();
	clear_fault();
	asm volatile(RECOVER("movb $1, %%cs:main") : : : "memory");
	check_fault(last_fault(), VECTOR_GP, 0, "a store by CS");

	struct {
		const char *name;
		u32 selector, vector, code;
	} stacks[] = {
		{ "a null SS", 0, VECTOR_GP, 0 },
		{ "code in SS", KERNEL_CODE, VECTOR_GP, KERNEL_CODE },
		{ "SS of an outer level", USER_DATA, VECTOR_GP, USER_DATA & ~3 },
		{ "SS whose RPL is not the CPL", KERNEL_DATA | 3, VECTOR_GP, KERNEL_DATA },
		{ "SS that is not present", TEST, VECTOR_SS, TEST },
	};
	define((u32)area, 0xfff, ACCESS_DATA & ~ACCESS_PRESENT, SEGMENT_32);
	for (u32 i = 0; i < sizeof(stacks) / sizeof(*stacks); i++) {
		clear_fault();
		asm volatile(RECOVER("mov %w0, %%ss") : : "r"(stacks[i].selector) : "memory");
		check_fault(last_fault(), stacks[i].vector, stacks[i].code, stacks[i].name);
	}
	define((u32)area, 0xfff, ACCESS_DATA_READ_ONLY, SEGMENT_32);
	clear_fault();
	asm volatile(RECOVER("mov %w0, %%ss") : : "r"(TEST) : "memory");
	check_fault(last_fault(), VECTOR_GP, TEST, "read-only data in SS");
}

static struct fault far_jump(u32 selector, u32 offset)
{
	struct {
		u32 offset;
		u16 selector;
	} __attribute__((packed)) target = { offset, selector };

	clear_fault();
	asm volatile(RECOVER("ljmp *%0") : : "m"(target) : "memory");
	return last_fault();
}

static void jumps(void)
{
	check_fault(far_jump(0, 0), VECTOR_GP, 0, "a far jump to a null selector");
	check_fault(far_jump(KERNEL_DATA, 0), VECTOR_GP, KERNEL_DATA, "to data");
	check_fault(far_jump(USER_CODE, 0), VECTOR_GP, USER_CODE & ~3, "to an outer level");
	check_fault(far_jump(KERNEL_CODE | 3, 0), VECTOR_GP, KERNEL_CODE, "with an RPL above the CPL");
	define(0, 0xfffff, ACCESS_CODE & ~ACCESS_PRESENT, SEGMENT_32 | SEGMENT_PAGES);
	check_fault(far_jump(TEST, 0), VECTOR_NP, TEST, "to code that is not present");
	define(0, 0xfff, ACCESS_CODE, SEGMENT_32);
	check_fault(far_jump(TEST, 0x1000), VECTOR_GP, 0, "beyond the limit");
	check_fault(far_jump(8 * GDT_ENTRIES, 0), VECTOR_GP, 8 * GDT_ENTRIES, "beyond the table");
	define(0, 0xfffff, ACCESS_CODE_CONFORMING, SEGMENT_32 | SEGMENT_PAGES);
	clear_fault();
	asm volatile("lcall %0, $1f; jmp 2f; 1: lret; 2:" : : "i"(TEST) : "memory");
	check(true, "a call to conforming code and back");
}

/* What the gate's target finds; it returns by a far return that releases two parameters. */
extern u8 gate_target[], user_far[], user_far_end[], user_far_direct[], user_far_direct_end[], user_data[],
	user_data_end[];
volatile u32 gate_first, gate_second, gate_cs, gate_ss, gate_esp, gate_outer_esp, gate_outer_ss;
asm(".text\n"
    "gate_target: push %ds; mov $0x10, %eax; mov %eax, %ds\n"
    "	mov %cs, %eax; mov %eax, gate_cs; mov %ss, %eax; mov %eax, gate_ss\n"
    "	mov 12(%esp), %eax; mov %eax, gate_first; mov 16(%esp), %eax; mov %eax, gate_second\n"
    "	mov 20(%esp), %eax; mov %eax, gate_outer_esp; mov 24(%esp), %eax; mov %eax, gate_outer_ss\n"
    "	lea 4(%esp), %eax; mov %eax, gate_esp; pop %ds; lret $8\n"
    "user_far: push $0x11; push $0x22; lcall $0x38, $0xdead; mov %esp, %eax\n"
    "user_far_end: int $0x80\n"
    "user_far_direct: lcall $0x8, $0\n"
    "user_far_direct_end: int $0x80\n"
    "user_data: mov $0x10, %eax; mov %eax, %es\n"
    "user_data_end: int $0x80\n");

static u32 user_vector, user_code, user_resume;

static void on_user_fault(struct frame *state)
{
	user_vector = state->vector;
	user_code = state->error_code;
	state->eip = user_resume;
}

static u32 run_user(const u8 *start, const u8 *end)
{
	static u8 stack[4096] __attribute__((aligned(16)));
	u32 result;

	user_vector = user_code = 0;
	user_resume = (u32)end;
	for (u32 vector = VECTOR_TS; vector <= VECTOR_GP; vector++)
		set_handler(vector, on_user_fault);
	result = call_user((u32)start, 0, (u32)stack + 4096);
	for (u32 vector = VECTOR_TS; vector <= VECTOR_GP; vector++)
		set_handler(vector, NULL);
	return result - (u32)stack;
}

#define RUN(piece) run_user(piece, piece##_end)

static void check_user(u32 vector, u32 code, const char *what)
{
	check(user_vector == vector && user_code == code, "%s: exception %u, error code 0x%x (expected %u, 0x%x)", what,
	      user_vector, user_code, vector, code);
}

static void call_gates(void)
{
	struct task saved = kernel_task;

	gdt[GATE / 8] = gate(KERNEL_CODE, (u32)gate_target, ACCESS_CALL_GATE32 | DPL(3), 2);
	check_equal(RUN(user_far), 4096, "a call gate to level 0 and back releases the parameters");
	check_equal(user_vector, 0, "without an exception");
	check_equal(gate_first, 0x22, "the last parameter pushed");
	check_equal(gate_second, 0x11, "the first");
	check_equal(gate_cs, KERNEL_CODE, "CS");
	check_equal(gate_ss, KERNEL_DATA, "SS");
	check_equal(kernel_task.esp0 - gate_esp, 24, "the stack of the task, with six words");
	check_equal(gate_outer_ss & 0xffff, USER_DATA, "the caller's SS");

	gdt[GATE / 8] = gate(KERNEL_CODE, (u32)gate_target, ACCESS_CALL_GATE32, 2);
	RUN(user_far);
	check_user(VECTOR_GP, GATE, "a gate of level 0");
	gdt[GATE / 8] = gate(KERNEL_CODE, (u32)gate_target, (ACCESS_CALL_GATE32 | DPL(3)) & ~ACCESS_PRESENT, 2);
	RUN(user_far);
	check_user(VECTOR_NP, GATE, "a gate that is not present");
	gdt[GATE / 8] = gate(0, (u32)gate_target, ACCESS_CALL_GATE32 | DPL(3), 2);
	RUN(user_far);
	check_user(VECTOR_GP, 0, "a gate with a null selector");
	gdt[GATE / 8] = gate(KERNEL_DATA, (u32)gate_target, ACCESS_CALL_GATE32 | DPL(3), 2);
	RUN(user_far);
	check_user(VECTOR_GP, KERNEL_DATA, "a gate to data");
	define(0, 0xfffff, ACCESS_CODE & ~ACCESS_PRESENT, SEGMENT_32 | SEGMENT_PAGES);
	gdt[GATE / 8] = gate(TEST, (u32)gate_target, ACCESS_CALL_GATE32 | DPL(3), 2);
	RUN(user_far);
	check_user(VECTOR_NP, TEST, "a gate to code that is not present");
	define(0, 0xff, ACCESS_CODE, SEGMENT_32);
	RUN(user_far);
	check_user(VECTOR_GP, 0, "a gate beyond the limit of its code");

	gdt[GATE / 8] = gate(KERNEL_CODE, (u32)gate_target, ACCESS_CALL_GATE32 | DPL(3), 2);
	define(0, 0xfffff, ACCESS_DATA & ~ACCESS_PRESENT, SEGMENT_32 | SEGMENT_PAGES);
	RUN(user_far_direct);
	check_user(VECTOR_GP, KERNEL_CODE, "a far call to level 0 without a gate");
	RUN(user_data);
	check_user(VECTOR_GP, KERNEL_DATA, "the kernel's data in ES");
	kernel_task = saved;

	/* The other way: no gate leads outwards, and no far return inwards. */
	gdt[GATE / 8] = gate(USER_CODE, 0, ACCESS_CALL_GATE32 | DPL(3), 0);
	check_fault(FAULT_OF("lcall $0x38, $0"), VECTOR_GP, USER_CODE & ~3, "a gate to an outer level");
	clear_fault();
	asm volatile("mov %%esp, %%ecx; push %0; push $0\n" RECOVER("lret") "mov %%ecx, %%esp"
		     : : "i"(KERNEL_DATA) : "ecx", "memory");
	check_fault(last_fault(), VECTOR_GP, KERNEL_DATA, "a far return to data");
	clear_fault();
	asm volatile("mov %%esp, %%ecx; pushl %0; pushl $0; pushl %1; pushl $0\n" RECOVER("lret") "mov %%ecx, %%esp"
		     : : "i"(KERNEL_DATA), "i"(USER_CODE) : "ecx", "memory");
	check_fault(last_fault(), VECTOR_GP, KERNEL_DATA, "a far return outwards with the kernel's stack segment");
}

static u32 access_rights(u32 selector, bool *valid)
{
	u32 rights = 0;

	asm volatile("lar %2, %0; sete %1" : "+r"(rights), "=q"(*valid) : "r"(selector) : "cc");
	return rights;
}

static void inspection(void)
{
	bool valid;
	u32 limit = 0;

	check_equal(access_rights(KERNEL_DATA, &valid), 0x00c09300, "LAR of data");
	check_equal(access_rights(USER_CODE, &valid), 0x00c0fb00, "LAR of user code");
	access_rights(0, &valid);
	check(!valid, "LAR of a null selector");
	access_rights(8 * GDT_ENTRIES, &valid);
	check(!valid, "LAR beyond the table");
	access_rights(KERNEL_DATA | 3, &valid);
	check(!valid, "LAR with an RPL that may not see it");
	gdt[GATE / 8] = gate(KERNEL_CODE, 0, ACCESS_INTERRUPT_GATE32, 0);
	access_rights(GATE, &valid);
	check(!valid, "LAR of an interrupt gate");
	gdt[GATE / 8] = gate(KERNEL_CODE, 0, ACCESS_CALL_GATE32, 0);
	access_rights(GATE, &valid);
	check(valid, "LAR of a call gate");
	asm volatile("lsl %2, %0; sete %1" : "+r"(limit), "=q"(valid) : "r"(GATE) : "cc");
	check(!valid, "LSL of a call gate");
	define(0, 0x12, ACCESS_DATA, SEGMENT_32 | SEGMENT_PAGES);
	asm volatile("lsl %2, %0; sete %1" : "+r"(limit), "=q"(valid) : "r"(TEST) : "cc");
	check_equal(limit, 0x12fff, "LSL counts bytes");
	asm volatile("verr %w1; sete %0" : "=q"(valid) : "r"(KERNEL_CODE) : "cc");
	check(valid, "VERR of readable code");
	asm volatile("verw %w1; sete %0" : "=q"(valid) : "r"(KERNEL_CODE) : "cc");
	check(!valid, "VERW of code");
	asm volatile("verw %w1; sete %0" : "=q"(valid) : "r"(USER_DATA) : "cc");
	check(valid, "VERW of user data");
	define(0, 0, ACCESS_CODE_EXECUTE_ONLY, SEGMENT_32);
	asm volatile("verr %w1; sete %0" : "=q"(valid) : "r"(TEST) : "cc");
	check(!valid, "VERR of code that is not readable");
}

static struct fault load_ldt(u32 selector)
{
	clear_fault();
	asm volatile(RECOVER("lldt %w0") : : "r"(selector) : "memory");
	return last_fault();
}

static struct fault load_task(u32 selector)
{
	clear_fault();
	asm volatile(RECOVER("ltr %w0") : : "r"(selector) : "memory");
	return last_fault();
}

static void local_table(void)
{
	static u64 table[4];

	table[1] = descriptor((u32)area, 0xf, ACCESS_DATA, SEGMENT_32);
	gdt[LDT / 8] = descriptor((u32)table, 15, ACCESS_LDT, 0);
	check_no_fault(load_ldt(LDT), "LLDT");
	check_no_fault(load_es(8 | 4), "a selector of the local table");
	check_fault(read_es(0x10, 1), VECTOR_GP, 0, "its limit holds");
	check_fault(load_es(16 | 4), VECTOR_GP, 16 | 4, "a selector beyond the local table");
	restore_es();
	check_fault(load_ldt(KERNEL_DATA), VECTOR_GP, KERNEL_DATA, "LLDT of data");
	check_fault(load_ldt(LDT | 4), VECTOR_GP, LDT | 4, "LLDT by the local table");
	gdt[LDT / 8] = descriptor((u32)table, 15, ACCESS_LDT & ~ACCESS_PRESENT, 0);
	check_fault(load_ldt(LDT), VECTOR_NP, LDT, "LLDT of one that is not present");
	check_no_fault(load_ldt(0), "LLDT of a null selector");
	check_fault(load_es(8 | 4), VECTOR_GP, 8 | 4, "takes the table away");

	check_fault(load_task(0), VECTOR_GP, 0, "LTR of a null selector");
	check_fault(load_task(TASK_SELECTOR), VECTOR_GP, TASK_SELECTOR, "LTR of a busy task");
	check_fault(load_task(KERNEL_DATA), VECTOR_GP, KERNEL_DATA, "LTR of data");
	gdt[INNER / 8] = descriptor((u32)&kernel_task, 0x67, ACCESS_TASK32 & ~ACCESS_PRESENT, 0);
	check_fault(load_task(INNER), VECTOR_NP, INNER, "LTR of one that is not present");
}

void main(void)
{
	limits();
	types();
	jumps();
	call_gates();
	inspection();
	local_table();
}
