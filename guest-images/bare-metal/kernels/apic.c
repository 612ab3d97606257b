/*
 * The local APIC (SDM volume 3A, chapter 11): modes and their transitions, IDs, priorities, every way to address an
 * interrupt, NMIs, and the timer's modes.
 *
 * run: --cpus 4 --memory 64M
 */
#include "support.h"

#define CPUS 4
#define VECTOR 0x60
#define LOW_VECTOR 0x41
#define CPUID_APIC (1u << 9)
#define X2APIC_MSR 0x800
#define MSR_SELF_IPI 0x83f
#define MSR_TSC_DEADLINE 0x6e0
#define ERROR_SEND_ILLEGAL_VECTOR 0x20
#define TIMER_PERIODIC (1u << 17)
#define TIMER_DEADLINE (2u << 17)
#define MASKED (1u << 16)
#define WAIT 200000

static volatile u32 taken[CPUS][256];
static volatile u32 order[4], ordered;
static volatile bool send_nmis;

static void count_and_end(struct frame *frame)
{
	taken[cpu_index()][frame->vector]++;
	if (ordered < 4)
		order[ordered++] = frame->vector;
	apic_eoi();
}

static void count_nmi(struct frame *frame)
{
	u32 cpu = cpu_index();

	(void)frame;
	taken[cpu][VECTOR_NMI]++;
	if (send_nmis && taken[cpu][VECTOR_NMI] == 1)
		for (u32 i = 0; i < 5; i++)
			apic_send(apic_id(), ICR_NMI | ICR_ASSERT);
}

/* ---- IA32_APIC_BASE ---- */

static void set_base(u64 clear, u64 set)
{
	write_msr(MSR_APIC_BASE, (read_msr(MSR_APIC_BASE) & ~clear) | set);
}

static void refused(u64 clear, u64 set, const char *what)
{
	u64 old = read_msr(MSR_APIC_BASE);

	check_fault(write_msr_checked(MSR_APIC_BASE, (old & ~clear) | set), VECTOR_GP, 0, what);
	check_equal(read_msr(MSR_APIC_BASE), old, "%s: nothing has changed", what);
}

static void check_modes(void)
{
	const u64 mode = APIC_BASE_ENABLE | APIC_BASE_X2APIC;
	volatile u32 *page = (volatile u32 *)0xfee00000;
	u32 version = apic_read(APIC_VERSION);
	u64 physical_bits = cpuid(0x80000008, 0).eax & 0xff, value;

	check(version >> 16 >= 5 && (version & 0xff) >= 0x10 && (version & 0xff) <= 0x15, "version 0x%x", version);
	refused(0, 1, "a reserved bit");
	refused(0, 1ull << physical_bits, "an address beyond MAXPHYADDR");
	refused(APIC_BASE_ENABLE, APIC_BASE_X2APIC, "xAPIC to the invalid state");
	check_fault(read_msr_checked(X2APIC_MSR + 2, &value), VECTOR_GP, 0, "an x2APIC register in xAPIC mode");

	set_base(mode, mode);
	check(apic_id() == cpuid(0xb, 0).edx, "x2APIC: the ID is leaf 0BH's");
	check_equal(page[APIC_VERSION / 4], ~0u, "x2APIC: the page is gone");
	refused(mode, APIC_BASE_X2APIC, "x2APIC to the invalid state");
	refused(mode, APIC_BASE_ENABLE, "x2APIC to xAPIC");
	check_fault(write_msr_checked(X2APIC_MSR + 2, 0), VECTOR_GP, 0, "x2APIC: the ID is read-only");
	check_fault(write_msr_checked(X2APIC_MSR + 0x0b, 1), VECTOR_GP, 0, "x2APIC: EOI takes 0 only");
	check_fault(write_msr_checked(X2APIC_MSR + 0x0f, 1u << 13), VECTOR_GP, 0, "x2APIC: a reserved bit of SVR");
	check_fault(read_msr_checked(X2APIC_MSR + 0x0e, &value), VECTOR_GP, 0, "x2APIC: there is no DFR");
	check_fault(read_msr_checked(X2APIC_MSR + 0x31, &value), VECTOR_GP, 0, "x2APIC: there is no high half of ICR");
	check_fault(write_msr_checked(X2APIC_MSR + 0x30, 1ull << 20), VECTOR_GP, 0, "x2APIC: a reserved bit of ICR");
	check_equal(read_msr(X2APIC_MSR + 0x0d), 1u << (apic_id() & 15) | apic_id() >> 4 << 16, "x2APIC: logical ID");

	set_base(mode, 0);
	check(!(cpuid(1, 0).edx & CPUID_APIC), "disabled: CPUID has no APIC");
	check_equal(page[APIC_VERSION / 4], ~0u, "disabled: the page is gone");
	page[APIC_TPR / 4] = 0x55;
	write_cr8(5);
	check_equal(read_cr8(), 5, "disabled: CR8 is kept");
	write_cr8(0);
	refused(mode, APIC_BASE_X2APIC, "disabled to the invalid state");
	refused(mode, mode, "disabled to x2APIC");

	set_base(mode, APIC_BASE_ENABLE);
	check(cpuid(1, 0).edx & CPUID_APIC, "enabled: CPUID has the APIC");
	check_equal(page[APIC_VERSION / 4], version, "enabled: the page is back");
	check_equal(apic_read(APIC_SPIV), 0xff, "enabled: SVR as after reset");
	check_equal(apic_read(APIC_LVT_TIMER), MASKED, "enabled: LVT as after reset");
	check_equal(apic_read(APIC_DFR), ~0u, "enabled: DFR as after reset");

	write_msr(MSR_APIC_BASE, 0xfed40000 | APIC_BASE_ENABLE | APIC_BASE_BSP);
	check_equal(((volatile u32 *)0xfed40000)[APIC_VERSION / 4], version, "the page moves");
	write_msr(MSR_APIC_BASE, 0xfee00000 | APIC_BASE_ENABLE | APIC_BASE_BSP);
	apic_write(APIC_SPIV, 0x1ff);
}

/* ---- Priorities ---- */

static void check_priorities(void)
{
	apic_write(APIC_TPR, 0x60);
	check_equal(read_cr8(), 6, "CR8 mirrors the TPR");
	write_cr8(7);
	check_equal(apic_read(APIC_TPR), 0x70, "the TPR mirrors CR8");
	check_equal(apic_read(APIC_PPR), 0x70, "the PPR follows the TPR");
	apic_send(0, ICR_SELF | VECTOR);
	interrupt_window();
	check_equal(taken[0][VECTOR], 0, "an interrupt of a lower class waits");
	check(apic_read(APIC_IRR + 0x10 * (VECTOR / 32)) & 1u << VECTOR % 32, "its IRR bit is set");
	write_cr8(5);
	interrupt_window();
	check_equal(taken[0][VECTOR], 1, "it comes when the TPR is lowered");
	write_cr8(0);

	ordered = 0;
	apic_send(0, ICR_SELF | LOW_VECTOR);
	apic_send(0, ICR_SELF | VECTOR);
	apic_send(0, ICR_SELF | VECTOR);
	interrupt_window();
	interrupt_window();
	check(ordered == 2 && order[0] == VECTOR && order[1] == LOW_VECTOR, "the higher vector is first, and once");

	apic_write(APIC_ESR, 0);
	apic_send(0, ICR_SELF | 5);
	apic_write(APIC_ESR, 0);
	check_equal(apic_read(APIC_ESR), ERROR_SEND_ILLEGAL_VECTOR, "a vector below 16 is an error of the sender");
	apic_write(APIC_ESR, 0);
	check_equal(apic_read(APIC_ESR), 0, "and the error is gone after the next write");
}

/* ---- Addressing ---- */

static void rest(u64 ticks)
{
	interrupts_on();
	delay(ticks);
	interrupts_off();
}

/* Sends while all others have interrupts on, and checks who got it: a bit for each processor. */
static void check_targets(u32 destination, u32 command, u32 expected, const char *what)
{
	u32 got = 0;

	for (u32 cpu = 0; cpu < CPUS; cpu++)
		taken[cpu][VECTOR] = 0;
	for (u32 cpu = 1; cpu < CPUS; cpu++)
		start_on(cpu, rest, 3 * WAIT);
	delay(WAIT / 2);
	apic_send(destination, command | ICR_ASSERT | VECTOR);
	rest(WAIT);
	for (u32 cpu = 1; cpu < CPUS; cpu++)
		wait_for(cpu);
	for (u32 cpu = 0; cpu < CPUS; cpu++)
		got |= (taken[cpu][VECTOR] == 1) << cpu | (taken[cpu][VECTOR] > 1) << (cpu + 16);
	check_equal(got, expected, "%s", what);
}

static void set_logical_id(u64 model)
{
	apic_write(APIC_DFR, model);
	/* Flat: a bit each. Cluster: clusters of two. */
	apic_write(APIC_LDR, model >> 28 == 0xf ? 1u << (24 + cpu_index()) :
						 (cpu_index() / 2) << 28 | 1u << (24 + cpu_index() % 2));
}

static void on_all(void (*function)(u64), u64 argument)
{
	for (u32 cpu = 1; cpu < CPUS; cpu++)
		run_on(cpu, function, argument);
	function(argument);
}

static void raise_priority(u64 priority)
{
	write_cr8(priority);
}

static void enter_x2apic(u64 unused)
{
	(void)unused;
	set_base(0, APIC_BASE_X2APIC);
}

static void check_addressing(void)
{
	check_targets(apic_id_of(2), 0, 1 << 2, "physical");
	check_targets(0xff, 0, 0xf, "physical broadcast");
	check_targets(0, ICR_ALL, 0xf, "shorthand: all");
	check_targets(0, ICR_OTHERS, 0xe, "shorthand: all but self");
	check_targets(0, ICR_SELF, 1, "shorthand: self");
	check_targets(0x55, 0, 0, "an ID that nobody has");
	on_all(set_logical_id, 0xffffffff);
	check_targets(0x0a, ICR_LOGICAL, 0xa, "logical, flat");
	check_targets(0xff, ICR_LOGICAL, 0xf, "logical, flat, broadcast");
	run_on(3, raise_priority, 1);
	run_on(1, raise_priority, 2);
	check_targets(0x0a, ICR_LOGICAL | ICR_LOWEST, 1 << 3, "lowest priority");
	run_on(3, raise_priority, 0);
	run_on(1, raise_priority, 0);
	on_all(set_logical_id, 0x0fffffff);
	check_targets(0x12, ICR_LOGICAL, 1 << 3, "logical, cluster");
	check_targets(0x13, ICR_LOGICAL, 0xc, "logical, cluster, two of it");
	check_targets(0xff, ICR_LOGICAL, 0xf, "logical, cluster, broadcast");

	on_all(enter_x2apic, 0);
	check_targets(apic_id_of(3), 0, 1 << 3, "x2APIC: physical");
	check_targets(0xffffffff, 0, 0xf, "x2APIC: broadcast");
	check_targets(0x0006, ICR_LOGICAL, 0x6, "x2APIC: logical");
	check_targets(0x10001, ICR_LOGICAL, 0, "x2APIC: another cluster");
	check_targets(0, ICR_OTHERS, 0xe, "x2APIC: all but self");
	taken[0][VECTOR] = 0;
	write_msr(MSR_SELF_IPI, VECTOR);
	interrupt_window();
	check_equal(taken[0][VECTOR], 1, "x2APIC: self IPI");
}

/* ---- NMIs ---- */

static void check_nmis(void)
{
	set_handler(VECTOR_NMI, count_nmi);
	start_on(1, rest, WAIT);
	apic_send(apic_id_of(1), ICR_NMI | ICR_ASSERT);
	wait_for(1);
	check_equal(taken[1][VECTOR_NMI], 1, "an NMI reaches another processor");
	start_on(2, delay, WAIT);
	apic_send(apic_id_of(2), ICR_NMI | ICR_ASSERT);
	wait_for(2);
	check_equal(taken[2][VECTOR_NMI], 1, "also with interrupts off");
	send_nmis = true;
	apic_send(apic_id(), ICR_NMI | ICR_ASSERT);
	delay(1000);
	check_equal(taken[0][VECTOR_NMI], 2, "of the NMIs that come during one, one is kept");
	set_handler(VECTOR_NMI, NULL);
}

/* ---- Timer ---- */

static void check_timer(void)
{
	u64 start;
	u32 left;

	taken[0][VECTOR] = 0;
	apic_write(APIC_TIMER_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, VECTOR);
	start = read_tsc();
	apic_write(APIC_TIMER_INITIAL, 1000000);
	left = apic_read(APIC_TIMER_CURRENT);
	check(left != 0 && left <= 1000000, "the timer counts: %u left", left);
	interrupts_on();
	while (!taken[0][VECTOR])
		pause();
	interrupts_off();
	check(read_tsc() - start >= 1000000, "one-shot: not too early");
	check_equal(apic_read(APIC_TIMER_CURRENT), 0, "one-shot: it stays at 0");
	rest(3000000);
	check_equal(taken[0][VECTOR], 1, "one-shot: once");

	apic_write(APIC_LVT_TIMER, VECTOR | TIMER_PERIODIC);
	apic_write(APIC_TIMER_INITIAL, 1000000);
	rest(10500000);
	check_equal(taken[0][VECTOR], 11, "periodic: ten times in ten periods");
	check_equal(apic_read(APIC_TIMER_INITIAL), 1000000, "periodic: the initial count stays");
	apic_write(APIC_TIMER_INITIAL, 0);
	rest(3000000);
	check_equal(taken[0][VECTOR], 11, "an initial count of 0 stops it");
	apic_write(APIC_TIMER_DIVIDE, 0);
	apic_write(APIC_TIMER_INITIAL, 1000000);
	rest(1500000);
	check_equal(taken[0][VECTOR], 11, "divided by two it takes longer");
	rest(1000000);
	check_equal(taken[0][VECTOR], 12, "but comes");
	apic_write(APIC_TIMER_INITIAL, 0);

	apic_write(APIC_LVT_TIMER, VECTOR | TIMER_DEADLINE);
	write_msr(MSR_TSC_DEADLINE, read_tsc() + 1000000);
	check(read_msr(MSR_TSC_DEADLINE) != 0, "a deadline waits");
	rest(500000);
	check_equal(taken[0][VECTOR], 12, "deadline: not before it");
	rest(1000000);
	check_equal(taken[0][VECTOR], 13, "deadline: at it");
	check_equal(read_msr(MSR_TSC_DEADLINE), 0, "deadline: it is cleared");
	write_msr(MSR_TSC_DEADLINE, read_tsc());
	interrupt_window();
	check_equal(taken[0][VECTOR], 14, "a deadline in the past comes at once");
	write_msr(MSR_TSC_DEADLINE, read_tsc() + 1000000);
	write_msr(MSR_TSC_DEADLINE, 0);
	rest(2000000);
	check_equal(taken[0][VECTOR], 14, "a deadline of 0 disarms it");
}

void main(void)
{
	check_equal(start_processors(), CPUS, "processors");
	set_handler(VECTOR, count_and_end);
	set_handler(LOW_VECTOR, count_and_end);
	check_modes();
	check_priorities();
	check_nmis();
	check_addressing();
	check_timer();
}
