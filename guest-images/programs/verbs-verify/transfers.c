/* One operation at a time in each direction, both under way together: all sizes, pieces and alignments. */
#include "verify.h"

#include <errno.h>

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

/* One byte, words, cache lines, pages and multiples of the path's MTU, with their neighbours; and odd ones. */
static const uint32_t sizes[] = {
	0,    1,    2,	  3,	7,    8,    15,	  31,	 32,	33,	63,	64,	65,
	127,  200,  255,  256,	257,  511,  512,  1023,	 1024,	1025,	2047,	2048,	2049,
	3000, 4095, 4096, 4097, 8191, 8193, 12345, 65535, 65536, 65537, 262143, 1048575, 1048576,
};
static const uint32_t atomic_sizes[] = { 8 };

/* Whole at first, then in pieces. */
#define ITERATIONS 2
#define ATOMIC_ITERATIONS 20

static uint32_t largest(const struct test *test, const struct pair *pair)
{
	if (test->inlined)
		return pair->ends[0].max_inline;
	if (test->transport == UD)
		return 128u << pair->device->port.active_mtu;
	return pair->device->port.max_msg_sz;
}

/* A WRITE's data is known to be there when a SEND after it has been received. */
static void post_marker(struct pair *pair, const struct message *message, struct ibv_send_wr *wr,
			struct ibv_send_wr *marker)
{
	struct layout nothing = { .count = 0 };

	post_receive(&pair->ends[!message->direction], &nothing, RECEIVER(message));
	*marker = (struct ibv_send_wr){ .wr_id = RECEIVER(message), .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED };
	wr->next = marker;
}

static void await_marker(struct pair *pair, const struct message *message)
{
	struct end *near = &pair->ends[message->direction];
	struct end *far = &pair->ends[!message->direction];

	queue_expect(&near->send_queue, near->sender, RECEIVER(message), IBV_WC_SUCCESS, "SEND after it");
	struct ibv_wc wc =
		queue_expect(&far->receive_queue, far->receiver, RECEIVER(message), IBV_WC_SUCCESS, "receiver");

	check(wc.opcode == IBV_WC_RECV && wc.byte_len == 0, "receiver: opcode %d of %u bytes, expected a SEND of none",
	      wc.opcode, wc.byte_len);
}

static void transfer(const struct test *test, struct pair *pair, uint32_t size, uint64_t iteration,
		     struct random *random)
{
	struct message messages[2];

	for (unsigned i = 0; i < 2; i++) {
		note("iteration %llu, direction %u, %s of %u bytes", (unsigned long long)iteration, i,
		     operation_names[test->operation], size);
		messages[i] = (struct message){
			.operation = test->operation,
			.direction = i,
			.size = size,
			.inlined = test->inlined,
			.key = pattern_key(iteration, i),
			.wr_id = iteration,
		};
		message_prepare(pair, &messages[i], iteration ? 1 + random_below(random, MAX_PIECES) : 1, random);
	}
	for (unsigned i = 0; i < 2; i++) {
		struct ibv_send_wr wr = message_request(pair, &messages[i]);
		struct ibv_send_wr marker;

		if (test->operation == WRITE)
			post_marker(pair, &messages[i], &wr, &marker);
		post_send(pair, i, &wr);
		/* Inline data has been taken: what becomes of the buffer is of no account. */
		if (test->inlined)
			layout_fill(&messages[i].from, 0, size, messages[i].key, BEFORE);
	}
	for (unsigned i = 0; i < 2; i++) {
		note("iteration %llu, direction %u, %s of %u bytes", (unsigned long long)iteration, i,
		     operation_names[test->operation], size);
		message_await_sent(pair, &messages[i]);
		if (test->operation == WRITE)
			await_marker(pair, &messages[i]);
		if (takes_receive(test->operation))
			message_await_received(pair, &messages[i]);
		message_check(pair, &messages[i]);
	}
}

static void run_transfers(const struct test *test)
{
	struct random random = { options.seed };
	struct plan plan = { .transport = test->transport, .srq = test->srq, .global = test->global };
	const uint32_t *list = sizes;
	unsigned count = COUNT(sizes);
	unsigned iterations = ITERATIONS;
	struct device device;
	struct pair pair;

	device_open(&device);
	if (is_atomic(test->operation)) {
		check(device.attr.atomic_cap != IBV_ATOMIC_NONE, "the device offers no atomic operations");
		list = atomic_sizes;
		count = COUNT(atomic_sizes);
		iterations = ATOMIC_ITERATIONS;
	} else if (options.size_count) {
		list = options.sizes;
		count = options.size_count;
	}
	if (options.iterations)
		iterations = options.iterations;
	for (unsigned i = 0; i < count; i++)
		if (plan.size < list[i])
			plan.size = list[i];
	pair_create(&pair, &device, &plan);
	pair_connect(&pair);
	for (unsigned i = 0; i < count; i++)
		for (unsigned iteration = 0; iteration < iterations && list[i] <= largest(test, &pair); iteration++)
			transfer(test, &pair, list[i], iteration, &random);
	nothing_is_left(&pair);
	pair_destroy(&pair);
	device_close(&device);
}

#define ADDITIONS 64

/* Both ends add to one word: every sum on the way is somebody's old value, once. */
static void run_shared_counter(const struct test *test)
{
	struct plan plan = {
		.transport = test->transport,
		.one_domain = true,
		.size = 8 * ADDITIONS,
		.depth = ADDITIONS,
	};
	bool seen[2 * ADDITIONS] = { false };
	struct layout word, olds[2];
	struct device device;
	struct pair pair;

	device_open(&device);
	pair_create(&pair, &device, &plan);
	pair_connect(&pair);
	layout_align(&word, &pair.ends[0].in, 0, 8);
	uint64_t *counter = (uint64_t *)(uintptr_t)word.pieces[0].addr;

	*counter = 0;
	for (int i = 0; i < 2; i++)
		layout_align(&olds[i], &pair.ends[i].out, 0, 8 * ADDITIONS);
	for (int number = 0; number < ADDITIONS; number++)
		for (int i = 0; i < 2; i++) {
			const struct ibv_sge *all = &olds[i].pieces[0];
			struct ibv_sge old = { .addr = all->addr + 8 * number, .length = 8, .lkey = all->lkey };
			struct ibv_send_wr wr = {
				.wr_id = number,
				.sg_list = &old,
				.num_sge = 1,
				.opcode = IBV_WR_ATOMIC_FETCH_AND_ADD,
				.send_flags = IBV_SEND_SIGNALED,
				.wr.atomic = {
					.remote_addr = word.pieces[0].addr,
					.rkey = pair.ends[0].in.mr->rkey,
					.compare_add = 1,
				},
			};

			post_send(&pair, i, &wr);
		}
	for (int number = 0; number < ADDITIONS; number++)
		for (int i = 0; i < 2; i++)
			queue_expect(&pair.ends[i].send_queue, pair.ends[i].sender, number, IBV_WC_SUCCESS, "requester");
	check(*counter == 2 * ADDITIONS, "the word is %llu, expected %d", (unsigned long long)*counter, 2 * ADDITIONS);
	for (int i = 0; i < 2; i++) {
		const uint64_t *old = (const uint64_t *)(uintptr_t)olds[i].pieces[0].addr;

		for (int number = 0; number < ADDITIONS; number++, old++) {
			check(*old < 2 * ADDITIONS && !seen[*old], "end %d, addition %d: old value %llu", i, number,
			      (unsigned long long)*old);
			seen[*old] = true;
			count_message(8);
		}
	}
	nothing_is_left(&pair);
	pair_destroy(&pair);
	device_close(&device);
}

#define TRANSFER(text, ...) { .name = text, .run = run_transfers, .both_ways = true, __VA_ARGS__ }

const struct test transfer_tests[] = {
	TRANSFER("rc.send", .transport = RC, .operation = SEND),
	TRANSFER("rc.send-imm", .transport = RC, .operation = SEND_IMM),
	TRANSFER("rc.send-inline", .transport = RC, .operation = SEND, .inlined = true),
	TRANSFER("rc.send-srq", .transport = RC, .operation = SEND, .srq = true),
	TRANSFER("rc.write", .transport = RC, .operation = WRITE),
	TRANSFER("rc.write-imm", .transport = RC, .operation = WRITE_IMM),
	TRANSFER("rc.write-inline", .transport = RC, .operation = WRITE, .inlined = true),
	TRANSFER("rc.write-imm-srq", .transport = RC, .operation = WRITE_IMM, .srq = true),
	TRANSFER("rc.read", .transport = RC, .operation = READ),
	TRANSFER("rc.cmp-swap", .transport = RC, .operation = CMP_SWAP),
	TRANSFER("rc.fetch-add", .transport = RC, .operation = FETCH_ADD),
	{ .name = "rc.shared-counter", .run = run_shared_counter, .both_ways = true, .transport = RC },
	TRANSFER("uc.send", .transport = UC, .operation = SEND),
	TRANSFER("uc.send-imm", .transport = UC, .operation = SEND_IMM),
	TRANSFER("uc.send-inline", .transport = UC, .operation = SEND, .inlined = true),
	TRANSFER("uc.write", .transport = UC, .operation = WRITE),
	TRANSFER("uc.write-imm", .transport = UC, .operation = WRITE_IMM),
	TRANSFER("uc.write-inline", .transport = UC, .operation = WRITE, .inlined = true),
	TRANSFER("ud.send", .transport = UD, .operation = SEND),
	TRANSFER("ud.send-imm", .transport = UD, .operation = SEND_IMM),
	TRANSFER("ud.send-inline", .transport = UD, .operation = SEND, .inlined = true),
	TRANSFER("ud.send-srq", .transport = UD, .operation = SEND, .srq = true),
	TRANSFER("ud.send-global", .transport = UD, .operation = SEND, .global = true),
	TRANSFER("xrc.send", .transport = XRC, .operation = SEND),
	TRANSFER("xrc.send-imm", .transport = XRC, .operation = SEND_IMM),
	TRANSFER("xrc.send-inline", .transport = XRC, .operation = SEND, .inlined = true),
	TRANSFER("xrc.write", .transport = XRC, .operation = WRITE),
	TRANSFER("xrc.write-imm", .transport = XRC, .operation = WRITE_IMM),
	TRANSFER("xrc.read", .transport = XRC, .operation = READ),
	TRANSFER("xrc.cmp-swap", .transport = XRC, .operation = CMP_SWAP),
	TRANSFER("xrc.fetch-add", .transport = XRC, .operation = FETCH_ADD),
	{ .name = NULL },
};
