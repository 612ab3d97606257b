/*
 * Memory encryption (AMD APM volume 2, 15.34): what says that it is there, the two views of a page, what is private whatever
 * its page-table entry says, what a device has of either view, and the calls to the hypervisor. A keystream that depends on the
 * address alone stands between the views, so that one tells what the other must be.
 *
 * run: --confidential sev --cpus 2 --fail-on none
 * run: --confidential sev --seed 2 --cpus 2 --fail-on none
 */
#include "support.h"

#define SEV_LEAF 0x8000001f
#define SEV_STATUS 0xc0010131
#define KVM_LEAF 0x40000000
#define MIGRATION_CONTROL 0x4b564d08

#define SHARED_ALIAS 0x4000000000ull
#define PRIVATE_ALIAS (SHARED_ALIAS + 4096)
#define CODE_ALIAS 0x4000400000ull
#define LARGE_ALIAS 0x4040000000ull
#define CODE_P 1
#define CODE_RSVD 8

static u8 *page;
static volatile u8 *const shared = (volatile u8 *)SHARED_ALIAS;
static u8 keystream[4096], copy[4096];

static void map(u64 address, const void *frame, u64 bits)
{
	*page_entry(address) = (u64)frame | bits | PAGE_PRESENT | PAGE_WRITABLE;
	invalidate_page((void *)address);
}

static void identification(void)
{
	struct cpuid leaf = cpuid(0x80000000, 0);
	u64 ignored;

	check(leaf.eax >= SEV_LEAF, "CPUID has leaf 8000001fh (up to %x)", leaf.eax);
	leaf = cpuid(SEV_LEAF, 0);
	check_equal(leaf.eax & 0x1a, 2, "there is SEV, and neither SEV-ES nor SEV-SNP");
	check_equal(1ull << (leaf.ebx & 0x3f), private_bit, "the C-bit is where CPUID says");
	check((leaf.ebx & 0x3f) >= (cpuid(0x80000008, 0).eax & 0xff) - (leaf.ebx >> 6 & 0x3f),
	      "and no bit of an address");
	check_equal(read_msr(SEV_STATUS), 1, "SEV_STATUS: SEV is active, and nothing else");
	check_fault(write_msr_checked(SEV_STATUS, 0), VECTOR_GP, 0, "SEV_STATUS cannot be written");
	leaf = cpuid(KVM_LEAF, 0);
	check(leaf.ebx == 0x4b4d564b && leaf.ecx == 0x564b4d56 && leaf.edx == 0x4d, "the hypervisor's calls are KVM's");
	leaf = cpuid(KVM_LEAF + 1, 0);
	check_equal(leaf.eax, 1 << 16 | 1 << 17, "it is to be told of pages that are shared, and when that is done");
	check_no_fault(write_msr_checked(MIGRATION_CONTROL, 1), "that is said by an MSR");
	check_fault(write_msr_checked(MIGRATION_CONTROL, 2), VECTOR_GP, 0, "which has one bit");
	check_no_fault(read_msr_checked(MIGRATION_CONTROL, &ignored), "and can be read");
}

/* Bytes of shared memory that are not what private memory has there with the keystream on it. */
static u32 differences(const u8 *inside, const volatile u8 *outside)
{
	u32 count = 0;

	for (u32 i = 0; i < 4096; i++)
		count += outside[i] != (inside[i] ^ keystream[i]);
	return count;
}

static void views(void)
{
	u32 zeros = 0, same = 0;
	u8 *other = new_page();

	page = new_page();
	map(SHARED_ALIAS, page, 0);
	map(PRIVATE_ALIAS, page, private_bit);
	for (u32 i = 0; i < 4096; i++) {
		keystream[i] = shared[i];
		zeros += !keystream[i];
	}
	check(zeros < 64, "zeros, seen as shared: %u bytes of 4096 are", zeros);
	for (u32 i = 0; i < 4096; i++)
		page[i] = i * 7;
	check_equal(differences(page, shared), 0, "a private store shows scrambled by the same");
	for (u32 i = 0; i < 4096; i++)
		shared[i] = i * 11;
	check_equal(differences(page, shared), 0, "and a shared one to those who take it for private");
	check_equal(shared[4095], (u8)(4095 * 11), "who shares sees what is stored");
	shared[100] = 0x55;
	page[101] = 0x66;
	check(shared[100] == 0x55 && page[100] == (0x55 ^ keystream[100]) && page[101] == 0x66, "stores by turns");
	check(((u8 *)PRIVATE_ALIAS)[100] == page[100], "two private aliases are one view");
	map(SHARED_ALIAS, other, 0);
	for (u32 i = 0; i < 4096; i++)
		same += shared[i] == keystream[i];
	check(same < 64, "another page is scrambled otherwise: %u bytes of 4096 are alike", same);
	map(SHARED_ALIAS, page, 0);
}

static void move_string(u64 to, const void *from, u64 size)
{
	asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(size) : : "memory");
}

/* Operands that lie in both views of one page: its end as shared, its beginning as private. */
static void across(void)
{
	volatile u64 *word = (volatile u64 *)(SHARED_ALIAS + 4092);
	u64 expected = 0x1122334455667788;

	*word = expected;
	check_equal(*word, expected, "a word across both views comes back");
	check(shared[4092] == 0x88 && page[0] == 0x44 && shared[0] == (0x44 ^ keystream[0]),
	      "each half of it in its own");
	asm volatile("lock xaddq %0, %1" : "+r"(expected), "+m"(*word));
	check_equal(*word, 2 * 0x1122334455667788ull, "locked, too");

	for (u32 i = 0; i < 4096; i++)
		page[i] = i * 13;
	memcpy(copy, page, 4096);
	move_string(SHARED_ALIAS, page, 2048);
	check(!memcmp((const u8 *)shared, copy, 2048), "a string move from one view to the other in place");
	check(!memcmp(page + 2048, copy + 2048, 2048), "what is behind it stays");
	/* Up by one, each byte read by one view after it was written by the other. */
	page[0] = 1;
	move_string(SHARED_ALIAS + 1, page, 3);
	check(shared[1] == 1 && shared[2] == (1 ^ keystream[1]) && shared[3] == (1 ^ keystream[1] ^ keystream[2]),
	      "and one that reads what it has written");
}

/* mov $7, %eax; ret, and the same with 9 */
static const u8 seven[] = { 0xb8, 7, 0, 0, 0, 0xc3 }, nine[] = { 0xb8, 9, 0, 0, 0, 0xc3 };

static void code(void)
{
	u32 (*function)(void) = (u32 (*)(void))SHARED_ALIAS;

	memcpy(page, seven, sizeof(seven));
	check_equal(function(), 7, "code is fetched as private memory from where data is shared");
	check_equal(shared[0], seven[0] ^ keystream[0], "the same address has other bytes as data");
	check_equal(function(), 7, "and is code all the same");
	for (u32 i = 0; i < sizeof(nine); i++)
		shared[i] = nine[i] ^ keystream[i];
	check_equal(function(), 9, "code that was stored by the shared view");
	page[1] = 7;
	check_equal(function(), 7, "and changed by the private one");
}

static u64 *table_of(u64 entry)
{
	return (u64 *)(entry & 0xffffffffff000ull & ~private_bit);
}

static void tables(void)
{
	u64 *entry = page_entry(CODE_ALIAS), cr3 = read_cr3();
	u64 *pdpt = table_of(table_of(cr3)[CODE_ALIAS >> 39]);
	u64 *pdpte = &pdpt[CODE_ALIAS >> 30 & 511];
	u64 *pde = &table_of(*pdpte)[CODE_ALIAS >> 21 & 511];

	map(CODE_ALIAS, page, private_bit);
	*pde &= ~private_bit;
	*pdpte &= ~private_bit;
	write_cr3(cr3 & ~private_bit);
	page[8] = 0x77;
	check_equal(*(volatile u8 *)(CODE_ALIAS + 8), 0x77, "tables are read as private without the C-bit");
	check(*entry & PAGE_ACCESSED, "and written so");
	*pde |= private_bit;
	write_cr3(cr3 | private_bit);
	check_equal(*(volatile u8 *)(CODE_ALIAS + 8), 0x77, "and with it, which CR3 keeps: %lx", read_cr3());
	check_equal(read_cr3(), cr3 | private_bit, "CR3 is as it was written");
	write_cr3(cr3);

	*page_entry(CODE_ALIAS) |= 1ull << 50;
	invalidate_page((void *)CODE_ALIAS);
	clear_fault();
	asm volatile(RECOVER("mov (%0), %%al") : : "r"(CODE_ALIAS) : "rax", "memory");
	check_fault(last_fault(), VECTOR_PF, CODE_P | CODE_RSVD, "the bit below the C-bit is reserved");
	map(CODE_ALIAS, page, private_bit);

	/* 2 MiB around the page, as shared. */
	page_entry(LARGE_ALIAS);
	pdpte = &pdpt[LARGE_ALIAS >> 30 & 511];
	pde = &table_of(*pdpte)[LARGE_ALIAS >> 21 & 511];
	*pde = ((u64)page & ~0x1fffffull) | PAGE_PRESENT | PAGE_WRITABLE | PAGE_LARGE;
	write_cr3(cr3);
	check_equal(((volatile u8 *)LARGE_ALIAS)[((u64)page & 0x1fffff) + 8], 0x77 ^ keystream[8],
		    "a large page can be shared");
	*pde = 0;
	write_cr3(cr3);
}

/* ---- A device: firmware configuration by DMA (QEMU docs/specs/fw_cfg.rst) ---- */

#define FW_CFG_DMA_LOW 0x518
#define SIGNATURE "QEMU"

static void bring_signature(volatile u32 *transfer, u64 transfer_frame, u64 to)
{
	transfer[0] = __builtin_bswap32(0x0a);
	transfer[1] = __builtin_bswap32(4);
	transfer[2] = 0;
	transfer[3] = __builtin_bswap32((u32)to);
	out32(FW_CFG_DMA_LOW, __builtin_bswap32((u32)transfer_frame));
}

static bool has_signature(const volatile u8 *bytes, const u8 *key)
{
	for (u32 i = 0; i < 4; i++)
		if (bytes[i] != (SIGNATURE[i] ^ (key ? key[i] : 0)))
			return false;
	return true;
}

static void devices(void)
{
	u8 *frame = new_page();
	volatile u32 *transfer = (volatile u32 *)CODE_ALIAS;

	map(CODE_ALIAS, frame, 0);
	bring_signature(transfer, (u64)frame, (u64)frame + 64);
	check_equal(transfer[0], 0, "a device reads what is shared");
	check(has_signature((volatile u8 *)transfer + 64, NULL), "and writes it");
	page[256] = 0;
	bring_signature(transfer, (u64)frame, (u64)page + 256);
	check_equal(transfer[0], 0, "a device writes to private memory");
	check(has_signature(page + 256, keystream + 256), "which scrambles what is read there");
	check(has_signature(shared + 256, NULL), "but not for those who share it");
}

/* ---- Calls ---- */

#define MAP_GPA_RANGE 12
#define ENCRYPTED 16

static s64 call(u64 number, u64 a, u64 b, u64 c)
{
	s64 answer;

	asm volatile("vmmcall" : "=a"(answer) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(0ul) : "memory");
	return answer;
}

extern u8 user_call[], user_call_end[];
asm(".text\n"
    "user_call: mov $12, %eax; vmmcall; int $0x80\n"
    "user_call_end:\n");

static void calls(void)
{
	u8 *user = new_page(), *stack = new_page();

	check_equal(call(MAP_GPA_RANGE, (u64)page, 1, 0), 0, "a page is said to be shared");
	page[9] = 0x12;
	check_equal(page[9], 0x12, "which changes nothing of what is there");
	check_equal(call(MAP_GPA_RANGE, (u64)page, 1, ENCRYPTED), 0, "and to be private");
	check_equal(call(MAP_GPA_RANGE, 0, 1ull << 40, ENCRYPTED), 0, "pages that are not there are nobody's");
	check_equal(call(MAP_GPA_RANGE, (u64)page + 1, 1, 0), (u64)-22, "an address within a page is refused");
	check_equal(call(MAP_GPA_RANGE, (u64)page, 0, 0), (u64)-22, "and no pages");
	check_equal(call(MAP_GPA_RANGE, (u64)page, -1ull, 0), (u64)-22, "and more than there can be");
	check_equal(call(999, 0, 0, 0), (u64)-1000, "a call that there is not");
	memcpy(user, user_call, user_call_end - user_call);
	change_pages((u64)user, 1, PAGE_USER, 0);
	change_pages((u64)stack, 1, PAGE_USER, 0);
	check_equal(call_user((u64)user, 0, (u64)stack + 4096), (u64)-1, "a call by a user");
}

/* ---- Another processor, which has translations of its own ---- */

static volatile u8 seen;

static void look(u64 address)
{
	seen = *(volatile u8 *)address;
}

static void processors(void)
{
	check_equal(start_processors(), 2, "two processors");
	page[10] = 0x34;
	run_on(1, look, (u64)page + 10);
	check_equal(seen, 0x34, "what one stores as private the other sees");
	shared[10] = 0x56;
	run_on(1, look, (u64)page + 10);
	check_equal(seen, 0x56 ^ keystream[10], "scrambled, what one stores as shared");
	run_on(1, look, SHARED_ALIAS + 10);
	check_equal(seen, 0x56, "unless it shares, too");
	check_equal(page[10], 0x56 ^ keystream[10], "and the first one has not lost track");
}

void main(void)
{
	identification();
	views();
	across();
	code();
	tables();
	devices();
	calls();
	processors();
}
