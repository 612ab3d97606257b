/* Patterns, and the memory that they lie in. */
#include "verify.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define GUARD_BYTE 0xc3
#define PAGE 4096

uint64_t random_next(struct random *random)
{
	uint64_t x = random->state += 0x9e3779b97f4a7c15;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

uint32_t random_below(struct random *random, uint32_t bound)
{
	return (random_next(random) >> 32) * bound >> 32;
}

uint64_t pattern_key(uint64_t iteration, unsigned direction)
{
	struct random random = { options.seed << 33 ^ iteration << 1 ^ direction };

	return random_next(&random);
}

/* Bytes 8 * index to 8 * index + 7 of the pattern, the first in the low bits. */
static uint64_t pattern_word(uint64_t key, uint64_t index)
{
	uint64_t x = (key + index) * 0x9e3779b97f4a7c15;

	x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9;
	return x ^ x >> 32;
}

static uint8_t content_byte(uint64_t key, uint64_t offset, enum content content)
{
	uint8_t byte = pattern_word(key, offset / 8) >> offset % 8 * 8;

	return content == PATTERN ? byte : (uint8_t)~byte;
}

static uint64_t content_word(uint64_t key, uint64_t offset, enum content content)
{
	uint64_t word = pattern_word(key, offset / 8);

	return content == PATTERN ? word : ~word;
}

void arena_create(struct arena *arena, struct ibv_pd *pd, size_t size, int access)
{
	arena->size = (size + PAGE - 1) & -PAGE;
	arena->base = mmap(NULL, arena->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(arena->base != MAP_FAILED, "mmap of %zu bytes: errno %d", arena->size, errno);
	arena->mr = made(ibv_reg_mr(pd, arena->base, arena->size, access));
}

void arena_destroy(struct arena *arena)
{
	must(ibv_dereg_mr(arena->mr));
	munmap(arena->base, arena->size);
}

static void place(struct layout *layout, const struct arena *arena, size_t at, uint32_t length)
{
	check(at >= GUARD && at + length + GUARD <= arena->size, "a message of %llu bytes does not fit its arena",
	      (unsigned long long)layout->size);
	layout->pieces[layout->count++] = (struct ibv_sge){
		.addr = (uintptr_t)arena->base + at,
		.length = length,
		.lkey = arena->mr->lkey,
	};
}

void layout_place(struct layout *layout, const struct arena *arena, size_t offset, uint64_t size, int count,
		  struct random *random)
{
	size_t at = offset + random_below(random, PAGE);
	uint64_t rest = size;

	*layout = (struct layout){ .size = size };
	for (int i = 0; i < count; i++) {
		uint32_t length = rest;

		/* An early piece may take all or nothing. */
		if (i + 1 < count && rest)
			length = random_below(random, 4) ? random_below(random, rest / 2 + 2) % (rest + 1) : 0;
		at += GUARD + random_below(random, GUARD);
		place(layout, arena, at, length);
		at += length + GUARD;
		rest -= length;
	}
}

void layout_align(struct layout *layout, const struct arena *arena, size_t offset, uint64_t size)
{
	*layout = (struct layout){ .size = size };
	place(layout, arena, (offset + GUARD + 7) & -8, size);
}

static char *piece_base(const struct ibv_sge *piece)
{
	return (char *)(uintptr_t)piece->addr;
}

void layout_fill(const struct layout *layout, uint64_t from, uint64_t to, uint64_t key, enum content content)
{
	/* Where the piece begins in the message: the first may begin before it. */
	int64_t start = -(int64_t)layout->header;

	for (int i = 0; i < layout->count; i++) {
		const struct ibv_sge *piece = &layout->pieces[i];
		char *base = piece_base(piece);
		int64_t end = start + piece->length;
		int64_t at = (int64_t)from > start ? (int64_t)from : start;
		int64_t stop = (int64_t)to < end ? (int64_t)to : end;

		memset(base - GUARD, GUARD_BYTE, GUARD);
		memset(base + piece->length, GUARD_BYTE, GUARD);
		while (at < stop) {
			if (at % 8 == 0 && stop - at >= 8) {
				uint64_t word = content_word(key, at, content);

				memcpy(base + (at - start), &word, 8);
				at += 8;
			} else {
				base[at - start] = content_byte(key, at, content);
				at++;
			}
		}
		start = end;
	}
}

static void print_bytes(const char *name, const uint8_t *bytes, unsigned count)
{
	printf("  %s:", name);
	for (unsigned i = 0; i < count; i++)
		printf(" %02x", bytes[i]);
	printf("\n");
}

static void mismatch(const struct ibv_sge *piece, int number, uint64_t in_piece, uint64_t offset, uint64_t key,
		     enum content content, const char *side)
{
	const uint8_t *found = (const uint8_t *)piece_base(piece) + in_piece;
	uint64_t left = piece->length - in_piece;
	unsigned count = left < 16 ? left : 16;
	uint8_t expected[16] = { 0 };
	bool opposite = true;

	for (unsigned i = 0; i < count; i++) {
		expected[i] = content_byte(key, offset + i, content);
		opposite &= (found[i] ^ expected[i]) == 0xff;
	}
	print_bytes("expected", expected, count);
	print_bytes("found   ", found, count);
	if (opposite)
		printf("  which is what %s\n",
		       content == PATTERN ? "was there before: nothing has arrived" : "the message carries");
	fail("%s: byte %llu (byte %llu of piece %d) is %02x, expected %02x", side, (unsigned long long)offset,
	     (unsigned long long)in_piece, number, found[0], expected[0]);
}

void layout_check(const struct layout *layout, uint64_t from, uint64_t to, uint64_t key, enum content content,
		  const char *side)
{
	int64_t start = -(int64_t)layout->header;

	for (int i = 0; i < layout->count; i++) {
		const struct ibv_sge *piece = &layout->pieces[i];
		const char *base = piece_base(piece);
		int64_t end = start + piece->length;
		int64_t at = (int64_t)from > start ? (int64_t)from : start;
		int64_t stop = (int64_t)to < end ? (int64_t)to : end;

		while (at < stop) {
			uint64_t word;

			if (at % 8 == 0 && stop - at >= 8) {
				memcpy(&word, base + (at - start), 8);
				if (word == content_word(key, at, content)) {
					at += 8;
					continue;
				}
			}
			if ((uint8_t)base[at - start] != content_byte(key, at, content))
				mismatch(piece, i, at - start, at, key, content, side);
			at++;
		}
		start = end;
	}
}

static void check_guard(const char *guard, const char *side, int piece, const char *where)
{
	for (int i = 0; i < GUARD; i++)
		check((uint8_t)guard[i] == GUARD_BYTE, "%s: byte %d of the guard %s piece %d is %02x, was %02x", side,
		      i, where, piece, (uint8_t)guard[i], GUARD_BYTE);
}

void layout_check_guards(const struct layout *layout, const char *side)
{
	for (int i = 0; i < layout->count; i++) {
		const struct ibv_sge *piece = &layout->pieces[i];

		check_guard(piece_base(piece) - GUARD, side, i, "before");
		check_guard(piece_base(piece) + piece->length, side, i, "after");
	}
}
