/* Objects: what can be asked of them, made of them and destroyed, in any order. */
#include "verify.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define PORT 1
#define SIZE 3000
#define PAGE 4096
/* The mask of all attributes of a queue pair. */
#define EVERYTHING ((IBV_QP_DEST_QPN << 1) - 1)
/* Queue pairs that the driver may keep for itself. */
#define OF_THE_DRIVER 32

static void run_query_device(const struct test *test)
{
	struct ibv_device_attr_ex more = { .comp_mask = 0 };
	struct device device;
	union ibv_gid gid;
	__be16 pkey;

	(void)test;
	device_open(&device);
	const struct ibv_device_attr *attr = &device.attr;
	const struct ibv_port_attr *port = &device.port;

	check(attr->phys_port_cnt == 1, "%u ports", attr->phys_port_cnt);
	check(attr->max_qp > 0 && attr->max_qp_wr > 0 && attr->max_sge >= MAX_PIECES && attr->max_cq > 0 &&
		      attr->max_cqe > 0 && attr->max_mr > 0 && attr->max_pd > 0 && attr->max_srq > 0,
	      "a limit is 0");
	check(attr->max_qp_rd_atom > 0 && attr->max_qp_init_rd_atom > 0, "no READs in flight");
	must(ibv_query_device_ex(device.context, NULL, &more));
	check(memcmp(&more.orig_attr, attr, sizeof(*attr)) == 0, "the two device queries differ");
	check(port->state == IBV_PORT_ACTIVE, "port state %d, expected active", port->state);
	check(port->lid != 0 && port->link_layer == IBV_LINK_LAYER_INFINIBAND, "LID %u, link layer %u", port->lid,
	      port->link_layer);
	check(port->active_mtu <= port->max_mtu && port->max_msg_sz >= 1 << 20, "MTU %d of %d, messages of %u bytes",
	      port->active_mtu, port->max_mtu, port->max_msg_sz);
	for (int i = 0; i < port->gid_tbl_len; i++) {
		must(ibv_query_gid(device.context, PORT, i, &gid));
		check(i == 0 ? gid.global.interface_id != 0 : gid.global.interface_id == 0, "GID %d", i);
	}
	check(ibv_query_gid(device.context, PORT, port->gid_tbl_len, &gid) != 0, "a GID beyond the table");
	for (int i = 0; i < port->pkey_tbl_len; i++) {
		must(ibv_query_pkey(device.context, PORT, i, &pkey));
		check(i == 0 ? pkey == 0xffff : pkey == 0, "P_Key %d is 0x%x", i, pkey);
	}
	struct ibv_port_attr none;

	check(ibv_query_port(device.context, PORT + 1, &none) != 0, "a port too many");
	device_close(&device);
}

/* What a queue pair was told is what it says. */
static void run_query_qp(const struct test *test)
{
	struct plan plan = { .transport = test->transport, .srq = test->srq, .size = SIZE, .rnr_retry = 3 };
	bool reliable = test->transport == RC;
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr;
	struct device device;
	struct pair pair;

	device_open(&device);
	pair_create(&pair, &device, &plan);
	struct end *end = &pair.ends[0];
	struct ibv_qp *qp = end->sender;

	check(qp_state(qp) == IBV_QPS_RESET, "state %d, expected RESET", qp_state(qp));
	/* Neither RTS nor RTR can be reached from here. */
	for (enum ibv_qp_state state = IBV_QPS_RTR; state <= IBV_QPS_RTS; state++) {
		memset(&attr, 0, sizeof(attr));
		attr.qp_state = state;
		check(ibv_modify_qp(qp, &attr, IBV_QP_STATE) == EINVAL, "RESET to state %d", state);
	}
	qp_to_init(&pair, qp);
	check(qp_state(qp) == IBV_QPS_INIT, "state %d, expected INIT", qp_state(qp));
	qp_to_rtr(&pair, qp, pair.ends[1].receiver->qp_num);
	check(qp_state(qp) == IBV_QPS_RTR, "state %d, expected RTR", qp_state(qp));
	qp_to_rts(&pair, qp);
	must(ibv_query_qp(qp, &attr, EVERYTHING, &init));
	check(attr.qp_state == IBV_QPS_RTS && attr.cur_qp_state == IBV_QPS_RTS, "state %d, expected RTS",
	      attr.qp_state);
	check(attr.cap.max_send_wr >= pair.plan.depth && attr.cap.max_send_sge >= MAX_PIECES, "%u sends of %u pieces",
	      attr.cap.max_send_wr, attr.cap.max_send_sge);
	check(test->srq || (attr.cap.max_recv_wr >= pair.plan.depth && attr.cap.max_recv_sge >= MAX_PIECES),
	      "%u receives of %u pieces", attr.cap.max_recv_wr, attr.cap.max_recv_sge);
	check(init.qp_type == qp->qp_type && init.srq == end->srq && init.send_cq == end->send_queue.cq &&
		      init.recv_cq == end->receive_queue.cq,
	      "the queue pair is of other objects than it was made of");
	check(attr.port_num == PORT && attr.pkey_index == 0, "port %u, P_Key %u", attr.port_num, attr.pkey_index);
	check(attr.sq_psn == 0xffffff, "sq_psn 0x%x, expected 0xffffff", attr.sq_psn);
	if (test->transport == UD)
		check(attr.qkey == QKEY, "Q_Key 0x%x, expected 0x%x", attr.qkey, QKEY);
	if (test->transport != UD) {
		int access = IBV_ACCESS_REMOTE_WRITE;

		if (reliable)
			access |= IBV_ACCESS_REMOTE_READ;
		if (reliable && device.attr.atomic_cap != IBV_ATOMIC_NONE)
			access |= IBV_ACCESS_REMOTE_ATOMIC;
		check(attr.dest_qp_num == pair.ends[1].receiver->qp_num, "dest_qp_num 0x%x, expected 0x%x",
		      attr.dest_qp_num, pair.ends[1].receiver->qp_num);
		check(attr.path_mtu == IBV_MTU_1024 && attr.rq_psn == 0xffffff, "path_mtu %d, rq_psn 0x%x",
		      attr.path_mtu, attr.rq_psn);
		check(attr.ah_attr.dlid == device.port.lid && !attr.ah_attr.is_global, "dlid %u, is_global %u",
		      attr.ah_attr.dlid, attr.ah_attr.is_global);
		check((attr.qp_access_flags & ~IBV_ACCESS_LOCAL_WRITE) == (unsigned)access, "access flags 0x%x, expected 0x%x",
		      attr.qp_access_flags, access);
	}
	if (reliable)
		check(attr.timeout == pair.plan.timeout && attr.retry_cnt == 2 && attr.rnr_retry == 3 &&
			      attr.min_rnr_timer == 1 && attr.max_rd_atomic == 4 && attr.max_dest_rd_atomic == 4,
		      "timeout %u, retry_cnt %u, rnr_retry %u, min_rnr_timer %u, max_rd_atomic %u, max_dest_rd_atomic %u",
		      attr.timeout, attr.retry_cnt, attr.rnr_retry, attr.min_rnr_timer, attr.max_rd_atomic,
		      attr.max_dest_rd_atomic);
	qp_to(qp, IBV_QPS_ERR);
	check(qp_state(qp) == IBV_QPS_ERR, "state %d, expected ERR", qp_state(qp));
	qp_to(qp, IBV_QPS_RESET);
	check(qp_state(qp) == IBV_QPS_RESET, "state %d, expected RESET", qp_state(qp));
	pair_destroy(&pair);
	device_close(&device);
}

static void run_query_srq(const struct test *test)
{
	struct ibv_srq_init_attr init = { .attr = { .max_wr = 30, .max_sge = 3 } };
	struct ibv_srq_attr attr;
	struct device device;

	(void)test;
	device_open(&device);
	struct ibv_pd *pd = made(ibv_alloc_pd(device.context));
	struct ibv_srq *srq = made(ibv_create_srq(pd, &init));
	struct ibv_recv_wr wr = { .num_sge = 0 }, *bad;

	must(ibv_query_srq(srq, &attr));
	check(attr.max_wr >= 30 && attr.max_sge >= 3 && attr.srq_limit == 0, "max_wr %u, max_sge %u, srq_limit %u",
	      attr.max_wr, attr.max_sge, attr.srq_limit);
	/* It holds more than its limit, else the limit would be reached at once. */
	for (int i = 0; i < 10; i++)
		must(ibv_post_srq_recv(srq, &wr, &bad));
	attr.srq_limit = 7;
	must(ibv_modify_srq(srq, &attr, IBV_SRQ_LIMIT));
	must(ibv_query_srq(srq, &attr));
	check(attr.srq_limit == 7, "srq_limit %u, expected 7", attr.srq_limit);
	attr.srq_limit = attr.max_wr + 1000;
	check(ibv_modify_srq(srq, &attr, IBV_SRQ_LIMIT) != 0, "a limit above the queue's size");
	async_none(&device);
	must(ibv_destroy_srq(srq));
	must(ibv_dealloc_pd(pd));
	device_close(&device);
}

/* What others still use cannot be destroyed, and is whole afterwards. */
static void run_busy(const struct test *test)
{
	struct plan plan = { .transport = test->transport, .srq = true, .size = SIZE };
	struct device device;
	struct pair pair;

	device_open(&device);
	pair_create(&pair, &device, &plan);
	pair_connect(&pair);
	for (int i = 0; i < 2; i++) {
		struct end *end = &pair.ends[i];

		check(ibv_dealloc_pd(end->pd) == EBUSY, "a protection domain in use was deallocated");
		check(ibv_destroy_cq(end->send_queue.cq) == EBUSY, "a send completion queue in use was destroyed");
		check(ibv_destroy_cq(end->receive_queue.cq) == EBUSY, "a receive completion queue in use was destroyed");
		check(ibv_destroy_srq(end->srq) == EBUSY, "an SRQ in use was destroyed");
		check(ibv_destroy_comp_channel(device.channel) == EBUSY, "a channel in use was destroyed");
	}
	exchange(&pair, SIZE, 1);
	nothing_is_left(&pair);
	pair_destroy(&pair);
	device_close(&device);
}

/* As many as there are, twice: the second time the same number, so none was lost. */
static void run_limits(const struct test *test)
{
	enum { MOST = 600, ROUNDS = 2 };
	static struct ibv_qp *qps[MOST];
	unsigned counts[ROUNDS];
	struct device device;
	struct queue queue;

	(void)test;
	device_open(&device);
	struct ibv_pd *pd = made(ibv_alloc_pd(device.context));
	struct ibv_qp_init_attr init = { .cap = { .max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
					 .qp_type = IBV_QPT_RC };

	queue_create(&queue, &device, 4);
	init.send_cq = init.recv_cq = queue.cq;
	for (int round = 0; round < ROUNDS; round++) {
		unsigned count = 0;

		while (count < MOST && (qps[count] = ibv_create_qp(pd, &init)))
			count++;
		counts[round] = count;
		check(count + OF_THE_DRIVER >= (unsigned)device.attr.max_qp && count <= (unsigned)device.attr.max_qp,
		      "%u queue pairs could be made, the device offers %d", count, device.attr.max_qp);
		/* Every other one first. */
		for (unsigned i = 0; i < count; i += 2)
			must(ibv_destroy_qp(qps[i]));
		for (unsigned i = 1; i < count; i += 2)
			must(ibv_destroy_qp(qps[i]));
	}
	check(counts[0] == counts[1], "%u queue pairs at first, then %u", counts[0], counts[1]);
	queue_destroy(&queue);
	must(ibv_dealloc_pd(pd));
	device_close(&device);
}

/* Queue pairs that are destroyed with work under way leave nothing behind in the completion queues that they shared. */
static void run_destroy_in_flight(const struct test *test)
{
	struct plan plan = { .transport = test->transport, .size = SIZE, .rnr_retry = 7 };
	struct layout nothing = { .count = 0 };
	struct device device;
	struct pair pair;

	device_open(&device);
	for (int round = 0; round < 6; round++) {
		pair_create(&pair, &device, &plan);
		pair_connect(&pair);
		for (int i = 0; i < 8; i++) {
			struct ibv_send_wr wr = { .wr_id = i, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED };

			/* In half of the rounds the receiver has nothing to take them with. */
			if (round % 2)
				post_receive(&pair.ends[1], &nothing, i);
			post_send(&pair, 0, &wr);
		}
		if (round >= 4 && round % 2)
			queue_expect(&pair.ends[0].send_queue, pair.ends[0].sender, 0, IBV_WC_SUCCESS, "requester");
		pair_destroy(&pair);
	}
	pair_create(&pair, &device, &plan);
	pair_connect(&pair);
	exchange(&pair, SIZE, 1);
	nothing_is_left(&pair);
	pair_destroy(&pair);
	device_close(&device);
}

/* WRITEs the pattern from `out` through `rkey` to `to`, and reads it back. */
static void write_through(struct pair *pair, const struct layout *to, uint32_t rkey, uint64_t key, struct random *random)
{
	struct end *near = &pair->ends[0];
	struct layout from;

	layout_place(&from, &near->out, 0, to->size, 2, random);
	layout_fill(&from, 0, to->size, key, PATTERN);
	layout_fill(to, 0, to->size, key, BEFORE);
	struct ibv_send_wr wr = {
		.wr_id = key,
		.sg_list = from.pieces,
		.num_sge = from.count,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma = { .remote_addr = to->pieces[0].addr, .rkey = rkey },
	};

	post_send(pair, 0, &wr);
	queue_expect(&near->send_queue, near->sender, key, IBV_WC_SUCCESS, "WRITE");
	layout_check(to, 0, to->size, key, PATTERN, "registered memory");
	layout_check_guards(to, "registered memory");
	count_message(to->size);
}

/* Registrations of all lengths and alignments, over pages in no order: each reaches its own bytes. */
static void run_registrations(const struct test *test)
{
	static const uint32_t lengths[] = { 1, 7, 4095, 4096, 4097, 12288, 70001, 1 << 20, (1 << 20) + 9 };
	struct random random = { options.seed };
	struct plan plan = { .transport = test->transport, .size = (1 << 20) + 9 };
	size_t room = (2 << 20) + 4 * PAGE;
	struct device device;
	struct pair pair;

	device_open(&device);
	pair_create(&pair, &device, &plan);
	pair_connect(&pair);
	struct end *far = &pair.ends[1];
	char *memory = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(memory != MAP_FAILED, "mmap: errno %d", errno);
	/* Pages are taken in this order. */
	for (size_t page = 0; page < room / PAGE; page++)
		memory[page * 37 % (room / PAGE) * PAGE] = 1;
	for (unsigned i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		note("%u bytes", lengths[i]);
		char *base = memory + PAGE + random_below(&random, PAGE);
		struct ibv_mr *mr = made(ibv_reg_mr(far->pd, base, lengths[i],
						    IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE));
		struct ibv_sge piece = { .addr = (uintptr_t)base, .length = lengths[i], .lkey = mr->lkey };
		struct layout all = { .pieces = { piece }, .count = 1, .size = lengths[i] };

		write_through(&pair, &all, mr->rkey, i + 1, &random);
		must(ibv_dereg_mr(mr));
	}
	munmap(memory, room);
	nothing_is_left(&pair);
	pair_destroy(&pair);
	device_close(&device);
}

/* A registration's rights, place and protection domain can be changed. */
static void run_reregistration(const struct test *test)
{
	struct random random = { options.seed };
	struct plan plan = { .transport = test->transport, .size = SIZE };
	int all = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
	struct arena arenas[2];
	struct layout first, second;
	struct device device;
	struct pair pair;

	device_open(&device);
	pair_create(&pair, &device, &plan);
	pair_connect(&pair);
	struct end *near = &pair.ends[0];
	struct end *far = &pair.ends[1];

	for (int i = 0; i < 2; i++)
		arena_create(&arenas[i], far->pd, SIZE + LAYOUT_ROOM, IBV_ACCESS_LOCAL_WRITE);
	layout_place(&first, &arenas[0], 0, SIZE, 1, &random);
	layout_place(&second, &arenas[1], 0, SIZE, 1, &random);
	/* Only one registration of memory at a time. */
	must(ibv_dereg_mr(arenas[1].mr));
	struct ibv_mr *mr = arenas[0].mr;

	must(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, all));
	write_through(&pair, &first, mr->rkey, 1, &random);
	must(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_TRANSLATION, NULL, arenas[1].base, arenas[1].size, 0));
	write_through(&pair, &second, mr->rkey, 2, &random);
	must(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_TRANSLATION | IBV_REREG_MR_CHANGE_ACCESS | IBV_REREG_MR_CHANGE_PD,
			  far->pd, arenas[0].base, arenas[0].size, all));
	write_through(&pair, &first, mr->rkey, 3, &random);
	/* In the other protection domain it is of no use to this queue pair. */
	must(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_PD, near->pd, NULL, 0, 0));
	struct ibv_sge piece = { .addr = (uintptr_t)near->out.base, .length = 8, .lkey = near->out.mr->lkey };
	struct ibv_send_wr wr = {
		.wr_id = 4,
		.sg_list = &piece,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma = { .remote_addr = first.pieces[0].addr, .rkey = mr->rkey },
	};

	post_send(&pair, 0, &wr);
	queue_expect(&near->send_queue, near->sender, 4, IBV_WC_REM_ACCESS_ERR, "requester");
	arena_destroy(&arenas[0]);
	munmap(arenas[1].base, arenas[1].size);
	pair_destroy(&pair);
	device_close(&device);
}

/* Everything is made and destroyed many times over, with traffic in each life. */
static void run_lives(const struct test *test)
{
	unsigned lives = options.iterations ? options.iterations : 10;
	struct device device;
	struct pair pair;

	for (unsigned life = 0; life < lives; life++) {
		struct plan plan = { .transport = test->transport, .srq = life % 2, .size = SIZE };

		device_open(&device);
		pair_create(&pair, &device, &plan);
		for (int round = 0; round < 3; round++) {
			pair_connect(&pair);
			exchange(&pair, SIZE, life * 3 + round);
			/* A reset also drops receives that nothing has come for. */
			if (!plan.srq) {
				struct layout nothing = { .count = 0 };

				post_receive(&pair.ends[round % 2], &nothing, 99);
			}
			for (int i = 0; i < 2; i++)
				qp_to(pair.ends[i].sender, IBV_QPS_RESET);
			nothing_is_left(&pair);
		}
		pair_destroy(&pair);
		device_close(&device);
	}
}

const struct test object_tests[] = {
	{ .name = "object.query-device", .run = run_query_device },
	{ .name = "object.query-rc", .run = run_query_qp, .transport = RC },
	{ .name = "object.query-rc-srq", .run = run_query_qp, .transport = RC, .srq = true },
	{ .name = "object.query-uc", .run = run_query_qp, .transport = UC },
	{ .name = "object.query-ud", .run = run_query_qp, .transport = UD },
	{ .name = "object.query-srq", .run = run_query_srq },
	{ .name = "object.busy", .run = run_busy },
	{ .name = "object.limits", .run = run_limits },
	{ .name = "object.destroy-in-flight", .run = run_destroy_in_flight },
	{ .name = "object.registrations", .run = run_registrations },
	{ .name = "object.reregistration", .run = run_reregistration },
	{ .name = "object.rc-lives", .run = run_lives, .transport = RC },
	{ .name = "object.uc-lives", .run = run_lives, .transport = UC },
	{ .name = "object.ud-lives", .run = run_lives, .transport = UD },
	{ .name = NULL },
};
