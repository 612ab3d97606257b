// SPDX-License-Identifier: GPL-2.0
/* The transfers, and the check of what has arrived. */

#include <linux/kernel.h>
#include <linux/string.h>

#include "kverbs.h"

/* Bytes shown of what is expected and of what is found. */
#define SHOWN 16

/* Byte `offset` of the message of this iteration from side `from`: neighbours, iterations and directions differ. */
static u8 pattern(u32 iteration, u32 from, u32 offset)
{
	u32 value = (2 * iteration + from + 1) * 0x9e3779b1 + offset * 0x85ebca6b;

	value ^= value >> 15;
	value *= 0x2c1b3c6d;
	return value >> 24;
}

static void expect_message(struct session *session, u32 iteration, u32 from, u32 size)
{
	u32 offset;

	for (offset = 0; offset < size; offset++)
		session->expected[offset] = pattern(iteration, from, offset);
}

/*
 * Fills a buffer that the device owns with what is expected, or with its complement: then a byte that is never written, or
 * whose arrival the CPU does not see, is wrong for certain.
 */
static void fill(struct session *session, struct buffer *buffer, bool complement)
{
	u32 offset;

	buffer_to_cpu(session, buffer);
	for (offset = 0; offset < buffer->size; offset++)
		buffer->bytes[offset] = session->expected[offset] ^ (complement ? 0xff : 0);
	buffer_to_device(session, buffer);
}

/* Compares a buffer, which the CPU owns, with what is expected. */
static int check(struct session *session, const struct buffer *buffer, const char *what)
{
	u32 offset, first = buffer->size, wrong = 0, stale = 0, shown;

	if (!memcmp(buffer->bytes, session->expected, buffer->size))
		return 0;
	for (offset = 0; offset < buffer->size; offset++) {
		if (buffer->bytes[offset] == session->expected[offset])
			continue;
		first = min(first, offset);
		wrong++;
		stale += buffer->bytes[offset] == (u8)~session->expected[offset];
	}
	shown = min_t(u32, SHOWN, buffer->size - first);
	return fail(session, -EIO,
		    "%s: %u of %u bytes are wrong (%u of them stale: what the CPU had written before), first at %u: expected %*ph, found %*ph",
		    what, wrong, buffer->size, stale, first, (int)shown, session->expected + first, (int)shown,
		    buffer->bytes + first);
}

/* Whether the operation can be done on this device, in this run, as far as is known before the first try. */
bool can(const struct session *session, const struct operation *operation)
{
	/* The global key carries no right to atomics, and lives on. */
	if ((operation->atomic || operation->invalidates) && !session->fast)
		return false;
	return !operation->atomic || (session->ib->attrs.atomic_cap != IB_ATOMIC_NONE && !session->no_atomics);
}

/* Spreads a buffer over the run's number of pieces, fewer if it has fewer bytes. */
static int pieces(const struct session *session, const struct buffer *buffer, struct ib_sge *list)
{
	const u32 count = min(session->settings->sges, buffer->size);
	u32 at, begin = 0;

	for (at = 0; at < count; at++) {
		const u32 end = (u64)buffer->size * (at + 1) / count;

		list[at].addr = buffer->dma + begin;
		list[at].length = end - begin;
		list[at].lkey = session->pd->local_dma_lkey;
		begin = end;
	}
	return count;
}

static int post_receive(struct session *session, struct side *side, struct buffer *buffer)
{
	struct ib_sge list[MAX_SGES];
	struct ib_recv_wr request = { .wr_cqe = &side->receive.cqe, .sg_list = list };
	int error;

	if (buffer)
		request.num_sge = pieces(session, buffer, list);
	prepare(session, &side->receive);
	error = ib_post_recv(side->qp, &request, NULL);
	return error ? fail(session, error, "the receive cannot be posted") : 0;
}

/* Waits for the peer's completion and looks whether it is the right one; `extra` is the immediate or the invalidated key. */
static int await_receive(struct session *session, const struct operation *operation, struct side *peer, u32 extra,
			 const char *what)
{
	const int flags = operation->immediate ? IB_WC_WITH_IMM : operation->invalidates ? IB_WC_WITH_INVALIDATE : 0;
	const struct ib_wc *wc = &peer->receive.wc;
	int error = await(session, &peer->receive, what);
	u32 came;

	if (error)
		return error;
	if (wc->opcode != operation->received || wc->byte_len != session->settings->size)
		return fail(session, -EIO, "%s: received opcode %d and %u bytes, expected %d and %u", what, wc->opcode,
			    wc->byte_len, operation->received, session->settings->size);
	came = operation->immediate ? be32_to_cpu(wc->ex.imm_data) : wc->ex.invalidate_rkey;
	if ((wc->wc_flags & (IB_WC_WITH_IMM | IB_WC_WITH_INVALIDATE)) != flags || (flags && came != extra))
		return fail(session, -EIO, "%s: received flags 0x%x with 0x%x, expected 0x%x with 0x%x", what, wc->wc_flags,
			    came, flags, extra);
	return 0;
}

static int await_send(struct session *session, const struct operation *operation, struct side *side, const char *what)
{
	int error = await(session, &side->send, what);

	if (!error && side->send.wc.opcode != operation->sent)
		error = fail(session, -EIO, "%s: sent opcode %d, expected %d", what, side->send.wc.opcode, operation->sent);
	return error;
}

/* One message, from its bytes in the giver's memory to the check in the taker's. */
static int move_message(struct session *session, const struct operation *operation, u32 iteration, u32 from,
			const char *what)
{
	struct side *side = &session->sides[from], *peer = &session->sides[!from];
	const bool read = operation->request == IB_WR_RDMA_READ;
	struct buffer *source = &(read ? peer : side)->buffers[SOURCE];
	struct buffer *target = &(read ? side : peer)->buffers[TARGET];
	struct ib_sge list[MAX_SGES];
	struct ib_rdma_wr request = {
		.wr = {
			.opcode = operation->request,
			.wr_cqe = &side->send.cqe,
			.send_flags = IB_SEND_SIGNALED,
			.sg_list = list,
			.num_sge = pieces(session, read ? target : source, list),
		},
	};
	u32 extra = 2 * iteration + from;
	int error = 0;

	expect_message(session, iteration, from, session->settings->size);
	fill(session, source, false);
	fill(session, target, true);
	if (operation->receives)
		error = post_receive(session, peer, operation->sent == IB_WC_SEND ? target : NULL);
	if (!error && operation->access)
		error = expose(session, peer, &peer->buffers[operation->remote], operation->access, &request.rkey,
			       &request.remote_addr);
	if (error)
		return error;
	if (operation->immediate)
		request.wr.ex.imm_data = cpu_to_be32(extra);
	if (operation->invalidates)
		request.wr.ex.invalidate_rkey = extra = request.rkey;

	prepare(session, &side->send);
	error = ib_post_send(side->qp, &request.wr, NULL);
	if (error)
		return fail(session, error, "%s cannot be posted", what);
	error = await_send(session, operation, side, what);
	if (!error && operation->receives)
		error = await_receive(session, operation, peer, extra, what);
	if (!error && operation->access && !operation->invalidates)
		error = withdraw(session, peer);
	if (error)
		return error;

	if (!session->settings->skip_sync)
		buffer_to_cpu(session, target);
	error = check(session, target, what);
	buffer_to_device(session, target);
	return error;
}

/*
 * One atomic; every second CMP&SWAP finds something else than it compares with. There are providers whose devices have
 * atomics but which do not let the kernel post them, mlx5_ib among them (6.1 to 7.2): then it is the last.
 */
static int change_word(struct session *session, const struct operation *operation, u32 iteration, u32 from,
		       const char *what)
{
	struct side *side = &session->sides[from], *peer = &session->sides[!from];
	struct buffer *word = &peer->buffers[WORD], *old = &side->buffers[OLD];
	const u64 operand = 0x0101010101010101ULL * (iteration + 1);
	struct ib_sge list = { .addr = old->dma, .length = old->size, .lkey = session->pd->local_dma_lkey };
	struct ib_atomic_wr request = {
		.wr = {
			.opcode = operation->request,
			.wr_cqe = &side->send.cqe,
			.send_flags = IB_SEND_SIGNALED,
			.sg_list = &list,
			.num_sge = 1,
		},
	};
	u64 before, after;
	int error;

	expect_message(session, iteration, from, sizeof(u64));
	memcpy(&before, session->expected, sizeof(before));
	fill(session, word, false);
	fill(session, old, true);
	if (operation->request == IB_WR_ATOMIC_CMP_AND_SWP) {
		request.compare_add = iteration & 1 ? before ^ 1 : before;
		request.swap = operand;
		after = iteration & 1 ? before : operand;
	} else {
		request.compare_add = operand;
		after = before + operand;
	}
	error = expose(session, peer, word, operation->access, &request.rkey, &request.remote_addr);
	if (error)
		return error;
	prepare(session, &side->send);
	error = ib_post_send(side->qp, &request.wr, NULL);
	if (error == -EOPNOTSUPP) {
		session->no_atomics = true;
		return withdraw(session, peer);
	}
	if (error)
		return fail(session, error, "%s cannot be posted", what);
	error = await_send(session, operation, side, what) ?: withdraw(session, peer);
	if (error)
		return error;

	buffer_to_cpu(session, old);
	error = check(session, old, what);
	buffer_to_device(session, old);
	if (error)
		return error;
	memcpy(session->expected, &after, sizeof(after));
	buffer_to_cpu(session, word);
	error = check(session, word, what);
	buffer_to_device(session, word);
	return error;
}

/* All that the run was asked for, until something is wrong. */
int run_traffic(struct session *session)
{
	const struct settings *asked = session->settings;
	u32 iteration, from;
	char what[64];
	int id, error;

	for (iteration = 0; iteration < asked->iterations; iteration++) {
		for (id = 0; id < OPERATIONS; id++) {
			const struct operation *operation = &operations[id];

			for (from = 0; from < 2; from++) {
				if (!(asked->operations & BIT(id)) || !can(session, operation))
					continue;
				scnprintf(what, sizeof(what), "%s, iteration %u, side %u to %u", operation->name, iteration,
					  from, !from);
				error = (operation->atomic ? change_word : move_message)(session, operation, iteration,
											 from, what);
				if (error)
					return error;
				if (!can(session, operation))
					continue;
				session->messages[id]++;
				if (asked->verbose)
					pr_info("kverbs: %s: %s: right\n", dev_name(&session->ib->dev), what);
			}
		}
	}
	return 0;
}
