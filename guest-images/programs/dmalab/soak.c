/*
 * The DMA API as it is meant to be used, on every kind of memory, with random sizes, places and operations: the device sees
 * what the CPU has written, the CPU what the device has, and nobody anything else, byte by byte.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soak.h"

#define MAX_SIZE 12000
#define LISTED 32

static const char *const kinds[] = { "kmalloc", "pages", "coherent", "user" };

static uint64_t next_random(struct soak *soak)
{
	uint64_t z = soak->seed += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static uint32_t below(struct soak *soak, uint32_t limit)
{
	return next_random(soak) % limit;
}

/* One buffer, what must be in it, and the part that is mapped. */
struct ground {
	struct soak *soak;
	struct lab_buffer buffer;
	struct lab_mapping mapping;
	uint8_t expected[MAX_SIZE];
	uint8_t seen[MAX_SIZE];
};

static void compare(struct ground *ground, const char *side, uint32_t offset, uint32_t length)
{
	struct soak *soak = ground->soak;
	uint32_t i;

	for (i = offset; i < offset + length; i++) {
		soak->checked++;
		if (ground->seen[i] == ground->expected[i])
			continue;
		if (soak->wrong++ < LISTED)
			printf("wrong: the %s finds 0x%02x, not 0x%02x, in byte %u of %u of %s memory at %#llx\n", side,
			       ground->seen[i], ground->expected[i], i, ground->buffer.size,
			       kinds[ground->buffer.kind], (unsigned long long)ground->buffer.physical + i);
	}
}

/* The CPU looks at all of the buffer, also where nothing has been mapped. */
static int cpu_looks(struct ground *ground)
{
	struct lab_buffer *buffer = &ground->buffer;

	if (lab_cpu_read(ground->soak->lab, buffer, 0, ground->seen, buffer->size))
		return -1;
	compare(ground, "CPU", 0, buffer->size);
	return 0;
}

static int device_looks(struct ground *ground)
{
	struct lab_mapping *mapping = &ground->mapping;
	struct lab *lab = ground->soak->lab;
	uint64_t bus, sum;
	uint32_t left;

	if (lab_device_read(lab, mapping, 0, ground->seen + mapping->offset, mapping->length))
		return -1;
	compare(ground, "device", mapping->offset, mapping->length);
	if (lab_bus(lab, mapping, 0, &bus, &left) || lab_device_checksum(lab, mapping, 0, left, &sum))
		return -1;
	if (sum != lab_checksum(ground->expected + mapping->offset, left)) {
		printf("wrong: the device's checksum of %u bytes at bus address %#llx is %#llx\n", left,
		       (unsigned long long)bus, (unsigned long long)sum);
		ground->soak->wrong++;
	}
	return 0;
}

static int cpu_writes(struct ground *ground, uint32_t offset, uint32_t length)
{
	uint32_t i;

	for (i = offset; i < offset + length; i++)
		ground->expected[i] = next_random(ground->soak);
	return lab_cpu_write(ground->soak->lab, &ground->buffer, offset, ground->expected + offset, length);
}

static int device_writes(struct ground *ground)
{
	struct soak *soak = ground->soak;
	struct lab_mapping *mapping = &ground->mapping;
	uint32_t at = below(soak, mapping->length), length = 1 + below(soak, mapping->length - at), i;
	uint8_t *expected = ground->expected + mapping->offset + at;
	uint64_t seed = next_random(soak);

	for (i = 0; i < length; i++)
		expected[i] = dmalab_pattern(seed, i);
	if (seed & 1)
		return lab_device_write(soak->lab, mapping, at, expected, length);
	return lab_device_pattern(soak->lab, mapping, at, length, seed);
}

static void old_value(struct ground *ground, uint64_t old, uint64_t expected, uint64_t bus)
{
	if (old == expected)
		return;
	printf("wrong: an atomic at bus address %#llx finds %#llx, not %#llx\n", (unsigned long long)bus,
	       (unsigned long long)old, (unsigned long long)expected);
	ground->soak->wrong++;
}

/* At the first 8 bytes of the mapping that are aligned. */
static int device_counts(struct ground *ground)
{
	struct lab_mapping *mapping = &ground->mapping;
	struct lab *lab = ground->soak->lab;
	uint64_t bus, expected, old, add = next_random(ground->soak);
	uint32_t at = -mapping->bus % 8, left;
	uint8_t *place = ground->expected + mapping->offset + at;

	if (mapping->length < at + 8)
		return 0;
	if (lab_bus(lab, mapping, at, &bus, &left))
		return -1;
	if (left < 8)
		return 0;
	memcpy(&expected, place, 8);
	if (lab_fetch_add(lab, mapping, at, add, &old))
		return -1;
	old_value(ground, old, expected, bus);
	expected += add;
	if (lab_compare_swap(lab, mapping, at, expected, add, &old))
		return -1;
	old_value(ground, old, expected, bus);
	memcpy(place, &add, 8);
	return 0;
}

/* Lines that the device is to access are in no cache, if the soak sees to that. */
static int flush(struct ground *ground)
{
	struct lab_mapping *mapping = &ground->mapping;

	if (!ground->soak->flushes)
		return 0;
	return lab_clflush(ground->soak->lab, &ground->buffer, mapping->offset, mapping->length);
}

static int rounds(struct ground *ground)
{
	struct soak *soak = ground->soak;
	struct lab_mapping *mapping = &ground->mapping;
	uint32_t count = 1 + below(soak, 4);

	if (flush(ground))
		return -1;
	while (count--) {
		uint32_t at = below(soak, mapping->length), length = 1 + below(soak, mapping->length - at);

		if (device_looks(ground) || device_writes(ground) || device_counts(ground))
			return -1;
		if (lab_sync_for_cpu(soak->lab, mapping) || flush(ground))
			return -1;
		if (cpu_looks(ground) || cpu_writes(ground, mapping->offset + at, length))
			return -1;
		if (flush(ground) || lab_sync_for_device(soak->lab, mapping))
			return -1;
	}
	return device_writes(ground);
}

static int iteration(struct ground *ground)
{
	struct soak *soak = ground->soak;
	uint32_t kind = soak->only < 0 ? below(soak, 4) : (uint32_t)soak->only;
	uint32_t size = 1 + below(soak, below(soak, 4) ? 300 : MAX_SIZE);
	uint32_t offset = below(soak, size), length = 1 + below(soak, size - offset);
	int error;

	if (lab_alloc(soak->lab, &ground->buffer, kind, size, below(soak, 4096)))
		return -1;
	error = cpu_writes(ground, 0, size);
	if (!error)
		error = lab_map(soak->lab, &ground->buffer, offset, length, DMALAB_BIDIRECTIONAL, soak->attrs,
				&ground->mapping);
	if (!error) {
		error = rounds(ground);
		error |= lab_unmap(soak->lab, &ground->mapping);
	}
	if (!error)
		error = flush(ground) || cpu_looks(ground);
	return lab_free(soak->lab, &ground->buffer) || error ? -1 : 0;
}

int soak(struct soak *soak)
{
	struct ground *ground = calloc(1, sizeof(*ground));
	unsigned long i;
	int error = 0;

	if (!ground)
		return -1;
	ground->soak = soak;
	for (i = 0; !error && i < soak->iterations; i++)
		error = iteration(ground);
	if (error)
		fprintf(stderr, "dmalab: iteration %lu: %s\n", i, strerror(errno));
	free(ground);
	return error;
}
