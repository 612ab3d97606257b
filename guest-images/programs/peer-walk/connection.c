/* The connection to the peer: device, memory, queue pair, orders and answers. */
#include <errno.h>
#include <infiniband/verbs.h>
#include <string.h>
#include <sys/mman.h>

#include "peer-walk.h"

static struct ibv_context *context;
static struct ibv_pd *pd;
static struct ibv_cq *cq;
static struct ibv_qp *qp;
static struct ibv_mr *shared, *receives;
static struct peer_answer *answers;
unsigned outstanding;

int open_device(void)
{
	int count = 0, chosen = 0;
	struct ibv_device **list = ibv_get_device_list(&count);

	if (!list || count == 0)
		return failed("no RDMA device");
	if (option.device) {
		while (chosen < count && strcmp(ibv_get_device_name(list[chosen]), option.device))
			chosen++;
		if (chosen == count)
			return failed("no RDMA device is called %s", option.device);
	}
	context = ibv_open_device(list[chosen]);
	if (!context)
		return failed_call("open_device");
	ibv_free_device_list(list);
	pd = ibv_alloc_pd(context);
	return pd ? 0 : failed_call("alloc_pd");
}

static void *map(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

int share_memory(size_t size, uint8_t **memory)
{
	*memory = map(size);
	if (!*memory)
		return failed_call("mmap");
	memset(*memory, 0, size);
	shared = ibv_reg_mr(pd, *memory, size,
			    IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
				    IBV_ACCESS_REMOTE_ATOMIC);
	return shared ? 0 : failed_call("reg_mr");
}

int unshare_memory(void)
{
	errno = ibv_dereg_mr(shared);
	return errno ? failed_call("dereg_mr") : 0;
}

static int post_receive(unsigned index)
{
	struct ibv_sge sge = { (uintptr_t)&answers[index], sizeof(*answers), receives->lkey };
	struct ibv_recv_wr request = { .wr_id = index, .sg_list = &sge, .num_sge = 1 }, *bad;

	errno = ibv_post_recv(qp, &request, &bad);
	return errno ? failed_call("post_recv") : 0;
}

static int create_queues(unsigned orders)
{
	struct ibv_qp_init_attr init = {
		.cap = { .max_send_wr = orders, .max_recv_wr = orders, .max_send_sge = 1, .max_recv_sge = 1,
			 .max_inline_data = sizeof(struct peer_order) },
		.qp_type = IBV_QPT_RC,
		.sq_sig_all = 1,
	};

	answers = map(orders * sizeof(*answers));
	if (!answers)
		return failed_call("mmap");
	receives = ibv_reg_mr(pd, answers, orders * sizeof(*answers), IBV_ACCESS_LOCAL_WRITE);
	if (!receives)
		return failed_call("reg_mr of the answers");
	cq = ibv_create_cq(context, 2 * (int)orders, NULL, NULL, 0);
	if (!cq)
		return failed_call("create_cq");
	init.send_cq = init.recv_cq = cq;
	qp = ibv_create_qp(pd, &init);
	return qp ? 0 : failed_call("create_qp");
}

static int modify(struct ibv_qp_attr *attr, int mask, const char *what)
{
	errno = ibv_modify_qp(qp, attr, mask | IBV_QP_STATE);
	return errno ? failed_call(what) : 0;
}

int connect_peer(unsigned orders)
{
	struct ibv_qp_attr init = {
		.qp_state = IBV_QPS_INIT,
		.port_num = 1,
		.qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC,
	};
	struct ibv_qp_attr receive = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = IBV_MTU_4096,
		.dest_qp_num = option.qpn,
		.max_dest_rd_atomic = 1,
		.min_rnr_timer = 1,
		.ah_attr = { .dlid = PEER_LID, .port_num = 1 },
	};
	/* The peer takes PEER_MAX_ORDERS at a time; the adapter repeats what it does not take, for ever. */
	struct ibv_qp_attr send = {
		.qp_state = IBV_QPS_RTS, .timeout = 14, .retry_cnt = 7, .rnr_retry = 7, .max_rd_atomic = 1,
	};

	if (create_queues(orders) ||
	    modify(&init, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, "modify_qp to INIT"))
		return 1;
	for (unsigned i = 0; i < orders; i++)
		if (post_receive(i))
			return 1;
	if (modify(&receive,
		   IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
			   IBV_QP_MIN_RNR_TIMER,
		   "modify_qp to RTR"))
		return 1;
	return modify(&send,
		      IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC,
		      "modify_qp to RTS");
}

int give_order(struct peer_order order)
{
	struct ibv_sge sge = { (uintptr_t)&order, sizeof(order), 0 };
	struct ibv_send_wr request = {
		.opcode = IBV_WR_SEND, .send_flags = IBV_SEND_INLINE, .sg_list = &sge, .num_sge = 1,
	}, *bad;

	order.rkey = shared->rkey;
	errno = ibv_post_send(qp, &request, &bad);
	if (errno)
		return failed_call("post_send");
	outstanding++;
	return 0;
}

/* Deals with one completion: 0, or 1 if something is wrong. */
static int take(const struct ibv_wc *wc, int (*take_answer)(const struct peer_answer *answer))
{
	if (wc->status != IBV_WC_SUCCESS)
		return failed("a request completed with status %d (%s)", wc->status, ibv_wc_status_str(wc->status));
	if (!(wc->opcode & IBV_WC_RECV))
		return 0;
	if (wc->byte_len != sizeof(*answers))
		return failed("an answer of %u bytes", wc->byte_len);
	struct peer_answer answer = answers[wc->wr_id];

	outstanding--;
	return post_receive((unsigned)wc->wr_id) || take_answer(&answer);
}

int poll_connection(int (*take_answer)(const struct peer_answer *answer))
{
	struct ibv_wc wc;
	int any = 0, count;

	while ((count = ibv_poll_cq(cq, 1, &wc)) > 0) {
		any = 1;
		if (take(&wc, take_answer))
			return -1;
	}
	if (count < 0) {
		failed("poll_cq");
		return -1;
	}
	return any;
}
