#ifndef DMALAB_HOLD_H
#define DMALAB_HOLD_H

#include "libdmalab.h"

/* Returns only if something could not be done: 2. */
int hold(struct lab *lab);

#endif
