/* The I/O privilege level and the I/O permission bitmap (SDM volume 1, chapter 19). */
#include "support.h"

/* A port without a device. */
#define PORT 0x2e8

#define PIECE(name, instruction)                                                         \
	extern u8 name[], name##_end[];                                                  \
	asm(".text\n" #name ": " instruction "\n" #name "_end: int $0x80\n")
PIECE(first, "in (%dx), %al");
PIECE(in16_piece, "in (%dx), %ax");
PIECE(in32_piece, "in (%dx), %eax");
PIECE(out8_piece, "out %al, (%dx)");
PIECE(ins_piece, "insb");
PIECE(outs_piece, "outsb");
PIECE(cli_piece, "cli");
PIECE(sti_piece, "sti");
PIECE(popf_piece, "push $0; popf");
extern u8 last[];
asm(".text\nlast:\n");

static u64 user, stack, resume;
static u32 vector;

static void on_user_fault(struct frame *state)
{
	vector = state->vector;
	state->rip = resume;
}

/* Loads RDX with the port first: a prologue of its own, in the user page. */
static u32 try(const u8 *start, const u8 *end, u32 port)
{
	u8 *code = (u8 *)user;

	/* mov $port, %edx; mov %rdi, %rsi; the piece with its INT 0x80 */
	code[0] = 0xba;
	memcpy(code + 1, &port, 4);
	memcpy(code + 5, "\x48\x89\xfe", 3);
	memcpy(code + 8, start, end - start + 2);
	resume = user + 8 + (end - start);
	vector = 0;
	call_user(user, stack, stack + 4096);
	return vector;
}

static void allow(u32 port, bool allowed)
{
	u8 *byte = &task_states[0].io_bitmap[port / 8];

	*byte = allowed ? *byte & ~(1 << (port & 7)) : *byte | 1 << (port & 7);
}

/* The task state segment of this processor, with another limit or I/O map base. */
static void load_task(u32 limit, u32 map)
{
	u64 *descriptor = &gdt[TASK_SELECTOR / 8];

	task_states[0].io_map = map;
	*descriptor = (*descriptor & ~0x000f02000000ffffull) | (limit & 0xffff) | (u64)(limit >> 16) << 48;
	asm volatile("ltr %w0" : : "r"(TASK_SELECTOR));
}

static const struct {
	const char *name;
	u8 *start, *end;
} accesses[] = {
	{ "IN of a byte", first, first_end },	       { "IN of two bytes", in16_piece, in16_piece_end },
	{ "IN of four bytes", in32_piece, in32_piece_end }, { "OUT of a byte", out8_piece, out8_piece_end },
	{ "INS", ins_piece, ins_piece_end },	       { "OUTS", outs_piece, outs_piece_end },
};

void main(void)
{
	const u32 map = offsetof(struct task_state, io_bitmap);
	const u32 count = sizeof(accesses) / sizeof(*accesses);

	user = (u64)new_page();
	stack = (u64)new_page();
	change_pages(user, 4096, PAGE_USER, 0);
	change_pages(stack, 4096, PAGE_USER, 0);
	set_handler(VECTOR_GP, on_user_fault);

	load_task(map - 1, map);
	for (u32 i = 0; i < count; i++)
		check_equal(try(accesses[i].start, accesses[i].end, PORT), VECTOR_GP, "%s without a bitmap",
			    accesses[i].name);

	load_task(sizeof(struct task_state) - 1, map);
	memset(task_states[0].io_bitmap, 0xff, sizeof(task_states[0].io_bitmap));
	for (u32 i = 0; i < count; i++)
		check_equal(try(accesses[i].start, accesses[i].end, PORT), VECTOR_GP, "%s with its bit set",
			    accesses[i].name);
	allow(PORT, true);
	check_equal(try(first, first_end, PORT), 0, "IN of a byte with its bit clear");
	check_equal(try(out8_piece, out8_piece_end, PORT), 0, "OUT of a byte with its bit clear");
	check_equal(try(ins_piece, ins_piece_end, PORT), 0, "INS with its bit clear");
	check_equal(try(outs_piece, outs_piece_end, PORT), 0, "OUTS with its bit clear");
	check_equal(try(in16_piece, in16_piece_end, PORT), VECTOR_GP, "IN of two bytes with the second bit set");
	check_equal(try(first, first_end, PORT + 1), VECTOR_GP, "the next port");
	allow(PORT + 1, true);
	check_equal(try(in16_piece, in16_piece_end, PORT), 0, "IN of two bytes with both bits clear");
	check_equal(try(in32_piece, in32_piece_end, PORT), VECTOR_GP, "IN of four bytes with two bits clear");
	/* Bits in two bytes of the bitmap. */
	for (u32 port = PORT + 6; port < PORT + 10; port++)
		allow(port, true);
	check_equal(try(in32_piece, in32_piece_end, PORT + 6), 0, "IN of four bytes across bytes of the bitmap");
	allow(PORT + 9, false);
	check_equal(try(in32_piece, in32_piece_end, PORT + 6), VECTOR_GP, "with the last bit set");

	allow(0x80, true);
	load_task(map + 0x10, map);
	check_equal(try(first, first_end, 0x80), VECTOR_GP, "the byte after the port's lies beyond the limit");
	load_task(map + 0x11, map);
	check_equal(try(first, first_end, 0x80), 0, "the byte after the port's is the last");
	check_equal(try(first, first_end, PORT), VECTOR_GP, "a port beyond the limit");
	allow(0xffff, true);
	load_task(sizeof(struct task_state) - 1, map);
	check_equal(try(first, first_end, 0xffff), 0, "the last port");

	check_equal(try(cli_piece, cli_piece_end, 0), VECTOR_GP, "CLI with IOPL 0");
	check_equal(try(sti_piece, sti_piece_end, 0), VECTOR_GP, "STI with IOPL 0");
	check_equal(try(popf_piece, popf_piece_end, 0), 0, "POPF with IOPL 0 is no fault");
}
