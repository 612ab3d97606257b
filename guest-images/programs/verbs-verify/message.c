/* Single messages: their memory, their work requests, and what must have come of them. */
#include "verify.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

const char *const operation_names[] = {
	[SEND] = "SEND",
	[SEND_IMM] = "SEND with immediate",
	[WRITE] = "WRITE",
	[WRITE_IMM] = "WRITE with immediate",
	[READ] = "READ",
	[CMP_SWAP] = "CMP&SWAP",
	[FETCH_ADD] = "FETCH&ADD",
};

static const enum ibv_wr_opcode opcodes[] = {
	[SEND] = IBV_WR_SEND,
	[SEND_IMM] = IBV_WR_SEND_WITH_IMM,
	[WRITE] = IBV_WR_RDMA_WRITE,
	[WRITE_IMM] = IBV_WR_RDMA_WRITE_WITH_IMM,
	[READ] = IBV_WR_RDMA_READ,
	[CMP_SWAP] = IBV_WR_ATOMIC_CMP_AND_SWP,
	[FETCH_ADD] = IBV_WR_ATOMIC_FETCH_AND_ADD,
};

static const enum ibv_wc_opcode completed[] = {
	[SEND] = IBV_WC_SEND,
	[SEND_IMM] = IBV_WC_SEND,
	[WRITE] = IBV_WC_RDMA_WRITE,
	[WRITE_IMM] = IBV_WC_RDMA_WRITE,
	[READ] = IBV_WC_RDMA_READ,
	[CMP_SWAP] = IBV_WC_COMP_SWAP,
	[FETCH_ADD] = IBV_WC_FETCH_ADD,
};

bool is_atomic(enum operation operation)
{
	return operation == CMP_SWAP || operation == FETCH_ADD;
}

bool takes_receive(enum operation operation)
{
	return operation == SEND || operation == SEND_IMM || operation == WRITE_IMM;
}

static bool is_send(enum operation operation)
{
	return operation == SEND || operation == SEND_IMM;
}

/* Whether the data is the responder's. */
static bool comes_back(enum operation operation)
{
	return operation == READ || is_atomic(operation);
}

static uint64_t *word_at(const struct layout *layout)
{
	return (uint64_t *)(uintptr_t)layout->pieces[0].addr;
}

static void prepare_atomic(struct message *message, const struct end *near, const struct end *far, struct random *random)
{
	layout_align(&message->from, &far->in, message->offset + random_below(random, 64), 8);
	layout_place(&message->to, &near->out, message->offset, 8, 1, random);
	layout_fill(&message->from, 0, 8, message->key, PATTERN);
	message->old = *word_at(&message->from);
	message->operand = random_next(random);
	/* Every other comparison fails, by one bit. */
	message->compare = message->old ^ (random_below(random, 2) ? 1ull << random_below(random, 64) : 0);
}

void message_prepare(struct pair *pair, struct message *message, int pieces, struct random *random)
{
	struct end *near = &pair->ends[message->direction];
	struct end *far = &pair->ends[!message->direction];
	enum operation operation = message->operation;
	struct layout nothing = { .count = 0 };

	message->imm = random_next(random);
	if (is_atomic(operation)) {
		prepare_atomic(message, near, far, random);
	} else if (operation == READ) {
		layout_place(&message->from, &far->out, message->offset, message->size, 1, random);
		layout_place(&message->to, &near->in, message->offset, message->size, pieces, random);
	} else {
		uint32_t header = is_send(operation) && pair->plan.transport == UD ? GRH : 0;
		uint32_t slack = is_send(operation) && pieces > 1 ? random_below(random, SLACK) : 0;

		layout_place(&message->from, &near->out, message->offset, message->size, pieces, random);
		layout_place(&message->to, &far->in, message->offset, header + message->size + slack,
			     is_send(operation) ? pieces : 1, random);
		message->to.header = header;
	}
	layout_fill(&message->from, 0, message->size, message->key, PATTERN);
	layout_fill(&message->to, 0, message->to.size - message->to.header, message->key, BEFORE);
	if (takes_receive(operation))
		post_receive(far, is_send(operation) ? &message->to : &nothing, RECEIVER(message));
}

struct ibv_send_wr message_request(struct pair *pair, struct message *message)
{
	struct end *far = &pair->ends[!message->direction];
	struct layout *local = comes_back(message->operation) ? &message->to : &message->from;
	struct ibv_send_wr wr = {
		.wr_id = REQUESTER(message),
		.sg_list = local->pieces,
		.num_sge = local->count,
		.opcode = opcodes[message->operation],
		.send_flags = IBV_SEND_SIGNALED | (message->inlined ? IBV_SEND_INLINE : 0),
		.imm_data = htonl(message->imm),
	};

	if (is_atomic(message->operation)) {
		wr.wr.atomic.remote_addr = message->from.pieces[0].addr;
		wr.wr.atomic.rkey = far->in.mr->rkey;
		wr.wr.atomic.compare_add = message->operation == CMP_SWAP ? message->compare : message->operand;
		wr.wr.atomic.swap = message->operand;
	} else if (message->operation == READ) {
		wr.wr.rdma.remote_addr = message->from.pieces[0].addr;
		wr.wr.rdma.rkey = far->out.mr->rkey;
	} else if (!is_send(message->operation)) {
		wr.wr.rdma.remote_addr = message->to.pieces[0].addr;
		wr.wr.rdma.rkey = far->in.mr->rkey;
	}
	return wr;
}

void message_await_sent(struct pair *pair, const struct message *message)
{
	struct end *near = &pair->ends[message->direction];
	struct ibv_wc wc =
		queue_expect(&near->send_queue, near->sender, REQUESTER(message), IBV_WC_SUCCESS, "requester");
	enum ibv_wc_opcode opcode = completed[message->operation];

	check(wc.opcode == opcode, "requester: opcode %d, expected %d", wc.opcode, opcode);
	if (comes_back(message->operation))
		check(wc.byte_len == message->size, "requester: byte_len %u, expected %u", wc.byte_len, message->size);
}

static void check_sender(const struct pair *pair, const struct end *sender, const struct ibv_wc *wc)
{
	check(wc->src_qp == sender->sender->qp_num, "receiver: src_qp 0x%x, expected 0x%x", wc->src_qp,
	      sender->sender->qp_num);
	check(wc->slid == pair->device->port.lid, "receiver: slid %u, expected %u", wc->slid, pair->device->port.lid);
	check(wc->sl == 0 && wc->dlid_path_bits == 0, "receiver: sl %u, dlid_path_bits %u, expected 0", wc->sl,
	      wc->dlid_path_bits);
}

void message_await_received(struct pair *pair, const struct message *message)
{
	struct end *far = &pair->ends[!message->direction];
	struct ibv_wc wc =
		queue_expect(&far->receive_queue, far->receiver, RECEIVER(message), IBV_WC_SUCCESS, "receiver");
	enum ibv_wc_opcode opcode = is_send(message->operation) ? IBV_WC_RECV : IBV_WC_RECV_RDMA_WITH_IMM;
	uint32_t length = message->size + message->to.header;
	bool imm = message->operation != SEND;

	check(wc.opcode == opcode, "receiver: opcode %d, expected %d", wc.opcode, opcode);
	check(wc.byte_len == length, "receiver: byte_len %u, expected %u", wc.byte_len, length);
	check(!(wc.wc_flags & IBV_WC_WITH_IMM) == !imm, "receiver: wc_flags 0x%x, %s immediate expected", wc.wc_flags,
	      imm ? "an" : "no");
	if (imm)
		check(ntohl(wc.imm_data) == message->imm, "receiver: immediate 0x%x, expected 0x%x",
		      ntohl(wc.imm_data), message->imm);
	/* Of connections the other members say nothing. */
	if (pair->plan.transport == UD) {
		check_sender(pair, &pair->ends[message->direction], &wc);
		check(!(wc.wc_flags & IBV_WC_GRH) == !pair->plan.global, "receiver: wc_flags 0x%x, %s GRH expected",
		      wc.wc_flags, pair->plan.global ? "a" : "no");
	}
}

/* The bytes in front of a datagram, whichever pieces they lie in. */
static void check_grh(const struct pair *pair, const struct layout *layout)
{
	uint8_t bytes[GRH];
	struct ibv_grh grh;
	unsigned got = 0;

	for (int i = 0; i < layout->count; i++) {
		const uint8_t *piece = (const uint8_t *)(uintptr_t)layout->pieces[i].addr;

		for (uint32_t at = 0; at < layout->pieces[i].length && got < GRH; at++)
			bytes[got++] = piece[at];
	}
	memcpy(&grh, bytes, GRH);
	check(ntohl(grh.version_tclass_flow) >> 28 == 6, "GRH: version %u, expected 6",
	      ntohl(grh.version_tclass_flow) >> 28);
	check(grh.next_hdr == 0x1b, "GRH: next header 0x%x, expected 0x1b", grh.next_hdr);
	check(memcmp(&grh.sgid, &pair->device->gid, 16) == 0, "GRH: the source is not the port's GID");
	check(memcmp(&grh.dgid, &pair->device->gid, 16) == 0, "GRH: the destination is not the port's GID");
}

static void check_word(const struct message *message)
{
	uint64_t expected = message->old + message->operand;
	uint64_t found = *word_at(&message->from);

	if (message->operation == CMP_SWAP)
		expected = message->compare == message->old ? message->operand : message->old;
	check(found == expected, "the word is 0x%llx, expected 0x%llx; it was 0x%llx", (unsigned long long)found,
	      (unsigned long long)expected, (unsigned long long)message->old);
}

void message_check(struct pair *pair, const struct message *message)
{
	layout_check(&message->to, 0, message->size, message->key, PATTERN, "target");
	layout_check(&message->to, message->size, message->to.size - message->to.header, message->key, BEFORE,
		     "beyond the target");
	layout_check_guards(&message->to, "target");
	if (is_atomic(message->operation))
		check_word(message);
	else if (!message->inlined)
		layout_check(&message->from, 0, message->size, message->key, PATTERN, "source");
	layout_check_guards(&message->from, "source");
	if (message->to.header && pair->plan.global)
		check_grh(pair, &message->to);
	count_message(message->size);
}

void exchange(struct pair *pair, uint32_t size, uint64_t iteration)
{
	struct random random = { options.seed + iteration };
	struct message messages[2];

	for (unsigned i = 0; i < 2; i++) {
		messages[i] = (struct message){
			.direction = i,
			.size = size,
			.key = pattern_key(iteration, i),
			.wr_id = iteration,
		};
		message_prepare(pair, &messages[i], 1 + iteration % MAX_PIECES, &random);
	}
	for (unsigned i = 0; i < 2; i++) {
		struct ibv_send_wr wr = message_request(pair, &messages[i]);

		post_send(pair, i, &wr);
	}
	for (unsigned i = 0; i < 2; i++) {
		message_await_sent(pair, &messages[i]);
		message_await_received(pair, &messages[i]);
		message_check(pair, &messages[i]);
	}
}

void nothing_is_left(struct pair *pair)
{
	for (int i = 0; i < 2; i++) {
		queue_is_empty(&pair->ends[i].send_queue, "send queue");
		queue_is_empty(&pair->ends[i].receive_queue, "receive queue");
	}
	async_none(pair->device);
}
