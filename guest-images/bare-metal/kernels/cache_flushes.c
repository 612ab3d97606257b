/*
 * Software that keeps to the rules where caches and memory differ (SDM volume 3, 9.2.5, 12.3 to 12.12): whatever a cache writes
 * back, drops or brings in of its own accord, no byte is wrong, and nothing is found.
 *
 * run: --cmdline coherent
 * run: --cache l1 --fail-on latent
 * run: --cache tiny,policy=random,seed=5 --fail-on latent
 * run: --cache random,seed=1 --fail-on latent
 * run: --cache random,seed=2,line=128 --fail-on latent
 * run: --cache worst,seed=3 --fail-on latent
 * run: --cache worst,seed=4,size=1K,ways=2 --fail-on latent
 * run: --cache worst,scope=dma --fail-on latent
 */
#include "caches.h"

#define FIRST 0
#define SECOND 8
#define CODE 0x800
#define TEST_PAGE 0x4000000000ull

static u64 page;
static volatile u8 *at;

/* The page is mapped with another type: in order, with no translation and no line left behind. */
static void retype(enum type type)
{
	map_as(TEST_PAGE, page, type);
	for (u32 offset = 0; offset < 4096; offset += 16)
		flush(at + offset);
	fence();
}

/* The same by whole address space and cache. */
static void retype_all(enum type type)
{
	map_as(TEST_PAGE, page, type);
	write_cr3(read_cr3());
	flush_all(NULL);
}

/* What the last type has left in both bytes, and then what this one stores. */
static void look_and_store(u8 expected, u8 value, enum type type)
{
	check_equal(at[FIRST], expected, "%s: what was stored before", type_names[type]);
	check_equal(at[SECOND], expected, "%s: its neighbour", type_names[type]);
	at[FIRST] = value;
	at[SECOND] = value;
	store_fence();
	check_equal(at[FIRST] + at[SECOND], 2 * value, "%s: what is stored now", type_names[type]);
}

static void types(void (*change)(enum type))
{
	u8 value = 1;

	change(WB);
	at[FIRST] = at[SECOND] = value;
	for (enum type type = 0; type < TYPES; type++) {
		for (enum type other = 0; other < TYPES; other++) {
			change(type);
			look_and_store(value, value + 1, type);
			change(other);
			look_and_store(value + 1, value + 2, other);
			value += 2;
		}
	}
	change(WB);
	check_equal(at[FIRST], value, "WB again");
}

/* What uncached memory gets before anybody reads it is there when it is cached again. */
static void store_only(void)
{
	for (enum type type = WC; type < TYPES; type++) {
		retype(WB);
		at[FIRST] = 1;
		retype(type);
		at[FIRST] = 2;
		store_fence();
		/* Nothing past the cache can have left a line in it. */
		map_as(TEST_PAGE, page, WB);
		check_equal(at[FIRST], 2, "%s: stores only, then cached without a flush", type_names[type]);
	}
}

static void ranges(void)
{
	retype(WB);
	at[FIRST] = 1;
	/* SDM volume 3, 12.11.7.2. */
	disable_caches();
	flush_all(NULL);
	make_range_uncached(page);
	flush_all(NULL);
	enable_caches();
	check_equal(at[FIRST], 1, "UC by MTRR: what was cached");
	at[FIRST] = 2;
	disable_caches();
	flush_all(NULL);
	release_range();
	flush_all(NULL);
	enable_caches();
	check_equal(at[FIRST], 2, "cached again: what was stored past the cache");
}

static void streaming(void)
{
	retype(WB);
	for (u32 i = 0; i < 256; i++) {
		volatile u8 *to = at + 16 * i;

		*to = i;
		store_streaming(to + 4, i * 3);
		to[8] = to[0] + to[4];
		if (i % 3 == 0)
			flush_weakly(to);
		if (i % 5 == 0)
			clean_weakly(to);
		if (i % 7 == 0)
			store_fence();
	}
	store_fence();
	for (u32 i = 0; i < 256; i++) {
		volatile u8 *to = at + 16 * i;

		if (to[0] != (u8)i || to[4] != (u8)(i * 3) || to[8] != (u8)(i * 4)) {
			check(false, "MOVNTI, CLFLUSHOPT and CLWB among stores: byte group %u", i);
			return;
		}
	}
	check(true, "MOVNTI, CLFLUSHOPT and CLWB among stores");
}

/* mov eax, NUMBER; ret */
static u32 run_code(u8 number)
{
	static const u8 code[] = { 0xb8, 0, 0, 0, 0, 0xc3 };

	for (u32 i = 0; i < sizeof(code); i++)
		at[CODE + i] = code[i];
	at[CODE + 1] = number;
	fence();
	return ((u32(*)(void))(u64)(at + CODE))();
}

static void changing_code(void)
{
	for (enum type type = 0; type < TYPES; type++) {
		retype(type);
		for (u32 number = 1; number < 4; number++)
			check_equal(run_code(16 * type + number), 16 * type + number, "%s: code that changes",
				    type_names[type]);
	}
	retype(WB);
}

static void locked(void)
{
	volatile u32 *count = (volatile u32 *)at;

	for (enum type type = 0; type < TYPES; type++) {
		retype(type);
		*count = 0;
		for (u32 i = 0; i < 10; i++) {
			asm volatile("lock incl %0" : "+m"(*count));
			if (i == 4 && is_cached(type))
				flush(at);
		}
		check_equal(*count, 10, "%s: locked additions", type_names[type]);
	}
	retype(WB);
}

void main(void)
{
	page = (u64)new_page();
	at = (volatile u8 *)TEST_PAGE;
	/* Its only mapping is to be the one that is tested. */
	change_pages(page, 4096, 0, PAGE_PRESENT);
	set_types();
	types(retype);
	types(retype_all);
	store_only();
	ranges();
	streaming();
	changing_code();
	locked();
}
