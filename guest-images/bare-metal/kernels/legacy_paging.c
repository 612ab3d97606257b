/*
 * Paging of 32 bits with large pages (PSE, PSE-36), and PAE paging with its loaded top entries; the ways into long mode that
 * are refused (SDM volume 3, 4.3, 4.4 and 10.8.5).
 *
 * bits: 32
 */
#include "support.h"

#define CR0_PG (1u << 31)
#define CR0_PE 1u
#define CR0_WP (1u << 16)
#define CR4_PSE (1u << 4)
#define CR4_PAE (1u << 5)
#define CR4_PGE (1u << 7)
#define CR4_PCIDE (1u << 17)
#define MSR_EFER 0xc0000080
#define EFER_LME (1ull << 8)
#define EFER_NXE (1ull << 11)

#define P 1u
#define RW 2u
#define US 4u
#define A 0x20u
#define D 0x40u
#define PS 0x80u
#define NX (1ull << 63)

#define CODE_P 1
#define CODE_W 2
#define CODE_RSVD 8
#define CODE_I 16

/* Where the pages under test are mapped. */
#define TEST 0xc0000000u

static u32 directory[1024] __attribute__((aligned(4096)));
static u32 table[1024] __attribute__((aligned(4096)));
static u64 top[4] __attribute__((aligned(32)));
static u64 directories[4][512] __attribute__((aligned(4096)));
static u64 table8[512] __attribute__((aligned(4096)));
static u32 frame[1024] __attribute__((aligned(4096)));

#define CONTROL(n)                                                                 \
	static struct fault write_cr##n##_checked(u32 value)                       \
	{                                                                          \
		clear_fault();                                                     \
		asm volatile(RECOVER("mov %0, %%cr" #n) : : "r"(value) : "memory"); \
		return last_fault();                                               \
	}
CONTROL(0)
CONTROL(3)
CONTROL(4)

static struct fault load(u32 address, u32 *value)
{
	clear_fault();
	*value = 0;
	asm volatile(RECOVER("mov (%1), %0") : "+r"(*value) : "r"(address) : "memory");
	return last_fault();
}

static struct fault store(u32 address)
{
	clear_fault();
	asm volatile(RECOVER("movl $7, (%0)") : : "r"(address) : "memory");
	return last_fault();
}

/* A call of RET there; a fault of the fetch is at the address itself. */
static struct fault fetched;

static void on_page_fault(struct frame *state)
{
	fetched = (struct fault){ true, VECTOR_PF, state->error_code, read_cr2(), state->eip };
	/* Back to the caller, whose address is on the interrupted stack right above the frame. */
	state->eip = *(u32 *)&state->esp;
	state->cs = KERNEL_CODE;
}

static struct fault fetch(u32 address)
{
	fetched.taken = false;
	set_handler(VECTOR_PF, on_page_fault);
	/* A fault leaves the return address on the stack. */
	asm volatile("mov %%esp, %%ebx; call *%0; mov %%ebx, %%esp" : : "r"(address) : "ebx", "memory");
	set_handler(VECTOR_PF, NULL);
	return fetched;
}

static void flush(void)
{
	write_cr3(read_cr3());
}

static void paging_32(void)
{
	u32 value;

	for (u32 i = 0; i < 768; i++)
		directory[i] = i << 22 | PS | RW | P;
	directory[TEST >> 22] = (u32)table | RW | US | P;
	table[0] = (u32)frame | P;
	frame[0] = 0x12345678;
	write_cr4(CR4_PSE);
	write_cr3((u32)directory);
	write_cr0(read_cr0() | CR0_PG | CR0_WP);
	check_no_fault(load(TEST, &value), "32-bit paging: a load");
	check_equal(value, 0x12345678, "its value");
	check_equal(table[0] & (A | D), A, "the entry is accessed");
	check(directory[TEST >> 22] & A, "so is the directory's");
	check_fault(store(TEST), VECTOR_PF, CODE_P | CODE_W, "a store to a read-only page");
	check_equal(last_fault().address, TEST, "CR2");
	check_fault(load(TEST + 4096, &value), VECTOR_PF, 0, "an absent page");
	check_fault(store(0xfffff000), VECTOR_PF, CODE_W, "an absent table");
	table[0] |= RW;
	flush();
	check_no_fault(store(TEST), "a store");
	check_equal(table[0] & D, D, "the entry is dirty");
	check_fault(fetch(TEST + 4096), VECTOR_PF, 0, "a fetch has no bit of its own in the code");

	/* A page of 4 MiB. */
	directory[TEST >> 22] = ((u32)frame & ~0x3fffffu) | PS | RW | P;
	flush();
	frame[1] = 0x55aa;
	check_no_fault(load(TEST | ((u32)&frame[1] & 0x3fffff), &value), "a page of 4 MiB");
	check_equal(value, 0x55aa, "its value");
	directory[TEST >> 22] |= 1u << 21;
	flush();
	check_fault(load(TEST, &value), VECTOR_PF, CODE_P | CODE_RSVD, "bit 21 of its entry is reserved");
	/* PSE-36: bits 13 to 20 are bits 32 to 39 of the address; there is no memory that high. */
	directory[TEST >> 22] = 1u << 17 | PS | RW | P;
	flush();
	*(volatile u32 *)0x200000 = 1;
	check_no_fault(store(TEST + 0x200000), "a page above 4 GiB (PSE-36)");
	check_equal(*(volatile u32 *)0x200000, 1, "is not the memory below");
	/* Without CR4.PSE bit 7 means nothing. */
	directory[TEST >> 22] = (u32)table | PS | RW | P;
	static u32 low[1024] __attribute__((aligned(4096)));
	for (u32 i = 0; i < 1024; i++)
		low[i] = i << 12 | RW | P;
	directory[0] = (u32)low | RW | P;
	for (u32 i = 1; i < 768; i++)
		directory[i] = 0;
	write_cr4(0);
	flush();
	check_no_fault(load(TEST, &value), "without CR4.PSE there are no large pages");
	write_cr0(read_cr0() & ~CR0_PG);
}

static void paging_pae(void)
{
	u32 value;

	for (u32 i = 0; i < 4; i++)
		top[i] = (u32)directories[i] | P;
	for (u32 i = 0; i < 3 * 512; i++)
		directories[i >> 9][i & 511] = (u64)i << 21 | PS | RW | P;
	directories[3][0] = (u32)table8 | RW | US | P;
	table8[0] = (u32)frame | RW | P;
	frame[0] = 0xc3;
	write_cr3((u32)top);
	write_cr4(CR4_PAE);
	write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);

	top[2] |= 2;
	check_fault(write_cr0_checked(read_cr0() | CR0_PG), VECTOR_GP, 0, "PAE paging on, a reserved bit in a top entry");
	top[2] &= ~2ull;
	check_no_fault(write_cr0_checked(read_cr0() | CR0_PG), "PAE paging on");
	check_no_fault(load(TEST, &value), "a load");
	check_equal(value, 0xc3, "its value");
	check_equal(top[3] & A, 0, "a top entry has no accessed bit");
	check(directories[3][0] & A, "a directory's entry has");

	/* The top entries are those that were loaded. */
	top[3] = 0;
	asm volatile("invlpg (%0)" : : "r"(TEST) : "memory");
	check_no_fault(load(TEST, &value), "a change of a top entry in memory means nothing yet");
	flush();
	check_fault(load(TEST, &value), VECTOR_PF, 0, "until CR3 is loaded");
	top[3] = (u32)directories[3] | P | 1ull << 52;
	check_fault(write_cr3_checked((u32)top), VECTOR_GP, 0, "CR3 with a reserved bit in a top entry");
	top[3] = (u32)directories[3] | P;
	flush();
	top[3] |= 1ull << 8;
	check_fault(write_cr4_checked(CR4_PAE | CR4_PGE), VECTOR_GP, 0, "a change of CR4.PGE loads them, too");
	top[3] = (u32)directories[3] | P;
	check_no_fault(write_cr4_checked(CR4_PAE | CR4_PGE), "and is fine with good ones");

	table8[0] = (u32)frame | P | 1ull << 52;
	flush();
	check_fault(load(TEST, &value), VECTOR_PF, CODE_P | CODE_RSVD, "bit 52 is reserved");
	table8[0] = (u32)frame | P | NX;
	flush();
	check_no_fault(load(TEST, &value), "NX lets loads pass");
	check_fault(fetch(TEST), VECTOR_PF, CODE_P | CODE_I, "but no fetch");
	write_msr(MSR_EFER, read_msr(MSR_EFER) & ~EFER_NXE);
	check_fault(load(TEST, &value), VECTOR_PF, CODE_P | CODE_RSVD, "without EFER.NXE it is reserved");
	directories[3][0] = ((u32)frame & ~0x1fffffu) | PS | RW | P | 1u << 13;
	flush();
	check_fault(load(TEST, &value), VECTOR_PF, CODE_P | CODE_RSVD, "bit 13 of a large page's entry is reserved");
	directories[3][0] = ((u32)frame & ~0x1fffffu) | PS | RW | P;
	flush();
	check_no_fault(load(TEST | ((u32)frame & 0x1fffff), &value), "a page of 2 MiB");
	check_no_fault(write_cr4_checked(CR4_PAE), "CR4.PGE off");
	check_fault(write_cr4_checked(CR4_PAE | CR4_PCIDE), VECTOR_GP, 0, "PCIDs are for long mode");
	write_cr0(read_cr0() & ~CR0_PG);
	write_cr4(0);
}

static void refused(void)
{
	u32 cr0 = read_cr0();

	check_fault(write_cr0_checked((cr0 | CR0_PG) & ~CR0_PE), VECTOR_GP, 0, "paging without protection");
	write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_LME);
	check_fault(write_cr0_checked(cr0 | CR0_PG), VECTOR_GP, 0, "long mode without PAE");
	/* A 16-bit task state segment. */
	static u16 task16[22];
	gdt[SPARE_SELECTOR / 8] = descriptor((u32)task16, sizeof(task16) - 1, ACCESS_TASK16, 0);
	asm volatile("ltr %w0" : : "r"(SPARE_SELECTOR));
	write_cr4(CR4_PAE);
	check_fault(write_cr0_checked(cr0 | CR0_PG), VECTOR_GP, 0, "long mode with a 16-bit task");
	write_cr4(0);
	gdt[TASK_SELECTOR / 8] &= ~(1ull << 41);
	asm volatile("ltr %w0" : : "r"(TASK_SELECTOR));
	write_msr(MSR_EFER, read_msr(MSR_EFER) & ~EFER_LME);
	check_equal(read_msr(MSR_EFER) >> 10 & 1, 0, "EFER.LMA is clear");
}

void main(void)
{
	paging_32();
	paging_pae();
	refused();
}
