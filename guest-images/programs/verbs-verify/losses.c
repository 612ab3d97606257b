/* What is dropped, delayed, refused or flushed without being the fault of a request of a reliable connection. */
#include "verify.h"

#include <errno.h>

#define SIZE 1000

/* WRITE and READ of nothing: their keys are not looked at (IBA C9-88). */
static void run_nothing_with_bad_key(const struct test *test)
{
	struct plan plan = { .transport = test->transport };
	struct device device;
	struct pair pair;

	device_open(&device);
	pair_create(&pair, &device, &plan);
	pair_connect(&pair);
	for (int i = 0; i < 2; i++) {
		struct ibv_send_wr wr = {
			.wr_id = i,
			.opcode = i ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE,
			.send_flags = IBV_SEND_SIGNALED,
			.wr.rdma = { .remote_addr = 12345, .rkey = 0xffffff00 },
		};

		post_send(&pair, 0, &wr);
		queue_expect(&pair.ends[0].send_queue, pair.ends[0].sender, i, IBV_WC_SUCCESS, "requester");
	}
	exchange(&pair, 0, 1);
	nothing_is_left(&pair);
	pair_destroy(&pair);
	device_close(&device);
}

/* A receive that comes in time ends the retries of a requester that finds none. */
static void run_late_receive(const struct test *test)
{
	struct plan plan = { .transport = test->transport, .size = SIZE, .srq = test->srq };
	struct random random = { options.seed };
	struct message message = { .direction = 1, .size = SIZE, .key = 5, .wr_id = 3 };
	struct layout to;
	struct device device;
	struct pair pair;

	device_open(&device);
	pair_create(&pair, &device, &plan);
	pair_connect(&pair);
	layout_place(&message.from, &pair.ends[1].out, 0, SIZE, 3, &random);
	layout_place(&to, &pair.ends[0].in, 0, SIZE, 2, &random);
	message.to = to;
	layout_fill(&message.from, 0, SIZE, message.key, PATTERN);
	layout_fill(&to, 0, SIZE, message.key, BEFORE);

	struct ibv_send_wr wr = message_request(&pair, &message);

	post_send(&pair, 1, &wr);
	check(!channel_event(&device, 5), "an event without any queue armed");
	queue_is_empty(&pair.ends[1].send_queue, "requester, before there is a receive");
	post_receive(&pair.ends[0], &to, RECEIVER(&message));
	message_await_sent(&pair, &message);
	message_await_received(&pair, &message);
	message_check(&pair, &message);
	exchange(&pair, SIZE, 1);
	nothing_is_left(&pair);
	pair_destroy(&pair);
	device_close(&device);
}

/* An unreliable requester that cannot read its own memory: only its send queue fails, and can be set right. */
static void run_send_queue_error(const struct test *test)
{
	struct plan plan = { .transport = test->transport, .size = SIZE };
	struct device device;
	struct layout local;
	struct pair pair;

	device_open(&device);
	pair_create(&pair, &device, &plan);
	pair_connect(&pair);
	layout_align(&local, &pair.ends[0].out, 0, SIZE);
	local.pieces[0].lkey = no_key(local.pieces[0].lkey);

	struct ibv_send_wr behind = { .wr_id = 2, .opcode = IBV_WR_SEND };
	struct ibv_send_wr wr = {
		.wr_id = 1,
		.sg_list = local.pieces,
		.num_sge = 1,
		.opcode = IBV_WR_SEND,
		.send_flags = IBV_SEND_SIGNALED,
		.next = &behind,
	};

	post_send(&pair, 0, &wr);
	queue_expect(&pair.ends[0].send_queue, pair.ends[0].sender, 1, IBV_WC_LOC_PROT_ERR, "requester");
	queue_expect(&pair.ends[0].send_queue, pair.ends[0].sender, 2, IBV_WC_WR_FLUSH_ERR, "queued behind");
	qp_await_state(pair.ends[0].sender, IBV_QPS_SQE, "requester");
	qp_to(pair.ends[0].sender, IBV_QPS_RTS);
	for (uint64_t iteration = 0; iteration < 3; iteration++)
		exchange(&pair, SIZE, iteration);
	nothing_is_left(&pair);
	pair_destroy(&pair);
	device_close(&device);
}

enum loss { WRONG_QKEY, NO_RECEIVE_POSTED, UC_WRITE_BAD_RKEY, NO_PEER };

/* What an unreliable transport loses, its requester takes for sent, and the receiver never hears of. */
static void run_lost(const struct test *test)
{
	struct plan plan = { .transport = test->transport, .size = SIZE };
	struct random random = { options.seed };
	struct message message = { .direction = 0, .size = SIZE, .key = 7, .wr_id = 9 };
	struct device device;
	struct pair pair;
	struct ibv_send_wr *bad;

	device_open(&device);
	pair_create(&pair, &device, &plan);
	pair_connect(&pair);
	if (test->variant == UC_WRITE_BAD_RKEY)
		message.operation = WRITE;
	if (test->variant == NO_RECEIVE_POSTED || test->variant == NO_PEER) {
		layout_place(&message.from, &pair.ends[0].out, 0, SIZE, 2, &random);
		layout_place(&message.to, &pair.ends[1].in, 0, SIZE, 1, &random);
		layout_fill(&message.to, 0, SIZE, message.key, BEFORE);
	} else {
		message_prepare(&pair, &message, 2, &random);
	}
	struct ibv_send_wr wr = message_request(&pair, &message);

	if (test->transport == UD) {
		wr.wr.ud.ah = pair.ends[0].ah;
		wr.wr.ud.remote_qpn = test->variant == NO_PEER ? 0xfffff0 : pair.ends[1].receiver->qp_num;
		wr.wr.ud.remote_qkey = test->variant == WRONG_QKEY ? QKEY + 1 : QKEY;
	}
	if (test->variant == UC_WRITE_BAD_RKEY)
		wr.wr.rdma.rkey = no_key(wr.wr.rdma.rkey);
	must(ibv_post_send(pair.ends[0].sender, &wr, &bad));
	message_await_sent(&pair, &message);
	layout_check(&message.to, 0, SIZE, message.key, BEFORE, "receiver's memory");
	queue_is_empty(&pair.ends[1].receive_queue, "receiver");
	if (test->variant == WRONG_QKEY) {
		/* The receive is still there for who has the right key. */
		post_send(&pair, 0, &wr);
		message_await_sent(&pair, &message);
		message_await_received(&pair, &message);
		message_check(&pair, &message);
	}
	exchange(&pair, SIZE, 1);
	pair_destroy(&pair);
	device_close(&device);
}

/* A datagram longer than the port's MTU is not sent. */
static void run_long_datagram(const struct test *test)
{
	struct device device;
	struct layout local;
	struct pair pair;

	device_open(&device);
	uint32_t mtu = 128u << device.port.active_mtu;
	struct plan plan = { .transport = test->transport, .size = mtu + 1 };

	pair_create(&pair, &device, &plan);
	pair_connect(&pair);
	layout_align(&local, &pair.ends[0].out, 0, mtu + 1);
	struct ibv_send_wr wr = {
		.wr_id = 1,
		.sg_list = local.pieces,
		.num_sge = 1,
		.opcode = IBV_WR_SEND,
		.send_flags = IBV_SEND_SIGNALED,
	};

	post_send(&pair, 0, &wr);
	queue_expect(&pair.ends[0].send_queue, pair.ends[0].sender, 1, IBV_WC_LOC_LEN_ERR, "requester");
	queue_is_empty(&pair.ends[1].receive_queue, "receiver");
	pair_destroy(&pair);
	device_close(&device);
}

/* A queue pair that is told to fail completes everything that it holds as flushed, in order. */
static void run_flush(const struct test *test)
{
	enum { HELD = 12 };
	struct plan plan = { .transport = test->transport, .size = SIZE };
	struct layout nothing = { .count = 0 };
	struct device device;
	struct pair pair;

	device_open(&device);
	pair_create(&pair, &device, &plan);
	pair_connect(&pair);
	struct end *end = &pair.ends[0];

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < HELD; i++)
			post_receive(end, &nothing, 100 + i);
		qp_to(end->sender, IBV_QPS_ERR);
		check(qp_state(end->sender) == IBV_QPS_ERR, "state %d, expected ERR", qp_state(end->sender));
		for (int i = 0; i < HELD; i++) {
			struct ibv_send_wr wr = { .wr_id = i, .opcode = IBV_WR_SEND };

			queue_expect(&end->receive_queue, end->receiver, 100 + i, IBV_WC_WR_FLUSH_ERR, "receive");
			post_send(&pair, 0, &wr);
			queue_expect(&end->send_queue, end->sender, i, IBV_WC_WR_FLUSH_ERR, "send");
		}
		nothing_is_left(&pair);
		for (int i = 0; i < 2; i++)
			qp_to(pair.ends[i].sender, IBV_QPS_RESET);
		pair_connect(&pair);
		exchange(&pair, SIZE, round);
	}
	nothing_is_left(&pair);
	pair_destroy(&pair);
	device_close(&device);
}

const struct test loss_tests[] = {
	{ .name = "loss.no-bytes-need-no-key", .run = run_nothing_with_bad_key },
	{ .name = "loss.late-receive", .run = run_late_receive },
	{ .name = "loss.late-receive-srq", .run = run_late_receive, .srq = true },
	{ .name = "loss.uc-send-queue-error", .run = run_send_queue_error, .transport = UC },
	{ .name = "loss.ud-send-queue-error", .run = run_send_queue_error, .transport = UD },
	{ .name = "loss.ud-wrong-qkey", .run = run_lost, .transport = UD, .variant = WRONG_QKEY },
	{ .name = "loss.ud-no-receive", .run = run_lost, .transport = UD, .variant = NO_RECEIVE_POSTED },
	{ .name = "loss.ud-peer-absent", .run = run_lost, .transport = UD, .variant = NO_PEER },
	{ .name = "loss.uc-no-receive", .run = run_lost, .transport = UC, .variant = NO_RECEIVE_POSTED },
	{ .name = "loss.uc-write-bad-rkey", .run = run_lost, .transport = UC, .variant = UC_WRITE_BAD_RKEY },
	{ .name = "loss.ud-too-long", .run = run_long_datagram, .transport = UD },
	{ .name = "loss.rc-flush", .run = run_flush, .transport = RC, .both_ways = true },
	{ .name = "loss.uc-flush", .run = run_flush, .transport = UC },
	{ .name = "loss.ud-flush", .run = run_flush, .transport = UD },
	{ .name = NULL },
};
