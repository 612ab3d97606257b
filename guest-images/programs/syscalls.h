/*
 * System calls and the few string helpers of a freestanding guest program: no C library is linked, so the
 * program is a few kilobytes and runs in any initramfs. Functions return the kernel's value: negative errno
 * on failure.
 */
#include <asm/unistd.h>
#include <stddef.h>
#include <stdint.h>

#if !defined(__x86_64__)
#error "the guest programs are written for x86-64"
#endif

static long syscall6(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

#define SYSCALL_ARGS(n, a, b, c, d, e, f, ...) \
	syscall6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define sys(...) SYSCALL_ARGS(__VA_ARGS__, 0, 0, 0, 0, 0, 0)

/* The compiler may emit calls to these even in freestanding code. */
__attribute__((used)) void *memcpy(void *to, const void *from, size_t size)
{
	void *start = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
	return start;
}

__attribute__((used)) void *memset(void *to, int byte, size_t size)
{
	void *start = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
	return start;
}

static int has_char(const char *text, char wanted)
{
	for (; *text; text++)
		if (*text == wanted)
			return 1;
	return 0;
}

/* Appends `text` at `used`, always leaving the buffer terminated; what does not fit is cut. */
static size_t append(char *buffer, size_t size, size_t used, const char *text)
{
	while (*text && used + 1 < size)
		buffer[used++] = *text++;
	buffer[used] = 0;
	return used;
}

static size_t append_number(char *buffer, size_t size, size_t used, unsigned long value)
{
	char digits[21];
	size_t at = sizeof(digits) - 1;

	digits[at] = 0;
	do {
		digits[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	return append(buffer, size, used, digits + at);
}
