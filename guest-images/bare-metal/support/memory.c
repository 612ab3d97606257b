/* Free memory and page tables. */
#include "support.h"

#define TABLE_ENTRIES 512
#define LARGE_PAGE 0x200000ull
#define ADDRESS_BITS 0x000ffffffffff000ull

extern u64 page_tables[TABLE_ENTRIES];
extern u8 kernel_end[];

u64 free_memory(void)
{
	const u32 *info = (const u32 *)(u64)multiboot_info;
	u64 end = (u64)kernel_end;

	/* mods_count, mods_addr: four words a module. */
	for (u32 i = 0; i < info[5]; i++) {
		const u32 *module = (const u32 *)(u64)info[6] + 4 * i;

		if (module[1] > end)
			end = module[1];
	}
	return (end + 4095) & ~4095ull;
}

void *new_page(void)
{
	static u64 next;
	static lock_t own;
	void *page;

	lock(&own);
	if (!next)
		next = free_memory();
	page = (void *)next;
	next += 4096;
	unlock(&own);
	return memset(page, 0, 4096);
}

u64 *page_entry(u64 address)
{
	u64 *table = page_tables;

	for (u32 shift = 39; shift > 12; shift -= 9) {
		u64 *entry = &table[address >> shift & (TABLE_ENTRIES - 1)];

		if (!(*entry & PAGE_PRESENT)) {
			*entry = (u64)new_page() | private_bit | PAGE_PRESENT | PAGE_WRITABLE | PAGE_USER;
		} else if (*entry & PAGE_LARGE) {
			u64 *split = new_page();
			u64 step = 1ull << (shift - 9), attributes = *entry & ~ADDRESS_BITS;

			if (shift - 9 == 12)
				attributes &= ~PAGE_LARGE;
			for (u64 i = 0; i < TABLE_ENTRIES; i++)
				split[i] = ((*entry & ADDRESS_BITS) + i * step) | attributes;
			*entry = (u64)split | private_bit | PAGE_PRESENT | PAGE_WRITABLE | PAGE_USER;
		} else {
			*entry |= PAGE_USER;
		}
		table = (u64 *)(*entry & ADDRESS_BITS & ~private_bit);
	}
	return &table[address >> 12 & (TABLE_ENTRIES - 1)];
}

void change_pages(u64 address, u64 size, u64 set, u64 clear)
{
	for (u64 page = address & ~4095ull; page < address + size; page += 4096) {
		u64 *entry = page_entry(page);

		*entry = (*entry & ~clear) | set;
		invalidate_page((void *)page);
	}
}
