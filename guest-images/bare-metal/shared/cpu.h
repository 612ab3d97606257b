/* The processor's instructions as C sees them. */
#ifndef CPU_H
#define CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;
/* As wide as a register. */
typedef unsigned long ulong;

#define FLAG_CF (1u << 0)
#define FLAG_TF (1u << 8)
#define FLAG_IF (1u << 9)
#define FLAG_AC (1u << 18)

enum vector {
	VECTOR_DE = 0,
	VECTOR_DB = 1,
	VECTOR_NMI = 2,
	VECTOR_BP = 3,
	VECTOR_OF = 4,
	VECTOR_BR = 5,
	VECTOR_UD = 6,
	VECTOR_NM = 7,
	VECTOR_DF = 8,
	VECTOR_TS = 10,
	VECTOR_NP = 11,
	VECTOR_SS = 12,
	VECTOR_GP = 13,
	VECTOR_PF = 14,
	VECTOR_MF = 16,
	VECTOR_AC = 17,
	VECTOR_XM = 19,
};

static inline void out8(u16 port, u8 value)
{
	asm volatile("out %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out16(u16 port, u16 value)
{
	asm volatile("out %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out32(u16 port, u32 value)
{
	asm volatile("out %0, %1" : : "a"(value), "Nd"(port));
}

static inline u8 in8(u16 port)
{
	u8 value;

	asm volatile("in %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline u16 in16(u16 port)
{
	u16 value;

	asm volatile("in %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline u32 in32(u16 port)
{
	u32 value;

	asm volatile("in %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline u64 read_msr(u32 index)
{
	u32 low, high;

	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
	return low | (u64)high << 32;
}

static inline void write_msr(u32 index, u64 value)
{
	asm volatile("wrmsr" : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

struct cpuid {
	u32 eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(u32 leaf, u32 subleaf)
{
	struct cpuid r;

	asm volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
	return r;
}

static inline u64 read_tsc(void)
{
	u32 low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return low | (u64)high << 32;
}

#define CONTROL_REGISTER(n)                                                        \
	static inline ulong read_cr##n(void)                                       \
	{                                                                          \
		ulong value;                                                       \
                                                                                   \
		asm volatile("mov %%cr" #n ", %0" : "=r"(value) : : "memory");     \
		return value;                                                      \
	}                                                                          \
	static inline void write_cr##n(ulong value)                                \
	{                                                                          \
		asm volatile("mov %0, %%cr" #n : : "r"(value) : "memory");         \
	}
CONTROL_REGISTER(0)
CONTROL_REGISTER(2)
CONTROL_REGISTER(3)
CONTROL_REGISTER(4)
#ifdef __x86_64__
CONTROL_REGISTER(8)
#endif

static inline ulong read_flags(void)
{
	ulong flags;

	asm volatile("pushf; pop %0" : "=r"(flags) : : "memory");
	return flags;
}

static inline void interrupts_on(void)
{
	asm volatile("sti" : : : "memory");
}

static inline void interrupts_off(void)
{
	asm volatile("cli" : : : "memory");
}

/* Takes the interrupts that are due at once, then turns them off again. */
static inline void interrupt_window(void)
{
	asm volatile("sti; nop; cli" : : : "memory");
}

static inline void halt_for_interrupt(void)
{
	asm volatile("sti; hlt; cli" : : : "memory");
}

static inline void pause(void)
{
	asm volatile("pause" : : : "memory");
}

static inline void invalidate_page(const volatile void *address)
{
	asm volatile("invlpg (%0)" : : "r"(address) : "memory");
}

#endif
