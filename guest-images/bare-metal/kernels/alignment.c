/* Alignment checks: CR0.AM and RFLAGS.AC at privilege level 3 (SDM volume 3, 6.15, interrupt 17). */
#include "support.h"

#define CR0_AM (1ull << 18)

/* The address is in RDI; each piece ends with INT 0x80. */
#define PIECE(name, instruction)                                                         \
	extern u8 name[], name##_end[];                                                  \
	asm(".text\n" #name ": " instruction "\n" #name "_end: int $0x80\n")
PIECE(first, "mov (%rdi), %al");
PIECE(load16, "mov (%rdi), %ax");
PIECE(load32, "mov (%rdi), %eax");
PIECE(load64, "mov (%rdi), %rax");
PIECE(store32, "mov %eax, (%rdi)");
PIECE(store64, "mov %rax, (%rdi)");
PIECE(add32, "addl $1, (%rdi)");
PIECE(locked32, "lock addl $1, (%rdi)");
PIECE(exchange64, "xchg %rax, (%rdi)");
PIECE(string32, "lodsl");
PIECE(push64, "push %rax");
PIECE(pop64, "pop %rax");
extern u8 last[];
asm(".text\nlast:\n");

static const struct {
	const char *name;
	u8 *start, *end;
	u32 size;
} pieces[] = {
	{ "a load of 1 byte", first, first_end, 1 },
	{ "a load of 2 bytes", load16, load16_end, 2 },
	{ "a load of 4 bytes", load32, load32_end, 4 },
	{ "a load of 8 bytes", load64, load64_end, 8 },
	{ "a store of 4 bytes", store32, store32_end, 4 },
	{ "a store of 8 bytes", store64, store64_end, 8 },
	{ "ADD to 4 bytes", add32, add32_end, 4 },
	{ "locked ADD to 4 bytes", locked32, locked32_end, 4 },
	{ "XCHG of 8 bytes", exchange64, exchange64_end, 8 },
	{ "LODS of 4 bytes", string32, string32_end, 4 },
	{ "PUSH", push64, push64_end, 8 },
	{ "POP", pop64, pop64_end, 8 },
};

static u64 user, stack, resume;
static u32 vector, code;

static void on_user_fault(struct frame *state)
{
	vector = state->vector;
	code = state->error_code;
	state->rip = resume;
	state->rsp = stack + 2048;
}

/* mov %rdi, %rsi; mov %rdi, %rsp or nothing; push; popf with AC as wanted; then the piece. */
static u32 try(u32 which, u64 address, bool ac)
{
	u8 *code_page = (u8 *)user, *at = code_page;
	bool on_stack = pieces[which].start == push64 || pieces[which].start == pop64;

	memcpy(at, "\x48\x89\xfe\x68", 4);
	*(u32 *)(at + 4) = ac ? FLAG_AC | 2 : 2;
	at[8] = 0x9d;
	at += 9;
	memcpy(at, on_stack ? "\x48\x89\xfc" : "\x48\x89\xff", 3);
	at += 3;
	memcpy(at, pieces[which].start, pieces[which].end - pieces[which].start + 2);
	resume = (u64)at + (pieces[which].end - pieces[which].start);
	vector = 0;
	code = 0xbad;
	call_user(user, address, stack + 4096);
	return vector;
}

void main(void)
{
	const u32 count = sizeof(pieces) / sizeof(*pieces);

	user = (u64)new_page();
	stack = (u64)new_page();
	change_pages(user, 4096, PAGE_USER, 0);
	change_pages(stack, 4096, PAGE_USER, 0);
	set_handler(VECTOR_AC, on_user_fault);

	for (u32 i = 0; i < count; i++) {
		bool right = true;

		for (u32 offset = 0; offset < 8; offset++) {
			bool aligned = offset % pieces[i].size == 0;
			u64 address = stack + 1024 + offset;

			write_cr0(read_cr0() | CR0_AM);
			right &= try(i, address, true) == (aligned ? 0 : VECTOR_AC) && (aligned || code == 0);
			right &= try(i, address, false) == 0;
			write_cr0(read_cr0() & ~CR0_AM);
			right &= try(i, address, true) == 0;
		}
		check(right, "%s at every offset", pieces[i].name);
	}

	write_cr0(read_cr0() | CR0_AM);
	asm volatile("push $0x40002; popf; mov 1(%0), %%eax; push $2; popf" : : "r"(stack) : "rax", "memory", "cc");
	check(true, "the kernel is not checked");
}
