/* Completion events, asynchronous events, and queues that overflow. */
#include "verify.h"

#include <errno.h>
#include <string.h>

#define SIZE 64
/* Milliseconds that something must not happen in. */
#define QUIET 3

/* A pair that is connected, with its device. */
struct scene {
	struct device device;
	struct pair pair;
};

static void begin(struct scene *scene, const struct plan *plan)
{
	/* Queues are armed by these tests themselves. */
	options.events = false;
	device_open(&scene->device);
	pair_create(&scene->pair, &scene->device, plan);
	pair_connect(&scene->pair);
}

static void end(struct scene *scene)
{
	pair_destroy(&scene->pair);
	device_close(&scene->device);
}

/* Sends nothing from end 0 to end 1 and takes the requester's completion; the receiver's stays in its queue. */
static void send_nothing(struct scene *scene, uint64_t wr_id, int flags)
{
	struct end *ends = scene->pair.ends;
	struct layout nothing = { .count = 0 };
	struct ibv_send_wr wr = { .wr_id = wr_id, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED | flags };

	post_receive(&ends[1], &nothing, wr_id);
	post_send(&scene->pair, 0, &wr);
	queue_expect(&ends[0].send_queue, ends[0].sender, wr_id, IBV_WC_SUCCESS, "requester");
}

/* A queue that is armed raises one event, and none before it is armed again. */
static void run_one_event(const struct test *test)
{
	struct plan plan = { .transport = test->transport, .size = SIZE };
	struct scene scene;

	begin(&scene, &plan);
	struct end *receiver = &scene.pair.ends[1];

	send_nothing(&scene, 1, 0);
	check(!channel_event(&scene.device, QUIET), "an event of a queue that is not armed");
	queue_await(&receiver->receive_queue);
	for (uint64_t i = 2; i < 6; i++) {
		must(ibv_req_notify_cq(receiver->receive_queue.cq, 0));
		check(!channel_event(&scene.device, QUIET), "an event before there is a completion");
		send_nothing(&scene, i, 0);
		check(channel_event(&scene.device, options.patience), "no event of an armed queue");
		send_nothing(&scene, i + 10, 0);
		check(!channel_event(&scene.device, QUIET), "a second event of a queue that was armed once");
		queue_expect(&receiver->receive_queue, receiver->receiver, i, IBV_WC_SUCCESS, "receiver");
		queue_expect(&receiver->receive_queue, receiver->receiver, i + 10, IBV_WC_SUCCESS, "receiver");
	}
	nothing_is_left(&scene.pair);
	end(&scene);
}

/* A queue armed for solicited completions tells of those, and of errors, only. */
static void run_solicited(const struct test *test)
{
	struct plan plan = { .transport = test->transport, .size = SIZE };
	struct layout nothing = { .count = 0 };
	struct scene scene;

	begin(&scene, &plan);
	struct end *receiver = &scene.pair.ends[1];

	must(ibv_req_notify_cq(receiver->receive_queue.cq, 1));
	send_nothing(&scene, 1, 0);
	check(!channel_event(&scene.device, QUIET), "an event of a completion that is not solicited");
	send_nothing(&scene, 2, IBV_SEND_SOLICITED);
	check(channel_event(&scene.device, options.patience), "no event of a solicited completion");
	for (uint64_t i = 1; i < 3; i++)
		queue_expect(&receiver->receive_queue, receiver->receiver, i, IBV_WC_SUCCESS, "receiver");

	must(ibv_req_notify_cq(receiver->receive_queue.cq, 1));
	post_receive(receiver, &nothing, 3);
	qp_to(receiver->receiver, IBV_QPS_ERR);
	check(channel_event(&scene.device, options.patience), "no event of an error");
	queue_expect(&receiver->receive_queue, receiver->receiver, 3, IBV_WC_WR_FLUSH_ERR, "receiver");
	nothing_is_left(&scene.pair);
	end(&scene);
}

/* A queue pair that is ready to receive only, and is sent something, says that communication is established. */
static void run_established(const struct test *test)
{
	struct plan plan = { .transport = test->transport, .size = SIZE };
	struct device device;
	struct pair pair;

	device_open(&device);
	pair_create(&pair, &device, &plan);
	struct end *ends = pair.ends;
	struct layout nothing = { .count = 0 };
	struct ibv_send_wr wr = { .wr_id = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED };

	for (int i = 0; i < 2; i++) {
		qp_to_init(&pair, ends[i].sender);
		qp_to_rtr(&pair, ends[i].sender, ends[!i].receiver->qp_num);
	}
	qp_to_rts(&pair, ends[0].sender);
	async_none(&device);
	post_receive(&ends[1], &nothing, 2);
	post_send(&pair, 0, &wr);
	queue_expect(&ends[0].send_queue, ends[0].sender, 1, IBV_WC_SUCCESS, "requester");
	queue_expect(&ends[1].receive_queue, ends[1].receiver, 2, IBV_WC_SUCCESS, "receiver");
	async_expect(&device, IBV_EVENT_COMM_EST, ends[1].receiver);
	qp_to_rts(&pair, ends[1].sender);
	exchange(&pair, SIZE, 1);
	nothing_is_left(&pair);
	pair_destroy(&pair);
	device_close(&device);
}

/* An SRQ that falls below its limit says so, once for each time that the limit is set. */
static void run_srq_limit(const struct test *test)
{
	enum { POSTED = 8, LIMIT = 5 };
	struct plan plan = { .transport = test->transport, .srq = true, .size = SIZE };
	struct layout nothing = { .count = 0 };
	struct ibv_srq_attr attr = { .srq_limit = LIMIT };
	struct scene scene;

	begin(&scene, &plan);
	struct end *ends = scene.pair.ends;

	for (int i = 0; i < POSTED; i++)
		post_receive(&ends[1], &nothing, i);
	must(ibv_modify_srq(ends[1].srq, &attr, IBV_SRQ_LIMIT));
	memset(&attr, 0, sizeof(attr));
	must(ibv_query_srq(ends[1].srq, &attr));
	check(attr.srq_limit == LIMIT, "the limit is %u, expected %d", attr.srq_limit, LIMIT);
	for (int i = 0; i < POSTED; i++) {
		struct ibv_send_wr wr = { .wr_id = i, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED };

		note("%d of %d receives left", POSTED - i, POSTED);
		post_send(&scene.pair, 0, &wr);
		queue_expect(&ends[0].send_queue, ends[0].sender, i, IBV_WC_SUCCESS, "requester");
		queue_expect(&ends[1].receive_queue, ends[1].receiver, i, IBV_WC_SUCCESS, "receiver");
		if (POSTED - (i + 1) == LIMIT - 1)
			async_expect(&scene.device, IBV_EVENT_SRQ_LIMIT_REACHED, ends[1].srq);
		async_none(&scene.device);
	}
	must(ibv_query_srq(ends[1].srq, &attr));
	check(attr.srq_limit == 0, "the limit is %u after its event, expected 0", attr.srq_limit);
	end(&scene);
}

/* A queue pair that fails says when it takes nothing more from its SRQ, whose receives stay for others. */
static void run_last_wqe(const struct test *test)
{
	struct plan plan = { .transport = test->transport, .srq = true, .size = SIZE };
	struct layout nothing = { .count = 0 };
	struct scene scene;

	begin(&scene, &plan);
	struct end *ends = scene.pair.ends;

	post_receive(&ends[1], &nothing, 1);
	qp_to(ends[1].receiver, IBV_QPS_ERR);
	async_expect(&scene.device, IBV_EVENT_QP_LAST_WQE_REACHED, ends[1].receiver);
	nothing_is_left(&scene.pair);

	/* Another life of the queue pair takes it. */
	for (int i = 0; i < 2; i++)
		qp_to(ends[i].sender, IBV_QPS_RESET);
	pair_connect(&scene.pair);
	struct ibv_send_wr wr = { .wr_id = 2, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED };

	post_send(&scene.pair, 0, &wr);
	queue_expect(&ends[0].send_queue, ends[0].sender, 2, IBV_WC_SUCCESS, "requester");
	queue_expect(&ends[1].receive_queue, ends[1].receiver, 1, IBV_WC_SUCCESS, "receiver");
	nothing_is_left(&scene.pair);
	end(&scene);
}

/* More completions than a queue has room for are an error of the queue. */
static void run_overflow(const struct test *test)
{
	enum { ENTRIES = 3, SENT = 12 };
	struct plan plan = { .transport = test->transport, .size = SIZE, .depth = 16, .send_entries = ENTRIES };
	struct layout nothing = { .count = 0 };
	struct scene scene;

	begin(&scene, &plan);
	struct end *ends = scene.pair.ends;

	check(ends[0].send_queue.cq->cqe < SENT, "the queue has room for %d", ends[0].send_queue.cq->cqe);
	for (int i = 0; i < SENT; i++) {
		struct ibv_send_wr wr = { .wr_id = i, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED };

		post_receive(&ends[1], &nothing, i);
		post_send(&scene.pair, 0, &wr);
	}
	async_expect(&scene.device, IBV_EVENT_CQ_ERR, ends[0].send_queue.cq);
	/* Other queues go on. */
	struct pair other;

	plan.send_entries = 0;
	pair_create(&other, &scene.device, &plan);
	pair_connect(&other);
	exchange(&other, SIZE, 1);
	pair_destroy(&other);
	end(&scene);
}

const struct test event_tests[] = {
	{ .name = "event.one-for-each-arming", .run = run_one_event },
	{ .name = "event.solicited", .run = run_solicited },
	{ .name = "event.established", .run = run_established },
	{ .name = "event.srq-limit", .run = run_srq_limit },
	{ .name = "event.srq-last-wqe", .run = run_last_wqe },
	{ .name = "event.cq-overflow", .run = run_overflow },
	{ .name = NULL },
};
