/* The device, and pairs of queue pairs on it. */
#include "verify.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define PORT 1
#define DEPTH 16
#define INLINE 200
/* Encoding of 0.01 ms (IBA 9.7.5.2.8). */
#define MIN_RNR_TIMER 1
/* 4.096 us * 2^12 = 17 ms. */
#define TIMEOUT 12
#define RETRIES 2
#define READS 4
#define FOREVER 7
#define ALL_ACCESS                                                                                                     \
	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC)

void device_open(struct device *device)
{
	int count = 0;
	struct ibv_device **list = ibv_get_device_list(&count);
	int chosen = 0;

	check(list && count > 0, "there is no RDMA device: errno %d", list ? 0 : errno);
	if (options.device)
		while (chosen < count && strcmp(ibv_get_device_name(list[chosen]), options.device))
			chosen++;
	check(chosen < count, "there is no RDMA device %s", options.device);
	device->context = made(ibv_open_device(list[chosen]));
	ibv_free_device_list(list);
	must(ibv_query_device(device->context, &device->attr));
	must(ibv_query_port(device->context, PORT, &device->port));
	must(ibv_query_gid(device->context, PORT, 0, &device->gid));
	device->channel = made(ibv_create_comp_channel(device->context));
	/* The wait is ours, with an end. */
	must(fcntl(device->channel->fd, F_SETFL, O_NONBLOCK));
	must(fcntl(device->context->async_fd, F_SETFL, O_NONBLOCK));
}

void device_close(struct device *device)
{
	must(ibv_destroy_comp_channel(device->channel));
	must(ibv_close_device(device->context));
}

void queue_create(struct queue *queue, struct device *device, int entries)
{
	queue->device = device;
	queue->armed = false;
	queue->cq = made(ibv_create_cq(device->context, entries, queue, device->channel, 0));
}

void queue_destroy(struct queue *queue)
{
	must(ibv_destroy_cq(queue->cq));
}

static enum ibv_qp_type qp_type(enum transport transport)
{
	switch (transport) {
	case RC:
		return IBV_QPT_RC;
	case UC:
		return IBV_QPT_UC;
	case UD:
		return IBV_QPT_UD;
	case XRC:
		break;
	}
	return IBV_QPT_XRC_SEND;
}

static void make_xrc(struct end *end, struct device *device, const struct plan *plan)
{
	struct ibv_xrcd_init_attr domain = {
		.comp_mask = IBV_XRCD_INIT_ATTR_FD | IBV_XRCD_INIT_ATTR_OFLAGS,
		.fd = -1,
		.oflags = O_CREAT,
	};

	end->xrcd = made(ibv_open_xrcd(device->context, &domain));
	struct ibv_srq_init_attr_ex srq = {
		.attr = { .max_wr = plan->depth, .max_sge = MAX_PIECES },
		.comp_mask = IBV_SRQ_INIT_ATTR_TYPE | IBV_SRQ_INIT_ATTR_PD | IBV_SRQ_INIT_ATTR_XRCD |
			     IBV_SRQ_INIT_ATTR_CQ,
		.srq_type = IBV_SRQT_XRC,
		.pd = end->pd,
		.xrcd = end->xrcd,
		.cq = end->receive_queue.cq,
	};
	end->srq = made(ibv_create_srq_ex(device->context, &srq));
	struct ibv_qp_init_attr_ex receiver = {
		.qp_type = IBV_QPT_XRC_RECV,
		.comp_mask = IBV_QP_INIT_ATTR_XRCD,
		.xrcd = end->xrcd,
	};
	end->receiver = made(ibv_create_qp_ex(device->context, &receiver));
	struct ibv_qp_init_attr_ex sender = {
		.send_cq = end->send_queue.cq,
		.cap = { .max_send_wr = plan->depth, .max_send_sge = MAX_PIECES, .max_inline_data = INLINE },
		.qp_type = IBV_QPT_XRC_SEND,
		.sq_sig_all = plan->all_signaled,
		.comp_mask = IBV_QP_INIT_ATTR_PD,
		.pd = end->pd,
	};
	end->sender = made(ibv_create_qp_ex(device->context, &sender));
	end->max_inline = sender.cap.max_inline_data;
}

static void make_qp(struct end *end, const struct plan *plan)
{
	if (plan->srq) {
		struct ibv_srq_init_attr srq = { .attr = { .max_wr = plan->depth, .max_sge = MAX_PIECES } };

		end->srq = made(ibv_create_srq(end->pd, &srq));
	}
	struct ibv_qp_init_attr qp = {
		.send_cq = end->send_queue.cq,
		.recv_cq = end->receive_queue.cq,
		.srq = end->srq,
		.cap = {
			.max_send_wr = plan->depth,
			.max_recv_wr = plan->srq ? 0 : plan->depth,
			.max_send_sge = MAX_PIECES,
			.max_recv_sge = plan->srq ? 0 : MAX_PIECES,
			.max_inline_data = INLINE,
		},
		.qp_type = qp_type(plan->transport),
		.sq_sig_all = plan->all_signaled,
	};
	end->sender = end->receiver = made(ibv_create_qp(end->pd, &qp));
	end->max_inline = qp.cap.max_inline_data;
	check(end->max_inline >= INLINE, "%u bytes can be inline, asked for %u", end->max_inline, INLINE);
}

void pair_create(struct pair *pair, struct device *device, const struct plan *plan)
{
	memset(pair, 0, sizeof(*pair));
	pair->device = device;
	pair->plan = *plan;
	if (!pair->plan.depth)
		pair->plan.depth = DEPTH;
	if (!pair->plan.send_entries)
		pair->plan.send_entries = pair->plan.depth;
	if (!pair->plan.receive_entries)
		pair->plan.receive_entries = pair->plan.depth;
	if (!pair->plan.timeout)
		pair->plan.timeout = TIMEOUT;
	for (int i = 0; i < 2; i++) {
		struct end *end = &pair->ends[i];
		size_t size = plan->size + LAYOUT_ROOM;

		end->pd = i && plan->one_domain ? pair->ends[0].pd : made(ibv_alloc_pd(device->context));
		queue_create(&end->send_queue, device, pair->plan.send_entries);
		queue_create(&end->receive_queue, device, pair->plan.receive_entries);
		if (plan->transport == XRC)
			make_xrc(end, device, &pair->plan);
		else
			make_qp(end, &pair->plan);
		arena_create(&end->out, end->pd, size, ALL_ACCESS);
		arena_create(&end->in, end->pd, size, ALL_ACCESS);
	}
}

void qp_to_init(const struct pair *pair, struct ibv_qp *qp)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = PORT,
		.qkey = QKEY,
		.qp_access_flags = ALL_ACCESS & ~pair->plan.denied,
	};
	int mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT;

	if (pair->device->attr.atomic_cap == IBV_ATOMIC_NONE)
		attr.qp_access_flags &= ~IBV_ACCESS_REMOTE_ATOMIC;
	if (pair->plan.transport == UC)
		attr.qp_access_flags &= IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
	must(ibv_modify_qp(qp, &attr, mask | (qp->qp_type == IBV_QPT_UD ? IBV_QP_QKEY : IBV_QP_ACCESS_FLAGS)));
}

void qp_to_rtr(const struct pair *pair, struct ibv_qp *qp, uint32_t other)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = IBV_MTU_1024,
		.dest_qp_num = other,
		.rq_psn = 0xffffff,
		.max_dest_rd_atomic = READS,
		.min_rnr_timer = MIN_RNR_TIMER,
		.ah_attr = { .dlid = pair->device->port.lid, .port_num = PORT },
	};
	int mask = IBV_QP_STATE;

	if (qp->qp_type != IBV_QPT_UD)
		mask |= IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN;
	if (qp->qp_type == IBV_QPT_RC || qp->qp_type == IBV_QPT_XRC_RECV)
		mask |= IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
	must(ibv_modify_qp(qp, &attr, mask));
}

void qp_to_rts(const struct pair *pair, struct ibv_qp *qp)
{
	int rnr_retry = pair->plan.rnr_retry;
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTS,
		/* The last number before they wrap. */
		.sq_psn = 0xffffff,
		.timeout = pair->plan.timeout,
		.retry_cnt = RETRIES,
		.rnr_retry = rnr_retry == 0 ? FOREVER : rnr_retry < 0 ? 0 : rnr_retry,
		.max_rd_atomic = READS,
	};
	int mask = IBV_QP_STATE | IBV_QP_SQ_PSN;

	if (qp->qp_type == IBV_QPT_RC || qp->qp_type == IBV_QPT_XRC_SEND)
		mask |= IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC;
	if (qp->qp_type == IBV_QPT_RC || qp->qp_type == IBV_QPT_XRC_SEND || qp->qp_type == IBV_QPT_XRC_RECV)
		mask |= IBV_QP_TIMEOUT;
	must(ibv_modify_qp(qp, &attr, mask));
}

void qp_to(struct ibv_qp *qp, enum ibv_qp_state state)
{
	struct ibv_qp_attr attr = { .qp_state = state };

	must(ibv_modify_qp(qp, &attr, IBV_QP_STATE));
}

enum ibv_qp_state qp_state(struct ibv_qp *qp)
{
	struct ibv_qp_attr attr;
	struct ibv_qp_init_attr init;

	must(ibv_query_qp(qp, &attr, IBV_QP_STATE, &init));
	return attr.qp_state;
}

static void connect_qp(const struct pair *pair, struct ibv_qp *qp, const struct ibv_qp *other)
{
	qp_to_init(pair, qp);
	qp_to_rtr(pair, qp, other->qp_num);
	qp_to_rts(pair, qp);
}

void pair_connect(struct pair *pair)
{
	struct ibv_ah_attr way = { .dlid = pair->device->port.lid, .port_num = PORT };

	if (pair->plan.global) {
		way.is_global = 1;
		way.grh.dgid = pair->device->gid;
		way.grh.hop_limit = 1;
	}
	for (int i = 0; i < 2; i++) {
		struct end *end = &pair->ends[i];
		struct end *other = &pair->ends[!i];

		connect_qp(pair, end->sender, other->receiver);
		if (end->receiver != end->sender)
			connect_qp(pair, end->receiver, other->sender);
		if (pair->plan.transport == UD && !end->ah)
			end->ah = made(ibv_create_ah(end->pd, &way));
	}
}

void pair_destroy(struct pair *pair)
{
	for (int i = 0; i < 2; i++) {
		struct end *end = &pair->ends[i];

		if (end->ah)
			must(ibv_destroy_ah(end->ah));
		if (end->receiver != end->sender)
			must(ibv_destroy_qp(end->receiver));
		must(ibv_destroy_qp(end->sender));
		if (end->srq)
			must(ibv_destroy_srq(end->srq));
		if (end->xrcd)
			must(ibv_close_xrcd(end->xrcd));
		queue_destroy(&end->send_queue);
		queue_destroy(&end->receive_queue);
		arena_destroy(&end->out);
		arena_destroy(&end->in);
	}
	if (pair->ends[1].pd != pair->ends[0].pd)
		must(ibv_dealloc_pd(pair->ends[1].pd));
	must(ibv_dealloc_pd(pair->ends[0].pd));
}

void post_receive(struct end *end, const struct layout *layout, uint64_t wr_id)
{
	struct ibv_recv_wr wr = {
		.wr_id = wr_id,
		.sg_list = (struct ibv_sge *)layout->pieces,
		.num_sge = layout->count,
	};
	struct ibv_recv_wr *bad;

	if (end->srq)
		must(ibv_post_srq_recv(end->srq, &wr, &bad));
	else
		must(ibv_post_recv(end->receiver, &wr, &bad));
}

void post_send(struct pair *pair, unsigned direction, struct ibv_send_wr *wr)
{
	struct end *end = &pair->ends[direction];
	struct end *other = &pair->ends[!direction];
	struct ibv_send_wr *bad;

	for (struct ibv_send_wr *each = wr; each; each = each->next) {
		if (pair->plan.transport == UD) {
			each->wr.ud.ah = end->ah;
			each->wr.ud.remote_qpn = other->receiver->qp_num;
			each->wr.ud.remote_qkey = QKEY;
		}
		if (pair->plan.transport == XRC) {
			uint32_t number;

			must(ibv_get_srq_num(other->srq, &number));
			each->qp_type.xrc.remote_srqn = number;
		}
	}
	must(ibv_post_send(end->sender, wr, &bad));
}
