/* The attributes of the DMA API, by name, and what a kernel makes of them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attributes.h"

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

/* dma-debug's error counter; -1 if this kernel has none. */
static long error_count(void)
{
	FILE *file = fopen("/sys/kernel/debug/dma-api/error_count", "r");
	long count = -1;

	if (!file)
		return -1;
	if (fscanf(file, "%ld", &count) != 1)
		count = -1;
	fclose(file);
	return count;
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
