/* Waiting for completions and events, never for ever. */
#include "verify.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

/* Milliseconds of the guest's clock. */
static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000ull + time.tv_nsec / 1000000;
}

/* Takes an event off the channel if there is one within `milliseconds`. */
static struct queue *take_event(struct device *device, unsigned milliseconds)
{
	struct pollfd wait = { .fd = device->channel->fd, .events = POLLIN };
	struct ibv_cq *cq;
	void *queue;

	if (poll(&wait, 1, milliseconds) != 1)
		return NULL;
	check(ibv_get_cq_event(device->channel, &cq, &queue) == 0, "ibv_get_cq_event: errno %d", errno);
	check(((struct queue *)queue)->cq == cq, "the event is for another completion queue than its context");
	ibv_ack_cq_events(cq, 1);
	return queue;
}

bool channel_event(struct device *device, unsigned milliseconds)
{
	struct queue *queue = take_event(device, milliseconds);

	if (queue)
		queue->armed = false;
	return queue != NULL;
}

/* Blocks until the queue, which is empty, may have something. */
static void sleep_on(struct queue *queue)
{
	if (!queue->armed) {
		must(ibv_req_notify_cq(queue->cq, 0));
		queue->armed = true;
		/* What came before it was armed raises no event on every device: look once more. */
		return;
	}
	struct queue *told = take_event(queue->device, options.patience);

	check(told, "no completion event within %u ms", options.patience);
	check(told->armed, "a completion event of a queue that is not armed");
	told->armed = false;
}

struct ibv_wc queue_await(struct queue *queue)
{
	struct ibv_wc wc;
	uint64_t end = 0;

	for (;;) {
		int count = ibv_poll_cq(queue->cq, 1, &wc);

		check(count >= 0, "ibv_poll_cq: %d", count);
		if (count)
			return wc;
		if (options.events) {
			sleep_on(queue);
			continue;
		}
		if (!end)
			end = now() + options.patience;
		check(now() < end, "no completion within %u ms", options.patience);
	}
}

void queue_is_empty(struct queue *queue, const char *name)
{
	struct ibv_wc wc;
	int count = ibv_poll_cq(queue->cq, 1, &wc);

	check(count == 0, "%s: an unexpected completion, number 0x%llx: %s", name,
	      count > 0 ? (unsigned long long)wc.wr_id : 0, count > 0 ? ibv_wc_status_str(wc.status) : "error");
}

struct ibv_wc queue_expect(struct queue *queue, const struct ibv_qp *qp, uint64_t wr_id, enum ibv_wc_status status,
			   const char *side)
{
	struct ibv_wc wc = queue_await(queue);

	check(wc.status == status, "%s: completed with \"%s\" (vendor 0x%x), expected \"%s\"", side,
	      ibv_wc_status_str(wc.status), wc.vendor_err, ibv_wc_status_str(status));
	check(wc.wr_id == wr_id, "%s: completion of 0x%llx, expected 0x%llx", side, (unsigned long long)wc.wr_id,
	      (unsigned long long)wr_id);
	check(wc.qp_num == qp->qp_num, "%s: completion of queue pair 0x%x, expected 0x%x", side, wc.qp_num,
	      qp->qp_num);
	return wc;
}

void qp_await_state(struct ibv_qp *qp, enum ibv_qp_state state, const char *side)
{
	uint64_t end = now() + options.patience;
	enum ibv_qp_state found;

	while ((found = qp_state(qp)) != state)
		check(now() < end, "%s: the queue pair is in state %d, expected %d", side, found, state);
}

void async_expect(struct device *device, enum ibv_event_type type, const void *element)
{
	struct pollfd wait = { .fd = device->context->async_fd, .events = POLLIN };
	struct ibv_async_event event;

	check(poll(&wait, 1, options.patience) == 1, "no asynchronous event within %u ms, expected \"%s\"",
	      options.patience, ibv_event_type_str(type));
	must(ibv_get_async_event(device->context, &event));
	check(event.event_type == type, "asynchronous event \"%s\", expected \"%s\"",
	      ibv_event_type_str(event.event_type), ibv_event_type_str(type));
	/* The element's members are of one union. */
	check(event.element.qp == element, "asynchronous event \"%s\" of another object than expected",
	      ibv_event_type_str(type));
	ibv_ack_async_event(&event);
}

void async_none(struct device *device)
{
	struct pollfd wait = { .fd = device->context->async_fd, .events = POLLIN };
	struct ibv_async_event event;

	if (poll(&wait, 1, 0) != 1)
		return;
	must(ibv_get_async_event(device->context, &event));
	fail("unexpected asynchronous event \"%s\"", ibv_event_type_str(event.event_type));
}
