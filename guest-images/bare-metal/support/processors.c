/* The local APIC, and the other processors. */
#include "support.h"

#define APIC_ADDRESS_BITS 0xffffff000ull
#define X2APIC_MSR 0x800
#define SPURIOUS_ENABLE 0x1ff

extern u8 trampoline[], trampoline_end[];
_Noreturn void serve(u32 cpu);

/* One processor's mailbox. */
static struct {
	void (*volatile function)(u64);
	volatile u64 argument;
	volatile u32 apic_id;
	volatile bool running;
} mailboxes[MAX_CPUS];
static volatile u32 processors = 1;

void delay(u64 ticks)
{
	u64 start = read_tsc();

	while (read_tsc() - start < ticks)
		pause();
}

u32 cpu_index(void)
{
	u16 selector;

	asm volatile("str %0" : "=r"(selector));
	return selector < TASK_SELECTOR ? 0 : (selector - TASK_SELECTOR) / 16;
}

static bool is_x2apic(void)
{
	return read_msr(MSR_APIC_BASE) & APIC_BASE_X2APIC;
}

static volatile u32 *apic_page(u32 reg)
{
	return (volatile u32 *)((read_msr(MSR_APIC_BASE) & APIC_ADDRESS_BITS) + reg);
}

u32 apic_read(u32 reg)
{
	return is_x2apic() ? read_msr(X2APIC_MSR + reg / 16) : *apic_page(reg);
}

void apic_write(u32 reg, u32 value)
{
	if (is_x2apic())
		write_msr(X2APIC_MSR + reg / 16, value);
	else
		*apic_page(reg) = value;
}

void apic_send(u32 destination, u32 command)
{
	if (is_x2apic()) {
		write_msr(X2APIC_MSR + APIC_ICR / 16, (u64)destination << 32 | command);
		return;
	}
	*apic_page(APIC_ICR_HIGH) = destination << 24;
	*apic_page(APIC_ICR) = command;
	while (*apic_page(APIC_ICR) & ICR_PENDING)
		pause();
}

void apic_eoi(void)
{
	apic_write(APIC_EOI, 0);
}

u32 apic_id(void)
{
	u32 id = apic_read(APIC_ID);

	return is_x2apic() ? id : id >> 24;
}

u32 apic_id_of(u32 cpu)
{
	return cpu == 0 ? apic_id() : mailboxes[cpu].apic_id;
}

/* How many processors there are, by CPUID's topology. */
static u32 present(void)
{
	return cpuid(0xb, 1).ebx & 0xffff;
}

u32 start_processors(void)
{
	u64 start;

	memcpy((void *)TRAMPOLINE, trampoline, trampoline_end - trampoline);
	apic_write(APIC_SPIV, SPURIOUS_ENABLE);
	apic_send(0, ICR_OTHERS | ICR_ASSERT | ICR_LEVEL | ICR_INIT);
	apic_send(0, ICR_OTHERS | ICR_LEVEL | ICR_INIT);
	apic_send(0, ICR_OTHERS | ICR_ASSERT | ICR_STARTUP | TRAMPOLINE >> 12);
	for (start = read_tsc(); processors < present() && read_tsc() - start < START_TIME;)
		pause();
	return processors;
}

/* What processors that are not the boot processor do. */
void serve(u32 cpu)
{
	apic_write(APIC_SPIV, SPURIOUS_ENABLE);
	mailboxes[cpu].apic_id = apic_id();
	__atomic_add_fetch(&processors, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		while (!mailboxes[cpu].running)
			pause();
		mailboxes[cpu].function(mailboxes[cpu].argument);
		__atomic_store_n(&mailboxes[cpu].running, false, __ATOMIC_RELEASE);
	}
}

void start_on(u32 cpu, void (*function)(u64), u64 argument)
{
	wait_for(cpu);
	mailboxes[cpu].function = function;
	mailboxes[cpu].argument = argument;
	__atomic_store_n(&mailboxes[cpu].running, true, __ATOMIC_RELEASE);
}

void wait_for(u32 cpu)
{
	while (__atomic_load_n(&mailboxes[cpu].running, __ATOMIC_ACQUIRE))
		pause();
}

void run_on(u32 cpu, void (*function)(u64), u64 argument)
{
	start_on(cpu, function, argument);
	wait_for(cpu);
}
