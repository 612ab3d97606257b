/* User-mode instruction prevention: SGDT, SIDT, SLDT, SMSW and STR (SDM volume 3, 2.5, CR4.UMIP). */
#include "support.h"

#define CR4_UMIP (1ull << 11)

/* Each piece is one instruction and INT 0x80; RDI points to memory. */
#define PIECE(name, instruction)                                                         \
	extern u8 name[], name##_end[];                                                  \
	asm(".text\n" #name ": " instruction "\n" #name "_end: int $0x80\n")
PIECE(sgdt, "sgdt (%rdi)");
PIECE(sidt, "sidt (%rdi)");
PIECE(sldt, "sldt (%rdi)");
PIECE(sldt_register, "sldt %eax");
PIECE(smsw, "smsw (%rdi)");
PIECE(smsw_register, "smsw %eax");
PIECE(str, "str (%rdi)");
PIECE(str_register, "str %rax");
/* Not concerned. */
PIECE(lar, "lar %edi, %eax");
PIECE(verr, "verr %di");
extern u8 last[];
asm(".text\nlast:\n");

static const struct {
	const char *name;
	u8 *start, *end;
	bool prevented;
} pieces[] = {
	{ "SGDT", sgdt, sgdt_end, true },
	{ "SIDT", sidt, sidt_end, true },
	{ "SLDT to memory", sldt, sldt_end, true },
	{ "SLDT to a register", sldt_register, sldt_register_end, true },
	{ "SMSW to memory", smsw, smsw_end, true },
	{ "SMSW to a register", smsw_register, smsw_register_end, true },
	{ "STR to memory", str, str_end, true },
	{ "STR to a register", str_register, str_register_end, true },
	{ "LAR", lar, lar_end, false },
	{ "VERR", verr, verr_end, false },
};

static u32 vector, code;
static u64 resume;

static void on_user_fault(struct frame *state)
{
	vector = state->vector;
	code = state->error_code;
	state->rip = resume;
}

void main(void)
{
	u64 user = (u64)new_page(), stack = (u64)new_page();

	check(cpuid(7, 0).ecx >> 2 & 1, "CPUID says UMIP");
	memcpy((void *)user, sgdt, last - sgdt);
	change_pages(user, 4096, PAGE_USER, 0);
	change_pages(stack, 4096, PAGE_USER, 0);
	set_handler(VECTOR_GP, on_user_fault);
	for (u32 on = 0; on < 2; on++) {
		write_cr4((read_cr4() & ~CR4_UMIP) | (on ? CR4_UMIP : 0));
		for (u32 i = 0; i < sizeof(pieces) / sizeof(*pieces); i++) {
			vector = code = 0;
			resume = user + (pieces[i].end - sgdt);
			call_user(user + (pieces[i].start - sgdt), stack, stack + 4096);
			check_equal(vector, on && pieces[i].prevented ? VECTOR_GP : 0, "%s by user code, UMIP %u",
				    pieces[i].name, on);
			check_equal(code, 0, "%s: error code", pieces[i].name);
		}
		asm volatile("sgdt (%0); sidt (%0); sldt (%0); smsw (%0); str (%0)" : : "r"(stack) : "memory");
		check(true, "the kernel is not concerned, UMIP %u", on);
	}
}
