/*
 * One page mapped with every memory type at once, and what each mapping then shows (SDM volume 3, 12.3, 12.5, 12.11 and 12.12).
 * Software must not do that without flushing in between: what a mapping past the cache shows is what memory holds, and what the
 * others show is what the cache holds. The last word of the command line says what there is between the two:
 * "coherent": nothing; "cached": a write-back cache large enough to keep a line until it is flushed; "any": a cache that writes
 * lines back, drops them and brings them in whenever that is legal, so that what has not been flushed may be seen or not.
 *
 * run: --cmdline coherent
 * run: --cache l1 --fail-on none --cmdline cached
 * run: --cache l2,policy=fifo --fail-on none --cmdline cached
 * run: --cache short-lines,size=64K --fail-on none --cmdline cached
 * run: --cache through --fail-on none --cmdline through
 * run: --cache tiny --fail-on none --cmdline any
 * run: --cache random,seed=1 --fail-on none --cmdline any
 * run: --cache random,seed=2 --fail-on none --cmdline any
 * run: --cache random,seed=3,line=16 --fail-on none --cmdline any
 * run: --cache worst,seed=4 --fail-on none --cmdline any
 */
#include "caches.h"

#define ALIASES 0x4000000000ull

/* What is written last, what was there before, and a second value. */
#define NEW 0xa5
#define OLD 0x11
#define OTHER 0x5a

/* Two bytes of one line, of 16 bytes at least, and code in another line. */
#define FIRST 0
#define SECOND 8
#define CODE 0x800

static enum { COHERENT, CACHED, THROUGH, ANY } machine;
static u8 *page;

static volatile u8 *alias(enum type type)
{
	return (volatile u8 *)(ALIASES + type * 4096ull);
}

static void make_aliases(void)
{
	page = new_page();
	set_types();
	for (enum type type = 0; type < TYPES; type++)
		map_as((u64)alias(type), (u64)page, type);
}

/* Memory has OLD in both bytes, and no cache has them. */
static void reset(void)
{
	alias(WB)[FIRST] = OLD;
	alias(WB)[SECOND] = OLD;
	flush(alias(WB));
	fence();
}

/* A byte that the cache may have in another state than memory: what a coherent machine shows, and what one with a cache does. */
static void check_either(u8 found, u8 coherent, u8 incoherent, const char *what, enum type type)
{
	const char *name = type_names[type];

	if (machine == ANY && (found == coherent || found == incoherent))
		check(true, "%s: %s: what was there before or after", name, what);
	else
		check_equal(found, machine == COHERENT ? coherent : incoherent, "%s: %s", name, what);
}

/* The same of what only a cache that is written back has: one that is written through never has anything to itself. */
static void check_dirty(u8 found, u8 coherent, u8 incoherent, const char *what, enum type type)
{
	check_either(found, coherent, machine == THROUGH ? coherent : incoherent, what, type);
}

static void check_same(u8 found, u8 expected, const char *what, enum type type)
{
	check_equal(found, expected, "%s: %s", type_names[type], what);
}

static void loads(void)
{
	for (enum type type = 0; type < TYPES; type++) {
		reset();
		alias(WB)[FIRST] = NEW;
		if (is_cached(type))
			check_same(alias(type)[FIRST], NEW, "load of what the cache holds", type);
		else
			check_dirty(alias(type)[FIRST], NEW, OLD, "load of what is newer in the cache", type);
		flush(alias(type));
		fence();
		check_same(alias(type)[FIRST], NEW, "load after a flush by this mapping", type);
		check_same(alias(WB)[FIRST], NEW, "load through the cache after that", type);
	}
}

static void stores(void)
{
	static const enum type past[] = { UC, UC_MINUS, WC };

	for (u32 i = 0; i < 3; i++) {
		enum type type = past[i];

		reset();
		check_same(alias(WB)[FIRST], OLD, "a line is brought in", type);
		alias(type)[FIRST] = NEW;
		store_fence();
		check_same(alias(UC)[FIRST], NEW, "a store past the cache is in memory", type);
		check_either(alias(WB)[FIRST], NEW, OLD, "the cache knows nothing of a store past it", type);
		flush(alias(WB));
		fence();
		check_same(alias(WB)[FIRST], NEW, "a clean line leaves nothing behind", type);

		reset();
		alias(WB)[FIRST] = OTHER;
		alias(type)[SECOND] = NEW;
		store_fence();
		flush(alias(WB));
		fence();
		check_same(alias(WB)[FIRST], OTHER, "a dirty line is written back", type);
		/* Write-back is of whole lines. Nothing but the first store has made the line dirty. */
		if (machine == THROUGH)
			check_same(alias(WB)[SECOND], NEW, "there is no dirty line to lose a neighbour", type);
		else
			check_dirty(alias(WB)[SECOND], NEW, OLD, "with its neighbours", type);
	}
	for (enum type type = WT; type <= WP; type++) {
		reset();
		check_same(alias(type)[FIRST], OLD, "a line is brought in", type);
		alias(type)[FIRST] = NEW;
		check_same(alias(UC)[FIRST], NEW, "a store is in memory at once", type);
		check_same(alias(type)[FIRST], NEW, "and what the mapping shows", type);
		check_same(alias(WB)[FIRST], NEW, "and others that are cached", type);

		reset();
		alias(WB)[FIRST] = OTHER;
		alias(type)[SECOND] = NEW;
		check_same(alias(UC)[SECOND], NEW, "a store beside dirty bytes is in memory at once", type);
		flush(alias(WB));
		fence();
		check_same(alias(UC)[FIRST], OTHER, "what was dirty beside it follows", type);
		check_same(alias(UC)[SECOND], NEW, "and takes nothing away", type);
	}
}

static void maintenance(void)
{
	static const struct {
		const char *name;
		void (*run)(volatile void *address);
	} flushes[] = {
		{ "CLFLUSH", flush },
		{ "CLFLUSHOPT", flush_weakly },
		{ "CLWB", clean_weakly },
		{ "WBINVD", flush_all },
	};

	for (u32 i = 0; i < sizeof(flushes) / sizeof(*flushes); i++) {
		reset();
		alias(WB)[FIRST] = NEW;
		flushes[i].run(alias(WB));
		store_fence();
		check_equal(alias(UC)[FIRST], NEW, "%s and a fence write back", flushes[i].name);
		check_equal(alias(WB)[FIRST], NEW, "%s changes nothing for the processor", flushes[i].name);
	}
	/* INVD takes dirty bytes with it: all that is dirty then is the one. */
	reset();
	asm volatile("wbinvd; movb %1, (%0); invd" : : "r"(alias(WB) + FIRST), "i"(NEW) : "memory");
	check_dirty(alias(WB)[FIRST], NEW, OLD, "INVD drops what has not been written back", WB);
	reset();
	asm volatile("movb %1, (%0); wbinvd; invd" : : "r"(alias(WB) + FIRST), "i"(NEW) : "memory");
	check_same(alias(WB)[FIRST], NEW, "INVD drops nothing after WBINVD", WB);
}

static void non_temporal(void)
{
	reset();
	check_same(alias(WB)[FIRST], OLD, "a line is brought in", WB);
	store_streaming(alias(WB) + SECOND, NEW);
	store_fence();
	check_same(alias(UC)[SECOND], NEW, "MOVNTI and a fence: in memory", WB);
	check_same(alias(WB)[SECOND], NEW, "and for the processor", WB);

	reset();
	alias(WB)[FIRST] = OTHER;
	store_streaming(alias(WB) + SECOND, NEW);
	store_fence();
	check_same(alias(UC)[FIRST], OTHER, "MOVNTI to a dirty line writes it back", WB);
	check_same(alias(UC)[SECOND], NEW, "before what it stores", WB);
}

static void cache_disable(void)
{
	reset();
	alias(WB)[FIRST] = NEW;
	disable_caches();
	check_same(alias(WB)[FIRST], NEW, "CR0.CD: hits are hits", WB);
	check_dirty(alias(UC)[FIRST], NEW, OLD, "CR0.CD: what is dirty stays so", UC);
	flush_all(NULL);
	check_same(alias(UC)[FIRST], NEW, "until it is flushed", UC);
	alias(WB)[FIRST] = OTHER;
	check_same(alias(UC)[FIRST], OTHER, "CR0.CD: a store that misses is in memory", UC);
	alias(UC)[FIRST] = NEW;
	check_same(alias(WB)[FIRST], NEW, "CR0.CD: a load that misses comes from there", WB);
	enable_caches();
	check_same(alias(WB)[FIRST], NEW, "the same with the cache", WB);
}

static void range_register(void)
{
	reset();
	alias(WB)[FIRST] = NEW;
	make_range_uncached((u64)page);
	check_dirty(alias(WB)[FIRST], NEW, OLD, "UC by MTRR: a load is from memory", UC);
	flush_all(NULL);
	check_same(alias(WB)[FIRST], NEW, "UC by MTRR: which has it after WBINVD", UC);
	alias(WB)[FIRST] = OTHER;
	check_same(alias(WT)[FIRST], OTHER, "UC by MTRR, WT by PAT is UC", WT);
	release_range();
	check_same(alias(WB)[FIRST], OTHER, "cached again: nothing old is left", WB);
}

static u32 call(volatile u8 *code)
{
	return ((u32(*)(void))(u64)code)();
}

/* mov eax, NUMBER; ret */
static void put_code(volatile u8 *at, u8 number)
{
	static const u8 code[] = { 0xb8, 0, 0, 0, 0, 0xc3 };

	for (u32 i = 0; i < sizeof(code); i++)
		at[i] = code[i];
	at[1] = number;
}

static void code(void)
{
	volatile u8 *cached = alias(WB) + CODE, *past = alias(UC) + CODE;

	put_code(cached, OLD);
	flush(cached);
	fence();
	check_same(call(cached), OLD, "code runs from the cache", WB);
	cached[1] = OTHER;
	check_same(call(cached), OTHER, "code that is changed through the cache", WB);
	check_dirty(call(past), OTHER, OLD, "code is fetched from memory while the cache has newer", UC);
	flush(cached);
	fence();
	check_same(call(past), OTHER, "and the same when that is flushed", UC);
	check_same(call(cached), OTHER, "it is in the cache again", WB);
	past[1] = NEW;
	check_same(call(past), NEW, "code that is changed past the cache", UC);
	check_either(call(cached), NEW, OTHER, "the cache knows nothing of that", WB);
	flush(cached);
	fence();
	check_same(call(cached), NEW, "until it is flushed", WB);
}

void main(void)
{
	static const char *const words[] = { "coherent", "cached", "through", "any" };
	const char *word = last_word();

	while (machine <= ANY && strcmp(words[machine], word))
		machine++;
	if (machine > ANY)
		fatal("the command line ends with coherent, cached, through or any");
	make_aliases();
	loads();
	stores();
	maintenance();
	non_temporal();
	cache_disable();
	range_register();
	code();
}
