/*
 * 4-level paging: rights, error codes, accessed and dirty bits, reserved bits (SDM volume 3, chapter 4), for every
 * combination of CR0.WP, EFER.NXE, CR4.SMEP, CR4.SMAP and RFLAGS.AC.
 */
#include "support.h"

#define CR0_WP (1ull << 16)
#define CR4_PGE (1ull << 7)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define MSR_EFER 0xc0000080
#define EFER_NXE (1ull << 11)
#define RESERVED (1ull << 51)

/* Page-fault error code. */
#define CODE_P 1
#define CODE_W 2
#define CODE_U 4
#define CODE_RSVD 8
#define CODE_I 16
#define NO_FAULT 0x100

extern u64 page_tables[512];

/* A page of linear addresses that nothing else uses, and the entries that lead to it. Its frame holds RET. */
#define TEST_PAGE 0x123456789000ull
static u64 *pml4e, *pdpte, *pde, *pte;
static u64 frame;

/* Code for either privilege level, entered with the address in RDI; bytes that hold at any place. */
extern u8 pieces[], piece_read[], piece_write[], piece_fetch[], piece_done[], pieces_end[];
asm(".text\n"
    "pieces:\n"
    "piece_read: mov (%rdi), %al; jmp piece_done\n"
    "piece_write: movb $0xc3, (%rdi); jmp piece_done\n"
    "piece_fetch: call *%rdi; jmp piece_done\n"
    "piece_done: int $0x80\n"
    "pieces_end:\n");

extern u8 kernel_read[], kernel_write[], kernel_fetch[], kernel_done[];
asm(".text\n"
    "kernel_read: mov (%rdi), %al\n"
    "kernel_done: ret\n"
    "kernel_write: movb $0xc3, (%rdi); ret\n"
    "kernel_fetch: call *%rdi; ret\n");

static u8 *user_pieces;
static u64 user_stack;

enum access { READ, WRITE, FETCH };

struct setting {
	bool wp, nxe, smep, smap, ac;
};

static u32 fault_code;
static u64 fault_address;

static void on_page_fault(struct frame *state)
{
	fault_code = state->error_code;
	fault_address = read_cr2();
	if (state->cs & 3) {
		state->rip = (u64)user_pieces + (piece_done - pieces);
	} else if (state->rip == TEST_PAGE) {
		state->rip = *(u64 *)state->rsp;
		state->rsp += 8;
	} else if (state->rip >= (u64)kernel_read && state->rip <= (u64)kernel_fetch) {
		state->rip = (u64)kernel_done;
	} else {
		set_handler(VECTOR_PF, NULL);
	}
}

/* Makes the access; returns the error code, or NO_FAULT. */
static u32 touch(enum access access, bool user, bool ac)
{
	static u8 *const kernel[] = { kernel_read, kernel_write, kernel_fetch };
	static u8 *const piece[] = { piece_read, piece_write, piece_fetch };

	fault_code = NO_FAULT;
	fault_address = TEST_PAGE;
	if (user) {
		call_user((u64)user_pieces + (piece[access] - pieces), TEST_PAGE, user_stack);
	} else {
		if (ac)
			asm volatile("stac" : : : "memory");
		asm volatile("call *%0" : : "r"(kernel[access]), "D"(TEST_PAGE) : "rax", "memory");
		asm volatile("clac" : : : "memory");
	}
	return fault_code;
}

/* What the manual says comes of an access (4.6 and 4.7). */
static u32 expected(const struct setting *setting, u64 directory, u64 leaf, enum access access, bool user)
{
	u32 code = (access == WRITE ? CODE_W : 0) | (user ? CODE_U : 0);
	u64 both = directory & leaf;
	bool is_user = both & PAGE_USER, writable = both & PAGE_WRITABLE;
	bool no_execute = (directory | leaf) & PAGE_NO_EXECUTE;

	if (access == FETCH && (setting->nxe || setting->smep))
		code |= CODE_I;
	if (!(directory & PAGE_PRESENT))
		return code;
	if ((directory & PAGE_NO_EXECUTE) && !setting->nxe)
		return code | CODE_P | CODE_RSVD;
	if (!(leaf & PAGE_PRESENT))
		return code;
	if ((leaf & RESERVED) || ((leaf & PAGE_NO_EXECUTE) && !setting->nxe))
		return code | CODE_P | CODE_RSVD;
	code |= CODE_P;
	if (user && !is_user)
		return code;
	if (access == WRITE && !writable && (user || setting->wp))
		return code;
	if (access == FETCH && no_execute)
		return code;
	if (!user && is_user && access == FETCH && setting->smep)
		return code;
	if (!user && is_user && access != FETCH && setting->smap && !setting->ac)
		return code;
	return NO_FAULT;
}

static u64 spread(u32 index, const u64 *bits, u32 count)
{
	u64 value = 0;

	for (u32 i = 0; i < count; i++)
		if (index >> i & 1)
			value |= bits[i];
	return value;
}

/* Whether accessed and dirty bits are as they must be after the access. */
static bool bits_follow(u32 code, enum access access, u64 leaf)
{
	u64 wanted = leaf;

	if (code == NO_FAULT)
		wanted |= PAGE_ACCESSED | (access == WRITE ? PAGE_DIRTY : 0);
	return *pte == (frame | wanted) && (code != NO_FAULT || (*pde & PAGE_ACCESSED));
}

static void combinations(const struct setting *setting)
{
	static const u64 directory_bits[] = { PAGE_PRESENT, PAGE_WRITABLE, PAGE_USER, PAGE_NO_EXECUTE };
	static const u64 leaf_bits[] = { PAGE_PRESENT,	PAGE_WRITABLE, PAGE_USER, PAGE_NO_EXECUTE,
					 PAGE_ACCESSED, PAGE_DIRTY,    RESERVED };
	u32 tried = 0, wrong = 0;

	for (u32 d = 0; d < 16; d++) {
		for (u32 l = 0; l < 128; l++) {
			u64 directory = spread(d, directory_bits, 4), leaf = spread(l, leaf_bits, 7);

			for (u32 i = 0; i < 6; i++) {
				enum access access = i % 3;
				bool user = i >= 3;
				u32 code, want = expected(setting, directory, leaf, access, user);

				*pde = (u64)pte >> 12 << 12 | directory;
				*pte = frame | leaf;
				invalidate_page((void *)TEST_PAGE);
				code = touch(access, user, setting->ac);
				tried++;
				if (code == want && fault_address == TEST_PAGE && bits_follow(code, access, leaf))
					continue;
				if (!wrong++)
					print("first: directory 0x%lx, leaf 0x%lx, access %u, user %u: code 0x%x, "
					      "expected 0x%x, entry after it 0x%lx, CR2 0x%lx\n",
					      directory, leaf, access, user, code, want, *pte, fault_address);
			}
		}
	}
	check(wrong == 0, "WP %u NXE %u SMEP %u SMAP %u AC %u: %u of %u accesses wrong", setting->wp, setting->nxe,
	      setting->smep, setting->smap, setting->ac, wrong, tried);
}

static void set(const struct setting *setting)
{
	u64 efer = read_msr(MSR_EFER) & ~EFER_NXE, cr4 = read_cr4() & ~(CR4_SMEP | CR4_SMAP);

	write_cr0((read_cr0() & ~CR0_WP) | (setting->wp ? CR0_WP : 0));
	write_msr(MSR_EFER, efer | (setting->nxe ? EFER_NXE : 0));
	write_cr4(cr4 | (setting->smep ? CR4_SMEP : 0) | (setting->smap ? CR4_SMAP : 0));
}

static void map(u64 bits)
{
	*pte = frame | bits;
	*pde = ((u64)pte & ~4095ull) | PAGE_PRESENT | PAGE_WRITABLE | PAGE_USER;
	*pdpte = ((u64)pde & ~4095ull) | PAGE_PRESENT | PAGE_WRITABLE | PAGE_USER;
	*pml4e = ((u64)pdpte & ~4095ull) | PAGE_PRESENT | PAGE_WRITABLE | PAGE_USER;
	write_cr3(read_cr3());
}

static void large_pages(void)
{
	const u64 rights = PAGE_PRESENT | PAGE_WRITABLE | PAGE_LARGE;

	map(PAGE_PRESENT);
	*pde = (frame & ~0x1fffffull) | rights;
	write_cr3(read_cr3());
	check_equal(touch(READ, false, false), NO_FAULT, "a page of 2 MiB");
	check_equal(*pde & (PAGE_ACCESSED | PAGE_DIRTY), PAGE_ACCESSED, "it is accessed, not dirty");
	check_equal(touch(WRITE, true, false), CODE_P | CODE_W | CODE_U, "it is not a user's");
	for (u32 bit = 13; bit < 21; bit++) {
		*pde = (frame & ~0x1fffffull) | rights | 1ull << bit;
		write_cr3(read_cr3());
		check_equal(touch(READ, false, false), CODE_P | CODE_RSVD, "bit %u of its entry is reserved", bit);
	}
	*pde = (frame & ~0x1fffffull) | rights | 1ull << 12;
	write_cr3(read_cr3());
	check_equal(touch(READ, false, false), NO_FAULT, "bit 12 of its entry is PAT");

	map(PAGE_PRESENT);
	*pdpte = rights;
	write_cr3(read_cr3());
	check_equal(touch(READ, false, false), NO_FAULT, "a page of 1 GiB");
	for (u32 bit = 13; bit < 30; bit += 4) {
		*pdpte = rights | 1ull << bit;
		write_cr3(read_cr3());
		check_equal(touch(READ, false, false), CODE_P | CODE_RSVD, "bit %u of its entry is reserved", bit);
	}
	map(PAGE_PRESENT);
	*pml4e |= PAGE_LARGE;
	write_cr3(read_cr3());
	check_equal(touch(READ, false, false), CODE_P | CODE_RSVD, "there is no larger page");
	map(PAGE_PRESENT);
	*pml4e = 0;
	write_cr3(read_cr3());
	check_equal(touch(WRITE, false, false), CODE_W, "an absent entry at the top");
}

static void invalidations(void)
{
	u64 other = (u64)new_page();
	volatile u64 *page = (u64 *)TEST_PAGE;

	*(u64 *)frame = 1;
	*(u64 *)other = 2;
	map(PAGE_PRESENT | PAGE_GLOBAL);
	write_cr4(read_cr4() | CR4_PGE);
	check_equal(*page, 1, "a global page");
	*pte = other | PAGE_PRESENT | PAGE_GLOBAL;
	invalidate_page((void *)TEST_PAGE);
	check_equal(*page, 2, "INVLPG forgets it");
	*pte = frame | PAGE_PRESENT | PAGE_GLOBAL;
	write_cr4(read_cr4() & ~CR4_PGE);
	check_equal(*page, 1, "a change of CR4.PGE forgets it");
	*pte = other | PAGE_PRESENT;
	write_cr3(read_cr3());
	check_equal(*page, 2, "a load of CR3 forgets a page that is not global");
	asm volatile("invlpg (%0)" : : "r"(0x8000000000000000ull) : "memory");
	check(true, "INVLPG of an address that is not canonical does nothing");
}

static void crossing(void)
{
	u64 *second = pte + 1;

	map(PAGE_PRESENT | PAGE_WRITABLE);
	*second = 0;
	fault_code = NO_FAULT;
	memset((void *)frame, 0, 4096);
	clear_fault();
	set_handler(VECTOR_PF, NULL);
	asm volatile(RECOVER("movq $-1, (%0)") : : "r"(TEST_PAGE + 4092) : "memory");
	check_fault(last_fault(), VECTOR_PF, CODE_W, "a store into an absent second page");
	check_equal(last_fault().address, TEST_PAGE + 4096, "CR2 is the second page's start");
	check_equal(*(u32 *)(frame + 4092), 0, "nothing is stored in the first");
}

void main(void)
{
	u64 *table = page_tables;
	struct setting usual = { true, true, false, false, false };

	pml4e = &table[TEST_PAGE >> 39 & 511];
	pte = page_entry(TEST_PAGE);
	pdpte = (u64 *)(*pml4e & ~4095ull) + (TEST_PAGE >> 30 & 511);
	pde = (u64 *)(*pdpte & ~4095ull) + (TEST_PAGE >> 21 & 511);
	frame = (u64)new_page();
	*(u8 *)frame = 0xc3;
	user_pieces = new_page();
	memcpy(user_pieces, pieces, pieces_end - pieces);
	change_pages((u64)user_pieces, 4096, PAGE_USER, 0);
	user_stack = (u64)new_page() + 4096;
	change_pages(user_stack - 4096, 4096, PAGE_USER, 0);

	set_handler(VECTOR_PF, on_page_fault);
	map(0);
	for (u32 i = 0; i < 32; i++) {
		struct setting setting = { i & 1, i & 2, i & 4, i & 8, i & 16 };

		set(&setting);
		combinations(&setting);
	}
	set(&usual);
	large_pages();
	invalidations();
	crossing();
}
