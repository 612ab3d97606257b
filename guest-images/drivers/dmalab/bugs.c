// SPDX-License-Identifier: GPL-2.0
/*
 * Real bugs, each cut down to what a driver did wrong: found by the numbers of the project's list of them, with the mechanism
 * and where it was.
 *
 * These drivers maintain the CPU's caches where they tell the DMA API of a transfer of ownership, as architectures do whose
 * devices do not snoop: `for_device`, `for_cpu` and the rest below are that. What is left out, or done at the wrong time, is in
 * the function that is named after it.
 */

#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/slab.h>
#include <asm/cacheflush.h>

#include "dmalab.h"

#define LINE 64

static __always_inline dma_addr_t map(struct dmalab_trial *trial, void *at, u32 length, enum dma_data_direction direction)
{
	dma_addr_t bus = dma_map_single(trial->lab->dev, at, length, direction);

	clflush_cache_range(at, length);
	return bus;
}

static __always_inline void unmap(struct dmalab_trial *trial, dma_addr_t bus, void *at, u32 length, enum dma_data_direction direction)
{
	dma_unmap_single(trial->lab->dev, bus, length, direction);
	clflush_cache_range(at, length);
}

static __always_inline void for_cpu(struct dmalab_trial *trial, dma_addr_t bus, void *at, u32 length,
		    enum dma_data_direction direction)
{
	dma_sync_single_for_cpu(trial->lab->dev, bus, length, direction);
	clflush_cache_range(at, length);
}

static __always_inline void for_device(struct dmalab_trial *trial, dma_addr_t bus, void *at, u32 length,
		       enum dma_data_direction direction)
{
	clflush_cache_range(at, length);
	dma_sync_single_for_device(trial->lab->dev, bus, length, direction);
}

static bool failed(struct dmalab_trial *trial, dma_addr_t bus)
{
	return dma_mapping_error(trial->lab->dev, bus);
}

/* A piece of memory that is a line's own. */
static u8 *lines(unsigned int count)
{
	return kzalloc(roundup_pow_of_two(count * LINE), GFP_KERNEL);
}

#define SMALL 8
#define TRIES 64

/* Allocates small objects until two of them are in one line. */
static bool neighbours(u8 *objects[TRIES], u8 **first, u8 **second)
{
	int i, j;

	for (i = 0; i < TRIES; i++) {
		objects[i] = kzalloc(SMALL, GFP_KERNEL);
		for (j = 0; objects[i] && j < i; j++) {
			if ((unsigned long)objects[i] / LINE == (unsigned long)objects[j] / LINE) {
				*first = objects[i];
				*second = objects[j];
				return true;
			}
		}
	}
	return false;
}

/* 2. USB hub, dwc3 (bugzilla 215740): two small buffers in one line; the CPU uses one while the device has the other. */
static noinline __noclone int dmalab_bug2_two_buffers_in_a_line(struct dmalab_trial *trial)
{
	u8 *objects[TRIES] = { }, *mine, *devices;
	dma_addr_t mine_bus, devices_bus;
	int error = -ENOMEM, i;

	if (!neighbours(objects, &mine, &devices))
		goto memory;
	mine_bus = map(trial, mine, SMALL, DMA_FROM_DEVICE);
	if (failed(trial, mine_bus))
		goto memory;
	devices_bus = map(trial, devices, SMALL, DMA_FROM_DEVICE);
	if (failed(trial, devices_bus))
		goto mine;
	error = dmalab_device_write(trial, mine_bus, SMALL, trial->seed);
	if (error)
		goto both;
	for_cpu(trial, mine_bus, mine, SMALL, DMA_FROM_DEVICE);
	dmalab_cpu_check(trial, mine, mine_bus, SMALL, trial->seed);
	/* The CPU's to write, but for its neighbour. */
	dmalab_cpu_fill(mine, SMALL, 0);
	error = dmalab_device_write(trial, devices_bus, SMALL, trial->seed + 1);
	if (error)
		goto both;
	for_cpu(trial, devices_bus, devices, SMALL, DMA_FROM_DEVICE);
	dmalab_cpu_check(trial, devices, devices_bus, SMALL, trial->seed + 1);
both:
	unmap(trial, devices_bus, devices, SMALL, DMA_FROM_DEVICE);
mine:
	unmap(trial, mine_bus, mine, SMALL, DMA_FROM_DEVICE);
memory:
	for (i = 0; i < TRIES; i++)
		kfree(objects[i]);
	return error;
}

/* 20. caam, GCM (ed527b13d800): the output IV is written while the authentication tag beside it is mapped. */
static noinline __noclone int dmalab_bug20_iv_shares_line(struct dmalab_trial *trial)
{
	struct request {
		u8 tag[16];
		u8 iv[16];
	} *request = (struct request *)lines(1);
	dma_addr_t tag_bus;
	int error;

	if (!request)
		return -ENOMEM;
	tag_bus = map(trial, request->tag, sizeof(request->tag), DMA_FROM_DEVICE);
	if (failed(trial, tag_bus)) {
		kfree(request);
		return -EIO;
	}
	dmalab_cpu_fill(request->iv, sizeof(request->iv), trial->seed + 1);
	error = dmalab_device_write(trial, tag_bus, sizeof(request->tag), trial->seed);
	unmap(trial, tag_bus, request->tag, sizeof(request->tag), DMA_FROM_DEVICE);
	if (!error) {
		dmalab_cpu_check(trial, request->tag, tag_bus, sizeof(request->tag), trial->seed);
		dmalab_cpu_check(trial, request->iv, tag_bus + sizeof(request->tag), sizeof(request->iv),
				 trial->seed + 1);
	}
	kfree(request);
	return error;
}

/* 21. virtio_scsi (2678369e8efe): an event buffer beside the work item that is queued while the device has it. */
static noinline __noclone int dmalab_bug21_event_beside_work(struct dmalab_trial *trial)
{
	struct node {
		unsigned long pending;
		void *next, *previous, *function;
		u8 event[16];
	} *node = (struct node *)lines(1);
	dma_addr_t event_bus;
	int error;

	if (!node)
		return -ENOMEM;
	event_bus = map(trial, node->event, sizeof(node->event), DMA_FROM_DEVICE);
	if (failed(trial, event_bus)) {
		kfree(node);
		return -EIO;
	}
	/* Queues the work of the event before. */
	WRITE_ONCE(node->pending, 1);
	error = dmalab_device_write(trial, event_bus, sizeof(node->event), trial->seed);
	unmap(trial, event_bus, node->event, sizeof(node->event), DMA_FROM_DEVICE);
	if (!error)
		dmalab_cpu_check(trial, node->event, event_bus, sizeof(node->event), trial->seed);
	kfree(node);
	return error;
}

/* 23. e100: the CPU links a receive descriptor whose status the device is about to write; reception stalls. */
static noinline __noclone int dmalab_bug23_both_write_a_descriptor(struct dmalab_trial *trial)
{
	struct rfd {
		u8 status[4];
		u32 command;
		u32 link;
		u32 size;
	} *rfd = (struct rfd *)lines(1);
	dma_addr_t bus;
	int error;

	if (!rfd)
		return -ENOMEM;
	bus = map(trial, rfd, sizeof(*rfd), DMA_BIDIRECTIONAL);
	if (failed(trial, bus)) {
		kfree(rfd);
		return -EIO;
	}
	WRITE_ONCE(rfd->link, 0x1000);
	error = dmalab_device_write(trial, bus, sizeof(rfd->status), trial->seed);
	/* Tells the device of the link, and undoes its status. */
	for_device(trial, bus, rfd, sizeof(*rfd), DMA_BIDIRECTIONAL);
	for_cpu(trial, bus, rfd, sizeof(*rfd), DMA_BIDIRECTIONAL);
	if (!error)
		dmalab_cpu_check(trial, rfd->status, bus, sizeof(rfd->status), trial->seed);
	unmap(trial, bus, rfd, sizeof(*rfd), DMA_BIDIRECTIONAL);
	kfree(rfd);
	return error;
}

/* 24. talitos: a descriptor's header is polled, and read once more after completion, without a transfer to the CPU. */
static noinline __noclone int dmalab_bug24_header_read_without_sync(struct dmalab_trial *trial)
{
	u8 *header = lines(1);
	dma_addr_t bus;
	int error;

	if (!header)
		return -ENOMEM;
	bus = map(trial, header, 16, DMA_BIDIRECTIONAL);
	if (failed(trial, bus)) {
		kfree(header);
		return -EIO;
	}
	/* Not done yet. */
	READ_ONCE(header[0]);
	error = dmalab_device_write(trial, bus, 16, trial->seed);
	if (!error)
		dmalab_cpu_check(trial, header, bus, 16, trial->seed);
	unmap(trial, bus, header, 16, DMA_BIDIRECTIONAL);
	kfree(header);
	return error;
}

/* 25. STM32H7 SDMMC: invalidated before the transfer, so that nothing need be done after it. But lines come back by themselves. */
static noinline __noclone int dmalab_bug25_invalidates_before_only(struct dmalab_trial *trial)
{
	u32 length = 8 * LINE;
	u8 *data = lines(8);
	dma_addr_t bus;
	int error;

	if (!data)
		return -ENOMEM;
	/* Mapping invalidates. */
	bus = map(trial, data, length, DMA_FROM_DEVICE);
	if (failed(trial, bus)) {
		kfree(data);
		return -EIO;
	}
	error = dmalab_device_write(trial, bus, length, trial->seed);
	if (!error)
		dmalab_cpu_check(trial, data, bus, length, trial->seed);
	unmap(trial, bus, data, length, DMA_FROM_DEVICE);
	kfree(data);
	return error;
}

/* 27. SAM I2S: a buffer is cleared and received into again without having been written back; the old zeroes come out later. */
static noinline __noclone int dmalab_bug27_no_clean_before_receive(struct dmalab_trial *trial)
{
	u32 length = 4 * LINE;
	u8 *data = lines(4);
	dma_addr_t bus;
	int error;

	if (!data)
		return -ENOMEM;
	bus = map(trial, data, length, DMA_FROM_DEVICE);
	if (failed(trial, bus)) {
		kfree(data);
		return -EIO;
	}
	error = dmalab_device_write(trial, bus, length, trial->seed);
	for_cpu(trial, bus, data, length, DMA_FROM_DEVICE);
	if (error)
		goto mapped;
	dmalab_cpu_check(trial, data, bus, length, trial->seed);
	dmalab_cpu_fill(data, length, 0);
	error = dmalab_device_write(trial, bus, length, trial->seed + 1);
	for_cpu(trial, bus, data, length, DMA_FROM_DEVICE);
	if (!error)
		dmalab_cpu_check(trial, data, bus, length, trial->seed + 1);
mapped:
	unmap(trial, bus, data, length, DMA_FROM_DEVICE);
	kfree(data);
	return error;
}

/*
 * 29. VCHIQ: an invalidation rounds the end of a buffer up, and what the CPU has just written behind it is gone.
 *
 * x86 invalidates without writing back by INVD only, and then everything. Between WBINVD and INVD nothing is written but the
 * neighbour, so that its line is the only one that INVD can lose: the one that rounding up takes in.
 */
static noinline __noclone int dmalab_bug29_invalidate_rounds_up(struct dmalab_trial *trial)
{
	u32 length = LINE + LINE / 2, i;
	u8 *data = lines(2);
	/* In the buffer's last line, and another's. */
	u64 *neighbour = (u64 *)(data + length);
	u64 value = 0x6e65696768626f72;
	unsigned long flags;
	dma_addr_t bus;
	int error;

	if (!data)
		return -ENOMEM;
	bus = map(trial, data, length, DMA_FROM_DEVICE);
	if (failed(trial, bus)) {
		kfree(data);
		return -EIO;
	}
	error = dmalab_device_write(trial, bus, length, trial->seed);
	local_irq_save(flags);
	asm volatile("wbinvd; movq %1, %0; invd" : "=m"(*neighbour) : "r"(value) : "memory");
	local_irq_restore(flags);
	unmap(trial, bus, data, length, DMA_FROM_DEVICE);
	if (!error) {
		dmalab_cpu_check(trial, data, bus, length, trial->seed);
		for (i = 0; i < sizeof(value); i++)
			dmalab_looked(trial, DMALAB_CPU, bus + length + i, (u8)(value >> 8 * i),
				      READ_ONCE(((u8 *)neighbour)[i]));
	}
	kfree(data);
	return error;
}

/* 31. Raspberry Pi USB audio: samples are not written back before they are sent; the device plays the ones before. */
static noinline __noclone int dmalab_bug31_samples_not_written_back(struct dmalab_trial *trial)
{
	u32 length = 4 * LINE;
	u8 *samples = lines(4);
	dma_addr_t bus;
	int error;

	if (!samples)
		return -ENOMEM;
	dmalab_cpu_fill(samples, length, trial->seed);
	bus = map(trial, samples, length, DMA_TO_DEVICE);
	if (failed(trial, bus)) {
		kfree(samples);
		return -EIO;
	}
	error = dmalab_device_read(trial, bus, length, trial->seed);
	for_cpu(trial, bus, samples, length, DMA_TO_DEVICE);
	dmalab_cpu_fill(samples, length, trial->seed + 1);
	if (!error)
		error = dmalab_device_read(trial, bus, length, trial->seed + 1);
	unmap(trial, bus, samples, length, DMA_TO_DEVICE);
	kfree(samples);
	return error;
}

#define MOVED 2048
#define POLLS 10000000

/* 47. Relaxed ordering: a driver takes the last byte for the sign that all have come. Nothing else is wrong here: DMA snoops. */
static noinline __noclone int dmalab_bug47_polls_the_last_byte(struct dmalab_trial *trial)
{
	struct dmalab_descriptor descriptor = {
		.operation = DMALAB_OP_PATTERN,
		.flags = DMALAB_RELAXED,
		.transaction = cpu_to_le16(LINE),
		.length = cpu_to_le32(MOVED),
		/* The completion would push the payload before it. */
		.linger = cpu_to_le32(10000000),
		.operand = cpu_to_le64(trial->seed),
	};
	u8 last = dmalab_pattern(trial->seed, MOVED - 1);
	u8 *data = lines(MOVED / LINE);
	struct dmalab_wait completion;
	dma_addr_t bus;
	u32 number, i;
	int error;

	if (!data)
		return -ENOMEM;
	/* Bytes that none of the pattern's are. */
	for (i = 0; i < MOVED; i++)
		data[i] = ~dmalab_pattern(trial->seed, i);
	bus = dma_map_single(trial->lab->dev, data, MOVED, DMA_FROM_DEVICE);
	if (failed(trial, bus)) {
		kfree(data);
		return -EIO;
	}
	descriptor.destination = cpu_to_le64(bus);
	error = dmalab_submit(trial->lab, &descriptor, &number);
	for (i = 0; !error && READ_ONCE(data[MOVED - 1]) != last; i++) {
		if (i == POLLS)
			error = -ETIMEDOUT;
		cpu_relax();
	}
	if (!error)
		dmalab_cpu_check(trial, data, bus, MOVED, trial->seed);
	dmalab_wait(trial->lab, number, 10000, &completion);
	dma_unmap_single(trial->lab->dev, bus, MOVED, DMA_FROM_DEVICE);
	kfree(data);
	return error;
}

/* Rogue DMA: whatever the caches do, the device is not to touch these bytes, or not like this. */
static noinline __noclone int dmalab_rogue_use_after_unmap(struct dmalab_trial *trial)
{
	u8 *data = lines(1);
	dma_addr_t bus;
	int error;

	if (!data)
		return -ENOMEM;
	bus = map(trial, data, LINE, DMA_FROM_DEVICE);
	error = failed(trial, bus) ? -EIO : 0;
	if (!error) {
		unmap(trial, bus, data, LINE, DMA_FROM_DEVICE);
		error = dmalab_device_write(trial, bus, LINE, trial->seed);
	}
	kfree(data);
	return error;
}

static noinline __noclone int dmalab_rogue_out_of_mapping(struct dmalab_trial *trial)
{
	u8 *data = lines(2);
	dma_addr_t bus;
	int error;

	if (!data)
		return -ENOMEM;
	bus = map(trial, data, LINE, DMA_FROM_DEVICE);
	error = failed(trial, bus) ? -EIO : 0;
	if (!error) {
		error = dmalab_device_write(trial, bus, 2 * LINE, trial->seed);
		unmap(trial, bus, data, LINE, DMA_FROM_DEVICE);
	}
	kfree(data);
	return error;
}

static noinline __noclone int dmalab_rogue_against_direction(struct dmalab_trial *trial)
{
	u8 *data = lines(1);
	dma_addr_t bus;
	int error;

	if (!data)
		return -ENOMEM;
	bus = map(trial, data, LINE, DMA_TO_DEVICE);
	error = failed(trial, bus) ? -EIO : 0;
	if (!error) {
		error = dmalab_device_write(trial, bus, LINE, trial->seed);
		unmap(trial, bus, data, LINE, DMA_TO_DEVICE);
	}
	kfree(data);
	return error;
}

/*
 * Wrong in themselves, from 7.x on: kernel memory, which could be synchronised, mapped with the attribute that is for memory that
 * cannot; and the same line mapped with the attribute and without.
 */
#ifdef DMA_ATTR_REQUIRE_COHERENT
#define REQUIRE_COHERENT DMA_ATTR_REQUIRE_COHERENT
#else
#define REQUIRE_COHERENT 0
#endif

static noinline __noclone int dmalab_requires_coherent_kernel_memory(struct dmalab_trial *trial)
{
	struct device *dev = trial->lab->dev;
	u8 *data = lines(1);
	dma_addr_t bus;
	int error = -EOPNOTSUPP;

	if (!data)
		return -ENOMEM;
	if (REQUIRE_COHERENT) {
		bus = dma_map_single_attrs(dev, data, LINE, DMA_FROM_DEVICE, REQUIRE_COHERENT);
		error = failed(trial, bus) ? -EIO : 0;
		if (!error)
			dma_unmap_single_attrs(dev, bus, LINE, DMA_FROM_DEVICE, REQUIRE_COHERENT);
	}
	kfree(data);
	return error;
}

static noinline __noclone int dmalab_mixes_attributes_in_a_line(struct dmalab_trial *trial)
{
	struct device *dev = trial->lab->dev;
	u8 *data = lines(1);
	dma_addr_t with, without;
	int error = -EOPNOTSUPP;

	if (!data)
		return -ENOMEM;
	if (REQUIRE_COHERENT) {
		with = dma_map_single_attrs(dev, data, LINE / 2, DMA_FROM_DEVICE, REQUIRE_COHERENT);
		error = failed(trial, with) ? -EIO : 0;
		if (!error) {
			without = dma_map_single(dev, data + LINE / 2, LINE / 2, DMA_FROM_DEVICE);
			error = failed(trial, without) ? -EIO : 0;
			if (!error)
				dma_unmap_single(dev, without, LINE / 2, DMA_FROM_DEVICE);
			dma_unmap_single_attrs(dev, with, LINE / 2, DMA_FROM_DEVICE, REQUIRE_COHERENT);
		}
	}
	kfree(data);
	return error;
}

const struct dmalab_case dmalab_bug_cases[] = {
	{ "bug2", "USB hub, dwc3: two kmalloc(8) buffers in one line", dmalab_bug2_two_buffers_in_a_line },
	{ "bug20", "caam GCM: the CPU writes an IV beside a tag that is mapped", dmalab_bug20_iv_shares_line },
	{ "bug21", "virtio_scsi: an event buffer beside a work item", dmalab_bug21_event_beside_work },
	{ "bug23", "e100: CPU and device both write one receive descriptor", dmalab_bug23_both_write_a_descriptor },
	{ "bug24", "talitos: a header is read without sync_for_cpu", dmalab_bug24_header_read_without_sync },
	{ "bug25", "STM32H7 SDMMC: invalidated before the transfer only", dmalab_bug25_invalidates_before_only },
	{ "bug27", "SAM I2S: received into lines that are dirty", dmalab_bug27_no_clean_before_receive },
	{ "bug29", "VCHIQ: an invalidation takes in a neighbour", dmalab_bug29_invalidate_rounds_up },
	{ "bug31", "Raspberry Pi USB audio: samples are not written back", dmalab_bug31_samples_not_written_back },
	{ "bug47", "relaxed ordering: the last byte is taken for all", dmalab_bug47_polls_the_last_byte },
	{ "use-after-unmap", "the device writes what is not mapped any more", dmalab_rogue_use_after_unmap },
	{ "out-of-mapping", "the device writes beyond a mapping", dmalab_rogue_out_of_mapping },
	{ "against-direction", "the device writes what is mapped for it to read", dmalab_rogue_against_direction },
	{ "require-coherent", "DMA_ATTR_REQUIRE_COHERENT on kernel memory", dmalab_requires_coherent_kernel_memory },
	{ "mixed-attributes", "one line mapped with DMA_ATTR_REQUIRE_COHERENT and without",
	  dmalab_mixes_attributes_in_a_line },
};
const unsigned int dmalab_bug_case_count = ARRAY_SIZE(dmalab_bug_cases);
