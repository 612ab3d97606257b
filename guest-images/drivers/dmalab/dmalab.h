/* SPDX-License-Identifier: GPL-2.0 */
#ifndef DMALAB_H
#define DMALAB_H

#include <linux/dma-mapping.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/rwsem.h>
#include <linux/scatterlist.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/xarray.h>

#include "abi.h"

#define DMALAB_RING_LOG2 6
#define DMALAB_RING_SIZE (1U << DMALAB_RING_LOG2)
#define DMALAB_MEMORY_SIZE 65536

/* One device. It outlives its removal as long as files are open. */
struct dmalab {
	struct kref references;
	struct pci_dev *pdev;
	struct device *dev;
	struct miscdevice misc;
	char name[16];
	void __iomem *registers;
	void __iomem *memory;
	u32 attributes;

	/* Taken for writing when the device goes; whoever uses it holds it for reading and looks at `gone`. */
	struct rw_semaphore life;
	bool gone;
	struct mutex files_lock;
	struct list_head files;

	struct dmalab_descriptor *ring;
	dma_addr_t ring_bus;
	struct mutex ring_lock;
	u32 head;
	u32 tail;
	bool fault;
	wait_queue_head_t wait;
};

struct dmalab_buffer {
	u32 kind;
	u32 size;
	u32 mappings;
	void *cpu;		/* not of DMALAB_USER */
	dma_addr_t bus;		/* of DMALAB_COHERENT */
	struct page **pages;	/* of DMALAB_USER */
	u32 page_count;
	u32 in_page;
};

struct dmalab_mapping {
	struct dmalab_buffer *buffer;
	u32 length;
	enum dma_data_direction direction;
	u8 function;
	unsigned long attrs;
	dma_addr_t bus;
	struct sg_table table;	/* of what has a list: DMALAB_MAP_SG, DMALAB_MAP_SGTABLE */
};

/* An open file. */
struct dmalab_file {
	struct dmalab *lab;
	struct list_head entry;
	struct mutex lock;
	struct xarray buffers;
	struct xarray mappings;
};

/* ring.c */
int dmalab_ring_start(struct dmalab *lab);
void dmalab_ring_stop(struct dmalab *lab);
int dmalab_prepare(struct dmalab *lab, const struct dmalab_descriptor *descriptor, u32 *number);
void dmalab_ring_doorbell(struct dmalab *lab);
int dmalab_submit(struct dmalab *lab, const struct dmalab_descriptor *descriptor, u32 *number);
int dmalab_wait(struct dmalab *lab, u32 number, u32 timeout_ms, struct dmalab_wait *completion);
irqreturn_t dmalab_completion_irq(int irq, void *data);
irqreturn_t dmalab_fault_irq(int irq, void *data);

/* buffers.c */
int dmalab_alloc(struct dmalab_file *file, struct dmalab_alloc *arg);
int dmalab_free(struct dmalab_file *file, u32 handle);
int dmalab_map(struct dmalab_file *file, struct dmalab_map *arg);
int dmalab_segment(struct dmalab_file *file, struct dmalab_segment *arg);
int dmalab_unmap(struct dmalab_file *file, const struct dmalab_unmap *arg);
int dmalab_sync(struct dmalab_file *file, const struct dmalab_sync *arg);
int dmalab_access(struct dmalab_file *file, const struct dmalab_cpu *arg);
int dmalab_flush(struct dmalab_file *file, const struct dmalab_flush *arg);
void dmalab_release_all(struct dmalab_file *file);

/* ioctl.c */
extern const struct file_operations dmalab_fops;
void dmalab_put(struct dmalab *lab);

/* scenarios.c */
struct dmalab_trial {
	struct dmalab *lab;
	u64 seed;
	struct dmalab_scenario *report;
};

struct dmalab_case {
	const char *name;
	const char *summary;
	int (*run)(struct dmalab_trial *trial);
};

int dmalab_scenario(struct dmalab *lab, struct dmalab_scenario *report);
int dmalab_scenario_name(struct dmalab_scenario_name *arg);
int dmalab_device_write(struct dmalab_trial *trial, dma_addr_t bus, u32 length, u64 seed);
int dmalab_device_read(struct dmalab_trial *trial, dma_addr_t bus, u32 length, u64 seed);
int dmalab_device_copy(struct dmalab_trial *trial, dma_addr_t from, dma_addr_t to, u32 length);
void dmalab_looked(struct dmalab_trial *trial, u8 side, dma_addr_t bus, u8 expected, u8 found);
extern const struct dmalab_case dmalab_flush_cases[];
extern const unsigned int dmalab_flush_case_count;

/* bugs.c */
extern const struct dmalab_case dmalab_bug_cases[];
extern const unsigned int dmalab_bug_case_count;

/* swiotlb.c */
extern const struct dmalab_case dmalab_swiotlb_cases[];
extern const unsigned int dmalab_swiotlb_case_count;

/*
 * The CPU's accesses are in the function whose they are, so that it is that function which is found to have made them, and no
 * helper. `at` is aligned to 8 bytes, and stored to by words, as drivers' own code is compiled.
 */
static __always_inline void dmalab_cpu_fill(u8 *at, u32 length, u64 seed)
{
	u32 i, j;

	for (i = 0; i + 8 <= length; i += 8) {
		u64 word = 0;

		for (j = 0; j < 8; j++)
			word |= (u64)dmalab_pattern(seed, i + j) << 8 * j;
		WRITE_ONCE(*(u64 *)(at + i), word);
	}
	for (; i < length; i++)
		WRITE_ONCE(at[i], dmalab_pattern(seed, i));
}

static __always_inline void dmalab_cpu_check(struct dmalab_trial *trial, u8 *at, dma_addr_t bus, u32 length, u64 seed)
{
	u32 i;

	for (i = 0; i < length; i++)
		dmalab_looked(trial, DMALAB_CPU, bus + i, dmalab_pattern(seed, i), READ_ONCE(at[i]));
}

#endif
