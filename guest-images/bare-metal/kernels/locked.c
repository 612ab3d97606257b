/* Locked operations: split over lines and pages, 16-byte compare-exchange, and between processors.
 *
 * run: --cpus 2
 */
#include "support.h"

#define ROUNDS 20000

static u64 page;

static void across_pages(void)
{
	volatile u32 *split = (u32 *)(page + 4096 - 2);
	volatile u64 *split8 = (u64 *)(page + 4096 - 4);
	u64 *second = page_entry(page + 4096), saved = *second;
	u64 expected = 0x1122334455667788;
	bool exchanged;

	*split = 0xfffffffe;
	asm volatile("lock incl %0" : "+m"(*split));
	check_equal(*split, 0xffffffff, "LOCK INC over a page's end");
	*split8 = 0x1122334455667788;
	asm volatile("lock cmpxchg %3, %1; sete %0"
		     : "=q"(exchanged), "+m"(*split8), "+a"(expected) : "r"(0x99aabbccddeeff00ull) : "cc");
	check(exchanged && *split8 == 0x99aabbccddeeff00ull, "LOCK CMPXCHG over a page's end");

	*second &= ~PAGE_WRITABLE;
	invalidate_page((void *)(page + 4096));
	*(volatile u16 *)(page + 4094) = 0x1234;
	clear_fault();
	asm volatile(RECOVER("lock addl $1, (%0)") : : "r"(split) : "memory", "cc");
	check_fault(last_fault(), VECTOR_PF, 3, "into a page that is read-only");
	check_equal(*(volatile u16 *)(page + 4094), 0x1234, "nothing has changed in the first");
	/* A comparison that fails writes back what it has read: it faults as well. */
	expected = 0;
	clear_fault();
	asm volatile(RECOVER("lock cmpxchg %1, (%2)") : "+a"(expected) : "r"(1ull), "r"(page + 4096) : "memory", "cc");
	check_fault(last_fault(), VECTOR_PF, 3, "a failing LOCK CMPXCHG of a read-only page");
	*second = saved;
	invalidate_page((void *)(page + 4096));
}

static void sixteen_bytes(void)
{
	volatile u64 *pair = (u64 *)page;
	u64 low = 1, high = 2;
	bool exchanged;

	pair[0] = 1;
	pair[1] = 2;
	asm volatile("lock cmpxchg16b %1; sete %0"
		     : "=q"(exchanged), "+m"(*(volatile unsigned __int128 *)pair), "+a"(low), "+d"(high)
		     : "b"(3ull), "c"(4ull) : "cc");
	check(exchanged && pair[0] == 3 && pair[1] == 4, "CMPXCHG16B of equals");
	asm volatile("lock cmpxchg16b %1; sete %0"
		     : "=q"(exchanged), "+m"(*(volatile unsigned __int128 *)pair), "+a"(low), "+d"(high)
		     : "b"(5ull), "c"(6ull) : "cc");
	check(!exchanged && low == 3 && high == 4 && pair[0] == 3, "CMPXCHG16B of others loads RDX:RAX");
	clear_fault();
	asm volatile(RECOVER("cmpxchg16b 8(%0)") : "+r"(pair) : "a"(0), "d"(0), "b"(0), "c"(0) : "memory", "cc");
	check_fault(last_fault(), VECTOR_GP, 0, "CMPXCHG16B that is not aligned");
	clear_fault();
	asm volatile(RECOVER("lock cmpxchg8b 1(%0)") : "+r"(pair) : "a"(0), "d"(0), "b"(0), "c"(0) : "memory", "cc");
	check_no_fault(last_fault(), "CMPXCHG8B need not be");
}

static volatile u64 counters[5] __attribute__((aligned(64)));
static volatile u32 odd_counter[2] __attribute__((aligned(64)));

static void count(u64 offset)
{
	for (u32 i = 0; i < ROUNDS; i++) {
		asm volatile("lock incq %0" : "+m"(counters[0]));
		__atomic_fetch_add(&counters[1], 3, __ATOMIC_SEQ_CST);
		for (;;) {
			u64 old = counters[2];

			if (__atomic_compare_exchange_n(&counters[2], &old, old + 1, false, __ATOMIC_SEQ_CST,
							__ATOMIC_SEQ_CST))
				break;
		}
		asm volatile("lock addl $1, %0" : "+m"(*(volatile u32 *)((u64)odd_counter + 1)));
	}
	(void)offset;
}

void main(void)
{
	page = (u64)new_page();
	if ((u64)new_page() != page + 4096)
		fatal("two pages in a row are needed");
	across_pages();
	sixteen_bytes();

	check_equal(start_processors(), 2, "processors");
	start_on(1, count, 0);
	count(0);
	wait_for(1);
	check_equal(counters[0], 2 * ROUNDS, "LOCK INC on two processors");
	check_equal(counters[1], 2 * 3 * ROUNDS, "LOCK XADD on two processors");
	check_equal(counters[2], 2 * ROUNDS, "LOCK CMPXCHG on two processors");
	check_equal(*(volatile u32 *)((u64)odd_counter + 1), 2 * ROUNDS, "LOCK ADD that is not aligned");
}
