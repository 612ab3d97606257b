/*
 * What the board has besides processors: firmware configuration, 8254, ACPI timer, real-time clock, 8259 pair, IO-APIC,
 * and the test device that drives the interrupt inputs.
 *
 * run: --cpus 2 --memory 64M
 */
#include "support.h"

/* ---- Firmware configuration (QEMU docs/specs/fw_cfg.rst) ---- */

#define FW_CFG 0x510
#define FW_CFG_DMA_LOW 0x518

static u64 fw_cfg(u16 key, u32 bytes)
{
	u64 value = 0;

	out16(FW_CFG, key);
	for (u32 i = 0; i < bytes; i++)
		value |= (u64)in8(FW_CFG + 1) << 8 * i;
	return value;
}

static void check_fw_cfg(void)
{
	static volatile u32 transfer[4] __attribute__((aligned(16)));
	static volatile char text[8];
	u8 directory[4 + 64];
	u16 key;

	check_equal(fw_cfg(0, 4), 0x554d4551, "fw_cfg: the signature is QEMU");
	check_equal(fw_cfg(1, 4), 3, "fw_cfg: port and DMA interface");
	check_equal(fw_cfg(3, 8), 64 << 20, "fw_cfg: RAM size");
	check_equal(fw_cfg(5, 2), 2, "fw_cfg: processors");
	check_equal(fw_cfg(0x0f, 2), 2, "fw_cfg: highest number of processors");
	out16(FW_CFG, 0x19);
	for (u32 i = 0; i < sizeof(directory); i++)
		directory[i] = in8(FW_CFG + 1);
	check(directory[3] >= 1 && !strcmp((char *)directory + 12, "etc/e820"), "fw_cfg: the first file is %s",
	      (char *)directory + 12);
	key = directory[8] << 8 | directory[9];
	check_equal(fw_cfg(key, 8), 0, "fw_cfg: the map's first range starts at 0");

	transfer[0] = __builtin_bswap32(0x0a);
	transfer[1] = __builtin_bswap32(4);
	transfer[2] = 0;
	transfer[3] = __builtin_bswap32((u32)(u64)text);
	out32(FW_CFG_DMA_LOW, __builtin_bswap32((u32)(u64)transfer));
	check_equal(transfer[0], 0, "fw_cfg: the transfer is done");
	check(!memcmp((const char *)text, "QEMU", 5), "fw_cfg: it has brought the signature");
}

/* ---- 8254, ports 0x40-0x43 and 0x61 ---- */

#define PIT_HZ 1193182
#define PORT_B 0x61

static u16 read_counter(u32 channel)
{
	u16 low;

	out8(0x43, channel << 6);
	low = in8(0x40 + channel);
	return low | in8(0x40 + channel) << 8;
}

static void load_counter(u32 channel, u32 mode, u16 count)
{
	out8(0x43, channel << 6 | 0x30 | mode << 1);
	out8(0x40 + channel, count & 0xff);
	out8(0x40 + channel, count >> 8);
}

static void check_pit(void)
{
	u64 start, ticks;
	u16 first, second;

	out8(PORT_B, (in8(PORT_B) & ~2) | 1);
	load_counter(2, 0, 11932);
	start = read_tsc();
	check(!(in8(PORT_B) & 0x20), "8254: mode 0 starts with the output low");
	while (!(in8(PORT_B) & 0x20))
		pause();
	ticks = read_tsc() - start;
	check(ticks > 9900000 && ticks < 10100000, "8254: 11932 counts are 10 ms (%lu TSC ticks at 1 GHz)", ticks);

	load_counter(2, 2, 1000);
	first = read_counter(2);
	delay(100000);
	second = read_counter(2);
	check(first <= 1000 && second < first && first - second > 100, "8254: mode 2 counts down by one");
	out8(PORT_B, in8(PORT_B) & ~1);
	first = read_counter(2);
	delay(100000);
	check_equal(read_counter(2), first, "8254: a low gate stops the count");

	out8(0x43, 0x36);
	out8(0x43, 0xe2);
	check_equal(in8(0x40) & 0x7f, 0x76, "8254: read-back of the status: mode 3, both bytes, no count yet");
	out8(0x40, 0);
	out8(0x40, 0x10);
	out8(0x43, 0xe2);
	check_equal(in8(0x40) & 0x7f, 0x36, "8254: and with a count");
	out8(0x43, 0xd2);
	first = in8(0x40);
	first |= in8(0x40) << 8;
	check(first <= 0x1000 && !(first & 1), "8254: mode 3 counts down by two");
}

/* ---- Waiting without executing: the other processor is not started yet, so time jumps ---- */

#define MSR_TSC_DEADLINE 0x6e0
#define DEADLINE_MODE (2u << 17)
#define WAKE_VECTOR 0x50

static void wake_up(struct frame *frame)
{
	(void)frame;
	apic_eoi();
}

static void sleep(u64 ticks)
{
	write_msr(MSR_TSC_DEADLINE, read_tsc() + ticks);
	halt_for_interrupt();
}

/* ---- ACPI timer and real-time clock ---- */

#define PM_TIMER 0x608

static u8 cmos(u8 index)
{
	out8(0x70, index);
	return in8(0x71);
}

static void check_time(void)
{
	u32 start = in32(PM_TIMER), count;
	u64 tsc = read_tsc();
	u8 second;

	while (read_tsc() - tsc < 10000000)
		pause();
	count = in32(PM_TIMER) - start;
	check(count >= 35795 && count < 36200, "ACPI timer: %u counts in 10 ms", count);

	check(cmos(0x0d) & 0x80, "RTC: the battery is good");
	while (cmos(0x0a) & 0x80)
		pause();
	second = cmos(0);
	check((second & 0xf) <= 9 && second <= 0x59 && cmos(4) <= 0x23 && cmos(0x32) >= 0x20, "RTC: the time is BCD");
	while (cmos(0) == second)
		sleep(1000000);
	second = cmos(0);
	tsc = read_tsc();
	while (cmos(0) == second)
		sleep(1000000);
	tsc = read_tsc() - tsc;
	check(tsc > 980000000 && tsc < 1020000000, "RTC: a second lasts %lu TSC ticks", tsc);
}

/* ---- Interrupts ---- */

#define TEST_LINES 0x2000
#define IO_APIC_SELECT (*(volatile u32 *)0xfec00000)
#define IO_APIC_DATA (*(volatile u32 *)0xfec00010)
#define LEVEL (1u << 15)
#define ACTIVE_LOW (1u << 13)
#define REMOTE_IRR (1u << 14)
#define MASKED (1u << 16)

static volatile u32 taken[256];
static volatile u32 last_vector;

static void count_and_end(struct frame *frame)
{
	taken[frame->vector]++;
	last_vector = frame->vector;
	apic_eoi();
}

static void count_only(struct frame *frame)
{
	taken[frame->vector]++;
}

static void count_and_lower(struct frame *frame)
{
	taken[frame->vector]++;
	out8(TEST_LINES + 20, 0);
	apic_eoi();
}

static u32 read_entry(u32 pin)
{
	IO_APIC_SELECT = 0x10 + 2 * pin;
	return IO_APIC_DATA;
}

static void write_entry(u32 pin, u32 destination, u32 low)
{
	IO_APIC_SELECT = 0x11 + 2 * pin;
	IO_APIC_DATA = destination << 24;
	IO_APIC_SELECT = 0x10 + 2 * pin;
	IO_APIC_DATA = low;
}

static void set_line(u32 line, bool high)
{
	out8(TEST_LINES + line, high);
}

static void pulse(u32 line)
{
	set_line(line, true);
	set_line(line, false);
}

static void check_io_apic(void)
{
	IO_APIC_SELECT = 1;
	check_equal(IO_APIC_DATA & 0xff00ff, 0x170020, "IO-APIC: version 20H, 24 entries");
	set_handler(0x71, count_and_end);
	set_handler(0x82, count_and_end);

	write_entry(14, apic_id(), 0x71);
	pulse(14);
	interrupt_window();
	check_equal(taken[0x71], 1, "IO-APIC: an edge interrupts once");
	write_entry(14, apic_id(), 0x71 | MASKED);
	pulse(14);
	write_entry(14, apic_id(), 0x71);
	interrupt_window();
	check_equal(taken[0x71], 1, "IO-APIC: an edge at a masked input is lost");
	write_entry(15, apic_id(), 0x82);
	pulse(14);
	pulse(15);
	interrupt_window();
	interrupt_window();
	check_equal(taken[0x71] << 8 | taken[0x82], 0x201, "IO-APIC: two inputs at once");
	check_equal(last_vector, 0x71, "IO-APIC: the higher vector comes first");

	/* Level-triggered: the remote IRR holds until the EOI, then the line counts again. */
	set_handler(0x73, count_only);
	write_entry(20, apic_id(), 0x73 | LEVEL);
	set_line(20, true);
	interrupt_window();
	check(read_entry(20) & REMOTE_IRR, "IO-APIC: the remote IRR is set");
	check_equal(taken[0x73], 1, "IO-APIC: a level interrupts");
	check(apic_read(APIC_TMR + 0x10 * (0x73 / 32)) & 1u << 0x73 % 32, "local APIC: the TMR says level");
	interrupt_window();
	check_equal(taken[0x73], 1, "IO-APIC: but not before its EOI");
	set_handler(0x73, count_and_lower);
	apic_eoi();
	interrupt_window();
	check_equal(taken[0x73], 2, "IO-APIC: after it, again");
	check(!(read_entry(20) & REMOTE_IRR), "IO-APIC: the EOI clears the remote IRR");
	interrupt_window();
	check_equal(taken[0x73], 2, "IO-APIC: a low line is quiet");
	write_entry(20, 0, MASKED);

	/* To another processor, which sleeps. */
	set_handler(0x74, count_and_end);
	write_entry(14, apic_id_of(1), 0x74);
	start_on(1, (void (*)(u64))halt_for_interrupt, 0);
	delay(100000);
	pulse(14);
	wait_for(1);
	check_equal(taken[0x74], 1, "IO-APIC: an input wakes the other processor");
	write_entry(14, 0, MASKED);
	write_entry(15, 0, MASKED);
}

static void end_at_pics(struct frame *frame)
{
	taken[frame->vector]++;
	if (frame->vector >= 0x28)
		out8(0xa0, 0x20);
	out8(0x20, 0x20);
}

static u8 in_service(u16 port)
{
	out8(port, 0x0b);
	return in8(port);
}

static void check_pics(void)
{
	static const u8 commands[][2] = { { 0x11, 0x11 }, { 0x20, 0x28 }, { 4, 2 }, { 1, 1 } };

	for (u32 i = 0; i < 4; i++) {
		out8(i ? 0x21 : 0x20, commands[i][0]);
		out8(i ? 0xa1 : 0xa0, commands[i][1]);
	}
	out8(0x21, 0xff & ~(1 << 2 | 1 << 5));
	out8(0xa1, 0xff & ~(1 << 6));
	check_equal(in8(0x21) << 8 | in8(0xa1), 0xdbbf, "8259: the masks read back");
	apic_write(APIC_LVT_LINT0, 0x700);
	for (u32 vector = 0x20; vector < 0x30; vector++)
		set_handler(vector, end_at_pics);
	pulse(5);
	interrupt_window();
	check_equal(taken[0x25], 1, "8259: input 5 of the first is vector 25H");
	pulse(14);
	interrupt_window();
	check_equal(taken[0x2e], 1, "8259: input 6 of the second is vector 2EH");
	check_equal(in_service(0x20) | in_service(0xa0), 0, "8259: nothing is in service any more");
	pulse(7);
	interrupt_window();
	check_equal(taken[0x27], 0, "8259: a masked input is quiet");
	out8(0x21, 0xff);
	out8(0xa1, 0xff);
}

/* The time that ten interrupts of the 8254 take, at 100 Hz. */
static u64 ten_interrupts(u32 vector)
{
	u64 start;

	halt_for_interrupt();
	start = read_tsc();
	for (taken[vector] = 0; taken[vector] < 10;)
		halt_for_interrupt();
	return read_tsc() - start;
}

static void check_timer_interrupts(void)
{
	u64 ticks;

	load_counter(0, 2, PIT_HZ / 100);
	out8(0x21, 0xfe);
	ticks = ten_interrupts(0x20);
	out8(0x21, 0xff);
	check(ticks > 99900000 && ticks < 100100000, "8254: ten periods by the 8259 are %lu ns", ticks);

	set_handler(0x75, count_and_end);
	write_entry(2, apic_id(), 0x75);
	ticks = ten_interrupts(0x75);
	write_entry(2, 0, MASKED);
	check(ticks > 99900000 && ticks < 100100000, "8254: ten periods by the IO-APIC are %lu ns", ticks);
}

static void check_test_device(void)
{
	volatile u32 *memory = (volatile u32 *)0xff000000;

	out32(0xe0, 0x12345678);
	out8(0xe9, 0xff);
	check_equal(in32(0xe0), 0x1234ff78, "test device: data as written");
	check_equal(in16(0xe2), 0x1234, "test device: a part of it");
	memory[3] = 0xcafe;
	memory[0x3fff] = 0xbabe;
	check_equal(memory[3] << 16 | memory[0x3fff], 0xcafebabe, "test device: memory keeps what is written");
}

void main(void)
{
	apic_write(APIC_SPIV, 0x1ff);
	set_handler(WAKE_VECTOR, wake_up);
	apic_write(APIC_LVT_TIMER, WAKE_VECTOR | DEADLINE_MODE);
	/* Firmware leaves the 8254's channel 0 and the 8259s to us: nothing may come from them. */
	out8(0x21, 0xff);
	out8(0xa1, 0xff);
	check_fw_cfg();
	check_test_device();
	check_pit();
	check_time();
	check_pics();
	check_timer_interrupts();
	check_equal(start_processors(), 2, "processors");
	check_io_apic();
}
