/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What programs see of the driver of the DMA exerciser: /dev/dmalabN.
 *
 * Each call does exactly what it is asked, in whatever order: a program can play a driver that keeps to the DMA API, or one
 * that does not. Buffers, mappings and what is in them belong to the open file, and go with it. Handles are positive.
 */
#ifndef DMALAB_ABI_H
#define DMALAB_ABI_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* The device's operations. */
enum {
	DMALAB_OP_NOTHING,
	DMALAB_OP_READ,		/* memory at source to the device's memory at destination */
	DMALAB_OP_WRITE,	/* the device's memory at source to memory at destination */
	DMALAB_OP_COPY,		/* memory to memory */
	DMALAB_OP_FILL,		/* operand, again and again, to memory */
	DMALAB_OP_PATTERN,	/* dmalab_pattern(operand, …) to memory */
	DMALAB_OP_CHECKSUM,	/* of memory at source: FNV-1a with 64 bits */
	DMALAB_OP_FETCH_ADD,	/* on 8 aligned bytes at destination */
	DMALAB_OP_COMPARE_SWAP,
};

#define DMALAB_NO_SNOOP		0x1	/* payload does not look into the caches */
#define DMALAB_RELAXED		0x2	/* payload writes may pass one another */
#define DMALAB_INTERRUPT	0x4	/* always set by the driver */

/* What a descriptor was completed with. */
enum {
	DMALAB_PENDING,
	DMALAB_DONE,
	DMALAB_INVALID,
	DMALAB_DMA_ERROR,
	DMALAB_OUT_OF_RANGE,
	DMALAB_UNALIGNED,
};

/* One descriptor of the ring, as the device knows it: little-endian, 64 bytes. */
struct dmalab_descriptor {
	__u8 operation;
	__u8 flags;
	__le16 transaction;	/* most bytes of one transaction, 0 for 256 */
	__le32 length;
	__le32 delay;		/* virtual nanoseconds before the first transaction */
	__le32 linger;		/* and after the last one, before the completion */
	__le64 source;		/* bus addresses, or offsets in the device's memory */
	__le64 destination;
	__le64 operand;
	__le64 swap;
	/* Written by the device. */
	__le32 status;
	__le32 done;
	__le64 result;
};

struct dmalab_info {
	__u32 ring_size;	/* descriptors that can be submitted and not completed */
	__u32 memory_size;	/* bytes of the device's memory */
	__u32 attributes;	/* bits 1:0 no-snoop: 0 off, 1 as descriptors say, 2 all payload, 3 everything; 5:4 relaxed ordering */
	__u32 reserved;
};

/* Kinds of memory. */
enum {
	DMALAB_KMALLOC,
	DMALAB_PAGES,		/* whole pages, contiguous */
	DMALAB_COHERENT,	/* dma_alloc_coherent(): mapped as it is */
	DMALAB_USER,		/* memory of the program, pinned with pin_user_pages() */
};

struct dmalab_alloc {
	__u32 kind;
	__u32 size;
	__u64 user;		/* DMALAB_USER: its address */
	__u32 buffer;		/* out: handle */
	__u32 reserved;
	__u64 physical;		/* out: of its first byte */
	__u64 bus;		/* out, DMALAB_COHERENT: of its first byte */
};

/* Directions, as enum dma_data_direction. */
enum {
	DMALAB_BIDIRECTIONAL,
	DMALAB_TO_DEVICE,
	DMALAB_FROM_DEVICE,
	DMALAB_AS_MAPPED = 0xff,	/* for unmapping and synchronising */
};

/* Which of the DMA API's functions maps memory that is not DMALAB_USER; that is mapped by dma_map_sgtable(). */
enum {
	DMALAB_MAP_SINGLE,	/* dma_map_single_attrs(): dma_map_page_attrs() */
	DMALAB_MAP_SG,		/* dma_map_sg_attrs(), one segment */
	DMALAB_MAP_SGTABLE,	/* dma_map_sgtable(), one segment */
	DMALAB_MAP_PHYS,	/* dma_map_phys(), from 6.18 on; EOPNOTSUPP before */
	DMALAB_MAP_FUNCTIONS,
};

/*
 * The mapping functions' own errors: EIO for DMA_MAPPING_ERROR and for 0 segments of dma_map_sg_attrs(); what dma_map_sgtable() has
 * returned.
 */
struct dmalab_map {
	__u32 buffer;
	__u32 offset;
	__u32 length;
	__u8 direction;
	__u8 function;
	__u16 reserved;
	__u64 attrs;		/* DMA_ATTR_* of the running kernel */
	__u32 mapping;		/* out: handle */
	__u32 segments;		/* out: one, unless the buffer is DMALAB_USER */
	__u64 bus;		/* out: of the first segment */
};

struct dmalab_segment {
	__u32 mapping;
	__u32 index;
	__u64 bus;		/* out */
	__u64 length;		/* out */
};

struct dmalab_unmap {
	__u32 mapping;
	__u32 length;		/* what the API is told; 0: as mapped */
	__u32 direction;
	__u32 reserved;
	__u64 attrs;		/* added to those of the mapping */
};

struct dmalab_sync {
	__u32 mapping;
	__u32 for_device;	/* 1: to the device, 0: to the CPU */
	__u32 offset;
	__u32 length;		/* 0: all; always all of what is mapped as a list */
	__u32 direction;
	__u32 reserved;
};

/* Of a buffer through the kernel's mapping of it, byte by byte; not of DMALAB_USER. */
struct dmalab_cpu {
	__u32 buffer;
	__u32 offset;
	__u32 length;
	__u32 write;
	__u64 data;		/* the program's buffer */
};

/* Ways to maintain the CPU's caches. */
enum {
	DMALAB_CLFLUSH,		/* clflush_cache_range() on the range */
	DMALAB_WBINVD,		/* on all CPUs */
};

struct dmalab_flush {
	__u32 buffer;
	__u32 offset;
	__u32 length;
	__u32 how;
};

/* The device's own memory, by MMIO. */
struct dmalab_memory {
	__u32 offset;
	__u32 length;
	__u32 write;
	__u32 reserved;
	__u64 data;
};

struct dmalab_submit {
	struct dmalab_descriptor descriptor;
	__u32 number;		/* out */
	__u32 reserved;
};

struct dmalab_wait {
	__u32 number;
	__u32 timeout_ms;
	__u32 status;		/* out */
	__u32 done;
	__u64 result;
};

/* Who found a byte wrong. */
enum {
	DMALAB_CPU,
	DMALAB_DEVICE,
};

struct dmalab_wrong {
	__u64 bus;
	__u8 side;
	__u8 expected;
	__u8 found;
	__u8 reserved[5];
};

#define DMALAB_WRONG_LISTED 64

/* A scenario whose code is the driver's own. */
struct dmalab_scenario {
	char name[40];
	__u64 seed;		/* of its patterns */
	__u32 checked;		/* out: bytes looked at */
	__u32 wrong;		/* out: bytes that were wrong; the first of them are listed */
	struct dmalab_wrong list[DMALAB_WRONG_LISTED];
};

struct dmalab_scenario_name {
	__u32 index;
	__u32 reserved;
	char name[40];		/* out */
	char summary[120];	/* out */
};

#define DMALAB_INFO	_IOR(0xb8, 0, struct dmalab_info)
#define DMALAB_ALLOC	_IOWR(0xb8, 1, struct dmalab_alloc)
#define DMALAB_FREE	_IOW(0xb8, 2, __u32)
#define DMALAB_MAP	_IOWR(0xb8, 3, struct dmalab_map)
#define DMALAB_SEGMENT	_IOWR(0xb8, 4, struct dmalab_segment)
#define DMALAB_UNMAP	_IOW(0xb8, 5, struct dmalab_unmap)
#define DMALAB_SYNC	_IOW(0xb8, 6, struct dmalab_sync)
#define DMALAB_ACCESS	_IOW(0xb8, 7, struct dmalab_cpu)
#define DMALAB_FLUSH	_IOW(0xb8, 8, struct dmalab_flush)
#define DMALAB_MEMORY	_IOW(0xb8, 9, struct dmalab_memory)
#define DMALAB_SUBMIT	_IOWR(0xb8, 10, struct dmalab_submit)
#define DMALAB_WAIT	_IOWR(0xb8, 11, struct dmalab_wait)
#define DMALAB_SCENARIO	_IOWR(0xb8, 12, struct dmalab_scenario)
#define DMALAB_NAME	_IOWR(0xb8, 13, struct dmalab_scenario_name)

/* Byte `index` of the pattern with `seed`, as the device makes it. */
static inline __u8 dmalab_pattern(__u64 seed, __u64 index)
{
	__u64 word = (seed + index / 8 + 1) * 0x9e3779b97f4a7c15ULL;

	return (__u8)((word ^ word >> 32) >> index % 8 * 8);
}

#endif
