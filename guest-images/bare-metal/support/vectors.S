/* A stub for each of the 256 vectors, and the way from there to C and back. */
#include "layout.h"

/* Vectors whose exceptions push an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP. */
#define HAS_ERROR_CODE 0x00227d00

	.text
	.balign 16
	.globl vector_stubs
vector_stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.if (vector >= 32) || (((HAS_ERROR_CODE >> (vector & 31)) & 1) == 0)
	push $0
	.endif
	push $vector
	jmp common
	.set vector, vector + 1
	.endr

common:
	push %r15
	push %r14
	push %r13
	push %r12
	push %r11
	push %r10
	push %r9
	push %r8
	push %rdi
	push %rsi
	push %rbp
	push %rbx
	push %rdx
	push %rcx
	push %rax
	cld
	mov %rsp, %rdi
	mov %rsp, %rbx
	and $-16, %rsp
	call dispatch
	mov %rbx, %rsp
	pop %rax
	pop %rcx
	pop %rdx
	pop %rbx
	pop %rbp
	pop %rsi
	pop %rdi
	pop %r8
	pop %r9
	pop %r10
	pop %r11
	pop %r12
	pop %r13
	pop %r14
	pop %r15
	add $16, %rsp
	iretq

/*
 * u64 call_user(u64 function, u64 argument, u64 stack): runs function(argument) at privilege level 3 until it makes
 * INT 0x80, and returns its RAX then. Interrupts stay off.
 */
	.globl call_user
call_user:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, user_return_stack
	mov %rdi, %rcx
	mov %rsi, %rdi
	pushq $USER_DATA
	push %rdx
	pushq $2
	pushq $USER_CODE
	push %rcx
	iretq

/* The handler of INT 0x80 comes here by dispatch(), in kernel mode, with the user's RAX in RDI. */
	.globl leave_user
leave_user:
	mov %rdi, %rax
	mov user_return_stack, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

	.bss
	.balign 8
user_return_stack:
	.quad 0

	.section .note.GNU-stack, "", @progbits
