/* A stub for each of the 256 vectors, and the way from there to C and back. */
#include "layout.h"

/* Vectors whose exceptions push an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC. */
#define HAS_ERROR_CODE 0x00027d00

	.text
	.balign 16
	.globl vector_stubs
vector_stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.if ((HAS_ERROR_CODE >> (vector & 31)) & (vector < 32) & 1) == 0
	push $0
	.endif
	push $vector
	jmp common
	.set vector, vector + 1
	.endr

common:
	pusha
	push %ds
	push %es
	push %fs
	push %gs
	mov $KERNEL_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	cld
	mov %esp, %ebx
	and $-16, %esp
	sub $12, %esp
	push %ebx
	call dispatch
	mov %ebx, %esp
	pop %gs
	pop %fs
	pop %es
	pop %ds
	popa
	add $8, %esp
	iret

/*
 * u32 call_user(u32 function, u32 argument, u32 stack): runs function with the argument in EDI at privilege level 3 until
 * it makes INT USER_EXIT, and returns its EAX. Interrupts stay off.
 */
	.globl call_user
call_user:
	push %ebx
	push %esi
	push %edi
	push %ebp
	mov %esp, user_return_stack
	mov 20(%esp), %ecx
	mov 24(%esp), %edi
	mov 28(%esp), %edx
	mov $USER_DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	push %eax
	push %edx
	push $2
	push $USER_CODE
	push %ecx
	iret

/* void leave_user(u32 result): from the handler of USER_EXIT back to the caller of call_user(). */
	.globl leave_user
leave_user:
	mov 4(%esp), %eax
	mov user_return_stack, %esp
	pop %ebp
	pop %edi
	pop %esi
	pop %ebx
	ret

	.bss
	.balign 4
	.globl user_return_stack
user_return_stack:
	.long 0

	.section .note.GNU-stack, "", @progbits
