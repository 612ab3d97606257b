/* What the parts of peer-walk share. */
#ifndef PEER_WALK_H
#define PEER_WALK_H

#include <stddef.h>
#include <stdint.h>

#include "rdma-peer.h"

/* The peer's single requests are no longer, so a node's data changes as one. */
#define MAX_SIZE 65536
#define MAX_NODES 64

/* What the peer is asked to do to each node. */
enum { WRITE = 1, ADD = 2, SWAP = 4, READ = 8, ALL = 15 };

struct options {
	/* Operations, a set of the above. */
	unsigned ops;
	unsigned nodes;
	/* Bytes of data in a node, times and nanoseconds between them. */
	uint64_t size, count, delay;
	double timeout;
	unsigned qpn;
	const char *device;
	/* No orders: the peer acts of its own accord. */
	int watch, fill, counter;
	int dereg;
};

extern struct options option;

/* Seconds since the first call. */
double seconds(void);
/* Sleeps for a few microseconds. */
void rest(void);
/* Print what has failed, and return 1. */
int failed(const char *format, ...) __attribute__((format(printf, 1, 2)));
int failed_call(const char *what);
/* Prints up to 8 bytes of `found` from `offset` on, and those of the pattern. */
void print_bytes(const uint8_t *found, uint64_t length, uint64_t offset, uint64_t seed, uint32_t repetition);
/* Index of the first byte that is not the pattern's, or `length`. */
uint64_t difference(const volatile uint8_t *bytes, uint64_t length, uint64_t seed, uint32_t repetition);
/* Writes repetition 0 of the pattern. */
void fill(uint8_t *bytes, uint64_t length, uint64_t seed);
const char *op_name(unsigned op);

/* connection.c. All return 0, or 1 when they have said what has failed. */
int open_device(void);
/* Maps memory and opens it to the peer. */
int share_memory(size_t size, uint8_t **memory);
/* Takes it back from the peer; it stays mapped. */
int unshare_memory(void);
/* Connects a queue pair with room for so many orders and answers. */
int connect_peer(unsigned orders);
/* SENDs an order; its key is filled in. */
int give_order(struct peer_order order);
/* Orders that have not been answered. */
extern unsigned outstanding;
/* Takes what has completed and calls `take_answer` for each answer: 1 if there was anything, -1 if something is wrong. */
int poll_connection(int (*take_answer)(const struct peer_answer *answer));

/* ring.c */
size_t ring_size(void);
void make_ring(uint8_t *memory);
/* Orders for all nodes; answers go to take_answer. */
int give_orders(void);
int take_answer(const struct peer_answer *answer);
/* Once around the ring: 1 if there was something new, 0 if not, -1 if something is wrong. */
int walk(void);
/* Whether all changes of all nodes are there; says what is missing if `loud`. */
int ring_complete(int loud);
void print_ring(void);

#endif
