// SPDX-License-Identifier: GPL-2.0
/*
 * Real bugs of bounced DMA (SWIOTLB), by their numbers in the project's list of them, each with the driver that does the same to
 * itself: the kernels that this is built for have the fixes, and each bug's counterpart here shows that they work.
 *
 * On a machine whose DMA is not bounced every byte is right in each of them.
 */

#include <linux/slab.h>

#include "dmalab.h"

#define BUFFER 4096U
/* What the device does not write is this pattern, of the seed after the trial's. */
#define OLD(trial) ((trial)->seed + 1000)

static bool failed(struct dmalab_trial *trial, dma_addr_t bus)
{
	return dma_mapping_error(trial->lab->dev, bus);
}

/* A part of a buffer, whose whole is OLD but for that. */
static __always_inline void check_part(struct dmalab_trial *trial, u8 *data, dma_addr_t bus, u32 offset, u32 length)
{
	u32 i;

	for (i = 0; i < BUFFER; i++) {
		u8 expected = i - offset < length ? dmalab_pattern(trial->seed, i - offset) :
						    dmalab_pattern(OLD(trial), i);

		dmalab_looked(trial, DMALAB_CPU, bus + i, expected, READ_ONCE(data[i]));
	}
}

/*
 * 37. SWIOTLB (5f89468e2f06): synchronising a part of a mapping copied from the mapping's beginning, not from the part's offset.
 * The driver that forgets the offset itself, and the one that does not.
 */
static __always_inline int partial_sync(struct dmalab_trial *trial, bool with_offset)
{
	const u32 offset = 1536, length = 512;
	struct device *dev = trial->lab->dev;
	u8 *data = kmalloc(BUFFER, GFP_KERNEL);
	dma_addr_t bus;
	int error;

	if (!data)
		return -ENOMEM;
	dmalab_cpu_fill(data, BUFFER, OLD(trial));
	bus = dma_map_single(dev, data, BUFFER, DMA_FROM_DEVICE);
	if (failed(trial, bus)) {
		kfree(data);
		return -EIO;
	}
	error = dmalab_device_write(trial, bus + offset, length, trial->seed);
	if (!error) {
		dma_sync_single_range_for_cpu(dev, bus, with_offset ? offset : 0, length, DMA_FROM_DEVICE);
		check_part(trial, data, bus, offset, length);
	}
	dma_unmap_single(dev, bus, BUFFER, DMA_FROM_DEVICE);
	kfree(data);
	return error;
}

static noinline __noclone int dmalab_bug37_sync_forgets_the_offset(struct dmalab_trial *trial)
{
	return partial_sync(trial, false);
}

static noinline __noclone int dmalab_bug37_fixed_sync_with_offset(struct dmalab_trial *trial)
{
	return partial_sync(trial, true);
}

/*
 * 38. SWIOTLB under nvme (1f221a0d0dbf): the device takes a page and the offset in it, which the driver knows from the buffer; but a
 * bounced buffer begins elsewhere in its page, unless the driver has said by a minimum alignment mask that it may not.
 */
static __always_inline int in_page_offset(struct dmalab_trial *trial, bool says_so)
{
	const u32 in_page = 1728, length = 512, mapped = BUFFER;
	struct device *dev = trial->lab->dev;
	u8 *pages = kzalloc(2 * BUFFER, GFP_KERNEL), *data = pages + in_page;
	unsigned int before = dma_get_min_align_mask(dev);
	dma_addr_t bus, page;
	int error;

	if (!pages)
		return -ENOMEM;
	dmalab_cpu_fill(data, mapped, trial->seed);
	if (says_so)
		dma_set_min_align_mask(dev, PAGE_SIZE - 1);
	bus = dma_map_single(dev, data, mapped, DMA_TO_DEVICE);
	if (failed(trial, bus)) {
		error = -EIO;
	} else {
		page = bus & ~(dma_addr_t)(PAGE_SIZE - 1);
		error = dmalab_device_read(trial, page + in_page, length, trial->seed);
		dma_unmap_single(dev, bus, mapped, DMA_TO_DEVICE);
	}
	dma_set_min_align_mask(dev, before);
	kfree(pages);
	return error;
}

static noinline __noclone int dmalab_bug38_offset_in_page_taken_for_kept(struct dmalab_trial *trial)
{
	return in_page_offset(trial, false);
}

static noinline __noclone int dmalab_bug38_fixed_min_align_mask(struct dmalab_trial *trial)
{
	return in_page_offset(trial, true);
}

/*
 * 40. SWIOTLB (aa6f8dcbab47, undone by bddac7c1e02b; ath9k): the driver looks whether a reception is over, it is not, the buffer goes
 * back to the device: that copied the CPU's old bytes over those that the device had written meanwhile. The kernel does not copy then,
 * unless the driver has said that the device reads the buffer as well. What a short write leaves alone keeps its value.
 */
static __always_inline int looks_early(struct dmalab_trial *trial, enum dma_data_direction direction)
{
	const u32 length = 1000;
	struct device *dev = trial->lab->dev;
	u8 *data = kmalloc(BUFFER, GFP_KERNEL);
	dma_addr_t bus;
	int error;

	if (!data)
		return -ENOMEM;
	dmalab_cpu_fill(data, BUFFER, OLD(trial));
	bus = dma_map_single(dev, data, BUFFER, direction);
	if (failed(trial, bus)) {
		kfree(data);
		return -EIO;
	}
	dma_sync_single_for_cpu(dev, bus, BUFFER, direction);
	READ_ONCE(data[0]);
	error = dmalab_device_write(trial, bus, length, trial->seed);
	dma_sync_single_for_device(dev, bus, BUFFER, direction);
	dma_unmap_single(dev, bus, BUFFER, direction);
	if (!error)
		check_part(trial, data, bus, 0, length);
	kfree(data);
	return error;
}

static noinline __noclone int dmalab_bug40_gives_back_what_is_being_written(struct dmalab_trial *trial)
{
	return looks_early(trial, DMA_BIDIRECTIONAL);
}

static noinline __noclone int dmalab_bug40_fixed_from_device_only(struct dmalab_trial *trial)
{
	return looks_early(trial, DMA_FROM_DEVICE);
}

/*
 * 43. virtio in confidential guests: the pool is full, a mapping fails, and the request with it, though what fills the pool is the
 * driver's own, and will be over. Where nothing is bounced no mapping fails.
 */
#define HOG_LARGE (128U << 11)	/* the largest that SWIOTLB maps: 128 slots */
#define HOG_SMALL (1U << 11)	/* one slot */
#define LARGE_HOGS 1024U
#define SMALL_HOGS 4096U

struct hogs {
	u8 *data;
	u32 count;
	struct {
		dma_addr_t bus;
		u32 length;
	} of[LARGE_HOGS + SMALL_HOGS];
};

static void map_hogs(struct dmalab_trial *trial, struct hogs *hogs, u32 most, u32 length)
{
	u32 i;

	for (i = 0; i < most; i++) {
		dma_addr_t bus = dma_map_single(trial->lab->dev, hogs->data, length, DMA_TO_DEVICE);

		if (failed(trial, bus))
			break;
		hogs->of[hogs->count].bus = bus;
		hogs->of[hogs->count++].length = length;
	}
}

static bool unmap_hog(struct dmalab_trial *trial, struct hogs *hogs)
{
	if (!hogs->count)
		return false;
	hogs->count--;
	dma_unmap_single(trial->lab->dev, hogs->of[hogs->count].bus, hogs->of[hogs->count].length, DMA_TO_DEVICE);
	return true;
}

/* One more request: what it is to receive is right only if it is made at all. */
static __always_inline int request(struct dmalab_trial *trial, struct hogs *hogs, bool waits)
{
	const u32 length = 512;
	struct device *dev = trial->lab->dev;
	u8 *data = kzalloc(length, GFP_KERNEL);
	dma_addr_t bus;
	int error = 0;

	if (!data)
		return -ENOMEM;
	do {
		bus = dma_map_single(dev, data, length, DMA_FROM_DEVICE);
	} while (failed(trial, bus) && waits && unmap_hog(trial, hogs));
	if (!failed(trial, bus)) {
		error = dmalab_device_write(trial, bus, length, trial->seed);
		dma_unmap_single(dev, bus, length, DMA_FROM_DEVICE);
	}
	if (!error)
		dmalab_cpu_check(trial, data, bus, length, trial->seed);
	kfree(data);
	return error;
}

static __always_inline int pool_full(struct dmalab_trial *trial, bool waits)
{
	struct hogs *hogs = kvzalloc(sizeof(*hogs), GFP_KERNEL);
	int error = -ENOMEM;

	if (!hogs)
		return error;
	hogs->data = kzalloc(HOG_LARGE, GFP_KERNEL);
	if (hogs->data) {
		map_hogs(trial, hogs, LARGE_HOGS, HOG_LARGE);
		map_hogs(trial, hogs, SMALL_HOGS, HOG_SMALL);
		error = request(trial, hogs, waits);
		while (unmap_hog(trial, hogs))
			;
		kfree(hogs->data);
	}
	kvfree(hogs);
	return error;
}

static noinline __noclone int dmalab_bug43_gives_up_when_the_pool_is_full(struct dmalab_trial *trial)
{
	return pool_full(trial, false);
}

static noinline __noclone int dmalab_bug43_fixed_waits_for_room(struct dmalab_trial *trial)
{
	return pool_full(trial, true);
}

const struct dmalab_case dmalab_swiotlb_cases[] = {
	{ "bug37", "SWIOTLB: a part is synchronised without its offset", dmalab_bug37_sync_forgets_the_offset },
	{ "bug37-fixed", "the same with the offset", dmalab_bug37_fixed_sync_with_offset },
	{ "bug38", "SWIOTLB, nvme: a bounced buffer is taken to begin where the buffer does in its page",
	  dmalab_bug38_offset_in_page_taken_for_kept },
	{ "bug38-fixed", "the same with a minimum alignment mask", dmalab_bug38_fixed_min_align_mask },
	{ "bug40", "SWIOTLB, ath9k: a buffer goes back, with the CPU's bytes, while the device writes it",
	  dmalab_bug40_gives_back_what_is_being_written },
	{ "bug40-fixed", "the same with a buffer that the device only writes, and not all of it",
	  dmalab_bug40_fixed_from_device_only },
	{ "bug43", "virtio in confidential guests: the pool is full, and a request fails",
	  dmalab_bug43_gives_up_when_the_pool_is_full },
	{ "bug43-fixed", "the same, but the request waits for room", dmalab_bug43_fixed_waits_for_room },
};
const unsigned int dmalab_swiotlb_case_count = ARRAY_SIZE(dmalab_swiotlb_cases);
