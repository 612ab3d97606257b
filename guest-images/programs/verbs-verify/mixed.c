/* Random operations of random sizes in batches, several to a doorbell, signaled or not, in both directions. */
#include "verify.h"

#include <errno.h>

#define DEPTH 24
#define BATCHES 40
#define LARGEST 1500
/* Arena that a message of a batch has for itself. */
#define SLOT 8192

struct batch {
	struct message messages[DEPTH];
	struct ibv_send_wr requests[DEPTH];
	unsigned count;
};

static enum operation some_operation(enum transport transport, struct random *random)
{
	switch (transport) {
	case UD:
		return random_below(random, SEND_IMM + 1);
	case UC:
		return random_below(random, WRITE_IMM + 1);
	case RC:
	case XRC:
		break;
	}
	return random_below(random, FETCH_ADD + 1);
}

/* READs what the WRITE before it has written. */
static void read_back(struct pair *pair, struct message *message, const struct message *written, struct random *random)
{
	struct end *near = &pair->ends[message->direction];

	message->operation = READ;
	message->size = written->size;
	message->key = written->key;
	message->from = written->to;
	layout_place(&message->to, &near->in, DEPTH * SLOT + message->offset, message->size,
		     1 + random_below(random, MAX_PIECES), random);
	layout_fill(&message->to, 0, message->size, message->key, BEFORE);
}

static void prepare(struct pair *pair, struct batch *batch, unsigned direction, uint64_t number, struct random *random)
{
	enum transport transport = pair->plan.transport;
	bool connected = transport == RC || transport == XRC;

	batch->count = 1 + random_below(random, DEPTH);
	for (unsigned i = 0; i < batch->count; i++) {
		struct message *message = &batch->messages[i];
		struct ibv_send_wr *wr = &batch->requests[i];
		const struct message *before = i ? message - 1 : NULL;
		bool last = i + 1 == batch->count;

		*message = (struct message){
			/* Whatever went before has arrived when a SEND has. */
			.operation = last ? SEND : some_operation(transport, random),
			.direction = direction,
			.size = random_below(random, LARGEST),
			.offset = i * SLOT,
			.key = pattern_key(number << 8 | i, direction),
			.wr_id = number << 8 | i,
		};
		/* Both ends' READs land beside what comes in. */
		if (message->operation == READ)
			message->offset += DEPTH * SLOT;
		if (is_atomic(message->operation))
			message->size = 8;
		if (message->operation != READ && !is_atomic(message->operation) && random_below(random, 4) == 0) {
			message->inlined = true;
			message->size %= pair->ends[direction].max_inline;
		}
		if (connected && before && before->operation == WRITE && !last && random_below(random, 2)) {
			message->offset = i * SLOT;
			message->inlined = false;
			read_back(pair, message, before, random);
		} else {
			message_prepare(pair, message, 1 + random_below(random, MAX_PIECES), random);
		}
		*wr = message_request(pair, message);
		if (before && message->operation == READ && message->from.pieces[0].addr == before->to.pieces[0].addr)
			wr->wr.rdma.rkey = pair->ends[!direction].in.mr->rkey;
		if (!last && random_below(random, 2))
			wr->send_flags &= ~IBV_SEND_SIGNALED;
		if (connected && random_below(random, 8) == 0)
			wr->send_flags |= IBV_SEND_FENCE;
	}
}

/* Posts some, then the rest: each post is one doorbell. */
static void post(struct pair *pair, struct batch *batch, unsigned direction, struct random *random)
{
	for (unsigned i = 0; i < batch->count;) {
		unsigned end = i + 1 + random_below(random, 6);

		if (end > batch->count)
			end = batch->count;
		for (unsigned at = i; at + 1 < end; at++)
			batch->requests[at].next = &batch->requests[at + 1];
		post_send(pair, direction, &batch->requests[i]);
		i = end;
	}
}

static void complete(struct pair *pair, struct batch *batch)
{
	for (unsigned i = 0; i < batch->count; i++) {
		const struct message *message = &batch->messages[i];

		note("message 0x%llx, direction %u, %s of %u bytes", (unsigned long long)message->wr_id,
		     message->direction, operation_names[message->operation], message->size);
		if (batch->requests[i].send_flags & IBV_SEND_SIGNALED)
			message_await_sent(pair, message);
		if (takes_receive(message->operation))
			message_await_received(pair, message);
	}
	for (unsigned i = 0; i < batch->count; i++) {
		const struct message *message = &batch->messages[i];

		note("message 0x%llx, direction %u, %s of %u bytes", (unsigned long long)message->wr_id,
		     message->direction, operation_names[message->operation], message->size);
		message_check(pair, message);
	}
}

static void run_mixed(const struct test *test)
{
	static struct batch batches[2];
	struct random random = { options.seed ^ test->transport << 8 ^ test->srq };
	unsigned count = options.iterations ? options.iterations : BATCHES;
	struct plan plan = {
		.transport = test->transport,
		.srq = test->srq,
		.depth = DEPTH,
		.size = 2 * DEPTH * SLOT,
	};
	struct device device;
	struct pair pair;

	device_open(&device);
	pair_create(&pair, &device, &plan);
	pair_connect(&pair);
	for (unsigned number = 0; number < count; number++) {
		for (unsigned i = 0; i < 2; i++)
			prepare(&pair, &batches[i], i, number, &random);
		for (unsigned i = 0; i < 2; i++)
			post(&pair, &batches[i], i, &random);
		for (unsigned i = 0; i < 2; i++)
			complete(&pair, &batches[i]);
	}
	nothing_is_left(&pair);
	pair_destroy(&pair);
	device_close(&device);
}

#define MIXED(text, ...) { .name = text, .run = run_mixed, .both_ways = true, __VA_ARGS__ }

const struct test mixed_tests[] = {
	MIXED("rc.mixed", .transport = RC),
	MIXED("rc.mixed-srq", .transport = RC, .srq = true),
	MIXED("uc.mixed", .transport = UC),
	MIXED("ud.mixed", .transport = UD),
	MIXED("ud.mixed-srq", .transport = UD, .srq = true),
	MIXED("xrc.mixed", .transport = XRC),
	{ .name = NULL },
};
