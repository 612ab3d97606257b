#ifndef DMALAB_SOAK_H
#define DMALAB_SOAK_H

#include "libdmalab.h"

struct soak {
	struct lab *lab;
	uint64_t seed;
	unsigned long iterations;
	int only;		/* a kind of memory, or -1 */
	int flushes;		/* by hand, at each transfer of ownership */
	uint64_t attrs;		/* DMA_ATTR_* of each mapping */
	unsigned long checked;	/* out: bytes looked at */
	unsigned long wrong;	/* out: of them */
};

/* They return 0 unless something could not be done at all. */
int soak(struct soak *soak);
/* In shared.c. */
int shared(struct soak *soak);

#endif
