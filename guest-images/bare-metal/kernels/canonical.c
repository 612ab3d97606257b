/* Addresses that are not canonical, wherever one can come in (SDM volume 1, 3.3.7.1). */
#include "support.h"

#define BAD 0x0000800000000000ull
#define LAST_GOOD 0x00007fffffffffffull
#define HIGH_GOOD 0xffff800000000000ull
#define CR4_FSGSBASE (1ull << 16)

#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176

static void data(void)
{
	clear_fault();
	asm volatile(RECOVER("mov (%0), %%al") : : "r"(BAD) : "rax");
	check_fault(last_fault(), VECTOR_GP, 0, "a load");
	clear_fault();
	asm volatile(RECOVER("mov %%al, (%0)") : : "r"(BAD) : "memory");
	check_fault(last_fault(), VECTOR_GP, 0, "a store");
	clear_fault();
	asm volatile(RECOVER("mov (%0), %%eax") : : "r"(LAST_GOOD) : "rax");
	check_fault(last_fault(), VECTOR_GP, 0, "a load that leaves the lower half");
	clear_fault();
	asm volatile("mov %%rbp, %%rcx; mov %0, %%rbp\n" RECOVER("mov (%%rbp), %%al") "mov %%rcx, %%rbp"
		     : : "r"(BAD) : "rax", "rcx");
	check_fault(last_fault(), VECTOR_SS, 0, "a load by RBP");
	clear_fault();
	asm volatile("mov %%rsp, %%rcx; mov %0, %%rsp\n" RECOVER("push %%rax") "mov %%rcx, %%rsp"
		     : : "r"(BAD + 8) : "rcx", "memory");
	check_fault(last_fault(), VECTOR_SS, 0, "PUSH");
	clear_fault();
	asm volatile("mov %%rsp, %%rcx; mov %0, %%rsp\n" RECOVER("pop %%rax") "mov %%rcx, %%rsp"
		     : : "r"(BAD) : "rax", "rcx", "memory");
	check_fault(last_fault(), VECTOR_SS, 0, "POP");
	clear_fault();
	asm volatile(RECOVER("mov %%fs:(%0), %%al") : : "r"(BAD) : "rax");
	check_fault(last_fault(), VECTOR_GP, 0, "a load by FS");
	clear_fault();
	asm volatile(RECOVER("invlpg (%0)") : : "r"(BAD));
	check_no_fault(last_fault(), "INVLPG");
	clear_fault();
	asm volatile(RECOVER("prefetcht0 (%0)") : : "r"(BAD));
	check_no_fault(last_fault(), "PREFETCH");
	clear_fault();
	asm volatile(RECOVER("clflush (%0)") : : "r"(BAD));
	check_fault(last_fault(), VECTOR_GP, 0, "CLFLUSH");
	clear_fault();
	asm volatile(RECOVER("lea (%0), %%rax") : : "r"(BAD) : "rax");
	check_no_fault(last_fault(), "LEA");
}

static void branches(void)
{
	clear_fault();
	asm volatile(RECOVER("jmp *%0") : : "r"(BAD));
	check_fault(last_fault(), VECTOR_GP, 0, "JMP");
	clear_fault();
	asm volatile(RECOVER("call *%0") : : "r"(BAD));
	check_fault(last_fault(), VECTOR_GP, 0, "CALL");
	clear_fault();
	asm volatile("mov %%rsp, %%rcx; push %0\n" RECOVER("ret") "mov %%rcx, %%rsp" : : "r"(BAD) : "rcx", "memory");
	check_fault(last_fault(), VECTOR_GP, 0, "RET");
	clear_fault();
	asm volatile("mov %%rsp, %%rcx; pushq %1; push %0\n" RECOVER("lretq") "mov %%rcx, %%rsp"
		     : : "r"(BAD), "i"(KERNEL_CODE) : "rcx", "memory");
	check_fault(last_fault(), VECTOR_GP, 0, "far RET");
	clear_fault();
	asm volatile("mov %%rsp, %%rcx; pushq %1; push %%rcx; pushq $2; pushq %2; push %0\n" RECOVER("iretq")
		     "mov %%rcx, %%rsp"
		     : : "r"(BAD), "i"(KERNEL_DATA), "i"(KERNEL_CODE) : "rcx", "memory");
	check_fault(last_fault(), VECTOR_GP, 0, "IRET");
	struct {
		u64 offset;
		u16 selector;
	} __attribute__((packed)) pointer = { BAD, KERNEL_CODE };
	clear_fault();
	asm volatile(RECOVER("rex.w ljmp *%0") : : "m"(pointer));
	check_fault(last_fault(), VECTOR_GP, 0, "far JMP");
	clear_fault();
	asm volatile("mov %0, %%rcx; xor %%r11d, %%r11d\n" RECOVER("sysretq") : : "r"(BAD) : "rcx", "r11", "memory");
	check_fault(last_fault(), VECTOR_GP, 0, "SYSRET");
}

static void registers(void)
{
	static const struct {
		const char *name;
		u32 index;
	} msrs[] = {
		{ "LSTAR", MSR_LSTAR },
		{ "CSTAR", MSR_CSTAR },
		{ "FS_BASE", MSR_FS_BASE },
		{ "GS_BASE", MSR_GS_BASE },
		{ "KERNEL_GS_BASE", MSR_KERNEL_GS_BASE },
		{ "SYSENTER_ESP", MSR_SYSENTER_ESP },
		{ "SYSENTER_EIP", MSR_SYSENTER_EIP },
	};
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) table = { 0xffff, BAD };

	for (u32 i = 0; i < sizeof(msrs) / sizeof(*msrs); i++) {
		u64 before = read_msr(msrs[i].index);

		check_fault(write_msr_checked(msrs[i].index, BAD), VECTOR_GP, 0, msrs[i].name);
		check_equal(read_msr(msrs[i].index), before, "%s is as before", msrs[i].name);
		write_msr(msrs[i].index, HIGH_GOOD);
		check_equal(read_msr(msrs[i].index), HIGH_GOOD, "%s takes the start of the upper half", msrs[i].name);
		write_msr(msrs[i].index, before);
	}
	clear_fault();
	asm volatile(RECOVER("lgdt %0") : : "m"(table));
	check_fault(last_fault(), VECTOR_GP, 0, "LGDT");
	clear_fault();
	asm volatile(RECOVER("lidt %0") : : "m"(table));
	check_fault(last_fault(), VECTOR_GP, 0, "LIDT");
	write_cr4(read_cr4() | CR4_FSGSBASE);
	clear_fault();
	asm volatile(RECOVER("wrfsbase %0") : : "r"(BAD));
	check_fault(last_fault(), VECTOR_GP, 0, "WRFSBASE");
	clear_fault();
	asm volatile(RECOVER("wrgsbase %0") : : "r"(BAD));
	check_fault(last_fault(), VECTOR_GP, 0, "WRGSBASE");
}

static struct frame seen;

static void on_double_fault(struct frame *state)
{
	seen = *state;
	/* Back to where the event came, with a good stack. */
	state->rip = state->rax;
	state->rsp = state->rcx;
}

static void events(void)
{
	/* The handler's address. */
	struct gate saved = idt[0x90];

	idt[0x90].offset_high = 0x8000;
	clear_fault();
	asm volatile(RECOVER("int $0x90") : : : "memory");
	check_fault(last_fault(), VECTOR_GP, 0, "a gate to an address that is not canonical");
	idt[0x90] = saved;

	/* The interrupt stack table's pointer. */
	task_states[0].ist[1] = BAD;
	idt[0x90].ist = 2;
	clear_fault();
	asm volatile(RECOVER("int $0x90") : : : "memory");
	check_fault(last_fault(), VECTOR_SS, 0, "a stack of the interrupt stack table that is not canonical");
	idt[0x90] = saved;

	/* An exception on a stack that is none is a double fault, on its own stack. */
	set_handler(VECTOR_DF, on_double_fault);
	asm volatile("mov %%rsp, %%rcx; lea 1f(%%rip), %%rax; mov %0, %%rsp; ud2\n1:" : : "r"(BAD) : "rax", "rcx", "memory");
	check_equal(seen.vector, VECTOR_DF, "an exception without a stack is a double fault");
	check_equal(seen.error_code, 0, "with error code 0");
	check_equal(seen.rsp, BAD, "its frame has the stack pointer");
}

/* The stack of #SS while RSP is none. */
static u8 spare_stack[4096] __attribute__((aligned(16)));

void main(void)
{
	task_states[0].ist[2] = (u64)(spare_stack + sizeof(spare_stack));
	idt[VECTOR_SS].ist = 3;
	data();
	branches();
	registers();
	events();
}
