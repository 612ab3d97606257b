/*
 * Processors: they start by INIT and start-up IPIs, share memory atomically, see one another's code and page tables, and
 * agree on identity and time.
 *
 * run: --cpus 4 --memory 64M
 */
#include "support.h"

#define CPUS 4
#define ROUNDS 2000
#define MSR_MTRR_DEF_TYPE 0x2ff
#define MSR_MTRR_PHYS_BASE_0 0x200
#define MSR_PAT 0x277

static volatile u64 shared_count, plain_count;
static lock_t counter_lock;
static volatile u32 turn;
static volatile u64 last_tsc;
static volatile u32 backwards;

static void count_atomically(u64 rounds)
{
	while (rounds--)
		asm volatile("lock incq %0" : "+m"(shared_count));
}

static void count_with_lock(u64 rounds)
{
	while (rounds--) {
		u64 seen;

		lock(&counter_lock);
		seen = plain_count;
		/* Long enough for a turn to end in between now and then. */
		for (volatile int i = 0; i < 5; i++)
			;
		plain_count = seen + 1;
		unlock(&counter_lock);
	}
}

static void on_all(void (*function)(u64), u64 argument)
{
	for (u32 cpu = 1; cpu < CPUS; cpu++)
		start_on(cpu, function, argument);
	function(argument);
	for (u32 cpu = 1; cpu < CPUS; cpu++)
		wait_for(cpu);
}

static void watch_time(u64 rounds)
{
	while (rounds--) {
		static lock_t time_lock;
		u64 now;

		lock(&time_lock);
		now = read_tsc();
		if (now < last_tsc)
			backwards++;
		last_tsc = now;
		unlock(&time_lock);
	}
}

/* ---- Identity ---- */

static struct {
	u32 initial_id, topology_id, logical, levels;
	u64 base, mtrr, mtrr_base, pat, cr0;
} identities[CPUS];

static void note_identity(u64 unused)
{
	u32 cpu = cpu_index();
	struct cpuid leaf = cpuid(1, 0);

	(void)unused;
	identities[cpu].initial_id = leaf.ebx >> 24;
	identities[cpu].logical = leaf.ebx >> 16 & 0xff;
	leaf = cpuid(0xb, 1);
	identities[cpu].topology_id = leaf.edx;
	identities[cpu].levels = leaf.ebx;
	identities[cpu].base = read_msr(MSR_APIC_BASE);
	identities[cpu].mtrr = read_msr(MSR_MTRR_DEF_TYPE);
	identities[cpu].mtrr_base = read_msr(MSR_MTRR_PHYS_BASE_0);
	identities[cpu].pat = read_msr(MSR_PAT);
	identities[cpu].cr0 = read_cr0();
}

static void check_identities(void)
{
	u32 ids = 0;

	on_all(note_identity, 0);
	for (u32 cpu = 0; cpu < CPUS; cpu++) {
		ids |= 1u << identities[cpu].initial_id;
		check_equal(identities[cpu].topology_id, identities[cpu].initial_id, "CPU %u: leaf 0BH ID", cpu);
		check_equal(identities[cpu].initial_id, apic_id_of(cpu), "CPU %u: local APIC ID", cpu);
		check_equal(identities[cpu].logical, CPUS, "CPU %u: IDs in the package", cpu);
		check_equal(identities[cpu].levels, CPUS, "CPU %u: processors in the package", cpu);
		check_equal(!!(identities[cpu].base & APIC_BASE_BSP), cpu == 0, "CPU %u: BSP flag", cpu);
		check_equal(identities[cpu].mtrr, identities[0].mtrr, "CPU %u: MTRR default type", cpu);
		check_equal(identities[cpu].mtrr_base, identities[0].mtrr_base, "CPU %u: variable MTRR", cpu);
		check_equal(identities[cpu].pat, identities[0].pat, "CPU %u: PAT", cpu);
		check_equal(identities[cpu].cr0, identities[0].cr0, "CPU %u: CR0", cpu);
	}
	check_equal(ids, (1u << CPUS) - 1, "every APIC ID once");
}

/* ---- Code that another processor changes ---- */

static u8 patched[16] __attribute__((aligned(64)));

/* mov $value, %eax; ret */
static void patch(u64 value)
{
	patched[1] = value;
	asm volatile("" : : : "memory");
}

static volatile u32 seen_value;

static void call_patched(u64 unused)
{
	u32 value;

	(void)unused;
	asm volatile("cpuid" : : "a"(0) : "rbx", "rcx", "rdx", "memory");
	asm volatile("call *%1" : "=a"(value) : "r"(patched) : "memory");
	seen_value = value;
}

static void check_changed_code(void)
{
	bool local = true, remote = true;

	memcpy(patched, (const u8[]){ 0xb8, 0, 0, 0, 0, 0xc3 }, 6);
	for (u32 value = 1; value <= 50; value++) {
		patch(value);
		run_on(1, call_patched, 0);
		remote &= seen_value == value;
		run_on(2, patch, value + 100);
		call_patched(0);
		local &= seen_value == value + 100;
	}
	check(remote, "another processor runs code as it was changed here");
	check(local, "code changed by another processor runs as changed");
}

/* ---- Translations ---- */

#define WINDOW 0x40000000ull

static volatile u64 seen_word;
static volatile u32 shot_down;

static void read_window(u64 unused)
{
	(void)unused;
	seen_word = *(volatile u64 *)WINDOW;
}

static void shoot_down(struct frame *frame)
{
	(void)frame;
	invalidate_page((void *)WINDOW);
	__atomic_add_fetch(&shot_down, 1, __ATOMIC_SEQ_CST);
	apic_eoi();
}

static void wait_in_hlt(u64 wanted)
{
	while (shot_down < wanted)
		halt_for_interrupt();
}

static void check_shootdown(void)
{
	u64 *entry = page_entry(WINDOW), *one = new_page(), *two = new_page();

	set_handler(0x40, shoot_down);
	*one = 1;
	*two = 2;
	*entry = (u64)one | PAGE_PRESENT | PAGE_WRITABLE;
	invalidate_page((void *)WINDOW);
	run_on(1, read_window, 0);
	check_equal(seen_word, 1, "the window shows the first page");
	*entry = (u64)two | PAGE_PRESENT | PAGE_WRITABLE;
	start_on(1, wait_in_hlt, 1);
	delay(20000);
	apic_send(apic_id_of(1), 0x40 | ICR_ASSERT);
	wait_for(1);
	run_on(1, read_window, 0);
	check_equal(seen_word, 2, "after the shootdown it shows the second");
	check(*entry & PAGE_ACCESSED, "the walk set the accessed flag");
	set_handler(0x40, NULL);
}

/* ---- A processor that is started again ---- */

static void spin_for_ever(u64 unused)
{
	(void)unused;
	turn = 1;
	for (;;)
		pause();
}

void main(void)
{
	check_equal(start_processors(), CPUS, "processors that start");
	check_identities();

	on_all(count_atomically, ROUNDS);
	check_equal(shared_count, CPUS * ROUNDS, "LOCK INC by all");
	on_all(count_with_lock, ROUNDS);
	check_equal(plain_count, CPUS * ROUNDS, "increments under a lock by all");
	on_all(watch_time, ROUNDS);
	check_equal(backwards, 0, "the TSC never goes backwards from one processor to another");

	check_changed_code();
	check_shootdown();

	start_on(CPUS - 1, spin_for_ever, 0);
	while (!turn)
		pause();
	check(true, "a processor spins");
	apic_send(apic_id_of(CPUS - 1), ICR_INIT | ICR_ASSERT | ICR_LEVEL);
	apic_send(apic_id_of(CPUS - 1), ICR_STARTUP | ICR_ASSERT | TRAMPOLINE >> 12);
	for (u64 start = read_tsc(); apic_id_of(CPUS) != apic_id_of(CPUS - 1) && read_tsc() - start < START_TIME;)
		pause();
	check_equal(apic_id_of(CPUS), apic_id_of(CPUS - 1), "INIT and start-up bring it back, with the next index");
}
