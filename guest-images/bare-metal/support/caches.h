/* Memory types and cache maintenance (SDM volume 3, chapter 12). */
#ifndef CACHES_H
#define CACHES_H

#include "support.h"

/* In the order in which set_types() puts them into PAT. */
enum type { WB, WT, WP, WC, UC_MINUS, UC, TYPES };
extern const char *const type_names[TYPES];

bool is_cached(enum type type);
/* Has entry n of PAT be type n. */
void set_types(void);
/* Maps the page at linear address to a frame with a type, and drops what there was. */
void map_as(u64 address, u64 frame, enum type type);

/* CR0.CD, with nothing flushed. */
void disable_caches(void);
void enable_caches(void);
/* The first variable-range MTRR makes a page of physical memory UC; or nothing. */
void make_range_uncached(u64 frame);
void release_range(void);

/* The last word of the command line; the whole of it without a blank. */
const char *last_word(void);

static inline void flush(volatile void *address)
{
	asm volatile("clflush (%0)" : : "r"(address) : "memory");
}

static inline void flush_weakly(volatile void *address)
{
	asm volatile("clflushopt (%0)" : : "r"(address) : "memory");
}

static inline void clean_weakly(volatile void *address)
{
	asm volatile("clwb (%0)" : : "r"(address) : "memory");
}

static inline void flush_all(volatile void *unused)
{
	(void)unused;
	asm volatile("wbinvd" : : : "memory");
}

static inline void fence(void)
{
	asm volatile("mfence" : : : "memory");
}

static inline void store_fence(void)
{
	asm volatile("sfence" : : : "memory");
}

static inline void store_streaming(volatile void *address, u32 value)
{
	asm volatile("movnti %1, (%0)" : : "r"(address), "r"(value) : "memory");
}

#endif
