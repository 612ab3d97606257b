/*
 * PCI Express: both configuration mechanisms, the tree behind the root ports, and a device's registers in memory
 * (PCI Express base specification, 7.2 and 7.5; PCI-to-PCI bridge specification, 3.2.5).
 *
 * run: --device mlx5,slot=3
 */
#include "support.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA 0xcfc
#define ECAM 0xe0000000ull

#define ID 0x00
#define COMMAND 0x04
#define COMMAND_MEMORY 2
#define STATUS_CAPABILITIES (1u << 20)
#define CLASS 0x08
#define HEADER_TYPE 0x0e
#define BAR_0 0x10
#define BUSES 0x18
#define CAPABILITIES 0x34

#define CLASS_HOST_BRIDGE 0x0600
#define CLASS_BRIDGE 0x0604
#define CAPABILITY_MSIX 0x11
#define CAPABILITY_EXPRESS 0x10

#define SLOT 3
#define MELLANOX 0x15b3
/* Words of the initialization segment, big-endian. */
#define COMMAND_INTERFACE_REVISION 0x04
#define INITIALIZING 0x1fc
#define HEALTH_COUNTER 0x1010

static volatile u32 *configuration(u32 bus, u32 device, u32 offset)
{
	return (volatile u32 *)(ECAM + (bus << 20) + (device << 15) + offset);
}

static u32 by_ports(u32 bus, u32 device, u32 offset)
{
	out32(CONFIG_ADDRESS, 1u << 31 | bus << 16 | device << 11 | (offset & ~3u));
	return in32(CONFIG_DATA);
}

/* Every function of bus 0, by both mechanisms. */
static void bus_0(void)
{
	u32 present = 0, different = 0, bridges = 0;

	for (u32 device = 0; device < 32; device++) {
		u32 id = *configuration(0, device, ID), class = *configuration(0, device, CLASS) >> 16;

		different += by_ports(0, device, ID) != id;
		if (id == 0xffffffff)
			continue;
		present++;
		different += by_ports(0, device, CLASS) != *configuration(0, device, CLASS);
		if (device == 0)
			check_equal(class, CLASS_HOST_BRIDGE, "00:00.0 is a host bridge");
		bridges += class == CLASS_BRIDGE;
	}
	check_equal(different, 0, "both mechanisms agree");
	check_equal(present, 9, "functions on bus 0");
	check_equal(bridges, 8, "of which are bridges");
}

static void narrow_accesses(void)
{
	u32 id = *configuration(0, 0, ID);

	check_equal(*(volatile u16 *)configuration(0, 0, ID + 2), id >> 16, "two bytes of the identifier");
	check_equal(*((volatile u8 *)configuration(0, 0, ID) + 1), id >> 8 & 0xff, "one byte of it");
	by_ports(0, 0, ID);
	check_equal(in16(CONFIG_DATA + 2), id >> 16, "two bytes by the port");
	check_equal(in8(CONFIG_DATA + 1), id >> 8 & 0xff, "one byte by the port");
	*configuration(0, 0, ID) = 0;
	check_equal(*configuration(0, 0, ID), id, "the identifier cannot be written");
}

/* Offset of a capability, 0 if it is not there. */
static u32 capability(u32 bus, u32 wanted)
{
	u32 at = *configuration(bus, 0, CAPABILITIES) & 0xfc;

	for (u32 steps = 0; at && steps < 48; steps++) {
		u32 header = *configuration(bus, 0, at);

		if ((header & 0xff) == wanted)
			return at;
		at = header >> 8 & 0xfc;
	}
	return 0;
}

static void device(u32 bus)
{
	u32 low = *configuration(bus, 0, BAR_0), high = *configuration(bus, 0, BAR_0 + 4);
	u32 command = *configuration(bus, 0, COMMAND), size;
	u64 base = (low & ~0xfu) | (u64)high << 32;
	volatile u32 *registers = (volatile u32 *)base;

	check_equal(*configuration(bus, 0, ID) & 0xffff, MELLANOX, "vendor of the device behind the bridge");
	check_equal(*configuration(bus, 1, ID), 0xffffffff, "it is alone there");
	check(command & STATUS_CAPABILITIES, "it has capabilities");
	check(capability(bus, CAPABILITY_EXPRESS), "PCI Express is one of them");
	check(capability(bus, CAPABILITY_MSIX), "MSI-X is one of them");

	check_equal(low & 7, 4, "BAR 0 is a 64-bit memory BAR");
	*configuration(bus, 0, COMMAND) = command & 0xffff & ~COMMAND_MEMORY;
	*configuration(bus, 0, BAR_0) = 0xffffffff;
	size = -(*configuration(bus, 0, BAR_0) & ~0xfu);
	*configuration(bus, 0, BAR_0) = low;
	check(size >= 4096 && (size & (size - 1)) == 0 && (base & (size - 1)) == 0,
	      "its size is a power of two and its address a multiple of that");

	for (u64 at = 0; at < 0x2000; at += 4096)
		*page_entry(base + at) =
			(base + at) | PAGE_PRESENT | PAGE_WRITABLE | PAGE_NO_CACHE | PAGE_WRITE_THROUGH;
	check_equal(registers[0], 0xffffffff, "nobody answers while memory decoding is off");
	*configuration(bus, 0, COMMAND) = (command & 0xffff) | COMMAND_MEMORY;
	check_equal(__builtin_bswap32(registers[COMMAND_INTERFACE_REVISION / 4]) >> 16, 5,
		    "command interface revision of the initialization segment");
	check_equal(__builtin_bswap32(registers[INITIALIZING / 4]) >> 31, 0, "the device has initialized");
	registers[0] = 0;
	check(registers[0] != 0, "the firmware revision cannot be written");
	check(registers[HEALTH_COUNTER / 4] != 0xffffffff, "there is a health counter");
}

void main(void)
{
	u32 buses;

	bus_0();
	narrow_accesses();
	buses = *configuration(0, SLOT, BUSES);
	check_equal(*(volatile u8 *)((u64)configuration(0, SLOT, 0) + HEADER_TYPE) & 0x7f, 1, "a bridge's header");
	check_equal(buses & 0xff, 0, "the bridge's primary bus");
	check(buses >> 8 & 0xff, "its secondary bus");
	check((buses >> 16 & 0xff) >= (buses >> 8 & 0xff), "its subordinate bus");
	device(buses >> 8 & 0xff);
	for (u32 slot = 1; slot <= 8; slot++) {
		u32 bus = *configuration(0, slot, BUSES) >> 8 & 0xff;

		if (slot != SLOT)
			check_equal(*configuration(bus, 0, ID), 0xffffffff, "slot %u is empty", slot);
	}
}
