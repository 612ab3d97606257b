// SPDX-License-Identifier: GPL-2.0
/* Buffers and mappings of an open file: what the DMA API is asked is what the caller has asked for. */

#include <linux/io.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <asm/cacheflush.h>
#include <asm/smp.h>

#include "dmalab.h"

/* Of one file. */
#define MAX_HANDLES XA_LIMIT(1, 4096)
#define MAX_SIZE (1U << 20)

static void free_buffer(struct dmalab *lab, struct dmalab_buffer *buffer)
{
	switch (buffer->kind) {
	case DMALAB_KMALLOC:
		kfree(buffer->cpu);
		break;
	case DMALAB_PAGES:
		free_pages((unsigned long)buffer->cpu, get_order(buffer->size));
		break;
	case DMALAB_COHERENT:
		dma_free_coherent(lab->dev, buffer->size, buffer->cpu, buffer->bus);
		break;
	case DMALAB_USER:
		/* The device may have written any of them. */
		unpin_user_pages_dirty_lock(buffer->pages, buffer->page_count, true);
		kvfree(buffer->pages);
		break;
	}
	kfree(buffer);
}

static int pin(struct dmalab_buffer *buffer, u64 user)
{
	unsigned long first = user & PAGE_MASK;
	int pinned;

	buffer->in_page = user & ~PAGE_MASK;
	buffer->page_count = DIV_ROUND_UP(buffer->in_page + buffer->size, PAGE_SIZE);
	buffer->pages = kvcalloc(buffer->page_count, sizeof(*buffer->pages), GFP_KERNEL);
	if (!buffer->pages)
		return -ENOMEM;
	pinned = pin_user_pages_fast(first, buffer->page_count, FOLL_WRITE | FOLL_LONGTERM, buffer->pages);
	if (pinned == buffer->page_count)
		return 0;
	if (pinned > 0)
		unpin_user_pages(buffer->pages, pinned);
	kvfree(buffer->pages);
	return pinned < 0 ? pinned : -EFAULT;
}

int dmalab_alloc(struct dmalab_file *file, struct dmalab_alloc *arg)
{
	struct dmalab_buffer *buffer;
	int error = 0;

	if (!arg->size || arg->size > MAX_SIZE)
		return -EINVAL;
	buffer = kzalloc(sizeof(*buffer), GFP_KERNEL);
	if (!buffer)
		return -ENOMEM;
	buffer->kind = arg->kind;
	buffer->size = arg->size;
	switch (arg->kind) {
	case DMALAB_KMALLOC:
		buffer->cpu = kzalloc(arg->size, GFP_KERNEL);
		break;
	case DMALAB_PAGES:
		buffer->cpu = (void *)__get_free_pages(GFP_KERNEL | __GFP_ZERO, get_order(arg->size));
		break;
	case DMALAB_COHERENT:
		buffer->cpu = dma_alloc_coherent(file->lab->dev, arg->size, &buffer->bus, GFP_KERNEL);
		break;
	case DMALAB_USER:
		error = pin(buffer, arg->user);
		break;
	default:
		error = -EINVAL;
	}
	if (!error && arg->kind != DMALAB_USER && !buffer->cpu)
		error = -ENOMEM;
	if (error) {
		kfree(buffer);
		return error;
	}
	error = xa_alloc(&file->buffers, &arg->buffer, buffer, MAX_HANDLES, GFP_KERNEL);
	if (error) {
		free_buffer(file->lab, buffer);
		return error;
	}
	arg->bus = buffer->bus;
	if (arg->kind == DMALAB_USER)
		arg->physical = page_to_phys(buffer->pages[0]) + buffer->in_page;
	else if (arg->kind == DMALAB_COHERENT)
		arg->physical = buffer->bus;
	else
		arg->physical = virt_to_phys(buffer->cpu);
	return 0;
}

int dmalab_free(struct dmalab_file *file, u32 handle)
{
	struct dmalab_buffer *buffer = xa_load(&file->buffers, handle);

	if (!buffer)
		return -ENOENT;
	if (buffer->mappings)
		return -EBUSY;
	xa_erase(&file->buffers, handle);
	free_buffer(file->lab, buffer);
	return 0;
}

/* Whether a buffer has `length` bytes at `offset`. */
static bool has_range(const struct dmalab_buffer *buffer, u32 offset, u32 length)
{
	return length && offset <= buffer->size && length <= buffer->size - offset;
}

static bool has_list(const struct dmalab_mapping *mapping)
{
	return mapping->function == DMALAB_MAP_SG || mapping->function == DMALAB_MAP_SGTABLE;
}

static int make_list(struct dmalab_mapping *mapping, u32 offset)
{
	struct dmalab_buffer *buffer = mapping->buffer;
	u32 start = buffer->in_page + offset;
	u32 first = start / PAGE_SIZE;
	u32 count = DIV_ROUND_UP(start % PAGE_SIZE + mapping->length, PAGE_SIZE);
	int error;

	if (buffer->kind == DMALAB_USER)
		return sg_alloc_table_from_pages(&mapping->table, buffer->pages + first, count, start % PAGE_SIZE,
						 mapping->length, GFP_KERNEL);
	error = sg_alloc_table(&mapping->table, 1, GFP_KERNEL);
	if (!error)
		sg_set_buf(mapping->table.sgl, buffer->cpu + offset, mapping->length);
	return error;
}

static int map_list(struct dmalab *lab, struct dmalab_mapping *mapping, u32 offset)
{
	struct sg_table *table = &mapping->table;
	int error = make_list(mapping, offset);

	if (error)
		return error;
	if (mapping->function == DMALAB_MAP_SG) {
		table->nents = dma_map_sg_attrs(lab->dev, table->sgl, table->orig_nents, mapping->direction,
						mapping->attrs);
		error = table->nents ? 0 : -EIO;
	} else {
		error = dma_map_sgtable(lab->dev, table, mapping->direction, mapping->attrs);
	}
	if (error) {
		sg_free_table(&mapping->table);
		return error;
	}
	mapping->bus = sg_dma_address(mapping->table.sgl);
	return 0;
}

static int map_range(struct dmalab *lab, struct dmalab_mapping *mapping, u32 offset)
{
	void *cpu = mapping->buffer->cpu + offset;

	if (mapping->function == DMALAB_MAP_SINGLE)
		mapping->bus = dma_map_single_attrs(lab->dev, cpu, mapping->length, mapping->direction, mapping->attrs);
	else
#ifdef DMA_ATTR_MMIO
		mapping->bus = dma_map_phys(lab->dev, virt_to_phys(cpu), mapping->length, mapping->direction,
					    mapping->attrs);
#else
		return -EOPNOTSUPP;
#endif
	return dma_mapping_error(lab->dev, mapping->bus) ? -EIO : 0;
}

static void unmap_range(struct dmalab *lab, struct dmalab_mapping *mapping, u32 length, enum dma_data_direction direction,
			unsigned long attrs)
{
#ifdef DMA_ATTR_MMIO
	if (mapping->function == DMALAB_MAP_PHYS) {
		dma_unmap_phys(lab->dev, mapping->bus, length, direction, attrs);
		return;
	}
#endif
	dma_unmap_single_attrs(lab->dev, mapping->bus, length, direction, attrs);
}

int dmalab_map(struct dmalab_file *file, struct dmalab_map *arg)
{
	struct dmalab_buffer *buffer = xa_load(&file->buffers, arg->buffer);
	struct dmalab_mapping *mapping;
	int error;

	if (!buffer)
		return -ENOENT;
	if (buffer->kind == DMALAB_COHERENT || !has_range(buffer, arg->offset, arg->length) ||
	    arg->direction > DMALAB_FROM_DEVICE || arg->function >= DMALAB_MAP_FUNCTIONS)
		return -EINVAL;
	mapping = kzalloc(sizeof(*mapping), GFP_KERNEL);
	if (!mapping)
		return -ENOMEM;
	mapping->buffer = buffer;
	mapping->length = arg->length;
	mapping->direction = arg->direction;
	mapping->function = buffer->kind == DMALAB_USER ? DMALAB_MAP_SGTABLE : arg->function;
	mapping->attrs = arg->attrs;
	/* The handle first: what is mapped cannot be forgotten then. */
	error = xa_alloc(&file->mappings, &arg->mapping, mapping, MAX_HANDLES, GFP_KERNEL);
	if (error)
		goto mapping;
	if (has_list(mapping))
		error = map_list(file->lab, mapping, arg->offset);
	else
		error = map_range(file->lab, mapping, arg->offset);
	if (error)
		goto handle;
	buffer->mappings++;
	arg->bus = mapping->bus;
	arg->segments = has_list(mapping) ? mapping->table.nents : 1;
	return 0;
handle:
	xa_erase(&file->mappings, arg->mapping);
mapping:
	kfree(mapping);
	return error;
}

int dmalab_segment(struct dmalab_file *file, struct dmalab_segment *arg)
{
	struct dmalab_mapping *mapping = xa_load(&file->mappings, arg->mapping);
	struct scatterlist *entry;
	unsigned int i;

	if (!mapping)
		return -ENOENT;
	if (!has_list(mapping)) {
		arg->bus = mapping->bus;
		arg->length = mapping->length;
		return arg->index ? -EINVAL : 0;
	}
	for_each_sgtable_dma_sg(&mapping->table, entry, i) {
		if (i == arg->index) {
			arg->bus = sg_dma_address(entry);
			arg->length = sg_dma_len(entry);
			return 0;
		}
	}
	return -EINVAL;
}

static void unmap(struct dmalab *lab, struct dmalab_mapping *mapping, u32 length, enum dma_data_direction direction,
		  unsigned long attrs)
{
	if (has_list(mapping)) {
		/* As well what dma_map_sg_attrs() has mapped. */
		dma_unmap_sgtable(lab->dev, &mapping->table, direction, attrs);
		sg_free_table(&mapping->table);
	} else {
		unmap_range(lab, mapping, length, direction, attrs);
	}
	mapping->buffer->mappings--;
	kfree(mapping);
}

int dmalab_unmap(struct dmalab_file *file, const struct dmalab_unmap *arg)
{
	struct dmalab_mapping *mapping = xa_load(&file->mappings, arg->mapping);
	enum dma_data_direction direction;

	if (!mapping)
		return -ENOENT;
	if (arg->direction > DMALAB_FROM_DEVICE && arg->direction != DMALAB_AS_MAPPED)
		return -EINVAL;
	direction = arg->direction == DMALAB_AS_MAPPED ? mapping->direction : arg->direction;
	xa_erase(&file->mappings, arg->mapping);
	unmap(file->lab, mapping, arg->length ?: mapping->length, direction, mapping->attrs | arg->attrs);
	return 0;
}

int dmalab_sync(struct dmalab_file *file, const struct dmalab_sync *arg)
{
	struct dmalab_mapping *mapping = xa_load(&file->mappings, arg->mapping);
	struct device *dev = file->lab->dev;
	enum dma_data_direction direction;
	u32 length;

	if (!mapping)
		return -ENOENT;
	if (arg->direction > DMALAB_FROM_DEVICE && arg->direction != DMALAB_AS_MAPPED)
		return -EINVAL;
	direction = arg->direction == DMALAB_AS_MAPPED ? mapping->direction : arg->direction;
	if (has_list(mapping)) {
		if (arg->for_device)
			dma_sync_sgtable_for_device(dev, &mapping->table, direction);
		else
			dma_sync_sgtable_for_cpu(dev, &mapping->table, direction);
		return 0;
	}
	length = arg->length ?: mapping->length;
	if (arg->for_device)
		dma_sync_single_range_for_device(dev, mapping->bus, arg->offset, length, direction);
	else
		dma_sync_single_range_for_cpu(dev, mapping->bus, arg->offset, length, direction);
	return 0;
}

/* Bytes that are on their way between the program and a buffer. */
#define PIECE 256

int dmalab_access(struct dmalab_file *file, const struct dmalab_cpu *arg)
{
	struct dmalab_buffer *buffer = xa_load(&file->buffers, arg->buffer);
	u8 __user *user = u64_to_user_ptr(arg->data);
	u8 piece[PIECE], *at;
	u32 done, length, i;

	if (!buffer)
		return -ENOENT;
	if (buffer->kind == DMALAB_USER || !has_range(buffer, arg->offset, arg->length))
		return -EINVAL;
	for (done = 0; done < arg->length; done += length) {
		length = min_t(u32, arg->length - done, PIECE);
		at = (u8 *)buffer->cpu + arg->offset + done;
		if (arg->write && copy_from_user(piece, user + done, length))
			return -EFAULT;
		for (i = 0; i < length; i++) {
			if (arg->write)
				WRITE_ONCE(at[i], piece[i]);
			else
				piece[i] = READ_ONCE(at[i]);
		}
		if (!arg->write && copy_to_user(user + done, piece, length))
			return -EFAULT;
	}
	return 0;
}

int dmalab_flush(struct dmalab_file *file, const struct dmalab_flush *arg)
{
	struct dmalab_buffer *buffer = xa_load(&file->buffers, arg->buffer);

	if (arg->how == DMALAB_WBINVD) {
		wbinvd_on_all_cpus();
		return 0;
	}
	if (!buffer)
		return -ENOENT;
	if (arg->how != DMALAB_CLFLUSH || buffer->kind == DMALAB_USER ||
	    !has_range(buffer, arg->offset, arg->length))
		return -EINVAL;
	clflush_cache_range(buffer->cpu + arg->offset, arg->length);
	return 0;
}

/* Unmaps and frees everything of a file that nobody else uses any more, or whose device goes. */
void dmalab_release_all(struct dmalab_file *file)
{
	struct dmalab_mapping *mapping;
	struct dmalab_buffer *buffer;
	unsigned long handle;

	mutex_lock(&file->lock);
	xa_for_each(&file->mappings, handle, mapping) {
		xa_erase(&file->mappings, handle);
		unmap(file->lab, mapping, mapping->length, mapping->direction, mapping->attrs);
	}
	xa_for_each(&file->buffers, handle, buffer) {
		xa_erase(&file->buffers, handle);
		free_buffer(file->lab, buffer);
	}
	mutex_unlock(&file->lock);
}
