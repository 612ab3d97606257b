/* From the multiboot entry to C in flat 32-bit protected mode: descriptor table loaded, paging and interrupts off. */
#include "layout.h"

	.section .multiboot, "a"
	.balign 4
	.long 0x1badb002
	.long 3
	.long -(0x1badb002 + 3)

	.text
	.globl start
start:
	cli
	cld
	mov $stack + STACK_SIZE, %esp
	lgdt gdt_register
	ljmp $KERNEL_CODE, $1f
1:	mov $KERNEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	xor %ebp, %ebp
	call kernel_start
2:	cli
	hlt
	jmp 2b

	.data
	.balign 8
	.globl gdt
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff /* kernel code */
	.quad 0x00cf93000000ffff /* kernel data */
	.quad 0x00cffb000000ffff /* user code */
	.quad 0x00cff3000000ffff /* user data */
	.fill GDT_ENTRIES - 5, 8, 0
	.globl gdt_register
gdt_register:
	.word 8 * GDT_ENTRIES - 1
	.long gdt

	.bss
	.balign 16
stack:
	.skip STACK_SIZE

	.section .note.GNU-stack, "", @progbits
