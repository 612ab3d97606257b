/*
 * Hardware task switches: JMP, CALL, INT, exceptions and IRET (SDM volume 3, chapter 8).
 *
 * bits: 32
 */
#include "support.h"

#define FLAG_NT (1u << 14)
#define FLAG_RF (1u << 16)
#define CR0_TS 8

/* Selectors of this kernel. */
#define OTHER (SPARE_SELECTOR + 0)
#define OTHER_GATE (SPARE_SELECTOR + 8)
#define ABSENT (SPARE_SELECTOR + 16)
#define LDT (SPARE_SELECTOR + 24)
#define THIRD (SPARE_SELECTOR + 32)
#define CODE_16 (SPARE_SELECTOR + 40)

static struct task other;
static u8 other_stack[4096] __attribute__((aligned(16)));
static u8 user_stack[4096] __attribute__((aligned(16)));
static volatile u32 visits, seen_link, seen_flags, seen_cr0, seen_tr;

static u32 task_register(void)
{
	u16 selector;

	asm volatile("str %0" : "=r"(selector));
	return selector;
}

static bool is_busy(u32 selector)
{
	return gdt[selector / 8] >> 41 & 1;
}

static void visit(void)
{
	visits++;
	seen_link = other.link;
	seen_flags = read_flags();
	seen_cr0 = read_cr0();
	seen_tr = task_register();
	asm volatile("clts");
}

/* The other task: returns again and again. */
extern u8 returning[], jumping[], coded[];
void visit_other(void);
void visit_other(void)
{
	visit();
}
asm(".text\n"
    "returning: call visit_other; iret; jmp returning\n"
    "jumping: call visit_other; ljmp $0x28, $0; jmp jumping\n"
    /* For an exception with an error code on the stack: makes the selector good that it was about. */
    "coded: pop seen_code_word; movw $0x10, good_selector; call visit_other; iret; jmp coded\n");
volatile u32 seen_code_word;
volatile u16 good_selector;

static void prepare(struct task *task, u8 *stack, const u8 *code)
{
	*task = (struct task){
		.eip = (u32)code,
		.eflags = 2,
		.esp = (u32)stack + 4096,
		.cs = KERNEL_CODE,
		.ds = KERNEL_DATA,
		.es = KERNEL_DATA,
		.ss = KERNEL_DATA,
		.esp0 = (u32)stack + 4096,
		.ss0 = KERNEL_DATA,
		.cr3 = read_cr3(),
		.io_map = sizeof(*task),
	};
}

static void begin(const u8 *code)
{
	prepare(&other, other_stack, code);
	gdt[OTHER / 8] = descriptor((u32)&other, sizeof(other) - 1, ACCESS_TASK32, 0);
	gdt[OTHER_GATE / 8] = gate(OTHER, 0, ACCESS_TASK_GATE, 0);
	visits = 0;
}

static void calls(void)
{
	u32 keep;

	begin(returning);
	asm volatile("mov $0x1234, %%esi; lcall %1, $0; mov %%esi, %0" : "=r"(keep) : "i"(OTHER) : "esi", "memory", "cc");
	check_equal(visits, 1, "CALL to a task state segment, and IRET back");
	check_equal(keep, 0x1234, "registers are those of the caller again");
	check_equal(seen_link, TASK_SELECTOR, "the link names the caller");
	check(seen_flags & FLAG_NT, "NT is set in the nested task");
	check(seen_cr0 & CR0_TS, "CR0.TS is set");
	check_equal(seen_tr, OTHER, "TR names the new task");
	check_equal(task_register(), TASK_SELECTOR, "and the old one after the return");
	check(is_busy(TASK_SELECTOR) && !is_busy(OTHER), "the caller is busy, the other is not");
	check_equal(read_flags() & FLAG_NT, 0, "NT is clear after the return");
	check_equal(other.eflags & FLAG_NT, 0, "IRET clears NT in what it saves");
	check_equal(other.eip, (u32)returning + 6, "the other task was left behind its IRET");
	asm volatile("lcall %0, $0" : : "i"(OTHER) : "memory", "cc");
	check_equal(visits, 2, "it goes on there when called again");
	asm volatile("lcall %0, $0" : : "i"(OTHER_GATE) : "memory", "cc");
	check_equal(visits, 3, "CALL through a task gate");
	asm volatile("clts");
}

static void jumps(void)
{
	begin(jumping);
	asm volatile("ljmp %0, $0" : : "i"(OTHER) : "memory", "cc");
	check_equal(visits, 1, "JMP to a task state segment, and JMP back");
	check_equal(seen_flags & FLAG_NT, 0, "NT is not set");
	check_equal(seen_link, 0, "nor is the link");
	check(is_busy(TASK_SELECTOR) && !is_busy(OTHER), "only the running task is busy");
	asm volatile("ljmp %0, $0" : : "i"(OTHER_GATE) : "memory", "cc");
	check_equal(visits, 2, "JMP through a task gate");
	asm volatile("clts");
}

static void events(void)
{
	u64 saved = idt[0x90], saved_gp = idt[VECTOR_GP];
	u32 flags_before = read_flags();

	begin(returning);
	idt[0x90] = gate(OTHER, 0, ACCESS_TASK_GATE, 0);
	asm volatile("int $0x90" : : : "memory", "cc");
	check_equal(visits, 1, "INT n through a task gate");
	check_equal(read_flags() & FLAG_IF, flags_before & FLAG_IF, "IF is as before");
	idt[0x90] = saved;

	/* An exception's error code is pushed on the new task's stack. */
	begin(coded);
	idt[VECTOR_GP] = gate(OTHER, 0, ACCESS_TASK_GATE, 0);
	seen_code_word = 0xbad;
	good_selector = 0xfff8;
	asm volatile("mov %0, %%es" : : "m"(good_selector) : "memory");
	idt[VECTOR_GP] = saved_gp;
	check_equal(visits, 1, "an exception through a task gate");
	check_equal(seen_code_word, 0xfff8, "its error code is on the new stack");
	check(kernel_task.eflags & FLAG_RF, "the image of a fault has RF set");
	asm volatile("clts");
}

/* An exception of a new task is raised in that task: from there it goes back to the kernel's by JMP. */
static u32 taken_vector, taken_code, taken_tr;

static void on_task_fault(struct frame *state)
{
	taken_vector = state->vector;
	taken_code = state->error_code;
	taken_tr = task_register();
	/* Back to the kernel's task, which a switch has left. */
	if (taken_tr != TASK_SELECTOR) {
		asm volatile("clts");
		asm volatile("ljmp %0, $0" : : "i"(TASK_SELECTOR));
	}
	state->eip = state->edi;
}

/* Tries JMP; what is expected is the vector, the error code and the task it is raised in. */
static void refuse(u32 vector, u32 code, u32 task, const char *what)
{
	set_handler(VECTOR_TS, on_task_fault);
	set_handler(VECTOR_NP, on_task_fault);
	set_handler(VECTOR_SS, on_task_fault);
	set_handler(VECTOR_GP, on_task_fault);
	taken_vector = 0;
	asm volatile("mov $1f, %%edi; ljmp %0, $0\n1:" : : "i"(OTHER) : "edi", "memory", "cc");
	set_handler(VECTOR_TS, NULL);
	set_handler(VECTOR_NP, NULL);
	set_handler(VECTOR_SS, NULL);
	set_handler(VECTOR_GP, NULL);
	gdt[TASK_SELECTOR / 8] |= 1ull << 41;
	check(taken_vector == vector && taken_code == code && taken_tr == task,
	      "%s: exception %u, error code 0x%x, in task 0x%x (expected %u, 0x%x, 0x%x)", what, taken_vector, taken_code,
	      taken_tr, vector, code, task);
}

static void descriptors_refused(void)
{
	begin(returning);
	gdt[OTHER / 8] = descriptor((u32)&other, sizeof(other) - 2, ACCESS_TASK32, 0);
	refuse(VECTOR_TS, OTHER, TASK_SELECTOR, "a task state segment that is too short");
	gdt[OTHER / 8] = descriptor((u32)&other, sizeof(other) - 1, ACCESS_TASK32 & ~ACCESS_PRESENT, 0);
	refuse(VECTOR_NP, OTHER, TASK_SELECTOR, "one that is not present");
	gdt[OTHER / 8] = descriptor((u32)&other, sizeof(other) - 1, ACCESS_TASK32_BUSY, 0);
	refuse(VECTOR_GP, OTHER, TASK_SELECTOR, "one that is busy");
	gdt[OTHER / 8] = gate(THIRD, 0, ACCESS_TASK_GATE & ~ACCESS_PRESENT, 0);
	refuse(VECTOR_NP, OTHER, TASK_SELECTOR, "a task gate that is not present");
	gdt[OTHER / 8] = gate(KERNEL_DATA, 0, ACCESS_TASK_GATE, 0);
	refuse(VECTOR_GP, KERNEL_DATA, TASK_SELECTOR, "a task gate to data");
	gdt[OTHER / 8] = gate(0, 0, ACCESS_TASK_GATE, 0);
	refuse(VECTOR_GP, 0, TASK_SELECTOR, "a task gate with a null selector");
	gdt[OTHER / 8] = gate(8 * GDT_ENTRIES, 0, ACCESS_TASK_GATE, 0);
	refuse(VECTOR_GP, 8 * GDT_ENTRIES, TASK_SELECTOR, "a task gate beyond the descriptor table");
	gdt[OTHER / 8] = gate(OTHER | 4, 0, ACCESS_TASK_GATE, 0);
	refuse(VECTOR_GP, OTHER | 4, TASK_SELECTOR, "a task gate to the local descriptor table");
}

/* Segments of the new task, by their place in struct task. */
static void state_refused(void)
{
	gdt[ABSENT / 8] = descriptor(0, 0xfffff, ACCESS_DATA & ~ACCESS_PRESENT, SEGMENT_32 | SEGMENT_PAGES);
	begin(returning);
	other.cs = 0;
	refuse(VECTOR_TS, 0, OTHER, "a null CS");
	begin(returning);
	other.cs = KERNEL_DATA;
	refuse(VECTOR_TS, KERNEL_DATA, OTHER, "data in CS");
	begin(returning);
	other.cs = USER_CODE & ~3;
	refuse(VECTOR_TS, USER_CODE & ~3, OTHER, "CS whose RPL is not its DPL");
	begin(returning);
	gdt[THIRD / 8] = descriptor(0, 0xfffff, ACCESS_CODE & ~ACCESS_PRESENT, SEGMENT_32 | SEGMENT_PAGES);
	other.cs = THIRD;
	refuse(VECTOR_NP, THIRD, OTHER, "CS that is not present");
	begin(returning);
	other.ss = 0;
	refuse(VECTOR_TS, 0, OTHER, "a null SS");
	begin(returning);
	other.ss = USER_DATA;
	refuse(VECTOR_TS, USER_DATA & ~3, OTHER, "SS of another level");
	begin(returning);
	other.ss = KERNEL_CODE;
	refuse(VECTOR_TS, KERNEL_CODE, OTHER, "code in SS");
	begin(returning);
	other.ss = ABSENT;
	refuse(VECTOR_SS, ABSENT, OTHER, "SS that is not present");
	begin(returning);
	other.ds = TASK_SELECTOR;
	refuse(VECTOR_TS, TASK_SELECTOR, OTHER, "a system segment in DS");
	begin(returning);
	other.es = ABSENT;
	refuse(VECTOR_NP, ABSENT, OTHER, "ES that is not present");
	begin(returning);
	other.fs = 8 * GDT_ENTRIES;
	refuse(VECTOR_TS, 8 * GDT_ENTRIES, OTHER, "FS beyond the descriptor table");
	begin(returning);
	other.ldt = KERNEL_DATA;
	refuse(VECTOR_TS, KERNEL_DATA, OTHER, "data as the local descriptor table");
	begin(returning);
	gdt[LDT / 8] = descriptor(0, 7, ACCESS_LDT & ~ACCESS_PRESENT, 0);
	other.ldt = LDT;
	refuse(VECTOR_TS, LDT, OTHER, "a local descriptor table that is not present");
	begin(returning);
	gdt[THIRD / 8] = descriptor(0, 0xfff, ACCESS_CODE, SEGMENT_32);
	other.cs = THIRD;
	refuse(VECTOR_GP, 0, OTHER, "an instruction pointer beyond CS");
}

static void returns_refused(void)
{
	begin(returning);
	kernel_task.link = OTHER;
	clear_fault();
	asm volatile("pushf; orl %0, (%%esp); popf\n" RECOVER("iret") "pushf; andl %1, (%%esp); popf"
		     : : "i"(FLAG_NT), "i"(~FLAG_NT) : "memory", "cc");
	check_fault(last_fault(), VECTOR_TS, OTHER, "IRET to a task that is not busy");
	kernel_task.link = KERNEL_DATA;
	clear_fault();
	asm volatile("pushf; orl %0, (%%esp); popf\n" RECOVER("iret") "pushf; andl %1, (%%esp); popf"
		     : : "i"(FLAG_NT), "i"(~FLAG_NT) : "memory", "cc");
	check_fault(last_fault(), VECTOR_TS, KERNEL_DATA, "IRET to something else");
	kernel_task.link = 0;
}

/* User code may call a task whose descriptor lets it. */
extern u8 user_call[], user_end[];
asm(".text\nuser_call: lcall $0x38, $0; mov $9, %eax\nuser_end: int $0x80\n");

static u32 user_vector, user_code;

static void on_user_fault(struct frame *state)
{
	user_vector = state->vector;
	user_code = state->error_code;
	state->eip = (u32)user_end;
}

static void privileges(void)
{
	u32 stack = (u32)user_stack + 4096;

	begin(returning);
	set_handler(VECTOR_GP, on_user_fault);
	user_vector = 0;
	call_user((u32)user_call, 0, stack);
	check(user_vector == VECTOR_GP && user_code == OTHER_GATE, "a task gate of level 0 refuses user code");
	gdt[OTHER_GATE / 8] = gate(OTHER, 0, ACCESS_TASK_GATE | DPL(3), 0);
	user_vector = 0;
	check_equal(call_user((u32)user_call, 0, stack), 9, "one of level 3 takes it");
	check_equal(user_vector, 0, "without an exception");
	check_equal(visits, 1, "to the other task and back");
	set_handler(VECTOR_GP, NULL);
	asm volatile("clts");
}

static u32 debug_status, debug_eip;

static void on_debug(struct frame *state)
{
	asm volatile("mov %%dr6, %0" : "=r"(debug_status));
	debug_eip = state->eip;
	asm volatile("mov %0, %%dr6" : : "r"(0));
}

static void debug_trap(void)
{
	u32 control;

	asm volatile("mov %0, %%dr6" : : "r"(0));
	begin(returning);
	other.trap = 1;
	set_handler(VECTOR_DB, on_debug);
	asm volatile("mov %0, %%dr7" : : "r"(0x400 | 1 << 8 | 1 << 9));
	asm volatile("lcall %0, $0" : : "i"(OTHER) : "memory", "cc");
	check_equal(debug_status & 0xe00f, 1 << 15, "the T flag of a task traps");
	check_equal(debug_eip, (u32)returning, "before the task's first instruction");
	asm volatile("mov %%dr7, %0" : "=r"(control));
	check_equal(control, 0x600, "a task switch clears the local enable bits of DR7");
	asm volatile("mov %0, %%dr7; clts" : : "r"(0x400));
	set_handler(VECTOR_DB, NULL);
}

/* A task of 16 bits: its code lies in a segment of its own, its registers have no upper halves. */
static struct {
	u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
} other16;
extern u8 code16[];
volatile u32 seen_si, seen_fs;
asm(".text\n"
    "code16: mov %esi, seen_si; mov %fs, %eax; mov %eax, seen_fs; movl $1, seen_code_word; mov $0x5555, %di; iret\n");

static void tasks_of_16_bits(void)
{
	u32 esi = 0x12345678;

	gdt[CODE_16 / 8] = descriptor((u32)code16, 0xfff, ACCESS_CODE, SEGMENT_32);
	gdt[OTHER / 8] = descriptor((u32)&other16, sizeof(other16) - 1, ACCESS_TASK16, 0);
	memset(&other16, 0, sizeof(other16));
	other16.cs = CODE_16;
	other16.ss = other16.ds = other16.es = KERNEL_DATA;
	other16.flags = 2;
	other16.si = 0x4321;
	seen_code_word = 0;
	asm volatile("mov %w1, %%fs; lcall %2, $0" : "+S"(esi) : "r"(KERNEL_DATA), "i"(OTHER) : "memory", "cc");
	check_equal(seen_code_word, 1, "CALL to a task of 16 bits, and IRET back");
	check_equal(seen_si & 0xffff, 0x4321, "its SI");
	check_equal(seen_fs & 0xffff, 0, "FS is null in it");
	check_equal(esi, 0x12345678, "the caller's registers have 32 bits");
	check_equal(other16.link, TASK_SELECTOR, "the link names the caller");
	check_equal(other16.di, 0x5555, "DI was saved");
	gdt[OTHER / 8] = descriptor((u32)&other16, sizeof(other16) - 2, ACCESS_TASK16, 0);
	refuse(VECTOR_TS, OTHER, TASK_SELECTOR, "a task state segment of 16 bits that is too short");
	asm volatile("mov %w0, %%fs; clts" : : "r"(0));
}

void main(void)
{
	calls();
	jumps();
	events();
	descriptors_refused();
	state_refused();
	returns_refused();
	privileges();
	debug_trap();
	tasks_of_16_bits();
}
