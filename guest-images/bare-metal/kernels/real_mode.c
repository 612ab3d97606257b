/*
 * Real-address mode, entered from protected mode and left again: segments, the interrupt vector table, exceptions without
 * error codes, what is not there, and limits that survive the change of mode (SDM volume 3, 10.9 and chapter 21).
 *
 * bits: 32
 */
#include "support.h"

#define CODE_16 SPARE_SELECTOR
#define DATA_16 (SPARE_SELECTOR + 8)
#define CODE_SEGMENT 0x1000
#define DATA_SEGMENT 0x2000
#define STACK_SEGMENT 0x3000
#define STACK_POINTER 0x800

/* What lies at LOW: the way in, a stub for each vector, the way out. */
#define LOW 0x1000
extern u8 low_start[], low_vectors[], low_end[];
volatile u32 real_eax, real_ebx, real_ecx, real_edx, real_esp, real_flags, kernel_esp;
asm(".text\n.code16\n"
    "low_start: mov %cr0, %eax; and $0xfe, %al; mov %eax, %cr0; ljmp $0x100, $(1f - low_start)\n"
    "1: mov $0x2000, %ax; mov %ax, %ds; mov $0x3000, %ax; mov %ax, %ss; mov $0x800, %sp\n"
    "	pushw $0x0002; popfw; ljmp $0x1000, $0\n"
    "	.balign 8\n"
    "low_vectors:\n"
    "	.set vector, 0\n"
    "	.rept 32\n"
    "	.balign 8\n"
    "	push $vector; jmp low_common\n"
    "	.set vector, vector + 1\n"
    "	.endr\n"
    "	.balign 8\n"
    "low_common: cli; mov %eax, %cs:(low_eax - low_start); pushfl; popl %cs:(low_flags - low_start)\n"
    "	mov %cr0, %eax; or $1, %al; mov %eax, %cr0; ljmpl $0x08, $real_return\n"
    "	.balign 4\n"
    "low_eax: .long 0\n"
    "low_flags: .long 0\n"
    "low_end:\n"
    "	.code32\n"
    "real_return: mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %esp, real_esp\n"
    "	mov %ebx, real_ebx; mov %ecx, real_ecx; mov %edx, real_edx\n"
    "	mov 0x1000 + (low_eax - low_start), %ecx; mov %ecx, real_eax\n"
    "	mov 0x1000 + (low_flags - low_start), %ecx; mov %ecx, real_flags\n"
    "	mov %eax, %ss; mov kernel_esp, %esp; xor %eax, %eax; mov %eax, %fs; mov %eax, %gs; popa; ret\n"
    /* void enter_real(void) */
    "enter_real: pusha; mov %esp, kernel_esp\n"
    "	movzwl real_extra_selector, %eax; mov %eax, %es\n"
    "	mov $0x38, %eax; mov %eax, %ds; mov %eax, %ss; mov %eax, %fs; mov %eax, %gs; ljmp $0x30, $0\n");
void enter_real(void);
/* What ES holds on the way in. */
volatile u16 real_extra_selector = DATA_16;

/* Pieces; each ends with INT 0x1f, if nothing comes before. */
#define END 0x1f
#define PIECE(name, instructions)                                                               \
	extern u8 name[], name##_end[];                                                         \
	asm(".text\n.code16\n" #name ": " instructions "; int $0x1f\n" #name "_end:\n.code32\n")
PIECE(loads, "mov $0x1234, %ax; mov %ax, %es; mov %es:4, %bx; mov 6, %cx; mov %cs, %dx");
PIECE(top, "mov $0xffff, %ax; mov %ax, %es; mov %es:0x10, %bl");
PIECE(stack, "pushl $0x12345678; popw %bx; popw %cx; push %cs; pop %ds; mov %ds, %dx");
PIECE(far, "lcall $0x1000, $(1f - far); jmp 2f; 1: mov $7, %bl; lret; 2:");
PIECE(saved_all, "mov $1, %bx; mov $2, %cx; pusha; mov $9, %bx; mov $9, %cx; popa");
PIECE(interrupt, "sti; int $0x1e");
PIECE(returned, "pushf; push %cs; push $(1f - returned); iret; ud2; 1: mov $5, %bl");
PIECE(undefined, "nop; ud2");
PIECE(divided, "xor %cx, %cx; div %cx");
PIECE(overflow, "mov $0x7f, %al; add $1, %al; into");
PIECE(bounded, "movw $1, 0; movw $3, 2; mov $4, %ax; bound %ax, 0");
PIECE(breakpoint, "int3");
PIECE(beyond, "mov $0xffff, %bx; mov (%bx), %ax");
PIECE(beyond_stack, "mov $0xffff, %bp; mov (%bp), %ax");
PIECE(beyond_32, "mov $0x10000, %ebx; mov (%ebx), %al");
PIECE(extra_32, "mov $0x100000, %ebx; mov %es:(%ebx), %eax; mov %eax, %ebx");
PIECE(stepped, "push $0x102; popf; nop; nop");
PIECE(short_table, "lidtw %cs:(1f - short_table); int $0x1e; 1: .word 0x77; .long 0");
PIECE(sldt_piece, "sldt %ax");
PIECE(str_piece, "str %ax");
PIECE(lldt_piece, "lldt %ax");
PIECE(lar_piece, "lar %ax, %bx");
PIECE(verr_piece, "verr %ax");
PIECE(arpl_piece, "arpl %ax, %bx");
PIECE(sysenter_piece, "sysenter");
PIECE(status, "smsw %bx; mov %cr0, %ecx; clts; sti; cli");

static void run(const u8 *start, const u8 *end)
{
	static struct {
		u16 limit;
		u32 base;
	} __attribute__((packed)) kernel, real = { 0x3ff, 0 };
	u32 vectors = 0;

	/* The compiler must not see that the table lies at address 0. */
	asm("" : "+r"(vectors));
	for (u32 vector = 0; vector < 32; vector++)
		((volatile u32 *)vectors)[vector] = LOW / 16 << 16 | (u32)(low_vectors - low_start + 8 * vector);
	memcpy((void *)(CODE_SEGMENT * 16), start, end - start);
	memcpy((void *)LOW, low_start, low_end - low_start);
	asm volatile("sidt %0; lidt %1" : "=m"(kernel) : "m"(real) : "memory");
	enter_real();
	asm volatile("lidt %0" : : "m"(kernel) : "memory");
}

#define RUN(piece) run(piece, piece##_end)

/* Words from the stack: the vector, then the frame. */
static u32 stacked(u32 slot)
{
	return *(volatile u16 *)(STACK_SEGMENT * 16 + (real_esp & 0xffff) + 2 * slot);
}

static void check_event(u32 vector, u32 ip, const char *what)
{
	check(stacked(0) == vector && stacked(1) == ip && stacked(2) == CODE_SEGMENT,
	      "%s: vector %u at 0x%x:0x%x (expected %u at 0x%x:0x%x)", what, stacked(0), stacked(2), stacked(1), vector,
	      CODE_SEGMENT, ip);
}

#define ENDED(piece, what) check_event(END, piece##_end - piece, what)

static void code(void)
{
	*(volatile u16 *)0x12344 = 0x1111;
	*(volatile u16 *)(DATA_SEGMENT * 16 + 6) = 0x2222;
	RUN(loads);
	ENDED(loads, "loads");
	check_equal(real_ebx & 0xffff, 0x1111, "by ES");
	check_equal(real_ecx & 0xffff, 0x2222, "by DS");
	check_equal(real_edx & 0xffff, CODE_SEGMENT, "CS");
	RUN(top);
	check_equal(real_ebx & 0xff, *(volatile u8 *)0x100000, "FFFF:0010 is the first byte above 1 MiB");
	RUN(stack);
	check((real_ebx & 0xffff) == 0x5678, "PUSH of 32 bits, POP of 16");
	check_equal(real_ecx & 0xffff, 0x1234, "its upper half");
	check_equal(real_edx & 0xffff, CODE_SEGMENT, "PUSH CS, POP DS");
	RUN(far);
	ENDED(far, "a far call and return");
	check_equal(real_ebx & 0xff, 7, "made");
	RUN(saved_all);
	check(((real_ebx & 0xffff) == 1) && ((real_ecx & 0xffff) == 2), "PUSHA and POPA");
	RUN(status);
	ENDED(status, "control registers and IF are free");
	check_equal(real_ebx & 1, 0, "PE is clear");
}

static void events(void)
{
	RUN(interrupt);
	check_event(0x1e, interrupt_end - interrupt - 2, "INT n");
	check(stacked(3) & FLAG_IF, "its frame has IF");
	check_equal(real_flags & FLAG_IF, 0, "IF is clear in the handler");
	check_equal(real_esp & 0xffff, STACK_POINTER - 8, "three words are pushed");
	RUN(returned);
	ENDED(returned, "IRET");
	check_equal(real_ebx & 0xff, 5, "to its target");
	RUN(undefined);
	check_event(VECTOR_UD, 1, "UD2");
	RUN(divided);
	check_event(VECTOR_DE, 2, "a division by zero");
	RUN(overflow);
	check_event(VECTOR_OF, overflow_end - overflow - 2, "INTO");
	RUN(bounded);
	check_event(VECTOR_BR, bounded_end - bounded - 6, "BOUND");
	RUN(breakpoint);
	check_event(VECTOR_BP, 1, "INT3");
	RUN(beyond);
	check_event(VECTOR_GP, 3, "a word over the end of a segment");
	check_equal(real_esp & 0xffff, STACK_POINTER - 8, "there is no error code");
	RUN(beyond_stack);
	check_event(VECTOR_SS, 3, "a word over the end of the stack's segment");
	RUN(beyond_32);
	check_event(VECTOR_GP, 6, "an address above 64 KiB");
	RUN(stepped);
	check_event(VECTOR_DB, stepped_end - stepped - 3, "a single step");
	check_equal(real_flags & FLAG_TF, 0, "TF is clear in the handler");
	RUN(short_table);
	check_event(VECTOR_GP, 6, "a vector beyond the table");
}

static void not_there(void)
{
	RUN(sldt_piece);
	check_event(VECTOR_UD, 0, "SLDT");
	RUN(str_piece);
	check_event(VECTOR_UD, 0, "STR");
	RUN(lldt_piece);
	check_event(VECTOR_UD, 0, "LLDT");
	RUN(lar_piece);
	check_event(VECTOR_UD, 0, "LAR");
	RUN(verr_piece);
	check_event(VECTOR_UD, 0, "VERR");
	RUN(arpl_piece);
	check_event(VECTOR_UD, 0, "ARPL");
	RUN(sysenter_piece);
	check_event(VECTOR_GP, 0, "SYSENTER");
}

static void kept_limits(void)
{
	real_extra_selector = KERNEL_DATA;
	RUN(extra_32);
	ENDED(extra_32, "a limit of 4 GiB from protected mode");
	check_equal(real_ebx, *(volatile u32 *)0x100000, "serves in real mode");
	real_extra_selector = DATA_16;
}

void main(void)
{
	gdt[CODE_16 / 8] = descriptor(LOW, 0xffff, ACCESS_CODE, 0);
	gdt[DATA_16 / 8] = descriptor(0, 0xffff, ACCESS_DATA, 0);
	code();
	events();
	not_there();
	kept_limits();
}
