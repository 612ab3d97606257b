/*
 * Computes with everything that a compiler emits for user programs: integers of all widths up to 128 bits, float, double
 * and long double, strings, sorting, recursion, indirect calls. Prints one line a subject; floating-point results as hex,
 * so that a last bit counts. Uses no transcendental library function: those differ between processors by design.
 */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state = 0x9e3779b97f4a7c15u;

static uint64_t random64(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t fold(uint64_t hash, uint64_t value)
{
	hash ^= value;
	return (hash << 23 | hash >> 41) * 0x2545f4914f6cdd1du;
}

static void integers(void)
{
	uint64_t hash = 1;

	for (int i = 0; i < 200000; i++) {
		uint64_t a = random64(), b = random64() | 1;
		unsigned int shift = b % 63 + 1;
		unsigned __int128 wide = (unsigned __int128)a * b;

		hash = fold(hash, a / b + a % b + (a << shift | a >> (64 - shift)));
		hash = fold(hash, (uint64_t)((int64_t)a / (int64_t)(b >> 1 | 1)));
		hash = fold(hash, (uint32_t)a * (uint32_t)b + (uint16_t)a / (uint16_t)(b | 1) + (uint8_t)a % (uint8_t)(b | 1));
		hash = fold(hash, (uint64_t)(wide >> 64) + (uint64_t)(wide % (b | 1ull << 40)));
		hash = fold(hash, __builtin_popcountll(a) + __builtin_clzll(b) + __builtin_ctzll(a | 1ull << 63));
		hash = fold(hash, __builtin_bswap64(a) + __builtin_add_overflow_p((int64_t)a, (int64_t)b, (int64_t)0));
	}
	printf("integers %016llx\n", (unsigned long long)hash);
}

#define REAL(name, type, format)                                                                         \
	static void name(void)                                                                           \
	{                                                                                                \
		type sum = 0, pi = 0, root = 0;                                                          \
		uint64_t hash = 1;                                                                       \
                                                                                                         \
		for (int i = 0; i < 100000; i++) {                                                       \
			type a = (type)(int64_t)random64() / (type)(1ull << 40);                         \
			type b = (type)(uint32_t)random64() + (type)0.5;                                 \
                                                                                                         \
			sum += a / b - a * (type)1e-9;                                                   \
			pi += (type)(i % 2 ? -4 : 4) / (type)(2 * i + 1);                                \
			root += __builtin_sqrt##format(b);                                               \
			hash = fold(hash, (uint64_t)(int64_t)a + (a < b) + (uint64_t)b);                 \
		}                                                                                        \
		printf(#name " %La %La %La %016llx\n", (long double)sum, (long double)pi,                \
		       (long double)root, (unsigned long long)hash);                                     \
	}

REAL(singles, float, f)
REAL(doubles, double, )
REAL(extended, long double, l)

static void matrices(void)
{
	enum { N = 96 };
	static double a[N][N], b[N][N], c[N][N];
	double trace = 0;

	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			a[i][j] = (double)(random64() % 1000) / 7;
			b[i][j] = (double)(random64() % 1000) / 11;
		}
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++)
			for (int k = 0; k < N; k++)
				c[i][j] += a[i][k] * b[k][j];
	for (int i = 0; i < N; i++)
		trace += c[i][i];
	printf("matrices %a %a\n", trace, c[N / 2][N / 3]);
}

static int by_value(const void *left, const void *right)
{
	uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

	return (a > b) - (a < b);
}

static void sorting(void)
{
	enum { COUNT = 100000 };
	uint32_t *values = malloc(COUNT * sizeof(*values));
	uint64_t hash = 1;

	for (int i = 0; i < COUNT; i++)
		values[i] = (uint32_t)random64();
	qsort(values, COUNT, sizeof(*values), by_value);
	for (int i = 0; i < COUNT; i++) {
		if (i && values[i - 1] > values[i])
			printf("not sorted at %d\n", i);
		hash = fold(hash, values[i]);
	}
	free(values);
	printf("sorting %016llx\n", (unsigned long long)hash);
}

static void strings(void)
{
	enum { SIZE = 1 << 16 };
	char *text = malloc(SIZE + 1), *copy = malloc(SIZE + 1);
	uint64_t hash = 1;

	for (int i = 0; i < SIZE; i++)
		text[i] = (char)('a' + random64() % 26);
	text[SIZE] = 0;
	for (int i = 0; i < 300; i++) {
		size_t from = random64() % (SIZE / 2), to = random64() % (SIZE / 2), size = random64() % (SIZE / 4);
		char *found;

		memcpy(copy, text, SIZE + 1);
		memmove(copy + to, copy + from, size);
		memset(copy + from, 'z', size / 3);
		found = strchr(copy + to, 'q');
		hash = fold(hash, strlen(copy + to) + (uint64_t)(found ? found - copy : -1));
		hash = fold(hash, (uint64_t)(memcmp(copy + from, text + from, size) > 0) + (strstr(copy, "xyz") != NULL));
	}
	free(text);
	free(copy);
	printf("strings %016llx\n", (unsigned long long)hash);
}

static jmp_buf escape;

static int recurse(int depth, ...)
{
	va_list arguments;
	double fraction;
	int count;

	va_start(arguments, depth);
	count = va_arg(arguments, int);
	fraction = va_arg(arguments, double);
	va_end(arguments);
	if (depth == 0) {
		if (count > 1000)
			longjmp(escape, count);
		return count;
	}
	return recurse(depth - 1, count + (int)fraction, fraction * 1.25) + 1;
}

static void control(void)
{
	int (*function)(int, ...) = recurse;
	int value = setjmp(escape);

	if (value == 0)
		function(60, 1, 1.5);
	printf("control %d\n", value);
}

int main(void)
{
	integers();
	singles();
	doubles();
	extended();
	matrices();
	sorting();
	strings();
	control();
	return 0;
}
