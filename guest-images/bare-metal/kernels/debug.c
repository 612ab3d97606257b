/* Debug registers and single steps (SDM volume 3, chapter 18). */
#include "support.h"

#define DR6_FIXED 0xffff0ff0ull
#define DR6_BD (1u << 13)
#define DR6_BS (1u << 14)
#define DR7_FIXED 0x400ull
#define DR7_GD (1u << 13)
#define FLAG_RF (1u << 16)
#define CR4_DE (1u << 3)
#define MSR_DEBUGCTL 0x1d9
#define DEBUGCTL_BTF 2

/* DR7 fields of breakpoint n. */
#define ENABLE(n) (2ull << (2 * (n)))
#define KIND(n, kind) ((u64)(kind) << (16 + 4 * (n)))
#define LENGTH(n, length) ((u64)(length) << (18 + 4 * (n)))
enum { EXECUTE, WRITE, PORT, ACCESS };
enum { ONE, TWO, EIGHT, FOUR };

#define DEBUG_REGISTER(n)                                            \
	static void write_dr##n(u64 value)                           \
	{                                                            \
		asm volatile("mov %0, %%dr" #n : : "r"(value));      \
	}
DEBUG_REGISTER(0)
DEBUG_REGISTER(1)
DEBUG_REGISTER(3)
DEBUG_REGISTER(6)
DEBUG_REGISTER(7)

static u64 read_dr6(void)
{
	u64 value;

	asm volatile("mov %%dr6, %0" : "=r"(value));
	return value;
}

static u64 read_dr7(void)
{
	u64 value;

	asm volatile("mov %%dr7, %0" : "=r"(value));
	return value;
}

/* What the handler has seen. */
static volatile u32 traps;
static struct {
	u64 ip, flags, dr6;
} seen[16];

static void on_debug(struct frame *frame)
{
	if (traps < 16) {
		seen[traps].ip = frame->rip;
		seen[traps].flags = frame->rflags;
		seen[traps].dr6 = read_dr6();
	}
	traps++;
	write_dr6(0);
	/* Past an instruction breakpoint. */
	frame->rflags |= FLAG_RF;
}

static void begin(void)
{
	traps = 0;
	write_dr6(0);
}

/* One trap at ip with these reasons. */
static void check_one(u64 ip, u64 reasons, const char *what)
{
	check(traps == 1 && seen[0].ip == ip && seen[0].dr6 == (DR6_FIXED | reasons),
	      "%s: %u traps, first at 0x%lx (expected 0x%lx), DR6 0x%lx", what, traps, seen[0].ip, ip, seen[0].dr6);
}

static void registers(void)
{
	u64 value;

	write_dr6(0);
	check_equal(read_dr6(), DR6_FIXED, "DR6 written 0");
	write_dr6(0xffffffff);
	check_equal(read_dr6(), DR6_FIXED | 0xe00f, "DR6 written with ones");
	write_dr7(0);
	check_equal(read_dr7(), DR7_FIXED, "DR7 written 0");
	clear_fault();
	asm volatile(RECOVER("mov %0, %%dr7") : : "r"(1ull << 32));
	check_fault(last_fault(), VECTOR_GP, 0, "DR7 bit 32");
	write_dr6(5);
	asm volatile("mov %%dr4, %0" : "=r"(value));
	check_equal(value, DR6_FIXED | 5, "DR4 is DR6");
	write_cr4(read_cr4() | CR4_DE);
	clear_fault();
	asm volatile(RECOVER("mov %%dr4, %%rax") : : : "rax");
	check_fault(last_fault(), VECTOR_UD, 0, "DR4 with CR4.DE");
	clear_fault();
	asm volatile(RECOVER("mov %0, %%dr5") : : "r"(0ull));
	check_fault(last_fault(), VECTOR_UD, 0, "DR5 with CR4.DE");
	write_cr4(read_cr4() & ~(u64)CR4_DE);
}

extern u8 instruction_1[], instruction_2[];

static void instructions(void)
{
	static volatile u32 counter;

	begin();
	write_dr0((u64)instruction_1);
	write_dr3((u64)instruction_1);
	write_dr7(ENABLE(0) | ENABLE(3));
	asm volatile("instruction_1: incl %0" : "+m"(counter));
	check_one((u64)instruction_1, 9, "two breakpoints on an instruction");
	check_equal(seen[0].flags & FLAG_RF, 0, "RF is clear in the image of an instruction breakpoint");
	check_equal(counter, 1, "the instruction is executed once");

	begin();
	write_dr7(0);
	asm volatile("mov %0, %%dr0; mov %1, %%dr7; mov %%ss, %%ax; mov %%ax, %%ss\n"
		     "instruction_2: nop"
		     : : "r"(instruction_2), "r"(ENABLE(0)) : "rax");
	write_dr7(0);
	check_equal(traps, 0, "no breakpoint on the instruction after a load of SS");
}

static volatile u64 watched[4] __attribute__((aligned(64)));
extern u8 data_1[], data_2[], data_3[], data_4[];

static void data(void)
{
	static const struct {
		u32 offset, length;
		bool hit;
	} cases[] = {
		{ 0, ONE, true }, { 7, ONE, true }, { 8, ONE, false }, { 6, TWO, true }, { 8, TWO, false },
		{ 4, FOUR, true }, { 8, FOUR, false }, { 0, EIGHT, true }, { 8, EIGHT, false },
		/* Bits below the length are ignored. */
		{ 5, EIGHT, true }, { 13, EIGHT, false },
	};

	for (u32 i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		begin();
		write_dr1((u64)watched + cases[i].offset);
		write_dr7(ENABLE(1) | KIND(1, WRITE) | LENGTH(1, cases[i].length));
		watched[0] = 1;
		write_dr7(0);
		check_equal(traps, cases[i].hit, "store of 8 bytes, breakpoint at %u, length code %u", cases[i].offset,
			    cases[i].length);
	}

	write_dr1((u64)watched);
	write_dr7(ENABLE(1) | KIND(1, WRITE) | LENGTH(1, EIGHT));
	begin();
	asm volatile("movq $1, %0\ndata_1:" : "=m"(watched[0]));
	check_one((u64)data_1, 2, "after a store");
	begin();
	asm volatile("mov %0, %%rax" : : "m"(watched[0]) : "rax");
	check_equal(traps, 0, "a load meets no write breakpoint");
	begin();
	asm volatile("lock addl $1, %0\ndata_4:" : "+m"(watched[0]));
	check_one((u64)data_4, 2, "after a locked read and write");
	write_dr7(ENABLE(1) | KIND(1, ACCESS) | LENGTH(1, EIGHT));
	begin();
	asm volatile("mov %0, %%rax\ndata_2:" : : "m"(watched[0]) : "rax");
	check_one((u64)data_2, 2, "after a load");

	write_dr1((u64)watched + 2);
	write_dr7(ENABLE(1) | KIND(1, WRITE) | LENGTH(1, ONE));
	begin();
	asm volatile("lea %0, %%rdi; mov $8, %%ecx\ndata_3: rep stosb" : "=m"(watched) : : "rdi", "rcx", "memory");
	check_one((u64)data_3, 2, "between the iterations of REP STOS");
	check(seen[0].flags & FLAG_RF, "RF is set in the image between iterations");
	write_dr7(0);
}

extern u8 port_1[], port_2[];

static void ports(void)
{
	write_dr0(0x84);
	write_dr7(ENABLE(0) | KIND(0, PORT) | LENGTH(0, ONE));
	write_cr4(read_cr4() | CR4_DE);
	begin();
	asm volatile("out %%al, $0x84\nport_1:" : : "a"(0));
	check_one((u64)port_1, 1, "after OUT");
	begin();
	asm volatile("in $0x81, %%eax\nport_2:" : : : "rax");
	check_one((u64)port_2, 1, "after IN of four bytes that include the port");
	begin();
	out8(0x85, 0);
	check_equal(traps, 0, "another port");
	write_dr7(0);
	write_cr4(read_cr4() & ~(u64)CR4_DE);
}

extern u8 detect_1[], icebp_1[];

static void others(void)
{
	begin();
	write_dr7(DR7_GD);
	asm volatile("detect_1: mov %%dr0, %%rax" : : : "rax");
	check_one((u64)detect_1, DR6_BD, "general detect");
	check(seen[0].flags & FLAG_RF, "RF is set in the image of general detect");
	check_equal(read_dr7() & DR7_GD, 0, "DR7.GD is clear after it");

	begin();
	asm volatile(".byte 0xf1\nicebp_1:");
	check_one((u64)icebp_1, 0, "INT1");
}

#define TRAP_FLAG_ON "pushf; orl $0x100, (%%rsp); popf\n"
/* Three instructions that still trap. */
#define TRAP_FLAG_OFF "pushf; andl $~0x100, (%%rsp); popf\n"
#define TAIL 3

extern u8 step_1[], step_2[], step_3[], step_4[], step_5[], step_6[], step_7[];

/* The traps of a stepped piece: count of them, and where the first is. */
static void check_steps(u32 count, u64 first, const char *what)
{
	bool all = true;

	for (u32 i = 0; i < traps && i < 16; i++)
		all &= seen[i].dr6 == (DR6_FIXED | DR6_BS);
	check(traps == count && seen[0].ip == first && all,
	      "%s: %u traps (expected %u), first at 0x%lx (expected 0x%lx)", what, traps, count, seen[0].ip, first);
}

static volatile u32 breakpoints;

static void on_breakpoint(struct frame *frame)
{
	(void)frame;
	breakpoints++;
}

static void steps(void)
{
	begin();
	asm volatile(TRAP_FLAG_ON "nop\nstep_1: nop\n" TRAP_FLAG_OFF : : : "memory");
	check_steps(2 + TAIL, (u64)step_1, "single steps");

	begin();
	asm volatile("mov %%ss, %%ax\n" TRAP_FLAG_ON "mov %%ax, %%ss; nop\nstep_2:\n" TRAP_FLAG_OFF
		     : : : "rax", "memory");
	check_steps(1 + TAIL, (u64)step_2, "a load of SS holds off one step");

	begin();
	asm volatile(TRAP_FLAG_ON "cpuid\nstep_3: mov $3, %%ecx; lea %0, %%rdi; rep stosb\n" TRAP_FLAG_OFF
		     : "=m"(watched) : : "rax", "rbx", "rcx", "rdx", "rdi", "memory");
	check_steps(1 + 2 + 3 + TAIL, (u64)step_3, "each iteration of REP is a step");

	set_handler(VECTOR_BP, on_breakpoint);
	breakpoints = 0;
	begin();
	asm volatile(TRAP_FLAG_ON "int3; nop\nstep_4:\n" TRAP_FLAG_OFF : : : "memory");
	check_steps(1 + TAIL, (u64)step_4, "INT3 is no step, the instruction after its handler is one");
	check_equal(breakpoints, 1, "INT3's handler ran");

	begin();
	asm volatile(TRAP_FLAG_ON "sti\nstep_5: cli\n" TRAP_FLAG_OFF : : : "memory");
	check_steps(2 + TAIL, (u64)step_5, "the shadow of STI does not hold off steps");

	begin();
	asm volatile("mov %%ss, %%ecx; mov %%rsp, %%rdx; push %%rcx; push %%rdx; pushf; orl $0x100, (%%rsp)\n"
		     "mov %%cs, %%ecx; push %%rcx; lea 1f(%%rip), %%rcx; push %%rcx; iretq\n"
		     "1: nop\nstep_6: nop\n" TRAP_FLAG_OFF
		     : : : "rcx", "rdx", "memory");
	check_steps(2 + TAIL, (u64)step_6, "the step after IRET sets TF comes one instruction later");

	begin();
	write_msr(MSR_DEBUGCTL, DEBUGCTL_BTF);
	asm volatile(TRAP_FLAG_ON "nop; nop; jmp 1f; nop\n1: step_7: pushf; andl $~0x100, (%%rsp); popf" : : : "memory");
	check(traps >= 1 && seen[0].ip == (u64)step_7, "with DEBUGCTL.BTF the first trap follows a branch");
	check_equal(read_msr(MSR_DEBUGCTL) & DEBUGCTL_BTF, 0, "the trap clears BTF");
}

static volatile u16 stack_segment = KERNEL_DATA;
extern u8 merged_1[], behind_1[];

static void pending(void)
{
	write_dr0((u64)&stack_segment);
	write_dr7(ENABLE(0) | KIND(0, ACCESS) | LENGTH(0, TWO));
	begin();
	asm volatile("mov %0, %%ss\n.byte 0xf1\nmerged_1:" : : "m"(stack_segment));
	check_one((u64)merged_1, 1, "a data breakpoint behind a load of SS is reported with INT1");
	begin();
	asm volatile("mov %0, %%ss; nop\nbehind_1:" : : "m"(stack_segment));
	check_one((u64)behind_1, 1, "else after the next instruction");
	write_dr7(0);
}

extern u8 fault_1[];

static void images(void)
{
	static volatile u64 image;

	write_dr0((u64)fault_1);
	begin();
	write_dr7(ENABLE(0));
	clear_fault();
	asm volatile("fault_1:\n" RECOVER("ud2"));
	write_dr7(0);
	check_one((u64)fault_1, 1, "a breakpoint comes before the fault of its instruction");
	check(last_fault().taken && last_fault().vector == VECTOR_UD, "which comes next");
	asm volatile("pushf; pop %0" : "=m"(image) : : "memory");
	check_equal(image & FLAG_RF, 0, "PUSHF shows no RF");
}

extern u8 user_code[], user_target[];

static void user(void)
{
	u64 stack = (u64)new_page() + 4096;

	asm volatile("jmp 1f\nuser_code: nop\nuser_target: mov $7, %%eax; int $0x80\n1:" : : : "memory");
	change_pages((u64)user_code & ~0xfffull, 8192, PAGE_USER, 0);
	change_pages(stack - 4096, 4096, PAGE_USER, 0);
	write_dr0((u64)user_target);
	begin();
	write_dr7(ENABLE(0));
	check_equal(call_user((u64)user_code, 0, stack), 7, "user code ends");
	write_dr7(0);
	check_one((u64)user_target, 1, "a breakpoint in user code");
}

void main(void)
{
	set_handler(VECTOR_DB, on_debug);
	registers();
	instructions();
	data();
	ports();
	others();
	steps();
	pending();
	images();
	user();
}
