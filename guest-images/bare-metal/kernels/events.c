/* Exceptions, software interrupts and IRET in 64-bit mode: frames, error codes, double faults (SDM volume 3, chapter 6). */
#include "support.h"

#define CODE_EXT 1
#define CODE_IDT 2
#define FLAG_RF (1u << 16)
#define FLAG_NT (1u << 14)
#define ABSENT SPARE_SELECTOR

static struct frame seen;
static u32 count;

static void on_event(struct frame *state)
{
	seen = *state;
	count++;
}

/* Ends the piece that raised the exception: RAX has its end. */
static void on_fault(struct frame *state)
{
	on_event(state);
	state->rip = state->rax;
}

#define RAISE(instruction) asm volatile("lea 1f(%%rip), %%rax\n" instruction "\n1:" : : : "rax", "rcx", "rdx", "memory", "cc")

static void frames(void)
{
	u64 next;

	set_handler(VECTOR_BP, on_event);
	asm volatile("int3\n1: lea 1b(%%rip), %0" : "=r"(next) : : "memory");
	check_equal(seen.rip, next, "INT3 is a trap");
	check_equal(seen.rflags & FLAG_RF, 0, "RF is clear in its image");
	check_equal(seen.cs, KERNEL_CODE, "CS");
	check_equal(seen.ss, KERNEL_DATA, "SS");
	asm volatile("int $3\n1: lea 1b(%%rip), %0" : "=r"(next) : : "memory");
	check_equal(seen.rip, next, "INT 3 in two bytes");

	set_handler(VECTOR_UD, on_fault);
	RAISE("2: ud2");
	check(seen.rflags & FLAG_RF, "RF is set in the image of a fault");
	check_equal(seen.rax - seen.rip, 2, "UD2 is a fault");
	count = 0;
	RAISE(".byte 0x06"); /* PUSH ES */
	RAISE(".byte 0x37"); /* AAA */
	RAISE(".byte 0xea, 0, 0, 0, 0, 0, 0"); /* JMP ptr16:32 */
	RAISE(".byte 0x62, 0x00"); /* BOUND */
	RAISE(".byte 0xce"); /* INTO */
	RAISE(".byte 0xd4, 10"); /* AAM */
	RAISE(".byte 0x0f, 0x0b");
	RAISE(".byte 0x0f, 0xb9, 0xc0"); /* UD1 */
	RAISE(".byte 0xf0, 0x90"); /* LOCK NOP */
	RAISE(".byte 0xf0, 0x01, 0xc0"); /* LOCK ADD register */
	RAISE(".byte 0x0f, 0x01, 0xc8"); /* MONITOR */
	RAISE(".byte 0x0f, 0x01, 0xc9"); /* MWAIT */
	RAISE(".byte 0x0f, 0x20, 0xc8"); /* CR1 */
	RAISE(".byte 0x8e, 0xc8"); /* MOV to CS */
	check_equal(count, 14, "instructions that are not there are undefined");
	set_handler(VECTOR_UD, NULL);

	set_handler(VECTOR_DE, on_fault);
	RAISE("push %%rax; xor %%edx, %%edx; xor %%ecx, %%ecx; mov (%%rsp), %%rax; 2: div %%ecx");
	asm volatile("pop %%rax" : : : "rax");
	check_equal(seen.vector, VECTOR_DE, "a division by zero");
	set_handler(VECTOR_DE, NULL);

	set_handler(VECTOR_BP, NULL);
}

static void gates(void)
{
	struct gate saved = idt[0x90];
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) table, shorter;

	idt[0x90].type &= ~0x80;
	check_fault(FAULT_OF("int $0x90"), VECTOR_NP, 0x90 << 3 | CODE_IDT, "a gate that is not present");
	idt[0x90] = saved;
	idt[0x90].type = 0x85;
	check_fault(FAULT_OF("int $0x90"), VECTOR_GP, 0x90 << 3 | CODE_IDT, "a task gate");
	idt[0x90].type = 0x86;
	check_fault(FAULT_OF("int $0x90"), VECTOR_GP, 0x90 << 3 | CODE_IDT, "a 16-bit interrupt gate");
	idt[0x90] = saved;
	idt[0x90].selector = 0;
	check_fault(FAULT_OF("int $0x90"), VECTOR_GP, 0, "a gate with a null selector");
	idt[0x90].selector = KERNEL_DATA;
	check_fault(FAULT_OF("int $0x90"), VECTOR_GP, KERNEL_DATA, "a gate to data");
	idt[0x90].selector = KERNEL_CODE_32;
	check_fault(FAULT_OF("int $0x90"), VECTOR_GP, KERNEL_CODE_32, "a gate to 32-bit code");
	idt[0x90].selector = 8 * GDT_ENTRIES;
	check_fault(FAULT_OF("int $0x90"), VECTOR_GP, 8 * GDT_ENTRIES, "a gate beyond the descriptor table");
	idt[0x90].selector = USER_CODE;
	check_fault(FAULT_OF("int $0x90"), VECTOR_GP, USER_CODE & ~3, "a gate to an outer level");
	gdt[ABSENT / 8] = gdt[KERNEL_CODE / 8] & ~(1ull << 47);
	idt[0x90].selector = ABSENT;
	check_fault(FAULT_OF("int $0x90"), VECTOR_NP, ABSENT, "a gate to code that is not present");
	idt[0x90] = saved;

	asm volatile("sidt %0" : "=m"(table));
	shorter = table;
	shorter.limit = 0x90 * 16 + 14;
	asm volatile("lidt %0" : : "m"(shorter));
	check_fault(FAULT_OF("int $0x90"), VECTOR_GP, 0x90 << 3 | CODE_IDT, "a vector beyond the table");
	asm volatile("lidt %0" : : "m"(table));

	/* Trap gates leave IF as it is, interrupt gates clear it. */
	set_handler(0x90, on_event);
	idt[0x90].type = 0x8f;
	check_no_fault(FAULT_OF("int $0x90"), "a trap gate");
	idt[0x90] = saved;
	set_handler(0x90, NULL);
}

static u64 resume;

static void on_double_fault(struct frame *state)
{
	seen = *state;
	count++;
	state->rip = resume;
}

/* The first exception of the pair is raised with its own gate spoilt, so that the second comes of its delivery. */
static void double_faults(void)
{
	static const struct {
		const char *name;
		u8 first, second;
		bool doubled;
	} pairs[] = {
		{ "#GP delivering #UD (benign)", VECTOR_UD, VECTOR_GP, false },
		{ "#NP delivering #DE (contributory)", VECTOR_DE, VECTOR_NP, true },
		{ "#NP delivering #PF", VECTOR_PF, VECTOR_NP, true },
		{ "#NP delivering #GP", VECTOR_GP, VECTOR_NP, true },
		{ "#NP delivering #BP (benign)", VECTOR_BP, VECTOR_NP, false },
	};

	set_handler(VECTOR_DF, on_double_fault);
	for (u32 i = 0; i < sizeof(pairs) / sizeof(*pairs); i++) {
		struct gate saved = idt[pairs[i].first];

		if (pairs[i].second == VECTOR_NP)
			idt[pairs[i].first].type &= ~0x80;
		else
			idt[pairs[i].first].type = 0x80;
		count = 0;
		set_handler(pairs[i].second, on_double_fault);
		resume = 0;
		switch (pairs[i].first) {
		case VECTOR_UD:
			asm volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; ud2\n1:" : "=m"(resume) : : "rax", "memory");
			break;
		case VECTOR_DE:
			asm volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; xor %%ecx, %%ecx; div %%ecx\n1:"
				     : "=m"(resume) : : "rax", "rcx", "rdx", "memory", "cc");
			break;
		case VECTOR_PF:
			asm volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; mov %1, %%rax; mov (%%rax), %%rax\n1:"
				     : "=m"(resume) : "i"(0x200000000000ull) : "rax", "memory");
			break;
		case VECTOR_GP:
			asm volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; mov $0xffff, %%eax; mov %%eax, %%es\n1:"
				     : "=m"(resume) : : "rax", "memory");
			break;
		default:
			asm volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; int3\n1:" : "=m"(resume) : : "rax", "memory");
			break;
		}
		idt[pairs[i].first] = saved;
		set_handler(pairs[i].second, NULL);
		check_equal(seen.vector, pairs[i].doubled ? VECTOR_DF : pairs[i].second, "%s", pairs[i].name);
		/* INT3 is a software interrupt, so EXT is clear. */
		check_equal(seen.error_code,
			    pairs[i].doubled ? 0 : pairs[i].first << 3 | CODE_IDT | (pairs[i].first == VECTOR_BP ? 0 : CODE_EXT),
			    "%s: error code", pairs[i].name);
	}
	set_handler(VECTOR_DF, NULL);
}

/* IRETQ with these five words; the fault, if any. */
static struct fault iret(u64 cs, u64 flags, u64 ss)
{
	clear_fault();
	asm volatile("mov %%rsp, %%rcx; push %2; push %%rcx; push %1; push %0; lea 3f(%%rip), %%rax; push %%rax\n"
		     RECOVER("iretq") "3: mov %%rcx, %%rsp; mov %3, %%eax; mov %%eax, %%ss"
		     : : "r"(cs), "r"(flags), "r"(ss), "i"(KERNEL_DATA) : "rax", "rcx", "memory", "cc");
	return last_fault();
}

static void returns(void)
{
	check_no_fault(iret(KERNEL_CODE, 2, KERNEL_DATA), "IRET to the same level");
	check_no_fault(iret(KERNEL_CODE, 2, 0), "with a null SS");
	check_fault(iret(0, 2, KERNEL_DATA), VECTOR_GP, 0, "with a null CS");
	check_fault(iret(KERNEL_DATA, 2, KERNEL_DATA), VECTOR_GP, KERNEL_DATA, "with data in CS");
	check_fault(iret(8 * GDT_ENTRIES, 2, KERNEL_DATA), VECTOR_GP, 8 * GDT_ENTRIES, "with CS beyond the table");
	check_fault(iret(KERNEL_CODE | 3, 2, KERNEL_DATA), VECTOR_GP, KERNEL_CODE, "with an RPL that is not the DPL");
	gdt[ABSENT / 8] = gdt[KERNEL_CODE / 8] & ~(1ull << 47);
	check_fault(iret(ABSENT, 2, KERNEL_DATA), VECTOR_NP, ABSENT, "with CS not present");
	gdt[ABSENT / 8] = gdt[KERNEL_CODE / 8] | 1ull << 54;
	check_fault(iret(ABSENT, 2, KERNEL_DATA), VECTOR_GP, ABSENT, "with both L and D set");
	check_fault(iret(KERNEL_CODE, 2, KERNEL_CODE), VECTOR_GP, KERNEL_CODE, "with code in SS");
	check_fault(iret(KERNEL_CODE, 2, USER_DATA), VECTOR_GP, USER_DATA & ~3, "with SS of another level");
	gdt[ABSENT / 8] = gdt[KERNEL_DATA / 8] & ~(1ull << 47);
	check_fault(iret(KERNEL_CODE, 2, ABSENT), VECTOR_SS, ABSENT, "with SS not present");
	check_fault(iret(USER_CODE, 2, 3), VECTOR_GP, 0, "to user mode with a null SS");
	asm volatile("pushf; orl %0, (%%rsp); popf" : : "i"(FLAG_NT) : "memory", "cc");
	check_fault(iret(KERNEL_CODE, 2, KERNEL_DATA), VECTOR_GP, 0, "with NT set");
	asm volatile("pushf; andl %0, (%%rsp); popf" : : "i"(~FLAG_NT) : "memory", "cc");
}

static volatile u32 nmis;
static volatile bool nested;

static void on_nmi(struct frame *state)
{
	(void)state;
	nmis++;
	if (nmis == 1) {
		apic_send(apic_id(), ICR_NMI | ICR_ASSERT);
		delay(1000);
		nested = nmis != 1;
	}
}

static void non_maskable(void)
{
	set_handler(VECTOR_NMI, on_nmi);
	apic_send(apic_id(), ICR_NMI | ICR_ASSERT);
	delay(1000);
	check_equal(nmis, 2, "an NMI during an NMI's handler comes after it");
	check(!nested, "and not within");
}

void main(void)
{
	frames();
	gates();
	double_faults();
	returns();
	non_maskable();
}
