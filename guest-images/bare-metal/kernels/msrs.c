/* Model-specific registers and control registers: what they keep, and what they refuse (SDM volume 4; volume 3, 2.5). */
#include "support.h"

#define EFER 0xc0000080
#define CR4_PAE (1ull << 5)
#define CR0_CD (1ul << 30)

static const struct {
	const char *name;
	u32 index;
	/* A value to keep, and one to refuse. */
	u64 good, bad;
} msrs[] = {
	{ "SYSENTER_CS", 0x174, 0x1234, 0 },
	{ "SYSENTER_ESP", 0x175, 0x123456789abc, 1ull << 63 },
	{ "SYSENTER_EIP", 0x176, 0x123456789abc, 1ull << 63 },
	{ "PAT", 0x277, 0x0007010600070406, 0x0007040600070402 },
	{ "PAT, upper bits", 0x277, 0x0007040600070406, 0x0807040600070406 },
	{ "STAR", 0xc0000081, 0x0018000800000000, 0 },
	{ "LSTAR", 0xc0000082, 0xffffffff81000000, 0x0000800000000000 },
	{ "CSTAR", 0xc0000083, 0xffffffff81000000, 0x0000800000000000 },
	{ "FMASK", 0xc0000084, 0xffffffff, 0x100000000 },
	{ "FS_BASE", 0xc0000100, 0x123456789abc, 0x8000000000000000 },
	{ "KERNEL_GS_BASE", 0xc0000102, 0x123456789abc, 0x8000000000000000 },
	{ "TSC_AUX", 0xc0000103, 0x87654321, 0x100000000 },
	{ "MTRR_DEF_TYPE", 0x2ff, 0xc00, 0xc02 },
	{ "MTRR_PHYSBASE0", 0x200, 0x80000006, 0x80000002 },
	{ "MTRR_PHYSMASK0", 0x201, 0x3fff80000800, 0x10003fff80000800 },
	{ "MTRR_FIX64K", 0x250, 0x0606060606060606, 0x0606060606060602 },
	{ "MISC_ENABLE", 0x1a0, 0x400c51809, 1ull << 63 },
	{ "MCG_STATUS", 0x17a, 0, 1 },
	{ "DEBUGCTL", 0x1d9, 2, 1ull << 40 },
	{ "EFER", EFER, 0xd01, 1ull << 20 },
};

static void values(void)
{
	u64 ignored;

	for (u32 i = 0; i < sizeof(msrs) / sizeof(*msrs); i++) {
		u64 before = read_msr(msrs[i].index);

		check_no_fault(write_msr_checked(msrs[i].index, msrs[i].good), msrs[i].name);
		check_equal(read_msr(msrs[i].index), msrs[i].good, "%s keeps its value", msrs[i].name);
		if (msrs[i].bad) {
			check_fault(write_msr_checked(msrs[i].index, msrs[i].bad), VECTOR_GP, 0, msrs[i].name);
			check_equal(read_msr(msrs[i].index), msrs[i].good, "%s is as before", msrs[i].name);
		}
		write_msr(msrs[i].index, before);
	}
	check_fault(read_msr_checked(0x12345678, &ignored), VECTOR_GP, 0, "RDMSR of one that is not there");
	check_fault(write_msr_checked(0x12345678, 0), VECTOR_GP, 0, "WRMSR of one");
	check_fault(write_msr_checked(0xfe, 0), VECTOR_GP, 0, "MTRRCAP cannot be written");
	check_fault(write_msr_checked(0x179, 0), VECTOR_GP, 0, "MCG_CAP cannot be written");
	for (u32 bank = read_msr(0x179) & 0xff; bank < 32; bank++) {
		struct fault fault = read_msr_checked(0x400 + 4 * bank, &ignored);

		if (!fault.taken || fault.vector != VECTOR_GP)
			check(false, "machine-check bank %u beyond MCG_CAP", bank);
	}
	check_fault(write_msr_checked(EFER, read_msr(EFER) & ~(1ull << 8)), VECTOR_GP, 0, "EFER.LME while paging is on");
	check_no_fault(write_msr_checked(EFER, read_msr(EFER) & ~(1ull << 10)), "EFER.LMA is not written");
	check_equal(read_msr(EFER) >> 10 & 1, 1, "but kept");
}

static void misc_enable(void)
{
	u64 before = read_msr(0x1a0);
	u32 leaves = cpuid(0, 0).eax;

	check(leaves > 2, "CPUID has leaves above 2");
	write_msr(0x1a0, before | 1ull << 22);
	check_equal(cpuid(0, 0).eax, 2, "not while MISC_ENABLE limits it");
	write_msr(0x1a0, before);
	check_equal(cpuid(0x80000001, 0).edx >> 20 & 1, 1, "CPUID says NX");
	write_msr(0x1a0, before | 1ull << 34);
	check_equal(cpuid(0x80000001, 0).edx >> 20 & 1, 0, "not while MISC_ENABLE disables it");
	write_msr(0x1a0, before);
}

static void time_stamps(void)
{
	u64 start, adjusted;
	u32 low, high, aux;

	write_msr(0xc0000103, 0x1234);
	asm volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(aux));
	check_equal(aux, 0x1234, "RDTSCP gives TSC_AUX");
	asm volatile("rdpid %0" : "=r"(start));
	check_equal(start, 0x1234, "RDPID gives TSC_AUX");
	write_msr(0x3b, 0);
	start = read_tsc();
	write_msr(0x3b, 1ull << 40);
	adjusted = read_tsc();
	check(adjusted - start >= 1ull << 40 && adjusted - start < (1ull << 40) + 100000000, "TSC_ADJUST moves the TSC");
	write_msr(0x10, 1000);
	check(read_tsc() < 100000000, "the TSC can be written");
	check((s64)read_msr(0x3b) < 0, "and TSC_ADJUST says by how much");
	write_msr(0x3b, 0);
}

#define CONTROL(n)                                                                 \
	static struct fault write_cr##n##_checked(u64 value)                       \
	{                                                                          \
		clear_fault();                                                     \
		asm volatile(RECOVER("mov %0, %%cr" #n) : : "r"(value) : "memory"); \
		return last_fault();                                               \
	}
CONTROL(0)
CONTROL(3)
CONTROL(4)
CONTROL(8)

static void control_registers(void)
{
	u64 cr0 = read_cr0(), cr3 = read_cr3(), cr4 = read_cr4();

	check_fault(write_cr0_checked(cr0 & ~1ull), VECTOR_GP, 0, "CR0: paging without protection");
	check_fault(write_cr0_checked(cr0 & ~(1ull << 31)), VECTOR_GP, 0, "CR0: no paging in 64-bit mode");
	check_fault(write_cr0_checked(cr0 | 1ull << 29), VECTOR_GP, 0, "CR0: NW without CD");
	check_fault(write_cr0_checked(cr0 | 1ull << 32), VECTOR_GP, 0, "CR0: bit 32");
	check_no_fault(write_cr0_checked(cr0 & ~(1ull << 4)), "CR0: ET cannot be cleared");
	check_equal(read_cr0(), cr0, "CR0 is as before");
	check_fault(write_cr3_checked(cr3 | 1ull << 63), VECTOR_GP, 0, "CR3: bit 63");
	check_fault(write_cr3_checked(cr3 | 1ull << 52), VECTOR_GP, 0, "CR3: bit 52");
	check_fault(write_cr4_checked(cr4 & ~CR4_PAE), VECTOR_GP, 0, "CR4: no PAE in long mode");
	check_fault(write_cr4_checked(cr4 | 1ull << 15), VECTOR_GP, 0, "CR4: bit 15");
	check_fault(write_cr4_checked(cr4 | 1ull << 63), VECTOR_GP, 0, "CR4: bit 63");
	check_fault(write_cr4_checked(cr4 | 1ull << 12), VECTOR_GP, 0, "CR4: LA57 in long mode");
	check_equal(read_cr4(), cr4, "CR4 is as before");
	check_fault(write_cr8_checked(16), VECTOR_GP, 0, "CR8: 16");
	check_no_fault(write_cr8_checked(15), "CR8: 15");
	check_equal(read_cr8(), 15, "CR8 keeps it");
	write_cr8(0);
	write_cr2(0xdeadbeefcafebabe);
	check_equal(read_cr2(), 0xdeadbeefcafebabe, "CR2 keeps anything");
	write_cr4(cr4 | 4);
	read_tsc();
	check(true, "CR4.TSD does not concern the kernel");
	write_cr4(cr4);
	asm volatile("smsw %%eax; andl $~1, %%eax; lmsw %%ax" : : : "rax", "memory", "cc");
	check_equal(read_cr0() & 1, 1, "LMSW cannot clear PE");
	asm volatile("smsw %%eax; orl $8, %%eax; lmsw %%ax" : : : "rax", "memory");
	check_equal(read_cr0() >> 3 & 1, 1, "LMSW sets TS");
	asm volatile("clts" : : : "memory");
	check_equal(read_cr0() >> 3 & 1, 0, "CLTS clears it");
}

void main(void)
{
	ulong cr0 = read_cr0();

	/* Memory types change among others: no cache may have anything to itself then (SDM volume 3, 12.11.7.2). */
	write_cr0(cr0 | CR0_CD);
	asm volatile("wbinvd" : : : "memory");
	values();
	write_cr0(cr0);
	misc_enable();
	time_stamps();
	clear_fault();
	asm volatile(RECOVER("rdpmc") : : "c"(0) : "rax", "rdx");
	check_fault(last_fault(), VECTOR_GP, 0, "RDPMC without counters");
	control_registers();
}
