/* SMAP and SMEP beyond plain accesses: STAC, CLAC, implicit supervisor accesses, interrupts (SDM volume 3, 4.6). */
#include "support.h"

#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define CODE_P 1
#define CODE_W 2

static u64 user_page, user_stack;

static struct fault read_user(void)
{
	clear_fault();
	asm volatile(RECOVER("mov (%0), %%al") : : "r"(user_page) : "rax", "memory");
	return last_fault();
}

extern u8 stac_user[], clac_user[], user_end[], user_store[];
asm(".text\n"
    "stac_user: stac; int $0x80\n"
    "clac_user: clac; int $0x80\n"
    "user_store: mov %rdi, (%rdi); mov $3, %eax; int $0x80\n"
    "user_end:\n");

static u64 seen_flags;

static void on_vector(struct frame *state)
{
	seen_flags = read_flags();
	state->rax = state->rflags;
}

static u32 user_vector;

/* Ends user code at the exception it raises. */
static void on_user_fault(struct frame *state)
{
	user_vector = state->vector;
	/* The code below ends with INT 0x80, two bytes, three bytes into each piece. */
	state->rip += 3;
}

void main(void)
{
	struct fault fault;
	u64 flags;

	user_page = (u64)new_page();
	user_stack = (u64)new_page() + 4096;
	memcpy((void *)user_page, stac_user, user_end - stac_user);
	change_pages(user_page, 4096, PAGE_USER, 0);
	change_pages(user_stack - 4096, 4096, PAGE_USER, 0);

	check_no_fault(read_user(), "a read of a user page without SMAP");
	write_cr4(read_cr4() | CR4_SMAP | CR4_SMEP);
	check_fault(read_user(), VECTOR_PF, CODE_P, "a read of a user page with SMAP");
	clear_fault();
	asm volatile(RECOVER("movb $0, (%0)") : : "r"(user_page) : "memory");
	check_fault(last_fault(), VECTOR_PF, CODE_P | CODE_W, "a write of one");
	asm volatile("stac; pushf; pop %0" : "=r"(flags) : : "memory");
	check(flags & FLAG_AC, "STAC sets AC");
	check_no_fault(read_user(), "a read with AC set");
	asm volatile("clac; pushf; pop %0" : "=r"(flags) : : "memory");
	check(!(flags & FLAG_AC), "CLAC clears AC");
	check_fault(read_user(), VECTOR_PF, CODE_P, "a read with AC clear");
	asm volatile("push $0x40002; popf" : : : "memory", "cc");
	check_no_fault(read_user(), "AC set by POPF counts");
	asm volatile("push $2; popf" : : : "memory", "cc");
	/* A local descriptor table in a user page: such an access is implicit, and AC does not help it. */
	gdt[SPARE_SELECTOR / 8] = 0x0000820000000fff | ((user_page + 1024) & 0xffffff) << 16;
	gdt[SPARE_SELECTOR / 8 + 1] = 0;
	asm volatile("lldt %w0; stac" : : "r"(SPARE_SELECTOR) : "memory");
	*(u64 *)(user_page + 1024 + 8) = gdt[KERNEL_DATA / 8];
	clear_fault();
	asm volatile(RECOVER("mov %w0, %%es") : : "r"(8 | 4) : "memory");
	fault = last_fault();
	asm volatile("clac; lldt %w0" : : "r"(0) : "memory");
	check_fault(fault, VECTOR_PF, CODE_P, "a descriptor in a user page");
	check_equal(fault.address, user_page + 1024 + 8, "at the descriptor");

	set_handler(0x90, on_vector);
	asm volatile("stac; int $0x90; clac" : "=a"(flags) : : "memory");
	check(flags & FLAG_AC, "an interrupt saves AC");
	check(seen_flags & FLAG_AC, "and keeps it in 64-bit mode");

	check_equal(call_user(user_page + (user_store - stac_user), user_page + 2048, user_stack), 3,
		    "user code is not concerned");

	set_handler(VECTOR_UD, on_user_fault);
	user_vector = 0;
	call_user(user_page, 0, user_stack);
	check_equal(user_vector, VECTOR_UD, "STAC by user code");
	user_vector = 0;
	call_user(user_page + (clac_user - stac_user), 0, user_stack);
	check_equal(user_vector, VECTOR_UD, "CLAC by user code");
	set_handler(VECTOR_UD, NULL);

	write_cr4(read_cr4() & ~CR4_SMAP);
	check_no_fault(read_user(), "SMEP alone lets reads pass");
	write_cr4(read_cr4() & ~CR4_SMEP);
}
