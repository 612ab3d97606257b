/* SPDX-License-Identifier: GPL-2.0 */
/* What the files of kverbs share. main.c says what the module is for. */

#ifndef KVERBS_H
#define KVERBS_H

#include <linux/dma-mapping.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <rdma/ib_verbs.h>

#define MAX_SGES 4
/* Room for what /proc/kverbs says of one device's last run. */
#define REPORT_SIZE 1536

enum operation_id {
	OP_SEND,
	OP_SEND_IMM,
	OP_SEND_INV,
	OP_WRITE,
	OP_WRITE_IMM,
	OP_READ,
	OP_FETCH_ADD,
	OP_CMP_SWAP,
	OPERATIONS,
};

/* The buffers that each of the two sides has. */
enum buffer_id {
	SOURCE,	/* read by the device */
	TARGET,	/* written by the device */
	WORD,	/* the peer's atomics change it */
	OLD,	/* an atomic's answer */
	BUFFERS,
};

/* One kind of transfer. */
struct operation {
	const char *name;
	enum ib_wr_opcode request;
	enum ib_wc_opcode sent;
	/* The peer's completion; only if `receives`. */
	enum ib_wc_opcode received;
	bool receives;
	bool immediate;
	bool invalidates;	/* the peer's key, instead of the peer itself */
	bool atomic;
	/* The peer's buffer whose key the request names, and the rights of the key; 0 if it names none. */
	enum buffer_id remote;
	int access;
};

extern const struct operation operations[OPERATIONS];
extern const struct kernel_param_ops operation_mask_ops;

/* What one run was asked for: the module's parameters at its start. */
struct settings {
	u32 iterations;
	u32 size;	/* bytes of a message */
	u32 sges;
	u32 operations;	/* mask of operation_id */
	u32 timeout_ms;
	bool unsafe_rkey;
	bool skip_sync;
	bool verbose;
};

/* One work request under way. */
struct request {
	struct ib_cqe cqe;
	struct session *session;
	bool done;
	struct ib_wc wc;
};

/* A streaming mapping. The device owns it, but between buffer_to_cpu() and buffer_to_device(). */
struct buffer {
	u8 *bytes;
	u32 size;	/* bytes mapped */
	u32 room;	/* bytes allocated: those after `size` guard against writes past the end */
	u64 dma;
	bool mapped;
	enum dma_data_direction direction;
};

struct side {
	struct ib_cq *cq;
	struct ib_qp *qp;
	struct ib_mr *mr;	/* registered anew for each use; NULL without fast registration */
	u8 key;
	struct buffer buffers[BUFFERS];
	struct request send, receive, registration;
};

/* One run on one device: all that it needs, from its start to its end. */
struct session {
	struct ib_device *ib;
	const struct settings *settings;
	const bool *leaving;	/* the device is going away */
	wait_queue_head_t *wait;
	u32 port;
	struct ib_port_attr attributes;
	struct ib_pd *pd;
	bool fast;	/* keys by fast registration */
	bool no_atomics;	/* the provider has refused one */
	struct side sides[2];
	u8 *expected;	/* what the message under way must be */
	u64 messages[OPERATIONS];
	char *report;
};

/* session.c */
int session_open(struct session *session);
int session_close(struct session *session, int error);
void buffer_to_cpu(struct session *session, struct buffer *buffer);
void buffer_to_device(struct session *session, struct buffer *buffer);
int expose(struct session *session, struct side *side, struct buffer *buffer, int access, u32 *rkey, u64 *address);
int withdraw(struct session *session, struct side *side);
void prepare(struct session *session, struct request *request);
int await(struct session *session, struct request *request, const char *what);
int flush(struct session *session);
__printf(3, 4) int fail(struct session *session, int error, const char *format, ...);

/* traffic.c */
int run_traffic(struct session *session);
bool can(const struct session *session, const struct operation *operation);

#endif
