/*
 * Virtual-8086 mode: entry by IRET, what is privileged in it, and how exceptions leave it (SDM volume 3, chapter 21).
 *
 * bits: 32
 */
#include "support.h"

#define FLAG_VM (1u << 17)
#define IOPL(level) ((level) << 12)

/* Real-mode code and its stack, in conventional memory. */
#define CODE_SEGMENT 0x1000
#define DATA_SEGMENT 0x2000
#define STACK_SEGMENT 0x3000
#define STACK_POINTER 0x800

/* Pieces, each with HLT at its end, which is privileged and ends it. */
#define PIECE(name, instructions)                                                          \
	extern u8 name[], name##_end[];                                                    \
	asm(".text\n.code16\n" #name ": " instructions "; hlt\n" #name "_end:\n.code32\n")
PIECE(plain, "mov $0x1234, %ax; mov %ax, %es; mov %es:0, %bx; mov %ds:2, %cx");
PIECE(stack, "push $0x5678; pop %ax; push %ds; pop %es");
PIECE(wrap, "mov $0xffff, %bx; movb (%bx), %al");
PIECE(beyond, "mov $0xffff, %bx; movw (%bx), %ax");
PIECE(beyond32, "mov $0x10000, %ebx; movb (%ebx), %al");
PIECE(stack_odd, "mov $1, %sp; pop %ax");
PIECE(far, "lcall $0x1000, $(1f - far); jmp 2f; 1: lret; 2: mov $0x77, %al");
PIECE(clear_interrupt, "cli");
PIECE(set_interrupt, "sti");
PIECE(push_flags, "pushf; pop %ax");
PIECE(pop_flags, "push $0x0202; popf; pushfl; pop %eax");
PIECE(interrupt, "int $0x21");
PIECE(interrupt_return, "pushf; push %cs; push $(1f - interrupt_return); iret; 1: mov $0x55, %al");
PIECE(port, "in $0x80, %al");
PIECE(breakpoint, "int3");
PIECE(lgdt_piece, "lgdt 0");
PIECE(control, "mov %cr0, %eax");
PIECE(sldt_piece, "sldt %ax");
PIECE(arpl_piece, "arpl %ax, %bx");
PIECE(str_piece, "str %ax");
PIECE(clts_piece, "clts");

static struct frame seen;
static u32 return_stack;

/* Leaves for run(), from wherever virtual-8086 mode was left. */
_Noreturn static void leave(void)
{
	asm volatile("mov %0, %%esp; popa; ret" : : "m"(return_stack));
	__builtin_unreachable();
}

static void on_event(struct frame *state)
{
	seen = *state;
	if (state->eflags & FLAG_VM)
		leave();
	fatal("an event outside virtual-8086 mode");
}

/* Runs a piece in virtual-8086 mode until an event; general registers are those of the frame afterwards. */
static void __attribute__((noinline)) enter(u32 flags)
{
	asm volatile("push $1f; pusha; mov %%esp, %0\n"
		     "pushl $0; pushl $0; pushl %2; pushl %2; pushl %3; pushl %4; push %1; pushl %5; pushl $0; iretl\n1:"
		     : "=m"(return_stack)
		     : "r"(flags | FLAG_VM | 2), "i"(DATA_SEGMENT), "i"(STACK_SEGMENT), "i"(STACK_POINTER),
		       "i"(CODE_SEGMENT)
		     : "memory", "cc");
}

static void run(const u8 *start, const u8 *end, u32 flags)
{
	memcpy((void *)(CODE_SEGMENT * 16), start, end - start);
	memset(&seen, 0, sizeof(seen));
	for (u32 vector = 0; vector < 20; vector++)
		set_handler(vector, on_event);
	set_handler(0x21, on_event);
	enter(flags);
	for (u32 vector = 0; vector < 20; vector++)
		set_handler(vector, NULL);
	set_handler(0x21, NULL);
}

#define RUN(piece, flags) run(piece, piece##_end, flags)

/* The piece came to its HLT. */
static bool ended(const u8 *start, const u8 *end)
{
	return seen.vector == VECTOR_GP && seen.error_code == 0 && seen.eip == (u32)(end - start) - 1;
}

#define ENDED(piece) ended(piece, piece##_end)

static void check_event(u32 vector, u32 code, u32 eip, const char *what)
{
	check(seen.vector == vector && seen.error_code == code && seen.eip == eip,
	      "%s: exception %u, error code 0x%x at 0x%x (expected %u, 0x%x at 0x%x)", what, seen.vector, seen.error_code,
	      seen.eip, vector, code, eip);
}

static void code(void)
{
	*(volatile u16 *)0x12340 = 0x1111;
	*(volatile u16 *)(DATA_SEGMENT * 16 + 2) = 0x2222;
	RUN(plain, 0);
	check(ENDED(plain), "code runs until HLT");
	check_equal(seen.ebx & 0xffff, 0x1111, "a load by ES");
	check_equal(seen.ecx & 0xffff, 0x2222, "a load by DS");
	check_equal(seen.cs, CODE_SEGMENT, "CS in the frame");
	check_equal(seen.ss, STACK_SEGMENT, "SS in the frame");
	check_equal(seen.esp, STACK_POINTER, "ESP in the frame");
	check_equal(seen.v86_ds, DATA_SEGMENT, "DS in the frame");
	check_equal(seen.v86_es, 0x1234, "ES in the frame");
	check_equal(seen.ds & 0xffff, 0, "DS is null in the handler");
	check(seen.eflags & FLAG_VM, "VM is set in the image");
	RUN(stack, 0);
	check(ENDED(stack) && (seen.eax & 0xffff) == 0x5678, "PUSH and POP");
	check_equal(*(volatile u16 *)(STACK_SEGMENT * 16 + STACK_POINTER - 2), DATA_SEGMENT, "in the stack's segment");
	RUN(wrap, 0);
	check(ENDED(wrap), "the last byte of a segment");
	RUN(far, 0);
	check(ENDED(far) && (seen.eax & 0xff) == 0x77, "a far call and return");
}

static void limits(void)
{
	RUN(beyond, 0);
	check_event(VECTOR_GP, 0, 3, "a word over the end of a segment");
	RUN(beyond32, 0);
	check_event(VECTOR_GP, 0, 6, "an address above 64 KiB");
	RUN(stack_odd, 0);
	check(ENDED(stack_odd), "POP at an odd stack pointer");
}

static void sensitive(void)
{
	RUN(clear_interrupt, 0);
	check_event(VECTOR_GP, 0, 0, "CLI with IOPL 0");
	RUN(set_interrupt, 0);
	check_event(VECTOR_GP, 0, 0, "STI with IOPL 0");
	RUN(push_flags, 0);
	check_event(VECTOR_GP, 0, 0, "PUSHF with IOPL 0");
	RUN(pop_flags, 0);
	check_event(VECTOR_GP, 0, 3, "POPF with IOPL 0");
	RUN(interrupt, 0);
	check_event(VECTOR_GP, 0, 0, "INT n with IOPL 0");
	RUN(interrupt_return, IOPL(3));
	check(ENDED(interrupt_return) && (seen.eax & 0xff) == 0x55, "IRET with IOPL 3");
	RUN(clear_interrupt, IOPL(3));
	check(ENDED(clear_interrupt), "CLI with IOPL 3");
	RUN(push_flags, IOPL(3));
	check(ENDED(push_flags), "PUSHF with IOPL 3");
	check_equal(seen.eax & 0x3000, 0x3000, "shows IOPL");
	RUN(pop_flags, IOPL(3));
	check(ENDED(pop_flags), "POPF with IOPL 3");
	check_equal(seen.eax & FLAG_VM, 0, "PUSHFD shows no VM");
	check_equal(seen.eflags & 0x3200, 0x3200, "POPF sets IF and leaves IOPL alone");
}

static void through_gates(void)
{
	u64 saved = idt[0x21];

	RUN(interrupt, IOPL(3));
	check_event(VECTOR_GP, 0x21 << 3 | 2, 0, "INT n through a gate of level 0");
	idt[0x21] |= (u64)DPL(3) << 40;
	RUN(interrupt, IOPL(3));
	check_event(0x21, 0, 2, "INT n through a gate of level 3");
	idt[0x21] = saved;
	idt[VECTOR_BP] |= (u64)DPL(3) << 40;
	RUN(breakpoint, 0);
	check_event(VECTOR_BP, 0, 1, "INT3 does not depend on IOPL");
	/* A handler that is not at level 0. */
	idt[VECTOR_BP] = gate(USER_CODE, 0, ACCESS_INTERRUPT_GATE32 | DPL(3), 0);
	RUN(breakpoint, 0);
	check_event(VECTOR_GP, USER_CODE & ~3, 0, "a handler of level 3");
}

static void ports(void)
{
	RUN(port, IOPL(3));
	check_event(VECTOR_GP, 0, 0, "IN depends on the bitmap alone");
}

static void not_there(void)
{
	RUN(lgdt_piece, IOPL(3));
	check_event(VECTOR_GP, 0, 0, "LGDT");
	RUN(control, IOPL(3));
	check_event(VECTOR_GP, 0, 0, "MOV from CR0");
	RUN(clts_piece, IOPL(3));
	check_event(VECTOR_GP, 0, 0, "CLTS");
	RUN(sldt_piece, IOPL(3));
	check_event(VECTOR_UD, 0, 0, "SLDT");
	RUN(str_piece, IOPL(3));
	check_event(VECTOR_UD, 0, 0, "STR");
	RUN(arpl_piece, IOPL(3));
	check_event(VECTOR_UD, 0, 0, "ARPL");
}

void main(void)
{
	code();
	limits();
	sensitive();
	through_gates();
	ports();
	not_there();
}
