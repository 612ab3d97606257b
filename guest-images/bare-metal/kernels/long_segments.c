/* Segments, call gates and far transfers in long mode, and compatibility mode in it (SDM volume 3, 5.8.3.1 and 8.7). */
#include "support.h"

#define GATE SPARE_SELECTOR
#define TEST (SPARE_SELECTOR + 16)
#define TYPE_CALL_GATE (0x8cull << 40)
#define LEVEL_3 (3ull << 45)
#define PRESENT (1ull << 47)
#define CODE64 0x00af9b000000ffffull
#define CONFORMING (4ull << 40)

static void set_gate(u64 selector, u64 target, u64 type)
{
	gdt[GATE / 8] = (target & 0xffff) | selector << 16 | type | (target >> 16 & 0xffff) << 48;
	gdt[GATE / 8 + 1] = target >> 32;
}

/* Where far transfers of 64 bits find their target. */
static struct {
	u64 offset;
	u16 selector;
} __attribute__((packed)) target;

static struct fault call_far(u16 selector, u64 offset)
{
	target.selector = selector;
	target.offset = offset;
	clear_fault();
	asm volatile(RECOVER("rex.w lcall *%0") : : "m"(target) : "rax", "memory", "cc");
	return last_fault();
}

static struct fault jump_far(u16 selector, u64 offset)
{
	target.selector = selector;
	target.offset = offset;
	clear_fault();
	asm volatile(RECOVER("rex.w ljmp *%0") : : "m"(target) : "rax", "memory", "cc");
	return last_fault();
}

volatile u64 gate_cs, gate_ss, gate_rsp, gate_return, gate_caller_cs, gate_caller_rsp, gate_caller_ss;
extern u8 gate_target[], user_code[], user_far[], user_after[], user_end[];
asm(".text\n"
    "gate_target: mov %cs, gate_cs; mov %ss, gate_ss; mov %rsp, gate_rsp\n"
    "	mov (%rsp), %rax; mov %rax, gate_return; mov 8(%rsp), %rax; mov %rax, gate_caller_cs\n"
    "	mov 16(%rsp), %rax; mov %rax, gate_caller_rsp; mov 24(%rsp), %rax; mov %rax, gate_caller_ss\n"
    "	rex.w lret\n"
    /* RDI points to the far pointer, in the user's page. */
    "user_code: rex.w lcall *(%rdi)\n"
    "user_after: mov $5, %eax; int $0x80\n"
    "user_end:\n");

static u64 user, stack;
static u32 user_vector, user_error;

static void on_user_fault(struct frame *state)
{
	user_vector = state->vector;
	user_error = state->error_code;
	state->rip = user + (user_after - user_code);
}

static u64 user_call(u16 selector)
{
	u64 result;

	target.selector = selector;
	target.offset = 0xdead;
	memcpy((void *)(user + 2048), &target, sizeof(target));
	user_vector = 0;
	set_handler(VECTOR_GP, on_user_fault);
	set_handler(VECTOR_NP, on_user_fault);
	result = call_user(user, user + 2048, stack + 4096);
	set_handler(VECTOR_GP, NULL);
	set_handler(VECTOR_NP, NULL);
	return result;
}

static void gates(void)
{
	u64 start = (u64)gate_target;

	set_gate(KERNEL_CODE, start, TYPE_CALL_GATE);
	check_no_fault(call_far(GATE, 0xdead), "a call gate at the same level, and a far return");
	check_equal(gate_cs, KERNEL_CODE, "CS");
	check_equal(gate_caller_cs, KERNEL_CODE, "the caller's CS is on the stack");

	set_gate(KERNEL_CODE, start, TYPE_CALL_GATE & ~PRESENT);
	check_fault(call_far(GATE, 0), VECTOR_NP, GATE, "a gate that is not present");
	set_gate(0, start, TYPE_CALL_GATE);
	check_fault(call_far(GATE, 0), VECTOR_GP, 0, "a gate with a null selector");
	set_gate(KERNEL_CODE_32, start, TYPE_CALL_GATE);
	check_fault(call_far(GATE, 0), VECTOR_GP, KERNEL_CODE_32, "a gate to 32-bit code");
	set_gate(KERNEL_DATA, start, TYPE_CALL_GATE);
	check_fault(call_far(GATE, 0), VECTOR_GP, KERNEL_DATA, "a gate to data");
	set_gate(USER_CODE, start, TYPE_CALL_GATE);
	check_fault(call_far(GATE, 0), VECTOR_GP, USER_CODE & ~3, "a gate to an outer level");
	set_gate(KERNEL_CODE, 0x0000800000000000, TYPE_CALL_GATE);
	check_fault(call_far(GATE, 0), VECTOR_GP, 0, "a gate to an address that is not canonical");
	set_gate(KERNEL_CODE, start, TYPE_CALL_GATE);
	gdt[GATE / 8 + 1] |= 0x0cull << 40;
	check_fault(call_far(GATE, 0), VECTOR_GP, GATE, "a type in the gate's upper half");
	set_gate(KERNEL_CODE, start, 0x84ull << 40);
	check_fault(call_far(GATE, 0), VECTOR_GP, GATE, "a gate of 16 bits");
	set_gate(KERNEL_CODE, start, 0x85ull << 40);
	check_fault(call_far(GATE, 0), VECTOR_GP, GATE, "a task gate");
	check_fault(call_far(TASK_SELECTOR, 0), VECTOR_GP, TASK_SELECTOR, "a task state segment");
	check_fault(jump_far(TASK_SELECTOR, 0), VECTOR_GP, TASK_SELECTOR, "a jump to one");

	set_gate(KERNEL_CODE, start, TYPE_CALL_GATE | LEVEL_3);
	check_equal(user_call(GATE), 5, "a call gate from user code and back");
	check_equal(user_vector, 0, "without an exception");
	check_equal(gate_cs, KERNEL_CODE, "CS");
	check_equal(gate_ss, 0, "SS is null");
	check_equal(gate_rsp, task_states[0].rsp[0] - 32, "the stack is the task's");
	check_equal(gate_caller_cs, USER_CODE, "the caller's CS");
	check_equal(gate_caller_rsp, stack + 4096, "the caller's RSP");
	check_equal(gate_caller_ss, USER_DATA, "the caller's SS");
	set_gate(KERNEL_CODE, start, TYPE_CALL_GATE);
	user_call(GATE);
	check(user_vector == VECTOR_GP && user_error == GATE, "a gate of level 0 refuses user code");
	user_call(KERNEL_CODE);
	check(user_vector == VECTOR_GP && user_error == KERNEL_CODE, "so does the kernel's code segment");
}

static void jumps(void)
{
	check_fault(jump_far(0, 0), VECTOR_GP, 0, "a far jump to a null selector");
	check_fault(jump_far(KERNEL_DATA, 0), VECTOR_GP, KERNEL_DATA, "to data");
	gdt[TEST / 8] = CODE64 & ~PRESENT;
	check_fault(jump_far(TEST, 0), VECTOR_NP, TEST, "to code that is not present");
	gdt[TEST / 8] = CODE64 | 1ull << 54;
	check_fault(jump_far(TEST, 0), VECTOR_GP, TEST, "to code with L and D set");
	gdt[TEST / 8] = CODE64 | LEVEL_3;
	check_fault(jump_far(TEST, 0), VECTOR_GP, TEST, "to an outer level");
	gdt[TEST / 8] = (CODE64 | CONFORMING) & ~(1ull << 40);
	asm volatile("push %0; lea 1f(%%rip), %%rax; push %%rax; rex.w lret\n1:" : : "i"(TEST) : "rax", "memory");
	check(gdt[TEST / 8] >> 40 & 1, "a far return sets the accessed bit");
	asm volatile("push %0; lea 1f(%%rip), %%rax; push %%rax; rex.w lret\n1:" : : "i"(KERNEL_CODE) : "rax", "memory");
}

static void data_segments(void)
{
	u32 value;

	clear_fault();
	asm volatile(RECOVER("mov %w0, %%ds") : : "r"(0) : "memory");
	check_no_fault(last_fault(), "a null DS");
	asm volatile("mov %%ds:(%1), %0" : "=r"(value) : "r"(&gate_cs) : "memory");
	check(true, "which does not matter");
	asm volatile("mov %w0, %%ds" : : "r"(KERNEL_DATA) : "memory");
	/* Base and limit are ignored but for FS and GS, whose base counts. */
	gdt[TEST / 8] = 0x0040930010000000;
	asm volatile("mov %w1, %%es; mov %%es:(%2), %0; mov %w3, %%es"
		     : "=r"(value) : "r"(TEST), "r"(&gate_cs), "r"(KERNEL_DATA) : "memory");
	check_equal(value, (u32)gate_cs, "ES has neither base nor limit");
	asm volatile("mov %w1, %%fs; mov %%fs:-0x1000(%2), %0; mov %w3, %%fs"
		     : "=r"(value) : "r"(TEST), "r"(&gate_cs), "r"(0) : "memory");
	check_equal(value, (u32)gate_cs, "FS has a base and no limit");
	clear_fault();
	asm volatile(RECOVER("mov %w0, %%ss") : : "r"(3) : "memory");
	check_fault(last_fault(), VECTOR_GP, 0, "a null SS with another RPL than the CPL");
	clear_fault();
	asm volatile(RECOVER("mov %w0, %%ss") : : "r"(0) : "memory");
	check_no_fault(last_fault(), "a null SS at level 0");
	asm volatile("mov %w0, %%ss" : : "r"(KERNEL_DATA) : "memory");
}

/* In compatibility mode segments are as in protected mode. */
extern u8 compatible[], compatible_fault[], compatible_end[];
volatile u32 compatible_value;
asm(".text\n"
    /* Far-called with the test selector in EDX and an offset in ECX; EAX is read or -1. */
    "compatible: .code32\n"
    "	mov %edx, %es\n"
    "compatible_fault: mov %es:(%ecx), %eax\n"
    "compatible_end: mov %eax, compatible_value; mov %cs, %eax\n"
    "	lret\n"
    "	.code64\n");
static u32 compatible_vector, compatible_cs;

static void on_compatible_fault(struct frame *state)
{
	compatible_vector = state->vector;
	compatible_cs = state->cs;
	if (state->rip != (u64)compatible_fault)
		fatal("a fault elsewhere in compatibility mode");
	state->rax = ~0u;
	state->rip = (u64)compatible_end;
}

static u32 read_compatible(u32 selector, u32 offset)
{
	struct {
		u32 offset;
		u16 selector;
	} __attribute__((packed)) pointer = { (u32)(u64)compatible, KERNEL_CODE_32 };

	compatible_vector = 0;
	set_handler(VECTOR_GP, on_compatible_fault);
	asm volatile("lcall *%0" : : "m"(pointer), "d"(selector), "c"(offset) : "rax", "memory", "cc");
	set_handler(VECTOR_GP, NULL);
	return compatible_value;
}

static void compatibility(void)
{
	static u32 cell[2] = { 0x12345678, 0x9abcdef0 };
	u64 base = (u64)cell;

	check_equal(read_compatible(KERNEL_DATA, base), 0x12345678, "compatibility mode: a load");
	gdt[TEST / 8] = 0x0040930000000007 | (base & 0xffffff) << 16 | (base >> 24) << 56;
	check_equal(read_compatible(TEST, 4), 0x9abcdef0, "the base counts");
	check_equal(compatible_vector, 0, "within the limit");
	read_compatible(TEST, 5);
	check_equal(compatible_vector, VECTOR_GP, "beyond the limit");
	check_equal(compatible_cs, KERNEL_CODE_32, "the frame has the 32-bit code segment");
	read_compatible(0, base);
	check_equal(compatible_vector, VECTOR_GP, "by a null selector");
	asm volatile("mov %w0, %%es" : : "r"(KERNEL_DATA) : "memory");
}

void main(void)
{
	user = (u64)new_page();
	stack = (u64)new_page();
	memcpy((void *)user, user_code, user_end - user_code);
	change_pages(user, 4096, PAGE_USER, 0);
	change_pages(stack, 4096, PAGE_USER, 0);
	gates();
	jumps();
	data_segments();
	compatibility();
}
