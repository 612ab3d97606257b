/*
 * Orders to the remote peer that staleline plays on the InfiniBand fabric, its answers, and its patterns.
 *
 * The peer is LID 2. Connect a reliable-connection queue pair to it (any queue pair number from PEER_FIRST_QPN on, any
 * packet sequence numbers, nothing to exchange), post receives, and SEND it orders. It carries each out by one-sided
 * requests to memory that you have registered for remote access, and answers with a SEND. devices/src/mlx5/peer has
 * the rules.
 *
 * All fields are little-endian.
 */
#ifndef RDMA_PEER_H
#define RDMA_PEER_H

#include <stdint.h>

#define PEER_LID 2
#define PEER_FIRST_QPN 0x100
#define PEER_QPN_COUNT 64

/* Longest WRITE, READ or CHECK in bytes, most repetitions, longest delay in nanoseconds. */
#define PEER_MAX_LENGTH (1u << 20)
#define PEER_MAX_REPEAT (1u << 20)
#define PEER_MAX_DELAY 3600000000000ull
/* Orders that a connection may have outstanding before further ones meet "receiver not ready". */
#define PEER_MAX_ORDERS 16

enum peer_op {
	/* RDMA WRITE of the pattern with seed `operand`. */
	PEER_WRITE = 1,
	/* RDMA READ; the answer has the first 8 bytes and a digest. */
	PEER_READ = 2,
	/* RDMA READ of what must be the pattern with seed `operand`. */
	PEER_CHECK = 3,
	/* Atomic compare (`operand`) and swap (`swap`) of 8 bytes. */
	PEER_COMPARE_SWAP = 4,
	/* Atomic fetch and add (`operand`) of 8 bytes. */
	PEER_FETCH_ADD = 5,
};

struct peer_order {
	uint32_t op;
	uint32_t rkey;
	uint64_t address;
	/* Bytes; 8 for the atomic operations. */
	uint64_t length;
	uint64_t operand;
	uint64_t swap;
	/* Nanoseconds before the first time, and between one time and the next. */
	uint64_t delay;
	/* How many times, at least 1. */
	uint32_t repeat;
	uint32_t reserved;
	/* Comes back in the answer. */
	uint64_t cookie;
};

enum peer_status {
	PEER_DONE = 0,
	/* CHECK: the peer has read something else; it has stopped. */
	PEER_MISMATCH = 1,
	/* The message was no order. */
	PEER_BAD_SIZE = 2,
	PEER_BAD_OPERATION = 3,
	PEER_BAD_LENGTH = 4,
	PEER_BAD_REPEAT = 5,
	PEER_BAD_DELAY = 6,
	PEER_BAD_RESERVED = 7,
};

struct peer_answer {
	uint32_t status;
	/* How many times it has been done. */
	uint32_t repetitions;
	/* Of the last time: the value before it (atomic operations), the first 8 bytes (READ, CHECK). */
	uint64_t old;
	uint64_t cookie;
	/* When the last time was, in nanoseconds of the machine's clock. */
	uint64_t time;
	/* FNV-1a hash of all that was read the last time (READ, CHECK). */
	uint64_t digest;
	/* MISMATCH: the first byte that differs, what was there and what should have been, zeros after the last byte. */
	uint64_t offset;
	uint8_t found[8];
	uint8_t expected[8];
};

/*
 * The pattern is a sequence of 64-bit words, little-endian. Every byte differs from the same byte a repetition earlier
 * and from the one a word earlier, and any word tells its repetition.
 */
#define PEER_PER_WORD 0x9e3779b97f4a7c15ull
#define PEER_PER_REPETITION 0xd6e8feb86659fd93ull

/* Seed of the pattern of `--device mlx5,peer=…`, for which no order is needed. */
#define PEER_PLAN_SEED 0x706c616eull

/* Word `index` of the pattern; repetitions count from 0. */
static inline uint64_t peer_pattern_word(uint64_t seed, uint32_t repetition, uint64_t index)
{
	return seed + (index + 1) * PEER_PER_WORD + ((uint64_t)repetition + 1) * PEER_PER_REPETITION;
}

static inline uint8_t peer_pattern_byte(uint64_t seed, uint32_t repetition, uint64_t offset)
{
	return (uint8_t)(peer_pattern_word(seed, repetition, offset / 8) >> (offset % 8 * 8));
}

/* The repetition that a word belongs to; above UINT32_MAX if the word belongs to no pattern of this seed. */
static inline uint64_t peer_pattern_repetition(uint64_t seed, uint64_t index, uint64_t word)
{
	uint64_t inverse = 1;

	/* The inverse of an odd number modulo 2^64, by Newton's iteration: each step doubles the bits that are right. */
	for (int i = 0; i < 6; i++)
		inverse *= 2 - PEER_PER_REPETITION * inverse;
	return (word - peer_pattern_word(seed, 0, index)) * inverse;
}

#endif
