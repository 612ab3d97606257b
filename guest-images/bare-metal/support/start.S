/*
 * From the multiboot entry (32-bit protected mode) or a start-up IPI (real mode) to C in 64-bit mode: memory from 0 to
 * 4 GiB mapped to itself by 2 MiB pages, as private memory to an encrypted guest, descriptor tables loaded, SSE on, interrupts
 * off.
 */
#include "layout.h"

#define CR0_ON 0x80010033 /* PG, WP, NE, ET, MP, PE */
#define CR4_ON 0x620 /* OSXMMEXCPT, OSFXSR, PAE */
#define EFER 0xc0000080
#define SEV_LEAF 0x8000001f
#define SEV_STATUS 0xc0010131
#define EFER_ON 0x901 /* NXE, LME, SCE */

	.section .multiboot, "a"
	.balign 4
	.long 0x1badb002
	.long 3
	.long -(0x1badb002 + 3)

	.text
	.code32
	.globl start
start:
	cli
	cld
	mov %eax, multiboot_magic
	mov %ebx, multiboot_info
	mov $stacks + STACK_SIZE, %esp
	call to_long_mode
	ljmp $KERNEL_CODE, $boot_processor

/* Turns paging and long mode on, in the 32-bit compatibility segment still. */
to_long_mode:
	cmpl $0, page_tables
	jne 3f
	/* The upper half of the C-bit, if there is one (AMD APM volume 2, 15.34.1). */
	xor %esi, %esi
	mov $0x80000000, %eax
	cpuid
	cmp $SEV_LEAF, %eax
	jb 4f
	mov $SEV_LEAF, %eax
	cpuid
	test $2, %al
	jz 4f
	and $0x3f, %ebx
	mov $SEV_STATUS, %ecx
	rdmsr
	test $1, %al
	jz 4f
	lea -32(%ebx), %ecx
	mov $1, %esi
	shl %cl, %esi
4:	mov %esi, private_bit + 4
	/* One table of four directories' pointers, and the directories. */
	movl $page_tables + 0x1000 + 3, page_tables
	mov %esi, page_tables + 4
	mov $page_tables + 0x2000 + 3, %eax
	mov $page_tables + 0x1000, %edx
	mov $4, %ecx
1:	mov %eax, (%edx)
	mov %esi, 4(%edx)
	add $0x1000, %eax
	add $8, %edx
	loop 1b
	mov $0x83, %eax
	mov $page_tables + 0x2000, %edx
	mov $4 * 512, %ecx
2:	mov %eax, (%edx)
	mov %esi, 4(%edx)
	add $0x200000, %eax
	add $8, %edx
	loop 2b
3:	mov $CR4_ON, %eax
	mov %eax, %cr4
	mov $page_tables, %eax
	mov %eax, %cr3
	mov $EFER, %ecx
	xor %edx, %edx
	mov $EFER_ON, %eax
	wrmsr
	mov $CR0_ON, %eax
	mov %eax, %cr0
	lgdt gdt_register
	ret

	.code64
boot_processor:
	xor %edi, %edi
	mov $stacks + STACK_SIZE, %rsp
	jmp enter_c

application_processor:
	/* Each takes the next index, and with it a stack and a task state segment. */
	mov $1, %edi
	lock xadd %edi, next_processor
	cmp $MAX_CPUS, %edi
	jae park
	mov %edi, %eax
	inc %eax
	imul $STACK_SIZE, %eax
	lea stacks(%rax), %rsp

enter_c:
	mov $KERNEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	xor %ebp, %ebp
	fninit
	call processor_start
park:
	cli
	hlt
	jmp park

/* Copied to TRAMPOLINE; its 16-bit part addresses memory relative to CS. */
	.globl trampoline, trampoline_end
	.code16
trampoline:
	cli
	cld
	mov %cs, %ax
	mov %ax, %ds
	lgdtl trampoline_gdt - trampoline
	mov %cr0, %eax
	or $1, %eax
	mov %eax, %cr0
	ljmpl $KERNEL_CODE_32, $TRAMPOLINE + (1f - trampoline)
	.code32
1:	mov $KERNEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	/* The stack is one processor's at a time. */
2:	mov $1, %eax
	xchg %eax, trampoline_lock
	test %eax, %eax
	jz 3f
	pause
	jmp 2b
3:	mov $trampoline_stack_end, %esp
	/* The copy is elsewhere: no relative calls. */
	mov $to_long_mode, %eax
	call *%eax
	movl $0, trampoline_lock
	ljmp $KERNEL_CODE, $application_processor
	.balign 8
trampoline_gdt:
	.word 8 * GDT_ENTRIES - 1
	.long gdt
trampoline_end:

	.data
	.balign 8
	.globl gdt
gdt:
	.quad 0
	.quad 0x00af9b000000ffff /* kernel code */
	.quad 0x00cf93000000ffff /* kernel data */
	.quad 0x00cffb000000ffff /* user code, 32-bit */
	.quad 0x00cff3000000ffff /* user data */
	.quad 0x00affb000000ffff /* user code */
	.quad 0x00cf9b000000ffff /* kernel code, 32-bit */
	.fill GDT_ENTRIES - 7, 8, 0
gdt_register:
	.word 8 * GDT_ENTRIES - 1
	.quad gdt
next_processor:
	.long 1

	.bss
	.balign 4096
	.globl page_tables
page_tables:
	.skip 6 * 4096
	.globl stacks
stacks:
	.skip MAX_CPUS * STACK_SIZE
	.balign 8
	.globl private_bit
private_bit:
	.skip 8
	.globl multiboot_magic, multiboot_info
multiboot_magic:
	.long 0
multiboot_info:
	.long 0
trampoline_lock:
	.long 0
trampoline_stack:
	.skip 64
trampoline_stack_end:

	.section .note.GNU-stack, "", @progbits
