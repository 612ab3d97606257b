/* The attributes of the DMA API, by name, and what a kernel makes of them. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attributes.h"
#include "dma-debug.h"

#define PAGE 4096
/* Bit 11 has had three names. */
static const struct {
	const char *name;
	uint64_t bit;
} names[] = {
	{ "weak-ordering", 1 << 1 },
	{ "skip-cpu-sync", 1 << 5 },
	{ "mmio", 1 << 10 },
	{ "debugging-ignore-cachelines", 1 << 11 },
	{ "cpu-cache-clean", 1 << 11 },
	{ "cpu-cache-overlap", 1 << 11 },
	{ "require-coherent", 1 << 12 },
};

#define NAMES (sizeof(names) / sizeof(*names))

static int attribute_of(const char *name, size_t length, uint64_t *attrs)
{
	size_t i;

	for (i = 0; i < NAMES; i++) {
		if (strlen(names[i].name) == length && !memcmp(names[i].name, name, length)) {
			*attrs |= names[i].bit;
			return 0;
		}
	}
	return -1;
}

int attributes_of(const char *text, uint64_t *attrs)
{
	size_t length;
	char *end;

	*attrs = strtoull(text, &end, 0);
	if (end != text && !*end)
		return 0;
	for (*attrs = 0;; text += length + 1) {
		length = strcspn(text, ",");
		if (attribute_of(text, length, attrs))
			return -1;
		if (!text[length])
			return 0;
	}
}

const char *attributes_named(uint64_t attrs)
{
	static char text[256];
	size_t i, used = 0;

	text[0] = 0;
	for (i = 0; i < NAMES; i++) {
		if (attrs & names[i].bit)
			used += snprintf(text + used, sizeof(text) - used, "%s%s", used ? "," : "", names[i].name);
		attrs &= ~names[i].bit;
	}
	if (attrs)
		snprintf(text + used, sizeof(text) - used, "%s%#llx", used ? "," : "", (unsigned long long)attrs);
	return text[0] ? text : "none";
}

int overlap(struct lab *lab, uint32_t kind, uint64_t attrs, unsigned long count)
{
	struct lab_mapping *mappings = calloc(count, sizeof(*mappings));
	unsigned long i, mapped = 0;
	struct lab_buffer buffer;
	long before, after;
	int error = 0;

	if (!mappings || lab_alloc(lab, &buffer, kind, PAGE, 0)) {
		fprintf(stderr, "dmalab: overlap: %s\n", strerror(errno));
		free(mappings);
		return 2;
	}
	before = error_count();
	for (i = 0; i < count; i++) {
		if (lab_map(lab, &buffer, i, PAGE - i, DMALAB_BIDIRECTIONAL, attrs, &mappings[i])) {
			printf("page+%lu length %#lx: failed, errno %d (%s)\n", i, PAGE - i, errno, strerror(errno));
			continue;
		}
		mapped++;
		printf("page+%lu length %#lx: ok\n", i, PAGE - i);
	}
	after = error_count();
	for (i = 0; i < count; i++)
		error |= lab_unmap(lab, &mappings[i]);
	error |= lab_free(lab, &buffer);
	free(mappings);
	if (error) {
		fprintf(stderr, "dmalab: overlap: %s\n", strerror(errno));
		return 2;
	}
	printf("overlap: attributes %s: %lu of %lu mapped\n", attributes_named(attrs), mapped, count);
	if (before >= 0 && after >= 0)
		printf("dma-api error_count: %ld -> %ld\n", before, after);
	else
		printf("dma-api error_count: not in this kernel\n");
	return mapped != count;
}

/* How a mapping came to be, or did not. */
static const char *made(const struct lab_mapping *mapping)
{
	return mapping->bus == mapping->buffer->physical ? "in place" : "bounced";
}

static const char *refused(const struct lab *lab, uint32_t kind, int error)
{
	if (kind != DMALAB_USER && lab->function == DMALAB_MAP_PHYS && error == EOPNOTSUPP)
		return "no such function";
	if (kind != DMALAB_USER && lab->function == DMALAB_MAP_SG && error == EIO)
		return "0 segments";
	if (kind != DMALAB_USER && lab->function != DMALAB_MAP_SGTABLE && error == EIO)
		return "DMA_MAPPING_ERROR";
	return strerrorname_np(error) ?: "?";
}

/* What of a page is the pattern with this seed. */
static const char *compared(const uint8_t *bytes, uint64_t seed)
{
	uint32_t i, right = 0;

	for (i = 0; i < PAGE; i++)
		right += bytes[i] == dmalab_pattern(seed, i);
	return right == PAGE ? "right" : right < PAGE / 8 ? "old" : "part";
}

struct row {
	const char *mapping, *device, *while_mapped, *unmapped;
	long errors, twice;	/* that dma-debug counted; -1: not known */
};

static long since(long before)
{
	long now = error_count();

	return before < 0 || now < 0 ? -1 : now - before;
}

/* One mapping, used in both directions. */
static int use(struct lab *lab, struct lab_buffer *buffer, uint64_t attrs, uint64_t seed, struct row *row)
{
	uint8_t bytes[PAGE];
	struct lab_mapping mapping;
	long before = error_count();
	uint32_t i;

	for (i = 0; i < PAGE; i++)
		bytes[i] = dmalab_pattern(seed, i);
	if (lab_cpu_write(lab, buffer, 0, bytes, PAGE))
		return -1;
	row->device = row->while_mapped = row->unmapped = "-";
	if (lab_map(lab, buffer, 0, PAGE, DMALAB_BIDIRECTIONAL, attrs, &mapping)) {
		row->mapping = refused(lab, buffer->kind, errno);
		row->errors = since(before);
		return 1;
	}
	row->mapping = made(&mapping);
	if (lab_device_read(lab, &mapping, 0, bytes, PAGE))
		return -1;
	row->device = compared(bytes, seed);
	if (lab_device_pattern(lab, &mapping, 0, PAGE, seed + PAGE) || lab_cpu_read(lab, buffer, 0, bytes, PAGE))
		return -1;
	row->while_mapped = compared(bytes, seed + PAGE);
	if (lab_unmap(lab, &mapping) || lab_cpu_read(lab, buffer, 0, bytes, PAGE))
		return -1;
	row->unmapped = compared(bytes, seed + PAGE);
	row->errors = since(before);
	return 0;
}

/* Two such mappings at once. */
static int twice(struct lab *lab, struct lab_buffer *buffer, uint64_t attrs, struct row *row)
{
	struct lab_mapping first, second;
	long before = error_count();

	if (lab_map(lab, buffer, 0, PAGE, DMALAB_BIDIRECTIONAL, attrs, &first) ||
	    lab_map(lab, buffer, 1, PAGE - 1, DMALAB_BIDIRECTIONAL, attrs, &second) ||
	    lab_unmap(lab, &second) || lab_unmap(lab, &first))
		return -1;
	row->twice = since(before);
	return 0;
}

static int print_row(struct lab *lab, const char *function, uint32_t kind, uint64_t attrs, uint64_t seed)
{
	struct row row = { .twice = -1 };
	struct lab_buffer buffer;
	char errors[24] = "-", overlapping[24] = "-";
	int outcome;

	if (lab_alloc(lab, &buffer, kind, PAGE, 0))
		return -1;
	outcome = use(lab, &buffer, attrs, seed, &row);
	if (!outcome)
		outcome = twice(lab, &buffer, attrs, &row);
	if (lab_free(lab, &buffer) || outcome < 0)
		return -1;
	if (row.errors >= 0)
		snprintf(errors, sizeof(errors), "%ld", row.errors);
	if (row.twice >= 0)
		snprintf(overlapping, sizeof(overlapping), "%ld", row.twice);
	printf("%-28s %-13s %-18s %-8s %-8s %-8s %-7s %s\n", attributes_named(attrs), function, row.mapping, row.device,
	       row.while_mapped, row.unmapped, errors, overlapping);
	return 0;
}

int attributes(struct lab *lab, uint64_t seed)
{
	static const struct {
		const char *name;
		uint8_t function;
		uint32_t kind;
	} functions[] = {
		{ "single", DMALAB_MAP_SINGLE, DMALAB_PAGES },
		{ "phys", DMALAB_MAP_PHYS, DMALAB_PAGES },
		{ "sg", DMALAB_MAP_SG, DMALAB_PAGES },
		{ "sgtable", DMALAB_MAP_SGTABLE, DMALAB_PAGES },
		{ "sgtable, user", DMALAB_MAP_SGTABLE, DMALAB_USER },
	};
	static const uint64_t sets[] = { 0, 1 << 1, 1 << 5, 1 << 10, 1 << 11, 1 << 12 };
	size_t set, function;

	printf("%-28s %-13s %-18s %-8s %-8s %-8s %-7s %s\n", "attributes", "function", "mapping", "device", "mapped",
	       "unmapped", "errors", "twice");
	for (set = 0; set < sizeof(sets) / sizeof(*sets); set++) {
		for (function = 0; function < sizeof(functions) / sizeof(*functions); function++) {
			lab->function = functions[function].function;
			if (print_row(lab, functions[function].name, functions[function].kind, sets[set],
				      seed + 2 * PAGE * (set * 8 + function))) {
				fprintf(stderr, "dmalab: attributes: %s\n", strerror(errno));
				return 2;
			}
		}
	}
	return 0;
}
