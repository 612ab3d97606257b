// SPDX-License-Identifier: GPL-2.0
/* What a run needs on a device: memory and its mappings, two queue pairs connected with each other, keys. */

#include <linux/kernel.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "kverbs.h"

/* Of each queue; one message is under way at a time, so the queues' ends are passed often. */
#define QUEUE_DEPTH 8
#define GUARD 0xa5
#define FIRST_PSN 0x123

/* Says what went wrong, in the log and in the device's report; the first time only. */
int fail(struct session *session, int error, const char *format, ...)
{
	struct va_format text;
	va_list arguments;

	va_start(arguments, format);
	text.fmt = format;
	text.va = &arguments;
	scnprintf(session->report, REPORT_SIZE, "failed (%d): %pV\n", error, &text);
	va_end(arguments);
	pr_err("kverbs: %s: %s", dev_name(&session->ib->dev), session->report);
	return error;
}

/* The CPU may look at the buffer, or write it. */
void buffer_to_cpu(struct session *session, struct buffer *buffer)
{
	ib_dma_sync_single_for_cpu(session->ib, buffer->dma, buffer->size, buffer->direction);
}

/* The CPU has done with the buffer. */
void buffer_to_device(struct session *session, struct buffer *buffer)
{
	ib_dma_sync_single_for_device(session->ib, buffer->dma, buffer->size, buffer->direction);
}

static int map_buffer(struct session *session, struct buffer *buffer, u32 size, enum dma_data_direction direction)
{
	/* A power of two of at least a cache line shares no line with other memory. */
	buffer->room = roundup_pow_of_two(max_t(u32, size + 1, L1_CACHE_BYTES));
	buffer->bytes = kmalloc(buffer->room, GFP_KERNEL);
	if (!buffer->bytes)
		return fail(session, -ENOMEM, "no memory for a buffer of %u bytes", size);
	memset(buffer->bytes, GUARD, buffer->room);
	buffer->size = size;
	buffer->direction = direction;
	buffer->dma = ib_dma_map_single(session->ib, buffer->bytes, size, direction);
	if (ib_dma_mapping_error(session->ib, buffer->dma))
		return fail(session, -EIO, "a buffer of %u bytes cannot be mapped", size);
	buffer->mapped = true;
	return 0;
}

static int unmap_buffer(struct session *session, struct buffer *buffer, int error)
{
	u8 *changed = NULL;

	if (buffer->mapped) {
		ib_dma_unmap_single(session->ib, buffer->dma, buffer->size, buffer->direction);
		changed = memchr_inv(buffer->bytes + buffer->size, GUARD, buffer->room - buffer->size);
	}
	if (changed && !error)
		error = fail(session, -EIO, "byte %ld of a buffer of %u bytes has been written: 0x%02x",
			     (long)(changed - buffer->bytes), buffer->size, *changed);
	kfree(buffer->bytes);
	return error;
}

static int map_buffers(struct session *session, struct side *side)
{
	const u32 size = session->settings->size;

	return map_buffer(session, &side->buffers[SOURCE], size, DMA_TO_DEVICE) ?:
	       map_buffer(session, &side->buffers[TARGET], size, DMA_FROM_DEVICE) ?:
	       map_buffer(session, &side->buffers[WORD], sizeof(u64), DMA_BIDIRECTIONAL) ?:
	       map_buffer(session, &side->buffers[OLD], sizeof(u64), DMA_FROM_DEVICE);
}

static void on_completion(struct ib_cq *cq, struct ib_wc *wc)
{
	struct request *request = container_of(wc->wr_cqe, struct request, cqe);

	request->wc = *wc;
	/* Pairs with the acquire in await(). */
	smp_store_release(&request->done, true);
	wake_up_all(request->session->wait);
}

void prepare(struct session *session, struct request *request)
{
	request->cqe.done = on_completion;
	request->session = session;
	request->done = false;
}

static int await_any(struct session *session, struct request *request, const char *what)
{
	long left = wait_event_interruptible_timeout(
		*session->wait, smp_load_acquire(&request->done) || READ_ONCE(*session->leaving),
		msecs_to_jiffies(session->settings->timeout_ms));

	if (smp_load_acquire(&request->done))
		return 0;
	if (READ_ONCE(*session->leaving))
		return fail(session, -ENODEV, "%s: the device or kverbs is going away", what);
	if (left < 0)
		return fail(session, -EINTR, "%s: interrupted", what);
	return fail(session, -ETIMEDOUT, "%s: no completion within %u ms", what, session->settings->timeout_ms);
}

/* Waits until the request has completed, with success. */
int await(struct session *session, struct request *request, const char *what)
{
	int error = await_any(session, request, what);

	if (!error && request->wc.status != IB_WC_SUCCESS)
		error = fail(session, -EIO, "%s: completed with \"%s\" (%d), vendor error 0x%x", what,
			     ib_wc_status_msg(request->wc.status), request->wc.status, request->wc.vendor_err);
	return error;
}

static void on_event(struct ib_event *event, void *context)
{
	pr_info("kverbs: %s: event \"%s\"\n", dev_name(&event->device->dev), ib_event_msg(event->event));
}

static int make_queues(struct session *session, struct side *side, int vector, enum ib_poll_context context)
{
	struct ib_qp_init_attr wanted = {
		.event_handler = on_event,
		.qp_type = IB_QPT_RC,
		.sq_sig_type = IB_SIGNAL_REQ_WR,
		.cap = {
			.max_send_wr = QUEUE_DEPTH,
			.max_recv_wr = QUEUE_DEPTH,
			.max_send_sge = session->settings->sges,
			.max_recv_sge = session->settings->sges,
		},
	};

	side->cq = ib_alloc_cq(session->ib, session, 2 * QUEUE_DEPTH, vector % session->ib->num_comp_vectors, context);
	if (IS_ERR(side->cq)) {
		int error = PTR_ERR(side->cq);

		side->cq = NULL;
		return fail(session, error, "no completion queue");
	}
	wanted.send_cq = side->cq;
	wanted.recv_cq = side->cq;
	side->qp = ib_create_qp(session->pd, &wanted);
	if (IS_ERR(side->qp)) {
		int error = PTR_ERR(side->qp);

		side->qp = NULL;
		return fail(session, error, "no queue pair");
	}
	return 0;
}

static int make_key(struct session *session, struct side *side)
{
	const u32 pages = DIV_ROUND_UP(session->settings->size, PAGE_SIZE) + 1;

	if (!session->fast)
		return 0;
	if (pages > session->ib->attrs.max_fast_reg_page_list_len)
		return fail(session, -EINVAL, "%u bytes are more than one fast registration takes", session->settings->size);
	side->mr = ib_alloc_mr(session->pd, IB_MR_TYPE_MEM_REG, pages);
	if (IS_ERR(side->mr)) {
		int error = PTR_ERR(side->mr);

		side->mr = NULL;
		return fail(session, error, "no memory region");
	}
	return 0;
}

static int modify(struct session *session, struct ib_qp *qp, struct ib_qp_attr *attributes, int mask)
{
	int error = ib_modify_qp(qp, attributes, mask | IB_QP_STATE);

	return error ? fail(session, error, "queue pair 0x%x does not go to state %d", qp->qp_num, attributes->qp_state) : 0;
}

static int connect(struct session *session, struct ib_qp *qp, struct ib_qp *peer)
{
	const u8 reads = min(session->ib->attrs.max_qp_rd_atom, 4);
	struct ib_qp_attr init = {
		.qp_state = IB_QPS_INIT,
		.port_num = session->port,
		.qp_access_flags = IB_ACCESS_REMOTE_READ | IB_ACCESS_REMOTE_WRITE |
				   (session->ib->attrs.atomic_cap == IB_ATOMIC_NONE ? 0 : IB_ACCESS_REMOTE_ATOMIC),
	};
	struct ib_qp_attr ready_to_receive = {
		.qp_state = IB_QPS_RTR,
		.path_mtu = session->attributes.active_mtu,
		.dest_qp_num = peer->qp_num,
		.rq_psn = FIRST_PSN,
		.max_dest_rd_atomic = reads,
		.min_rnr_timer = 12,	/* 0.64 ms */
	};
	struct ib_qp_attr ready_to_send = {
		.qp_state = IB_QPS_RTS,
		.sq_psn = FIRST_PSN,
		.max_rd_atomic = reads,
		.timeout = 14,		/* 67 ms */
		.retry_cnt = 7,
		.rnr_retry = 7,		/* for ever */
	};

	ready_to_receive.ah_attr.type = rdma_ah_find_type(session->ib, session->port);
	rdma_ah_set_port_num(&ready_to_receive.ah_attr, session->port);
	rdma_ah_set_dlid(&ready_to_receive.ah_attr, session->attributes.lid);
	return modify(session, qp, &init, IB_QP_PKEY_INDEX | IB_QP_PORT | IB_QP_ACCESS_FLAGS) ?:
	       modify(session, qp, &ready_to_receive, IB_QP_AV | IB_QP_PATH_MTU | IB_QP_DEST_QPN | IB_QP_RQ_PSN |
						      IB_QP_MAX_DEST_RD_ATOMIC | IB_QP_MIN_RNR_TIMER) ?:
	       modify(session, qp, &ready_to_send, IB_QP_SQ_PSN | IB_QP_MAX_QP_RD_ATOMIC | IB_QP_TIMEOUT |
						   IB_QP_RETRY_CNT | IB_QP_RNR_RETRY);
}

/* Makes all that the run needs. session_close() follows, also after an error. */
int session_open(struct session *session)
{
	const struct settings *asked = session->settings;
	const size_t most = dma_max_mapping_size(session->ib->dma_device);
	struct side *sides = session->sides;
	int error;

	if (!asked->iterations || !asked->size || !asked->operations || !asked->sges || asked->sges > MAX_SGES)
		return fail(session, -EINVAL, "iterations, size and operations must not be empty, sges must be 1 to %d",
			    MAX_SGES);
	if (asked->size >= KMALLOC_MAX_SIZE / 2 || asked->size > most)
		return fail(session, -EINVAL, "%u bytes are more than can be allocated and mapped in one piece (%zu)",
			    asked->size, min_t(size_t, most, KMALLOC_MAX_SIZE / 2 - 1));
	if (asked->sges > session->ib->attrs.max_send_sge || asked->sges > session->ib->attrs.max_recv_sge)
		return fail(session, -EINVAL, "the device does not take %u pieces a message", asked->sges);
	error = ib_query_port(session->ib, session->port, &session->attributes);
	if (error)
		return fail(session, error, "the port cannot be queried");
	if (session->attributes.state != IB_PORT_ACTIVE)
		return fail(session, -ENETDOWN, "port %u is not active", session->port);

	session->expected = kmalloc(max_t(size_t, asked->size, sizeof(u64)), GFP_KERNEL);
	if (!session->expected)
		return fail(session, -ENOMEM, "no memory");
	session->fast = !asked->unsafe_rkey && session->ib->attrs.device_cap_flags & IB_DEVICE_MEM_MGT_EXTENSIONS;
	session->pd = ib_alloc_pd(session->ib, session->fast ? 0 : IB_PD_UNSAFE_GLOBAL_RKEY);
	if (IS_ERR(session->pd)) {
		error = PTR_ERR(session->pd);
		session->pd = NULL;
		return fail(session, error, "no protection domain");
	}
	/* One side completes in interrupt context, the other in a thread. */
	return map_buffers(session, &sides[0]) ?: map_buffers(session, &sides[1]) ?:
	       make_key(session, &sides[0]) ?: make_key(session, &sides[1]) ?:
	       make_queues(session, &sides[0], 0, IB_POLL_SOFTIRQ) ?:
	       make_queues(session, &sides[1], 1, IB_POLL_WORKQUEUE) ?:
	       connect(session, sides[0].qp, sides[1].qp) ?: connect(session, sides[1].qp, sides[0].qp);
}

/*
 * Takes down what there is, whatever is still under way: requests first, then what they use. Returns the run's result, `error`
 * or what is found wrong now.
 */
int session_close(struct session *session, int error)
{
	int at, id;

	for (at = 0; at < 2; at++)
		if (session->sides[at].qp)
			ib_destroy_qp(session->sides[at].qp);
	for (at = 0; at < 2; at++) {
		struct side *side = &session->sides[at];

		if (side->cq)
			ib_free_cq(side->cq);
		if (side->mr)
			ib_dereg_mr(side->mr);
		for (id = 0; id < BUFFERS; id++)
			error = unmap_buffer(session, &side->buffers[id], error);
	}
	if (session->pd)
		ib_dealloc_pd(session->pd);
	kfree(session->expected);
	return error;
}

/* Lets the peer reach the buffer: registers it under a new key. */
int expose(struct session *session, struct side *side, struct buffer *buffer, int access, u32 *rkey, u64 *address)
{
	struct ib_reg_wr request = {
		.wr = { .opcode = IB_WR_REG_MR, .wr_cqe = &side->registration.cqe, .send_flags = IB_SEND_SIGNALED },
		.mr = side->mr,
		.access = access,
	};
	struct scatterlist list;
	int mapped, error;

	if (!session->fast) {
		*rkey = session->pd->unsafe_global_rkey;
		*address = buffer->dma;
		return 0;
	}
	sg_init_one(&list, buffer->bytes, buffer->size);
	sg_dma_address(&list) = buffer->dma;
	sg_dma_len(&list) = buffer->size;
	mapped = ib_map_mr_sg(side->mr, &list, 1, NULL, PAGE_SIZE);
	if (mapped != 1)
		return fail(session, mapped < 0 ? mapped : -EIO, "the memory region does not take the buffer");
	ib_update_fast_reg_key(side->mr, ++side->key);
	request.key = side->mr->rkey;
	prepare(session, &side->registration);
	error = ib_post_send(side->qp, &request.wr, NULL);
	if (error)
		return fail(session, error, "the registration cannot be posted");
	*rkey = side->mr->rkey;
	*address = side->mr->iova;
	return await(session, &side->registration, "registration");
}

/* Ends what expose() began. */
int withdraw(struct session *session, struct side *side)
{
	struct ib_send_wr request = {
		.opcode = IB_WR_LOCAL_INV,
		.wr_cqe = &side->registration.cqe,
		.send_flags = IB_SEND_SIGNALED,
	};
	int error;

	if (!session->fast)
		return 0;
	request.ex.invalidate_rkey = side->mr->rkey;
	prepare(session, &side->registration);
	error = ib_post_send(side->qp, &request, NULL);
	if (error)
		return fail(session, error, "the invalidation cannot be posted");
	return await(session, &side->registration, "invalidation");
}

static int await_flush(struct session *session, struct request *request, const char *what)
{
	int error = await_any(session, request, what);

	if (!error && request->wc.status != IB_WC_WR_FLUSH_ERR)
		error = fail(session, -EIO, "%s in a queue pair in error: completed with \"%s\" (%d)", what,
			     ib_wc_status_msg(request->wc.status), request->wc.status);
	return error;
}

/* Moves both queue pairs to the error state, in which whatever is posted must complete as flushed. */
int flush(struct session *session)
{
	struct ib_qp_attr in_error = { .qp_state = IB_QPS_ERR };
	int at, error;

	for (at = 0; at < 2; at++) {
		struct side *side = &session->sides[at];
		struct ib_recv_wr receive = { .wr_cqe = &side->receive.cqe };
		struct ib_send_wr send = { .wr_cqe = &side->send.cqe, .opcode = IB_WR_SEND };

		error = modify(session, side->qp, &in_error, 0);
		if (error)
			return error;
		prepare(session, &side->receive);
		prepare(session, &side->send);
		error = ib_post_recv(side->qp, &receive, NULL) ?: ib_post_send(side->qp, &send, NULL);
		if (error)
			return fail(session, error, "nothing can be posted to a queue pair in error");
		error = await_flush(session, &side->receive, "receive") ?: await_flush(session, &side->send, "send");
		if (error)
			return error;
	}
	return 0;
}
