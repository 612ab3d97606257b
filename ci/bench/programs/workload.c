/*
 * The benchmark's work in the guest: `workload NAME`. Says on the console when it begins and ends, with a checksum that every
 * machine must agree on. Sizes are fixed: the same instructions everywhere.
 */
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define PAGE 4096

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static uint64_t mix(uint64_t sum, uint64_t value)
{
	return (sum ^ value) * 0x100000001b3u;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* A checksum by table, a sieve, a sort, and divisions. */
static uint64_t integer(void)
{
	enum { BYTES = 1 << 16, SIEVE = 1 << 20, NUMBERS = 1 << 16 };
	static uint8_t bytes[BYTES], composite[SIEVE];
	static uint32_t table[256], numbers[NUMBERS];
	uint64_t sum = 0;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t value = i;

		for (int bit = 0; bit < 8; bit++)
			value = value >> 1 ^ (value & 1 ? 0xedb88320 : 0);
		table[i] = value;
	}
	for (int round = 0; round < 4; round++) {
		uint32_t crc = ~0u, primes = 0;

		for (int i = 0; i < BYTES; i++)
			bytes[i] = next_random();
		for (int pass = 0; pass < 64; pass++)
			for (int i = 0; i < BYTES; i++)
				crc = crc >> 8 ^ table[(crc ^ bytes[i]) & 0xff];
		memset(composite, 0, SIEVE);
		for (uint32_t i = 2; i < SIEVE; i++) {
			if (composite[i])
				continue;
			primes++;
			for (uint64_t multiple = (uint64_t)i * i; multiple < SIEVE; multiple += i)
				composite[multiple] = 1;
		}
		for (int i = 0; i < NUMBERS; i++)
			numbers[i] = next_random();
		qsort(numbers, NUMBERS, sizeof(*numbers), compare);
		for (int i = 1; i < NUMBERS; i++)
			sum = mix(sum, numbers[i] / ((numbers[i - 1] & 0xffff) + 1));
		sum = mix(mix(sum, crc), primes);
	}
	return sum;
}

/* Copies, sums, and loads that depend on one another, over more than the caches hold. */
static uint64_t memory(void)
{
	enum { WORDS = 2 << 20 };
	uint64_t *from = malloc(WORDS * sizeof(*from)), *to = malloc(WORDS * sizeof(*to)), sum = 0, at = 0;

	if (!from || !to)
		return 0;
	for (uint64_t i = 0; i < WORDS; i++)
		from[i] = next_random();
	for (int round = 0; round < 4; round++) {
		memcpy(to, from, WORDS * sizeof(*from));
		for (uint64_t i = 0; i < WORDS; i++)
			sum += to[i] ^ i;
		for (uint64_t i = 0; i < WORDS; i += 8)
			from[i] = sum + i;
		for (int i = 0; i < 300000; i++)
			at = to[at % WORDS] + i;
		sum = mix(sum, at);
	}
	return sum;
}

/* System calls, pipes, pages that come at the first touch and on a write after fork. */
static uint64_t kernel(void)
{
	enum { CALLS = 150000, MESSAGES = 20000, ROUNDS = 60, PAGES = 256, CHILDREN = 40 };
	uint64_t sum = 0;
	char byte = 1;
	int ends[2];

	for (int i = 0; i < CALLS; i++)
		sum += syscall(SYS_getppid) >= 0;
	if (pipe(ends))
		return 0;
	for (int i = 0; i < MESSAGES; i++) {
		if (write(ends[1], &byte, 1) != 1 || read(ends[0], &byte, 1) != 1)
			return 0;
		sum += byte;
	}
	for (int round = 0; round < ROUNDS; round++) {
		char *area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (area == MAP_FAILED)
			return 0;
		for (int page = 0; page < PAGES; page++)
			area[page * PAGE] = page;
		for (int page = 0; page < PAGES; page++)
			sum += area[page * PAGE];
		munmap(area, PAGES * PAGE);
	}
	for (int child = 0; child < CHILDREN; child++) {
		static char shared[32 * PAGE];
		int status = 0;
		pid_t id = fork();

		if (id == 0) {
			for (int page = 0; page < 32; page++)
				shared[page * PAGE] = child;
			_exit(shared[random_state % 32 * PAGE]);
		}
		if (id < 0 || waitpid(id, &status, 0) != id)
			return 0;
		sum = mix(sum, WEXITSTATUS(status));
	}
	return sum;
}

/* Matrices, a set of Mandelbrot's, planets. Additions, products, quotients and roots, which are exact everywhere. */
static uint64_t floating(void)
{
	enum { SIZE = 128, SIDE = 256, BODIES = 5, STEPS = 100000 };
	static double a[SIZE][SIZE], b[SIZE][SIZE], c[SIZE][SIZE];
	double place[BODIES][3], speed[BODIES][3], mass[BODIES], total = 0;
	uint64_t sum = 0;

	for (int round = 0; round < 6; round++) {
		for (int i = 0; i < SIZE; i++)
			for (int j = 0; j < SIZE; j++) {
				a[i][j] = (next_random() & 1023) / 64.0;
				b[i][j] = (next_random() & 1023) / 32.0;
				c[i][j] = 0;
			}
		for (int i = 0; i < SIZE; i++)
			for (int k = 0; k < SIZE; k++)
				for (int j = 0; j < SIZE; j++)
					c[i][j] += a[i][k] * b[k][j];
		sum = mix(sum, (uint64_t)c[round][SIZE - 1 - round]);
	}
	for (int y = 0; y < SIDE; y++)
		for (int x = 0; x < SIDE; x++) {
			double real = 0, imaginary = 0, cr = x * 3.0 / SIDE - 2.0, ci = y * 2.0 / SIDE - 1.0;
			int steps = 0;

			while (steps < 200 && real * real + imaginary * imaginary < 4.0) {
				double old = real;

				real = real * real - imaginary * imaginary + cr;
				imaginary = 2.0 * old * imaginary + ci;
				steps++;
			}
			sum = mix(sum, steps);
		}
	for (int i = 0; i < BODIES; i++) {
		mass[i] = 1.0 + i;
		for (int axis = 0; axis < 3; axis++) {
			place[i][axis] = (next_random() & 255) / 16.0 + 4 * i;
			speed[i][axis] = (next_random() & 255) / 512.0;
		}
	}
	for (int step = 0; step < STEPS; step++) {
		for (int i = 0; i < BODIES; i++)
			for (int j = i + 1; j < BODIES; j++) {
				double d[3], square = 0.01, factor;

				for (int axis = 0; axis < 3; axis++) {
					d[axis] = place[i][axis] - place[j][axis];
					square += d[axis] * d[axis];
				}
				factor = 0.001 / (square * sqrt(square));
				for (int axis = 0; axis < 3; axis++) {
					speed[i][axis] -= d[axis] * mass[j] * factor;
					speed[j][axis] += d[axis] * mass[i] * factor;
				}
			}
		for (int i = 0; i < BODIES; i++)
			for (int axis = 0; axis < 3; axis++)
				place[i][axis] += 0.001 * speed[i][axis];
	}
	for (int i = 0; i < BODIES; i++)
		total += place[i][0] + place[i][1] + place[i][2];
	return mix(sum, (uint64_t)(total * 1048576.0));
}

/* The boot is the work. */
static uint64_t nothing(void)
{
	return 0;
}

static const struct {
	const char *name;
	uint64_t (*run)(void);
} workloads[] = {
	{ "boot", nothing },
	{ "integer", integer },
	{ "memory", memory },
	{ "kernel", kernel },
	{ "float", floating },
};

int main(int argc, char **argv)
{
	int console = open("/dev/console", O_WRONLY | O_NOCTTY);

	if (argc != 2 || console < 0)
		return 2;
	for (size_t i = 0; i < sizeof(workloads) / sizeof(*workloads); i++) {
		if (strcmp(argv[1], workloads[i].name))
			continue;
		dprintf(console, "\nworkload begins\n");
		dprintf(console, "\nworkload ends %016llx\n", (unsigned long long)workloads[i].run());
		tcdrain(console);
		return 0;
	}
	return 2;
}
