/*
 * What programs do with /dev/dmalab0: one function for each of the driver's calls, and a device's and a CPU's view of a buffer's
 * bytes. abi.h says what the calls mean. Functions that can fail return 0, or -1 with errno set.
 */
#ifndef LIBDMALAB_H
#define LIBDMALAB_H

#include <stddef.h>
#include <stdint.h>

#include "abi.h"

struct lab {
	int fd;
	struct dmalab_info info;
	uint8_t flags;		/* DMALAB_NO_SNOOP, DMALAB_RELAXED: of every descriptor of the functions below */
	uint8_t function;	/* DMALAB_MAP_*: of every mapping */
};

struct lab_buffer {
	uint32_t handle;
	uint32_t kind;
	uint32_t size;
	uint64_t physical;	/* of its first byte */
	uint64_t bus;		/* DMALAB_COHERENT: likewise */
	uint8_t *user;		/* DMALAB_USER: its memory */
};

struct lab_mapping {
	uint32_t handle;	/* 0 of coherent memory */
	const struct lab_buffer *buffer;
	uint32_t offset;	/* in the buffer */
	uint32_t length;
	uint64_t bus;
	uint32_t segments;
};

int lab_open(struct lab *lab, const char *path);
void lab_close(struct lab *lab);

/* Memory of a DMALAB_USER buffer is allocated and freed with it, and begins `in_page` bytes into a page. */
int lab_alloc(struct lab *lab, struct lab_buffer *buffer, uint32_t kind, uint32_t size, uint32_t in_page);
int lab_free(struct lab *lab, struct lab_buffer *buffer);

/* Coherent memory is mapped already: then this only says where. */
int lab_map(struct lab *lab, const struct lab_buffer *buffer, uint32_t offset, uint32_t length, uint32_t direction,
	    uint64_t attrs, struct lab_mapping *mapping);
int lab_unmap(struct lab *lab, struct lab_mapping *mapping);
int lab_sync_for_cpu(struct lab *lab, const struct lab_mapping *mapping);
int lab_sync_for_device(struct lab *lab, const struct lab_mapping *mapping);
/* Bus address of byte `at` of a mapping; *left is how many bytes follow without a gap. */
int lab_bus(struct lab *lab, const struct lab_mapping *mapping, uint32_t at, uint64_t *bus, uint32_t *left);

/* The CPU's accesses: by the kernel, or by the program where the memory is its own. */
int lab_cpu_write(struct lab *lab, const struct lab_buffer *buffer, uint32_t offset, const void *data, uint32_t length);
int lab_cpu_read(struct lab *lab, const struct lab_buffer *buffer, uint32_t offset, void *data, uint32_t length);
/* CLFLUSH of every line of a range, by whoever accesses it. */
int lab_clflush(struct lab *lab, const struct lab_buffer *buffer, uint32_t offset, uint32_t length);

/* One descriptor from submission to completion. Fails with EIO if the device does. */
int lab_execute(struct lab *lab, const struct dmalab_descriptor *descriptor, struct dmalab_wait *completion);
int lab_memory_read(struct lab *lab, uint32_t offset, void *data, uint32_t length);
int lab_memory_write(struct lab *lab, uint32_t offset, const void *data, uint32_t length);

/* The device's accesses to a mapping, as many descriptors as it has gaps. */
int lab_device_read(struct lab *lab, const struct lab_mapping *mapping, uint32_t at, void *data, uint32_t length);
int lab_device_write(struct lab *lab, const struct lab_mapping *mapping, uint32_t at, const void *data, uint32_t length);
int lab_device_pattern(struct lab *lab, const struct lab_mapping *mapping, uint32_t at, uint32_t length, uint64_t seed);
/* Of bytes without a gap. */
int lab_device_checksum(struct lab *lab, const struct lab_mapping *mapping, uint32_t at, uint32_t length, uint64_t *sum);
int lab_fetch_add(struct lab *lab, const struct lab_mapping *mapping, uint32_t at, uint64_t add, uint64_t *old);
int lab_compare_swap(struct lab *lab, const struct lab_mapping *mapping, uint32_t at, uint64_t compare, uint64_t swap,
		     uint64_t *old);

/* FNV-1a with 64 bits, as the device's. */
uint64_t lab_checksum(const void *data, uint32_t length);

#endif
