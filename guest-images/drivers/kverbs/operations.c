// SPDX-License-Identifier: GPL-2.0
/* The kinds of transfer, and the module parameter that names them. */

#include <linux/kernel.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "kverbs.h"

const struct operation operations[OPERATIONS] = {
	[OP_SEND] = {
		.name = "send", .request = IB_WR_SEND, .sent = IB_WC_SEND,
		.receives = true, .received = IB_WC_RECV,
	},
	[OP_SEND_IMM] = {
		.name = "send_imm", .request = IB_WR_SEND_WITH_IMM, .sent = IB_WC_SEND, .immediate = true,
		.receives = true, .received = IB_WC_RECV,
	},
	[OP_SEND_INV] = {
		.name = "send_inv", .request = IB_WR_SEND_WITH_INV, .sent = IB_WC_SEND, .invalidates = true,
		.receives = true, .received = IB_WC_RECV,
		.remote = WORD, .access = IB_ACCESS_LOCAL_WRITE | IB_ACCESS_REMOTE_WRITE,
	},
	[OP_WRITE] = {
		.name = "write", .request = IB_WR_RDMA_WRITE, .sent = IB_WC_RDMA_WRITE,
		.remote = TARGET, .access = IB_ACCESS_LOCAL_WRITE | IB_ACCESS_REMOTE_WRITE,
	},
	[OP_WRITE_IMM] = {
		.name = "write_imm", .request = IB_WR_RDMA_WRITE_WITH_IMM, .sent = IB_WC_RDMA_WRITE,
		.immediate = true, .receives = true, .received = IB_WC_RECV_RDMA_WITH_IMM,
		.remote = TARGET, .access = IB_ACCESS_LOCAL_WRITE | IB_ACCESS_REMOTE_WRITE,
	},
	[OP_READ] = {
		.name = "read", .request = IB_WR_RDMA_READ, .sent = IB_WC_RDMA_READ,
		.remote = SOURCE, .access = IB_ACCESS_REMOTE_READ,
	},
	[OP_FETCH_ADD] = {
		.name = "fetch_add", .request = IB_WR_ATOMIC_FETCH_AND_ADD, .sent = IB_WC_FETCH_ADD, .atomic = true,
		.remote = WORD, .access = IB_ACCESS_LOCAL_WRITE | IB_ACCESS_REMOTE_ATOMIC,
	},
	[OP_CMP_SWAP] = {
		.name = "cmp_swap", .request = IB_WR_ATOMIC_CMP_AND_SWP, .sent = IB_WC_COMP_SWAP, .atomic = true,
		.remote = WORD, .access = IB_ACCESS_LOCAL_WRITE | IB_ACCESS_REMOTE_ATOMIC,
	},
};

/* "send,read" or "all" to a mask. */
static int set_mask(const char *value, const struct kernel_param *parameter)
{
	u32 *mask = parameter->arg, wanted = 0;
	char *copy, *rest, *name;
	int id, error = 0;

	copy = kstrdup(value, GFP_KERNEL);
	if (!copy)
		return -ENOMEM;
	rest = strim(copy);
	while (!error && (name = strsep(&rest, ","))) {
		for (id = 0; id < OPERATIONS && strcmp(name, operations[id].name); id++)
			;
		if (id < OPERATIONS)
			wanted |= BIT(id);
		else if (!strcmp(name, "all"))
			wanted |= BIT(OPERATIONS) - 1;
		else
			error = -EINVAL;
	}
	kfree(copy);
	if (!error)
		*mask = wanted;
	return error;
}

static int get_mask(char *text, const struct kernel_param *parameter)
{
	const u32 *mask = parameter->arg;
	int id, used = 0;

	for (id = 0; id < OPERATIONS; id++)
		if (*mask & BIT(id))
			used += scnprintf(text + used, PAGE_SIZE - used, "%s%s", used ? "," : "", operations[id].name);
	return used + scnprintf(text + used, PAGE_SIZE - used, "\n");
}

const struct kernel_param_ops operation_mask_ops = { .set = set_mask, .get = get_mask };
