/*
 * verbs-verify: moves data through the first RDMA device in loopback and checks every byte, every completion and every
 * error that the InfiniBand specification calls for.
 *
 * Each test runs in a process of its own, which opens the device, and fails by ending it. A test's two ends are queue
 * pairs of one process, so that both sides of every transfer can be looked at.
 */
#ifndef VERIFY_H
#define VERIFY_H

#include <infiniband/verbs.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the command line asks for. */
struct options {
	const char *device;
	uint64_t seed;
	/* 0: as many as the test wants. */
	unsigned iterations;
	/* Sizes to use in place of a test's own. */
	uint32_t sizes[16];
	unsigned size_count;
	/* Completions are waited for on a channel rather than by polling. */
	bool events;
	/* Milliseconds after which something that has not happened is missed. */
	unsigned patience;
};

extern struct options options;

/* What is being done, for messages: printf-like. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Counts what a test has moved, for its summary. */
void count_message(uint64_t bytes);

/* Prints the test, what was being done and the text, and ends the test. */
void fail_at(const char *file, int line, const char *format, ...)
	__attribute__((format(printf, 3, 4), noreturn));
#define fail(...) fail_at(__FILE__, __LINE__, __VA_ARGS__)
#define check(condition, ...)                                                                                          \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			fail(__VA_ARGS__);                                                                             \
	} while (0)
/* For calls that return 0 or an errno value. */
#define must(call)                                                                                                     \
	do {                                                                                                           \
		int must_error = (call);                                                                               \
		check(must_error == 0, "%s: error %d", #call, must_error);                                             \
	} while (0)
/* For calls that return an object or set errno. */
#define made(object)                                                                                                   \
	({                                                                                                             \
		__typeof__(object) made_object = (object);                                                             \
		check(made_object, "%s: errno %d", #object, errno);                                                    \
		made_object;                                                                                           \
	})

/* Patterns ------------------------------------------------------------------------------------------------------- */

struct random {
	uint64_t state;
};

uint64_t random_next(struct random *random);
/* A number from 0 to `bound` - 1. */
uint32_t random_below(struct random *random, uint32_t bound);
/* The key of the pattern that a message in an iteration and direction carries. */
uint64_t pattern_key(uint64_t iteration, unsigned direction);

/* Memory of one registration. */
struct arena {
	char *base;
	size_t size;
	struct ibv_mr *mr;
};

#define MAX_PIECES 5
/* Bytes before and after each piece that no transfer may change. */
#define GUARD 64

/* A message's place in an arena: pieces with guards around them. */
struct layout {
	struct ibv_sge pieces[MAX_PIECES];
	int count;
	/* Bytes of all pieces. */
	uint64_t size;
	/* Bytes in front of the message, which have other contents. */
	uint32_t header;
};

/* What a layout may need beside the message, with a header and some slack. */
#define LAYOUT_ROOM 6144

/* Places `size` bytes in `count` pieces of random lengths and alignments, from `offset` in the arena on. */
void layout_place(struct layout *layout, const struct arena *arena, size_t offset, uint64_t size, int count,
		  struct random *random);
/* Places `size` bytes in one piece that begins at a multiple of eight. */
void layout_align(struct layout *layout, const struct arena *arena, size_t offset, uint64_t size);

enum content {
	PATTERN,
	/* The complement of the pattern: differs from it in every byte. */
	BEFORE,
};

/* Fills bytes `from` to `to` of the message, and the guards. */
void layout_fill(const struct layout *layout, uint64_t from, uint64_t to, uint64_t key, enum content content);
/* Fails unless those bytes are that content. `side` is for the complaint. */
void layout_check(const struct layout *layout, uint64_t from, uint64_t to, uint64_t key, enum content content,
		  const char *side);
/* Fails unless the guards are untouched. */
void layout_check_guards(const struct layout *layout, const char *side);

/* Devices, queue pairs -------------------------------------------------------------------------------------------- */

struct device {
	struct ibv_context *context;
	struct ibv_device_attr attr;
	struct ibv_port_attr port;
	union ibv_gid gid;
	struct ibv_comp_channel *channel;
};

void device_open(struct device *device);
void device_close(struct device *device);

/* A completion queue and whether it has been armed. */
struct queue {
	struct device *device;
	struct ibv_cq *cq;
	bool armed;
};

void queue_create(struct queue *queue, struct device *device, int entries);
void queue_destroy(struct queue *queue);

enum transport { RC, UC, UD, XRC };
enum operation { SEND, SEND_IMM, WRITE, WRITE_IMM, READ, CMP_SWAP, FETCH_ADD };

/* One side. An XRC end sends and receives with different queue pairs; others with one. */
struct end {
	struct ibv_pd *pd;
	struct queue send_queue;
	struct queue receive_queue;
	struct ibv_srq *srq;
	struct ibv_xrcd *xrcd;
	struct ibv_qp *sender;
	struct ibv_qp *receiver;
	/* UD: the way to the other end. */
	struct ibv_ah *ah;
	struct arena out;
	struct arena in;
	uint32_t max_inline;
};

/* How a pair is made; zero members stand for defaults. */
struct plan {
	enum transport transport;
	bool srq;
	/* Address with a global route header (UD). */
	bool global;
	/* Both ends are of one protection domain. */
	bool one_domain;
	/* Work requests that each queue holds. */
	unsigned depth;
	unsigned send_entries;
	unsigned receive_entries;
	/* Largest message. */
	uint32_t size;
	/* Remote access rights that the queue pairs do not give. */
	int denied;
	bool all_signaled;
	/* 7: for ever. -1 stands for 0, and 0 for the default. */
	int rnr_retry;
	/* 4.096 us * 2^timeout. */
	uint8_t timeout;
};

struct pair {
	struct device *device;
	struct plan plan;
	struct end ends[2];
};

#define QKEY 0x11111111

void pair_create(struct pair *pair, struct device *device, const struct plan *plan);
/* Brings both ends to RTS. */
void pair_connect(struct pair *pair);
void pair_destroy(struct pair *pair);

/* Single transitions; `other` is the number of the queue pair that it is connected to. */
void qp_to_init(const struct pair *pair, struct ibv_qp *qp);
void qp_to_rtr(const struct pair *pair, struct ibv_qp *qp, uint32_t other);
void qp_to_rts(const struct pair *pair, struct ibv_qp *qp);
void qp_to(struct ibv_qp *qp, enum ibv_qp_state state);
enum ibv_qp_state qp_state(struct ibv_qp *qp);
/* Waits until the queue pair has that state. */
void qp_await_state(struct ibv_qp *qp, enum ibv_qp_state state, const char *side);

void arena_create(struct arena *arena, struct ibv_pd *pd, size_t size, int access);
void arena_destroy(struct arena *arena);

/* Completions ------------------------------------------------------------------------------------------------------ */

/* A key that no registration has: keys differ in their low byte when an index is used again. */
static inline uint32_t no_key(uint32_t key)
{
	return key ^ 0x55;
}

/* The next completion, by polling or by an event as the options say. */
struct ibv_wc queue_await(struct queue *queue);
/* Fails if there is a completion. */
void queue_is_empty(struct queue *queue, const char *name);
/* Waits for a completion with that status and number, of that queue pair. */
struct ibv_wc queue_expect(struct queue *queue, const struct ibv_qp *qp, uint64_t wr_id, enum ibv_wc_status status,
			   const char *side);
/* Whether an event comes up on the channel within `milliseconds`; it is acknowledged. */
bool channel_event(struct device *device, unsigned milliseconds);

/* Waits for an asynchronous event of that type; `element` is its queue pair, completion queue or SRQ. */
void async_expect(struct device *device, enum ibv_event_type type, const void *element);
/* Fails if there is an asynchronous event. */
void async_none(struct device *device);

/* Messages --------------------------------------------------------------------------------------------------------- */

/* Header of a received datagram. */
#define GRH 40
/* How much longer than its message a receive buffer may be. */
#define SLACK 100

/* A message under way. In direction d end d requests, and the other responds. */
struct message {
	enum operation operation;
	unsigned direction;
	/* 8 for atomic operations. */
	uint32_t size;
	bool inlined;
	/* Where in the arenas it may lie. */
	size_t offset;
	/* Of its pattern. */
	uint64_t key;
	uint64_t wr_id;
	uint32_t imm;
	/* Where the data lies (READ and atomics: with the responder) and where it goes. */
	struct layout from;
	struct layout to;
	/* Atomics: what was there, what it is compared with, and what is added or swapped in. */
	uint64_t old, compare, operand;
};

/* Completion numbers of the two sides. */
#define REQUESTER(message) ((message)->wr_id << 1)
#define RECEIVER(message) ((message)->wr_id << 1 | 1)

extern const char *const operation_names[];
bool is_atomic(enum operation operation);
/* Whether the responder completes a receive. */
bool takes_receive(enum operation operation);

/* Lays out and fills memory for a message whose other members are set, in up to `pieces` pieces; posts its receive. */
void message_prepare(struct pair *pair, struct message *message, int pieces, struct random *random);
/* The work request, which refers to the message. */
struct ibv_send_wr message_request(struct pair *pair, struct message *message);
/* Waits for the completion of the requester, of the receiver. */
void message_await_sent(struct pair *pair, const struct message *message);
void message_await_received(struct pair *pair, const struct message *message);
/* Looks at every byte on both sides. */
void message_check(struct pair *pair, const struct message *message);

void post_receive(struct end *end, const struct layout *layout, uint64_t wr_id);
/* Fills in how the other end is reached and posts the chain that begins with `wr`. */
void post_send(struct pair *pair, unsigned direction, struct ibv_send_wr *wr);
/* One SEND of `size` bytes each way, checked. */
void exchange(struct pair *pair, uint32_t size, uint64_t iteration);
/* Fails if a completion or asynchronous event is there. */
void nothing_is_left(struct pair *pair);

/* Tests ------------------------------------------------------------------------------------------------------------ */

struct test {
	const char *name;
	void (*run)(const struct test *test);
	/* Moves data in ways that depend on how completions are waited for: is run both ways. */
	bool both_ways;
	/* For transfers. */
	enum transport transport;
	enum operation operation;
	bool inlined;
	bool srq;
	bool global;
	/* For others, what the function makes of them. */
	int variant;
	const void *detail;
};

extern const struct test check_tests[];
extern const struct test transfer_tests[];
extern const struct test mixed_tests[];
extern const struct test fault_tests[];
extern const struct test loss_tests[];
extern const struct test event_tests[];
extern const struct test object_tests[];
extern const struct test extension_tests[];

#endif
