// SPDX-License-Identifier: GPL-2.0
/*
 * Scenarios whose code is a driver's: the list of them, what they have in common, and those that flush the CPU's caches by hand,
 * as drivers on x86 must whose device does not snoop.
 *
 * All payload is asked to be moved without snooping. On a machine that is coherent all the same every byte is right in each of
 * them, whatever the driver does wrong.
 */

#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <asm/cacheflush.h>
#include <asm/special_insns.h>

#include "dmalab.h"

#define TIMEOUT_MS 10000

/* Counts a byte that was looked at, and keeps it if it is wrong. */
void dmalab_looked(struct dmalab_trial *trial, u8 side, dma_addr_t bus, u8 expected, u8 found)
{
	struct dmalab_scenario *report = trial->report;

	report->checked++;
	if (expected == found)
		return;
	if (report->wrong < DMALAB_WRONG_LISTED)
		report->list[report->wrong] =
			(struct dmalab_wrong){ .bus = bus, .side = side, .expected = expected, .found = found };
	report->wrong++;
}

/* Waits for a descriptor that has to succeed. */
static int finish(struct dmalab *lab, u32 number)
{
	struct dmalab_wait completion;
	int error = dmalab_wait(lab, number, TIMEOUT_MS, &completion);

	if (error)
		return error;
	return completion.status == DMALAB_DONE ? 0 : -EIO;
}

static int execute(struct dmalab *lab, const struct dmalab_descriptor *descriptor)
{
	u32 number;
	int error = dmalab_submit(lab, descriptor, &number);

	return error ? error : finish(lab, number);
}

/* Looks at what the device has read from a buffer. */
static void check_read(struct dmalab_trial *trial, dma_addr_t bus, u32 length, u64 seed)
{
	u32 i;

	for (i = 0; i < length; i++)
		dmalab_looked(trial, DMALAB_DEVICE, bus + i, dmalab_pattern(seed, i), readb(trial->lab->memory + i));
}

/* The device writes a pattern. */
int dmalab_device_write(struct dmalab_trial *trial, dma_addr_t bus, u32 length, u64 seed)
{
	struct dmalab_descriptor descriptor = {
		.operation = DMALAB_OP_PATTERN,
		.flags = DMALAB_NO_SNOOP,
		.length = cpu_to_le32(length),
		.destination = cpu_to_le64(bus),
		.operand = cpu_to_le64(seed),
	};

	return execute(trial->lab, &descriptor);
}

/* The device reads what must be a pattern. */
int dmalab_device_read(struct dmalab_trial *trial, dma_addr_t bus, u32 length, u64 seed)
{
	struct dmalab_descriptor descriptor = {
		.operation = DMALAB_OP_READ,
		.flags = DMALAB_NO_SNOOP,
		.length = cpu_to_le32(length),
		.source = cpu_to_le64(bus),
	};
	int error = execute(trial->lab, &descriptor);

	if (!error)
		check_read(trial, bus, length, seed);
	return error;
}

int dmalab_device_copy(struct dmalab_trial *trial, dma_addr_t from, dma_addr_t to, u32 length)
{
	struct dmalab_descriptor descriptor = {
		.operation = DMALAB_OP_COPY,
		.flags = DMALAB_NO_SNOOP,
		.length = cpu_to_le32(length),
		.source = cpu_to_le64(from),
		.destination = cpu_to_le64(to),
	};

	return execute(trial->lab, &descriptor);
}

/* Which flush is left out. */
enum missing {
	NONE,
	BEFORE_TRANSMIT,
	BEFORE_RECEIVE,
	AFTER_RECEIVE,
};

#define LENGTH 1024
#define ROUNDS 4

/*
 * Has the device send back what it is sent, a few times. In each round the CPU writes both buffers, so that there are dirty
 * lines of both, and looks at what came back.
 */
static __always_inline int echo(struct dmalab_trial *trial, enum missing missing)
{
	struct device *dev = trial->lab->dev;
	/* Both have lines of their own: kmalloc() aligns powers of two to their size. */
	u8 *sent = kmalloc(LENGTH, GFP_KERNEL), *received = kmalloc(LENGTH, GFP_KERNEL);
	dma_addr_t sent_bus, received_bus;
	int round, error = -ENOMEM;

	if (!sent || !received)
		goto memory;
	sent_bus = dma_map_single(dev, sent, LENGTH, DMA_TO_DEVICE);
	if (dma_mapping_error(dev, sent_bus))
		goto memory;
	received_bus = dma_map_single(dev, received, LENGTH, DMA_FROM_DEVICE);
	if (dma_mapping_error(dev, received_bus))
		goto sent;
	for (round = 0; round < ROUNDS; round++) {
		u64 seed = trial->seed + 1000 * round;

		dma_sync_single_for_cpu(dev, sent_bus, LENGTH, DMA_TO_DEVICE);
		dmalab_cpu_fill(sent, LENGTH, seed);
		if (missing != BEFORE_TRANSMIT)
			clflush_cache_range(sent, LENGTH);
		dma_sync_single_for_device(dev, sent_bus, LENGTH, DMA_TO_DEVICE);

		dma_sync_single_for_cpu(dev, received_bus, LENGTH, DMA_FROM_DEVICE);
		dmalab_cpu_fill(received, LENGTH, ~seed);
		if (missing != BEFORE_RECEIVE)
			clflush_cache_range(received, LENGTH);
		dma_sync_single_for_device(dev, received_bus, LENGTH, DMA_FROM_DEVICE);

		error = dmalab_device_read(trial, sent_bus, LENGTH, seed);
		if (error)
			break;
		error = dmalab_device_copy(trial, sent_bus, received_bus, LENGTH);
		if (error)
			break;

		dma_sync_single_for_cpu(dev, received_bus, LENGTH, DMA_FROM_DEVICE);
		if (missing != AFTER_RECEIVE)
			clflush_cache_range(received, LENGTH);
		dmalab_cpu_check(trial, received, received_bus, LENGTH, seed);
		dma_sync_single_for_device(dev, received_bus, LENGTH, DMA_FROM_DEVICE);
	}
	dma_unmap_single(dev, received_bus, LENGTH, DMA_FROM_DEVICE);
sent:
	dma_unmap_single(dev, sent_bus, LENGTH, DMA_TO_DEVICE);
memory:
	kfree(received);
	kfree(sent);
	return error;
}

static noinline int dmalab_echo_with_every_flush(struct dmalab_trial *trial)
{
	return echo(trial, NONE);
}

static noinline int dmalab_echo_without_flush_before_transmit(struct dmalab_trial *trial)
{
	return echo(trial, BEFORE_TRANSMIT);
}

static noinline int dmalab_echo_without_flush_before_receive(struct dmalab_trial *trial)
{
	return echo(trial, BEFORE_RECEIVE);
}

static noinline int dmalab_echo_without_flush_after_receive(struct dmalab_trial *trial)
{
	return echo(trial, AFTER_RECEIVE);
}

/*
 * The lines of what the device is to read are written back by CLWB, which only a fence orders: the doorbell may be rung before
 * the data is in memory. Locks are as good as a fence, and so is an interrupt's end: none comes between.
 */
static __always_inline int write_back(struct dmalab_trial *trial, bool fenced)
{
	struct dmalab_descriptor descriptor = {
		.operation = DMALAB_OP_READ,
		.flags = DMALAB_NO_SNOOP,
		.length = cpu_to_le32(LENGTH),
	};
	struct dmalab *lab = trial->lab;
	struct device *dev = lab->dev;
	u8 *sent = kmalloc(LENGTH, GFP_KERNEL);
	unsigned long flags;
	dma_addr_t bus;
	u32 number, at;
	int error = -ENOMEM;

	if (!sent)
		return error;
	bus = dma_map_single(dev, sent, LENGTH, DMA_TO_DEVICE);
	if (dma_mapping_error(dev, bus))
		goto memory;
	descriptor.source = cpu_to_le64(bus);
	mutex_lock(&lab->ring_lock);
	error = dmalab_prepare(lab, &descriptor, &number);
	if (!error) {
		dma_sync_single_for_cpu(dev, bus, LENGTH, DMA_TO_DEVICE);
		dmalab_cpu_fill(sent, LENGTH, trial->seed);
		dma_sync_single_for_device(dev, bus, LENGTH, DMA_TO_DEVICE);
		local_irq_save(flags);
		for (at = 0; at < LENGTH; at += 64)
			clwb(sent + at);
		if (fenced)
			wmb();
		dmalab_ring_doorbell(lab);
		local_irq_restore(flags);
	}
	mutex_unlock(&lab->ring_lock);
	if (!error)
		error = finish(lab, number);
	if (!error)
		check_read(trial, bus, LENGTH, trial->seed);
	dma_unmap_single(dev, bus, LENGTH, DMA_TO_DEVICE);
memory:
	kfree(sent);
	return error;
}

static noinline int dmalab_write_back_with_a_fence(struct dmalab_trial *trial)
{
	return write_back(trial, true);
}

static noinline int dmalab_write_back_without_a_fence(struct dmalab_trial *trial)
{
	return write_back(trial, false);
}

const struct dmalab_case dmalab_flush_cases[] = {
	{ "clflush", "a driver that flushes by hand whatever the device is to read, and has read or written",
	  dmalab_echo_with_every_flush },
	{ "clflush-missing-before-transmit", "the same without the flush before the device reads",
	  dmalab_echo_without_flush_before_transmit },
	{ "clflush-missing-before-receive", "the same without the flush before the device writes",
	  dmalab_echo_without_flush_before_receive },
	{ "clflush-missing-after-receive", "the same without the flush after the device has written",
	  dmalab_echo_without_flush_after_receive },
	{ "clwb", "what the device is to read is written back, and a fence comes before the doorbell",
	  dmalab_write_back_with_a_fence },
	{ "clwb-without-fence", "the same without the fence", dmalab_write_back_without_a_fence },
};
const unsigned int dmalab_flush_case_count = ARRAY_SIZE(dmalab_flush_cases);

static const struct dmalab_case *case_at(unsigned int index)
{
	if (index < dmalab_flush_case_count)
		return &dmalab_flush_cases[index];
	index -= dmalab_flush_case_count;
	if (index < dmalab_bug_case_count)
		return &dmalab_bug_cases[index];
	index -= dmalab_bug_case_count;
	return index < dmalab_swiotlb_case_count ? &dmalab_swiotlb_cases[index] : NULL;
}

int dmalab_scenario(struct dmalab *lab, struct dmalab_scenario *report)
{
	struct dmalab_trial trial = { .lab = lab, .seed = report->seed, .report = report };
	const struct dmalab_case *found;
	unsigned int i;

	report->checked = 0;
	report->wrong = 0;
	report->name[sizeof(report->name) - 1] = 0;
	for (i = 0; (found = case_at(i)); i++)
		if (!strcmp(found->name, report->name))
			return found->run(&trial);
	return -ENOENT;
}

int dmalab_scenario_name(struct dmalab_scenario_name *arg)
{
	const struct dmalab_case *found = case_at(arg->index);

	if (!found)
		return -ENOENT;
	strscpy(arg->name, found->name, sizeof(arg->name));
	strscpy(arg->summary, found->summary, sizeof(arg->summary));
	return 0;
}
