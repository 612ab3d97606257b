/* Text on the first serial port, and the count of checks. */
#include <stdarg.h>

#include "checks.h"

#define SERIAL 0x3f8
#define TRANSMITTER_EMPTY 0x20
#define DEBUG_EXIT 0xf4

static lock_t output;
static u32 checks, failures;

static void put(char c)
{
	while (!(in8(SERIAL + 5) & TRANSMITTER_EMPTY))
		pause();
	out8(SERIAL, c);
}

static void put_text(const char *text)
{
	while (*text)
		put(*text++);
}

/* Divides in place and returns the remainder, without the library that 32-bit code needs for it. */
static u32 divide(u64 *value, u32 base)
{
	u32 high = *value >> 32, low = *value, rest = high % base;

	high /= base;
	asm("divl %2" : "+a"(low), "+d"(rest) : "r"(base) : "cc");
	*value = (u64)high << 32 | low;
	return rest;
}

static void put_number(u64 value, u32 base)
{
	char digits[20];
	u32 count = 0;

	do
		digits[count++] = "0123456789abcdef"[divide(&value, base)];
	while (value);
	while (count)
		put(digits[--count]);
}

static void put_signed(s64 value)
{
	if (value < 0)
		put('-');
	put_number(value < 0 ? -(u64)value : (u64)value, 10);
}

static void put_format(const char *format, va_list arguments)
{
	for (; *format; format++) {
		bool is_long = false;

		if (*format != '%') {
			put(*format);
			continue;
		}
		while (*++format == 'l')
			is_long = true;
		switch (*format) {
		case 's':
			put_text(va_arg(arguments, const char *));
			break;
		case 'c':
			put(va_arg(arguments, int));
			break;
		case 'd':
			put_signed(is_long ? va_arg(arguments, long) : va_arg(arguments, int));
			break;
		case 'u':
			put_number(is_long ? va_arg(arguments, unsigned long) : va_arg(arguments, u32), 10);
			break;
		case 'x':
			put_number(is_long ? va_arg(arguments, unsigned long) : va_arg(arguments, u32), 16);
			break;
		case '%':
			put('%');
			break;
		default:
			put('?');
			return;
		}
	}
}

void print(const char *format, ...)
{
	va_list arguments;

	lock(&output);
	va_start(arguments, format);
	put_format(format, arguments);
	va_end(arguments);
	unlock(&output);
}

static void count(bool passed, const char *format, va_list arguments)
{
	checks++;
	failures += !passed;
	put_text(passed ? "PASS: " : "FAIL: ");
	put_format(format, arguments);
}

void check(bool passed, const char *format, ...)
{
	va_list arguments;

	lock(&output);
	va_start(arguments, format);
	count(passed, format, arguments);
	va_end(arguments);
	put('\n');
	unlock(&output);
}

void check_equal(u64 found, u64 expected, const char *format, ...)
{
	va_list arguments;

	lock(&output);
	va_start(arguments, format);
	count(found == expected, format, arguments);
	va_end(arguments);
	if (found != expected) {
		put_text(": found 0x");
		put_number(found, 16);
		put_text(", expected 0x");
		put_number(expected, 16);
	}
	put('\n');
	unlock(&output);
}

static _Noreturn void leave(u8 status)
{
	out8(DEBUG_EXIT, status);
	for (;;)
		asm volatile("cli; hlt");
}

void finish(void)
{
	print("%u checks, %u failed\n", checks, failures);
	leave(failures != 0);
}

void fatal(const char *reason)
{
	/* Whoever holds the lock may never give it back. */
	unlock(&output);
	print("FAIL: %s\n", reason);
	leave(1);
}
