/* Memory types: PAT, MTRRs and CR0.CD. */
#include "caches.h"

#define MSR_PAT 0x277
#define MSR_MTRR_BASE 0x200
#define MSR_MTRR_MASK 0x201
#define MTRR_VALID (1ull << 11)
#define CR0_CD (1ul << 30)
/* PTE bits that select of PAT: PWT, PCD, PAT. */
#define PAGE_PAT (1ull << 7)

const char *const type_names[TYPES] = { "WB", "WT", "WP", "WC", "UC-", "UC" };

bool is_cached(enum type type)
{
	return type <= WP;
}

void set_types(void)
{
	/* Entries 6 and 7 are as 0: WB. */
	write_msr(MSR_PAT, 0x0606000701050406);
	write_cr3(read_cr3());
}

void map_as(u64 address, u64 frame, enum type type)
{
	u64 select = (type & 1 ? PAGE_WRITE_THROUGH : 0) | (type & 2 ? PAGE_NO_CACHE : 0) | (type & 4 ? PAGE_PAT : 0);

	*page_entry(address) = frame | PAGE_PRESENT | PAGE_WRITABLE | select;
	invalidate_page((void *)address);
}

void disable_caches(void)
{
	write_cr0(read_cr0() | CR0_CD);
}

void enable_caches(void)
{
	write_cr0(read_cr0() & ~CR0_CD);
}

void make_range_uncached(u64 frame)
{
	u64 addresses = (1ull << (cpuid(0x80000008, 0).eax & 0xff)) - 1;

	write_msr(MSR_MTRR_BASE, frame);
	write_msr(MSR_MTRR_MASK, (addresses & ~4095ull) | MTRR_VALID);
}

void release_range(void)
{
	write_msr(MSR_MTRR_MASK, 0);
}

const char *last_word(void)
{
	/* cmdline, fifth word of the multiboot information. */
	const char *line = (const char *)(u64)((const u32 *)(u64)multiboot_info)[4], *word = line;

	for (; *line; line++)
		if (*line == ' ')
			word = line + 1;
	return word;
}
