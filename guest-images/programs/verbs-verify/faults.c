/*
 * Requests of reliable connections that must fail, and how (InfiniBand Architecture Specification, volume 1, 9.7.5 and 10.10): the status at the requester and
 * at the responder, the states of both queue pairs, what becomes of requests queued behind, and what is reported beside.
 */
#include "verify.h"

#include <errno.h>
#include <sys/mman.h>

#define SIZE 1000
#define NONE -1

/* What is wrong: first with the requester's memory, then with the responder's, its receive, and the responder itself. */
enum flaw {
	BAD_LKEY,
	FOREIGN_LKEY,
	STALE_LKEY,
	LOCAL_OVERRUN,
	LANDING_READ_ONLY,
	BAD_RKEY,
	FOREIGN_RKEY,
	STALE_RKEY,
	REMOTE_OVERRUN,
	REMOTE_UNDERRUN,
	REMOTE_WRAP,
	REMOTE_READ_ONLY,
	REMOTE_NOT_READABLE,
	REMOTE_NOT_ATOMIC,
	QP_DENIES,
	MISALIGNED,
	RECEIVE_TOO_SMALL,
	RECEIVE_BAD_LKEY,
	RECEIVE_READ_ONLY,
	RECEIVE_FOREIGN,
	NO_RECEIVE,
	NO_RECEIVE_AT_ALL,
	PEER_NOT_READY,
	PEER_ABSENT,
};

/* A flawed operation and what must come of it. */
struct fault {
	enum flaw flaw;
	enum operation operation;
	/* The requester's completion, the responder's or NONE. */
	enum ibv_wc_status status;
	int receiver;
	/* Whether the responder's queue pair ends in the error state, and with which asynchronous event or NONE. */
	bool responder_fails;
	int event;
};

struct attempt {
	struct pair *pair;
	const struct fault *fault;
	struct layout local;
	struct layout remote;
	struct layout receive;
	/* What the requests name of these, where it is flawed. */
	struct ibv_sge local_piece;
	struct ibv_sge receive_piece;
	struct ibv_send_wr wr;
	/* Memory that is registered as the flaw needs it; unused by others. */
	struct arena extra;
};

static bool is_rdma(enum operation operation)
{
	return operation != SEND && operation != SEND_IMM;
}

static void set_rkey(struct ibv_send_wr *wr, bool atomic, uint32_t rkey)
{
	if (atomic)
		wr->wr.atomic.rkey = rkey;
	else
		wr->wr.rdma.rkey = rkey;
}

static void set_remote(struct ibv_send_wr *wr, bool atomic, uint64_t address)
{
	if (atomic)
		wr->wr.atomic.remote_addr = address;
	else
		wr->wr.rdma.remote_addr = address;
}

/* Memory of its own for what the flaw is about, in the protection domain and with the rights that make it one. */
static void make_extra(struct attempt *attempt)
{
	struct ibv_pd *near = attempt->pair->ends[0].pd;
	struct ibv_pd *far = attempt->pair->ends[1].pd;
	int writable = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
	struct ibv_pd *pd;
	int access;

	switch (attempt->fault->flaw) {
	case FOREIGN_LKEY:
		pd = far, access = writable;
		break;
	case STALE_LKEY:
		pd = near, access = writable;
		break;
	case LANDING_READ_ONLY:
		pd = near, access = 0;
		break;
	case FOREIGN_RKEY:
		pd = near, access = writable | IBV_ACCESS_REMOTE_READ;
		break;
	case STALE_RKEY:
	case REMOTE_NOT_READABLE:
		pd = far, access = writable;
		break;
	case REMOTE_READ_ONLY:
	case RECEIVE_READ_ONLY:
		pd = far, access = IBV_ACCESS_REMOTE_READ;
		break;
	case REMOTE_NOT_ATOMIC:
		pd = far, access = writable | IBV_ACCESS_REMOTE_READ;
		break;
	case RECEIVE_FOREIGN:
		pd = near, access = writable;
		break;
	default:
		return;
	}
	arena_create(&attempt->extra, pd, SIZE + LAYOUT_ROOM, access);
}

static void destroy_extra(struct attempt *attempt)
{
	if (attempt->extra.mr)
		must(ibv_dereg_mr(attempt->extra.mr));
	if (attempt->extra.base)
		munmap(attempt->extra.base, attempt->extra.size);
}

/* A request of end 0 to end 1 that is sound but for where its memory lies. */
static void make_request(struct attempt *attempt)
{
	static const enum ibv_wr_opcode opcodes[] = {
		IBV_WR_SEND, IBV_WR_SEND_WITH_IMM, IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE_WITH_IMM,
		IBV_WR_RDMA_READ, IBV_WR_ATOMIC_CMP_AND_SWP, IBV_WR_ATOMIC_FETCH_AND_ADD,
	};
	struct end *ends = attempt->pair->ends;
	enum operation operation = attempt->fault->operation;
	uint32_t size = is_atomic(operation) ? 8 : SIZE;
	bool lands = operation == READ || is_atomic(operation);
	const struct arena *local = lands ? &ends[0].in : &ends[0].out;
	const struct arena *remote = &ends[1].out;
	const struct arena *receive = &ends[1].in;

	make_extra(attempt);
	if (attempt->extra.base) {
		if (attempt->fault->flaw <= LANDING_READ_ONLY)
			local = &attempt->extra;
		else if (attempt->fault->flaw < RECEIVE_TOO_SMALL)
			remote = &attempt->extra;
		else
			receive = &attempt->extra;
	}
	layout_align(&attempt->local, local, 0, size);
	layout_align(&attempt->remote, remote, 0, size);
	layout_align(&attempt->receive, receive, 0, SIZE);
	layout_fill(&attempt->local, 0, size, 1, PATTERN);
	layout_fill(&attempt->remote, 0, size, 2, PATTERN);
	layout_fill(&attempt->receive, 0, SIZE, 3, PATTERN);
	attempt->local_piece = attempt->local.pieces[0];
	attempt->receive_piece = attempt->receive.pieces[0];
	attempt->wr = (struct ibv_send_wr){
		.wr_id = 1,
		.sg_list = &attempt->local_piece,
		.num_sge = 1,
		.opcode = opcodes[operation],
		.send_flags = IBV_SEND_SIGNALED,
	};
	if (is_rdma(operation)) {
		set_remote(&attempt->wr, is_atomic(operation), attempt->remote.pieces[0].addr);
		set_rkey(&attempt->wr, is_atomic(operation), remote->mr->rkey);
	}
}

/* Flaws of keys, addresses and lengths. */
static void spoil(struct attempt *attempt)
{
	struct end *near = &attempt->pair->ends[0];
	struct end *far = &attempt->pair->ends[1];
	struct ibv_sge *local = &attempt->local_piece;
	struct ibv_sge *receive = &attempt->receive_piece;
	struct ibv_send_wr *wr = &attempt->wr;
	bool atomic = is_atomic(attempt->fault->operation);
	uint64_t base = (uintptr_t)far->out.base;

	switch (attempt->fault->flaw) {
	case BAD_LKEY:
		local->lkey = no_key(local->lkey);
		break;
	case STALE_LKEY:
	case STALE_RKEY:
		must(ibv_dereg_mr(attempt->extra.mr));
		attempt->extra.mr = NULL;
		break;
	case LOCAL_OVERRUN:
		local->addr = (uintptr_t)near->out.base + near->out.size - SIZE + 1;
		break;
	case BAD_RKEY:
		set_rkey(wr, atomic, no_key(far->out.mr->rkey));
		break;
	case REMOTE_OVERRUN:
		set_remote(wr, atomic, base + far->out.size - (atomic ? 0 : SIZE - 1));
		break;
	case REMOTE_UNDERRUN:
		set_remote(wr, atomic, base - 1);
		break;
	case REMOTE_WRAP:
		set_remote(wr, atomic, -(uint64_t)SIZE / 2);
		break;
	case MISALIGNED:
		set_remote(wr, atomic, attempt->remote.pieces[0].addr + 4);
		break;
	case RECEIVE_TOO_SMALL:
		receive->length = SIZE - 1;
		break;
	case RECEIVE_BAD_LKEY:
		receive->lkey = no_key(receive->lkey);
		break;
	default:
		break;
	}
}

static bool peer_is_away(enum flaw flaw)
{
	return flaw == PEER_NOT_READY || flaw == PEER_ABSENT;
}

static bool lacks_receive(enum flaw flaw)
{
	return flaw == NO_RECEIVE || flaw == NO_RECEIVE_AT_ALL || peer_is_away(flaw);
}

static void connect(struct pair *pair, enum flaw flaw)
{
	struct end *ends = pair->ends;

	if (!peer_is_away(flaw)) {
		pair_connect(pair);
		return;
	}
	qp_to_init(pair, ends[0].sender);
	qp_to_rtr(pair, ends[0].sender, flaw == PEER_ABSENT ? 0xfffff0 : ends[1].receiver->qp_num);
	qp_to_rts(pair, ends[0].sender);
	if (flaw == PEER_NOT_READY)
		qp_to_init(pair, ends[1].receiver);
}

static int denied(enum flaw flaw, enum operation operation)
{
	if (flaw != QP_DENIES)
		return 0;
	if (operation == READ)
		return IBV_ACCESS_REMOTE_READ;
	return is_atomic(operation) ? IBV_ACCESS_REMOTE_ATOMIC : IBV_ACCESS_REMOTE_WRITE;
}

/* Nothing may have changed, but for a receive buffer that an error was found behind. */
static void check_memory(const struct attempt *attempt)
{
	layout_check(&attempt->remote, 0, attempt->remote.size, 2, PATTERN, "responder's memory");
	layout_check_guards(&attempt->remote, "responder's memory");
	layout_check_guards(&attempt->receive, "receive buffer");
	layout_check_guards(&attempt->local, "requester's memory");
	if (attempt->fault->receiver == NONE)
		layout_check(&attempt->receive, 0, SIZE, 3, PATTERN, "receive buffer");
	if (attempt->fault->flaw == RECEIVE_TOO_SMALL)
		layout_check(&attempt->receive, SIZE - 1, SIZE, 3, PATTERN, "beyond the receive buffer");
	layout_check(&attempt->local, 0, attempt->local.size, 1, PATTERN, "requester's memory");
}

/* Everything queued behind an error is flushed, in order, also what asked for no completion. */
static void check_flushed(struct attempt *attempt, unsigned receives)
{
	struct pair *pair = attempt->pair;
	struct end *ends = pair->ends;
	struct ibv_send_wr late = { .wr_id = 4, .opcode = IBV_WR_SEND };
	struct layout nothing = { .count = 0 };

	for (uint64_t number = 2; number < 4; number++)
		queue_expect(&ends[0].send_queue, ends[0].sender, number, IBV_WC_WR_FLUSH_ERR, "queued behind");
	queue_expect(&ends[0].receive_queue, ends[0].receiver, 20, IBV_WC_WR_FLUSH_ERR, "requester's receive");
	/* What is posted in the error state is flushed as well. */
	post_send(pair, 0, &late);
	queue_expect(&ends[0].send_queue, ends[0].sender, 4, IBV_WC_WR_FLUSH_ERR, "posted in the error state");
	post_receive(&ends[0], &nothing, 21);
	queue_expect(&ends[0].receive_queue, ends[0].receiver, 21, IBV_WC_WR_FLUSH_ERR, "posted in the error state");
	if (!attempt->fault->responder_fails)
		return;
	for (unsigned number = 0; number < receives; number++)
		queue_expect(&ends[1].receive_queue, ends[1].receiver, 11 + number, IBV_WC_WR_FLUSH_ERR,
			     "responder's receive");
}

static void run_fault(const struct test *test)
{
	const struct fault *fault = test->detail;
	struct plan plan = {
		.size = SIZE,
		.denied = denied(fault->flaw, fault->operation),
		.rnr_retry = fault->flaw == NO_RECEIVE_AT_ALL ? -1 : 2,
		/* 4.096 us * 2^8 = 1 ms. */
		.timeout = 8,
	};
	struct attempt attempt = { .fault = fault };
	struct layout nothing = { .count = 0 };
	struct device device;
	struct pair pair;

	device_open(&device);
	pair_create(&pair, &device, &plan);
	attempt.pair = &pair;
	connect(&pair, fault->flaw);
	make_request(&attempt);
	spoil(&attempt);

	unsigned receives = lacks_receive(fault->flaw) ? 0 : 2;

	post_receive(&pair.ends[0], &nothing, 20);
	if (receives) {
		/* Unless the fault is one of receiving, the first is flushed with the others. */
		struct layout receive = { .pieces = { attempt.receive_piece }, .count = 1 };

		post_receive(&pair.ends[1], &receive, fault->receiver == NONE ? 11 : 10);
		post_receive(&pair.ends[1], &nothing, fault->receiver == NONE ? 12 : 11);
	}
	struct ibv_send_wr behind[2] = { { .wr_id = 2, .opcode = IBV_WR_SEND }, { .wr_id = 3, .opcode = IBV_WR_SEND } };

	attempt.wr.next = &behind[0];
	behind[0].next = &behind[1];
	post_send(&pair, 0, &attempt.wr);

	queue_expect(&pair.ends[0].send_queue, pair.ends[0].sender, 1, fault->status, "requester");
	if (fault->receiver != NONE)
		queue_expect(&pair.ends[1].receive_queue, pair.ends[1].receiver, 10, fault->receiver, "responder");
	qp_await_state(pair.ends[0].sender, IBV_QPS_ERR, "requester");
	if (fault->responder_fails)
		qp_await_state(pair.ends[1].receiver, IBV_QPS_ERR, "responder");
	else if (!peer_is_away(fault->flaw))
		check(qp_state(pair.ends[1].receiver) == IBV_QPS_RTS, "responder: state %d, expected RTS",
		      qp_state(pair.ends[1].receiver));
	if (fault->event != NONE)
		async_expect(&device, fault->event, pair.ends[1].receiver);
	check_flushed(&attempt, fault->receiver == NONE ? receives : receives - 1);
	check_memory(&attempt);
	nothing_is_left(&pair);

	/* Reset, both are as new. */
	note("after a reset");
	for (int i = 0; i < 2; i++)
		qp_to(pair.ends[i].sender, IBV_QPS_RESET);
	pair.plan.denied = 0;
	pair_connect(&pair);
	for (uint64_t iteration = 0; iteration < 3; iteration++)
		exchange(&pair, SIZE, iteration);
	destroy_extra(&attempt);
	nothing_is_left(&pair);
	pair_destroy(&pair);
	device_close(&device);
}

#define FAULT(text, ...) { .name = text, .run = run_fault, .detail = &(const struct fault){ __VA_ARGS__ } }

const struct test fault_tests[] = {
	FAULT("fault.send-bad-lkey", BAD_LKEY, SEND, IBV_WC_LOC_PROT_ERR, NONE, false, NONE),
	FAULT("fault.send-foreign-lkey", FOREIGN_LKEY, SEND, IBV_WC_LOC_PROT_ERR, NONE, false, NONE),
	FAULT("fault.send-stale-lkey", STALE_LKEY, SEND, IBV_WC_LOC_PROT_ERR, NONE, false, NONE),
	FAULT("fault.send-beyond-memory", LOCAL_OVERRUN, SEND, IBV_WC_LOC_PROT_ERR, NONE, false, NONE),
	FAULT("fault.write-bad-lkey", BAD_LKEY, WRITE, IBV_WC_LOC_PROT_ERR, NONE, false, NONE),
	FAULT("fault.read-bad-lkey", BAD_LKEY, READ, IBV_WC_LOC_PROT_ERR, NONE, false, NONE),
	FAULT("fault.read-into-read-only", LANDING_READ_ONLY, READ, IBV_WC_LOC_PROT_ERR, NONE, false, NONE),
	FAULT("fault.write-bad-rkey", BAD_RKEY, WRITE, IBV_WC_REM_ACCESS_ERR, NONE, true, IBV_EVENT_QP_ACCESS_ERR),
	FAULT("fault.write-foreign-rkey", FOREIGN_RKEY, WRITE, IBV_WC_REM_ACCESS_ERR,
	      NONE, true, IBV_EVENT_QP_ACCESS_ERR),
	FAULT("fault.write-stale-rkey", STALE_RKEY, WRITE, IBV_WC_REM_ACCESS_ERR,
	      NONE, true, IBV_EVENT_QP_ACCESS_ERR),
	FAULT("fault.write-beyond-memory", REMOTE_OVERRUN, WRITE, IBV_WC_REM_ACCESS_ERR,
	      NONE, true, IBV_EVENT_QP_ACCESS_ERR),
	FAULT("fault.write-before-memory", REMOTE_UNDERRUN, WRITE, IBV_WC_REM_ACCESS_ERR,
	      NONE, true, IBV_EVENT_QP_ACCESS_ERR),
	FAULT("fault.write-wraps", REMOTE_WRAP, WRITE, IBV_WC_REM_ACCESS_ERR, NONE, true, IBV_EVENT_QP_ACCESS_ERR),
	FAULT("fault.write-into-read-only", REMOTE_READ_ONLY, WRITE, IBV_WC_REM_ACCESS_ERR,
	      NONE, true, IBV_EVENT_QP_ACCESS_ERR),
	FAULT("fault.read-bad-rkey", BAD_RKEY, READ, IBV_WC_REM_ACCESS_ERR, NONE, true, IBV_EVENT_QP_ACCESS_ERR),
	FAULT("fault.read-foreign-rkey", FOREIGN_RKEY, READ, IBV_WC_REM_ACCESS_ERR,
	      NONE, true, IBV_EVENT_QP_ACCESS_ERR),
	FAULT("fault.read-beyond-memory", REMOTE_OVERRUN, READ, IBV_WC_REM_ACCESS_ERR,
	      NONE, true, IBV_EVENT_QP_ACCESS_ERR),
	FAULT("fault.read-not-readable", REMOTE_NOT_READABLE, READ, IBV_WC_REM_ACCESS_ERR,
	      NONE, true, IBV_EVENT_QP_ACCESS_ERR),
	FAULT("fault.atomic-bad-rkey", BAD_RKEY, FETCH_ADD, IBV_WC_REM_ACCESS_ERR,
	      NONE, true, IBV_EVENT_QP_ACCESS_ERR),
	FAULT("fault.atomic-beyond-memory", REMOTE_OVERRUN, CMP_SWAP, IBV_WC_REM_ACCESS_ERR,
	      NONE, true, IBV_EVENT_QP_ACCESS_ERR),
	FAULT("fault.atomic-not-atomic", REMOTE_NOT_ATOMIC, CMP_SWAP, IBV_WC_REM_ACCESS_ERR,
	      NONE, true, IBV_EVENT_QP_ACCESS_ERR),
	FAULT("fault.atomic-misaligned", MISALIGNED, FETCH_ADD, IBV_WC_REM_INV_REQ_ERR,
	      NONE, true, IBV_EVENT_QP_REQ_ERR),
	FAULT("fault.write-denied-by-qp", QP_DENIES, WRITE, IBV_WC_REM_INV_REQ_ERR, NONE, true, IBV_EVENT_QP_REQ_ERR),
	FAULT("fault.read-denied-by-qp", QP_DENIES, READ, IBV_WC_REM_INV_REQ_ERR, NONE, true, IBV_EVENT_QP_REQ_ERR),
	FAULT("fault.atomic-denied-by-qp", QP_DENIES, FETCH_ADD, IBV_WC_REM_INV_REQ_ERR,
	      NONE, true, IBV_EVENT_QP_REQ_ERR),
	FAULT("fault.receive-too-small", RECEIVE_TOO_SMALL, SEND, IBV_WC_REM_INV_REQ_ERR,
	      IBV_WC_LOC_LEN_ERR, true, NONE),
	FAULT("fault.receive-bad-lkey", RECEIVE_BAD_LKEY, SEND, IBV_WC_REM_OP_ERR, IBV_WC_LOC_PROT_ERR, true, NONE),
	FAULT("fault.receive-read-only", RECEIVE_READ_ONLY, SEND, IBV_WC_REM_OP_ERR, IBV_WC_LOC_PROT_ERR, true, NONE),
	FAULT("fault.receive-foreign-lkey", RECEIVE_FOREIGN, SEND, IBV_WC_REM_OP_ERR,
	      IBV_WC_LOC_PROT_ERR, true, NONE),
	FAULT("fault.no-receive", NO_RECEIVE, SEND, IBV_WC_RNR_RETRY_EXC_ERR, NONE, false, NONE),
	FAULT("fault.no-receive-no-retry", NO_RECEIVE_AT_ALL, SEND_IMM, IBV_WC_RNR_RETRY_EXC_ERR, NONE, false, NONE),
	FAULT("fault.no-receive-for-immediate", NO_RECEIVE, WRITE_IMM, IBV_WC_RNR_RETRY_EXC_ERR, NONE, false, NONE),
	FAULT("fault.peer-not-ready", PEER_NOT_READY, SEND, IBV_WC_RETRY_EXC_ERR, NONE, false, NONE),
	FAULT("fault.peer-absent", PEER_ABSENT, WRITE, IBV_WC_RETRY_EXC_ERR, NONE, false, NONE),
	{ .name = NULL },
};
