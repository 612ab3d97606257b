/* What the kernel's dma-debug tells programs. */
#pragma once

#include <stdio.h>

/* dma-debug's error counter; -1 if this kernel has none. */
static inline long error_count(void)
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
