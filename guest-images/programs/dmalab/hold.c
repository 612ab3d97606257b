/* Mappings that stay: for each kind of memory and each direction one, until the program is killed. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hold.h"

#define SIZE 9000
/* Of memory that the mapping does not begin or end with. */
#define MARGIN 128

int hold(struct lab *lab)
{
	static const uint32_t directions[] = { DMALAB_BIDIRECTIONAL, DMALAB_TO_DEVICE, DMALAB_FROM_DEVICE };
	struct lab_buffer buffers[DMALAB_USER + 1][3];
	struct lab_mapping mapping;
	uint32_t kind, i;

	for (kind = DMALAB_KMALLOC; kind <= DMALAB_USER; kind++) {
		for (i = 0; i < 3; i++) {
			struct lab_buffer *buffer = &buffers[kind][i];

			if (lab_alloc(lab, buffer, kind, SIZE, 64 * i) ||
			    lab_map(lab, buffer, MARGIN, SIZE - 2 * MARGIN, directions[i], 0, &mapping)) {
				fprintf(stderr, "dmalab: hold: %s\n", strerror(errno));
				return 2;
			}
		}
	}
	for (;;)
		pause();
}
