/* Output, checks and memory: the same for kernels of 64 and of 32 bits. */
#ifndef CHECKS_H
#define CHECKS_H

#include "cpu.h"

/* The subject. Runs on the boot processor with interrupts off. */
void main(void);

/* Says on the second serial port that the guest is up: what hardware does by chance begins. Comes before main(). */
void become_ready(void);

/* ---- Output and checks ---- */

/* printf with %s %c %d %u %x %lx %lu %ld %%, to the first serial port. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Prints "PASS: " or "FAIL: " and the text, and counts. */
void check(bool passed, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Checks that two numbers are equal; says what they are if they are not. */
void check_equal(u64 found, u64 expected, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Ends the run with the counts, as the return of main() does. */
_Noreturn void finish(void);

/* Ends the run as failed. */
_Noreturn void fatal(const char *reason);

/* ---- Memory ---- */

void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);
int memcmp(const void *a, const void *b, size_t size);
size_t strlen(const char *text);
int strcmp(const char *a, const char *b);

/* ---- Exceptions that a kernel expects ---- */

/* The last exception that RECOVER has caught on this processor. */
struct fault {
	bool taken;
	u8 vector;
	u32 error_code;
	u64 address; /* CR2, of #PF */
	u64 rip;
};

/* Checks that the fault was taken with this vector and error code. */
void check_fault(struct fault fault, u8 vector, u32 error_code, const char *what);
/* Checks that there was none. */
void check_no_fault(struct fault fault, const char *what);

/* ---- Locks ---- */

typedef volatile u32 lock_t;
void lock(lock_t *lock);
void unlock(lock_t *lock);

#endif
