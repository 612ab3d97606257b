#ifndef DMALAB_ATTRIBUTES_H
#define DMALAB_ATTRIBUTES_H

#include "libdmalab.h"

/* What the attributes of the DMA API are called: names like "skip-cpu-sync", with commas between, or a number. 0, or -1. */
int attributes_of(const char *text, uint64_t *attrs);
/* Names of all bits of `attrs`, or "none"; of static storage. */
const char *attributes_named(uint64_t attrs);

/* Maps one page `count` times and keeps the mappings until all are made: 0 if each was made, 1 if not, 2 if nothing could be done. */
int overlap(struct lab *lab, uint32_t kind, uint64_t attrs, unsigned long count);

#endif
