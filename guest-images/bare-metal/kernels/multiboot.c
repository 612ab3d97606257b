/*
 * What a multiboot kernel is handed (Multiboot 0.6.96, 3.2 and 3.3).
 *
 * run: --memory 64M --cmdline "a=1 b"
 */
#include "support.h"

#define FLAG_MEMORY (1u << 0)
#define FLAG_COMMAND_LINE (1u << 2)
#define FLAG_MODULES (1u << 3)
#define FLAG_MEMORY_MAP (1u << 6)
#define FLAG_LOADER_NAME (1u << 9)
#define RAM 1

struct info {
	u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
	u32 mmap_length, mmap_addr, drives_length, drives_addr, config_table, boot_loader_name;
};

struct range {
	u32 size;
	u64 base, length;
	u32 type;
} __attribute__((packed));

static const char *text(u32 address)
{
	return (const char *)(u64)address;
}

static bool ends_with(const char *whole, const char *end)
{
	size_t length = strlen(whole), tail = strlen(end);

	return length >= tail && !strcmp(whole + length - tail, end);
}

static void check_map(const struct info *info)
{
	u32 at = info->mmap_addr, end = at + info->mmap_length, entries = 0;
	u64 last = 0;
	bool sorted = true, has_kernel = false;

	while (at < end) {
		const struct range *range = (const struct range *)(u64)at;

		sorted &= range->base >= last && range->length != 0;
		last = range->base + range->length;
		if (range->type == RAM && range->base <= (u64)main && (u64)main < last) {
			has_kernel = true;
			check_equal(last, 64 << 20, "RAM ends at 64 MiB");
			check_equal(last - (1 << 20), info->mem_upper * 1024ull, "mem_upper agrees with the map");
		}
		at += range->size + 4;
		entries++;
	}
	check_equal(at, end, "the map's entries fill it");
	check(entries >= 2 && sorted, "the map has entries, sorted and apart");
	check(has_kernel, "the kernel lies in RAM");
}

/* Prints what the modules are, for the test that gives some. */
static void check_modules(const struct info *info)
{
	u64 last = free_memory();

	print("%u modules\n", info->mods_count);
	for (u32 i = 0; i < info->mods_count; i++) {
		const u32 *module = (const u32 *)(u64)info->mods_addr + 4 * i;
		u32 start = module[0], end = module[1];

		check(start % 4096 == 0 && start > (u64)main && end <= last, "module %u: a page of its own", i);
		print("module %u: %s: %u bytes: ", i, text(module[2]), end - start);
		for (u32 at = start; at < end && at < start + 16; at++)
			print("%c", *(const char *)(u64)at);
		print("\n");
	}
}

void main(void)
{
	const struct info *info = (const struct info *)(u64)multiboot_info;
	u32 wanted = FLAG_MEMORY | FLAG_COMMAND_LINE | FLAG_MODULES | FLAG_MEMORY_MAP | FLAG_LOADER_NAME;

	check_equal(info->flags & wanted, wanted, "memory, command line, modules, map and loader name are valid");
	check_equal(info->mem_lower, 640, "mem_lower");
	check(ends_with(text(info->cmdline), "multiboot a=1 b"), "command line: %s", text(info->cmdline));
	check(!strcmp(text(info->boot_loader_name), "Staleline"), "loader: %s", text(info->boot_loader_name));
	check_modules(info);
	check_map(info);
}
