/* String instructions on ports, and accesses of every width (SDM volume 1, 19.3; volume 2, INS and OUTS). */
#include "support.h"

#define SERIAL 0x3f8
#define SCRATCH (SERIAL + 7)
#define CONFIG_ADDRESS 0xcf8

static void outs8(u16 port, const void *from, u64 count)
{
	asm volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(port) : "memory");
}

static void outs32(u16 port, const void *from, u64 count)
{
	asm volatile("rep outsl" : "+S"(from), "+c"(count) : "d"(port) : "memory");
}

static void ins8(u16 port, void *to, u64 count)
{
	asm volatile("rep insb" : "+D"(to), "+c"(count) : "d"(port) : "memory");
}

static void ins32(u16 port, void *to, u64 count)
{
	asm volatile("rep insl" : "+D"(to), "+c"(count) : "d"(port) : "memory");
}

void main(void)
{
	static const char text[] = "text by rep outsb, longer than one exit of a virtual machine may carry at a time\n";
	static const u32 addresses[3] = { 0x80000000, 0x80000808, 0x80001000 };
	u8 bytes[9];
	u32 words[5];
	u8 *to = bytes + 8;
	u64 count = 4;

	outs8(SERIAL, text, sizeof(text) - 1);
	outs8(SCRATCH, "\x11\x22\x33\x44", 4);
	check_equal(in8(SCRATCH), 0x44, "the last byte of four to one register");

	memset(bytes, 0, sizeof(bytes));
	ins8(SCRATCH, bytes, 4);
	check(bytes[0] == 0x44 && bytes[3] == 0x44 && bytes[4] == 0, "four bytes from one register");
	out8(SCRATCH, 0x5a);
	asm volatile("std; rep insb; cld" : "+D"(to), "+c"(count) : "d"(SCRATCH) : "memory");
	check(bytes[8] == 0x5a && bytes[5] == 0x5a && bytes[4] == 0 && to == bytes + 4, "downwards with DF set");

	outs32(CONFIG_ADDRESS, addresses, 3);
	check_equal(in32(CONFIG_ADDRESS), addresses[2], "the last double word of three");
	memset(words, 0, sizeof(words));
	ins32(CONFIG_ADDRESS, words, 4);
	check(words[0] == addresses[2] && words[3] == addresses[2] && words[4] == 0, "four double words from one register");
	ins8(SCRATCH, bytes, 0);
	check_equal(bytes[0], 0x44, "a count of 0 reads nothing");

	out8(SCRATCH, 0xa5);
	check_equal(in8(SCRATCH), 0xa5, "a register of one byte");
	check_equal(in32(0x1000), 0xffffffff, "nobody answers with ones, four bytes");
	check_equal(in16(0x1000), 0xffff, "two bytes");
	check_equal(in8(0x1000), 0xff, "one byte");
}
