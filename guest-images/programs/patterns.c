/*
 * Fills a file with patterns, or checks that it still holds them: patterns write|verify FILE MIB [buffered].
 *
 * Every 64-bit word of the file has a value of its own, so that a page that is lost, stale or in the wrong place is found
 * whichever page it was swapped with. Transfers are of 1 MiB and bypass the page cache unless "buffered" is given.
 * Exits 0 if all went well, 1 if the file differs or an operation failed, 2 if called wrongly.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK (1 << 20)
#define WORDS (CHUNK / sizeof(uint64_t))
/* Odd, so that multiples differ modulo 2^64. */
#define STEP 0x9e3779b97f4a7c15u

static uint64_t words[WORDS] __attribute__((aligned(4096)));

static void fill(uint64_t chunk)
{
	uint64_t value = (chunk * WORDS + 1) * STEP;

	for (size_t i = 0; i < WORDS; i++, value += STEP)
		words[i] = value;
}

/* Index of the first word that is not what `fill` makes, or WORDS. */
static size_t difference(uint64_t chunk)
{
	uint64_t value = (chunk * WORDS + 1) * STEP;

	for (size_t i = 0; i < WORDS; i++, value += STEP)
		if (words[i] != value)
			return i;
	return WORDS;
}

static int failed(const char *what, long chunk)
{
	fprintf(stderr, "patterns: cannot %s chunk %ld: %s\n", what, chunk, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	int writes = argc >= 4 && strcmp(argv[1], "write") == 0;
	int verifies = argc >= 4 && strcmp(argv[1], "verify") == 0;
	int buffered = argc == 5 && strcmp(argv[4], "buffered") == 0;

	if (!(writes || verifies) || argc > 4 + buffered) {
		fprintf(stderr, "usage: patterns write|verify FILE MIB [buffered]\n");
		return 2;
	}
	long chunks = atol(argv[3]);
	int flags = (writes ? O_RDWR | O_CREAT | O_TRUNC : O_RDONLY) | (buffered ? 0 : O_DIRECT);
	int fd = open(argv[2], flags, 0644);

	if (fd < 0) {
		perror(argv[2]);
		return 1;
	}
	for (long chunk = 0; chunk < chunks; chunk++) {
		if (writes) {
			fill((uint64_t)chunk);
			if (write(fd, words, CHUNK) != CHUNK)
				return failed("write", chunk);
			continue;
		}
		if (read(fd, words, CHUNK) != CHUNK)
			return failed("read", chunk);
		size_t at = difference((uint64_t)chunk);
		if (at != WORDS) {
			fprintf(stderr, "patterns: byte %#llx differs\n",
				(unsigned long long)chunk * CHUNK + at * sizeof(uint64_t));
			return 1;
		}
	}
	if (writes && fsync(fd) < 0) {
		perror("fsync");
		return 1;
	}
	printf("%ld MiB %s\n", chunks, writes ? "written" : "verified");
	return 0;
}
