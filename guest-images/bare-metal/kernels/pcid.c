/* Process-context identifiers and INVPCID (SDM volume 3, 4.10.1; volume 2, INVPCID). */
#include "support.h"

#define CR0_PG (1ull << 31)
#define CR4_PGE (1ull << 7)
#define CR4_PCIDE (1ull << 17)
#define KEEP (1ull << 63)

enum { ADDRESS, CONTEXT, ALL_AND_GLOBAL, ALL };

static struct fault write_cr0_checked(u64 value)
{
	clear_fault();
	asm volatile(RECOVER("mov %0, %%cr0") : : "r"(value) : "memory");
	return last_fault();
}

static struct fault write_cr3_checked(u64 value)
{
	clear_fault();
	asm volatile(RECOVER("mov %0, %%cr3") : : "r"(value) : "memory");
	return last_fault();
}

static struct fault write_cr4_checked(u64 value)
{
	clear_fault();
	asm volatile(RECOVER("mov %0, %%cr4") : : "r"(value) : "memory");
	return last_fault();
}

static struct fault invpcid(u64 type, u64 pcid, u64 address)
{
	struct {
		u64 pcid, address;
	} descriptor = { pcid, address };

	clear_fault();
	asm volatile(RECOVER("invpcid %0, %1") : : "m"(descriptor), "r"(type) : "memory");
	return last_fault();
}

#define PAGE 0x200000000000ull

static u64 *entry;

/* Changes the test page to frame with the bits, invalidates, and sees what a load finds. */
static void check_invalidation(u64 type, u64 pcid, u64 bits, const char *what)
{
	u64 first = (u64)new_page(), second = (u64)new_page();

	*(u64 *)first = 1;
	*(u64 *)second = 2;
	*entry = first | PAGE_PRESENT | bits;
	invalidate_page((void *)PAGE);
	if (*(volatile u64 *)PAGE != 1)
		fatal("the test page is not mapped");
	*entry = second | PAGE_PRESENT | bits;
	check_no_fault(invpcid(type, pcid, PAGE), what);
	check_equal(*(volatile u64 *)PAGE, 2, "%s: the new page is seen", what);
}

extern u8 user_code[], user_end[];
asm(".text\nuser_code: invpcid (%rsp), %rdi; int $0x80\nuser_end:\n");

static u32 user_vector;

static void on_user_fault(struct frame *state)
{
	user_vector = state->vector;
	state->rip += user_end - user_code - 2;
}

void main(void)
{
	u64 cr0 = read_cr0(), cr3 = read_cr3(), cr4 = read_cr4();
	struct cpuid features = cpuid(1, 0), extended = cpuid(7, 0);
	u64 user = (u64)new_page(), stack = (u64)new_page();

	check(features.ecx >> 17 & 1, "CPUID says PCID");
	check(extended.ebx >> 10 & 1, "CPUID says INVPCID");
	entry = page_entry(PAGE);

	check_no_fault(invpcid(CONTEXT, 0, 0), "INVPCID of context 0 without PCIDE");
	check_fault(invpcid(CONTEXT, 1, 0), VECTOR_GP, 0, "of context 1 without PCIDE");
	check_fault(invpcid(ADDRESS, 1, 0), VECTOR_GP, 0, "of an address of context 1 without PCIDE");
	check_fault(write_cr3_checked(cr3 | KEEP), VECTOR_GP, 0, "bit 63 of CR3 without PCIDE");
	check_no_fault(write_cr3_checked(cr3 | 1), "bit 0 of CR3 without PCIDE");
	check_fault(write_cr4_checked(cr4 | CR4_PCIDE), VECTOR_GP, 0, "PCIDE with another context than 0");
	write_cr3(cr3);
	check_no_fault(write_cr4_checked(cr4 | CR4_PCIDE), "PCIDE with context 0");
	check_fault(write_cr0_checked(cr0 & ~CR0_PG), VECTOR_GP, 0, "paging off with PCIDE");
	check_no_fault(write_cr3_checked(cr3 | 0xabc), "a load of CR3 with context 0xabc");
	check_equal(read_cr3(), cr3 | 0xabc, "CR3 reads as written");
	check_no_fault(write_cr3_checked(cr3 | 0xabc | KEEP), "a load that keeps translations");
	check_equal(read_cr3(), cr3 | 0xabc, "CR3 reads without bit 63");
	check_fault(write_cr3_checked(cr3 | 1ull << 52), VECTOR_GP, 0, "bit 52 of CR3");

	check_fault(invpcid(4, 0, 0), VECTOR_GP, 0, "INVPCID type 4");
	check_fault(invpcid(ALL, 1ull << 12, 0), VECTOR_GP, 0, "a reserved bit of the descriptor");
	check_fault(invpcid(ADDRESS, 0xabc, 1ull << 63), VECTOR_GP, 0, "an address that is not canonical");
	check_no_fault(invpcid(CONTEXT, 0xabc, 1ull << 63), "which only type 0 looks at");
	check_invalidation(ADDRESS, 0xabc, 0, "an address");
	check_invalidation(CONTEXT, 0xabc, 0, "a context");
	check_invalidation(ALL, 0, 0, "all contexts");
	write_cr4(read_cr4() | CR4_PGE);
	check_invalidation(ALL_AND_GLOBAL, 0, PAGE_GLOBAL, "all contexts and global pages");

	set_handler(VECTOR_GP, on_user_fault);
	memcpy((void *)user, user_code, user_end - user_code);
	change_pages(user, 4096, PAGE_USER, 0);
	change_pages(stack, 4096, PAGE_USER, 0);
	call_user(user, ALL, stack + 2048);
	check_equal(user_vector, VECTOR_GP, "INVPCID by user code");
	set_handler(VECTOR_GP, NULL);

	write_cr3(cr3);
	check_no_fault(write_cr4_checked(cr4), "PCIDE off");
}
