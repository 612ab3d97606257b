#ifndef DMALAB_ATTRIBUTES_H
#define DMALAB_ATTRIBUTES_H

#include "libdmalab.h"

/* What the attributes of the DMA API are called: names like "skip-cpu-sync", with commas between, or a number. 0, or -1. */
int attributes_of(const char *text, uint64_t *attrs);
/* Names of all bits of `attrs`, or "none"; of static storage. */
const char *attributes_named(uint64_t attrs);

/* Maps one page `count` times and keeps the mappings until all are made: 0 if each was made, 1 if not, 2 if nothing could be done. */
int overlap(struct lab *lab, uint32_t kind, uint64_t attrs, unsigned long count);

/*
 * Prints what this kernel does with each attribute in each mapping function, one line for each: how the mapping was made or refused,
 * whether data went each way, and how many errors dma-debug counted, of it alone and of two such mappings of one page. Returns 0, or
 * 2 if something could not be done.
 */
int attributes(struct lab *lab, uint64_t seed);

#endif
