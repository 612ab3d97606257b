/*
 * The program's own memory, pinned and mapped once, used by program and device in turn: what RDMA registers, and what user pointers
 * of graphics are. The interface has no call that would hand it over, and none is made here; what the program can do is flush.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "soak.h"

#define LENGTH 2048
#define LISTED 4	/* of each look */

static void compare(struct soak *soak, const char *side, const struct lab_mapping *mapping, const uint8_t *seen, uint64_t seed)
{
	uint32_t i, listed = 0;

	for (i = 0; i < LENGTH; i++) {
		uint8_t expected = dmalab_pattern(seed, i);

		soak->checked++;
		if (seen[i] == expected)
			continue;
		soak->wrong++;
		if (listed++ < LISTED)
			printf("wrong: the %s finds 0x%02x, not 0x%02x, at bus address %#llx\n", side, seen[i],
			       expected, (unsigned long long)mapping->bus + i);
	}
}

static int flush(struct soak *soak, const struct lab_buffer *buffer)
{
	return soak->flushes ? lab_clflush(soak->lab, buffer, 0, LENGTH) : 0;
}

/* The program sends, and what the device got is compared; the device writes, and what the program gets is. */
static int turn(struct soak *soak, const struct lab_buffer *buffer, const struct lab_mapping *mapping, uint64_t seed)
{
	uint8_t bytes[LENGTH];
	uint32_t i;

	for (i = 0; i < LENGTH; i++)
		bytes[i] = dmalab_pattern(seed, i);
	if (lab_cpu_write(soak->lab, buffer, 0, bytes, LENGTH) || flush(soak, buffer) ||
	    lab_device_read(soak->lab, mapping, 0, bytes, LENGTH))
		return -1;
	compare(soak, "device", mapping, bytes, seed);
	if (lab_device_pattern(soak->lab, mapping, 0, LENGTH, ~seed) || flush(soak, buffer) ||
	    lab_cpu_read(soak->lab, buffer, 0, bytes, LENGTH))
		return -1;
	compare(soak, "program", mapping, bytes, ~seed);
	return 0;
}

int shared(struct soak *soak)
{
	struct lab_buffer buffer;
	struct lab_mapping mapping;
	unsigned long i;
	int error;

	if (lab_alloc(soak->lab, &buffer, DMALAB_USER, LENGTH, 0))
		goto failed;
	error = lab_map(soak->lab, &buffer, 0, LENGTH, DMALAB_BIDIRECTIONAL, soak->attrs, &mapping);
	if (!error) {
		for (i = 0; !error && i < soak->iterations; i++)
			error = turn(soak, &buffer, &mapping, soak->seed + 1000 * i);
		error |= lab_unmap(soak->lab, &mapping);
	}
	if (!(lab_free(soak->lab, &buffer) || error))
		return 0;
failed:
	fprintf(stderr, "dmalab: shared: %s\n", strerror(errno));
	return -1;
}
