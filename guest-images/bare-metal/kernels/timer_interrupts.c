/*
 * Timers as an operating system uses them: the 8254 through the IO-APIC, the local APIC's timer in both modes, HLT that
 * an interrupt ends, and the task priority that holds one back (82093AA data sheet; SDM volume 3, 11.5.4 and 11.8.3).
 */
#include "support.h"

#define IO_APIC 0xfec00000ull
#define REDIRECTION(pin) (0x10 + 2 * (pin))
#define MASKED (1u << 16)
/* ISA interrupt 0, as the ACPI tables override it. */
#define PIT_PIN 2

#define PIT_CHANNEL_0 0x40
#define PIT_CONTROL 0x43
#define PIT_RATE 0x34
#define PIT_ONE_SHOT 0x30

#define VECTOR_PIT 0x40
#define VECTOR_APIC 0x50
#define VECTOR_SELF 0x60

/* TSC ticks: some milliseconds, and more than any of the timers here takes. */
#define SHORT 10000000ull
#define LONG 2000000000ull

#define SOFTWARE_ENABLE 0x1ff
#define LVT_PERIODIC (1u << 17)
#define DIVIDE_BY_16 3

static volatile u32 pits, timers, selves;

static void on_pit(struct frame *frame)
{
	(void)frame;
	pits++;
	apic_eoi();
}

static void on_timer(struct frame *frame)
{
	(void)frame;
	timers++;
	apic_eoi();
}

static void on_self(struct frame *frame)
{
	(void)frame;
	selves++;
	apic_eoi();
}

/*
 * Leaves interrupts on until the counter is at least that, or for LONG ticks. A window of one instruction would do for a
 * processor; an interpreter of kernel code looks for interrupts less often.
 */
static void await(volatile u32 *counter, u32 least)
{
	u64 start = read_tsc();

	interrupts_on();
	while (*counter < least && read_tsc() - start < LONG)
		pause();
	interrupts_off();
}

/* Halts until the counter is at least that. */
static void halt_until(volatile u32 *counter, u32 least)
{
	u32 before;

	while ((before = *counter) < least) {
		halt_for_interrupt();
		await(counter, before + 1);
	}
}

/* Leaves interrupts on for a while in which none should come. */
static void idle(void)
{
	interrupts_on();
	delay(SHORT);
	interrupts_off();
}

static u32 io_apic_read(u32 index)
{
	*(volatile u32 *)IO_APIC = index;
	return *(volatile u32 *)(IO_APIC + 0x10);
}

static void io_apic_write(u32 index, u32 value)
{
	*(volatile u32 *)IO_APIC = index;
	*(volatile u32 *)(IO_APIC + 0x10) = value;
}

static void start_pit(u8 mode, u16 count)
{
	out8(PIT_CONTROL, mode);
	out8(PIT_CHANNEL_0, count);
	out8(PIT_CHANNEL_0, count >> 8);
}

static void io_apic(void)
{
	check(io_apic_read(1) >> 16 >= 23, "the IO-APIC has 24 inputs");
	io_apic_write(REDIRECTION(PIT_PIN) + 1, apic_id() << 24);
	io_apic_write(REDIRECTION(PIT_PIN), MASKED | VECTOR_PIT);
	check_equal(io_apic_read(REDIRECTION(PIT_PIN)) & ~0x5000u, MASKED | VECTOR_PIT, "an entry reads as written");

	start_pit(PIT_RATE, 1193);
	idle();
	check_equal(pits, 0, "a masked input does not interrupt");
	io_apic_write(REDIRECTION(PIT_PIN), VECTOR_PIT);
	halt_until(&pits, 5);
	check(pits >= 5, "the 8254 ends HLT again and again at its rate");
	io_apic_write(REDIRECTION(PIT_PIN), MASKED | VECTOR_PIT);
	start_pit(PIT_ONE_SHOT, 65535);
	idle();

	pits = 0;
	io_apic_write(REDIRECTION(PIT_PIN), VECTOR_PIT);
	start_pit(PIT_ONE_SHOT, 1193);
	halt_until(&pits, 1);
	check_equal(pits, 1, "a one-shot of the 8254");
	idle();
	check_equal(pits, 1, "comes once");
	io_apic_write(REDIRECTION(PIT_PIN), MASKED | VECTOR_PIT);
}

static void local_timer(void)
{
	apic_write(APIC_TIMER_DIVIDE, DIVIDE_BY_16);
	apic_write(APIC_LVT_TIMER, VECTOR_APIC);
	apic_write(APIC_TIMER_INITIAL, 10000);
	check(apic_read(APIC_TIMER_CURRENT) <= 10000, "the local APIC's timer counts down");
	halt_until(&timers, 1);
	check_equal(timers, 1, "its interrupt ends HLT");
	check_equal(apic_read(APIC_TIMER_CURRENT), 0, "the count stays at 0");
	apic_write(APIC_LVT_TIMER, LVT_PERIODIC | VECTOR_APIC);
	apic_write(APIC_TIMER_INITIAL, 20000);
	halt_until(&timers, 6);
	check(timers >= 6, "in periodic mode it comes again and again");
	apic_write(APIC_TIMER_INITIAL, 0);
	idle();
	timers = 0;
	idle();
	check_equal(timers, 0, "a count of 0 stops it");
}

static void priority(void)
{
	apic_send(0, ICR_SELF | VECTOR_SELF);
	check(apic_read(APIC_IRR + 0x10 * (VECTOR_SELF / 32)) & 1u << (VECTOR_SELF % 32), "a self IPI is requested");
	check_equal(selves, 0, "it waits while interrupts are off");
	await(&selves, 1);
	check_equal(selves, 1, "it comes with them");
	apic_write(APIC_TPR, VECTOR_SELF);
	check_equal(read_cr8(), VECTOR_SELF >> 4, "CR8 is the task priority's class");
	apic_send(0, ICR_SELF | VECTOR_SELF);
	idle();
	check_equal(selves, 1, "the task priority holds it back");
	write_cr8(0);
	await(&selves, 2);
	check_equal(selves, 2, "a lower one lets it come");
	check_equal(apic_read(APIC_TPR), 0, "the task priority is CR8's");
}

void main(void)
{
	set_handler(VECTOR_PIT, on_pit);
	set_handler(VECTOR_APIC, on_timer);
	set_handler(VECTOR_SELF, on_self);
	apic_write(APIC_SPIV, SOFTWARE_ENABLE);
	/* The 8259s stay out of it. */
	out8(0x21, 0xff);
	out8(0xa1, 0xff);
	io_apic();
	local_timer();
	priority();
}
