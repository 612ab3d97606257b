/* What C and assembly of 32-bit kernels both need to know. */
#ifndef LAYOUT_H
#define LAYOUT_H

/* Selectors. */
#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_CODE (0x18 | 3)
#define USER_DATA (0x20 | 3)
/* The task state segment of the kernel. */
#define TASK_SELECTOR 0x28
/* Descriptors for a kernel's own use. */
#define SPARE_SELECTOR 0x30
#define GDT_ENTRIES 32

#define STACK_SIZE 16384
#define USER_EXIT 0x80

#endif
