/* What C and assembly both need to know. */
#ifndef LAYOUT_H
#define LAYOUT_H

#define MAX_CPUS 8

/* Selectors. The order of the user segments is the one that SYSRET wants. */
#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_CODE_32 (0x18 | 3)
#define USER_DATA (0x20 | 3)
#define USER_CODE (0x28 | 3)
#define KERNEL_CODE_32 0x30
/* Four descriptors for a kernel's own use. */
#define SPARE_SELECTOR 0x38
/* The task state segment of CPU n is at TASK_SELECTOR + 16 n. */
#define TASK_SELECTOR 0x58
#define GDT_ENTRIES (TASK_SELECTOR / 8 + 2 * MAX_CPUS)

#define STACK_SIZE 16384
/* Interrupt stack table entry of #DF. */
#define DOUBLE_FAULT_STACK 1

/* Page of conventional memory where application processors start. */
#define TRAMPOLINE 0x8000

#define MULTIBOOT_MAGIC 0x2badb002

#endif
