/* Memory windows, invalidation by the peer, and multicast: what not every device has. A device that lacks one says so. */
#include "verify.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SIZE 1000
/* Where the window lies in its owner's memory. */
#define BEGIN 128
#define KEY 5

/* A request of end 0 and its completion. */
static void request(struct pair *pair, struct ibv_send_wr *wr, enum ibv_wc_status status)
{
	struct end *end = &pair->ends[0];

	wr->wr_id = 1;
	wr->send_flags = IBV_SEND_SIGNALED;
	post_send(pair, 0, wr);
	queue_expect(&end->send_queue, end->sender, 1, status, "requester");
}

static void write_to(struct pair *pair, const struct layout *from, uint64_t at, uint32_t key,
		     enum ibv_wc_status status)
{
	struct ibv_send_wr wr = {
		.sg_list = (struct ibv_sge *)from->pieces,
		.num_sge = from->count,
		.opcode = IBV_WR_RDMA_WRITE,
		.wr.rdma = { .remote_addr = at, .rkey = key },
	};

	request(pair, &wr, status);
}

/* Work of end 1 on a key of its own. */
static void change_key(struct pair *pair, struct ibv_send_wr *wr)
{
	struct end *end = &pair->ends[1];

	wr->wr_id = 2;
	wr->send_flags = IBV_SEND_SIGNALED;
	post_send(pair, 1, wr);
	queue_expect(&end->send_queue, end->sender, 2, IBV_WC_SUCCESS, "owner of the window");
}

enum end_of_window { REBOUND, INVALIDATED, INVALIDATED_BY_PEER, DEALLOCATED, OVERRUN };

/*
 * End 1 lets end 0 write to a part of its memory through a window. When the window has gone the key that named it is
 * good for nothing.
 */
static void run_window(const struct test *test)
{
	struct plan plan = { .transport = RC, .size = SIZE };
	struct layout from, to;
	struct device device;
	struct pair pair;

	device_open(&device);
	if (!(device.attr.device_cap_flags & IBV_DEVICE_MEM_WINDOW_TYPE_2B)) {
		note("the device has no memory windows");
		device_close(&device);
		return;
	}
	pair_create(&pair, &device, &plan);
	pair_connect(&pair);
	struct end *owner = &pair.ends[1];
	struct arena arena;

	arena_create(&arena, owner->pd, BEGIN + SIZE + LAYOUT_ROOM, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_MW_BIND);
	struct ibv_mw *mw = made(ibv_alloc_mw(owner->pd, IBV_MW_TYPE_2));

	layout_align(&from, &pair.ends[0].out, 0, SIZE);
	layout_fill(&from, 0, SIZE, KEY, PATTERN);
	layout_align(&to, &arena, BEGIN, SIZE);
	layout_fill(&to, 0, SIZE, KEY, BEFORE);
	uint64_t begin = to.pieces[0].addr;
	struct ibv_send_wr bind = {
		.opcode = IBV_WR_BIND_MW,
		.bind_mw = {
			.mw = mw,
			.rkey = ibv_inc_rkey(mw->rkey),
			.bind_info = {
				.mr = arena.mr,
				.addr = begin,
				.length = SIZE,
				.mw_access_flags = IBV_ACCESS_REMOTE_WRITE,
			},
		},
	};

	change_key(&pair, &bind);
	mw->rkey = bind.bind_mw.rkey;
	note("a write through the window");
	write_to(&pair, &from, begin, mw->rkey, IBV_WC_SUCCESS);
	layout_check(&to, 0, SIZE, KEY, PATTERN, "window");
	layout_check_guards(&to, "window");
	layout_fill(&to, 0, SIZE, KEY, BEFORE);
	struct ibv_send_wr invalidate = { .opcode = IBV_WR_LOCAL_INV, .invalidate_rkey = mw->rkey };
	struct ibv_send_wr send = { .opcode = IBV_WR_SEND_WITH_INV, .invalidate_rkey = mw->rkey };
	struct layout nothing = { .count = 0 };
	uint32_t stale = mw->rkey;
	uint64_t at = begin;

	switch ((enum end_of_window)test->variant) {
	case REBOUND:
		change_key(&pair, &invalidate);
		bind.bind_mw.rkey = ibv_inc_rkey(mw->rkey);
		change_key(&pair, &bind);
		note("a write through the window bound again");
		write_to(&pair, &from, begin, bind.bind_mw.rkey, IBV_WC_SUCCESS);
		layout_check(&to, 0, SIZE, KEY, PATTERN, "window");
		layout_fill(&to, 0, SIZE, KEY, BEFORE);
		break;
	case INVALIDATED:
		change_key(&pair, &invalidate);
		break;
	case INVALIDATED_BY_PEER:
		post_receive(owner, &nothing, 3);
		request(&pair, &send, IBV_WC_SUCCESS);
		struct ibv_wc wc = queue_expect(&owner->receive_queue, owner->receiver, 3, IBV_WC_SUCCESS, "owner");

		check(wc.wc_flags & IBV_WC_WITH_INV && wc.invalidated_rkey == stale,
		      "flags 0x%x, key 0x%x, expected an invalidated key 0x%x", wc.wc_flags, wc.invalidated_rkey,
		      stale);
		break;
	case DEALLOCATED:
		must(ibv_dealloc_mw(mw));
		mw = NULL;
		break;
	case OVERRUN:
		at++;
		break;
	}
	note("a write that the window does not allow");
	write_to(&pair, &from, at, stale, IBV_WC_REM_ACCESS_ERR);
	layout_check(&to, 0, SIZE, KEY, BEFORE, "window");
	qp_await_state(owner->receiver, IBV_QPS_ERR, "owner");
	async_expect(&device, IBV_EVENT_QP_ACCESS_ERR, owner->receiver);
	if (mw)
		must(ibv_dealloc_mw(mw));
	arena_destroy(&arena);
	pair_destroy(&pair);
	device_close(&device);
}

#define MEMBERS 3

/* A datagram to a group reaches its members but the sender, and nobody who has left. */
static void run_multicast(const struct test *test)
{
	static const union ibv_gid group = { .raw = { 0xff, 0x12, 0xa0, 0x1b, [15] = 0x42 } };
	const uint16_t lid = 0xc123;
	struct plan plan = { .transport = UD, .size = SIZE };
	struct pair pairs[MEMBERS];
	struct layout from, to[MEMBERS];
	struct device device;
	struct ibv_send_wr *bad;

	(void)test;
	device_open(&device);
	if (device.attr.max_mcast_qp_attach < MEMBERS) {
		note("the device has no multicast groups of %u", MEMBERS);
		device_close(&device);
		return;
	}
	for (int i = 0; i < MEMBERS; i++) {
		pair_create(&pairs[i], &device, &plan);
		pair_connect(&pairs[i]);
		must(ibv_attach_mcast(pairs[i].ends[0].receiver, &group, lid));
		layout_align(&to[i], &pairs[i].ends[0].in, 0, GRH + SIZE);
		to[i].header = GRH;
	}
	struct end *sender = &pairs[0].ends[0];
	struct ibv_ah_attr where = {
		.dlid = lid,
		.port_num = 1,
		.is_global = 1,
		.grh = { .dgid = group, .hop_limit = 1 },
	};
	struct ibv_ah *ah = made(ibv_create_ah(sender->pd, &where));

	layout_align(&from, &sender->out, 0, SIZE);
	for (int round = 0; round < 2; round++) {
		uint64_t key = pattern_key(round, 0);

		layout_fill(&from, 0, SIZE, key, PATTERN);
		for (int i = 0; i < MEMBERS; i++) {
			layout_fill(&to[i], 0, SIZE, key, BEFORE);
			post_receive(&pairs[i].ends[0], &to[i], 10 + round);
		}
		struct ibv_send_wr wr = {
			.wr_id = 1,
			.sg_list = from.pieces,
			.num_sge = 1,
			.opcode = IBV_WR_SEND,
			.send_flags = IBV_SEND_SIGNALED,
			.wr.ud = { .ah = ah, .remote_qpn = 0xffffff, .remote_qkey = QKEY },
		};

		must(ibv_post_send(sender->sender, &wr, &bad));
		queue_expect(&sender->send_queue, sender->sender, 1, IBV_WC_SUCCESS, "sender");
		for (int i = 0; i < MEMBERS; i++) {
			struct end *member = &pairs[i].ends[0];
			/* The sender never hears itself; in the second round the last has left. */
			bool hears = i != 0 && !(round == 1 && i == MEMBERS - 1);

			note("round %d, member %d", round, i);
			if (hears)
				queue_expect(&member->receive_queue, member->receiver, 10 + round, IBV_WC_SUCCESS,
					     "member");
			layout_check(&to[i], 0, SIZE, key, hears ? PATTERN : BEFORE, "member");
		}
		if (round == 0)
			must(ibv_detach_mcast(pairs[MEMBERS - 1].ends[0].receiver, &group, lid));
	}
	must(ibv_destroy_ah(ah));
	for (int i = 0; i < MEMBERS; i++) {
		if (i != MEMBERS - 1)
			must(ibv_detach_mcast(pairs[i].ends[0].receiver, &group, lid));
		pair_destroy(&pairs[i]);
	}
	device_close(&device);
}

const struct test extension_tests[] = {
	{ .name = "window.bound-again", .run = run_window, .variant = REBOUND },
	{ .name = "window.invalidated", .run = run_window, .variant = INVALIDATED },
	{ .name = "window.invalidated-by-peer", .run = run_window, .variant = INVALIDATED_BY_PEER },
	{ .name = "window.deallocated", .run = run_window, .variant = DEALLOCATED },
	{ .name = "window.overrun", .run = run_window, .variant = OVERRUN },
	{ .name = "multicast", .run = run_multicast },
	{ .name = NULL },
};
