/*
 * Work at privilege level 3: demand paging by the kernel, copies on write, integer and SSE arithmetic with known results,
 * and the ways back into the kernel that every engine has: page faults and UD2.
 */
#include "support.h"

#define CODE_WRITE 2
#define CODE_USER 4

#define AREA 0x10000000ull
/* The code below knows this number, too. */
#define PAGES 64

_Noreturn void leave_user(u64 result);

static u32 faults, copies, wrong_faults;
static u64 shared;

/* Maps a page at the first touch, for reading if the touch is a read; gives it a page of its own at the first write. */
static void on_page_fault(struct frame *frame)
{
	u64 address = read_cr2(), *entry = page_entry(address);

	faults++;
	if (!(frame->error_code & CODE_USER) || address < AREA || address >= AREA + 4096 * PAGES) {
		wrong_faults++;
		leave_user(0);
	}
	if (frame->error_code & CODE_WRITE) {
		u64 page = (u64)new_page();

		if (*entry & PAGE_PRESENT) {
			copies++;
			memcpy((void *)page, (void *)shared, 4096);
		}
		*entry = page | PAGE_PRESENT | PAGE_USER | PAGE_WRITABLE;
	} else {
		*entry = shared | PAGE_PRESENT | PAGE_USER;
	}
	invalidate_page((void *)address);
}

static void on_end(struct frame *frame)
{
	leave_user(frame->rax);
}

/* Each piece ends with UD2; its argument is in RDI, its result in RAX. */
extern u8 user_start[], user_end[], read_all[], write_all[], primes[], collatz[], floats[], atomics[];
asm(".text\n"
    "user_start:\n"
    /* The sum of the first word of every page. */
    "read_all: xor %eax, %eax; mov $64, %ecx\n"
    "1: add (%rdi), %rax; add $4096, %rdi; dec %ecx; jnz 1b; ud2\n"
    /* Writes each page's number over its first word. */
    "write_all: xor %eax, %eax\n"
    "1: mov %rax, (%rdi); add $4096, %rdi; inc %eax; cmp $64, %eax; jne 1b; ud2\n"
    /* How many primes there are below RDI. */
    "primes: xor %r8d, %r8d; mov $2, %ecx\n"
    "1: cmp %rdi, %rcx; jae 4f; mov $2, %esi\n"
    "2: mov %rsi, %rax; imul %rsi, %rax; cmp %rcx, %rax; ja 3f\n"
    "   mov %rcx, %rax; xor %edx, %edx; div %rsi; inc %rsi; test %rdx, %rdx; jnz 2b\n"
    "   inc %rcx; jmp 1b\n"
    "3: inc %r8; inc %rcx; jmp 1b\n"
    "4: mov %r8, %rax; ud2\n"
    /* The steps that the Collatz sequence of RDI takes to 1. */
    "collatz: xor %eax, %eax\n"
    "1: cmp $1, %rdi; je 3f; inc %rax; test $1, %dil; jnz 2f; shr $1, %rdi; jmp 1b\n"
    "2: lea 1(%rdi,%rdi,2), %rdi; jmp 1b\n"
    "3: ud2\n"
    /* The sum of 1 / (n (n + 1)) for n from 1 to RDI, times RDI + 1: RDI. */
    "floats: xorpd %xmm0, %xmm0; mov $1, %eax; cvtsi2sd %eax, %xmm1; movapd %xmm1, %xmm2; mov %rdi, %rcx\n"
    "1: movapd %xmm2, %xmm3; addsd %xmm1, %xmm3; movapd %xmm3, %xmm4; mulsd %xmm2, %xmm3\n"
    "   movapd %xmm1, %xmm5; divsd %xmm3, %xmm5; addsd %xmm5, %xmm0; movapd %xmm4, %xmm2; dec %rcx; jnz 1b\n"
    "   inc %rdi; cvtsi2sd %rdi, %xmm1; mulsd %xmm1, %xmm0; cvtsd2si %xmm0, %rax; ud2\n"
    /* Locked operations on the word at RDI. */
    "atomics: movq $5, (%rdi); lock incq (%rdi); mov $6, %eax; mov $60, %ecx; lock cmpxchg %rcx, (%rdi)\n"
    "   mov $4, %eax; lock xadd %rax, (%rdi); xchg %rax, (%rdi); ud2\n"
    "user_end:\n");

static u64 code, stack;

static u64 run(u8 *piece, u64 argument)
{
	return call_user(code + (piece - user_start), argument, stack);
}

void main(void)
{
	code = (u64)new_page();
	stack = (u64)new_page() + 4096;
	shared = (u64)new_page();
	*(u64 *)shared = 3;
	memcpy((void *)code, user_start, user_end - user_start);
	change_pages(code, 4096, PAGE_USER, PAGE_WRITABLE);
	change_pages(stack - 4096, 4096, PAGE_USER, 0);
	for (u64 page = 0; page < PAGES; page++) {
		*page_entry(AREA + 4096 * page) = 0;
		invalidate_page((void *)(AREA + 4096 * page));
	}
	set_handler(VECTOR_PF, on_page_fault);
	set_handler(VECTOR_UD, on_end);

	check_equal(run(read_all, AREA), 3 * PAGES, "reads of absent pages see the shared page");
	check_equal(faults, PAGES, "each page faults once");
	check_equal(run(read_all, AREA), 3 * PAGES, "reads of present pages");
	check_equal(faults, PAGES, "do not fault");
	check_equal(run(write_all, AREA), PAGES, "writes to shared pages");
	check_equal(copies, PAGES, "each is copied once");
	check_equal(*(u64 *)shared, 3, "the shared page keeps its word");
	check_equal(run(read_all, AREA), PAGES * (PAGES - 1) / 2, "each page keeps its own word");
	check_equal(*page_entry(AREA) & (PAGE_ACCESSED | PAGE_DIRTY), PAGE_ACCESSED | PAGE_DIRTY,
		    "a written page is accessed and dirty");
	check_equal(wrong_faults, 0, "all faults are the user's");

	check_equal(run(primes, 20000), 2262, "primes below 20000");
	check_equal(run(collatz, 837799), 524, "Collatz steps of 837799");
	check_equal(run(floats, 100000), 100000, "a sum of 100000 fractions");
	check_equal(run(atomics, AREA), 64, "locked operations return what was there");
	check_equal(*(volatile u64 *)AREA, 60, "and leave what they compute");

	set_handler(VECTOR_PF, NULL);
	set_handler(VECTOR_UD, NULL);
}
