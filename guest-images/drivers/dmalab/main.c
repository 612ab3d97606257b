// SPDX-License-Identifier: GPL-2.0
/*
 * dmalab: the driver of Staleline's DMA exerciser (`--device dmalab`).
 *
 *	insmod dmalab.ko	one device node for each device: /dev/dmalab0, …
 *	insmod dmalab.ko mask_bits=32	devices that are said to have 32 address lines
 *	dmalab list		what its program can do with it
 *
 * The interface is in abi.h. The driver's own DMA (its ring) keeps to the DMA API, and flushes the CPU's caches by hand only
 * where the device is configured to snoop nothing at all.
 */

#include <linux/init.h>
#include <linux/interrupt.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "dmalab.h"

/* Of the IDs that 1af4 sets aside for experiments. */
#define VENDOR 0x1af4
#define DEVICE 0x10f5

#define VECTORS 2

static unsigned int mask_bits = 64;
module_param(mask_bits, uint, 0444);
MODULE_PARM_DESC(mask_bits, "address lines that the devices are said to have: bits of their DMA masks, 12 to 64 (64)");

static DEFINE_MUTEX(numbers_lock);
static unsigned long numbers;

static int take_number(void)
{
	int number;

	mutex_lock(&numbers_lock);
	number = find_first_zero_bit(&numbers, BITS_PER_LONG);
	if (number < BITS_PER_LONG)
		numbers |= BIT(number);
	mutex_unlock(&numbers_lock);
	return number < BITS_PER_LONG ? number : -ENOSPC;
}

static void give_number(int number)
{
	mutex_lock(&numbers_lock);
	numbers &= ~BIT(number);
	mutex_unlock(&numbers_lock);
}

static void destroy(struct kref *references)
{
	kfree(container_of(references, struct dmalab, references));
}

void dmalab_put(struct dmalab *lab)
{
	kref_put(&lab->references, destroy);
}

static int request_interrupts(struct dmalab *lab)
{
	int error = pci_alloc_irq_vectors(lab->pdev, VECTORS, VECTORS, PCI_IRQ_MSIX);

	if (error < 0)
		return error;
	error = request_irq(pci_irq_vector(lab->pdev, 0), dmalab_completion_irq, 0, lab->name, lab);
	if (error)
		goto vectors;
	error = request_irq(pci_irq_vector(lab->pdev, 1), dmalab_fault_irq, 0, lab->name, lab);
	if (error)
		goto completion;
	return 0;
completion:
	free_irq(pci_irq_vector(lab->pdev, 0), lab);
vectors:
	pci_free_irq_vectors(lab->pdev);
	return error;
}

static void free_interrupts(struct dmalab *lab)
{
	free_irq(pci_irq_vector(lab->pdev, 1), lab);
	free_irq(pci_irq_vector(lab->pdev, 0), lab);
	pci_free_irq_vectors(lab->pdev);
}

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct dmalab *lab = kzalloc(sizeof(*lab), GFP_KERNEL);
	int number, error;

	if (!lab)
		return -ENOMEM;
	kref_init(&lab->references);
	init_rwsem(&lab->life);
	mutex_init(&lab->files_lock);
	mutex_init(&lab->ring_lock);
	INIT_LIST_HEAD(&lab->files);
	init_waitqueue_head(&lab->wait);
	lab->pdev = pdev;
	lab->dev = &pdev->dev;
	number = take_number();
	if (number < 0) {
		error = number;
		goto lab;
	}
	snprintf(lab->name, sizeof(lab->name), "dmalab%d", number);

	error = pci_enable_device_mem(pdev);
	if (error)
		goto number;
	error = pci_request_regions(pdev, "dmalab");
	if (error)
		goto enabled;
	error = -ENOMEM;
	lab->registers = pci_iomap(pdev, 0, 0);
	lab->memory = pci_iomap(pdev, 2, DMALAB_MEMORY_SIZE);
	if (!lab->registers || !lab->memory)
		goto mapped;
	error = mask_bits >= PAGE_SHIFT && mask_bits <= 64 ?
		dma_set_mask_and_coherent(lab->dev, DMA_BIT_MASK(mask_bits)) : -EINVAL;
	if (error) {
		dev_err(lab->dev, "mask_bits=%u cannot be: %d\n", mask_bits, error);
		goto mapped;
	}
	pci_set_master(pdev);
	error = request_interrupts(lab);
	if (error)
		goto master;
	error = dmalab_ring_start(lab);
	if (error)
		goto interrupts;

	lab->misc.minor = MISC_DYNAMIC_MINOR;
	lab->misc.name = lab->name;
	lab->misc.fops = &dmalab_fops;
	lab->misc.parent = lab->dev;
	pci_set_drvdata(pdev, lab);
	error = misc_register(&lab->misc);
	if (error)
		goto ring;
	dev_info(lab->dev, "%s, attributes %#x, %u address lines\n", lab->name, lab->attributes, mask_bits);
	return 0;

ring:
	dmalab_ring_stop(lab);
interrupts:
	free_interrupts(lab);
master:
	pci_clear_master(pdev);
mapped:
	if (lab->memory)
		pci_iounmap(pdev, lab->memory);
	if (lab->registers)
		pci_iounmap(pdev, lab->registers);
	pci_release_regions(pdev);
enabled:
	pci_disable_device(pdev);
number:
	give_number(number);
lab:
	dmalab_put(lab);
	return error;
}

/* Files may stay open: they find the device gone, and nothing of theirs mapped any more. */
static void remove(struct pci_dev *pdev)
{
	struct dmalab *lab = pci_get_drvdata(pdev);
	struct dmalab_file *file;
	int number;

	misc_deregister(&lab->misc);
	/* Nobody waits any longer. */
	WRITE_ONCE(lab->fault, true);
	wake_up_all(&lab->wait);
	down_write(&lab->life);
	lab->gone = true;
	dmalab_ring_stop(lab);
	mutex_lock(&lab->files_lock);
	list_for_each_entry(file, &lab->files, entry)
		dmalab_release_all(file);
	mutex_unlock(&lab->files_lock);
	free_interrupts(lab);
	pci_clear_master(pdev);
	pci_iounmap(pdev, lab->memory);
	pci_iounmap(pdev, lab->registers);
	pci_release_regions(pdev);
	pci_disable_device(pdev);
	up_write(&lab->life);
	if (sscanf(lab->name, "dmalab%d", &number) == 1)
		give_number(number);
	dmalab_put(lab);
}

static const struct pci_device_id devices[] = {
	{ PCI_DEVICE(VENDOR, DEVICE) },
	{ }
};
MODULE_DEVICE_TABLE(pci, devices);

static struct pci_driver dmalab_driver = {
	.name = "dmalab",
	.id_table = devices,
	.probe = probe,
	.remove = remove,
};
module_pci_driver(dmalab_driver);

MODULE_DESCRIPTION("Driver of Staleline's DMA exerciser");
MODULE_AUTHOR("Staleline developers");
MODULE_LICENSE("GPL");
