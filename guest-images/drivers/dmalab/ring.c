// SPDX-License-Identifier: GPL-2.0
/* The ring of descriptors: submitting, waiting, completions. */

#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/lockdep.h>
#include <linux/string.h>
#include <asm/cacheflush.h>

#include "dmalab.h"

#define REGISTER_ID		0x00
#define REGISTER_VERSION	0x04
#define REGISTER_ATTRIBUTES	0x0c
#define REGISTER_CONTROL	0x10
#define REGISTER_RING_LOG2	0x18
#define REGISTER_RING_LOW	0x20
#define REGISTER_RING_HIGH	0x24
#define REGISTER_HEAD		0x28
#define REGISTER_TAIL		0x2c

#define ID			0x42414c44	/* "DLAB" */
#define VERSION			1
#define CONTROL_ENABLE		1
/* Attributes: the device fetches and completes descriptors without snooping. */
#define SNOOPS_NOTHING		3

/* Descriptors are as incoherent as everything else then, and x86 has no uncached memory for coherent allocations. */
static bool flushes_ring(const struct dmalab *lab)
{
	return (lab->attributes & 3) == SNOOPS_NOTHING;
}

int dmalab_ring_start(struct dmalab *lab)
{
	if (readl(lab->registers + REGISTER_ID) != ID || readl(lab->registers + REGISTER_VERSION) != VERSION) {
		dev_err(lab->dev, "not a DMA exerciser of version %d\n", VERSION);
		return -ENODEV;
	}
	lab->attributes = readl(lab->registers + REGISTER_ATTRIBUTES);
	lab->ring = dma_alloc_coherent(lab->dev, DMALAB_RING_SIZE * sizeof(*lab->ring), &lab->ring_bus, GFP_KERNEL);
	if (!lab->ring)
		return -ENOMEM;
	writel(0, lab->registers + REGISTER_CONTROL);
	writel(DMALAB_RING_LOG2, lab->registers + REGISTER_RING_LOG2);
	writel(lower_32_bits(lab->ring_bus), lab->registers + REGISTER_RING_LOW);
	writel(upper_32_bits(lab->ring_bus), lab->registers + REGISTER_RING_HIGH);
	writel(CONTROL_ENABLE, lab->registers + REGISTER_CONTROL);
	return 0;
}

void dmalab_ring_stop(struct dmalab *lab)
{
	writel(0, lab->registers + REGISTER_CONTROL);
	/* The device does nothing more once this is answered. */
	readl(lab->registers + REGISTER_CONTROL);
	dma_free_coherent(lab->dev, DMALAB_RING_SIZE * sizeof(*lab->ring), lab->ring, lab->ring_bus);
}

irqreturn_t dmalab_completion_irq(int irq, void *data)
{
	struct dmalab *lab = data;

	WRITE_ONCE(lab->tail, readl(lab->registers + REGISTER_TAIL));
	wake_up_all(&lab->wait);
	return IRQ_HANDLED;
}

irqreturn_t dmalab_fault_irq(int irq, void *data)
{
	struct dmalab *lab = data;

	dev_err(lab->dev, "the device has stopped at descriptor %u\n", readl(lab->registers + REGISTER_TAIL));
	WRITE_ONCE(lab->fault, true);
	wake_up_all(&lab->wait);
	return IRQ_HANDLED;
}

/* Puts a copy of *descriptor into the ring, whose lock is held; its number is what dmalab_wait() takes. */
int dmalab_prepare(struct dmalab *lab, const struct dmalab_descriptor *descriptor, u32 *number)
{
	struct dmalab_descriptor *slot;

	lockdep_assert_held(&lab->ring_lock);
	if (READ_ONCE(lab->fault))
		return -EIO;
	if (lab->head - READ_ONCE(lab->tail) >= DMALAB_RING_SIZE)
		return -EBUSY;
	slot = &lab->ring[lab->head % DMALAB_RING_SIZE];
	*slot = *descriptor;
	slot->flags |= DMALAB_INTERRUPT;
	slot->status = cpu_to_le32(DMALAB_PENDING);
	slot->done = 0;
	slot->result = 0;
	if (flushes_ring(lab))
		clflush_cache_range(slot, sizeof(*slot));
	*number = lab->head++;
	return 0;
}

/* Has the device look at what has been put into the ring, whose lock is still held. */
void dmalab_ring_doorbell(struct dmalab *lab)
{
	/* Orders the descriptor before the doorbell. */
	writel(lab->head, lab->registers + REGISTER_HEAD);
}

/* Submits a copy of *descriptor; its number is what dmalab_wait() takes. */
int dmalab_submit(struct dmalab *lab, const struct dmalab_descriptor *descriptor, u32 *number)
{
	int error;

	mutex_lock(&lab->ring_lock);
	error = dmalab_prepare(lab, descriptor, number);
	if (!error)
		dmalab_ring_doorbell(lab);
	mutex_unlock(&lab->ring_lock);
	return error;
}

static bool is_over(struct dmalab *lab, u32 number)
{
	return (s32)(READ_ONCE(lab->tail) - number) > 0 || READ_ONCE(lab->fault);
}

/* Waits for a descriptor that was submitted, and is not overwritten yet. */
int dmalab_wait(struct dmalab *lab, u32 number, u32 timeout_ms, struct dmalab_wait *completion)
{
	struct dmalab_descriptor *slot = &lab->ring[number % DMALAB_RING_SIZE];
	long left = wait_event_interruptible_timeout(lab->wait, is_over(lab, number), msecs_to_jiffies(timeout_ms));
	int error = 0;

	if (left < 0)
		return left;
	if (!left)
		return -ETIMEDOUT;
	mutex_lock(&lab->ring_lock);
	if ((s32)(READ_ONCE(lab->tail) - number) <= 0) {
		error = -EIO;
	} else if (lab->head - number > DMALAB_RING_SIZE) {
		error = -ESTALE;
	} else {
		if (flushes_ring(lab))
			clflush_cache_range(slot, sizeof(*slot));
		completion->status = le32_to_cpu(READ_ONCE(slot->status));
		completion->done = le32_to_cpu(READ_ONCE(slot->done));
		completion->result = le64_to_cpu(READ_ONCE(slot->result));
	}
	mutex_unlock(&lab->ring_lock);
	return error;
}
