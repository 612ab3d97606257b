/*
 * The firmware of the Bochs machine: 64 KiB that end at 4 GiB and at 1 MiB. It copies what the table at ROM_TABLE says from
 * the first ATA disk into memory and enters the kernel by Linux's 32-bit boot protocol (boot.rst). There are no
 * interrupt services, no ACPI and no PCI set-up: the kernel finds the PC's old devices by itself.
 *
 * A table entry is three double words: first sector, number of sectors (0 ends the table), address.
 */
#define ROM_TABLE 0xff00
#define ZERO_PAGE 0x90000
#define KERNEL 0x1000000

#define CODE 0x10
#define DATA 0x18

#define ATA_DATA 0x1f0
#define ATA_COUNT 0x1f2
#define ATA_STATUS 0x1f7
#define ATA_BUSY 0x80
#define ATA_REQUEST 0x08
#define ATA_LBA 0xe0
#define ATA_READ 0x20

	.section .rom, "ax"
	.globl rom
	.code16
rom:
	cli
	cld
	/* Address line 20. */
	mov $2, %al
	out %al, $0x92
	lgdtl %cs:(gdt_register - rom)
	mov %cr0, %eax
	or $1, %eax
	mov %eax, %cr0
	ljmpl $CODE, $(0xf0000 + protected - rom)

	.code32
protected:
	mov $DATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $(0xf0000 + ROM_TABLE), %esi
next_entry:
	lodsl
	mov %eax, %ebx
	lodsl
	test %eax, %eax
	jz enter
	mov %eax, %ebp
	lodsl
	mov %eax, %edi
next_sector:
	mov $ATA_STATUS, %edx
1:	in %dx, %al
	test $ATA_BUSY, %al
	jnz 1b
	mov $ATA_COUNT, %edx
	mov $1, %al
	out %al, %dx
	inc %edx
	mov %bl, %al
	out %al, %dx
	inc %edx
	mov %bh, %al
	out %al, %dx
	inc %edx
	mov %ebx, %eax
	shr $16, %eax
	out %al, %dx
	inc %edx
	mov $ATA_LBA, %al
	out %al, %dx
	inc %edx
	mov $ATA_READ, %al
	out %al, %dx
2:	in %dx, %al
	test $ATA_REQUEST, %al
	jz 2b
	mov $ATA_DATA, %edx
	mov $256, %ecx
	rep insw
	inc %ebx
	dec %ebp
	jnz next_sector
	jmp next_entry

enter:
	mov $ZERO_PAGE, %esi
	xor %ebx, %ebx
	xor %ebp, %ebp
	xor %edi, %edi
	mov $KERNEL, %eax
	jmp *%eax

	.balign 8
gdt:
	.quad 0, 0
	.quad 0x00cf9b000000ffff
	.quad 0x00cf93000000ffff
gdt_register:
	.word 31
	.long 0xf0000 + gdt - rom

	/* The first instruction after reset. */
	.org 0xfff0
	.code16
	ljmp $0xf000, $0
	.org 0x10000

	.section .note.GNU-stack, "", @progbits
