/* SYSCALL, SYSRET, SYSENTER, SYSEXIT and SWAPGS (SDM volume 2; volume 3, 5.8.7 and 5.8.8). */
#include "support.h"

#define MSR_EFER 0xc0000080
#define EFER_SCE 1ull
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_GS_BASE 0xc0000101
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176

/* SYSRET loads its selectors from here: +8 user data, +16 user code. */
#define STAR ((u64)(USER_CODE_32 & ~3) << 48 | (u64)KERNEL_CODE << 32)
/* SYSENTER and SYSEXIT count selectors from here, and read no descriptor. */
#define ENTER_CS SPARE_SELECTOR

extern u8 user_start[], user_syscall[], user_after_syscall[], user_sysenter[], user_after_sysenter[], user_sysret[],
	user_trapped[], user_after_trapped[], user_end[];
asm(".text\n"
    "user_start:\n"
    "user_syscall: mov $0x11, %eax; push $0x246; popf; syscall\n"
    "user_after_syscall: int $0x80\n"
    "user_sysenter: mov $0x22, %eax; lea user_after_sysenter(%rip), %rdx; mov %rsp, %rcx; sysenter\n"
    "user_after_sysenter: int $0x80\n"
    "user_sysret: sysretq; int $0x80\n"
    /* The step after POPF is SYSCALL, whose mask clears TF. */
    "user_trapped: push $0x102; popf; syscall\n"
    "user_after_trapped: nop; int $0x80\n"
    "user_end:\n");

/* What the entries find; the assembly knows them by name. */
volatile u64 entry_rsp, entry_rcx, entry_r11, entry_flags, entry_cs, entry_ss, return_flags;
u8 enter_stack[4096] __attribute__((aligned(16)));
extern u8 syscall_entry[], sysenter_entry[];

asm(".text\n"
    "syscall_entry:\n"
    "	mov %rsp, entry_rsp; mov %rcx, entry_rcx; mov %r11, entry_r11\n"
    "	mov %cs, entry_cs; mov %ss, entry_ss\n"
    "	mov $enter_stack + 4096, %rsp; pushf; pop entry_flags\n"
    "	mov return_flags, %r11; mov entry_rsp, %rsp; add $1, %eax; sysretq\n"
    "sysenter_entry:\n"
    "	mov %rsp, entry_rsp; mov %cs, entry_cs; mov %ss, entry_ss\n"
    "	pushf; pop entry_flags; add $2, %eax; rex.w sysexit\n");

static u64 user, stack;

static u64 at(const u8 *place)
{
	return user + (place - user_start);
}

static struct frame seen;
static u32 count;

static void on_user_fault(struct frame *state)
{
	if (!count++)
		seen = *state;
	if (state->vector == VECTOR_DB)
		state->rflags &= ~(u64)FLAG_TF;
	else
		state->rip = at(user_after_syscall);
}

/* The way back from call_user(), without an IRET that would look at the selectors. */
_Noreturn void leave_user(u64 result);
static u64 exit_cs, exit_ss, exit_flags;

static void on_exit(struct frame *state)
{
	exit_cs = state->cs;
	exit_ss = state->ss;
	exit_flags = state->rflags;
	leave_user(state->rax);
}

static u64 run_user(const u8 *place)
{
	set_handler(0x80, on_exit);
	return call_user(at(place), 0, stack + 4096);
}

static void by_syscall(void)
{
	write_msr(MSR_STAR, STAR);
	write_msr(MSR_LSTAR, (u64)syscall_entry);
	write_msr(MSR_FMASK, 0x4);
	write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_SCE);
	return_flags = 0x202 | 0x800;
	check_equal(run_user(user_syscall), 0x12, "SYSCALL and back");
	check_equal(entry_rcx, at(user_after_syscall), "RCX has the return address");
	check_equal(entry_r11, 0x46, "R11 has the flags, IF out of the user's reach");
	check_equal(entry_flags, 0x42, "the mask clears PF, and nothing else");
	check_equal(entry_rsp, stack + 4096, "RSP is as it was");
	check_equal(entry_cs, KERNEL_CODE, "CS");
	check_equal(entry_ss, KERNEL_DATA, "SS");
	check_equal(exit_cs, USER_CODE, "SYSRET: CS");
	check_equal(exit_ss, USER_DATA, "SYSRET: SS");
	check_equal(exit_flags, 0xa02, "SYSRET: RFLAGS");

	set_handler(VECTOR_GP, on_user_fault);
	count = 0;
	run_user(user_sysret);
	check(count == 1 && seen.vector == VECTOR_GP && seen.error_code == 0, "SYSRET by user code");
	set_handler(VECTOR_GP, NULL);

	set_handler(VECTOR_UD, on_user_fault);
	write_msr(MSR_EFER, read_msr(MSR_EFER) & ~EFER_SCE);
	count = 0;
	run_user(user_syscall);
	check(count == 1 && seen.rip == at(user_after_syscall) - 2, "SYSCALL without EFER.SCE is undefined");
	set_handler(VECTOR_UD, NULL);
	check_fault(FAULT_OF("sysretq"), VECTOR_UD, 0, "and so is SYSRET");
	write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_SCE);
}

static void stepping(void)
{
	set_handler(VECTOR_DB, on_user_fault);
	write_msr(MSR_FMASK, FLAG_TF);
	return_flags = 2;
	count = 0;
	run_user(user_trapped);
	check_equal(count, 0, "SYSCALL whose mask clears TF is no step");
	return_flags = 2 | FLAG_TF;
	count = 0;
	run_user(user_syscall);
	check(count == 1 && seen.rip == at(user_after_syscall) && seen.cs == USER_CODE,
	      "SYSRET that sets TF traps at its target: %u traps, at 0x%lx (0x%lx)", count, seen.rip,
	      at(user_after_syscall));
	return_flags = 2;
	set_handler(VECTOR_DB, NULL);
}

static void by_sysenter(void)
{
	set_handler(VECTOR_GP, on_user_fault);
	write_msr(MSR_SYSENTER_CS, 3);
	count = 0;
	run_user(user_sysenter);
	check(count == 1 && seen.error_code == 0, "SYSENTER with a null SYSENTER_CS");
	set_handler(VECTOR_GP, NULL);
	check_fault(FAULT_OF("rex.w sysexit"), VECTOR_GP, 0, "SYSEXIT with one");

	write_msr(MSR_SYSENTER_CS, ENTER_CS | 3);
	write_msr(MSR_SYSENTER_ESP, (u64)enter_stack + 4096);
	write_msr(MSR_SYSENTER_EIP, (u64)sysenter_entry);
	check_equal(run_user(user_sysenter), 0x24, "SYSENTER and SYSEXIT");
	check_equal(entry_cs, ENTER_CS, "CS");
	check_equal(entry_ss, ENTER_CS + 8, "SS");
	check_equal(entry_rsp, (u64)enter_stack + 4096, "RSP");
	check_equal(entry_flags & FLAG_IF, 0, "IF is clear");
	check_equal(exit_cs, (ENTER_CS + 32) | 3, "SYSEXIT: CS");
	check_equal(exit_ss, (ENTER_CS + 40) | 3, "SYSEXIT: SS");
}

static void swapping(void)
{
	write_msr(MSR_GS_BASE, 0x1000);
	write_msr(MSR_KERNEL_GS_BASE, 0xffff800000002000);
	asm volatile("swapgs");
	check_equal(read_msr(MSR_GS_BASE), 0xffff800000002000, "SWAPGS: GS base");
	check_equal(read_msr(MSR_KERNEL_GS_BASE), 0x1000, "SWAPGS: kernel GS base");
}

void main(void)
{
	user = (u64)new_page();
	stack = (u64)new_page();
	memcpy((void *)user, user_start, user_end - user_start);
	change_pages(user, 4096, PAGE_USER, 0);
	change_pages(stack, 4096, PAGE_USER, 0);
	by_syscall();
	stepping();
	by_sysenter();
	swapping();
}
